"""Collections of Qdrant: embedded, and on a server where LINALIGN_QDRANT is its host:port."""

from __future__ import annotations

import json
import os
import pickle
import secrets
import shutil
import sqlite3
import subprocess
import sys
import uuid
from itertools import count

import numpy as np
import pytest
from command_line import run
from vectors.contract import check_back_end, made, read, write
from vectors.store_contract import (
    check_full_disk,
    check_kill,
    check_metrics,
    check_round_trips,
    check_switch,
    check_untouched,
    read_slowly,
    write_slowly,
)

from linalign_lite.errors import FormatError, InputError, MismatchError, MissingExtraError
from linalign_lite.vectors.checks import ChangedError
from linalign_lite.vectors.locations import create_vectors, open_vectors
from linalign_lite.vectors.source import Batch, VectorInfo, named_space
from linalign_lite.vectors.stores.common import (
    CollectionGoneError,
    StoreGoneError,
    StoreLockedError,
)
from linalign_lite.vectors.switching import switch_vectors

qdrant = pytest.importorskip("qdrant_client")
SERVER = os.environ.get("LINALIGN_QDRANT", "")
INFO = VectorInfo(named_space(5, "maker/model-1"), 23)


@pytest.fixture(params=["embedded", *(["server"] if SERVER else [])])
def store(request, tmp_path):
    """A function from a name to a location in a store of its own."""
    if request.param == "embedded":
        yield lambda name: f"qdrant:{tmp_path}/store#{name}"
        return
    prefix = f"test-{secrets.token_hex(4)}-"
    yield lambda name: f"qdrant://{SERVER}#{prefix}{name}"
    client = qdrant.QdrantClient(url=f"http://{SERVER}")
    for collection in client.get_collections().collections:
        if collection.name.startswith(prefix):
            client.delete_collection(collection.name)


@pytest.fixture
def client(tmp_path):
    """A function that opens the embedded store with Qdrant's own client."""
    return lambda: qdrant.QdrantClient(path=f"{tmp_path}/store")


def collections(location):
    from linalign_lite.vectors.locations import locate
    from linalign_lite.vectors.stores.qdrant_connection import connect

    client, close = connect(locate(location), create=True)
    found = [c.name for c in client.get_collections().collections]
    aliases = [a.alias_name for a in client.get_aliases().aliases]
    close()
    return found + aliases


def test_contract(store):
    check_back_end(store("docs"), absent=lambda: collections(store("docs")) == [])


def test_what_goes_in_comes_out(store):
    numbers = count()
    check_round_trips(lambda: store(f"t{next(numbers)}"), examples=10)


def test_kill_and_resume(store):
    location = store("docs")
    check_kill(location, lambda: location.partition("#")[2] not in collections(location))


def test_switch(store):
    check_switch(store("docs"), store("docs_new"))


def test_metrics_and_refusals(store):
    check_metrics(store("m"), store("n"))
    check_untouched(store("u"))


def test_ids(store):
    """Numbers of 64 bits and UUIDs are Qdrant's own ids, all others are kept in the payload."""
    ids = (
        "7",
        "007",
        str(2**64 - 1),
        str(2**64),
        "²",
        "-1",
        str(uuid.UUID(int=5)),
        uuid.UUID(int=6).hex,
    )
    write(store("docs"), Batch(ids, np.eye(8, dtype=np.float32)))
    found, _, _ = read(store("docs"))
    assert sorted(found.ids) == sorted(ids)
    assert found.payload is None
    order = [found.ids.index(i) for i in ids]
    np.testing.assert_array_equal(found.vectors[order], np.eye(8))


def test_collections_of_others(client, tmp_path):
    models = qdrant.models
    with_vectors = {name: models.VectorParams(size=d, distance=models.Distance.EUCLID)
                    for name, d in (("title", 3), ("body", 2))}  # fmt: skip
    c = client()
    c.create_collection("docs", vectors_config=with_vectors)
    vectors = {"title": [1.0, 2.0, 3.0], "body": [1.0, 2.0]}
    c.upsert("docs", [models.PointStruct(id=i, vector=vectors, payload={"n": i}) for i in (9, 3)])
    c.create_collection("partly", vectors_config=with_vectors)
    c.upsert("partly", [models.PointStruct(id=1, vector={"title": [1.0, 2.0, 3.0]})])
    several = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    c.create_collection("late", vectors_config=models.VectorParams(
        size=3, distance=models.Distance.DOT, multivector_config=several))  # fmt: skip
    c.close()
    location = f"qdrant:{tmp_path}/store"
    with pytest.raises(InputError, match="title, body"):
        open_vectors(f"{location}#docs")
    with pytest.raises(InputError, match="several for a point"):
        open_vectors(f"{location}#late")
    with pytest.raises(InputError, match="there are: docs, late, partly"):
        open_vectors(f"{location}#missing")
    for bad in ("", "a/b", "..", ".hidden"):
        with pytest.raises(InputError, match="names no collection"):
            open_vectors(f"{location}#{bad}")
    found, info, _ = read(f"{location}?vector=body#docs")
    assert (info.dim, info.metric, found.ids) == (2, "euclidean", ("3", "9"))
    assert found.payload == ({"n": 3}, {"n": 9})
    with pytest.raises(FormatError, match="without the vector"):
        read(f"{location}?vector=body#partly")
    with pytest.raises(InputError, match="no alias"):
        switch_vectors(f"{location}?vector=body#docs", f"{location}?vector=body#partly")
    with pytest.raises(InputError, match="not there"):
        open_vectors(f"qdrant:{tmp_path}/nowhere#docs")
    assert not (tmp_path / "nowhere").exists()


