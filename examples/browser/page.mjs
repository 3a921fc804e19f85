// The page: loads ARTEFACT/model.onnx and ARTEFACT/tokenizer.json (?artefact=ARTEFACT, a folder on
// this server, default "artefact") and scores the texts in the form, or asks a scoring service
// (?service=ADDRESS) for encrypted scores of its heads, or for the rows of an index nearest to each.

import { Tokenizer } from "./node_modules/@huggingface/tokenizers/dist/tokenizers.min.mjs";
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

import { Fused, best } from "../fused.mjs";
import { Asker, responseBytes } from "./encrypted.mjs";
import { ScoringService, requireFit, requireModest } from "./service.mjs";

ort.env.wasm.numThreads = 1; // more threads need cross-origin isolation

const $ = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const folder = asked.get("artefact") ?? "artefact";
const address = asked.get("service");

function say(state, text) {
  $("status").dataset.state = state;
  $("status").textContent = text;
}

async function bytes(name) {
  const answer = await fetch(new URL(`${folder}/${name}`, location.href));
  if (!answer.ok) {
    throw new Error(`${folder}/${name}: ${answer.status}. README.md has the command that makes it.`);
  }
  return new Uint8Array(await answer.arrayBuffer());
}

function cell(row, text, kind = "td") {
  const made = document.createElement(kind);
  made.textContent = text;
  row.append(made);
  return made;
}

/** Fill the table: columns of these names, a row for each text; fill: adds the cells of one. */
function tabulate(texts, names, fill) {
  const table = $("scores");
  table.replaceChildren();
  const head = table.createTHead().insertRow();
  for (const name of ["text", ...names]) cell(head, name, "th").scope = "col";
  const body = table.createTBody();
  texts.forEach((text, i) => {
    const row = body.insertRow();
    cell(row, text).title = text;
    fill(row, i);
    names.forEach((name, k) => { row.cells[k + 1].dataset.name = name; }); // for narrow pages
  });
}

function show(texts, scores, labels, decimals = 6) {
  const names = scores[0] ? [...scores[0].keys()].map((i) => labels[i] ?? String(i)) : [];
  tabulate(texts, names, (row, i) => {
    const top = best(scores[i]);
    scores[i].forEach((score, k) => {
      cell(row, score.toFixed(decimals)).classList.toggle("best", k === top);
    });
  });
}

/** The rows of an index that score highest for each text. */
function showFirst(texts, { first, decimals }, ids) {
  tabulate(texts, first[0].map((_, i) => String(i + 1)), (row, i) => {
    for (const one of first[i]) cell(row, `${ids.at(one.row)} ${one.score.toFixed(decimals)}`);
  });
}

/** A listener: says what fails, and disables the button meanwhile. */
const guarded = (work, button = {}) => async (event) => {
  event?.preventDefault();
  button.disabled = true;
  try {
    await work();
  } catch (error) {
    say("failed", String(error.message ?? error));
  } finally {
    button.disabled = false;
  }
};

const typed = () => $("texts").value.split("\n").filter((line) => line.trim());

function offer(id, bytes) {
  URL.revokeObjectURL($(id).href);
  $(id).href = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
  $(id).hidden = false;
}

let fused;
let asker; // a promise
let service;
let heads;

const load = guarded(async () => {
  const [model, tokenizer] = [bytes("model.onnx"), bytes("tokenizer.json")];
  tokenizer.catch(() => {}); // if both are missing, the error names the model
  fused = await Fused.load(ort, Tokenizer, await model, await tokenizer);
  const { model: named, scores } = fused.card;
  $("score").disabled = !scores;
  $("encrypt").disabled = false;
  if (address) await connect();
  if (!scores) $("elsewhere").open = true;
  const there = heads ? `, ${heads.length} head${heads.length === 1 ? "" : "s"} at ${address}` : "";
  say("ready", `${named.name}, ${scores ? `${scores.n} scores per text` : "no head: encrypt"}${there}`);
});

