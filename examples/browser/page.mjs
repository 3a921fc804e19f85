// The page: loads ARTEFACT/model.onnx and ARTEFACT/tokenizer.json (?artefact=ARTEFACT, a folder on
// this server, default "artefact") and scores the texts in the form.

import { Tokenizer } from "./node_modules/@huggingface/tokenizers/dist/tokenizers.min.mjs";
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

import { Fused, best } from "../fused.mjs";
import { Asker } from "./encrypted.mjs";

ort.env.wasm.numThreads = 1; // more threads need cross-origin isolation

const $ = (id) => document.getElementById(id);
const folder = new URLSearchParams(location.search).get("artefact") ?? "artefact";

function say(state, text) {
  $("status").dataset.state = state;
  $("status").textContent = text;
}

async function bytes(name) {
  const answer = await fetch(new URL(`${folder}/${name}`, location.href));
  if (!answer.ok) throw new Error(`${folder}/${name}: ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

function cell(row, text, kind = "td") {
  const made = document.createElement(kind);
  made.textContent = text;
  row.append(made);
  return made;
}

function show(texts, scores, labels) {
  const table = $("scores");
  table.replaceChildren();
  const names = scores[0] ? [...scores[0].keys()].map((i) => labels[i] ?? String(i)) : [];
  const head = table.createTHead().insertRow();
  for (const name of ["text", ...names]) cell(head, name, "th").scope = "col";
  const body = table.createTBody();
  texts.forEach((text, i) => {
    const row = body.insertRow();
    cell(row, text);
    const top = best(scores[i]);
    scores[i].forEach((score, k) => {
      cell(row, score.toFixed(6)).classList.toggle("best", k === top);
    });
  });
}

const guarded = (work) => async (event) => {
  event?.preventDefault();
  try {
    await work();
  } catch (error) {
    say("failed", String(error.message ?? error));
  }
};

const typed = () => $("texts").value.split("\n").filter((line) => line.trim());

function offer(id, bytes) {
  URL.revokeObjectURL($(id).href);
  $(id).href = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
  $(id).hidden = false;
}

let fused;
let asker;

const load = guarded(async () => {
  const [model, tokenizer] = [bytes("model.onnx"), bytes("tokenizer.json")];
  tokenizer.catch(() => {}); // if both are missing, the error names the model
  fused = await Fused.load(ort, Tokenizer, await model, await tokenizer);
  const { model: named, scores } = fused.card;
  $("score").disabled = !scores;
  $("encrypt").disabled = false;
  say("ready", `${named.name}, ${scores ? `${scores.n} scores per text` : "no head: encrypt"}`);
});

const score = guarded(async () => {
  const texts = typed();
  say("working", `Scoring ${texts.length} texts …`);
  const started = performance.now();
  const { scores } = await fused.run(texts);
  show(texts, scores, fused.labels);
  const each = (performance.now() - started) / Math.max(1, texts.length);
  say("done", `${texts.length} texts, ${each.toFixed(1)} ms each`);
});

// Encrypt for a provider's head. The secret key is lost when the page is closed.
const encrypt = guarded(async () => {
  const texts = typed();
  if (!texts.length) throw new Error("no text to encrypt");
  $("encrypt").disabled = true;
  try {
    say("working", `Encrypting ${texts.length} texts …`);
    if (!asker) {
      const { initialize } = await import("./node_modules/node-seal/dist/index_throws.js");
      asker = await Asker.create(await initialize());
      offer("public", asker.publicKey);
    }
    const { mapped, states } = await fused.run(texts);
    const space = fused.card.mapped ?? fused.card.states;
    const query = await asker.encrypt(mapped ?? states, space, texts);
    offer("query", query);
    $("response").disabled = false;
    say("encrypted", `${texts.length} texts, ${query.length} bytes`);
  } finally {
    $("encrypt").disabled = false;
  }
});

const decrypt = guarded(async () => {
  const [file] = $("response").files;
  if (!file) return;
  const bytes = new Uint8Array(await file.arrayBuffer());
  $("response").value = ""; // so that the same file can be chosen again
  const { names, scores, labels } = await asker.decrypt(bytes);
  show(names, scores, labels);
  say("decrypted", `${scores.length} texts, scores of the provider's head`);
});

$("encrypt").addEventListener("click", encrypt);
$("response").addEventListener("change", decrypt);
$("ask").addEventListener("submit", score);
load();
