"""Damage to bytes and to JSON, drawn from a ``random.Random`` so that a seed repeats it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from random import Random
from typing import Any

MAX_SIZE = 4 << 20  # no mutated input is longer
EDGES = (0, 1, 2, 3, 7, 8, 31, 127, 255, 4095, 4096, 1 << 14, 1 << 16, (1 << 31) - 1, 1 << 31,
         (1 << 32) - 1, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip

# JSON that json.dumps does not write, or that would be slow to build each time. What is not
# encodable as UTF-8 stands for the byte itself (surrogateescape).
_RAW = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "5e-324", "1.7976931348623157e308",
    "-0", "-0.0", "01", "1.", ".5", "+1", "0x10", "1_0", "'x'", "tru", "", "//", "[1,]", '{"a":1,}',
    "9" * 300, "9" * 4000, "-" + "9" * 4299, "9" * 5000, "1" + "0" * 400 + ".0",
    '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\udcff"', '"\udced\udca0\udc80"', '"\x00"',
    '"\x01"', '"\\u001b[2J"', '"\\u202e"', '"unended', "[" * 100_000, "[" * 400 + "]" * 400,
    "[" * 960 + "]" * 960, '{"a":' * 300 + "1" + "}" * 300, '{"a":' * 970 + "1" + "}" * 970,
    '{"a":1,"a":2}', "[" + "0," * 5000 + "0]",
)  # fmt: skip
_GROWN = 200_000  # characters of JSON that is not made to grow further
_MARK = re.compile(r'"raw\\u0000(\d+)"|"raw\x00(\d+)"')
_PLAIN: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 1.0, 0.5, -1.5, "", "x", "0", "mean", "tokens", [], {}, [[]],
    [None], ["a", "a"], {"": None}, "x" * 257, "y" * 5000, "\u001b[31m", "\u2028", "é", "🦊", "\n",
    10**9, 10**15, 10**18, 1 << 20, (1 << 20) + 1, 1 << 24, (1 << 24) + 1, 1 << 31, 1 << 32,
    1 << 53,
    1 << 63, 1 << 64, -(1 << 63), 1e30, 1e308, 1e-308,
)  # fmt: skip


def damaged(data: bytes, r: Random, others: Sequence[bytes] = ()) -> bytes:
    """Plain damage: flips, cuts, insertions, repeats, splices, numbers of edges."""
    out = bytearray(data)
    for _ in range(r.choice((1, 1, 1, 2, 4, 16))):
        _damage(out, r, others)
    return bytes(out[:MAX_SIZE])


def _damage(out: bytearray, r: Random, others: Sequence[bytes]) -> None:
    place = r.randrange(len(out) + 1)
    near = min(r.choice((4, 64, 256, 1 << 20)), len(out) + 1)  # headers stand at the start
    if r.random() < 0.5:
        place = r.randrange(near)
    elif r.random() < 0.3:  # or at the end
        place = len(out) - r.randrange(near)
    length = r.choice((1, 2, 4, 8, 16, 100))
    match r.randrange(9):
        case 0 if place < len(out):
            out[place] ^= 1 << r.randrange(8)
        case 1 if place < len(out):
            out[place] = r.choice((0, 1, 0x7F, 0x80, 0xFF, r.randrange(256)))
        case 2:
            del out[place:]
        case 3:
            del out[place : place + length]
        case 4:
            out[place:place] = r.randbytes(length)
        case 5:
            block = out[place : place + length]
            out[place:place] = block * r.choice((1, 2, 50))
        case 6 if others:
            other = r.choice(others)
            start = r.randrange(len(other) + 1)
            out[place:] = other[start:]
        case 7:
            size = r.choice((2, 4, 8))
            number = r.choice(EDGES) & ((1 << 8 * size) - 1)
            out[place : place + size] = number.to_bytes(size, r.choice(("little", "big")))
        case _:
            out[place : place + length] = bytes(length)


def twisted(value: Any, r: Random) -> Any:
    """A JSON value with some of its parts replaced, removed, added, moved or repeated."""
    if len(json.dumps(value)) > _GROWN:
        return None
    holder = [copy.deepcopy(value)]
    for _ in range(r.choice((1, 1, 1, 1, 2, 3))):
        spots: list[tuple[Any, Any]] = []
        _collect(holder, spots)
        container, key = r.choice(spots)
        match r.randrange(10):
            case 0 | 1 | 2:
                container[key] = _near(container[key], r)
            case 3 | 4:
                container[key] = r.choice(_PLAIN)
            case 5 | 6:
                container[key] = _raw(r)
            case 7 if container is not holder:
                del container[key]
            case 8 if isinstance(container, dict):
                container[r.choice(("x", "", "dim", "profile", "__proto__", "k" * 300))] = 1
            case _:
                other, place = r.choice(spots)
                container[key] = copy.deepcopy(other[place]) if other is not holder else _raw(r)
    return holder[0]


def _collect(container: Any, spots: list[tuple[Any, Any]]) -> None:
    keys = list(container) if isinstance(container, dict) else range(min(len(container), 50))
    for key in keys:
        spots.append((container, key))
        if isinstance(container[key], (dict, list)):
            _collect(container[key], spots)


def _near(value: Any, r: Random) -> Any:
    if isinstance(value, bool) or value is None:
        return r.choice((True, False, None, 0, 1, "true"))
    if isinstance(value, int):
        return r.choice((value + 1, value - 1, -value, 2 * value, value << 20, value << 40,
                         float(value), str(value), [value], r.choice(EDGES)))  # fmt: skip
    if isinstance(value, float):
        return r.choice((-value, value * 1e300, value * 1e-300, int(value), str(value), 0.0))
    if isinstance(value, str):
        return r.choice((value + "x", value[:-1], value.upper(), _many(value, 300),
            value + "\x1b[0m",
                         value + "\x00", [value], value[::-1], "ÿ" * len(value)))  # fmt: skip
    if isinstance(value, list):
        return r.choice((value * 2, value[:-1], [*value, None], [value], value[::-1],
                         {str(i): x for i, x in enumerate(value)}, _many(value, 3000)))  # fmt: skip
    return r.choice(([*map(list, value.items())], list(value), {**value, "extra": 0}, [value], {}))


def _many(value: Any, times: int) -> Any:
    """A string or a list repeated, as long as that stays small."""
    return value * max(2, min(times, 50_000 // len(json.dumps(value))))


def _raw(r: Random) -> str:
    return f"raw\0{r.randrange(len(_RAW))}"


def text_of(value: Any, r: Random | None = None, **style: Any) -> bytes:
    """JSON of what ``twisted`` made. With ``r``, now and then with keys said twice or raw bytes."""
    text = _MARK.sub(lambda m: _RAW[int(m[1] or m[2])], json.dumps(value, **style))
    data = text.encode("utf-8", "surrogateescape")
    if r is None or r.random() < 0.8:
        return data
    match r.randrange(5):
        case 0:
            return b"\xef\xbb\xbf" + data
        case 1:
            return data + r.choice((b" ", b"\n", b"\0", b"{}", b"]", b"\xff"))
        case 2 if data.startswith(b"{") and len(data) > 2:
            return data[:-1] + b"," + data[1:]  # every key twice
        case 3:
            return text.encode("utf-16", "replace")
        case _:
            return damaged(data, r)
