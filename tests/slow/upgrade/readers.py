"""Today's loaders over the golden files of every version: each file as plain numbers and words.

A kind of file is known by its name under ``tests``, ``v`` and the version in it. Whoever raises a
format's version adds a golden file of it and runs ``python tests/slow/upgrade/record.py``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from support import ROOT

from linalign_lite import (
    Budget,
    Client,
    PublicKey,
    Query,
    Response,
    SecretKey,
    SigningKey,
    VerifyingKey,
    extract,
    from_onnx,
    install_bundle,
    load,
    load_detector,
    load_model,
    load_moments,
    load_results,
    open_states,
    verify_bundle,
)
from linalign_lite.alignment import moments_io
from linalign_lite.bundle import file_format
from linalign_lite.commands.describe_file import describe
from linalign_lite.core import serialization, signing
from linalign_lite.core.shards import manifest, plan
from linalign_lite.core.space import Space
from linalign_lite.encrypt import wire
from linalign_lite.encrypt.budgets import sqlite_store
from linalign_lite.errors import FormatError
from linalign_lite.extraction import model_card
from linalign_lite.heads.ood import serialization as detectors
from linalign_lite.migration import folder as migration
from linalign_lite.migration.folder import MigrationFolder
from linalign_lite.onnx import metadata
from linalign_lite.storage.hashing import seal_of
from linalign_lite.storage.schema import parse, strict_json
from linalign_lite.survey import results_file

TESTS = ROOT / "tests"
GOLDEN = (TESTS / "golden", TESTS / "encrypt" / "golden")
NOT_OURS = {"golden/pytorch_ood.npz"}  # figures of another library, not in a format of this project
WORDS = ["a", "is this ok?", "ümlaut"]


@dataclass(frozen=True)
class Kind:
    """``name``: pattern of the file's name, the version its first group. Versions ``oldest`` to
    ``newest`` are read. ``within``: how far a number may be from the recorded one; 0 is the same.
    """

    name: str
    oldest: int
    newest: int
    read: Callable[[Path, Path], Any]  # the file and an empty folder to plain values
    within: float = 0.0


def plain(x: Any) -> Any:
    """Convert to JSON values: arrays with dtype and shape, dataclasses by field, bytes as hex."""
    if isinstance(x, np.ndarray):
        return {"dtype": str(x.dtype), "shape": list(x.shape), "values": x.ravel().tolist()}
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return {f.name: plain(getattr(x, f.name)) for f in dataclasses.fields(x)}
    if isinstance(x, Mapping):
        return {str(k): plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [plain(v) for v in x]
    if isinstance(x, bytes):
        return x.hex()
    return x.item() if isinstance(x, np.generic) else x


def by(call: Callable[[Path], Any]) -> Callable[[Path, Path], Any]:
    return lambda path, work: plain(call(path))


# fields of rules that were recorded when several methods shared a class
_SCORES = dict.fromkeys(("energy", "msp", "max-logit"), ("method",))
_SHARED = {**_SCORES, "mahalanobis": ("background",), "knn": ("mean", "whitening")}


def read_detector(path: Path, work: Path) -> Any:
    detector = load_detector(path)
    found = {"method": detector.method, **plain(detector)}
    found["rule"] |= {n: getattr(detector.rule, n, None) for n in _SHARED.get(detector.method, ())}
    return found


def read_model(path: Path, work: Path) -> Any:
    model = load_model(path)
    return {"facts": describe(path), "special": plain(model.card.special),
            "head": plain(load(path / "token_head.head.npz")),
            "states": plain(extract(model, WORDS).states)}  # fmt: skip


def read_folder(path: Path, work: Path) -> Any:
    folder = open_states(path)
    whole = plain(
        {f.name: getattr(folder, f.name) for f in dataclasses.fields(folder) if f.name != "folder"}
    )
    return {"manifest": whole, "shards": [plain(part) for part in folder]}


def read_unfinished(path: Path, work: Path) -> Any:
    """The log. Of another version of the library it is refused by name: see docs/FORMAT.md."""
    with path.open("rb") as log:
        raw = strict_json(log.readline())
        seal = raw.pop("seal")
        assert seal == seal_of(raw)
        rest = {k: v for k, v in raw.items() if k not in {"format", "version", "library"}}
        fields = {**rest, "space": parse(Space, raw["space"]), "labels": tuple(raw["labels"])}
        made = plan.FolderPlan(**fields)
        return plain({"plan": made, "logged": made.read_entries(path, log)[0]})


def read_bundle(path: Path, work: Path) -> Any:
    key = VerifyingKey.load(GOLDEN[0] / "v1.signing.pub")
    info = verify_bundle(path, keys=[key], deep=True)
    install_bundle(path, work / "out", keys=[key])
    found = {p.relative_to(work / "out").as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
             for p in sorted((work / "out").rglob("*")) if p.is_file()}  # fmt: skip
    return {"info": plain(info.as_dict()), "installed": found}


def private_copy(path: Path, work: Path, name: str) -> Path:
    copy = work / name
    shutil.copy(path, copy)
    copy.chmod(0o600)
    return copy


def read_signing_key(path: Path, work: Path) -> Any:
    key = SigningKey.load(private_copy(path, work, "signing.key"))
    return {"public": key.public.hex(), "signature": key.sign(b"golden").hex()}


def read_secret_key(path: Path, work: Path) -> Any:
    key = SecretKey.load(private_copy(path, work, "secret.key"))
    return {"digest": plain(key.digest), "material": hashlib.sha256(key.material).hexdigest()}


def read_query(path: Path, work: Path) -> Any:
    query = Query.load(path)
    return {"info": plain(query.info), "digest": query.digest,
            "records": [r.digest.hex() for r in query.records()]}  # fmt: skip


def read_response(path: Path, work: Path) -> Any:
    """With the key and the query that it answers, which lie beside it."""
    prefix = path.name.removesuffix("two.response")
    for name in ("secret.key", "public.key", "two.query"):
        private_copy(path.parent / f"{prefix}{name}", work, name)
    client = Client(SecretKey.load(work / "secret.key"))
    scores = client.decrypt(Response.load(path), Query.load(work / "two.query"))
    return {"labels": list(scores.labels), "values": np.asarray(scores.values).tolist()}


def read_header(path: Path, work: Path) -> Any:
    """A query's header alone, as a file of which the records are left out."""
    raw = bytes.fromhex(path.read_text())
    empty = raw + b"".join(
        wire.digest_record(raw[-wire.DIGEST :], i, bytes(13024)).payload
        + wire.digest_record(raw[-wire.DIGEST :], i, bytes(13024)).digest
        for i in range(7)
    )
    with wire.open_framed(empty, wire.Kind.QUERY) as reader:
        return plain(
            {**vars(reader.header.parameters), **reader.header.meta, "key": reader.header.key}
        )


