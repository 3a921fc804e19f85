// An index of a provider, as a client sees it: its card, its ids, and the rows that score highest.
// docs/FORMAT.md, section 12.

import { hex, sha256 } from "./frame.mjs";

export const MOST_CARD = 4 << 20; // bytes of index.json
export const MOST_ROWS = 1 << 24;
const MOST_ID = 1024; // bytes of an id in UTF-8
export const PRINTABLE = /^(?:[^\p{C}\p{Z}]| ){1,256}$/u;
const SHA256 = /^[0-9a-f]{64}$/;
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const odd = (what) => new Error(`the ${what} of this index is not usable`);

/** Bytes that the ids of an index may have. */
export const mostIds = ({ rows }) => rows * (MOST_ID + 1);

/** {space, metric, rows, ids, clustered, digest} of the bytes of index.json. */
export async function readCard(bytes) {
  let card;
  try {
    card = JSON.parse(decoder.decode(bytes));
  } catch {
    throw odd("card");
  }
  const { format, version, space, metric, rows, ids, clusters } = card ?? {};
  const known = format === "linalign-index" && version === 1 && ["cosine", "dot"].includes(metric);
  const sized = Number.isSafeInteger(rows) && rows >= 1 && rows <= MOST_ROWS;
  if (!known || !sized || !Number.isSafeInteger(space?.dim) || !(ids === null || SHA256.test(ids))) {
    throw odd("card");
  }
  return { space, metric, rows, ids, clustered: Boolean(clusters), digest: hex(await sha256(bytes)) };
}

/** The digest by which responses name the ids of an index: a response of another index has another. */
export const idsDigest = ({ ids, clustered, digest }) => (ids && !clustered ? ids : digest);

/** The ids, `at(row)`; bytes: of ids.txt, or null where the rows' numbers stand for ids. */
export async function readIds(card, bytes) {
  if (card.ids === null) return { at: String };
  if (hex(await sha256(bytes)) !== card.ids) throw odd("list of ids");
  const ids = decoder.decode(bytes).split("\n");
  if (ids.pop() !== "" || ids.length !== card.rows || !ids.every((id) => PRINTABLE.test(id))) {
    throw odd("list of ids");
  }
  return ids;
}

/** States as an index is asked them: for cosines, scaled to length 1. */
export function prepared(states, { metric }) {
  if (metric !== "cosine") return states;
  return states.map((z) => {
    const length = Math.sqrt(z.reduce((sum, x) => sum + x * x, 0));
    return length ? z.map((x) => x / length) : z;
  });
}

/** Positions of the k highest scores, the highest first; of equal ones the first. */
export function highest(scores, k) {
  const best = []; // ascending by score
  scores.forEach((score, i) => {
    if (best.length === k && !(score > scores[best[0]])) return;
    let at = best.findIndex((j) => !(score > scores[j]));
    if (at < 0) at = best.length;
    best.splice(at, 0, i);
    if (best.length > k) best.shift();
  });
  return best.reverse();
}