def test_a_collection_that_changes_while_it_is_read(store):
    write(store("docs"), made())
    point = qdrant.models.PointStruct(id=1, vector=[1.0] * 5, payload={})

    def add(i, source):
        if i == 1:
            source._client.upsert(source.name, [point])

    with pytest.raises(ChangedError):
        read_slowly(store("docs"), add)


def test_a_collection_that_is_removed(store):
    write(store("docs"), made())
    (collection, _) = collections(store("docs"))
    with pytest.raises(CollectionGoneError, match="reading"):
        read_slowly(store("docs"), lambda _, source: source._client.delete_collection(collection))

    def remove(i, sink):
        if i == 2:
            sink._client.delete_collection(sink.collection)

    with pytest.raises(CollectionGoneError, match="writing"):
        write_slowly(store("docs"), remove)
    assert collections(store("docs")) == []


def test_a_collection_that_is_replaced_by_one_of_another_dimension(store):
    def replace(i, sink):
        if i == 2:
            sink._client.delete_collection(sink.collection)
            dot = qdrant.models.Distance.DOT
            config = qdrant.models.VectorParams(size=9, distance=dot)
            sink._client.create_collection(sink.collection, vectors_config=config)

    with pytest.raises(MismatchError, match=r"writing .* dimension error"):
        write_slowly(store("docs"), replace)
    assert collections(store("docs")) == []


def test_a_store_that_goes_away(store, tmp_path):
    write(store("docs"), made())
    for action in (open_vectors, lambda at: create_vectors(at, INFO)):
        with pytest.raises(StoreGoneError, match="Connection refused"):
            action("qdrant://127.0.0.1:9#docs")
    if not (tmp_path / "store").exists():
        return  # a server stays
    with pytest.raises(StoreGoneError, match="reading"):
        read_slowly(store("docs"), lambda _, source: source._client.close())

    def remove(i, _):
        if i == 2:
            shutil.rmtree(tmp_path / "store")

    with pytest.raises(StoreGoneError, match="writing"):
        write_slowly(store("docs2"), remove)
    assert not (tmp_path / "store").exists()


HOLD = """
import sys
import qdrant_client

held = qdrant_client.QdrantClient(path=sys.argv[1])
print(flush=True)
input()
"""


def test_a_store_that_another_process_holds(tmp_path):
    location = f"qdrant:{tmp_path}/store#docs"
    write(location, made())
    command = [sys.executable, "-c", HOLD, tmp_path / "store"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        for action in (
            lambda: open_vectors(location),
            lambda: create_vectors(f"{location}2", INFO),
            lambda: switch_vectors(location, f"{location}2"),
        ):
            with pytest.raises(StoreLockedError, match="let the other process end"):
                action()
        assert "let the other process end" in run("vectors", "info", location, code=1).stderr
        other.communicate(b"\n")
    assert len(read(location)[0]) == 23


def test_a_full_disk(tmp_path):
    check_full_disk(f"qdrant:{tmp_path}/store#docs", tmp_path)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_a_folder_from_outside_runs_nothing(client, tmp_path, monkeypatch):
    """Qdrant's client unpickles points; what is no point is refused before."""
    monkeypatch.chdir(tmp_path)
    location = f"qdrant:{tmp_path}/store#docs"
    write(location, made())
    (file,) = (tmp_path / "store/collection").glob("*/storage.sqlite")
    with sqlite3.connect(file) as db:
        db.execute("INSERT INTO points VALUES ('x', ?)", (pickle.dumps(Harmful()),))
    for action in (lambda: open_vectors(location), lambda: create_vectors(f"{location}2", INFO)):
        with pytest.raises(FormatError, match="other than points"):
            action()
    assert not (tmp_path / "harmed").exists()
    with pytest.raises(AttributeError):
        client()  # Qdrant's own: it has run it when it finds that it made no point
    assert (tmp_path / "harmed").exists()

    file.write_bytes(b"SQLite format 3\0" + bytes(99))
    with pytest.raises(FormatError, match="not usable"):
        open_vectors(location)
    meta = tmp_path / "store/meta.json"
    for text in ("", "[]", "{}", '{"collections": 3}', json.dumps({"collections": {"../x": {}}})):
        meta.write_text(text)
        with pytest.raises(FormatError):
            open_vectors(location)


def test_without_the_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(MissingExtraError, match=r"linalign-lite\[qdrant\]"):
        open_vectors("qdrant:store#docs")
