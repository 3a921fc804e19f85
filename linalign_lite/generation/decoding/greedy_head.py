"""Find the highest score of a large head without reading all of its float32 weights.

A copy of the weights in int8, one scale a row, gives every score to within a bound; only outputs
that could be the highest within it, some ten of 262,144, are scored in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.core.head import Head
from linalign_lite.extraction.session import PROVIDERS, session_options

MIN_SIZE = 1 << 22  # weights of a head from which on the copy is faster
MAX_SIZE = (1 << 31) - (1 << 20)  # a protobuf message holds 2 GiB
DIGIT = 128  # a state is two digits of 7 bits
LARGEST = 63 * DIGIT + 63
ROUNDING = 2.0**-22  # of a float32 product, per term: four times the unit roundoff
ROWS = 512  # that are quantised together, in the processor's cache
MIN_STATE = 1e-20  # largest number of a state, so that its digits have a step
MAX_SHARE = 1 / 16  # of outputs that are scored one by one


def int8_pays(head: Head) -> bool:
    """True for a head with so many weights that reading them is what takes the time.

    Not with a soft cap, which can make different scores equal.
    """
    return head.softcap is None and MIN_SIZE <= head.weight.size <= MAX_SIZE


class GreedyHead:
    """The output with the highest score ``weight·z + bias``, by an int8 copy of ``weight``.

    With wᵢ = aᵢqᵢ + eᵢ (q int8, |eᵢ| ≤ aᵢ/2) and z = b·t + δ (t integers of 14 bits), the score is
    aᵢb·qᵢ·t + biasᵢ, computed in integers, up to ‖eᵢ‖(‖z‖ + ‖δ‖) + ‖wᵢ‖‖δ‖ (Cauchy-Schwarz) and the
    rounding of a float32 product, d·2⁻²²‖wᵢ‖‖z‖. An output whose upper bound is below the greatest
    lower bound cannot be the highest. Products of 7-bit digits do not saturate on processors that
    add pairs of products in 16 bits.
    """

    @np.errstate(over="ignore", invalid="ignore")  # a weight that is not finite: no output is found
    def __init__(self, weight: Array, bias: Array, threads: int) -> None:
        """weight, bias: float32, kept, not copied. threads: of the int8 product."""
        self._weight, self._bias = weight, bias
        outputs, dim = weight.shape
        codes = np.empty((dim, outputs), dtype=np.int8)
        self._scale, self._error, self._norm = np.empty((3, outputs), dtype=np.float32)
        for start in range(0, outputs, ROWS):
            rows = slice(start, start + ROWS)
            part = weight[rows]
            scale = np.maximum(part.max(axis=1), -part.min(axis=1)) / np.float32(127)
            scale = np.maximum(scale, np.float32(1e-30))[:, None]
            rounded = np.rint(part / scale)
            codes[:, rows] = rounded.astype(np.int8).T
            rounded *= scale
            rounded -= part
            self._scale[rows] = scale[:, 0]
            self._error[rows] = np.linalg.norm(rounded, axis=1) * 1.001
            self._norm[rows] = np.linalg.norm(part, axis=1) * 1.001
        self._session = _product(codes, threads)

    @np.errstate(over="ignore", invalid="ignore")
    def __call__(self, state: Array) -> int | None:
        """The first of the outputs with the highest score; None where too many are close to it."""
        length, largest = float(np.linalg.norm(state)), float(np.abs(state).max())
        if not MIN_STATE < largest < np.inf:
            return None
        step = largest / LARGEST
        whole = np.rint(state / np.float32(step)).astype(np.int32)
        high = (whole + DIGIT // 2) // DIGIT
        digits = np.stack([high, whole - high * DIGIT]) + DIGIT // 2
        (sums,) = self._session.run(None, {"digits": digits.astype(np.uint8)})
        scores, low = sums.astype(np.float32)
        scores *= DIGIT
        scores += low
        scores *= self._scale * np.float32(step)
        scores += self._bias
        rest = 1.001 * float(np.linalg.norm(state - whole * np.float32(step)))
        margin = self._error * np.float32(length + rest)
        margin += self._norm * np.float32(rest + len(state) * ROUNDING * length)
        near = np.flatnonzero(scores + margin >= (scores - margin).max())
        if not 0 < len(near) <= len(scores) * MAX_SHARE:
            return None
        exact = np.dot(self._weight[near], state) + self._bias[near]
        return int(near[exact.argmax()]) if np.isfinite(exact).all() else None


def _product(codes: npt.NDArray[np.int8], threads: int) -> Any:
    """A session of digits (2, d) uint8, 64 is zero, to sums (2, n) int32 with ``codes`` (d, n)."""
    import onnxruntime as ort

    return ort.InferenceSession(_graph(codes), session_options(threads), providers=list(PROVIDERS))


def _graph(codes: npt.NDArray[np.int8]) -> bytes:
    """A graph of one MatMulInteger as protobuf; the base install has no `onnx`."""
    zero = np.array(DIGIT // 2, dtype=np.uint8)
    node = _field(1, b"digits") + _field(1, b"codes") + _field(1, b"zero") + _field(2, b"sums")
    graph = _field(1, node + _field(4, b"MatMulInteger")) + _field(2, b"head")
    graph += _field(5, _tensor(b"codes", 3, codes)) + _field(5, _tensor(b"zero", 2, zero))
    graph += _field(11, _value(b"digits", 2, codes.shape[0]))
    graph += _field(12, _value(b"sums", 6, codes.shape[1]))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13))


def _tensor(name: bytes, kind: int, array: npt.NDArray[Any]) -> bytes:
    sizes = b"".join(_field(1, size) for size in array.shape)
    return sizes + _field(2, kind) + _field(8, name) + _field(9, array.tobytes())


def _value(name: bytes, kind: int, width: int) -> bytes:
    shape = b"".join(_field(1, _field(1, size)) for size in (2, width))
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, shape)))


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
