"""Damage to framed files (docs/FORMAT.md, section 3) that leaves their digests right.

Written from the format, not with the library's writer, so that it can say what that would not.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import zstandard

from fuzz.mutators import EDGES, MAX_SIZE, damaged, text_of, twisted

HEAD = struct.Struct("<8sHHHHQQII32s")
NAMES = ("magic", "version", "kind", "parameters", "tail", "n", "size", "length", "zeros", "key")
DIGEST = 32
CANONICAL = {"sort_keys": True, "separators": (",", ":")}
# degree and bits of the data primes and of the key primes, by parameter set
SETS = {5: (4096, (45, 45), (16,)), 6: (2048, (51,), ())}


@dataclass
class Frame:
    """A framed file in parts. ``stated``: header fields that are to be written as they are."""

    head: dict[str, Any]
    meta: bytes
    records: list[bytes]
    tail: bytes = b""  # a signature

    def encode(self, *, sound: bool = True, **stated: Any) -> bytes:
        """The file. Numbers follow from its parts but for ``stated``; ``sound``: digests too."""
        size = len(self.records[0]) if self.records else 1
        head = {**self.head, "n": len(self.records), "size": size, "length": len(self.meta)}
        head["tail"] = len(self.tail)
        start = HEAD.pack(*(({**head, **stated})[name] for name in NAMES)) + self.meta
        header = hashlib.sha256(start).digest() if sound else bytes(DIGEST)
        parts = [start, header]
        for i, record in enumerate(self.records):
            whole = header + i.to_bytes(8, "little") + record
            parts += [record, hashlib.sha256(whole).digest()]
        return b"".join([*parts, self.tail])


def parse(data: bytes) -> Frame | None:
    """The parts of an intact framed file; None when it is none."""
    if len(data) < HEAD.size + DIGEST:
        return None
    head = dict(zip(NAMES, HEAD.unpack_from(data), strict=True))
    start = HEAD.size + head["length"] + DIGEST
    step = head["size"] + DIGEST
    if head["magic"] != b"LINALIGN" or not 1 <= head["n"] <= 4096:
        return None
    end = start + head["n"] * step
    if end + head["tail"] != len(data):
        return None
    records = [data[at : at + head["size"]] for at in range(start, end, step)]
    return Frame(head, data[HEAD.size : start - DIGEST], records, data[end:])


def mutate(data: bytes, r: Random, others: Sequence[bytes] = ()) -> bytes:
    """A framed file damaged on one level, with the digests above it made right."""
    frame = parse(data)
    if frame is None or r.random() < 0.15:
        return damaged(data, r, others)
    stated: dict[str, Any] = {}
    for _ in range(r.choice((1, 1, 1, 2))):
        match r.randrange(11):
            case 10:
                frame.tail = r.choice((b"", bytes(64), r.randbytes(64), frame.tail[:-1], b"\1"))
            case 0 | 1:
                name = r.choice(NAMES[1:-1])
                bits = {"Q": 64, "H": 16, "I": 32}["HHHHQQII"[NAMES.index(name) - 1]]
                near = frame.head[name] + r.choice((-1, 1))
                stated[name] = max(0, r.choice((*EDGES, near, near))) & ((1 << bits) - 1)
            case 2 | 3 | 4:
                _describe(frame, r)
            case 5 | 6:
                _fill(frame, r)
            case 7:
                _shuffle(frame, r)
            case 8:
                _reshape(frame, r)
            case _:
                frame.head["parameters"] = r.choice((*SETS, 0, 1, 3, 4))
                frame.head["key"] = r.choice((frame.head["key"], bytes(32), r.randbytes(32)))
                _describe(frame, r, profile=True)
    if sum(map(len, frame.records)) > MAX_SIZE:
        return damaged(data, r, others)
    return frame.encode(sound=r.random() < 0.95, **stated)


def _meta(frame: Frame) -> Any:
    try:
        return json.loads(frame.meta)
    except (ValueError, RecursionError):
        return {}


def _describe(frame: Frame, r: Random, *, profile: bool = False) -> None:
    """Another description: usually canonical, so that only what it says is wrong."""
    meta = _meta(frame)
    if profile:
        names = {5: "private", 6: "trusted"}
        if isinstance(meta, dict):
            meta["profile"] = names.get(frame.head["parameters"], "default")
    else:
        meta = twisted(meta, r)
    frame.meta = text_of(meta, r if r.random() < 0.1 else None, **CANONICAL)


def _fill(frame: Frame, r: Random) -> None:
    """Another content of one record: of its size, or of another size for all."""
    i = r.randrange(len(frame.records))
    old = frame.records[i]
    size = len(old)
    match r.randrange(8):
        case 0:
            new = bytes(size)
        case 1:
            new = b"\xff" * size
        case 2:
            new = r.randbytes(size)
        case 3:
            out = bytearray(old)
            for _ in range(r.choice((1, 3, 100))):
                at = r.randrange(size)
                out[at : at + 8] = r.choice(EDGES).to_bytes(8, "little")
            new = bytes(out[:size])
        case 4:
            new = _over(old, r.choice((zstd_bomb(), saved_by_seal())), r.choice((0, 32, size // 2)))
        case 5:  # all but a few bytes zero, at the start or at the end: a seed, a digest
            kept = r.choice((32, 64, 1))
            new = (
                old[:kept] + bytes(size - kept)
                if r.random() < 0.5
                else bytes(size - kept) + old[-kept:]
            )
        case 6:
            half = r.choice((size // 2, 64, 32, 4096))
            new = (old[:half] * (size // max(1, half) + 1))[:size]
        case _:
            count = max(1, r.choice((1, size - 1, size + 1, size * 2, size // 2, 64)))
            frame.records = [(record * 2)[:count] for record in frame.records]
            return
    frame.records[i] = new


def _over(old: bytes, new: bytes, at: int) -> bytes:
    return (old[:at] + new + old[at + len(new) :])[: len(old)]


def _shuffle(frame: Frame, r: Random) -> None:
    records = frame.records
    match r.randrange(4):
        case 0:
            r.shuffle(records)
        case 1 if len(records) > 1:
            del records[r.randrange(len(records))]
        case 2:
            records.append(r.choice(records))
        case _:
            frame.records = (records * r.choice((2, 3, 20)))[: max(1, MAX_SIZE // len(records[0]))]


def _reshape(frame: Frame, r: Random) -> None:
    """A query or response of another layout whose numbers all agree, with contents of noise."""
    meta = _meta(frame)
    if not isinstance(meta, dict) or frame.head["parameters"] not in SETS:
        return
    degree, data_bits, _ = SETS[frame.head["parameters"]]
    batch = r.choice((1, 1, 2, 3, 64, 128, degree, degree // 2, r.randrange(1, degree + 1)))
    dim = r.choice((1, 2, 3, 5, 7, 64, r.randrange(1, 40), degree, degree + 1, 1 << 20))
    fewest = -(-dim // (degree // batch))
    chunks = r.choice((fewest, fewest, min(dim, fewest + 1), dim))
    n = r.choice((1, batch, batch + 1, 2 * batch, r.randrange(1, 5)))
    blocks = -(-n // batch)
    meta |= {"n": n, "chunks": chunks, "batch": batch}
    width = -(-dim // chunks)
    rows = 1 if width == 1 else max(1, min(degree // (width * batch), 128 // batch))
    if frame.head["kind"] == 3:
        count, meta["n_outputs"] = degree, None
        if width > 1 and r.random() < 0.5:
            served = r.choice((1, 2, 3, 10, 1 << 24))
            part = -(-(2 * min(rows, served) - 1) * width * batch // 8) * 8
            if part < degree or r.random() < 0.2:
                count, meta["n_outputs"] = min(part, degree), served
        size = chunks * (sum(count * bits // 8 for bits in data_bits) + 64)
        if isinstance(meta.get("space"), dict):
            meta["space"]["dim"] = dim
    else:
        outputs = r.choice((1, 2, 3, 10, 300, r.randrange(1, 2000), 1 << 24))
        word = r.choice((24, 32))
        size = 32 + word // 8 * (-(-outputs // rows) * degree + outputs * batch)
        meta |= {"dim": dim, "n_outputs": outputs, "labels": [], "word_bits": word}
        if outputs < 2000 and r.random() < 0.3:
            meta["labels"] = [str(i) for i in range(outputs)]
    if size * blocks <= MAX_SIZE:
        fill = r.choice((bytes, r.randbytes, lambda k: b"\xff" * k, lambda k: b"\1" * k))
        frame.records = [fill(size) for _ in range(blocks)]
    frame.meta = text_of(meta, **CANONICAL)


@functools.cache
def zstd_bomb() -> bytes:
    """A Zstandard frame of some tens of kB that unpacks to 256 MiB of zeros."""
    packer = zstandard.ZstdCompressor(level=3).compressobj(size=256 << 20)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()


@functools.cache
def saved_by_seal() -> bytes:
    """The bomb with the header that SEAL gives to a compressed object."""
    body = zstd_bomb()
    return b"\x5e\xa1\x10\x04\x00\x02\x00\x00" + struct.pack("<Q", 16 + len(body)) + body