/** List the heads of the service that the page's address names. */
async function connect() {
  const progress = (text) => say("working", text);
  service = new ScoringService(address, { progress });
  heads = await service.heads();
  const text = ({ name, n_outputs: n, index }) => `${name} (${n} ${index ? "rows" : "scores"})`;
  $("head").replaceChildren(...heads.map((head, i) => new Option(text(head), i)));
  $("head").disabled = $("send").disabled = !heads.length;
}

/** What is said of texts that are longer than the model reads. */
const cut = () => (fused.cut ? `, ${fused.cut} cut at ${fused.card.model.max_length} tokens` : "");

const score = guarded(async () => {
  const texts = typed();
  if (!texts.length) throw new Error("no text to score");
  say("working", `Scoring ${texts.length} texts …`);
  const started = performance.now();
  const { scores } = await fused.run(texts);
  show(texts, scores, fused.labels);
  const each = (performance.now() - started) / texts.length;
  say("done", `${texts.length} texts, ${each.toFixed(1)} ms each${cut()}`);
});

const space = () => fused.card.mapped ?? fused.card.states;

// The secret key is lost when the page is closed.
async function newAsker() {
  const { initialize } = await import("./node_modules/node-seal/dist/index_throws.js");
  return Asker.create(await initialize());
}

/** A query of the texts, under the page's key; card: of the index that is asked. */
async function encrypted(texts, card) {
  if (!texts.length) throw new Error("no text to encrypt");
  say("working", `Encrypting ${texts.length} texts …`);
  asker ??= newAsker();
  const mine = await asker;
  const { mapped, states } = await fused.run(texts);
  return mine.encrypt(mapped ?? states, space(), texts, card);
}

async function reveal(response, whose, ids) {
  const found = await (await asker).decrypt(response);
  if (ids) showFirst(found.names, found, ids);
  else show(found.names, found.scores, found.labels, found.decimals);
  const what = ids ? "nearest rows" : "scores";
  say("decrypted", `${found.names.length} texts, ${what} of ${whose}${cut()}`);
}

const encrypt = guarded(async () => {
  const texts = typed();
  const query = await encrypted(texts);
  offer("public", (await asker).publicKey);
  offer("query", query);
  $("response").disabled = false;
  say("encrypted", `${texts.length} texts, ${query.length} bytes`);
}, $("encrypt"));

const decrypt = guarded(async () => {
  const [file] = $("response").files;
  if (!file) return;
  const bytes = new Uint8Array(await file.arrayBuffer());
  $("response").value = ""; // so that the same file can be chosen again
  await reveal(bytes, "the provider's head");
});

/** Card and ids of an index that so many texts are to ask. */
async function toSearch(head, n) {
  if (!n) return {}; // an error says so
  requireModest(responseBytes(head.space.dim, n, head.n_outputs));
  const found = await service.index(head);
  requireFit({ ...head, space: found.card.space }, space());
  return found;
}

const send = guarded(async () => {
  const head = heads[$("head").value];
  requireFit(head, space());
  const texts = typed();
  const { card, ids } = head.index ? await toSearch(head, texts.length) : {};
  const query = await encrypted(texts, card);
  say("working", `Waiting for ${address} …`);
  await reveal(await service.score(head, query, (await asker).publicKey), head.name, ids);
}, $("send"));

$("encrypt").addEventListener("click", encrypt);
$("response").addEventListener("change", decrypt);
$("send").addEventListener("click", send);
$("ask").addEventListener("submit", score);
// connecting loads the page again, with a policy that admits the service: the texts stay
$("connect").addEventListener("submit", () => sessionStorage.setItem("texts", $("texts").value));
$("texts").value = sessionStorage.getItem("texts") ?? $("texts").value;
sessionStorage.removeItem("texts");
$("service").value = address;
$("artefact").value = folder;
$("elsewhere").open = address !== null;
load();
