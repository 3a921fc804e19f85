// Encrypted queries: from states to a query, and from a response to scores. The secret key is made
// here and never disclosed. docs/FORMAT.md, section 3, in the profile "private".

import { DIGEST, KIND, frame, hex, same, sha256, unframe } from "./frame.mjs";
import { MOST_ROWS, PRINTABLE, highest, idsDigest, prepared } from "./search.mjs";
import { DATA, DEGREE, Key } from "./seal.mjs";

const QUERY_BITS = 70; // log2 of the largest norm of an encoded state
const DATA_BITS = DATA.reduce((sum, prime) => sum + Math.log2(Number(prime)), 0);
const ROOM = DATA_BITS + Math.log2(15 / 32); // log2 of the largest encoded score
const MAX_FLOOD = Math.floor(DATA_BITS) - 5;
const WORD_BITS = [24, 32];
const MAX_RETURNED = 128; // coefficients of a product, except in the packing columns
const SLACK = 1 + 2 ** -6; // by which a norm may exceed its bound
const MAX_ERROR = 5e-3;
const RANKED = 10; // rows of an index that are named
const MAX_NORM_BITS = 24;
const FIELDS = ["batch", "chunks", "dim", "flood_bits", "head_scale", "labels", "n", "n_outputs",
  "norm_bits", "query", "rounding_bits", "softcap", "word_bits"];

/**
 * Layout of n states of d dimensions in polynomials. For a head as many states in each as may be;
 * for the rows of an index chunks so narrow that a product returns as many scores as may be.
 */
export function layoutOf(dim, n, ofIndex = false) {
  const most = dim === 1 ? DEGREE : MAX_RETURNED;
  const batch = Math.max(1, Math.min(n, ofIndex ? most : Math.floor(DEGREE / dim), most));
  const widest = Math.floor(DEGREE / (ofIndex ? most : batch));
  const chunks = Math.ceil(dim / widest);
  const width = Math.ceil(dim / chunks);
  const fitting = Math.min(Math.floor(DEGREE / (width * batch)), Math.floor(MAX_RETURNED / batch));
  return { batch, chunks, width, rows: width === 1 ? 1 : fitting };
}

/** Bytes of the response of an index of so many rows to n states, headers left out. */
export function responseBytes(dim, n, rows) {
  const { batch, rows: fitting } = layoutOf(dim, n, true);
  const record = DIGEST + (WORD_BITS[0] / 8) * (Math.ceil(rows / fitting) * DEGREE + rows * batch);
  return Math.ceil(n / batch) * record;
}

/** The least B ≥ 0 such that the norm of every state is at most 2^B, and a little. */
function normBits(states) {
  const largest = Math.max(...states.map((z) => Math.sqrt(z.reduce((sum, x) => sum + x * x, 0))));
  let bits = 0;
  while (largest > 2 ** bits * SLACK) bits++;
  if (!(bits <= MAX_NORM_BITS && largest >= 0)) throw new Error("these states are too large");
  return bits;
}

/** Bound on the error of a score, as precision.score_error in the Python library. */
function scoreError(fold, meta) {
  const { norm_bits: bound, head_scale: scale } = meta;
  const a = QUERY_BITS - bound;
  const row = 2 ** (ROOM - a - scale - bound);
  const fresh = (Math.sqrt(10.5 * fold) * row) / 2 ** a;
  const rounding = Math.sqrt(1 / 12) * 2 ** (bound + meta.rounding_bits - scale);
  const words = Math.sqrt((1 + DEGREE) / 12) * 2 ** (DATA_BITS - meta.word_bits - a - scale);
  const flooding = meta.flood_bits ? 2 ** (meta.flood_bits - 1 - a - scale) : 0;
  return flooding + 6 * Math.hypot(fresh, rounding, words);
}

/** Bound on the error but for rounding of rows, over the largest score: precision.relative_noise. */
function relativeNoise(fold, meta) {
  const room = ROOM - (QUERY_BITS - meta.norm_bits) - meta.head_scale;
  return scoreError(fold, { ...meta, rounding_bits: -Infinity }) / 2 ** room;
}

