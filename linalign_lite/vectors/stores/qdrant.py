"""Collections of Qdrant: ``qdrant://HOST:PORT[?vector=NAME&https=1]#NAME``, ``qdrant:PATH#NAME``.

The second form is Qdrant's embedded mode: a folder, for small collections. A server's API key comes
from the environment variable QDRANT_API_KEY. Points are read in the order of their ids. Qdrant has
ids that are whole numbers or UUIDs; other ids are kept in the payload, as ``linalign_id``, and the
point gets the UUID (version 5) of its id. With the metric cosine Qdrant stores unit vectors.

A name that was created here is an alias of a collection NAME.xxxxxxxx, so that it appears when that
is complete and another collection can take its place at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.errors import FormatError, InputError, import_extra
from linalign_lite.vectors.cards import read_card, stated_space, write_card
from linalign_lite.vectors.checks import is_integer
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import ROWS, Batch, Metric, VectorInfo, VectorSink, VectorSource
from linalign_lite.vectors.stores.common import (
    PARTIAL,
    collection_exists,
    no_collection,
    part_location,
    required_part,
    resumed_cursor,
)
from linalign_lite.vectors.stores.qdrant_connection import connect, qdrant_errors

ID = "linalign_id"  # payload of a point whose id is no number and no UUID
_IDS = uuid.UUID("7e9c0d0e-5d0f-5b57-9a5c-3c8c2f4b7f11")  # namespace of such ids
_FLOATS = 1 << 20  # in one request: 22 MB of JSON, of which a server takes 32 MiB
_METRICS: dict[Metric, str] = {"cosine": "Cosine", "dot": "Dot", "euclidean": "Euclid", "": "Dot"}


class Source(VectorSource):
    """Points of a collection or alias, in the order of their ids."""

    def __init__(self, location: Location) -> None:
        self.location, self.name = location, required_part(location, "collection")
        self._client, self._close = connect(location)
        try:
            with qdrant_errors(location, "opening"):
                self.info = self.current()
        except BaseException:
            self._close()
            raise

    def close(self) -> None:
        self._close()

    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:
        rows = min(rows, max(1, _FLOATS // self.info.dim))
        last = _point_id(after) if after else None
        while True:
            with qdrant_errors(self.location, "reading"):
                points, following = self._client.scroll(
                    self.name,
                    limit=rows + 1,  # the first may be that of the cursor
                    offset=last,
                    with_payload=True,
                    with_vectors=[self._vector] if self._vector else True,
                )
            points = [p for p in points if p.id != last]
            if not points:
                return
            yield self._batch(points[:rows])
            last = points[:rows][-1].id
            if following is None and len(points) <= rows:
                return

    def current(self) -> VectorInfo:
        with qdrant_errors(self.location, "reading"):
            config = _config(self._client, self.name, self.location)
            count = self._client.count(self.name, exact=True).count
        self._vector, params = _vector_params(config.params.vectors, self.location)
        card = read_card(json.dumps(config.metadata or {}), self.location)
        named = (m for m, name in _METRICS.items() if m and name == params.distance.value)
        return VectorInfo(stated_space(card, params.size, self.location), count, next(named, ""))

    def _batch(self, points: list[Any]) -> Batch:
        payload = [dict(p.payload or {}) for p in points]
        ids = tuple(str(row.pop(ID, p.id)) for p, row in zip(points, payload, strict=True))
        name = self._vector
        try:
            vectors = np.array([p.vector[name] if name else p.vector for p in points], np.float32)
        except (KeyError, TypeError, ValueError) as e:
            raise FormatError(f"{self.location} has points without the vector") from e
        return Batch(ids, vectors, tuple(payload) if any(payload) else None, str(points[-1].id))


class Sink(VectorSink):
    """A new collection, whose alias ``finish`` sets."""

    def __init__(self, location: Location, info: VectorInfo, *, resume: bool = False) -> None:
        self.location, self.info = location, info
        self.name = required_part(location, "collection")
        self.collection = ""  # in which the points are
        self._client, self._close = connect(location, create=True)
        try:
            with qdrant_errors(location, "creating"):
                self._begin(resume)
        except BaseException:
            self._close()
            raise

    def write(self, batch: Batch) -> None:
        models = self._models
        step = max(1, _FLOATS // self.info.dim)
        rows = batch.payload or ({},) * len(batch)
        with qdrant_errors(self.location, "writing"):
            for at in range(0, len(batch), step):
                part = slice(at, at + step)
                ids = [_point_id(i) for i in batch.ids[part]]
                pairs = zip(ids, batch.ids[part], rows[part], strict=True)
                payload = [dict(r) if str(i) == text else {**r, ID: text} for i, text, r in pairs]
                vectors = batch.vectors[part].tolist()
                points = models.Batch(ids=ids, vectors=vectors, payloads=payload)
                self._client.upsert(self.collection, points=points, wait=True)
            self._describe(batch.cursor)
        self.cursor = batch.cursor

    def finish(self) -> None:
        models, client = self._models, self._client
        with qdrant_errors(self.location, "completing"):
            if not client.count(self.collection, exact=True).count:
                raise InputError(f"there are no vectors to write to {self.location}")
            self._describe()
            _fsync(self.location, self.collection)
            if _alias(client, self.name):
                raise collection_exists(self.location)
            client.update_collection_aliases(
                [
                    _delete_alias(models, self.name + PARTIAL),
                    _alias_of(models, self.name, self.collection),
                ]
            )
        self.suspend()

    def abort(self) -> None:
        if self.collection:
            # a server that is gone keeps it; the next run removes or resumes it
            with contextlib.suppress(Exception):
                self._client.delete_collection(self.collection)
        self.suspend()

    def suspend(self) -> None:
        self.collection = ""
        self._close()

    def _begin(self, resume: bool) -> None:
        client = self._client
        self._models = models = import_extra(
            "qdrant_client.models", extra="qdrant", purpose="Qdrant"
        )
        if _alias(client, self.name) or self.name in _collections(client):
            raise collection_exists(self.location)
        if left := _alias(client, self.name + PARTIAL):
            if resume:
                text = json.dumps(client.get_collection(left).config.metadata or {})
                self.cursor = resumed_cursor(text, self.info, self.location)
            if self.cursor:
                self.collection = left
                return
            client.delete_collection(left)
        self.collection = f"{self.name}.{secrets.token_hex(4)}"
        distance = models.Distance(_METRICS[self.info.metric])
        client.create_collection(
            self.collection,
            vectors_config=models.VectorParams(size=self.info.dim, distance=distance),
            metadata=json.loads(write_card(self.info)),
        )
        client.update_collection_aliases([_alias_of(models, self.name + PARTIAL, self.collection)])
        _write_quickly(client, self.collection)

    def _describe(self, cursor: str = "") -> None:
        metadata = json.loads(write_card(self.info, cursor))
        self._client.update_collection(self.collection, metadata=metadata)


def switch(live: Location, new: Location) -> str:
    """Let the alias ``live`` stand for the collection ``new``, in one request.

    Return the location of the former collection. Raises InputError when ``live`` is a collection:
    Qdrant cannot give its name to another without a time in which it is absent.
    """
    name, other = required_part(live, "collection"), required_part(new, "collection")
    models = import_extra("qdrant_client.models", extra="qdrant", purpose="Qdrant")
    client, close = connect(live)
    with contextlib.ExitStack() as stack, qdrant_errors(live, "switching"):
        stack.callback(close)
        former = _alias(client, name)
        if not former:
            raise InputError(
                f"{live} is no alias",
                got="a collection" if name in _collections(client) else "nothing",
                hint="give programs an alias to search in; a collection cannot be renamed",
            )
        target = _alias(client, other) or other
        if target not in _collections(client):
            raise no_collection(new, _collections(client))
        client.update_collection_aliases(
            [_delete_alias(models, name), _alias_of(models, name, target)]
        )
    return part_location(live, former)


def _config(client: Any, name: str, location: Location) -> Any:
    """Return the configuration of a collection or alias. Raises InputError when it is not there."""
    try:
        return client.get_collection(name).config
    except Exception as e:
        # the embedded mode and a server say it each in its own way
        if isinstance(e, ValueError) or getattr(e, "status_code", 0) == 404:
            raise no_collection(location, _collections(client)) from e
        raise


def _vector_params(vectors: Any, location: Location) -> tuple[str, Any]:
    """Return name, "" for the unnamed vector, and parameters of the vector that is meant."""
    wanted = location.option("vector")
    named = vectors if isinstance(vectors, dict) else {"": vectors} if vectors else {}
    name = wanted or (next(iter(named)) if len(named) == 1 else "")
    params = named.get(name)
    if params is None or params.multivector_config is not None:
        raise InputError(
            f"{location} has not one vector for each point",
            got=", ".join(named)[:80] or ("none" if params is None else "several for a point"),
            hint="name one: ?vector=NAME",
        )
    return name, params


def _collections(client: Any) -> list[str]:
    return [c.name for c in client.get_collections().collections]


def _alias(client: Any, name: str) -> str:
    """Return the collection that an alias stands for, "" when there is no such alias."""
    found = (a.collection_name for a in client.get_aliases().aliases if a.alias_name == name)
    return next(found, "")


def _alias_of(models: Any, alias: str, collection: str) -> Any:
    made = models.CreateAlias(collection_name=collection, alias_name=alias)
    return models.CreateAliasOperation(create_alias=made)


def _delete_alias(models: Any, alias: str) -> Any:
    return models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))


def _point_id(text: str) -> int | str:
    """Return Qdrant's id of an id: a number of 64 bits, a UUID, or the UUID of any other text."""
    if is_integer(text) and int(text) >= 0:
        return int(text)
    with contextlib.suppress(ValueError):
        if str(uuid.UUID(text)) == text:
            return text
    return str(uuid.uuid5(_IDS, text))


def _write_quickly(client: Any, collection: str) -> None:
    """Let the embedded mode write without an fsync for each point (20 ms on a slow disk).

    `finish` does it once for all. Where a later client differs, it is only slow.
    """
    with contextlib.suppress(AttributeError, KeyError):
        storage = client._client.collections[collection].storage.storage
        storage.execute("PRAGMA synchronous=OFF")


def _fsync(location: Location, collection: str) -> None:
    if location.path.startswith("//"):
        return
    for file in Path(location.path, "collection", collection).glob("*"):
        with file.open("r+b") as f:
            os.fsync(f.fileno())
