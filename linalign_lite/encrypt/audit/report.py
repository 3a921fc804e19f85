"""Attacks on a provider's responses by the holder of the client's key.

A product (c0·w, c1·w) reveals w, because its holder knows c1. The audit first attacks such a bare
product, which shows that the attack works; then the product as the profile masks and sends it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from linalign_lite.core.head import Head
from linalign_lite.encrypt import packing
from linalign_lite.encrypt.audit import coarse_attack
from linalign_lite.encrypt.audit.coarse_heads import queries_needed
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.encoded_heads import EncodedHeads
from linalign_lite.encrypt.keys import keygen, seal_context
from linalign_lite.encrypt.masks import Masks
from linalign_lite.encrypt.modular import Residues, add_mod, centred
from linalign_lite.encrypt.packing import FloatArray, Layout
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.provider import Provider
from linalign_lite.encrypt.response_encoding import decode_products, product_size
from linalign_lite.encrypt.ring import Ring, coefficients, limb_bits, spectrum
from linalign_lite.encrypt.scored_rows import HeadRows
from linalign_lite.encrypt.scoring import Scorer, flood
from linalign_lite.encrypt.wire import DIGEST

_NOISE_ROUNDS = 48
_CLASSES = 64  # of a head with more, the first are attacked
_TIMING_ROUNDS = 15
_MAX_QUERIED_DIM = 4096  # dimensions up to which the chosen queries are really sent
_CHANCE_DEVIATIONS = 6.0  # standard deviations of a correlation of independent values


@dataclass(frozen=True)
class AuditReport:
    """Results of the attacks. Correlations: of recovered values with the head's first product."""

    profile: str
    dim: int
    n_outputs: int
    bare_error: float  # of the head from one bare product, largest, over the largest weight
    masked_correlation: float
    sent_correlation: float
    chance: float  # bound on the correlation of independent values
    bare_noise: float  # correlation of the noise of answers with the head's part in it
    sent_noise: float
    noise_chance: float
    queries: int  # number that linear algebra needs
    asked: bool  # True if those queries were really sent
    algebra_error: float
    grid_bits: float | None  # of a weight, where all are on a coarse grid
    coarse_queries: int | None  # honest queries that read such a head
    coarse_exact: bool | None  # True if they were sent and read it; None if not sent
    entropy_bits: float  # of the head: an estimate
    bits_per_state: float  # most that the scores of a state reveal
    sizes_equal: bool
    time_of_zero_query: float  # over that of a random query
    time_of_zero_head: float  # over that of this head

    @property
    def leaks(self) -> bool:
        """True if one response revealed something of the head beyond its scores."""
        found = max(abs(self.masked_correlation), abs(self.sent_correlation))
        return bool(found > self.chance or abs(self.sent_noise) > self.noise_chance)

    @property
    def whole_states(self) -> int:
        """Fewest states whose scores could hold the bits of the head: ⌈entropy/bits⌉."""
        return math.ceil(self.entropy_bits / self.bits_per_state)

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self) | {"leaks": self.leaks}
        return {
            k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in found.items()
        }

    def lines(self) -> list[str]:
        """Return the report as text."""
        exact = f"largest error {self.algebra_error:.0e}" if self.asked else "not sent: too many"
        claim = "hides the head" if self.profile == "private" else "does not claim to hide the head"
        return [
            f"profile {self.profile}: {claim}; {self.n_outputs} classes, {self.dim} dimensions",
            f"one bare product            reveals the head (error {self.bare_error:.0e})",
            f"one product of this profile correlation {self.masked_correlation:+.3f} with the head"
            f" (chance: below {self.chance:.3f})",
            f"  rounded, as it is sent    correlation {self.sent_correlation:+.3f}",
            f"noise of a bare answer      correlation {self.bare_noise:+.3f} with the head's part",
            f"noise of this profile's     correlation {self.sent_noise:+.3f}"
            f" (chance: below {self.noise_chance:.3f})",
            f"{self.queries} chosen queries          reveal the head ({exact}):"
            " no encryption changes that, only a budget",
            self._coarse_line(),
            f"bits                        {self.entropy_bits:.3g} in the head, at most"
            f" {self.bits_per_state:.3g} in the scores of a state: {self.whole_states} states could"
            " hold all",
            f"sizes                       {'the same' if self.sizes_equal else 'NOT the same'}"
            " for all states and weights",
            f"time to score               zero query over random {self.time_of_zero_query:.2f},"
            f" zero head over this {self.time_of_zero_head:.2f}",
        ]

    def _coarse_line(self) -> str:
        if self.grid_bits is None:
            return "weights                     not on a coarse grid"
        start = f"weights on a grid of {round(2**self.grid_bits)} levels"
        if self.coarse_queries is None:
            return f"{start}, finer than a score's error"
        if self.coarse_exact is None:
            end = "(not sent: too many)"
        else:
            end = "exactly" if self.coarse_exact else "WRONGLY"
        return (
            f"{start}  {self.coarse_queries} honest queries reveal the head {end}:"
            " budget in bits, not states"
        )


