"""Tampered bundles and the error that each must raise. All are altered copies of a valid bundle.

Unless stated otherwise a case has a valid signature by the trusted key: a signature does not
make the contents valid.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from forging import GOLDEN, KEYS, OTHER, SEED, Parts, made_wheel, signer

from linalign_lite.core.signing import SECRET, _framed
from linalign_lite.errors import FormatError, SignatureError

CHUNK = 1 << 20
SIGNING_SECRET = _framed(SECRET, SEED + signer().public)
SECRET_KEY = (KEYS / "v3-trusted-secret.key").read_bytes()
_ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's group


@dataclass(frozen=True)
class Attack:
    """A change of the parts of a bundle, or its bytes. ``deep``: found when files are read."""

    make: Callable[[Parts], object]
    words: str
    error: type[FormatError] = FormatError
    deep: bool = False

    def forge(self, parts: Parts) -> bytes:
        made = self.make(parts)
        return made if isinstance(made, bytes) else parts.encode()


def fields(**changes: object) -> Callable[[Parts], None]:
    def make(p: Parts) -> None:
        for name, value in changes.items():
            setattr(p, name, value)

    return make


def top(**changes: object) -> Callable[[Parts], None]:
    return lambda p: p.manifest.update(changes)


def entry(kind: str = "map", ending: str = "", /, **changes: object) -> Callable[[Parts], None]:
    return lambda p: p.files[p.index(kind, ending)].update(changes)


def path(value: object) -> Callable[[Parts], None]:
    return entry(path=value)


def cut(count: int) -> Callable[[Parts], bytes]:
    return lambda p: p.encode()[:count]


def flipped(place: Callable[[Parts, bytes], int], bit: int = 1) -> Callable[[Parts], bytes]:
    def make(p: Parts) -> bytes:
        data = bytearray(p.encode())
        data[place(p, data)] ^= bit
        return bytes(data)

    return make


def content(kind: str, made: bytes, ending: str = "") -> Callable[[Parts], None]:
    return lambda p: p.put(p.index(kind, ending), made)


def raw(change: Callable[[bytes], bytes]) -> Callable[[Parts], None]:
    def make(p: Parts) -> None:
        text = json.dumps(p.manifest, sort_keys=True, separators=(",", ":")).encode()
        p.raw = change(text)

    return make


def more(kind: str, name: str, made: bytes) -> Callable[[Parts], None]:
    return lambda p: p.add(kind, name, made)


def drop(kind: str, ending: str = "") -> Callable[[Parts], None]:
    def make(p: Parts) -> None:
        i = p.index(kind, ending)
        del p.files[i], p.contents[i]

    return make


def _start(p: Parts) -> int:
    return len(p.encode()) - sum(map(len, p.contents))


def _swap(p: Parts) -> None:
    i, j = p.index("map"), p.index("head")
    p.contents[i], p.contents[j] = p.contents[j], p.contents[i]
    p.files[i]["size"], p.files[j]["size"] = p.files[j]["size"], p.files[i]["size"]


def _replayed(p: Parts) -> None:
    """Use a valid signature by the same signer over another manifest."""
    data = p.encode()
    p.signature = data[_start(p) - 64 : _start(p)]
    p.manifest["note"] = "another"


def _malleable(p: Parts) -> None:
    """Replace S by S + L: the equation still holds, and RFC 8032 requires that it is refused."""
    signature = p.encode()[_start(p) - 64 : _start(p)]
    s = int.from_bytes(signature[32:], "little") + _ORDER
    p.signature = signature[:32] + s.to_bytes(32, "little")


def _named_after(p: Parts) -> None:
    """Name the trusted key and sign with another."""
    p.seed, p.public = (
        OTHER,
        Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw(),
    )


def _total(p: Parts) -> None:
    for f in p.files[:3]:
        f["size"] = 1 << 40


def _crowd(p: Parts) -> None:
    p.manifest["files"] = [{**p.files[0], "path": f"maps/{i:05d}"} for i in range(4097)]


def _twice(p: Parts) -> None:
    i = p.index("map")
    p.files.insert(i, dict(p.files[i]))
    p.contents.insert(i, p.contents[i])


def _backwards(p: Parts) -> None:
    p.files.reverse()
    p.contents.reverse()


def _card(**changes: object) -> Callable[[Parts], None]:
    def make(p: Parts) -> None:
        i = p.index("model", "card.json")
        p.put(i, json.dumps({**json.loads(p.contents[i]), **changes}).encode())

    return make


def _torn(p: Parts) -> None:
    i = p.index("head")
    torn = bytearray(p.contents[i])
    torn[len(torn) // 2] ^= 1
    p.put(i, bytes(torn))


SAME, CANONICAL, JSON = "does not have the digest", "canonical form", "is not a usable bundle: got"
KIND_OF = r"is not a bundle: got (list|int|linalign-map), expected format linalign-bundle"
INVALID = "does not have a valid signature"
AWAY, NAME = "a path outside its folder", "name is not one that a bundle may have"
NOTE, PATH = r"manifest\.note is not usable", r"manifest\.files\[\d\]\.path is not usable"
DIGEST, SIZE = (rf"manifest\.files\[\d\]\.{name} is not usable" for name in ("sha256", "size"))
COUNT, UNUSABLE = r"manifest\.files is not usable: got .* expected 1 to 4096", "is not usable"
UNKNOWN, LACKING = "manifest has unknown fields: got", "manifest lacks fields: expected note$"
PLATFORM = "manifest.platform lacks fields: expected"
KIND = r"manifest\.files\[\d\]\.kind is not usable: got "
ENTRY = r"manifest\.files\[\d\] (has unknown|lacks) fields: "
ATTACKS = {
    # the header
    "nothing at all": Attack(lambda p: b"", "is not a bundle"),
    "cut in the header": Attack(cut(47), "is not a bundle"),
    "another beginning": Attack(fields(magic=b"LINALIGM"), "is not a bundle"),
    "a ZIP": Attack(lambda p: made_wheel(), "is not a bundle"),
    "calls itself a secret key": Attack(fields(kind=1), "another kind of file"),
    "calls itself a response": Attack(fields(kind=4), "another kind of file"),
    "version 0": Attack(fields(version=0), "version that this library does not read"),
    "version 2": Attack(fields(version=2), "version that this library does not read"),
    "manifest of no bytes": Attack(fields(length=0), "impossible manifest size"),
    "manifest of 4 MiB and 1": Attack(fields(length=(4 << 20) + 1), "impossible manifest size"),
    "manifest of 4 GiB": Attack(fields(length=(1 << 32) - 1), "impossible manifest size"),
    "manifest longer than the file": Attack(cut(200), "impossible manifest size"),
    "manifest said a byte shorter": Attack(
        lambda p: setattr(p, "length", _start(p) - 113), INVALID, SignatureError
    ),
    "manifest said a byte longer": Attack(
        lambda p: setattr(p, "length", _start(p) - 111), INVALID, SignatureError
    ),
    # the signature
    "not signed": Attack(
        fields(public=bytes(32), signature=bytes(64)), "is not signed", SignatureError
    ),
    "signed by another": Attack(fields(seed=OTHER), "signed by somebody else", SignatureError),
    "names the trusted key, signed by another": Attack(_named_after, INVALID, SignatureError),
    "signature of zeros": Attack(fields(signature=bytes(64)), INVALID, SignatureError),
    "signature of ones": Attack(fields(signature=b"\xff" * 64), INVALID, SignatureError),
    "signature of another manifest": Attack(_replayed, INVALID, SignatureError),
    "signature in its other form": Attack(_malleable, INVALID, SignatureError),
    "bit of the signature's first half": Attack(
        flipped(lambda p, d: _start(p) - 60), INVALID, SignatureError
    ),
    "bit of the signature's second half": Attack(
        flipped(lambda p, d: _start(p) - 2), INVALID, SignatureError
    ),
    "bit of the key": Attack(flipped(lambda p, d: 20), "signed by somebody else", SignatureError),
    "key taken out": Attack(fields(public=bytes(32)), "is not signed", SignatureError),
    # flipped bits, cuts and additions, after it was signed
    "bit of the manifest's first byte": Attack(flipped(lambda p, d: 48), INVALID, SignatureError),
    "bit of the manifest's last byte": Attack(
        flipped(lambda p, d: _start(p) - 65), INVALID, SignatureError
    ),
    "bit of a digest": Attack(
        flipped(lambda p, d: d.index(b"sha256") + 12), INVALID, SignatureError
    ),
    "bit of the first file": Attack(flipped(lambda p, d: _start(p) + 600), SAME),
    "bit of the last byte": Attack(flipped(lambda p, d: -1, 128), SAME),
    "bit of the model's graph": Attack(flipped(lambda p, d: d.index(b"a graph")), SAME),
    "last byte missing": Attack(cut(-1), "ends early"),
    "last file missing": Attack(lambda p: p.encode()[: -len(p.contents[-1])], "ends early"),
    "all files missing": Attack(lambda p: p.encode()[: _start(p)], "ends early"),
    "a byte more": Attack(fields(after=b"\0"), "has more than its files"),
    "a file more": Attack(fields(after=made_wheel()), "has more than its files"),
    "two bundles": Attack(lambda p: p.encode() * 2, "has more than its files"),
    "a file's content removed": Attack(lambda p: p.contents.remove(p.contents[0]), "ends early"),
    "two files' contents exchanged": Attack(_swap, SAME),
    # the manifest as text
    "manifest that is not JSON": Attack(raw(lambda t: t[:-1]), JSON),
    "manifest that is not UTF-8": Attack(raw(lambda t: b"\xff" + t[1:]), JSON),
    "manifest with spaces": Attack(raw(lambda t: t + b" "), CANONICAL),
    "manifest in another order": Attack(
        raw(lambda t: b'{"version":1,' + t[1:].replace(b',"version":1', b"")), CANONICAL
    ),
    "manifest that says it twice": Attack(raw(lambda t: t[:-1] + b',"version":1}'), CANONICAL),
    "manifest with NaN": Attack(raw(lambda t: t.replace(b'"version":1', b'"version":NaN')), JSON),
    "manifest with 1e999": Attack(
        raw(lambda t: t.replace(b'"version":1', b'"version":1e999')), JSON
    ),
    "manifest that is deep": Attack(raw(lambda t: b"[" * 100_000), JSON),
    "manifest of huge digits": Attack(
        raw(lambda t: t.replace(b'"version":1', b'"version":' + b"9" * 5000)), JSON
    ),
    "manifest that is a list": Attack(raw(lambda t: b"[]"), KIND_OF),
    "manifest that is a number": Attack(raw(lambda t: b"7"), KIND_OF),
    "manifest with letters unescaped": Attack(
        raw(lambda t: t.replace(b'"note":""', '"note":"é"'.encode())), CANONICAL
    ),
    # the manifest's fields
    "another format": Attack(top(format="linalign-map"), KIND_OF),
    "version as text": Attack(top(version="1"), "unknown version: got 1, expected 1 to 1"),
    "version that is true": Attack(top(version=True), "unknown version: got True, expected 1 to 1"),
    "version that is 1.0": Attack(top(version=1.0), "unknown version: got 1.0, expected 1 to 1"),
    "a field more": Attack(top(scripts=["rm -rf"]), UNKNOWN),
    "a field less": Attack(lambda p: p.manifest.pop("note"), LACKING),
    "files by name": Attack(top(files={"a": 1}), "manifest.files is not a list"),
    "no files": Attack(lambda p: (p.files.clear(), p.contents.clear()), COUNT),
    "4,097 files": Attack(_crowd, COUNT),
    "note with an escape": Attack(top(note="\x1b[2J"), NOTE),
    "note with half a surrogate": Attack(top(note="\ud800"), NOTE),
    "note of 257 characters": Attack(top(note="x" * 257), NOTE),
    "note that is a number": Attack(top(note=7), NOTE),
    # links, kinds and sizes
    "a symbolic link": Attack(entry(link="/etc/passwd"), ENTRY),
    "a mode": Attack(entry(mode=0o4755), ENTRY),
    "kind symlink": Attack(entry(kind="symlink"), KIND + "symlink, expected 'map'"),
    "kind states": Attack(entry(kind="states"), KIND + "states, expected 'map'"),
    "kind secret-key": Attack(entry(kind="secret-key"), KIND + "secret-key, expected 'map'"),
    "kind that is a list": Attack(entry(kind=["map"]), KIND + "a list, expected text"),
    "an entry without a size": Attack(lambda p: p.files[0].pop("size"), ENTRY),
    "an entry that is text": Attack(
        lambda p: p.files.insert(0, "maps/x"), r"manifest\.files\[0\] is not an object"
    ),
    "size below nothing": Attack(entry(size=-1), SIZE),
    "size 1.5": Attack(entry(size=1.5), SIZE),
    "size that is true": Attack(entry(size=True), SIZE),
    "size as text": Attack(entry(size="9"), SIZE),
    "bomb: a file of 2 TiB": Attack(entry(size=1 << 41), SIZE),
    "bomb: three files of 1 TiB": Attack(_total, "too large together"),
    "bomb: 1 TiB, and nothing there": Attack(entry(size=1 << 40), "ends early"),
    "size a byte more": Attack(
        lambda p: entry(size=len(p.contents[p.index("map")]) + 1)(p), "ends early"
    ),
    "size a byte less": Attack(
        lambda p: entry(size=len(p.contents[p.index("map")]) - 1)(p), "more than its files"
    ),
    "digest in capitals": Attack(
        lambda p: entry(sha256=p.files[p.index("map")]["sha256"].upper())(p), DIGEST
    ),
    "digest cut": Attack(entry(sha256="ab"), DIGEST),
    "digest that is null": Attack(entry(sha256=None), DIGEST),
    "digest of another file": Attack(
        lambda p: entry(sha256=p.files[p.index("head")]["sha256"])(p), SAME
    ),
    # paths
    "path from the root": Attack(path("/etc/cron.d/x"), AWAY),
    "zip-slip": Attack(path("../../x.map.npz"), AWAY),
    "zip-slip, of the right depth": Attack(path("maps/.."), NAME),
    "zip-slip within": Attack(path("maps/../heads/x"), AWAY),
    "zip-slip of a model": Attack(entry("model", "card.json", path="models/../card.json"), NAME),
    "path with a backslash": Attack(path("maps\\..\\x"), AWAY),
    "name with a backslash": Attack(path("maps/..\\x"), NAME),
    "path with a drive": Attack(path("C:/x"), AWAY),
    "name with a stream": Attack(path("maps/x.npz:hidden"), NAME),
    "empty part": Attack(path("maps//x"), AWAY),
    "part that is a point": Attack(path("maps/."), NAME),
    "path that ends with a slash": Attack(path("maps/"), NAME),
    "empty path": Attack(path(""), AWAY),
    "path that is a number": Attack(path(7), PATH),
    "path with NUL": Attack(path("maps/x\0.npz"), PATH),
    "path with a line end": Attack(path("maps/x\n"), PATH),
    "path with a space at its end": Attack(path("maps/x "), NAME),
    "path with a point at its end": Attack(path("maps/x."), NAME),
    "path that begins with a point": Attack(path("maps/.bashrc"), NAME),
    "path that begins as an option": Attack(path("maps/-rf"), NAME),
    "path that is no ASCII": Attack(path("maps/e\u0301.npz"), NAME),
    "path with letters turned around": Attack(path("maps/\u202egnp.npz"), PATH),
    "path of 201 letters": Attack(path("maps/" + "x" * 201), NAME),
    "device of Windows": Attack(path("maps/CON"), NAME),
    "device of Windows with an ending": Attack(path("maps/nul.map.npz"), NAME),
    "folder of another kind": Attack(path("heads/x.map.npz"), AWAY),
    "a map among the wheels": Attack(path("wheelhouse/x.map.npz"), AWAY),
    "a map two folders deep": Attack(path("maps/a/b"), AWAY),
    "a file that is no model's": Attack(
        more("model", "models/tiny/run.sh", b"#!/bin/sh"), "does not belong to a model"
    ),
    "the same path twice": Attack(_twice, "is there twice"),
    "paths in another order": Attack(_backwards, "is not in its place"),
    "names that differ in case": Attack(
        lambda p: more("map", "maps/A-TO-B.map.npz", p.contents[p.index("map")])(p),
        "differ only in case",
    ),
    "folders that differ in case": Attack(
        lambda p: more("model", "models/TINY/card.json", p.contents[p.index("model", "card.json")])(
            p
        ),
        "differ only in case",
    ),
    "a model without a card": Attack(drop("model", "card.json"), "has no card.json"),
    # wheels
    "wheels for nobody": Attack(top(platform=None), "no platform for them"),
    "a platform and no wheels": Attack(
        lambda p: [drop("wheel")(p) for _ in range(2)], "no wheel for it"
    ),
    "platform any": Attack(top(platform={"python": "3.11", "tag": "any"}), UNUSABLE),
    "platform of one field": Attack(top(platform={"python": "3.11"}), PLATFORM),
    "Python as a command": Attack(
        top(platform={"python": "3.11 --pre", "tag": "manylinux_2_36_x86_64"}), UNUSABLE
    ),
    "wheel for Windows": Attack(
        more("wheel", "wheelhouse/x-1.0-cp311-cp311-win_amd64.whl", made_wheel()),
        "for another platform",
    ),
    "wheel for a newer libc": Attack(
        more("wheel", "wheelhouse/x-1.0-cp311-cp311-manylinux_2_99_x86_64.whl", made_wheel()),
        "for another platform",
    ),
    "wheel for another Python": Attack(
        more("wheel", "wheelhouse/x-1.0-cp39-cp39-manylinux_2_17_x86_64.whl", made_wheel()),
        "for another Python",
    ),
    "two wheels of one project": Attack(
        more("wheel", "wheelhouse/Thing-0.9-py3-none-any.whl", made_wheel()), "more than one wheel"
    ),
    "wheel without the name of one": Attack(
        more("wheel", "wheelhouse/x.whl", made_wheel()), "name of a wheel"
    ),
    "wheel whose version is an option": Attack(
        more("wheel", "wheelhouse/x-1.0+--pre-py3-none-any.whl", made_wheel()), "name of a wheel"
    ),
    "requirements of its own": Attack(
        more("wheel", "wheelhouse/requirements.txt", b"evil"), "name of a wheel"
    ),
    # contents
    "secret key as a public key": Attack(content("public-key", SECRET_KEY), "not a public-key"),
    "signing key as its public half": Attack(content("signer", SIGNING_SECRET), "not a signer"),
    "query as a public key": Attack(
        content("public-key", (KEYS / "v3-trusted-two.query").read_bytes()), "not a public-key"
    ),
    "secret key as a model's graph": Attack(
        content("model", SECRET_KEY, "model.onnx"), "is not a model"
    ),
    "private key in PEM as a model's graph": Attack(
        content("model", b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "model.onnx"), "not a model"
    ),
    "secret key within a model's graph": Attack(
        content("model", b"x" * 1000 + SECRET_KEY, "model.onnx"), "holds a secret key"
    ),
    "signing key within a model's graph": Attack(
        content("model", b"x" * 1000 + SIGNING_SECRET, "model.onnx"), "holds a secret key"
    ),
    "secret key where two reads meet": Attack(
        content("model", b"x" * (CHUNK - 5) + SECRET_KEY, "model.onnx"), "holds a secret key"
    ),
    "secret key after a map": Attack(
        lambda p: p.put(p.index("map"), p.contents[p.index("map")] + SECRET_KEY),
        "holds a secret key",
    ),
    "program as a map": Attack(content("map", b"\x7fELF" + bytes(99)), "is not a map"),
    "empty map": Attack(content("map", b""), "is not a map"),
    "script as a wheel": Attack(content("wheel", b"#!/bin/sh\n"), "is not a wheel"),
    "card that is a list": Attack(content("model", b"[]", "card.json"), "is not a model"),
    # found when each file is read as its kind
    "head as a map": Attack(
        content("map", (GOLDEN / "v1.head.npz").read_bytes()), "is not a map", deep=True
    ),
    "states as a map": Attack(
        content("map", (GOLDEN / "v1.states.npz").read_bytes()), "is not a map", deep=True
    ),
    "ZIP as a map": Attack(content("map", made_wheel()), "linalign file: got no card", deep=True),
    "head with a damaged CRC": Attack(_torn, "b.head.npz", deep=True),
    "map with a ZIP after it": Attack(
        lambda p: p.put(p.index("map"), p.contents[p.index("map")] + made_wheel()),
        "no card",
        deep=True,
    ),
    "damaged public key": Attack(
        lambda p: p.put(p.index("public-key"), p.contents[p.index("public-key")][:-1]),
        "size that its header states",
        deep=True,
    ),
    "damaged public signing key": Attack(
        lambda p: p.put(p.index("signer"), p.contents[p.index("signer")][:-1] + b"\0"),
        "is damaged",
        deep=True,
    ),
    "model's card altered": Attack(_card(name="other"), "own digest", deep=True),
    "model's graph exchanged": Attack(
        content("model", b"A graph" * 9, "model.onnx"), "digest that its card says", deep=True
    ),
    "model without its tokenizer": Attack(drop("model", "tokenizer.json"), "is missing", deep=True),
    "model with a head that its card does not name": Attack(
        more("model", "models/tiny/token_head.head.npz", (GOLDEN / "v1.head.npz").read_bytes()),
        "does not belong to the model",
        deep=True,
    ),
}
