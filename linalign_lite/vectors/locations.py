"""Locations of vectors, and the table of the back ends that read and write there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path, PurePath
from typing import Any

from linalign_lite.core.shards.manifest import MANIFEST
from linalign_lite.errors import InputError, without_secrets
from linalign_lite.storage.atomic import PathLike
from linalign_lite.vectors.checks import CheckedSink, CheckedSource
from linalign_lite.vectors.source import VectorInfo, VectorSource


@dataclass(frozen=True)
class Backend:
    """One kind of file or store.

    module: in this package, with a class `Source(location)` and a class
    `Sink(location, info, *, resume=False)`. It imports packages of ``extra`` through
    `errors.import_extra` when one of the two is made.
    """

    module: str
    suffixes: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    extra: str = ""
    needs_part: bool = False
    form: str = ""  # of a location, for messages


STATES = "files.states"  # the module of hidden states, which hold more than vectors
BACKENDS = (
    Backend("files.npy", suffixes=(".npy",), form="x.npy"),
    Backend("files.npz_member", suffixes=(".npz",), needs_part=True, form="x.npz#MEMBER"),
    Backend(STATES, suffixes=(".npz",), form="x.states.npz or a folder of states"),
    Backend("files.jsonl", suffixes=(".jsonl", ".json"), form="x.jsonl#KEY"),
    Backend("files.arrow_ipc", suffixes=(".arrow", ".feather"), extra="parquet",
            form="x.arrow#COLUMN"),
    Backend("files.parquet", suffixes=(".parquet",), extra="parquet", form="x.parquet#COLUMN"),
    Backend("files.faiss_index", suffixes=(".faiss",), extra="faiss", form="x.faiss"),
    Backend("stores.qdrant", schemes=("qdrant",), extra="qdrant", form="qdrant:PATH#COLLECTION or qdrant://HOST:PORT#COLLECTION"),
    Backend("stores.lancedb", schemes=("lancedb",), extra="lancedb", form="lancedb:PATH#TABLE"),
    Backend("stores.pgvector", schemes=("postgresql", "postgres"), extra="pgvector",
            form="postgresql://HOST/DB#TABLE"),
)  # fmt: skip


@dataclass(frozen=True)
class Location:
    """A location taken apart: ``[SCHEME:]PATH[?NAME=VALUE&…][#PART]``.

    scheme: of a store, "" for a file; ``path`` then includes the scheme of a URL such as s3://.
    part: a column, member, collection or table.
    """

    text: str
    backend: Backend
    scheme: str
    path: str
    part: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return without_secrets(self.text)

    def option(self, name: str, default: str = "") -> str:
        return self.options.get(name, default)


def find_location(text: str) -> Location | None:
    """Take a location apart; None when no back end is for it."""
    whole, _, part = text.partition("#")
    scheme, colon, rest = whole.partition(":")
    for backend in BACKENDS:
        if colon and scheme.lower() in backend.schemes:
            path, _, query = rest.partition("?")
            options = dict(p.split("=", 1) for p in query.split("&") if "=" in p)
            return Location(text, backend, scheme.lower(), path, part, options)
        if PurePath(whole).suffix.lower() in backend.suffixes and (part or not backend.needs_part):
            return Location(text, backend, "", whole, part)
    if (Path(whole) / MANIFEST).is_file():
        states = next(b for b in BACKENDS if b.module == STATES)
        return Location(text, states, "", whole, part)
    return None


def locate(text: PathLike) -> Location:
    """Take a location apart. Raises InputError for one that no back end is for."""
    text = os.fspath(text)
    found = find_location(text)
    if found is None:
        raise InputError(
            f"{without_secrets(text)} is no file or store of vectors",
            expected=", ".join(b.form for b in BACKENDS),
        )
    return found


def open_vectors(location: PathLike) -> VectorSource:
    """Open a file or collection of vectors to read; what it yields is checked (`CheckedSource`).

    Raises InputError when it is not there or of no known kind, FormatError when it is not usable,
    MissingExtraError without the package that reads it.
    """
    found = locate(location)
    source: VectorSource = backend_module(found).Source(found)
    return CheckedSource(source, str(found))


def create_vectors(location: PathLike, info: VectorInfo, *, resume: bool = False) -> CheckedSink:
    """Create a file or collection of vectors; what is written is checked (`CheckedSink`).

    resume: continue what an interrupted run left, where the back end can: ``cursor`` then tells
    from where. Raises InputError where it cannot be written, OutputExistsError for a collection
    that is there.
    """
    found = locate(location)
    return CheckedSink(backend_module(found).Sink(found, info, resume=resume), str(found))


def backend_module(location: Location) -> Any:
    """Import the module of a location's back end."""
    return import_module(f"linalign_lite.vectors.{location.backend.module}")
