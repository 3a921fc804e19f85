// The page: loads ARTEFACT/model.onnx and ARTEFACT/tokenizer.json (?artefact=ARTEFACT, a folder on
// this server, default "artefact") and scores what is typed.

import { Tokenizer } from "./node_modules/@huggingface/tokenizers/dist/tokenizers.min.mjs";
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

import { Fused, best } from "../fused.mjs";

ort.env.wasm.numThreads = 1; // more need a server that isolates origins

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

let fused;

const load = guarded(async () => {
  const files = await Promise.all([bytes("model.onnx"), bytes("tokenizer.json")]);
  fused = await Fused.load(ort, Tokenizer, ...files);
  if (!fused.card.scores) throw new Error("this artefact has no head");
  $("score").disabled = false;
  say("ready", `${fused.card.model.name}, ${fused.card.scores.n} scores a text`);
});

const score = guarded(async () => {
  const texts = $("texts").value.split("\n").filter((line) => line.trim());
  say("working", `Scoring ${texts.length} texts …`);
  const started = performance.now();
  const { scores } = await fused.run(texts);
  show(texts, scores, fused.labels);
  const each = (performance.now() - started) / Math.max(1, texts.length);
  say("done", `${texts.length} texts, ${each.toFixed(1)} ms each`);
});

$("ask").addEventListener("submit", score);
load();
