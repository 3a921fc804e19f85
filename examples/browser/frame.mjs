// The framed form of keys, queries and responses: docs/FORMAT.md, section 3.

export const KIND = { public: 2, query: 3, response: 4 };
export const PROFILE = { name: "private", number: 5 };
export const DIGEST = 32;

const HEAD = 72;
const VERSION = 3;
const MOST = 4 << 20; // bytes of a response's description
const RECORD = 1 << 30;
const encoder = new TextEncoder();
const MAGIC = encoder.encode("LINALIGN");

export const hex = (bytes) => [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");

export async function sha256(...parts) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", joined(...parts)));
}

export function joined(...parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

export function uint64(...values) {
  const out = new DataView(new ArrayBuffer(8 * values.length));
  values.forEach((value, i) => out.setBigUint64(8 * i, BigInt(value), true));
  return new Uint8Array(out.buffer);
}

/** JSON with sorted keys, no spaces and only ASCII, as Python writes it. */
function canonical(value) {
  const sorted = (_, x) =>
    x && typeof x === "object" && !Array.isArray(x)
      ? Object.fromEntries(Object.keys(x).sort().map((key) => [key, x[key]]))
      : x;
  const escaped = (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value, sorted).replace(/[^ -~]/g, escaped);
}

/** The digest of a record: over the header's digest, its index and its bytes. */
const bound = (digest, i, record) => sha256(digest, uint64(i), record);

/** A framed file: {bytes, digest (of the header), records (digests)}. key: of the public key. */
export async function frame(kind, key, records, meta) {
  const text = encoder.encode(canonical({ ...meta, profile: PROFILE.name }));
  const head = new Uint8Array(HEAD);
  const view = new DataView(head.buffer);
  head.set(MAGIC);
  [VERSION, kind, PROFILE.number].forEach((x, i) => view.setUint16(8 + 2 * i, x, true));
  head.set(uint64(records.length, records[0].length), 16);
  view.setUint32(32, text.length, true);
  head.set(key, 40);
  const digest = await sha256(head, text);
  const digests = await Promise.all(records.map((record, i) => bound(digest, i, record)));
  const body = records.flatMap((record, i) => [record, digests[i]]);
  return { bytes: joined(head, text, digest, ...body), digest, records: digests };
}

/** The contents {key, meta, records} of a file of this kind. Throws if any byte was altered. */
export async function unframe(bytes, kind) {
  const refused = (why) => new Error(`this file ${why}`);
  if (bytes.length < HEAD + DIGEST || MAGIC.some((b, i) => bytes[i] !== b)) {
    throw refused("is not a file of linalign-lite");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const [version, found, profile, zero] = [8, 10, 12, 14].map((at) => view.getUint16(at, true));
  if (version !== VERSION) throw refused(`has version ${version}, not ${VERSION}`);
  if (found !== kind) throw refused("is another kind of file");
  if (profile !== PROFILE.number) throw refused(`has parameter set ${profile}, not "private"`);
  const [count, size] = [16, 24].map((at) => Number(view.getBigUint64(at, true)));
  const length = view.getUint32(32, true);
  const start = HEAD + length + DIGEST;
  const whole = start + count * (size + DIGEST);
  if (zero || view.getUint32(36, true) || !count || !size || size > RECORD || length > MOST) {
    throw refused("states sizes that are not usable");
  }
  if (whole !== bytes.length) throw refused("does not have the size that its header states");
  const digest = bytes.subarray(HEAD + length, start);
  if (!same(digest, await sha256(bytes.subarray(0, HEAD + length)))) {
    throw refused("does not agree with its header's digest");
  }
  const records = [];
  for (let i = 0, at = start; i < count; i++, at += size + DIGEST) {
    const record = bytes.subarray(at, at + size);
    if (!same(bytes.subarray(at + size, at + size + DIGEST), await bound(digest, i, record))) {
      throw refused(`does not agree with the digest of its record ${i}`);
    }
    records.push(record);
  }
  const { profile: name, ...meta } = described(bytes.subarray(HEAD, HEAD + length), refused);
  if (name !== PROFILE.name) throw refused("names another profile than its parameters");
  return { key: bytes.subarray(40, HEAD), meta, records };
}

/** The description, which must be in the form that `canonical` gives. */
function described(bytes, refused) {
  const text = new TextDecoder().decode(bytes);
  let meta;
  try {
    meta = JSON.parse(text);
  } catch {
    throw refused("has a description that is not JSON");
  }
  // Python writes the soft cap 30 as 30.0, and 1e-9 as 1e-09
  const [, cap] = /"softcap":([-+.e\d]*[.e][-+.e\d]*)/.exec(text) ?? [];
  const again = canonical(meta).replace(/("softcap":)[-+.e\d]+/, (_, before) => before + cap);
  if (again !== text) throw refused("has a description that is not in canonical form");
  return meta;
}

export const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);
