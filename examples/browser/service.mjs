// The client of a scoring service (docs/SERVICE.md) by fetch, in a page or in Node. What it sends is
// what files would carry: a public key and encrypted queries. A query that is sent twice is charged
// once, so a request that finds the service busy, or fails on the way, is sent again.

import { PROFILE } from "./frame.mjs";
import { MOST_CARD, mostIds, readCard, readIds } from "./search.mjs";

const MOST = { refusal: 1 << 16, json: 64 << 20, response: 256 << 20 }; // bytes of an answer
const MOST_HEADS = 256;
const AGAIN = [429, 502, 503, 504];
const LONGEST_WAIT = 60; // seconds between two tries
const HEAD_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/; // one part of a path
const KIND_NAME = /^[A-Za-z]{1,40}$/;

/** An error whose `name` is its kind: one of this module's, or one that the service states. */
export class ServiceError extends Error {
  constructor(name, message) {
    super(message);
    this.name = name;
  }
}

/** A scoring service at an address. seconds: for one answer; progress: called with a text. */
export class ScoringService {
  #base;
  #options;

  constructor(address, { tries = 5, seconds = 120, progress = () => {} } = {}) {
    let url;
    try {
      url = new URL(address);
    } catch {} // the same error as of an address of another kind
    if (!["http:", "https:"].includes(url?.protocol) || url.username || url.password) {
      throw new ServiceError("AddressError", "this is no address of a service: expected https://…");
    }
    this.#base = url.origin + url.pathname.replace(/\/+$/, "");
    this.#options = { tries, seconds, progress };
  }

  /** The heads and indexes, each as the service describes it: `name`, `space`, `n_outputs`, … */
  async heads() {
    const { heads } = await this.#json("GET", "/v1/heads");
    if (!Array.isArray(heads) || heads.length > MOST_HEADS || !heads.every(isHead)) throw odd();
    return heads;
  }

  /**
   * The card of an index, and the ids of its rows. Throws unless rows and ids are as many as `head`
   * states, and the ids those that the card names. Whether its space fits, `requireFit` says.
   */
  async index(head) {
    const path = `/v1/heads/${head.name}`;
    const card = await readCard(await this.#send("GET", `${path}/index`, undefined, MOST_CARD));
    if (card.rows !== head.n_outputs || !isHead({ ...head, space: card.space })) throw odd();
    const most = Math.min(mostIds(card), MOST.response);
    const own = card.ids && (await this.#send("GET", `${path}/ids`, undefined, most));
    return { card, ids: await readIds(card, own) };
  }

  /** The bytes of the response to a query. Registers the public key if it is not known there. */
  async score(head, query, publicKey) {
    const ask = () => this.#send("POST", `/v1/heads/${head.name}/score`, query, MOST.response);
    try {
      return await ask();
    } catch (error) {
      if (error.name !== "UnknownKey") throw error;
    }
    await this.#json("POST", "/v1/keys", publicKey);
    return ask();
  }

  async #json(method, path, body) {
    const found = parsed(await this.#send(method, path, body, MOST.json));
    if (!found) throw odd();
    return found;
  }

  async #send(method, path, body, most) {
    const { tries, seconds, progress } = this.#options;
    let pause = 0.25;
    let heard = false; // any answer, so that its rules of origins allow this page
    let silent = 0;
    for (let left = tries - 1; ; left--) {
      let wait = pause * (1 + Math.random());
      let last;
      try {
        const answer = await fetch(this.#base + path, {
          method,
          body,
          headers: body ? { "content-type": "application/octet-stream" } : {},
          credentials: "omit",
          referrerPolicy: "no-referrer",
          cache: "no-store",
          redirect: "manual",
          signal: AbortSignal.timeout(1e3 * seconds),
        });
        heard = true;
        const found = await read(answer, answer.ok ? most : MOST.refusal);
        if (answer.ok) return found;
        last = refusal(answer.status, found);
        if (!AGAIN.includes(answer.status)) throw last;
        const asked = answer.headers.get("retry-after") ?? "";
        if (/^\d{1,9}$/.test(asked)) wait = Math.max(wait, Math.min(asked, LONGEST_WAIT));
      } catch (error) {
        if (error instanceof ServiceError) throw error;
        // not after one failure: a connection may be lost once
        if (!heard && ++silent > 1 && (await this.#refusesOrigin(error))) {
          throw new ServiceError("OriginError", `the service at ${this.#base} does not answer pages` +
            ` of ${location.origin}: its operator lists them in \`origins\`, or is its address wrong?`);
        }
        last = new ServiceError("UnreachableError",
          `the service at ${this.#base} cannot be reached` +
          (error instanceof TypeError ? ": is it running there?" : ` (${error.name})`));
      }
      if (left <= 0) throw last;
      progress(`Waiting ${wait.toFixed(1)} s: ${last.message} …`);
      await new Promise((resolve) => setTimeout(resolve, 1e3 * wait));
      pause = Math.min(2 * pause, LONGEST_WAIT);
    }
  }

  /**
   * Whether a failed request was refused by the browser's rules of origins (CORS). fetch does not
   * tell; but without an answer that scripts may read it succeeds.
   */
  async #refusesOrigin(error) {
    if (!(error instanceof TypeError && globalThis.location)) return false;
    const signal = AbortSignal.timeout(5e3);
    const blind = { mode: "no-cors", credentials: "omit", cache: "no-store", signal };
    return fetch(`${this.#base}/health`, blind).then(() => true, () => false);
  }
}