/** The least of 1, 2 and 5 times powers of ten that is at least the error, and its places. */
function roundingStep(error) {
  const least = Math.max(error, 1e-15);
  const exponent = Math.floor(Math.log10(least));
  const factor = [1, 2, 5, 10].find((f) => f * 10 ** exponent >= least);
  const places = Math.min(15, Math.max(0, -exponent - (factor === 10 ? 1 : 0)));
  return [factor * 10 ** exponent, places];
}

/** A key pair, and the queries encrypted under it. */
export class Asker {
  #key;
  #asked = new Map(); // by the digest of a query's header

  /** `seal`: the result of node-seal's initialize(). */
  static async create(seal) {
    const asker = new Asker();
    asker.#key = new Key(seal);
    asker.digest = await sha256(asker.#key.publicRecord);
    asker.publicKey = (
      await frame(KIND.public, asker.digest, [asker.#key.publicRecord], {})
    ).bytes;
    return asker;
  }

  /**
   * The bytes of a query. states: rows of numbers; space: their space, as in an artefact's card;
   * names: of the rows in the result of `decrypt`, which are not sent. card: of the index that is
   * asked in place of a head.
   */
  async encrypt(states, space, names = [], card = null) {
    const { length: n } = states;
    if (!n || states.some((z) => z.length !== space.dim || !z.every(Number.isFinite))) {
      throw new Error(`no states of ${space.dim} finite numbers to encrypt`);
    }
    const layout = layoutOf(space.dim, n, card !== null);
    const given = card ? prepared(states, card) : states;
    const bits = normBits(given);
    const records = [];
    for (let i = 0; i < n; i += layout.batch) {
      records.push(this.#record(given.slice(i, i + layout.batch), layout, QUERY_BITS - bits));
    }
    const shape = { n, batch: layout.batch, chunks: layout.chunks, norm_bits: bits };
    const identity = hex(crypto.getRandomValues(new Uint8Array(16)));
    const meta = { ...shape, space, identity, n_outputs: null };
    const made = await frame(KIND.query, this.digest, records, meta);
    const asked = { shape: { ...shape, dim: space.dim }, layout, names, card, records: made.records };
    this.#asked.set(hex(made.digest), asked);
    return made.bytes;
  }

  #record(states, { batch, chunks, width }, scale) {
    const pairs = [];
    for (let c = 0; c < chunks; c++) {
      const polynomial = new Array(DEGREE).fill(0n);
      states.forEach((state, t) => {
        state.slice(c * width, (c + 1) * width).forEach((x, i) => {
          polynomial[i * batch + t] = BigInt(Math.round(x * 2 ** scale));
        });
      });
      pairs.push(this.#key.encrypt(polynomial));
    }
    const record = new Uint8Array(pairs.length * pairs[0].length);
    pairs.forEach((pair, c) => record.set(pair, c * pair.length));
    return record;
  }

  /**
   * {names, scores (one row per name), labels, decimals, error} of a response to a query; of an
   * index `first` in place of scores: for each name {row, score} of the rows that score highest.
   */
  async decrypt(bytes) {
    const { key, meta, records } = await unframe(bytes, KIND.response);
    if (!same(key, this.digest)) throw new Error("this response belongs to another key");
    const { layout, names, card, records: asked } = this.#answered(meta, records);
    const fold = Math.min(layout.rows, meta.n_outputs);
    const error = scoreError(fold, meta);
    if (!((card ? relativeNoise(fold, meta) : error) <= MAX_ERROR)) {
      throw new Error("the scores of this response are too imprecise");
    }
    const [step, places] = roundingStep(error);
    const unit = 2 ** (DATA_BITS - 32 - (QUERY_BITS - meta.norm_bits) - meta.head_scale);
    const cap = (x) => (meta.softcap === null ? x : meta.softcap * Math.tanh(x / meta.softcap));
    const scores = records.flatMap((record, i) => {
      if (!same(record.subarray(0, DIGEST), asked[i])) {
        throw new Error(`record ${i} of this response answers another query`);
      }
      const live = Math.min(layout.batch, meta.n - i * layout.batch);
      return this.#scores(record.slice(DIGEST), layout, meta.n_outputs, live, meta.word_bits);
    });
    const rounded = (x) => Number((Math.round(cap(x * unit) / step) * step).toFixed(places));
    const said = { names, labels: meta.labels, decimals: places, error };
    if (!card) return { ...said, scores: scores.map((row) => row.map(rounded)) };
    const best = (row) => highest(row, RANKED).map((at) => ({ row: at, score: rounded(row[at]) }));
    return { ...said, first: scores.map(best) };
  }

  /** The query that a response answers. Throws unless its description and size are usable. */
  #answered(meta, records) {
    const wrong = (what) => new Error(`the ${what} of this response is not usable`);
    const { ids = "", ...described } = meta;
    if (Object.keys(described).sort().join() !== FIELDS.join()) throw wrong("description");
    const asked = this.#asked.get(meta.query);
    if (!asked) throw new Error("this response answers no query of this page");
    if (Object.entries(asked.shape).some(([name, value]) => meta[name] !== value)) {
      throw new Error("this response answers another query");
    }
    if (ids !== (asked.card ? idsDigest(asked.card) : "")) {
      throw new Error("this response is of another index, or of an index in place of a head");
    }
    const within = (x, low, high) => Number.isInteger(x) && x >= low && x <= high;
    const used = QUERY_BITS - meta.norm_bits + meta.head_scale;
    const outputs = within(meta.n_outputs, 1, MOST_ROWS);
    if (!outputs || (asked.card && meta.n_outputs !== asked.card.rows)) throw wrong("number of scores");
    if (!within(meta.flood_bits, 0, MAX_FLOOD)) throw wrong("flooding");
    if (!WORD_BITS.includes(meta.word_bits)) throw wrong("size of words");
    if (!within(meta.head_scale, 0, ROOM) || used > ROOM + 20) throw wrong("scale");
    if (!within(meta.rounding_bits, 0, meta.head_scale)) throw wrong("rounding");
    if (meta.softcap !== null && !(typeof meta.softcap === "number" && meta.softcap > 0)) {
      throw wrong("soft cap");
    }
    const { labels, n_outputs: k } = meta;
    const named = Array.isArray(labels) && [0, asked.card ? 0 : k].includes(labels.length) &&
      new Set(labels).size === labels.length &&
      labels.every((x) => typeof x === "string" && PRINTABLE.test(x));
    if (!named) throw wrong("list of labels");
    const products = Math.ceil(k / asked.layout.rows);
    const words = products * DEGREE + k * asked.layout.batch;
    const size = DIGEST + (meta.word_bits / 8) * words;
    if (records.length !== asked.records.length || records[0].length !== size) {
      throw wrong("size");
    }
    return asked;
  }

  /** Scores of the states in one record, in units of q/2^32 over the scale. */
  #scores(bytes, { batch, width, rows }, outputs, live, wordBits) {
    const found = Array.from({ length: live }, () => []);
    let at = 0;
    const word = () => { // its bits at the top of 32, which wrap around as they do
      let value = 0;
      for (let shift = 32 - wordBits; shift < 32; shift += 8) value |= bytes[at++] << shift;
      return value;
    };
    for (let first = 0; first < outputs; first += rows) {
      const second = Int32Array.from({ length: DEGREE }, word);
      for (let j = 0; j < Math.min(rows, outputs - first); j++) {
        for (let t = 0; t < batch; t++) {
          const answer = word();
          if (t >= live) continue;
          const place = (j * width + width - 1) * batch + t;
          found[t].push((answer + this.#product(second, place)) | 0);
        }
      }
    }
    return found;
  }

  /** Coefficient k of second·secret modulo X^N + 1 and 2^32. */
  #product(second, k) {
    const secret = this.#key.coefficients;
    let sum = 0;
    for (let i = 0; i < DEGREE; i++) {
      const word = i <= k ? second[k - i] : -second[k - i + DEGREE];
      sum = (sum + secret[i] * word) | 0;
    }
    return sum;
  }
}
