"""Zero-knowledge proofs that a public key is well formed.

**Statement.** For a public key (p0, p1) there are s and e with small coefficients and

    p0 = −p1·s + e  (mod q, X^N + 1).

**Protocol.** Cut and choose in M = 1024 rounds, made non-interactive with a hash function
(Fiat–Shamir with aborts; Lyubashevsky, "Fiat-Shamir with aborts", ASIACRYPT 2009). In each round
the prover expands a fresh seed with SHAKE-256 to blinding polynomials, y_s uniform in
[−B_s, B_s)^N and y_e uniform in [−B_e, B_e)^N with B_s = 2^17 and B_e = 2^21, and commits to
w = y_e − p1·y_s modulo q by its BLAKE2b hash. SHAKE-256 of the public key and all commitments gives
the challenge, a uniform set of τ = 20 rounds. The prover answers these rounds with z_s = y_s + s
and z_e = y_e + e, and all others with their seeds. Unless every coefficient satisfies

    −B_s + 1 ≤ z_s < B_s − 1  and  −B_e + 21 ≤ z_e < B_e − 21,

the attempt is discarded and the prover starts anew with fresh seeds. The verifier checks these
ranges, computes w of each round from the seed or as z_e − p1·z_s − p0, and compares the challenge.

**Soundness.** A prover who can answer one round both ways has, for one w, y_s, y_e, z_s and z_e
with y_e − p1·y_s = z_e − p1·z_s − p0. Hence p0 = −p1·s' + e' for s' = z_s − y_s and e' = z_e − y_e,
with all coefficients below 2·B_s and 2·B_e in magnitude (`slack`). If no such s' and e' exist, each
round can be answered in one way at most, so at most one of C(1024, 20) = 2^138.65 challenges can be
answered: each computation of a challenge succeeds with probability 2^-138.65 at most, in the
random-oracle model and unless two w with the same hash of 256 bits are found (128 bits of
security). The proof shows the bounds of `slack`, not that s is ternary and |e| ≤ 21. At most a
fraction (2^42/q)^N of all p0 satisfies them. The proof does not show who made the key.

**Zero knowledge.** y_s and y_e are uniform, and for every |s| ≤ 1 and |e| ≤ 21 each value in the
range of z_s or z_e is reached from exactly one value of the blinding. So accepted answers are
uniform in their ranges, and the probability that an attempt is accepted,
((1 − 1/B_s)·(1 − 21/B_e))^(20·N), does not depend on s or e: 2.1 attempts are needed on average for
N = 2048, 4.2 for N = 4096. Discarded attempts are not published, and all w follow from the seeds
and answers. A simulator draws a challenge, seeds and uniform answers, computes the commitments and
programs the random oracle with the challenge; the distribution is the same.

**Size.** 32 bytes for the challenge, 32 for each of 1004 seeds, and 18 + 22 bits for each
coefficient of 20 answers: 236,960 bytes for N = 2048 and 441,760 for N = 4096.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO

import numpy as np
import numpy.typing as npt

from linalign_lite.encrypt.keys import PublicKey, SecretKey, seal_context
from linalign_lite.encrypt.modular import centred, pack_residues, packed_size, unpack_residues
from linalign_lite.encrypt.noise_flooding import MAX_NOISE, PROVEN_NOISE, PROVEN_SECRET
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.ring import Ring, limb_bits, spectrum
from linalign_lite.encrypt.wire import Header, Kind, framed_bytes, open_framed
from linalign_lite.errors import FormatError, InputError, LinalignError, MismatchError
from linalign_lite.storage.atomic import PathLike, write_new

Integers = npt.NDArray[np.int64]  # (N,): coefficients of a polynomial
Pair = tuple[Integers, Integers]  # y_s and y_e, z_s and z_e, or s and e

ROUNDS = 1024  # M: a power of two, so that the low bits of a word are a uniform round
OPENED = 20  # τ: rounds answered with z_s and z_e
SEED_SIZE = DIGEST_SIZE = 32  # bytes
MAX_TRIES = 1000  # all are discarded with probability < 2^-380 for N = 4096
_DRAWS = 8 * OPENED  # words: fewer than OPENED distinct ones with probability < 2^-700
_BLINDING = b"linalign-lite key proof 1: blinding"
_CHALLENGE = b"linalign-lite key proof 1: challenge"
_SUBSET = b"linalign-lite key proof 1: subset"
_COMMITMENT = b"linalign key pf1"  # 16 bytes, BLAKE2b's "person"
_REFUSED = "the proof of a public key does not verify"


@dataclass(frozen=True)
class Box:
    """Blinding is uniform in [−half, half), answers in [−half + margin, half − margin).

    half: a power of two. margin: the largest magnitude of a coefficient that the blinding hides.
    """

    half: int
    margin: int

    @property
    def mask(self) -> int:
        """The log2(2·half) bits that a coefficient takes when it is shifted by ``half``."""
        return 2 * self.half - 1

    def holds(self, answer: Integers) -> bool:
        """Return whether all coefficients are in the range of answers."""
        end = self.half - self.margin
        return bool(answer.min() >= -end and answer.max() < end)

    def pack(self, answer: Integers) -> bytes:
        """Pack coefficients, shifted by ``half``: all in range are then below ``mask``."""
        return pack_residues((answer + self.half).view(np.uint64), self.mask)

    def unpack(self, file: IO[bytes], degree: int) -> Integers:
        """Read what `pack` returned. Raises FormatError unless the answer is in its range."""
        data = file.read(packed_size(degree, self.mask))
        answer: Integers = unpack_residues(data, degree, self.mask).view(np.int64)
        answer -= self.half
        if not self.holds(answer):
            raise FormatError(_REFUSED)
        return answer


SMALL = Box(int(PROVEN_SECRET) // 2, 1)  # B_s; s is ternary
NOISE = Box(int(PROVEN_NOISE) // 2, MAX_NOISE)  # B_e


def proof_size(parameters: Parameters) -> int:
    """Bytes of a proof: the challenge's digest, M − τ seeds, τ answers."""
    answer = sum(packed_size(parameters.degree, box.mask) for box in (SMALL, NOISE))
    return DIGEST_SIZE + (ROUNDS - OPENED) * SEED_SIZE + OPENED * answer


