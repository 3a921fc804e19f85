"""Write bundles from docs/FORMAT.md, section 7, without the library and without its checks."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support import ROOT

from linalign_lite.core.signing import SigningKey, VerifyingKey
from linalign_lite.extraction.model_card import ModelCard, seal_card

GOLDEN = ROOT / "tests" / "golden"
KEYS = ROOT / "tests" / "encrypt" / "golden"
SEED, OTHER = bytes(range(32)), bytes(range(1, 33))


def signer(seed: bytes = SEED) -> SigningKey:
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return SigningKey(seed, public)


KEY: VerifyingKey = signer().verifying


@dataclass
class Parts:
    """A bundle in parts. Parts that are None are computed from the others."""

    manifest: dict[str, Any]
    contents: list[bytes]
    magic: bytes = b"LINALIGN"
    version: int = 1
    kind: int = 7
    length: int | None = None
    seed: bytes = SEED
    public: bytes | None = None
    raw: bytes | None = None  # the manifest's bytes
    signature: bytes | None = None
    after: bytes = b""

    @property
    def files(self) -> list[dict[str, Any]]:
        files: list[dict[str, Any]] = self.manifest["files"]
        return files

    def index(self, kind: str, ending: str = "") -> int:
        return next(
            i for i, f in enumerate(self.files) if f["kind"] == kind and f["path"].endswith(ending)
        )

    def put(self, i: int, content: bytes) -> None:
        """Replace a file's content, digest and size."""
        self.contents[i] = content
        self.files[i] |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}

    def move(self, i: int, path: Any, **more: Any) -> None:
        self.files[i] |= {"path": path, **more}

    def add(self, kind: str, path: str, content: bytes) -> None:
        self.files.append({"kind": kind, "path": path})
        self.contents.append(b"")
        self.put(-1, content)
        self.sort()

    def sort(self) -> None:
        order = sorted(range(len(self.files)), key=lambda i: self.files[i]["path"])
        self.contents = [self.contents[i] for i in order]
        self.manifest["files"] = [self.files[i] for i in order]

    def encode(self) -> bytes:
        key = Ed25519PrivateKey.from_private_bytes(self.seed)
        public = key.public_key().public_bytes_raw() if self.public is None else self.public
        raw = self.raw
        if raw is None:
            raw = json.dumps(self.manifest, sort_keys=True, separators=(",", ":")).encode()
        length = len(raw) if self.length is None else self.length
        head = struct.pack("<8sHHI32s", self.magic, self.version, self.kind, length, public)
        signature = key.sign(head + raw) if self.signature is None else self.signature
        return head + raw + signature + b"".join(self.contents) + self.after


def parse(data: bytes) -> Parts:
    """Split an intact bundle into its parts."""
    magic, version, kind, length, _ = struct.unpack_from("<8sHHI32s", data)
    manifest = json.loads(data[48 : 48 + length])
    at, contents = 48 + length + 64, []
    for file in manifest["files"]:
        contents.append(data[at : at + file["size"]])
        at += file["size"]
    return Parts(manifest, contents, magic, version, kind)


def made_model(folder: Path, name: str = "tiny") -> Path:
    """Make a model folder with a valid card. Its graph is never run."""
    folder = folder / name
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"a graph" * 9)
    (folder / "tokenizer.json").write_text("{}")
    card = ModelCard(name, "Tiny", "embed", 3, 16, 8, "mean", True, "fp32", 17)
    seal_card(folder, card)
    return folder


def made_wheel(name: str = "thing-1.0-py3-none-any.whl", **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in {"thing/__init__.py": b"", **members}.items():
            archive.writestr(zipfile.ZipInfo(member), content)
    return buffer.getvalue()


def made_inputs(folder: Path) -> tuple[list[Path], Path]:
    """Make one file of each kind, and a folder of two wheels."""
    folder.mkdir(parents=True, exist_ok=True)
    things = [made_model(folder)]
    sources = {"a-to-b.map.npz": GOLDEN / "v1.map.npz", "b.head.npz": GOLDEN / "v1.head.npz",
               "public.key": KEYS / "v3-trusted-public.key"}  # fmt: skip
    for name, source in sources.items():
        (folder / name).write_bytes(source.read_bytes())
        things.append(folder / name)
    (folder / "next.pub").write_bytes(signer(OTHER).verifying.to_bytes())
    wheels = folder / "wheels"
    wheels.mkdir()
    (wheels / "thing-1.0-py3-none-any.whl").write_bytes(made_wheel())
    (wheels / "fast_thing-2.1-cp311-cp311-manylinux_2_17_x86_64.whl").write_bytes(made_wheel())
    return [*things, folder / "next.pub"], wheels
