"""Damage to bundles (docs/FORMAT.md, section 7) that leaves digests and the signature right.

Written from the format. The signing key is public: a signature must not excuse what is signed.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fuzz.mutators import EDGES, MAX_SIZE, damaged, text_of, twisted

HEAD = struct.Struct("<8sHHI32s")
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
_PATHS = ("../x", "maps/..", "/x", "maps/x\0", "maps/con", "maps/x/y", "maps\\x", "", "maps/é",
          "wheelhouse/x.whl", "models/a/card.json", "maps/" + "x" * 300)  # fmt: skip
_KINDS = ("map", "head", "model", "wheel", "public-key", "signer", "detector", "states", "", 1)


def parse(data: bytes) -> tuple[Any, list[bytes]] | None:
    """Manifest and contents of an intact bundle; None when it is none."""
    try:
        length = HEAD.unpack_from(data)[3]
        manifest = json.loads(data[48 : 48 + length])
        at, contents = 112 + length, []
        for file in manifest["files"]:
            contents.append(data[at : at + file["size"]])
            at += file["size"]
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError):
        return None
    return manifest, contents


def signed(text: bytes, contents: Sequence[bytes], **stated: int) -> bytes:
    """A bundle with a right signature. ``stated``: header fields written as they are."""
    head = {"version": 1, "kind": 7, "length": len(text), **stated}
    start = HEAD.pack(b"LINALIGN", head["version"], head["kind"], head["length"], PUBLIC) + text
    return start + KEY.sign(start) + b"".join(contents)


def mutate(data: bytes, r: Random, others: Sequence[bytes] = ()) -> bytes:
    """A bundle damaged on one level, with digests, sizes and the signature made right above it."""
    parts = parse(data)
    if parts is None or r.random() < 0.15:
        return damaged(data, r, others)
    manifest, contents = parts
    stated: dict[str, int] = {}
    i = r.randrange(len(contents)) if contents else 0
    match r.randrange(8):
        case 0 | 1 if contents:
            contents[i] = damaged(contents[i], r, others)[: MAX_SIZE // 8]
            digest = hashlib.sha256(contents[i]).hexdigest()
            manifest["files"][i] |= {"sha256": digest, "size": len(contents[i])}
        case 2 | 3:
            manifest = twisted(manifest, r)
        case 4 if contents:
            manifest["files"][i]["path"] = r.choice(_PATHS)
        case 5 if contents:
            manifest["files"][i] |= {"kind": r.choice(_KINDS), "size": r.choice(EDGES)}
        case 6:
            name, bits = r.choice((("version", 16), ("kind", 16), ("length", 32)))
            stated[name] = r.choice(EDGES) & ((1 << bits) - 1)
        case _:
            r.shuffle(contents)
    canonical = r.random() < 0.9
    text = text_of(
        manifest, None, sort_keys=True, **({"separators": (",", ":")} if canonical else {})
    )
    return signed(text, contents, **stated)
