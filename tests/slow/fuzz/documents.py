"""Damage to model cards, JSON, texts, and budget files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Sequence
from random import Random
from typing import Any

from fuzz.mutators import EDGES, MAX_SIZE, damaged, text_of, twisted

_DIGESTED = ("model.onnx", "model.onnx_data", "tokenizer.json")


def mutate_json(data: bytes, r: Random, others: Sequence[bytes] = ()) -> bytes:
    """A JSON document with other parts, or plain damage."""
    value = _parsed(data)
    if value is None or r.random() < 0.1:
        return damaged(data, r, others)
    return text_of(twisted(value, r), r)


def mutate_card(data: bytes, r: Random, others: Sequence[bytes] = ()) -> bytes:
    """A model card with other parts, and mostly with the digests that follow from them."""
    card = _parsed(data)
    if not isinstance(card, dict) or r.random() < 0.1:
        return damaged(data, r, others)
    card.pop("seal", None)
    card = twisted(card, r)
    if not isinstance(card, dict):
        return text_of(card, r)
    files = card.get("files")
    if isinstance(files, dict) and r.random() < 0.8:
        with contextlib.suppress(TypeError, KeyError):
            lines = (f"{name} {files[name]['sha256']}\n" for name in _DIGESTED if name in files)
            card["digest"] = hashlib.sha256("".join(lines).encode("utf-8", "replace")).hexdigest()
    return sealed(card, r)


def sealed(card: dict[str, Any], r: Random | None = None) -> bytes:
    """The card with the seal that a reader will find right, where it can be read at all."""
    plain = text_of(card)
    try:
        rest = json.loads(plain)
        rest.pop("seal", None)
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError, AttributeError):
        return text_of({**card, "seal": "0" * 64}, r)
    card = {**card, "seal": hashlib.sha256(text.encode()).hexdigest()}
    return text_of(card, r if r and r.random() < 0.2 else None)


def mutate_lines(data: bytes, r: Random, others: Sequence[bytes] = ()) -> bytes:
    """Texts, a line each: of objects, of cells, or plain."""
    lines = data.split(b"\n")
    if r.random() < 0.2 or not lines:
        return damaged(data, r, others)
    for _ in range(r.choice((1, 1, 2, 5))):
        if not lines or sum(map(len, lines)) > MAX_SIZE // 4:
            break
        i = r.randrange(len(lines))
        line = lines[i]
        value = _parsed(line) if line.startswith(b"{") else None
        if value is not None and r.random() < 0.7:
            lines[i] = text_of(twisted(value, r), r)
            continue
        match r.randrange(8):
            case 0:
                lines[i] = damaged(line, r, others)
            case 1:
                lines[i] = r.choice(_LINES)
            case 2:
                lines.insert(i, r.choice(_LINES))
            case 3:
                lines[i] = line + r.choice(
                    (b"\r", b"\0", b",", b'"', b"\xed\xa0\x80", b"\xff", b"\t")
                )
            case 4:
                lines[i] = (line[:100] + b" ") * r.choice((2, 1000))
            case 5:
                lines[i : i + 1] = [line[:1000]] * r.choice((0, 2, 500))
            case 6:
                lines[i] = b'"' + line + r.choice((b'"', b"", b'""', b'"x', b'\n"'))
            case _:
                cells = line.split(b",")
                r.shuffle(cells)
                lines[i] = b",".join(cells[:100] * r.choice((1, 2, 50)))
    return b"\n".join(lines)[:MAX_SIZE]


_LINES = (
    b"", b" ", b"\r", b"\t", b"\xef\xbb\xbf", b"\xef\xbb\xbftext,label", b"text", b"text,text",
    b"label,label,text",
    b"text,label,label", b"\0", b"\xff\xfe", b"\xc3", b"\xf4\x90\x80\x80", "\u2028".encode(),
    "\u0085".encode(), b"\x0b", b"\x0c",
    b"\x1c", b"NaN", b"[]", b"{}", b"null", b'"text"', b"1e999", b"9" * 5000, b"[" * 100_000,
    b'{"text":' * 2000,
    b'{"text": "\\ud800"}', b'{"text": "a", "text": 1}', b'{"text": "a", "label": 1e999}',
    b'{"text": ["a"]}',
    b'{"text": "a", "label": ' + b"9" * 4299 + b"}", b'{"text": "a", "label": -0}',
    b'{"text": "\\u0000"}',
    b'{"text": "a", "label": "\\u001b[2J"}', b'{"text": "a", "label": true}', b'a,"b', b'"a""b",c',
    b'"' + b"x" * 200_000,
    b"x" * 200_000, b"," * 5000, b",".join(b"c%d" % i for i in range(3000)), b"a\rb",
)  # fmt: skip


def mutate_sqlite(data: bytes, r: Random, others: Sequence[bytes] = ()) -> bytes:
    """A SQLite file with other rows or tables, other page numbers, or plain damage."""
    for _ in range(r.choice((0, 1, 1, 2))):
        data = _executed(data, r)
    out = bytearray(data)
    for _ in range(r.choice((0, 1, 1, 3))):
        if len(out) < 512:
            break
        page = r.randrange(len(out) // 4096 or 1) * 4096
        match r.randrange(6):
            case 0:  # a field of the file's header
                at, size = r.choice(_FIELDS)
                out[at : at + size] = (r.choice(EDGES) & ((1 << 8 * size) - 1)).to_bytes(
                    size, "big"
                )
            case 1 | 2:  # a page's own header and its first cell pointers
                at = (page or 100) + r.randrange(20)
                out[at : at + 1] = r.choice(
                    (b"\0", b"\2", b"\5", b"\x0a", b"\x0d", b"\xff", r.randbytes(1))
                )
            case 3:  # a cell: they stand at the end of a page
                at = page + 4095 - r.randrange(200)
                out[at : at + r.choice((1, 4))] = r.randbytes(r.choice((1, 4)))
            case 4:
                other = r.randrange(len(out) // 4096 or 1) * 4096
                out[page + 100 : page + 4096] = out[other + 100 : other + 4096]
            case _:
                out += bytes(4096 * r.choice((1, 100)))
    if r.random() < 0.15:
        return damaged(bytes(out), r, others)
    return bytes(out[:MAX_SIZE])


_FIELDS = ((16, 2), (18, 1), (19, 1), (20, 1), (21, 1), (24, 4), (28, 4), (32, 4), (36, 4), (40,
    4), (44, 4),
           (48, 4), (52, 4), (56, 4), (60, 4), (64, 4), (68, 4), (92, 4), (96, 4))  # fmt: skip
_VALUES = ("NULL", "0", "-1", "1", "1.5", "9e999", "'x'", "''", "x''", "x'00'", "zeroblob(32)",
    "zeroblob(3000000)",
           "9223372036854775807", "-9223372036854775808", "9007199254740992", "9007199254740993",
           "randomblob(32)",
           "CAST(x'ff' AS TEXT)", "CAST(x'eda080' AS TEXT)")  # fmt: skip


def _executed(data: bytes, r: Random) -> bytes:
    """The file after a statement that its owner would not have given."""
    table = r.choice(("budget", "settled", "pending", "pending"))
    columns = {"budget": ("id", "states"), "settled": ("key", "states"),
               "pending": ("id", "key", "fingerprint", "states", "owner")}[table]  # fmt: skip
    values = ", ".join(r.choice(_VALUES) for _ in columns)
    column = r.choice(columns)
    drawn = ", ".join(r.choice(("randomblob(32)", "x", "1")) for _ in columns)
    kind, root = r.choice(("view", "index", "x")), r.choice((0, 1, 2, 3, 99, -1))
    setting = r.choice(("application_id", "user_version", "schema_version"))
    name = r.choice(("x'e7ff'", "x'00'", "x'78'"))
    statement = r.choice(
        (
            f"UPDATE {table} SET {column} = {r.choice(_VALUES)}",
            f"INSERT OR REPLACE INTO {table} VALUES ({values})",
            f"DELETE FROM {table}",
            f"DROP TABLE {table}",
            f"ALTER TABLE {table} ADD COLUMN more TEXT",
            f"CREATE INDEX more ON {table} ({column})",
            f"CREATE VIEW more AS SELECT * FROM {table}",
            f"CREATE TRIGGER more AFTER INSERT ON {table} BEGIN UPDATE budget SET states = 9; END",
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 300)"
            f" INSERT OR REPLACE INTO {table} SELECT {drawn} FROM c",
            f"UPDATE sqlite_master SET sql = replace(sql, 'INTEGER', 'BLOB')"
            f" WHERE name = '{table}'",
            f"UPDATE sqlite_master SET rootpage = {root} WHERE name = '{table}'",
            "UPDATE sqlite_master SET sql = sql || '/*' || hex(zeroblob(900000)) || '*/'",
            f"UPDATE sqlite_master SET type = '{kind}' WHERE name = '{table}'",
            f"UPDATE sqlite_master SET name = CAST({name} AS TEXT), sql = 'x'"
            f" WHERE name = '{table}'",
            f"PRAGMA {setting} = {r.choice((0, 1, 2, -1))}",
            "PRAGMA auto_vacuum = 1; VACUUM",
            "PRAGMA page_size = 512; VACUUM",
            "PRAGMA encoding = 'UTF-16'; VACUUM",
        )
    )
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        try:
            db.deserialize(data)
            db.execute("PRAGMA writable_schema = ON")
            for part in statement.split(";") if "VACUUM" in statement else [statement]:
                db.execute(part).fetchall()
            return db.serialize()
        except (sqlite3.Error, sqlite3.Warning, OverflowError, MemoryError):
            return data


def mutate_folder(data: bytes, r: Random, others: Sequence[bytes] = ()) -> bytes:
    """One byte that says which file, then a JSON document."""
    if not data or r.random() < 0.05:
        return damaged(data, r, others)
    which = data[0] if r.random() < 0.9 else r.randrange(256)
    return bytes([which]) + mutate_json(data[1:], r)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