def slack(parameters: Parameters) -> tuple[float, float]:
    """Bounds on ‖s'‖₂ and ‖e'‖₂ for a key whose proof verifies: √N·2·B_s and √N·2·B_e.

    The same w opened both ways gives s' = z_s − y_s and e' = z_e − y_e with p0 = −p1·s' + e', and
    all terms of these differences are at most B_s, or B_e, in magnitude.
    """
    root = math.sqrt(parameters.degree)
    return root * PROVEN_SECRET, root * PROVEN_NOISE


def prove(
    secret: SecretKey, public: PublicKey, progress: Callable[[int], None] | None = None
) -> bytes:
    """Return a proof that ``public`` is well formed, of `proof_size` bytes, for `verify`.

    progress: called with 1 after each attempt. Raises MismatchError when the keys are not of one
    pair, InputError when ``public`` is not well formed, LinalignError when MAX_TRIES attempts fail.
    """
    statement = Statement(public)
    s, e = statement.witness(secret)
    for _ in range(MAX_TRIES):
        seeds = [os.urandom(SEED_SIZE) for _ in range(ROUNDS)]
        blindings = map(statement.blinding, seeds)
        digest = statement.challenge([*map(statement.commitment, range(ROUNDS), blindings)])
        opened = [statement.blinding(seeds[i]) for i in subset(digest)]
        answers = [(y_s + s, y_e + e) for y_s, y_e in opened]
        if progress is not None:
            progress(1)
        if all(SMALL.holds(z_s) and NOISE.holds(z_e) for z_s, z_e in answers):
            return encode(digest, seeds, answers)
    raise LinalignError("no attempt to prove this public key succeeded", got=f"{MAX_TRIES} tries")


def verify(public: PublicKey, proof: bytes) -> None:
    """Raise FormatError unless ``proof`` shows that ``public`` is well formed, within `slack`.

    The length is checked first, then the ranges of all answers; the work that follows does not
    depend on the proof. Raises FormatError, too, when ``public`` is no public key.
    """
    if len(proof) != proof_size(public.parameters):
        raise FormatError(_REFUSED)
    try:
        digest, seeds, answers = _decode(proof, public.parameters.degree)
    except FormatError:
        raise FormatError(_REFUSED) from None
    statement = Statement(public)
    commitments = [
        statement.commitment(i, answers[i], answer=True)
        if i in answers
        else statement.commitment(i, statement.blinding(seeds[i]))
        for i in range(ROUNDS)
    ]
    if statement.challenge(commitments) != digest:
        raise FormatError(_REFUSED)


def proven(secret: SecretKey, public: PublicKey) -> PublicKey:
    """Return the public key with its proof. Raises as `prove`."""
    return replace(public, proof=prove(secret, public))


def save_proof(path: PathLike, public: PublicKey) -> None:
    """Create ``path`` (`public.proof`) from ``public.proof``. OutputExistsError when it exists."""
    write_new(path, proof_bytes(public))


def proof_bytes(public: PublicKey) -> bytes:
    """Return the bytes of `public.proof`."""
    header = Header(Kind.PROOF, public.parameters, public.digest, 1, len(public.proof))
    return framed_bytes(header, [public.proof])


