"""Damage to `.npz` files (docs/FORMAT.md, section 1) that leaves their check sums right.

Written from the ZIP format, so that directories can say what zipfile would not write.
"""

from __future__ import annotations

import functools
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from fuzz.mutators import EDGES, MAX_SIZE, damaged, text_of, twisted

_TYPES = ("<f2", "<f4", "<f8", "<i4", "<i8", "<u8", "|u1", "|i1", ">f4", "<f1", "|f1", "|f4", "<u1",
          "<i1", "|O", "O", "|S8", "<U4", "<c8", "|b1", "<M8[ns]", "|V8", "<f16", "")  # fmt: skip
_SHAPE = re.compile(rb"\(([^)]*)\)")


@dataclass
class Member:
    """One member. ``central`` and ``local``: fields written as they are, whatever is true."""

    name: bytes
    data: bytes
    packed: bytes | None = None
    central: dict[str, int] = field(default_factory=dict)
    local: dict[str, int] = field(default_factory=dict)
    extra: bytes = b""
    at: int | None = None  # another place than its own, for members that overlap

    def fields(self, which: dict[str, int]) -> dict[str, int]:
        body = self.data if self.packed is None else self.packed
        return {
            "version": 20, "flags": 0, "method": 0 if self.packed is None else 8,
            "time": 0, "date": 33, "crc": zlib.crc32(self.data), "packed": len(body),
            "size": len(self.data), **which,
        }  # fmt: skip


