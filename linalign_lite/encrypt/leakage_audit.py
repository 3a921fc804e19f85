"""Attacks on a provider's responses, by one who holds the client's key.

A product (c0·w, c1·w) gives w away: its holder knows c1. The audit first does that to a bare
product, so that an attack that finds nothing later on is known to work; then to what the profile
makes of it. Nothing here is needed for scoring.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from linalign_lite.core.head import Head
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.keys import keygen
from linalign_lite.encrypt.messages import QueryInfo
from linalign_lite.encrypt.modular import add_mod, shift_mod
from linalign_lite.encrypt.packing import (
    FloatArray,
    from_slots,
    pack_rows,
    score_positions,
    to_slots,
)
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.planner import choose_layout
from linalign_lite.encrypt.provider import Provider
from linalign_lite.encrypt.response_encoding import decode_product
from linalign_lite.encrypt.scheme import ReturnedCoefficients
from linalign_lite.encrypt.scoring import Scales, Scorer
from linalign_lite.encrypt.seal.scheme import SealScheme
from linalign_lite.encrypt.seal.server_side import SealServerSide

_NOISE_ROUNDS = 48
_CLASSES = 64
_TIMING_ROUNDS = 15
_MAX_QUERIED_DIM = 4096  # dimensions up to which the chosen queries are really asked
_CHANCE_DEVIATIONS = 6.0  # standard deviations of a correlation of independent values


@dataclass(frozen=True)
class Report:
    """What the attacks found. Correlations are of what was recovered with the head's first product.

    ``chance``: a correlation that independent values stay below. ``queries``: what linear algebra
    needs. Ratios of times: of a zero query to a random one, of a zero head to this one.
    """

    profile: str
    dim: int
    n_outputs: int
    bare_error: float  # of the head from one bare product, largest, over the largest weight
    masked_correlation: float
    sent_correlation: float
    chance: float
    bare_noise: float  # correlation of the noise of answers with the head's part in it
    sent_noise: float
    noise_chance: float
    queries: int
    asked: bool  # whether those were really asked
    algebra_error: float
    sizes_equal: bool
    time_of_zero_query: float
    time_of_zero_head: float

    @property
    def leaks(self) -> bool:
        """Whether one response gave something of the head away beyond its scores."""
        found = max(abs(self.masked_correlation), abs(self.sent_correlation))
        return bool(found > self.chance or abs(self.sent_noise) > self.noise_chance)

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self) | {"leaks": self.leaks}
        return {
            k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in found.items()
        }

    def lines(self) -> list[str]:
        """For people."""
        exact = f"largest error {self.algebra_error:.0e}" if self.asked else "not asked: too many"
        claim = "hides the head" if self.profile == "private" else "does not claim to hide the head"
        return [
            f"profile {self.profile}: {claim}; {self.n_outputs} classes, {self.dim} dimensions",
            f"one bare product            gives the head away (error {self.bare_error:.0e})",
            f"one product of this profile correlation {self.masked_correlation:+.3f} with the head"
            f" (chance: below {self.chance:.3f})",
            f"  rounded, as it is sent    correlation {self.sent_correlation:+.3f}",
            f"noise of a bare answer      correlation {self.bare_noise:+.3f} with the head's part",
            f"noise of this profile's     correlation {self.sent_noise:+.3f}"
            f" (chance: below {self.noise_chance:.3f})",
            f"{self.queries} chosen queries          give the head away ({exact}):"
            " no encryption changes that, only a budget below it",
            f"sizes                       {'the same' if self.sizes_equal else 'NOT the same'}"
            " whatever the states and the weights",
            f"time to score               zero query over random {self.time_of_zero_query:.2f},"
            f" zero head over this {self.time_of_zero_head:.2f}",
        ]


def audit(
    head: Head, parameters: Parameters, progress: Callable[[int], None] | None = None
) -> Report:
    """Attack ``head`` with fresh keys. Takes a few seconds; ``progress`` counts four steps.

    Of more than 64 classes the first 64 stand for all.
    """
    tell = progress or (lambda _: None)
    bench = _Attacker(Head(head.weight[:_CLASSES], head.bias[:_CLASSES]), parameters)
    bare, masked, sent, count = bench.one_reply()
    tell(1)
    bare_noise, sent_noise, samples = bench.noise()
    tell(1)
    asked = head.space.dim <= _MAX_QUERIED_DIM
    algebra = bench.algebra() if asked else float("nan")
    tell(1)
    sizes, zero_query, zero_head = bench.side_channels()
    tell(1)
    return Report(
        parameters.name,
        head.space.dim,
        head.n_outputs,
        bare,
        masked,
        sent,
        float(_CHANCE_DEVIATIONS / np.sqrt(max(count, 1))),
        bare_noise,
        sent_noise,
        float(_CHANCE_DEVIATIONS / np.sqrt(samples)),
        head.space.dim + 1,
        asked,
        algebra,
        sizes,
        zero_query,
        zero_head,
    )


class _Attacker:
    """Keys, a client and a provider of the audit's own."""

    def __init__(self, head: Head, parameters: Parameters) -> None:
        self.head, self.parameters = head, parameters
        secret, self.public = keygen(parameters)
        self.client = Client(secret, max_error=np.inf)
        self.scheme = SealScheme(parameters)
        self.side = SealServerSide(self.scheme)
        self.scorer = Scorer(head, parameters, 1 << 28)
        self.masker = self.side.load_public_key(self.public.payload) if parameters.private else None
        self.secret = self.client._side.secret
        self.rng = np.random.default_rng(0)

    def ask(self, state: FloatArray) -> tuple[QueryInfo, Scales, list[Any], list[Any]]:
        """A query of one state: its description, scales, ciphertexts, first product's rows."""
        query = self.client.encrypt(state[None], n_outputs=self.head.n_outputs, norm_bound=2.0)
        info, size = query.info, self.scheme.query_size
        scales = self.scorer.scales(info.layout, info.norm_bits)
        record = query.payloads[0]
        payloads = [record[i * size : (i + 1) * size] for i in range(info.chunks)]
        loaded = [self.side.load_ciphertext(p) for p in payloads]
        rows = next(pack_rows(info.layout, self.head.weight.astype(np.float64)))
        return info, scales, loaded, [self.side.encode(r, scales.head) for r in rows]

    def zero(self) -> Any:
        return None if self.masker is None else self.side.encrypt_zero(self.masker)

    def one_reply(self) -> tuple[float, float, float, int]:
        """Divide by the known second component: of a bare product, a masked one, and a reply.

        With one chunk, w = (c1·w)/c1; with several, all chunks but the first are left out, which
        makes it easier for the attack.
        """
        state = self.rng.normal(size=self.head.space.dim)
        info, scales, loaded, plaintexts = self.ask(state / np.linalg.norm(state))
        known = self.side.whole(loaded[0])[1, 0]
        truth = next(pack_rows(info.layout, self.head.weight.astype(np.float64)))[0]
        bare = self.side.inner_product(loaded[:1], plaintexts[:1])
        weights = self._divided(self.side.whole(bare)[1, 0], known) / 2.0**scales.head
        largest = float(np.abs(truth).max()) or 1.0
        error = float(np.abs(weights - truth).max()) / largest
        total, zero = self.side.inner_product(loaded[:1], plaintexts[:1]), self.zero()
        positions = score_positions(info.layout, 1).ravel()
        returned = ReturnedCoefficients(positions, np.zeros(len(positions)), scales.flood)
        _, second = self.side.flooded(total, returned, zero)
        masked = self._divided(self.scheme.ntt(second[0], inverse=False), known)
        q = self.parameters.modulus
        # the reply itself, made anew, as a provider makes it
        reply = self.side.finalize(
            self.side.inner_product(loaded[:1], plaintexts[:1]), returned, self.zero()
        )
        words, _ = decode_product(reply, self.parameters.degree)
        prime = self.parameters.data_primes[0]
        lifted = np.array([round(int(w) * q / 2**32) % prime for w in words], dtype=np.uint64)
        sent = self._divided(self.scheme.ntt(lifted, inverse=False), known)
        used = truth != 0
        found = [_correlation(x[used], truth[used]) for x in (masked, sent)]
        return error, found[0], found[1], int(used.sum())

    def noise(self) -> tuple[float, float, int]:
        """Ask with zeros: all that comes back is noise, of which w·e is the head's part.

        The key's holder knows e, and so can look for w·e in what it decrypts.
        """
        parts, bare, sent = [], [], []
        for _ in range(_NOISE_ROUNDS):
            info, scales, loaded, plaintexts = self.ask(np.zeros(self.head.space.dim))
            rows = next(pack_rows(info.layout, self.head.weight.astype(np.float64)))
            noises = [self._noise(cipher) for cipher in loaded]
            product = np.sum(
                [
                    from_slots(to_slots(np.rint(w * 2.0**scales.head)) * to_slots(e))
                    for w, e in zip(rows, noises, strict=True)
                ],
                axis=0,
            )
            count = min(info.layout.rows, self.head.n_outputs)
            positions = score_positions(info.layout, count).ravel()
            parts.append(product[positions])
            plain = ReturnedCoefficients(positions, np.zeros(len(positions)), 0)
            bare.append(self._opened(self.side.inner_product(loaded, plaintexts), plain, None))
            flooded = replace(plain, flood=scales.flood)
            sent.append(
                self._opened(self.side.inner_product(loaded, plaintexts), flooded, self.zero())
            )
        truth = np.concatenate(parts)
        found = [_correlation(np.concatenate(x), truth) for x in (bare, sent)]
        return found[0], found[1], len(truth)

    def _noise(self, cipher: Any) -> FloatArray:
        """e of an encryption of zero: c0 + c1·s modulo the first prime, centred."""
        prime = self.parameters.data_primes[0]
        first, second = (self.scheme.ntt(part[0], inverse=True) for part in self.side.whole(cipher))
        slots = to_slots(self.secret.astype(np.float64))
        total = np.zeros_like(first)
        for shift in (40, 20, 0):  # 20 bits at a time: sums of 4096 are exact in float64
            part = ((second >> np.uint64(shift)) & np.uint64((1 << 20) - 1)).astype(np.float64)
            product = np.rint(from_slots(to_slots(part) * slots)).astype(np.int64) % prime
            total = add_mod(shift_mod(total, 20, prime), product.view(np.uint64), prime)
        total = add_mod(total, first, prime)
        centred = total.astype(np.int64) - np.where(total > prime // 2, prime, 0)
        return centred.astype(np.float64)

    def _opened(self, total: Any, returned: ReturnedCoefficients, zero: Any) -> FloatArray:
        """Answers, unrounded, as the key's holder decrypts them: centred integers as floats."""
        first, second = self.side.flooded(total, returned, zero)
        primes, q = self.parameters.data_primes, self.parameters.modulus
        out = []
        for i, k in enumerate(returned.positions.tolist()):
            signs = np.concatenate([self.secret[: k + 1][::-1], -self.secret[k + 1 :][::-1]])
            sums = [
                int(row[i]) + int(np.dot(signs.astype(object), part.astype(object)))
                for row, part in zip(first, second, strict=True)
            ]
            value = _crt(sums, primes) % q
            out.append(float(value - q if value > q // 2 else value))
        return np.array(out)

    def algebra(self) -> float:
        """Ask with zeros and with every unit vector; compare with the head."""
        dim = self.head.space.dim
        states = np.concatenate([np.zeros((1, dim)), np.eye(dim)])
        query = self.client.encrypt(states, n_outputs=self.head.n_outputs)
        settings: dict[str, Any] = {"accept": [self.parameters], "max_error": np.inf}
        provider = Provider(self.head, keys=[self.public], **settings)
        values = self.client.decrypt(provider.score(query), query).values
        found = (values[1:] - values[0]).T
        return float(np.abs(found - self.head.weight).max())

    def side_channels(self) -> tuple[bool, float, float]:
        """Whether sizes differ, and medians of times against each other."""
        dim = self.head.space.dim
        random = self.rng.normal(size=(1, dim))
        random /= np.linalg.norm(random)
        layout = choose_layout(self.parameters, dim, self.head.n_outputs, 1).layout
        options: dict[str, Any] = {"layout": layout, "norm_bound": 2.0}
        queries = [self.client.encrypt(s, **options) for s in (random, np.zeros((1, dim)))]
        zero_head = Head(np.zeros_like(self.head.weight), np.zeros_like(self.head.bias))
        settings: dict[str, Any] = {
            "keys": [self.public],
            "accept": [self.parameters],
            "max_error": np.inf,
        }
        providers = [Provider(h, **settings) for h in (self.head, zero_head)]
        cases = {
            "random": (providers[0], queries[0]),
            "zero query": (providers[0], queries[1]),
            "zero head": (providers[1], queries[0]),
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        sizes = {len(p) for q in queries for p in q.payloads}
        replies = set()
        for _ in range(_TIMING_ROUNDS + 1):  # the first encodes the head
            for name, (provider, query) in cases.items():
                start = time.perf_counter()
                response = provider.score(query)
                times[name].append(time.perf_counter() - start)
                replies |= {len(p) for p in response.payloads}
        median = {name: statistics.median(t[1:]) for name, t in times.items()}
        return (
            len(sizes) == 1 and len(replies) == 1,
            median["zero query"] / median["random"],
            median["zero head"] / median["random"],
        )

    def _divided(self, product: Any, known: Any) -> FloatArray:
        """product / known in number-theoretic form modulo the first prime, as centred integers."""
        prime = self.parameters.data_primes[0]
        pairs = zip(product.tolist(), known.tolist(), strict=True)
        quotient = np.array(
            [x * pow(y, -1, prime) % prime if y else 0 for x, y in pairs], dtype=np.uint64
        )
        values = self.scheme.ntt(quotient, inverse=True).astype(np.int64)
        values -= np.where(values > prime // 2, prime, 0)
        return values.astype(np.float64)


def _crt(residues: list[int], primes: tuple[int, ...]) -> int:
    total, modulus = residues[0] % primes[0], primes[0]
    for residue, prime in zip(residues[1:], primes[1:], strict=True):
        total += modulus * ((residue - total) * pow(modulus, -1, prime) % prime)
        modulus *= prime
    return total


def _correlation(left: FloatArray, right: FloatArray) -> float:
    """Pearson's; 0 where one side is constant."""
    if len(left) < 2:
        return 0.0
    left, right = left - left.mean(), right - right.mean()
    norm = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norm if norm else 0.0
