"""Parameter sets for encrypted scoring, and how scales are chosen so that nothing can overflow.

A query is encoded at scale 2^a and a head at scale 2^b, so a product holds scores at scale 2^(a+b)
modulo q. The client keeps every state's norm below 2^B, B public; the provider knows the largest
norm of its rows and its largest bias, and by Cauchy–Schwarz |score| ≤ 2^B·max‖w‖ + max|bias|.
So b is chosen before anything is encrypted such that |score|·2^(a+b) ≤ q/4: half of the room is
left for noise, and a score cannot wrap around in silence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import FormatError, InputError

# log2 of the largest modulus at 128 bits of security, classical, ternary secret
# (homomorphic encryption standard, 2018)
MODULUS_BITS = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438}
MIN_NORM_BITS = 4  # states of norm up to 16 all declare the same bound
MAX_NORM_BITS = 24
MAX_ERROR = 1e-3
MAX_DECIMALS = 15  # what float64 holds of numbers of order 1
_SIGMA = 3.2  # standard deviation of fresh encryption noise in SEAL
_TAIL = 6.0  # standard deviations that the stated error covers


@dataclass(frozen=True)
class Parameters:
    """One parameter set: ring degree N, primes, and the bits that an encoded query may take.

    ``data_primes`` carry ciphertexts; ``key_primes`` exist only in keys. ``query_bits`` is log2 of
    the largest norm of an encoded query. ``id`` is what files carry. Raises InputError when the
    primes do not suit the degree or the modulus is too wide for 128 bits of security.
    """

    name: str
    id: int
    degree: int
    data_primes: tuple[int, ...]
    key_primes: tuple[int, ...]
    query_bits: int
    scheme: str = "seal"

    def __post_init__(self) -> None:
        if self.degree not in MODULUS_BITS:
            raise InputError("ring degree is not supported", got=str(self.degree))
        if len(self.data_primes) > 2:  # a response keeps one: see response_primes
            raise InputError("at most two data primes", got=str(len(self.data_primes)))
        if not self.data_primes or any(p % (2 * self.degree) != 1 for p in self.primes):
            raise InputError("primes must be 1 modulo twice the ring degree", got=self.name)
        if sum(self.prime_bits) > MODULUS_BITS[self.degree]:
            raise InputError(
                "the coefficient modulus is too wide for 128 bits of security",
                got=f"{sum(self.prime_bits)} bits at ring degree {self.degree}",
                expected=f"at most {MODULUS_BITS[self.degree]}",
            )

    @property
    def primes(self) -> tuple[int, ...]:
        return self.data_primes + self.key_primes

    @property
    def prime_bits(self) -> tuple[int, ...]:
        return tuple(p.bit_length() for p in self.primes)

    @property
    def response_primes(self) -> tuple[int, ...]:
        """What is left after the product is rescaled: one prime fewer, if there are several."""
        return self.data_primes[:-1] or self.data_primes

    @property
    def dropped(self) -> int:
        """The prime that rescaling divides by, 1 when there is only one."""
        return self.data_primes[-1] if len(self.data_primes) > 1 else 1

    @property
    def data_bits(self) -> float:
        """log2 of the modulus of a query."""
        return sum(math.log2(p) for p in self.data_primes)


# The primes are the ones that SEAL's CoeffModulus.Create gives for 41, 41, 27 and for 54 bits.
DEFAULT = Parameters(
    "default", 1, 4096, (2199022927873, 2199023190017), (134176769,), query_bits=43
)
SMALL = Parameters("small", 2, 2048, (18014398509404161,), (), query_bits=29)
PROFILES = {p.name: p for p in (DEFAULT, SMALL)}

# The twin without encryption: for tests only. Nothing that takes a profile name can reach it, and
# a provider refuses it unless told otherwise.
INSECURE_NOOP = Parameters(
    "insecure-noop", 0xFFFF, 4096, DEFAULT.data_primes, (134176769,), 43, scheme="insecure-noop"
)
_BY_ID = {p.id: p for p in (DEFAULT, SMALL, INSECURE_NOOP)}


def by_id(number: int) -> Parameters:
    """The parameter set that a file names. FormatError when there is none of that number."""
    try:
        return _BY_ID[number]
    except KeyError:
        raise FormatError(
            "unknown parameter set", got=str(number), expected="1 (default) or 2 (small)"
        ) from None


def by_name(name: str) -> Parameters:
    """A secure parameter set by name. InputError when there is none of that name."""
    try:
        return PROFILES[name]
    except KeyError:
        raise InputError(
            "unknown parameter set", got=repr(name[:40]), expected=" or ".join(PROFILES)
        ) from None


def norm_bits(largest: float) -> int:
    """B, the least integer of at least MIN_NORM_BITS with ``largest`` ≤ 2^B.

    Only this power of two becomes public, and small norms all share one value. Raises InputError
    when the norm is not finite or above 2^MAX_NORM_BITS.
    """
    if not 0 <= largest <= 2.0**MAX_NORM_BITS:
        raise InputError(
            "the states are too large to encrypt",
            expected=f"norms up to 2^{MAX_NORM_BITS}",
            hint="normalise the states, and fit the head on normalised states",
        )
    mantissa, exponent = math.frexp(largest)  # exact, where log2 rounds
    return max(MIN_NORM_BITS, exponent - (mantissa == 0.5))


def query_scale(parameters: Parameters, bound: int) -> int:
    """a = query_bits − B: every encoded state then has a norm of at most 2^query_bits."""
    return parameters.query_bits - bound


def head_scale(parameters: Parameters, bound: int, row_norm: float, bias: float) -> int:
    """b, the largest integer with (2^B·row_norm + bias)·2^(a+b) ≤ q/4 and 2^(a+b) ≤ q/4.

    row_norm: largest norm of a head row. bias: largest |bias|. Raises InputError when no scale of
    at least 1 is left, that is when scores could overflow the modulus.
    """
    largest = 2.0**bound * row_norm + bias
    room = parameters.data_bits - 2 - query_scale(parameters, bound)
    scale = math.floor(room - math.log2(max(largest, 1.0))) if math.isfinite(largest) else -1
    if scale < 0:
        raise InputError(
            "scores of this head on these states could overflow the coefficient modulus",
            got=f"state norms up to 2^{bound} and a head that needs more room",
            expected=f"scores below 2^{room:.0f}",
            hint="scale the head's rows and its bias down, or normalise the states",
        )
    return scale


def score_error(parameters: Parameters, bound: int, scale: int, fold: int) -> float:
    """Six standard deviations of the error of a score, from public numbers alone.

    bound: B. scale: b. fold: rows per plaintext times chunks. Three independent parts: fresh noise
    times the head, 3.2·√fold·max‖w‖ / 2^a, where b allows max‖w‖ = q/4 / 2^(a+b+B) at most;
    rounding of the head to integers, √(1/12)·2^B / 2^b; and rescaling, which rounds both
    components and multiplies one with a ternary secret, √((1 + 2N/3)/12)·p / 2^(a+b).
    """
    a = query_scale(parameters, bound)
    row_norm = 2.0 ** (parameters.data_bits - 2 - a - scale - bound)
    fresh = _SIGMA * math.sqrt(fold) * row_norm / 2.0**a
    rounding = math.sqrt(1 / 12) * 2.0**bound / 2.0**scale
    rescale = 0.0
    if parameters.dropped > 1:
        spread = math.sqrt((1 + 2 * parameters.degree / 3) / 12)
        rescale = spread * parameters.dropped / 2.0 ** (a + scale)
    return _TAIL * math.sqrt(fresh**2 + rounding**2 + rescale**2)


def decimals(error: float) -> int:
    """Decimal places to round scores to: one unit of the last place is at least ``error``."""
    return max(0, min(MAX_DECIMALS, math.floor(-math.log10(error))))


def precision_bits(exact: npt.ArrayLike, got: npt.ArrayLike) -> float:
    """−log2(max|got − exact| / max|exact|): bits of precision left. Infinite when equal."""
    reference: npt.NDArray[Any] = np.asarray(exact, dtype=np.float64)
    error = float(np.max(np.abs(np.asarray(got, dtype=np.float64) - reference)))
    largest = float(np.max(np.abs(reference)))
    if error == 0:
        return math.inf
    return -math.log2(error / largest) if largest else -math.inf
