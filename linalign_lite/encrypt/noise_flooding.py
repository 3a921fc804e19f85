"""Compute the width of the flooding that hides a head in the responses of the private profile.

The profile adds to each coefficient that it returns an integer drawn uniformly from 2^k values. Two
such draws that differ by a shift of δ have statistical distance |δ|/2^k, so k = 41 + log2 δ hides
noise of at most δ to 2^-41; that the noise is larger has probability 2^-41 at most.
docs/SECURITY.md has the derivation.
"""

import math

from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.errors import PrecisionError

HIDING_BITS = 40  # -log2 of the statistical distance of a returned coefficient
# SEAL draws encryption noise from a centred binomial distribution: 21 bits minus 21 bits. That is
# the sum of 42 times ±1/2, so by Hoeffding P(|⟨w, e⟩| > t) ≤ 2·exp(-t² / (2·10.5·‖w‖²)).
NOISE_VARIANCE = 10.5
MAX_NOISE = 21
# 2·exp(-t²/2) = 2^-(HIDING_BITS + 1), and 2^-(HIDING_BITS + 3)
_TAIL, _FAR_TAIL = (math.sqrt(2 * math.log(2.0 ** (HIDING_BITS + n))) for n in (2, 4))
# Bits that a returned coefficient tells at most, whatever its key: docs/SECURITY.md estimates what
# 128 such coefficients leave of a mask under a key that was made up
MOST_TOLD = 25
# Bounds on the coefficients of s and e that a proof of a public key shows: key_proof.slack
PROVEN_SECRET, PROVEN_NOISE = 2.0**18, 2.0**22


def product_noise(
    parameters: Parameters,
    scale: int,
    norm: float,
    terms: int,
    *,
    rounding_bits: int = 0,
    proven: bool = False,
) -> float:
    """Bound δ on the noise of a returned coefficient, exceeded with probability ≤ 2^-41.

    Flooding must hide it. Two parts. The query's noise times the encoded rows, at most
    t·√10.5·‖W‖ by Hoeffding, where W are all ``terms`` coefficients multiplied with this product's
    ciphertexts: ``norm``·2^scale, and half of 2^rounding_bits each for rounding. And the encryption
    of zero: u·e_pk + e1·s, u and s ternary, |e_pk| and |e1| ≤ 21, at most 42·N: a bound that no
    draw exceeds. (e1 is not drawn, but the argument in docs/SECURITY.md assumes it.)

    proven: of a key of which a proof shows only |s_i| < 2^18 and |e_i| < 2^22. Then the second part
    is at most t'·(‖e‖ + √10.5·‖s‖) by Hoeffding over u and e1, but for 2^-42.
    """
    encoded = 2.0**rounding_bits * encoded_norm(norm, scale - rounding_bits, terms)
    zero = 2.0 * MAX_NOISE * parameters.degree
    if proven:
        root = math.sqrt(parameters.degree)
        zero = _FAR_TAIL * root * (PROVEN_NOISE + math.sqrt(NOISE_VARIANCE) * PROVEN_SECRET)
    return _TAIL * math.sqrt(NOISE_VARIANCE) * encoded + zero


def encoded_norm(norm: float, weight_scale: int, terms: int) -> float:
    """Bound the norm of ``terms`` weights that are multiplied by 2^weight_scale and rounded."""
    return norm * 2.0**weight_scale + math.sqrt(terms) / 2


def flood_bits(
    parameters: Parameters,
    scale: int,
    norm: float,
    terms: int,
    *,
    rounding_bits: int = 0,
    proven: bool = False,
) -> int:
    """Return k: flooding draws from 2^k values. 0 when the profile does not hide the head.

    Arguments as for product_noise. With a proven key's tail of 2^-42 more, one bit more keeps the
    statistical distance at 2^-40. Never less than log2 q − MOST_TOLD. Raises PrecisionError when
    2^k is above q/32: the modulus cannot hold scores and flooding.
    """
    if not parameters.private:
        return 0
    shape = parameters, scale, norm, terms
    noise = product_noise(*shape, rounding_bits=rounding_bits, proven=proven)
    bits = math.ceil(HIDING_BITS + 1 + proven + math.log2(noise))
    bits = max(bits, math.ceil(parameters.data_bits) - MOST_TOLD)
    if bits > most_flood_bits(parameters):
        raise PrecisionError(
            "these parameters cannot hold the noise that hides this head",
            got=f"{bits} bits of flooding",
            expected=f"at most {most_flood_bits(parameters)}",
            hint="scale the head's rows down, or cut the query into more chunks",
        )
    return bits


def most_flood_bits(parameters: Parameters) -> int:
    """The largest k: flooding stays within q/64 either way."""
    return int(parameters.data_bits) - 5