def audit(
    head: Head, parameters: Parameters, progress: Callable[[int], None] | None = None
) -> AuditReport:
    """Attack ``head`` with fresh keys. Takes a few seconds; ``progress`` counts five steps.

    Of more than 64 classes the first 64 are attacked, of more dimensions than N the first N.
    """
    attacker = _Attacker(head, parameters)
    found: dict[str, Any] = {}
    attacks = attacker.divide, attacker.noise, attacker.algebra, attacker.coarse
    for attack in (*attacks, attacker.side_channels):
        found |= attack()
        if progress:
            progress(1)
    return AuditReport(parameters.name, head.space.dim, head.n_outputs, **found)


class _Query:
    """A query of one state in the provider's hands, and the first product of the head's rows."""

    def __init__(self, attacker: _Attacker, state: FloatArray) -> None:
        head, scorer, primes = attacker.head, attacker.scorer, attacker.parameters.data_primes
        layout = Layout(attacker.parameters.degree, head.space.dim, 1)
        self.query = attacker.client.encrypt(state[None], layout=layout, norm_bound=1.0)
        self.scales = scorer.scales(layout, self.query.info.norm_bits)
        self.ring = scorer.ring(layout, self.scales)
        (self.ciphertext,) = scorer.ciphertexts(self.query.info, self.query.records()[0])
        (self.rows,) = next(packing.pack_rows(layout, head.weight.astype(np.float64)))
        self.whole = np.rint(self.rows * 2.0**self.scales.weight_scale)
        self.positions = packing.score_positions(layout, layout.fold(head.n_outputs)).ravel()
        spectra = self.ring.spectra(self.ciphertext) * spectrum(self.whole)
        self.product = self.ring.residues(spectra)  # (2, primes, N)
        self.masked = self.product
        if attacker.masks is not None:
            self.masked = self.ring.residues(spectra + attacker.masks.draw(self.ring))
        self.flooded = self.masked[0][:, self.positions]
        flood(self.flooded, self.scales.flood_bits, primes)


