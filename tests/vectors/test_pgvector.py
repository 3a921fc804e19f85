"""Tables of a real PostgreSQL with pgvector."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
from vectors.contract import check_back_end, made, read, write
from vectors.postgresql import Server
from vectors.store_contract import (
    check_kill,
    check_metrics,
    check_round_trips,
    check_switch,
    check_untouched,
    read_slowly,
    write_slowly,
)

import linalign_lite as la
from linalign_lite.commands import main
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.vectors.checks import ChangedError, DuplicateIdError
from linalign_lite.vectors.locations import create_vectors, open_vectors
from linalign_lite.vectors.source import Batch, VectorInfo, named_space
from linalign_lite.vectors.stores.common import StoreError

pytest.importorskip("psycopg")
INFO = VectorInfo(named_space(5, "maker/model-1"), 23)


@pytest.fixture(scope="module")
def server():
    with Server() as started:
        yield started


@pytest.fixture
def db(server):
    """A connection; all tables are removed afterwards."""
    with server.connect() as connection:
        yield connection
    with server.connect() as connection:  # another: a test may have ended the server meanwhile
        connection.execute(
            "DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE EXTENSION vector"
        )


def tables(db):
    found = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return sorted(name for (name,) in found)


def test_contract(server, db):
    check_back_end(server.location("docs"), absent=lambda: tables(db) == [])
    assert tables(db) == ["docs"]


def test_what_goes_in_comes_out(server, db):
    numbers = count()
    check_round_trips(lambda: server.location(f"t{next(numbers)}"))


def test_kill_and_resume(server, db):
    check_kill(server.location("docs"), absent=lambda: "docs" not in tables(db))
    assert tables(db) == ["docs"]


def test_start_again_after_a_kill(server, db):
    with create_vectors(server.location("docs"), INFO) as sink:
        with pytest.raises(StoreError, match="another run"):
            create_vectors(server.location("docs"), INFO)
        sink.write(made())
        sink.sink._db.close()  # as a kill would; `abort` finds no connection
    assert tables(db) == ["docs.partial"]
    write(server.location("docs"), made(n=3))
    assert tables(db) == ["docs"]
    assert len(read(server.location("docs"))[0]) == 3


def test_switch(server, db):
    check_switch(server.location("docs"), server.location("docs_new"))
    check_metrics(server.location("m"), server.location("n"))
    check_untouched(server.location("u"))


def test_a_server_that_goes_away(server, db):
    location = server.location("docs")
    write(location, made())
    with pytest.raises(StoreError, match="reading"):
        read_slowly(location, lambda i, _: server.halt() if i == 1 else None)
    with pytest.raises(StoreError, match="connecting"):
        open_vectors(location)
    server.start()
    with pytest.raises(StoreError, match="writing"):
        write_slowly(server.location("new"), lambda i, _: server.halt() if i == 3 else None)
    server.start()
    with server.connect() as again:
        assert tables(again) == ["docs", "new.partial"]
    with create_vectors(server.location("new"), INFO, resume=True) as sink:
        assert sink.cursor == "15"
    with server.connect() as again:
        assert tables(again) == ["docs"]
    assert len(read(location)[0]) == 23


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO docs VALUES ('new', '[1,2,3,4,5]')",
        "DELETE FROM docs WHERE id = 'doc-3'",
        "UPDATE docs SET embedding = '[1,2,3,4,5]' WHERE id = 'doc-22'",
        "DELETE FROM docs WHERE id = 'doc-3'; INSERT INTO docs VALUES ('new', '[1,2,3,4,5]')",
    ],
)
def test_a_table_that_changes_while_it_is_read(server, db, change):
    write(server.location("docs"), made())
    with pytest.raises(ChangedError):
        read_slowly(server.location("docs"), lambda i, _: db.execute(change) if i == 1 else None)


def test_tables_of_others(server, db):
    db.execute(
        'CREATE TABLE "My docs" (n bigint PRIMARY KEY, "the text" text, at timestamptz,'
        " price numeric, tags text[], emb halfvec(4), other vector(2))"
    )
    db.execute(
        """INSERT INTO "My docs" SELECT i, 'text ' || i, '2026-01-02 03:04:05+00', 1.25, ARRAY['a'],
        ARRAY[i, 0.5, -i, 2]::real[]::halfvec, '[1,2]' FROM generate_series(20, 1, -1) AS i"""
    )
    with pytest.raises(InputError, match="got emb, other"):
        open_vectors(server.location("My docs"))
    location = server.location("public.My docs", "&column=emb")
    found, info, _ = read(location, rows=7)
    assert (info.dim, info.count, info.metric, info.ids) == (4, 20, "", "integers")
    assert found.ids == tuple(map(str, range(1, 21)))
    np.testing.assert_array_equal(found.vectors[:, 0], np.arange(1, 21))
    assert found.payload[2] == {
        "the text": "text 3", "at": "2026-01-02T03:04:05+00:00", "price": 1.25, "tags": ["a"],
        "other": "[1,2]",
    }  # fmt: skip
    assert read(location, after="13")[0].ids == tuple(map(str, range(14, 21)))
    db.execute('CREATE INDEX ON "My docs" USING hnsw (emb halfvec_cosine_ops)')
    with open_vectors(location) as source:
        assert source.info.metric == "cosine"
    # a copy has the integers as its key
    with (
        open_vectors(location) as source,
        create_vectors(server.location("copy"), source.info) as sink,
    ):
        for batch in source.batches(7):
            sink.write(batch)
        sink.finish()
    (kind,) = db.execute("SELECT pg_typeof(id)::text FROM copy LIMIT 1").fetchone()
    assert kind == "bigint"


def test_partitions_and_views(server, db):
    db.execute("CREATE TABLE p (id int PRIMARY KEY, v vector(2)) PARTITION BY RANGE (id)")
    for low, high in ((0, 5), (5, 100)):
        db.execute(f"CREATE TABLE p{low} PARTITION OF p FOR VALUES FROM ({low}) TO ({high})")
    db.execute("INSERT INTO p SELECT i, '[1,2]' FROM generate_series(9, 0, -1) AS i")
    db.execute("CREATE MATERIALIZED VIEW m AS SELECT * FROM p")
    db.execute("CREATE VIEW w AS SELECT * FROM p")
    for table in ("p", "m"):
        found, info, _ = read(server.location(table, "&id=id"), rows=4)
        assert found.ids == tuple(map(str, range(10)))
        assert info.count == 10
    with pytest.raises(InputError, match="is no table"):
        open_vectors(server.location("w", "&id=id"))


def test_no_usable_table(server, db):
    db.execute("CREATE TABLE a (id text, v vector(2))")
    db.execute("CREATE TABLE b (id text PRIMARY KEY, v text)")
    db.execute("CREATE TABLE c (id text PRIMARY KEY, v vector(2))")
    db.execute("INSERT INTO c VALUES ('a', '[1,2]'), ('b', NULL)")
    db.execute("CREATE TABLE d (id text PRIMARY KEY, v vector)")
    wrong = {"a": "primary key", "b": "one column `vector`", "c": "without a vector",
             "missing": "is not there", "": "names no table", "a.b.c": "no table"}  # fmt: skip
    for table, text in wrong.items():
        with pytest.raises(InputError, match=text):
            open_vectors(server.location(table))
    with pytest.raises(InputError, match="one column `vector`"):
        open_vectors(server.location("c", "&column=w"))
    with pytest.raises(FormatError, match="dimension is not known"):
        open_vectors(server.location("d"))
    db.execute("INSERT INTO d VALUES ('a', '[1,2]'), ('b', '[1,2,3]')")
    with pytest.raises(MismatchError, match="another dimension: got 3, expected 2"):
        read(server.location("d"))
    db.execute("INSERT INTO a VALUES ('x', '[1,2]'), ('x', '[1,2]')")
    with pytest.raises(DuplicateIdError):
        read(server.location("a", "&id=id"))


def test_what_a_table_says_of_itself_is_checked(server, db):
    write(server.location("docs"), made())
    for comment in ("ours", '{"other": 1}'):
        db.execute(f"COMMENT ON TABLE docs IS '{comment}'")
        assert read(server.location("docs"))[1].model == ""
    for comment in ('{"linalign_lite": 3}', '{"linalign_lite": {"space": {}}}', "linalign_lite"):
        db.execute(f"COMMENT ON TABLE docs IS '{comment}'")
        with pytest.raises(FormatError):
            open_vectors(server.location("docs"))


def test_refusals_of_a_sink(server, db):
    with pytest.raises(InputError, match="too long"):
        create_vectors(server.location("n" * 60), INFO)
    with pytest.raises(StoreError, match="creating"):  # pgvector's own limit
        create_vectors(server.location("wide"), VectorInfo(named_space(20_000)))
    nul = Batch(("a\0b",), np.ones((1, 5), np.float32))
    with pytest.raises(StoreError, match="writing"):
        write(server.location("nul"), nul)
    with create_vectors(server.location("docs"), INFO) as sink:
        for _ in range(2):  # within a batch `CheckedSink` finds them, else the table's key
            sink.sink.write(made())
        with pytest.raises(DuplicateIdError):
            sink.sink.finish()
    assert tables(db) == []
    db.execute("CREATE DATABASE plain")
    with pytest.raises(StoreError, match="CREATE EXTENSION vector"):
        create_vectors(server.location("docs", database="plain"), INFO)


def test_a_password_is_not_repeated(server, db, capsys):
    write(server.location("a"), made())
    write(server.location("b"), made())
    secret = "&password=geheim"
    places = [server.location(name, secret) for name in "ab"]
    for arguments in (["info", places[0]], ["export", places[0], server.location("c", secret)],
                      ["switch", *places]):  # fmt: skip
        assert main(["vectors", *arguments]) == 0
    assert main(["vectors", "export", *reversed(places)]) == 2  # b has become a
    shown = capsys.readouterr()
    assert "geheim" not in shown.out + shown.err
    assert "…#a" in shown.out
    with pytest.raises(StoreError) as failed:
        open_vectors("postgresql://me:geheim@127.0.0.1:9/db?password=geheim#docs")
    assert "geheim" not in str(failed.value)


@pytest.mark.parametrize("option", ["&password=hunter2", "&sslpassword=hunter2"])
def test_commands_do_not_show_passwords(db, server, tmp_path, capsys, option):
    np.save(tmp_path / "x.npy", np.eye(3, dtype=np.float32))
    la.save(tmp_path / "m.map.npz", la.fit(np.eye(3), np.eye(3), penalty=1.0, folds=3)[0])
    live, new = (server.location(name, option) for name in ("live", "new"))
    for args in (
        ("vectors", "export", f"{tmp_path}/x.npy", live),
        ("vectors", "info", live),
        ("apply", f"{tmp_path}/m.map.npz", live, new),
        ("vectors", "switch", live, new),
        ("vectors", "export", f"{tmp_path}/x.npy", live),  # is already there
        ("vectors", "info", live.replace("///", "//me:hun/ter@2hunter2@absent.invalid/")),
        ("vectors", "info", live.replace("///", "")),  # which is no URL to PostgreSQL
        ("vectors", "info", live.replace("///", "//me:hunter2#@h/")),
    ):
        for form in ((), ("--json",)):
            main([*args, *form])
            out, err = capsys.readouterr()
            assert "hunter2" not in out + err
