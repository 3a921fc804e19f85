// node score.mjs MODEL.onnx TEXTS.txt [--json]
//
// TEXTS has one text per line; tokenizer.json is in the folder of MODEL. Prints the best label and
// its score for each text, or with --json all outputs.

import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";

import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-node";

import { Fused, best } from "../fused.mjs";

const { values, positionals } = parseArgs({
  options: { json: { type: "boolean", default: false } },
  allowPositionals: true,
});
const [model, texts] = positionals;
if (!texts) {
  console.error("usage: node score.mjs MODEL.onnx TEXTS.txt [--json]");
  process.exit(2);
}

async function main() {
  const lines = (await readFile(texts, "utf8")).split("\n").filter((line) => line.trim());
  const fused = await Fused.load(
    ort,
    Tokenizer,
    await readFile(model),
    await readFile(join(dirname(model), "tokenizer.json")),
  );
  const found = await fused.run(lines);
  if (values.json) {
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