class _Attacker:
    """Keys, a client and a provider made for the audit."""

    def __init__(self, head: Head, parameters: Parameters) -> None:
        self.parameters, self.prime = parameters, parameters.data_primes[0]
        self.full, self.dim = head, head.space.dim
        self.asks = self.dim <= min(_MAX_QUERIED_DIM, parameters.degree)
        # one chunk, which is easiest to attack
        self.head = Head(head.weight[:_CLASSES, : parameters.degree], head.bias[:_CLASSES])
        secret, self.public = keygen(parameters)
        self.client = Client(secret, max_error=np.inf)
        self.seal = seal_context(parameters)
        self.scorer = Scorer(HeadRows(self.head), parameters, EncodedHeads(1 << 28), np.inf)
        self.masks = Masks(self.public) if parameters.private else None
        self.secret = self.seal.secret_key(secret.material)[1]
        self.rng = np.random.default_rng(0)

    def provider(self, head: Head) -> Provider:
        return Provider(head, keys=[self.public], accept=[self.parameters], max_error=np.inf)

    def divide(self) -> dict[str, Any]:
        """Divide by the known second component: of a bare product, a masked one, a response.

        w = (c1·w)/c1 in the ring modulo the first prime.
        """
        state = self.rng.normal(size=self.head.space.dim)
        asked = _Query(self, state / np.linalg.norm(state))
        known, truth = asked.ciphertext[1][0], asked.rows
        weights = self._divided(asked.product[1][0], known) / 2.0**asked.scales.head
        largest = float(np.abs(truth).max()) or 1.0
        masked = self._divided(asked.masked[1][0], known)
        response = self.provider(self.head).score(asked.query)
        bits = response.info.word_bits
        size = product_size(self.parameters.degree, len(asked.positions), bits)
        product = response.payloads[0][DIGEST:][:size]
        (words,), _ = decode_products(product, 1, self.parameters.degree, bits)
        q = self.parameters.modulus
        lifted = np.array(
            [round(int(w) * q / 2**bits) % self.prime for w in words], dtype=np.uint64
        )
        sent = self._divided(lifted, known)
        used = truth != 0
        return {
            "bare_error": float(np.abs(weights - truth).max()) / largest,
            "masked_correlation": _correlation(masked[used], truth[used]),
            "sent_correlation": _correlation(sent[used], truth[used]),
            "chance": float(_CHANCE_DEVIATIONS / np.sqrt(max(int(used.sum()), 1))),
        }

    def noise(self) -> dict[str, Any]:
        """Send zeros: the answers are noise alone, of which w·e is the head's part.

        The key's holder knows e, and so can look for w·e in the decrypted answers.
        """
        parts, bare, sent = [], [], []
        for _ in range(_NOISE_ROUNDS):
            asked = _Query(self, np.zeros(self.head.space.dim))
            places = asked.positions
            part = spectrum(asked.whole) * spectrum(self.query_noise(asked))
            parts.append(coefficients(part)[places])
            bare.append(self._decrypted(asked.product[0][:, places], asked.product[1], asked))
            sent.append(self._decrypted(asked.flooded, asked.masked[1], asked))
        truth = np.concatenate(parts)
        return {
            "bare_noise": _correlation(np.concatenate(bare), truth),
            "sent_noise": _correlation(np.concatenate(sent), truth),
            "noise_chance": float(_CHANCE_DEVIATIONS / np.sqrt(len(truth))),
        }

    def query_noise(self, asked: _Query) -> FloatArray:
        """e of an encryption of zero: c0 + c1·s modulo the first prime, centred: (N,)."""
        first, second = asked.ciphertext
        total = add_mod(first[0], self._by_secret(second, asked.ring)[0], self.prime)
        return centred(total, self.prime).astype(np.float64)

    def algebra(self) -> dict[str, Any]:
        """Send zeros and every unit vector; compare the differences of scores with the head."""
        dim, error = self.dim, float("nan")
        if self.asks:
            states = np.concatenate([np.zeros((1, dim)), np.eye(dim)])
            query = self.client.encrypt(states, n_outputs=self.head.n_outputs)
            values = self.client.decrypt(self.provider(self.head).score(query), query).values
            error = float(np.abs((values[1:] - values[0]).T - self.head.weight).max())
        return {"queries": dim + 1, "asked": self.asks, "algebra_error": error}

    def coarse(self) -> dict[str, Any]:
        """Read several weights with one honest query, where these are on a grid; count bits."""
        reading = coarse_attack.attack(
            self.head, self.parameters, self.client, self.public, send=self.asks
        )
        per_query, outputs = reading.weights_per_query, self.full.n_outputs
        return {
            "grid_bits": reading.grid_bits,
            "coarse_queries": queries_needed(self.dim, per_query) if per_query else None,
            "coarse_exact": reading.exact,
            "entropy_bits": outputs * self.dim * reading.weight_bits,
            "bits_per_state": outputs * reading.coefficient_bits,
        }

    def side_channels(self) -> dict[str, Any]:
        """Compare the sizes of messages and the medians of times to score."""
        dim = self.head.space.dim
        random = self.rng.normal(size=(1, dim))
        random /= np.linalg.norm(random)
        states, classes = (random, np.zeros((1, dim))), self.head.n_outputs
        queries = [self.client.encrypt(s, n_outputs=classes, norm_bound=2.0) for s in states]
        zero_head = Head(np.zeros_like(self.head.weight), np.zeros_like(self.head.bias))
        provider, zero_provider = self.provider(self.head), self.provider(zero_head)
        cases = [(provider, queries[0]), (provider, queries[1]), (zero_provider, queries[0])]
        times = np.empty((_TIMING_ROUNDS + 1, len(cases)))
        sizes, replies = {len(p) for q in queries for p in q.payloads}, set()
        for row in times:  # the first encodes the head
            for i, (scorer, query) in enumerate(cases):
                start = time.perf_counter()
                response = scorer.score(query)
                row[i] = time.perf_counter() - start
                replies |= {len(p) for p in response.payloads}
        usual, zero_query, zero_head_time = np.median(times[1:], axis=0).tolist()
        return {
            "sizes_equal": len(sizes) == 1 and len(replies) == 1,
            "time_of_zero_query": zero_query / usual,
            "time_of_zero_head": zero_head_time / usual,
        }

    def _by_secret(self, second: Residues, ring: Ring) -> Residues:
        """second·s: (primes, N)."""
        exact = Ring(ring.degree, ring.primes, limb_bits(ring.degree, ring.degree**0.5, 1))
        return exact.residues(exact.spectra(second) * spectrum(self.secret))

    def _decrypted(self, first: Residues, second: Residues, asked: _Query) -> FloatArray:
        """Answers, unrounded, as the key's holder decrypts them: centred integers as floats."""
        primes, q = self.parameters.data_primes, self.parameters.modulus
        products = self._by_secret(second, asked.ring)[:, asked.positions]
        rows = [add_mod(a, b, p) for a, b, p in zip(first, products, primes, strict=True)]
        total, modulus = rows[0].astype(object), primes[0]
        for row, prime in zip(rows[1:], primes[1:], strict=True):  # Chinese remainder theorem
            total = total + modulus * ((row - total) * pow(modulus, -1, prime) % prime)
            modulus *= prime
        return np.array([float(t - q if t > q // 2 else t) for t in total.tolist()])

    def _divided(self, product: Residues, known: Residues) -> FloatArray:
        """product / known in the ring modulo the first prime, as centred integers: (N,)."""
        above, below = (self.seal.ntt(x, inverse=False).tolist() for x in (product, known))
        prime = self.prime
        quotient = [
            x * pow(y, -1, prime) % prime if y else 0 for x, y in zip(above, below, strict=True)
        ]
        residues = self.seal.ntt(np.array(quotient, dtype=np.uint64), inverse=True)
        return centred(residues, prime).astype(np.float64)


def _correlation(left: FloatArray, right: FloatArray) -> float:
    """Pearson correlation; 0 where one side is constant."""
    if len(left) < 2:
        return 0.0
    left, right = left - left.mean(), right - right.mean()
    norm = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norm if norm else 0.0
