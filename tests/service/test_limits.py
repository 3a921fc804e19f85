"""Limits on one client, for the sake of the others, and processes that hang."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest
from served import CLASSES, DIM, a_head, close, serving, some_states, write_heads

from linalign_lite.core.signing import SigningKey
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.key_proof import proven
from linalign_lite.encrypt.keys import keygen
from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.wire import Kind, stated_form
from linalign_lite.errors import MismatchError
from linalign_lite.heads.serialization import save
from linalign_lite.service import key_store
from linalign_lite.service.configuration import HeadEntry
from linalign_lite.service.key_store import KeyStore
from linalign_lite.service.remote_provider import RemoteProvider
from linalign_lite.service.workers import Workers


@pytest.fixture(scope="module")
def pair():
    return keygen()


@pytest.mark.parametrize(
    ("setting", "said"),
    [("most_seconds = 0.1", "takes too long"), ("most_response = 20000", "is too large")],
)
def test_one_query_is_limited(tmp_path, pair, setting, said):
    path = write_heads(tmp_path)
    path.write_text(f"{setting}\n" + path.read_text())
    client = Client(pair[0])
    with serving(path) as served, RemoteProvider(served.url, tries=1) as provider:
        provider.register(pair[1])
        assert len(provider.score(client.encrypt(some_states(1), n_outputs=CLASSES))) == 1
        with pytest.raises(MismatchError, match=f"{said}.*send fewer states"):
            provider.score(client.encrypt(some_states(4000), layout=Layout(4096, DIM, 1, 32)))
        assert served.stop() == 0


def test_a_proof_that_comes_later_is_used(tmp_path, pair):
    """Queries under a proven key may share more of a product."""
    secret, public = pair
    with serving(write_heads(tmp_path)) as served, RemoteProvider(served.url) as provider:
        provider.register(public)
        client = Client(secret, proven=True)
        query = client.encrypt(some_states(256), layout=Layout(4096, DIM, DIM, 256))
        with pytest.raises(MismatchError, match="only under a proven key"):
            provider.score(query)
        provider.register(proven(secret, public))
        scores = client.decrypt(provider.score(query), query)
        assert close(scores, a_head(), some_states(256))


def test_large_requests_leave_room_for_small_ones(tmp_path, pair):
    path = write_heads(tmp_path)
    path.write_text("most_body = 2000000\n" + path.read_text())
    with serving(path) as served, RemoteProvider(served.url, tries=1) as provider:
        provider.register(pair[1])
        host, port = served.url.removeprefix("http://").split(":")
        stalled = [socket.create_connection((host, int(port))) for _ in range(8)]
        head = b"POST /v1/heads/head0/score HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n"
        for one in stalled:
            one.sendall(head + bytes(1_900_000))
        for _ in range(3):
            assert len(provider.score(Client(pair[0]).encrypt(some_states(1)))) == 1
        for one in stalled:
            one.close()


def test_a_stated_form_differs_where_cost_does(pair):
    client = Client(pair[0])
    made = [
        client.encrypt(some_states(n), layout=Layout(4096, DIM, 1, batch)).to_bytes()
        for n, batch in ((144, 16), (576, 64), (576, 64))
    ]
    forms = [stated_form(raw, Kind.QUERY) for raw in made]
    assert forms[0][0] != forms[1][0]
    assert forms[1] == forms[2]
    assert forms[1][1] == pair[1].digest


def test_a_process_that_hangs_is_replaced_and_its_query_answered(tmp_path, pair, monkeypatch):
    head = tmp_path / "h.npz"
    save(head, a_head())
    public, states = tmp_path / "public.key", some_states(1)
    pair[1].save(public)
    query = Client(pair[0]).encrypt(states)
    monkeypatch.setattr("linalign_lite.service.workers._PATIENCE", 4.0)

    async def asked():
        workers = Workers((HeadEntry(name="h", file=head),), 1)
        await workers.start()
        assert workers.is_ready
        [process] = workers._processes
        os.kill(process._process.pid, signal.SIGSTOP)
        answer = await workers.score("h", query.to_bytes(), public, 1.0)
        assert workers.lost == 1
        await workers.close()
        assert not workers.is_ready
        return answer

    found = asyncio.run(asyncio.wait_for(asked(), 60))
    assert found.states == 1
    assert not list(Path("/dev/shm").glob(f"linalign-heads-{os.getpid()}-*"))


def test_closing_ends_what_hangs(tmp_path, pair):
    head = tmp_path / "h.npz"
    save(head, a_head())
    query = Client(pair[0]).encrypt(some_states(1)).to_bytes()

    async def closed():
        workers = Workers((HeadEntry(name="h", file=head),), 2)
        await workers.start()
        processes = list(workers._processes)
        for process in processes:
            os.kill(process._process.pid, signal.SIGSTOP)
        asking = asyncio.ensure_future(workers.score("h", query, None, 1.0))
        await asyncio.sleep(0)
        await workers.close(seconds=0.5)
        with pytest.raises(Exception, match="were ended"):
            await asking
        with pytest.raises(Exception, match="ended"):
            await workers.score("h", query, None, 1.0)
        for process in processes:
            process._process.join(10)
            assert not process.is_alive

    asyncio.run(asyncio.wait_for(closed(), 60))


def test_of_too_many_keys_the_oldest_go(tmp_path, monkeypatch):
    monkeypatch.setattr(key_store, "PER_ACCOUNT", 2)
    account = SigningKey.generate()
    mine = [keygen(account=account)[1] for _ in range(3)]
    others = [keygen()[1] for _ in range(3)]
    store = KeyStore(tmp_path / "keys", 4)

    def register(key, moment):
        assert store.register(key)
        os.utime(store.path(key.digest), (moment, moment))

    for moment, key in enumerate(mine):
        register(key, moment)
    assert [store.path(k.digest) is None for k in mine] == [True, False, False]
    for moment, key in enumerate(others):
        register(key, 10 + moment)
    assert [store.path(k.digest) is None for k in others] == [True, False, False]
    assert store.count == len(list((tmp_path / "keys").glob("*/*.key"))) == 4
    assert KeyStore(tmp_path / "keys", 4).count == 4