def unzip(data: bytes) -> list[Member] | None:
    """The members of an intact archive; None when it is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if len(infos) > 64 or sum(i.file_size for i in infos) > MAX_SIZE:
                return None
            return [Member(i.filename.encode(), archive.read(i)) for i in infos]
    except Exception:  # noqa: BLE001 (the mutated file is none; plain damage then)
        return None


def rezip(
    members: Sequence[Member],
    *,
    end: dict[str, int] | None = None,
    before: bytes = b"",
    comment: bytes = b"",
    big: dict[str, int] | None = None,
) -> bytes:
    """The archive. ``end``: fields of its end record; ``big``: of a ZIP64 end record before it."""
    out, directory = bytearray(before), bytearray()
    for m in members:
        body = m.data if m.packed is None else m.packed
        at = len(out) if m.at is None else m.at
        f = m.fields(m.local)
        keys = ("version", "flags", "method", "time", "date", "crc", "packed", "size")
        if m.at is None:
            out += struct.pack(
                "<4s5H3I2H", b"PK\3\4", *(f[k] for k in keys), len(m.name), len(m.extra)
            )
            out += m.name + m.extra + body
        f = m.fields(m.central)
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 20, *(f[k] for k in keys), len(m.name), len(m.extra),
            0, 0, 0, 0o644 << 16, f.get("at", at),
        ) + m.name + m.extra  # fmt: skip
    start = len(out)
    out += directory
    if big is not None:
        record = {"made": 45, "needed": 45, "disk": 0, "first": 0, "here": len(members),
                  "all": len(members), "size": len(directory), "at": start} | big  # fmt: skip
        place = len(out)
        out += struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, *record.values())
        out += struct.pack("<4sIQI", b"PK\6\7", 0, place, 1)
    last = {"disk": 0, "first": 0, "here": len(members), "all": len(members),
            "size": len(directory), "at": start, "comment": len(comment)} | (end or {})  # fmt: skip
    return bytes(out) + struct.pack("<4s4H2IH", b"PK\5\6", *last.values()) + comment


def mutate(data: bytes, r: Random, others: Sequence[bytes] = ()) -> bytes:
    """An archive damaged on one level, with the check sums above it made right."""
    members = unzip(data)
    if not members or r.random() < 0.12:
        return damaged(data, r, others)
    settings: dict[str, Any] = {}
    for _ in range(r.choice((1, 1, 1, 2))):
        m = r.choice(members)
        match r.randrange(12):
            case 0 | 1 | 2 | 3:
                cards = [x for x in members if x.name == b"card.npy"]
                if cards:
                    _card(cards[0], r)
            case 4 | 5 | 6:
                _array(m, r)
            case 7:
                m.data = damaged(m.data, r)
            case 8:
                _names(members, m, r)
            case 9 | 10:
                _directory(members, m, r, settings)
            case _:
                _bomb(members, m, r)
    whole = rezip(members, **settings)
    return whole if len(whole) <= MAX_SIZE else damaged(data, r, others)


def npy(header: bytes, body: bytes) -> bytes:
    """A `.npy` of format 1.0."""
    text = header + b"\n"
    return b"\x93NUMPY\1\0" + (len(text) & 0xFFFF).to_bytes(2, "little") + text + body


def header_of(descr: str, shape: str) -> bytes:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()


def _split(data: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(data[8:10], "little")
    return data[10 : 10 + length].rstrip(b" \n"), data[10 + length :]


def card_member(card: Any, r: Random | None = None) -> Member:
    text = text_of(card, r, sort_keys=True)
    return Member(b"card.npy", npy(header_of("|u1", f"({len(text)},)"), text))


def _card(m: Member, r: Random) -> None:
    try:
        card = json.loads(_split(m.data)[1])
    except (ValueError, RecursionError):
        card = {"format": "linalign-map", "version": 1}
    m.data = card_member(twisted(card, r), r).data


def _array(m: Member, r: Random) -> None:
    """Another header, or other values, of an array."""
    header, body = _split(m.data)
    shape = _SHAPE.search(header)
    match r.randrange(8):
        case 0 | 1:
            header = re.sub(rb"'descr': '[^']*'", f"'descr': '{r.choice(_TYPES)}'".encode(), header)
            if r.random() < 0.3:
                header = re.sub(rb"\([^)]*\)", b"(0, 3)", header)
                body = b""
        case 2 | 3 if shape:
            dims = [int(n) for n in re.findall(rb"\d+", shape[1])]
            new = r.choice((
                [0] * len(dims), [*dims, 1], dims[:-1], dims[::-1], [10**14] * len(dims), [0,
                    10**15 - 1],
                [10**15 - 1, 0], [1 << 40, 1 << 40], [1 << 32, 1 << 32], [2 * d for d in dims],
            ))  # fmt: skip
            text = "(" + ", ".join(map(str, new)) + ("," if len(new) == 1 else "") + ")"
            header = header[: shape.start()] + text.encode() + header[shape.end() :]
            if 0 in new:
                body = b""
        case 4:
            header = header.replace(*r.choice((
                (b"False", b"True"), (b"descr", b"descr2"), (b"(", b"[("), (b", }", b"}"), (b"{",
                    b"{" * 3000),
                (b"}", b"}" + b" " * 60_000), (b"False", b"__import__('os')"), (b"'", b'"'), (b"(",
                    b"(-"),
                (b"(", b"(" + b"1, " * 9000), (b"(", b"(" + b"9" * 40),
            )))  # fmt: skip
        case 5:
            special = r.choice(
                (b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\0\0\0\x80", b"\xff" * 4)
            )
            at = 4 * r.randrange(len(body) // 4 + 1)
            body = (body[:at] + special + body[at + 4 :])[: len(body)]
        case 6 if shape:  # many times the rows, and all of them there
            dims = [int(n) for n in re.findall(rb"\d+", shape[1])]
            times = r.choice((2, 3, 1000))
            if dims and len(body) * times < MAX_SIZE // 4:
                dims[0] *= times
                text = "(" + ", ".join(map(str, dims)) + ("," if len(dims) == 1 else "") + ")"
                header = header[: shape.start()] + text.encode() + header[shape.end() :]
                body *= times
        case _:
            start = r.choice((b"\x93NUMPY\2\0\0\0\0\0", b"\x93NUMPX\1\0", b"\x93NUMPY\1\0\xff\xff"))
            m.data = start + m.data[len(start) :]
            return
    m.data = npy(header[:65_000], body)


def _names(members: list[Member], m: Member, r: Random) -> None:
    match r.randrange(6):
        case 0:
            m.name = r.choice((
                b"states.npy", b"label_ids.npy", b"text_index.npy", b"char_end.npy", b"bias.npy",
                b"card.npy",
                b"weight.npy", b"x", b"", b"../x.npy", b"/x.npy", b"a\0b.npy", b"\xff.npy",
                b".npy", b"x" * 60_000,
            ))  # fmt: skip
        case 1:
            members.append(Member(m.name, m.data))
        case 2 if len(members) > 1:
            members.remove(m)
        case 3:
            members.append(Member(b"label_ids.npy", npy(header_of("<i4", "(4,)"), r.randbytes(16))))
        case 4:
            r.shuffle(members)
        case _:
            count = r.choice((13, 17, 300))
            members += [Member(b"m%d.npy" % i, m.data[:100]) for i in range(count)]


def _directory(members: list[Member], m: Member, r: Random, settings: dict[str, Any]) -> None:
    """Fields of the local header, of the directory, of the end record, or of a ZIP64 record."""
    number = r.choice(EDGES)
    wide = {"crc": 32, "packed": 32, "size": 32, "at": 32}
    key = r.choice(("version", "flags", "method", "time", "date", "crc", "packed", "size"))
    value = number & ((1 << wide.get(key, 16)) - 1)
    match r.randrange(10):
        case 0 | 1:
            m.central[key] = value
        case 2:
            m.local[key] = value
        case 3:
            m.central[key] = m.local[key] = value
        case 4:
            key = r.choice(("disk", "first", "here", "all", "size", "at", "comment"))
            bits = {"size": 32, "at": 32}.get(key, 16)
            settings["end"] = {key: number & ((1 << bits) - 1)}
        case 5:
            key = r.choice(("disk", "first", "here", "all", "size", "at"))
            bits = {"disk": 32, "first": 32}.get(key, 64)
            settings["big"] = {key: number & ((1 << bits) - 1)}
            settings["end"] = r.choice(
                ({}, {"size": 0xFFFFFFFF, "at": 0xFFFFFFFF}, {"all": 0xFFFF})
            )
        case 6:
            m.central |= {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF}
            m.extra = struct.pack(
                "<2H2Q", 1, r.choice((16, 8, 0, 28, 65535)), number, r.choice(EDGES)
            )
        case 7:
            m.central["at"] = r.choice((0, 1, 50, number & 0xFFFFFFFF))
        case 8:
            settings["before"] = r.choice((b"x", b"PK\3\4", bytes(1000)))
        case _:
            settings["comment"] = r.choice((b"x", b"PK\5\6" + bytes(18), bytes(65_535)))


def _bomb(members: list[Member], m: Member, r: Random) -> None:
    """A member that unpacks to far more than the file, or that many entries share."""
    match r.randrange(4):
        case 0:
            m.data, m.packed = zeros(), deflated()
        case 1:  # the bomb, called stored, or said to have the size of what is there
            m.packed = deflated()
            m.central = {"method": r.choice((0, 8)), "size": 16 << 20, "packed": len(m.packed)}
        case 2:
            members += [
                Member(b"o%d.npy" % i, m.data, at=0) for i in range(r.choice((1, 12, 2000)))
            ]
        case _:
            m.central["size"] = m.local["size"] = r.choice((1 << 31, (1 << 32) - 2, 16 << 20))


@functools.cache
def zeros() -> bytes:
    body = bytes(16 << 20)
    return npy(header_of("<f4", f"({len(body) // 12}, 3)"), body[: len(body) // 12 * 12])


@functools.cache
def deflated() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(zeros()) + packer.flush()
