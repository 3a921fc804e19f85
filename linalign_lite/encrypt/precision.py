"""Choose scales so that nothing overflows or lacks precision; bound errors.

A query is encoded at scale 2^a and a head at scale 2^b, so a product holds scores at scale 2^(a+b)
modulo q. The client keeps every state's norm below 2^B, B public; the provider knows the largest
norm of its rows and its largest bias, and by Cauchy–Schwarz |score| ≤ 2^B·max‖w‖ + max|bias|.
So b is chosen before anything is scored such that |score|·2^(a+b) ≤ 15/32·q, flooding at most
q/64, and no score can wrap around. `noise_flooding` has the width of the flooding.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.encrypt.noise_flooding import NOISE_VARIANCE, encoded_norm, flood_bits
from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.response_encoding import WORD_BITS
from linalign_lite.encrypt.ring import widest_limbs
from linalign_lite.errors import InputError, PrecisionError

MIN_NORM_BITS = 0  # states of norm up to 1 all declare the same bound
NORM_SLACK = 2.0**-6  # by which a norm may exceed its bound: unit vectors are never exactly that
MAX_NORM_BITS = 24
MAX_ERROR = 5e-3  # of a score, by default
MIN_SCORE = 2.0**-20  # assumed size of the largest score at least: a head of zeros needs a scale
MAX_DECIMALS = 15  # of float64 numbers of order 1
_SHORTEST = 11  # bits of weights that are rounded so that products take less time
_DEVIATIONS = 6.0  # standard deviations that a stated error covers


def least_norm_bits(largest: float) -> int:
    """Return B, the least integer ≥ MIN_NORM_BITS with ``largest`` ≤ 2^B·(1 + NORM_SLACK).

    Only this power of two becomes public; all small norms share one. Raises InputError when the
    norm is not finite or above 2^MAX_NORM_BITS.
    """
    if not 0 <= largest <= largest_norm(MAX_NORM_BITS):
        raise InputError(
            "the states are too large to encrypt",
            expected=f"norms up to 2^{MAX_NORM_BITS}",
            hint="normalise the states, and fit the head on normalised states",
        )
    mantissa, exponent = math.frexp(largest)  # exact, where log2 rounds
    return max(MIN_NORM_BITS, exponent - (mantissa <= 0.5 * (1 + NORM_SLACK)))


def largest_norm(norm_bits: int) -> float:
    """The largest norm that B allows."""
    return 2.0**norm_bits * (1 + NORM_SLACK)


def score_room(parameters: Parameters) -> float:
    """log2 of the largest |score|·2^(a+b), 15/32·q; NORM_SLACK adds at most q/128 to it."""
    return parameters.data_bits + math.log2(15 / 32)


def query_scale(parameters: Parameters, norm_bits: int) -> int:
    """Return a = query_bits − B: an encoded state has a norm of about 2^query_bits at most."""
    return parameters.query_bits - norm_bits


def head_scale(parameters: Parameters, norm_bits: int, row_norm: float, bias: float) -> int:
    """Return b, the largest integer with max(2^-20, 2^B·row_norm + bias)·2^(a+b) ≤ 15/32·q.

    Also 2^b ≤ q/4. row_norm: largest norm of a head row. bias: largest |bias|. Raises
    PrecisionError when no scale of at least 1 is left: scores could overflow the modulus.
    """
    largest = 2.0**norm_bits * row_norm + bias
    room = score_room(parameters) - query_scale(parameters, norm_bits)
    scale = math.floor(room - math.log2(max(largest, MIN_SCORE))) if math.isfinite(largest) else -1
    if scale < 0:
        raise PrecisionError(
            "scores of this head on these states could overflow the coefficient modulus",
            got=f"state norms up to 2^{norm_bits} and a head that needs more room",
            expected=f"scores below 2^{room:.0f}",
            hint="scale the head's rows and its bias down, or normalise the states",
        )
    return min(scale, int(parameters.data_bits) - 2)


@dataclass(frozen=True)
class Scales:
    """b of head_scale, k of flood_bits, bits of a word, and the bound on the error of a score.

    Weights are encoded as multiples of 2^rounding_bits. imprecision: what ``max_error`` limits, the
    error; of an index `relative_noise`.
    """

    head: int
    rounding_bits: int
    flood_bits: int
    word_bits: int
    error: float
    imprecision: float

    @property
    def weight_scale(self) -> int:
        """Weights are rounded to multiples of 2^-weight_scale."""
        return self.head - self.rounding_bits


def choose_scales(
    parameters: Parameters,
    layout: Layout,
    n_outputs: int,
    norm_bits: int,
    *,
    row_norm: float,
    bias: float,
    product_norm: float,
    row_scale: int | None = None,
    max_error: float = MAX_ERROR,
    proven: bool = False,
) -> Scales:
    """Choose the scales of a head. Raises PrecisionError when the modulus cannot hold them.

    row_norm: largest norm of a head row. bias: largest |bias|. product_norm: largest norm of all
    rows that share a product. row_scale: of an index, whose rows are rounded to multiples of
    2^-row_scale whatever the error, for rankings lose then what was measured. Of the choices that
    keep the imprecision within ``max_error``, the first of: weights so short that residues have two
    limbs or three (module ring), and short words; whole weights, and short words; whole weights,
    and long words; of an index short words or long ones. The last where none does. proven: the
    public key has a proof.
    """
    scale = head_scale(parameters, norm_bits, row_norm, bias)
    fold, shape = layout.fold(n_outputs), (product_norm, layout.terms)
    short = 0  # what the trusted profile does is fast enough
    if row_scale is not None:
        if scale < row_scale:
            what = "rows of this index are too short to be searched encrypted"
            raise PrecisionError(what, hint="scale them up, or choose --metric cosine")
        short = scale - max(0, row_scale)
    elif parameters.private:
        short = _short_rounding(parameters, layout, scale, row_norm, product_norm)
    choices = [(short, WORD_BITS[0]), *((0, bits) for bits in WORD_BITS)]
    if row_scale is not None:
        choices = [(short, bits) for bits in WORD_BITS]
    for rounding, word_bits in choices:
        flood = flood_bits(parameters, scale, *shape, rounding_bits=rounding, proven=proven)
        numbers = scale, rounding, fold, flood, word_bits
        error = score_error(parameters, norm_bits, *numbers)
        imprecision = error
        if row_scale is not None:
            imprecision = relative_noise(parameters, norm_bits, scale, fold, flood, word_bits)
        if imprecision <= max_error:
            break
    return Scales(scale, rounding, flood, word_bits, error, imprecision)


def factors(layout: Layout, product_norm: float, weight_scale: int) -> tuple[float, int]:
    """Sum of norms, and number, of the polynomials that multiply residues in a product.

    A mask's u, and the head's rows unless they are numbers.
    """
    mask = math.sqrt(layout.degree)
    if layout.columns:
        return mask, 1
    rows = encoded_norm(product_norm, weight_scale, layout.terms)
    return mask + math.sqrt(layout.chunks) * rows, 1 + layout.chunks


def _short_rounding(
    parameters: Parameters, layout: Layout, scale: int, row_norm: float, product_norm: float
) -> int:
    """The fewest bits to round weights by such that residues need two limbs, or three.

    A row keeps _SHORTEST bits of its norm; 0 where that is not possible.
    """
    most = math.floor(scale + math.log2(max(row_norm, MIN_SCORE))) - _SHORTEST
    bits = max(p.bit_length() for p in parameters.data_primes)
    for limbs in (2, 3):
        for rounding in range(min(most, scale) + 1):
            found = factors(layout, product_norm, scale - rounding)
            if widest_limbs(layout.degree, *found) >= -(-bits // limbs):
                return rounding
    return 0


@functools.lru_cache(maxsize=256)
def score_error(
    parameters: Parameters,
    norm_bits: int,
    scale: int,
    rounding_bits: int,
    fold: int,
    flood: int,
    word_bits: int,
    *,
    encoded: bool = False,
) -> float:
    """Bound the error of a score, from public numbers alone.

    norm_bits: B. scale: b. rounding_bits: g. fold: rows to a product. flood: k. word_bits: w.
    Flooding itself, 2^(k-1) / 2^(a+b), is never exceeded; to it come six standard deviations of
    three independent parts: fresh noise times the head, √10.5·√fold·max‖w‖ / 2^a, where b allows
    max‖w‖ = 15/32·q / 2^(a+b+B) at most; rounding of the head, √(1/12)·2^B·2^(g−b); and
    rounding of the response modulo 2^w, √((1 + N)/12)·q / 2^(w+a+b), where one component is
    multiplied by a ternary secret. encoded: bound the distance from the scores of the rounded head
    instead, to which its rounding adds nothing.
    """
    a = query_scale(parameters, norm_bits)
    row_norm = 2.0 ** (score_room(parameters) - a - scale - norm_bits)
    fresh = math.sqrt(NOISE_VARIANCE * fold) * row_norm / 2.0**a
    rounding = 0.0 if encoded else math.sqrt(1 / 12) * 2.0 ** (norm_bits + rounding_bits - scale)
    per_word = 2.0 ** (parameters.data_bits - word_bits - a - scale)
    words = math.sqrt((1 + parameters.degree) / 12) * per_word
    flooding = 2.0 ** (flood - 1 - a - scale) if flood else 0.0
    return flooding + _DEVIATIONS * math.sqrt(fresh**2 + rounding**2 + words**2)


def relative_noise(
    parameters: Parameters, norm_bits: int, scale: int, fold: int, flood: int, word_bits: int
) -> float:
    """Bound the error of a score but for rounding of rows, over the largest score that b allows.

    Of an index: what rounding of its rows does to rankings was measured, and scores may be of any
    size. The arguments are those of `score_error`.
    """
    room: float = score_room(parameters) - query_scale(parameters, norm_bits) - scale
    numbers = scale, 0, fold, flood, word_bits
    return score_error(parameters, norm_bits, *numbers, encoded=True) / math.exp2(room)


def rounding_step(error: float) -> tuple[float, int]:
    """Return the least of 1, 2 and 5 times powers of ten that is at least ``error``.

    And its decimal places, at most MAX_DECIMALS.
    """
    least = max(error, 10.0**-MAX_DECIMALS)
    exponent = math.floor(math.log10(least))
    factor = next(f for f in (1, 2, 5, 10) if f * 10.0**exponent >= least)
    places = -exponent - (factor == 10)
    return factor * 10.0**exponent, min(max(0, places), MAX_DECIMALS)


def precision_bits(exact: npt.ArrayLike, got: npt.ArrayLike) -> float:
    """Compute −log2(max|got − exact| / max|exact|), bits of precision. Infinite when equal."""
    reference: npt.NDArray[Any] = np.asarray(exact, dtype=np.float64)
    error = float(np.max(np.abs(np.asarray(got, dtype=np.float64) - reference)))
    largest = float(np.max(np.abs(reference)))
    if error == 0:
        return math.inf
    return -math.log2(error / largest) if largest else -math.inf
