// node score.mjs MODEL.onnx TEXTS.txt [--json]
//
// TEXTS has one text per line, or ends with .jsonl and has an object with a `text` per line;
// tokenizer.json is in the folder of MODEL. Prints the best label and its score for each text, or
// with --json all outputs.

import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";

import { Fused, best } from "../fused.mjs";

function given() {
  try {
    const options = { json: { type: "boolean", default: false } };
    const { values, positionals } = parseArgs({ options, allowPositionals: true });
    if (positionals.length === 2) return { json: values.json, model: positionals[0], texts: positionals[1] };
  } catch {} // an unknown option
  console.error("usage: node score.mjs MODEL.onnx TEXTS.txt [--json]");
  process.exit(2);
}

const { json, model, texts } = given();

async function packages() {
  try {
    const { Tokenizer } = await import("@huggingface/tokenizers");
    return { Tokenizer, ort: await import("onnxruntime-node") };
  } catch (error) {
    if (error.code !== "ERR_MODULE_NOT_FOUND") throw error;
    throw new Error('its packages are not there: run "npm ci" in the folder of score.mjs');
  }
}

function textOf(line, i) {
  if (!texts.endsWith(".jsonl")) return line;
  let text;
  try {
    ({ text } = JSON.parse(line));
  } catch {} // the same error as of an object without a text
  if (typeof text !== "string") throw new Error(`${texts}, line ${i + 1}: no object with a text`);
  return text;
}

async function main() {
  const { Tokenizer, ort } = await packages();
  const written = (await readFile(texts, "utf8")).split("\n").map((line, i) => [line, i]);
  const lines = written.filter(([line]) => line.trim()).map(([line, i]) => textOf(line, i));
  const fused = await Fused.load(
    ort,
    Tokenizer,
    await readFile(model),
    await readFile(join(dirname(model), "tokenizer.json")),
  );
  if (!json && !fused.card.scores) {
    throw new Error("this artefact has no head, so no scores; --json prints its states");
  }
  const found = await fused.run(lines);
  if (fused.cut) console.error(`${fused.cut} text(s) cut at ${fused.card.model.max_length} tokens`);
  if (json) {
    const plain = ([name, rows]) => [name, rows.map((row) => [...row])];
    console.log(JSON.stringify({
      labels: fused.labels,
      ...Object.fromEntries(Object.entries(found).map(plain)),
    }));
  } else {
    found.scores.forEach((scores, i) => {
      const top = best(scores);
      console.log(`${fused.labels[top] ?? top}\t${scores[top].toFixed(4)}\t${lines[i]}`);
    });
  }
}

main().catch((error) => {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
});
