// The parameter set "private" through node-seal (https://github.com/s0l0ist/node-seal): keys, seeded
// encryption, SEAL's transform. docs/FORMAT.md, section 3, has the numbers.
//
// SEAL's encoder is not used: a query is an encryption of zero, made by SEAL's BFV in plain
// coefficients, with the residues of an encoded state added.

import { joined, uint64 } from "./frame.mjs";

export const DEGREE = 4096;
export const DATA = [35184371703809n, 35184371884033n];
const PRIMES = [...DATA, 40961n];
const BITS = new Int32Array([45, 45, 16]);
const PLAIN_MODULUS = 65537n; // SEAL requires one; nothing depends on it

const HEADER = 16; // of SEAL: magic, its size, version (2), compression, reserved (2), size
const CIPHER = 73; // parms_id, transformed?, components, degree, primes, scale, correction factor
const PLAIN = 48; // parms_id, coefficients, scale
const NUMBERS = 24; // a header and the count of the words that follow
const SEED = 64;
const BLAKE2XB = 1;
const SCALE = new Uint8Array(new Float64Array([1]).buffer); // the scale is stored in the header of the file

/** An object in SEAL's uncompressed form. */
function object(...body) {
  const size = body.reduce((sum, part) => sum + part.length, HEADER);
  return joined([0x5e, 0xa1, HEADER, 4, 1, 0, 0, 0], uint64(size), ...body);
}

const numbers = (rows) => {
  const words = rows.map((row) => new Uint8Array(row.buffer, row.byteOffset, row.byteLength));
  return object(uint64(rows.reduce((sum, row) => sum + row.length, 0)), ...words);
};

/** `count` polynomials of a saved object; its words start after `before` bytes of its body. */
function rowsOf(saved, before, count) {
  const start = HEADER + before + NUMBERS;
  const words = new BigUint64Array(saved.slice(start, start + 8 * DEGREE * count).buffer);
  return Array.from({ length: count }, (_, i) => words.subarray(i * DEGREE, (i + 1) * DEGREE));
}

/** Residues in as many bits as the prime has: whole low bytes, then the other bits by plane. */
export function packed(row, prime) {
  const bits = prime.toString(2).length;
  const [whole, left] = [bits >> 3, bits & 7];
  const bytes = new Uint8Array(row.buffer, row.byteOffset, row.byteLength);
  const out = new Uint8Array((row.length * bits) / 8);
  for (let i = 0; i < row.length; i++) {
    out.set(bytes.subarray(8 * i, 8 * i + whole), whole * i);
    for (let k = 0; k < left; k++) {
      const place = row.length * (8 * whole + k) + i;
      out[place >> 3] |= ((bytes[8 * i + whole] >> k) & 1) << (place & 7);
    }
  }
  return out;
}

/** A seeded pair: the first component of an encryption, and the seed of the second. */
function seeded(rows, seed) {
  return joined(...rows.map((row, i) => packed(row, DATA[i])), seed);
}

/** A new secret key, kept only in this object and in SEAL's memory. */
export class Key {
  #seal;
  #context;
  #level;
  #secret;
  #encryptor;
  #evaluator;

  /** The secret's coefficients, -1, 0 and 1. */
  coefficients;

  /** The record of a public key: a seeded pair that encrypts zero. */
  publicRecord;

  /** `seal`: the result of node-seal's initialize(). */
  constructor(seal) {
    this.#seal = seal;
    const settings = new seal.EncryptionParameters(seal.SchemeType.bfv);
    settings.setPolyModulusDegree(DEGREE);
    const moduli = seal.CoeffModulus.Create(DEGREE, BITS);
    if (PRIMES.some((prime, i) => moduli.get(i).value() !== prime)) {
      throw new Error("this SEAL chooses other primes");
    }
    settings.setCoeffModulus(moduli);
    const plainModulus = new seal.Modulus(PLAIN_MODULUS);
    settings.setPlainModulus(plainModulus);
    this.#context = new seal.SEALContext(settings, true, seal.SecLevelType.tc128);
    if (!this.#context.parametersSet()) throw new Error("SEAL refuses the parameters");
    this.#level = uint64(...this.#context.firstParmsId().values());
    this.#evaluator = new seal.Evaluator(this.#context);

    const generator = new seal.KeyGenerator(this.#context);
    this.#secret = generator.secretKey();
    const made = generator.createPublicKey(); // required by the constructor, but not used
    this.#encryptor = new seal.Encryptor(this.#context, made, this.#secret);
    this.publicRecord = seeded(...this.#encryptedZero());

    const saved = this.#secret.saveToArray(seal.ComprModeType.none);
    const row = this.#fromNtt(rowsOf(saved, PLAIN, DATA.length));
    const signs = new Map([[0n, 0], [1n, 1], [DATA[0] - 1n, -1]]);
    this.coefficients = Int8Array.from(row, (word) => {
      if (!signs.has(word)) throw new Error("SEAL's secret key is not ternary");
      return signs.get(word);
    });
    saved.fill(0);
    row.fill(0n);
    for (const thing of [settings, moduli, plainModulus, generator, made]) thing.delete();
  }

  /** A seeded pair that encrypts a polynomial of integers (BigInt). */
  encrypt(polynomial) {
    const [rows, seed] = this.#encryptedZero();
    rows.forEach((row, k) => {
      const prime = DATA[k];
      polynomial.forEach((x, i) => {
        if (x) row[i] = (((row[i] + x) % prime) + prime) % prime;
      });
    });
    return seeded(rows, seed);
  }

  /** A fresh encryption of zero: the rows of its first component, and the seed of the second. */
  #encryptedZero() {
    const plain = new this.#seal.Plaintext();
    const cipher = this.#encryptor.encryptSymmetricSerializable(plain);
    const saved = cipher.saveToArray(this.#seal.ComprModeType.none);
    plain.delete();
    cipher.delete();
    const end = HEADER + CIPHER + NUMBERS + 8 * DEGREE * DATA.length;
    if (saved.length !== end + HEADER + 1 + SEED || saved[end + HEADER] !== BLAKE2XB) {
      throw new Error("this SEAL saves encryptions in an unknown form");
    }
    return [rowsOf(saved, CIPHER, DATA.length), saved.slice(-SEED)];
  }

  /** Coefficients, modulo the first prime, of residues in SEAL's NTT form. */
  #fromNtt(rows) {
    const one = DATA.map(() => new BigUint64Array(DEGREE).fill(1n, 0, 1)); // SEAL refuses zeros
    const start = joined(this.#level, [1], uint64(2, DEGREE, DATA.length), SCALE, uint64(1));
    const cipher = new this.#seal.Ciphertext();
    cipher.loadFromArray(this.#context, object(start, numbers([...rows, ...one])));
    this.#evaluator.cipherTransformFromNttInplace(cipher);
    const saved = cipher.saveToArray(this.#seal.ComprModeType.none);
    cipher.delete();
    return rowsOf(saved, CIPHER, 1)[0];
  }
}