/** Throws a ServiceError unless the response to so many bytes' worth of scores can be taken. */
export function requireModest(bytes) {
  if (bytes > MOST.response) {
    throw new ServiceError("AnswerError",
      `the response would be too large: ${bytes} of at most ${MOST.response} bytes; ask fewer texts`);
  }
}

/** Throws a ServiceError unless a query of this page's states can be asked of the head. */
export function requireFit(head, space) {
  const refused = (name, why) => new ServiceError(name, `head ${head.name} ${why}`);
  if (head.profile !== PROFILE.name) {
    throw refused("ProfileError", `is asked in the profile "${head.profile.slice(0, 40)}", which ` +
      `pages cannot use: only "${PROFILE.name}"`);
  }
  if (!agrees(head.space, space, head.index)) {
    throw refused("SpaceError", `is of another space: got ${described(space)}, expected ` +
      `${described(head.space)}; an artefact made with \`fuse --map\` reaches it`);
  }
  if (head.needs_account) {
    throw refused("AccountError", "answers accounts only, and pages do not sign queries: " +
      "use `linalign-lite ask --account`");
  }
}

/**
 * Whether states of one space may be used in the other, as Space.agrees in the Python library.
 * anyPrompt: of an index, whose documents often have another prompt than queries.
 */
function agrees(a, b, anyPrompt) {
  const differ = (field) => a[field] && b[field] && a[field] !== b[field];
  if (a.dim !== b.dim || differ("model") || differ("pooling")) return false;
  if (!(a.model || b.model) && a.name && b.name) return a.name === b.name;
  const prompts = anyPrompt || (a.prompt ?? "") === (b.prompt ?? "");
  const same = prompts && a.normalize === b.normalize;
  return same || !(a.model && b.model);
}

function described({ dim, model, name, pooling, normalize, prompt }) {
  const unit = normalize ? "normalized" : "";
  const before = prompt ? `prompt ${JSON.stringify(prompt)}` : "";
  const known = [name || "unnamed", model.slice(0, 8), pooling, unit, before].filter(Boolean);
  return `${known.join(" ").slice(0, 300)} (${dim} dimensions)`;
}

function isHead(head) {
  const { name, space, n_outputs, profile, needs_account, index = false } = head ?? {};
  const { dim, model, name: called, pooling, normalize, prompt } = space ?? {};
  return [name, profile, model, called, pooling, prompt ?? ""].every((x) => typeof x === "string") &&
    HEAD_NAME.test(name) && [dim, n_outputs].every((x) => Number.isSafeInteger(x) && x > 0) &&
    [normalize, needs_account, index].every((x) => typeof x === "boolean");
}

/** The bytes of an answer. Throws if there are more than `most`, without reading on. */
async function read(answer, most) {
  const reader = answer.body?.getReader();
  const parts = [];
  let size = 0;
  for (let next; reader && !(next = await reader.read()).done; parts.push(next.value)) {
    size += next.value.length;
    if (size <= most) continue;
    reader.cancel().catch(() => {});
    throw new ServiceError("AnswerError", `the service's answer is too large: over ${most} bytes`);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** An object in JSON, or null. */
function parsed(bytes) {
  try {
    const found = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    return typeof found === "object" && !Array.isArray(found) ? found : null;
  } catch {
    return null;
  }
}

const odd = () =>
  new ServiceError("AnswerError", "the service answers in an unknown form: is its address right?");

/** The error that a service answered with: {"error": kind, "message": text}. */
function refusal(status, bytes) {
  const { error, message } = parsed(bytes) ?? {};
  if (![error, message].every((x) => typeof x === "string") || !KIND_NAME.test(error)) {
    return new ServiceError("StatusError",
      `${status || "a redirect"} is no answer of a scoring service: is its address right?`);
  }
  const text = message.slice(0, 500).replace(/\p{C}/gu, " ");
  return new ServiceError(error, `the service refuses: ${text}`);
}