def load_proof(source: PathLike | bytes, public: PublicKey) -> PublicKey:
    """Return ``public`` with the proof in a file, verified.

    Raises MismatchError when it is of another key, FormatError when it does not verify.
    """
    with open_framed(source, Kind.PROOF) as reader:
        header, name = reader.header, reader.name
        if (header.parameters, header.key) != (public.parameters, public.digest):
            raise MismatchError(f"{name} is of another public key")
        expected = 1, proof_size(header.parameters)
        if (header.n_records, header.record_size) != expected or header.meta:
            raise FormatError(f"{name} does not have the shape of a proof")
        (record,) = reader
    loaded = replace(public, proof=record.payload)
    is_proven(loaded)
    return loaded


@functools.lru_cache(maxsize=64)
def is_proven(key: PublicKey) -> bool:
    """Return whether a key has a proof, verified once. Raises FormatError if it does not verify."""
    if key.proof:
        verify(key, key.proof)
    return bool(key.proof)


def subset(digest: bytes) -> list[int]:
    """Return the rounds that a challenge opens: the first τ distinct ones of a stream, sorted."""
    stream = hashlib.shake_256(_SUBSET + digest).digest(2 * _DRAWS)
    words = np.frombuffer(stream, dtype="<u2") & (ROUNDS - 1)
    return sorted(list(dict.fromkeys(words.tolist()))[:OPENED])


def encode(digest: bytes, seeds: list[bytes], answers: list[Pair]) -> bytes:
    """Encode a proof. seeds: of all rounds; those of the opened rounds are left out."""
    opened = subset(digest)
    others = [seed for i, seed in enumerate(seeds) if i not in opened]
    packed = [SMALL.pack(z_s) + NOISE.pack(z_e) for z_s, z_e in answers]
    return b"".join([digest, *others, *packed])


def _decode(proof: bytes, degree: int) -> tuple[bytes, dict[int, bytes], dict[int, Pair]]:
    """Undo `encode`: the digest, seeds and answers by round. FormatError: out of range."""
    file = io.BytesIO(proof)
    digest = file.read(DIGEST_SIZE)
    opened = subset(digest)
    seeds = {i: file.read(SEED_SIZE) for i in range(ROUNDS) if i not in opened}
    answers = {i: (SMALL.unpack(file, degree), NOISE.unpack(file, degree)) for i in opened}
    return digest, seeds, answers


class Statement:
    """A public key, and the parts of the protocol that prover and verifier share."""

    def __init__(self, public: PublicKey) -> None:
        self._public, self._degree = public, public.parameters.degree
        first, second = public.components()
        primes, norm = public.parameters.data_primes, SMALL.half * math.sqrt(self._degree)
        self._ring = Ring(self._degree, primes, limb_bits(self._degree, norm, 1))
        self._first, self._second = first.view(np.int64), self._ring.spectra(second)
        self._moduli = np.array(primes, dtype=np.int64)[:, None]

    def witness(self, secret: SecretKey) -> Pair:
        """Return s and e. Raises InputError unless they are those of an honest key."""
        public = self._public
        if (secret.parameters, secret.digest) != (public.parameters, public.digest):
            raise MismatchError("the secret key and the public key are not of one pair")
        _, s = seal_context(public.parameters).secret_key(secret.material)
        total = (self._first + self._product(s.astype(np.int64))) % self._moduli
        rows = [*map(centred, total.view(np.uint64), public.parameters.data_primes)]
        e = rows[0]
        if np.abs(e).max() > MAX_NOISE or any((row != e).any() for row in rows):
            raise InputError("this public key is not well formed", hint="make a fresh pair of keys")
        return s.astype(np.int64), e

    def blinding(self, seed: bytes) -> Pair:
        """Expand a seed to y_s and y_e."""
        stream = hashlib.shake_256(_BLINDING + seed).digest(8 * self._degree)
        words = np.frombuffer(stream, dtype="<u4").astype(np.int64).reshape(2, self._degree)
        return (words[0] & SMALL.mask) - SMALL.half, (words[1] & NOISE.mask) - NOISE.half

    def commitment(self, index: int, pair: Pair, *, answer: bool = False) -> bytes:
        """Hash w of round ``index``: y_e − p1·y_s, or z_e − p1·z_s − p0 of an answer."""
        w = pair[1] - self._product(pair[0])
        if answer:
            w -= self._first
        w %= self._moduli
        data = index.to_bytes(4, "little") + w.astype("<i8").tobytes()
        return hashlib.blake2b(data, digest_size=DIGEST_SIZE, person=_COMMITMENT).digest()

    def challenge(self, commitments: list[bytes]) -> bytes:
        """Hash the public key and all commitments: the digest that `subset` expands."""
        number = self._public.parameters.id.to_bytes(2, "little")
        parts = [_CHALLENGE, number, self._public.payload, *commitments]
        return hashlib.shake_256(b"".join(parts)).digest(DIGEST_SIZE)

    def _product(self, small: Integers) -> Integers:
        """p1·small modulo each prime: (primes, N)."""
        return self._ring.residues(self._second * spectrum(small)).view(np.int64)