def read_budget(path: Path, work: Path) -> Any:
    budget = Budget(private_copy(path, work, "budget"))
    usage = [{**plain(u), "key": u.account} for u in budget.usage()]  # what version 1 called it
    return {"limit": budget.limit, "bits": budget.bits, "usage": usage}


def read_migration(path: Path, work: Path) -> Any:
    """The documents in a migration's folder; what they name lies beside it."""
    found = MigrationFolder(path / "m")
    return plain({"plan": found.plan(), "verified": found.verified(), "applied": found.applied()})


def refused(path: Path, work: Path) -> Any:
    """Never released, and said so."""
    try:
        Query.load(path)
    except FormatError as e:
        return {"got": e.got, "expected": e.expected}
    raise AssertionError("it was read")


NPZ = serialization.VERSION
KINDS = (
    Kind(r"golden/v(\d+)\.(tokens\.)?states\.npz", 1, NPZ, by(load)),
    Kind(r"golden/v(\d+)\.map\.npz", 1, NPZ, by(load)),
    Kind(r"golden/v(\d+)\.head\.npz", 1, NPZ, by(load)),
    Kind(r"golden/v(\d+)\.moments\.npz", 1, moments_io.VERSION, by(load_moments)),
    Kind(r"golden/ood/v(\d+)\.[\w-]+\.ood\.npz", 1, detectors.VERSION, read_detector),
    Kind(r"golden/v(\d+)\.model", 1, model_card.VERSION, read_model, 1e-4),
    Kind(r"golden/v(\d+)\.states", 1, manifest.VERSION, read_folder),
    Kind(r"golden/v(\d+)\.unfinished\.jsonl", 1, plan.VERSION, read_unfinished),
    Kind(r"golden/v(\d+)\.migration", 1, migration.VERSION, read_migration),
    Kind(r"golden/v(\d+)\.results\.json", 1, results_file.VERSION, by(load_results)),
    Kind(r"golden/v(\d+)\.bundle", 1, file_format.VERSION, read_bundle),
    Kind(r"golden/v(\d+)\.signing\.key", 1, signing.VERSION, read_signing_key),
    Kind(r"golden/v(\d+)\.signing\.pub", 1, signing.VERSION, by(VerifyingKey.load)),
    Kind(r"golden/v(\d+)\.(?:map|head)\.onnx", 1, metadata.VERSION, by(from_onnx)),
    Kind(r"golden/v(\d+)\.budget", 1, sqlite_store.VERSION, read_budget),
    Kind(r"encrypt/golden/v([3-9])-\w+-secret\.key", 3, wire.VERSION, read_secret_key),
    Kind(r"encrypt/golden/v([3-9])-\w+-public\.key", 3, wire.VERSION,
         by(lambda path: PublicKey.load(path).digest)),
    Kind(r"encrypt/golden/v([3-9])-\w+-two\.query", 3, wire.VERSION, read_query),
    Kind(r"encrypt/golden/v([3-9])-\w+-two\.response", 3, wire.VERSION, read_response, 1e-3),
    Kind(r"encrypt/golden/query-header-v(\d+)\.hex", 3, wire.VERSION, read_header),
    Kind(r"encrypt/golden/v([12])-(?:small|trusted-two)\.query", 1, 2, refused),
)  # fmt: skip


def golden_files() -> list[str]:
    """Every file and every folder that is one thing, relative to ``tests``."""
    found = [p for folder in GOLDEN for p in folder.rglob("*") if p.is_file()]
    names = {p.relative_to(TESTS).as_posix() for p in found} - NOT_OURS
    return sorted(
        {re.sub(r"^(golden/v\d+\.(?:model|states|migration))/.*", r"\1", n) for n in names}
    )


def kinds_of(name: str) -> list[tuple[Kind, int]]:
    """Each kind that claims a file, and the version that its name says."""
    found = [(k, re.fullmatch(k.name, name)) for k in KINDS]
    return [(k, int(m[1])) for k, m in found if m]


def read(name: str, work: Path) -> Any:
    [(kind, _)] = kinds_of(name)
    return kind.read(TESTS / name, work)
