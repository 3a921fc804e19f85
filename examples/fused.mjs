// A fused artefact of linalign-lite (docs/FORMAT.md, section 8) in JavaScript: node or a browser.
//
// `ort` is onnxruntime-node or onnxruntime-web, `Tokenizer` that of @huggingface/tokenizers.

const decoder = new TextDecoder("utf-8", { fatal: true });

/** The card of an artefact: the metadata entry "linalign" of an ONNX file. */
export function readCard(bytes) {
  for (const [field, value] of fields(bytes)) {
    if (field !== 14) continue; // ModelProto.metadata_props
    const entry = new Map(fields(value));
    if (decoder.decode(entry.get(1)) === "linalign") {
      const card = JSON.parse(decoder.decode(entry.get(2)));
      if (card.version !== 1) throw new Error(`unknown version ${card.version} of the artefact`);
      return card;
    }
  }
  throw new Error("this ONNX file has no card of linalign-lite");
}

/** [number, content] of each length-delimited field of a protobuf message. */
function* fields(bytes) {
  let at = 0;
  const number = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      if (byte === undefined || scale > 2 ** 49) throw new Error("this is not an ONNX file");
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = number();
    if (key % 8 === 0) number();
    else if (key % 8 === 2) {
      const size = number();
      if (size > bytes.length - at) throw new Error("this ONNX file is truncated");
      yield [Math.floor(key / 8), bytes.subarray(at, at + size)];
      at += size;
    } else throw new Error("this is not an ONNX file");
  }
}

/** A text model with its pooling, map and head in one graph. */
export class Fused {
  constructor(ort, session, tokenizer, card) {
    Object.assign(this, { ort, session, tokenizer, card });
  }

  /** model: bytes of the artefact; tokenizer: bytes of its tokenizer.json. */
  static async load(ort, Tokenizer, model, tokenizer, options = {}) {
    const card = readCard(model);
    if (card.kind !== "model") throw new Error(`this artefact is a ${card.kind}, not a model`);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", tokenizer));
    const hex = [...digest].map((b) => b.toString(16).padStart(2, "0")).join("");
    if (hex !== card.model.tokenizer) throw new Error("this tokenizer.json is another model's");
    const session = await ort.InferenceSession.create(model, options);
    const parsed = new Tokenizer(JSON.parse(decoder.decode(tokenizer)), {});
    return new Fused(ort, session, parsed, card);
  }

  get labels() {
    return this.card.scores?.labels ?? [];
  }

  /** Token ids of prompt and text, truncated to the model's context as in the Python library. */
  encode(words) {
    const text = (this.card.states.prompt ?? "") + words;
    const ids = this.tokenizer.encode(text).ids;
    const most = this.card.model.max_length;
    if (ids.length <= most) return ids;
    this.cut++;
    const own = this.tokenizer.encode(text, { add_special_tokens: false }).ids;
    const before = ids.findIndex((_, i) => own.every((id, k) => ids[i + k] === id));
    const after = ids.slice(before + own.length);
    return [...ids.slice(0, before), ...own.slice(0, most - before - after.length), ...after];
  }

  /**
   * Outputs by name ("states", "mapped", "scores"): a list with one row per text. `cut` is then the
   * number of texts that were longer than the model's context.
   */
  async run(texts, batch = 16) {
    this.cut = 0;
    const found = Object.fromEntries(this.session.outputNames.map((name) => [name, []]));
    for (let start = 0; start < texts.length; start += batch) {
      const rows = texts.slice(start, start + batch).map((text) => this.encode(text));
      const outputs = await this.session.run(this.#feeds(rows));
      for (const [name, { data, dims }] of Object.entries(outputs)) {
        for (let i = 0; i < dims[0]; i++) {
          found[name].push(data.slice(i * dims[1], (i + 1) * dims[1]));
        }
      }
    }
    return found;
  }

  #feeds(rows) {
    const length = Math.max(...rows.map((row) => row.length));
    const ids = new BigInt64Array(rows.length * length); // padded on the right with 0
    const mask = new BigInt64Array(rows.length * length);
    rows.forEach((row, i) => {
      if (!row.length) throw new Error("a text has no token left after normalisation");
      row.forEach((id, k) => {
        ids[i * length + k] = BigInt(id);
        mask[i * length + k] = 1n;
      });
    });
    const dims = [rows.length, length];
    const tensor = (data) => new this.ort.Tensor("int64", data, dims);
    return { input_ids: tensor(ids), attention_mask: tensor(mask) };
  }
}

/** Index of the largest score. */
export const best = (scores) => scores.reduce((top, x, i) => (x > scores[top] ? i : top), 0);
