"""Budgets under a service: shared by two of them, and gone, locked or full."""

import contextlib
import resource
import sqlite3
import threading
from pathlib import Path

import pytest
from served import serving, some_states, write_heads
from vectors.postgresql import Server

from linalign_lite.core.signing import SigningKey
from linalign_lite.encrypt.budgets import sqlite_store
from linalign_lite.encrypt.budgets.budget import Budget
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.keys import keygen
from linalign_lite.encrypt.packing import Layout
from linalign_lite.errors import BudgetError, LinalignError
from linalign_lite.service.remote_provider import RemoteProvider


@pytest.fixture(scope="module")
def database():
    with Server() as found:
        yield found


@pytest.fixture(scope="module")
def customer():
    signer = SigningKey.generate()
    secret, public = keygen(account=signer)
    return signer, Client(secret, account=signer), public


def logged(served):
    """The next error that a service writes to its log."""
    return served.wait_for("cannot answer")["error"]


def test_two_services_share_one_budget(tmp_path, database, customer):
    """They share the URL of the budget and the folder of keys, as two machines would."""
    signer, client, public = customer
    configuration = write_heads(tmp_path, 1, budget=database.budget("shared"), limit=20)
    with (
        serving(configuration) as one,
        serving(configuration) as two,
        RemoteProvider(one.url, "head0") as first,
        RemoteProvider(two.url, "head0") as second,
    ):
        for provider in (first, second):  # a service looks for others' keys once a second
            provider.register(public)
        query = client.encrypt(some_states(3))
        assert first.score(query).payloads == second.score(query).payloads
        assert first.budget(signer)["used"] == second.budget(signer)["used"] == 3
        for _ in range(3):  # at the same moment
            query, answers = client.encrypt(some_states(2)), []

            def ask(provider, query=query, answers=answers):
                answers.append(provider.score(query).payloads)

            threads = [threading.Thread(target=ask, args=[p]) for p in (first, second)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(answers) == 2
            assert answers[0] == answers[1]
        usage = second.budget(signer)
        assert (usage["used"], usage["pending"]) == (9, 0)
        first.score(client.encrypt(some_states(6)))
        second.score(client.encrypt(some_states(5)))
        for provider in (first, second):
            with pytest.raises(BudgetError, match="used up"):
                provider.score(client.encrypt(some_states(1)))
        assert first.budget(signer)["used"] == 20


def test_a_database_that_stops_is_not_an_answer(tmp_path, database, customer):
    signer, client, public = customer
    configuration = write_heads(tmp_path, 1, budget=database.budget("stops"), limit=20)
    with serving(configuration) as served, RemoteProvider(served.url, "head0", tries=1) as provider:
        provider.register(public)
        provider.score(client.encrypt(some_states(1)))
        database.halt()
        try:
            query = client.encrypt(some_states(2))
            with pytest.raises(LinalignError, match="does not answer: got status 503"):
                provider.score(query)
            with pytest.raises(LinalignError, match="does not answer: got status 503"):
                provider.budget(signer)
        finally:
            database.start()
        for _ in range(2):
            assert "cannot use budget stops of" in logged(served)
        for _ in range(2):
            provider.score(query)
        usage = provider.budget(signer)
        assert (usage["used"], usage["pending"]) == (3, 0)


@pytest.fixture
def asking(tmp_path, customer):
    """A service with a budget in a file: its process, a provider that tries once, and the file."""
    configuration = write_heads(tmp_path, 1, budget="book.sqlite", limit=1000)
    with serving(configuration) as served, RemoteProvider(served.url, "head0", tries=1) as provider:
        provider.register(customer[2])
        yield served, provider, tmp_path / "book.sqlite"
    sqlite_store.close_connections()


def test_a_file_that_goes_and_comes_back(asking, customer):
    served, provider, book = asking
    _, client, _ = customer
    provider.score(client.encrypt(some_states(1)))
    moved, query = book.with_name("moved"), client.encrypt(some_states(2))
    book.rename(moved)
    with pytest.raises(LinalignError, match="got status 503"):
        provider.score(query)
    error = logged(served)
    assert "cannot read" in error
    assert "book.sqlite" in error
    moved.rename(book)
    provider.score(query)
    (usage,) = Budget(book).usage()
    assert (usage.used, usage.pending) == (3, 0)


def test_a_restored_copy_is_used_at_once(asking, customer, tmp_path):
    """The copy is older: what was charged since is forgotten, and replays stay free."""
    served, provider, book = asking
    signer, client, _ = customer
    provider.score(client.encrypt(some_states(1)))
    with contextlib.closing(sqlite3.connect(book)) as db:
        db.execute("VACUUM INTO ?", [str(tmp_path / "copy")])
    query = client.encrypt(some_states(2))
    answer = provider.score(query)
    (tmp_path / "copy").replace(book)
    with pytest.raises(LinalignError, match="got status 503"):
        provider.score(client.encrypt(some_states(1)))
    error = logged(served)
    assert "was replaced, but not the write-ahead log" in error
    for suffix in ("-wal", "-shm"):
        Path(f"{book}{suffix}").unlink()
    assert provider.budget(signer)["used"] == 1
    assert provider.score(query).payloads == answer.payloads
    provider.score(client.encrypt(some_states(4)))
    assert provider.budget(signer)["used"] == 5


def test_a_full_disk_charges_nothing_without_an_answer(asking, customer):
    """Files may not grow beyond some size: any write of a charge, or of a response, fails."""
    served, provider, book = asking
    signer, client, _ = customer
    provider.score(client.encrypt(some_states(1)))
    (child,), total, refused = served.children(), 1, 0
    for frames in range(13):  # of the log: there is room for none, a part or all of a charge
        room = Path(f"{book}-wal").stat().st_size + 4120 * frames
        query = client.encrypt(some_states(20), layout=Layout(4096, 16, 1))
        resource.prlimit(child, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        try:
            provider.score(query)
        except LinalignError as e:
            assert "got status 503" in str(e)  # noqa: PT017
            refused += 1
        infinite = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(child, resource.RLIMIT_FSIZE, infinite)
        total += 20
        for _ in range(2):
            provider.score(query)
        usage = provider.budget(signer)
        assert (usage["used"], usage["pending"]) == (total, 0)
    assert refused >= 5
    assert "disk full" in logged(served)
    assert served.children() == [child]


@pytest.mark.slow
def test_a_file_that_is_locked(asking, customer):
    """It is waited for, 30 s; then the log says so, and nothing is charged."""
    served, provider, book = asking
    signer, client, _ = customer
    query = client.encrypt(some_states(2))
    with contextlib.closing(sqlite3.connect(book, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LinalignError, match="got status 503"):
            provider.score(query)
        assert provider.budget(signer)["used"] == 0  # reading waits for nobody
        db.execute("ROLLBACK")
    assert "SQLITE_BUSY" in logged(served)
    provider.score(query)
    usage = provider.budget(signer)
    assert (usage["used"], usage["pending"]) == (2, 0)
