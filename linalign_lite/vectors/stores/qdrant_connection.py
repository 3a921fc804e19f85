"""Clients of Qdrant: of a server, or of a folder (its embedded mode), which is checked first.

Of a folder the client unpickles every point of every collection, and a pickle from outside can run
any program. Here each is first read by an unpickler that knows nothing but points.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle  # only to refuse what the client would run
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from linalign_lite.errors import FormatError, InputError, LinalignError, MismatchError, import_extra
from linalign_lite.storage.atomic import open_regular
from linalign_lite.storage.schema import format_errors, strict_json
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.stores.common import (
    CollectionGoneError,
    StoreError,
    StoreFullError,
    StoreGoneError,
    StoreLockedError,
    store_errors,
)

_ALLOWED = ("PointStruct", "SparseVector")
_MAX_META = 1 << 24  # bytes
_MAX_POINT = 1 << 26  # bytes
_TIMEOUT = 60  # seconds

_TEXTS: dict[str, type[LinalignError]] = {
    "instance is closed": StoreGoneError,
    "disk is full": StoreFullError,
    "No space left": StoreFullError,
    "already accessed by another instance": StoreLockedError,
    "dimension error": MismatchError,
}

_lock = threading.Lock()
_embedded: dict[str, tuple[Any, int]] = {}  # by folder: a client and its number of users


def qdrant_errors(location: Location, what: str) -> contextlib.AbstractContextManager[None]:
    """Name errors of Qdrant's client; those of the embedded mode only their text tells apart."""
    return store_errors(location, what, lambda error: _kind_of(error, location))


def _kind_of(error: Exception, location: Location) -> type[LinalignError]:
    exceptions = import_extra("qdrant_client.http.exceptions", extra="qdrant", purpose="Qdrant")
    text = str(error)
    for part, kind in _TEXTS.items():
        if part in text:
            return kind
    absent = isinstance(error, ValueError) and text.endswith("not found")
    if absent or getattr(error, "status_code", 0) == 404:
        return CollectionGoneError
    silent = isinstance(error, exceptions.ResponseHandlingException)
    removed = isinstance(error, sqlite3.Error) and not Path(location.path, "meta.json").is_file()
    return StoreGoneError if silent or removed else StoreError


def connect(location: Location, *, create: bool = False) -> tuple[Any, Callable[[], None]]:
    """Return a client and what closes it. Of a folder there can be only one client at a time."""
    package = import_extra("qdrant_client", extra="qdrant", purpose="Qdrant")
    if location.path.startswith("//"):
        scheme = "https" if location.option("https") == "1" else "http"
        with qdrant_errors(location, "connecting to"):
            client = package.QdrantClient(
                url=f"{scheme}:{location.path}",
                api_key=os.environ.get("QDRANT_API_KEY"),
                timeout=_TIMEOUT,
                check_compatibility=False,
            )
        return client, client.close
    folder = str(Path(location.path).resolve())
    if not create and not Path(folder, "meta.json").is_file():
        raise InputError(f"{location} is not there", expected="a folder that Qdrant made")
    with _lock:
        client, users = _embedded.get(folder, (None, 0))
        if client is None:
            require_plain_points(Path(folder))
            with qdrant_errors(location, "opening"):
                client = package.QdrantClient(path=folder)
        _embedded[folder] = client, users + 1
    return client, _closer(folder)


def _closer(folder: str) -> Callable[[], None]:
    """Return a function whose first call closes the folder, unless others still use it."""
    open_ = [True]

    def close() -> None:
        with _lock:
            if open_ and open_.pop():
                client, users = _embedded.pop(folder)
                if users > 1:
                    _embedded[folder] = client, users - 1
                else:
                    client.close()

    return close


def require_plain_points(folder: Path) -> None:
    """Raise FormatError unless the folder is empty or holds collections of points alone."""
    meta = folder / "meta.json"
    if not meta.exists():
        return
    with open_regular(meta) as f, format_errors(folder, "folder of Qdrant"):
        raw = f.read(_MAX_META + 1)
        if len(raw) > _MAX_META:
            raise FormatError(f"{meta} is too large", expected=f"at most {_MAX_META} bytes")
        names = list(strict_json(raw)["collections"])
    for name in names:
        if not name or name in (".", "..") or set(name) & set("/\\\0"):
            raise FormatError(f"{meta} names a collection outside its folder", got=name[:40])
        collection = folder / "collection" / name
        if (file := collection / "storage.sqlite").exists():
            _require_points(file)
        elif collection.exists():
            raise FormatError(f"{collection} is not of a kind that can be checked")


def _require_points(file: Path) -> None:
    with open_regular(file):
        pass
    uri = f"{file.resolve().as_uri()}?mode=rw"  # as the client: what it would recover is read too
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
            query = "SELECT point FROM points WHERE length(point) <= ?"
            total = db.execute("SELECT count(*) FROM points").fetchone()[0]
            found = 0
            for (point,) in db.execute(query, (_MAX_POINT,)):
                _require_point(file, point)
                found += 1
    except sqlite3.Error as e:
        raise FormatError(f"{file} is not usable", got=str(e)[:80]) from e
    if found != total:
        raise FormatError(f"{file} holds a point that is too large")


def _require_point(file: Path, raw: bytes) -> None:
    try:
        _Points(io.BytesIO(raw)).load()
    except Exception as e:
        raise FormatError(
            f"{file} holds something other than points",
            got=type(e).__name__,
            hint="never open a folder of Qdrant from somebody you do not trust",
        ) from e


class _Points(pickle.Unpickler):
    """Unpickles points, and raises pickle.UnpicklingError where anything else is named."""

    def find_class(self, module: str, name: str) -> Any:
        if module != "qdrant_client.http.models.models" or name not in _ALLOWED:
            raise pickle.UnpicklingError("not a point")
        return getattr(import_extra(module, extra="qdrant", purpose="Qdrant"), name)
