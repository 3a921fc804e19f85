"""Clients that misbehave, and files of the service that cannot be used."""

import contextlib
import json
import socket
import sqlite3
import threading
from pathlib import Path

import pytest
import served as served_module
from command_line import COMMAND
from served import Served, a_head, serving, some_states, write_heads

from linalign_lite.core.signing import SigningKey
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.key_proof import proof_bytes, proven
from linalign_lite.encrypt.keys import keygen
from linalign_lite.errors import LinalignError
from linalign_lite.service.remote_provider import RemoteProvider

UNAVAILABLE = "does not answer: got status 503"
HEAVY = ("onnxruntime", "torch", "tokenizers", "transformers", "onnx", "sklearn", "matplotlib")


@pytest.fixture(scope="module")
def pair():
    account = SigningKey.generate()
    return (*keygen(account=account), account)


@pytest.fixture(scope="module")
def served(tmp_path_factory, pair):
    path = write_heads(tmp_path_factory.mktemp("one"))
    path.write_text("request_seconds = 2\n" + path.read_text())
    with serving(path) as found:
        with RemoteProvider(found.url) as provider:
            provider.register(pair[1])
        yield found
        assert found.stop() == 0


def a_query(pair, n=1, seed=1):
    return Client(pair[0], account=pair[2]).encrypt(some_states(n, seed))


def is_right(pair, served, n=1, seed=1):
    """Return True if a query is answered at once, with the scores of its head."""
    states, query = some_states(n, seed), a_query(pair, n, seed)
    with RemoteProvider(served.url, "head0", tries=1) as provider:
        values = Client(pair[0]).decrypt(provider.score(query), query).values
    exact = states.states @ a_head().weight.T + a_head().bias
    return abs(values - exact).max() < 2e-2


def connected(served):
    host, port = served.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def all_of(connection):
    """Read until the connection is closed, by whatever means."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            found += part
    return found


def request(body, stated=None, path="/v1/heads/head0/score"):
    length = len(body) if stated is None else stated
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + body


def logged(served, event):
    """The lines of an event, once there is one."""
    while not any(f'"{event}"' in line for line in served.log):
        served.log.append(served._lines.get(timeout=30))
    return [json.loads(line) for line in served.log if f'"{event}"' in line]


# -- clients ---------------------------------------------------------------------------------------


def test_a_client_that_ends_its_side_gets_its_answer(served, pair):
    for count in (1, 3):
        with connected(served) as connection:
            connection.sendall(request(a_query(pair, 20).to_bytes()) * count)
            connection.shutdown(socket.SHUT_WR)
            assert all_of(connection).count(b"HTTP/1.1 200 OK") == count


def test_half_a_request_is_dropped(served, pair):
    whole = request(a_query(pair).to_bytes())
    for size in (1, 20, whole.index(b"\r\n\r\n") + 4, len(whole) - 1):
        with connected(served) as connection:
            connection.sendall(whole[:size])
            connection.shutdown(socket.SHUT_WR)
            assert b"200 OK" not in all_of(connection)


@pytest.mark.parametrize(
    "start", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000]
)
def test_a_head_of_a_request_has_an_end(served, start):
    sent = 0
    with connected(served) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(start)
        for _ in range(1000):
            connection.sendall(b"x" * 10_000)
            sent += 10_000
    assert sent < 10_000_000  # what the system's buffers take, and no more


def test_requests_that_wait_on_one_connection_are_few(served):
    """A connection takes some bytes of them, not hundreds of megabytes."""
    many, sent = b"GET /v1/heads HTTP/1.1\r\nHost: x\r\n\r\n" * 1000, 0
    with connected(served) as connection, contextlib.suppress(ConnectionError):
        for _ in range(1000):
            sent += connection.send(many)
    assert sent < 1000 * len(many)
    with RemoteProvider(served.url) as provider:
        assert len(provider.heads()) == 1


def test_those_who_announce_much_keep_nobody_out(served, pair):
    with contextlib.ExitStack() as opened:
        for _ in range(20):
            connection = opened.enter_context(connected(served))
            connection.sendall(request(b"x", 64 << 20))
        assert is_right(pair, served)


def test_senders_of_a_byte_now_and_then_keep_nobody_out(served, pair):
    stop = threading.Event()

    def send(data):
        while not stop.is_set():
            with connected(served) as connection, contextlib.suppress(ConnectionError):
                for byte in data:
                    connection.sendall(bytes([byte]))
                    if stop.wait(0.2):
                        return

    data = [request(b"x" * 99), b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 9]
    threads = [threading.Thread(target=send, args=(d,)) for d in data * 10]
    for thread in threads:
        thread.start()
    try:
        assert all(is_right(pair, served, 3, seed) for seed in range(10))
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def test_many_connections_at_once(served, pair):
    with contextlib.ExitStack() as opened:
        for _ in range(300):
            opened.enter_context(connected(served)).sendall(b"GET /hea")
        assert is_right(pair, served)


def test_more_connections_than_files_may_be_open(tmp_path, pair, monkeypatch):
    """Those that send no request make room for one that does, and the log stays short."""
    start = 'ulimit -n 300; exec "$@"'
    monkeypatch.setattr(served_module, "COMMAND", ["bash", "-c", start, "-", *COMMAND])
    with serving(write_heads(tmp_path)) as served, contextlib.ExitStack() as opened:
        with RemoteProvider(served.url) as provider:
            provider.register(pair[1])
        for _ in range(600):
            connection = opened.enter_context(connected(served))
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /hea")
        assert all(is_right(pair, served, 1, seed) for seed in range(5))
        assert served.stop() == 0
        assert served._lines.qsize() < 50


def test_another_protocol_is_not_offered(served):
    lines = b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    with connected(served) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n" + lines)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")


# -- files -----------------------------------------------------------------------------------------


def test_a_folder_of_keys_that_cannot_be_written(tmp_path, pair):
    path, keys = write_heads(tmp_path), tmp_path / "keys"
    with serving(path) as served, RemoteProvider(served.url, "head0", tries=1) as provider:
        keys.rename(tmp_path / "away")
        keys.write_text("no folder")
        with pytest.raises(LinalignError, match=UNAVAILABLE):
            provider.register(pair[1])
        [line] = logged(served, "cannot answer")
        assert "the folder of keys cannot be written" in line["error"]
        status = provider._client.post("/v1/keys", content=pair[1].to_bytes())
        assert (status.status_code, str(tmp_path) in status.text) == (503, False)
        keys.unlink()
        (tmp_path / "away").rename(keys)
        provider.register(pair[1])
        assert is_right(pair, served)
        proof = proof_bytes(proven(*pair[:2]))
        folder = keys / pair[2].public.hex()
        (folder / f"{pair[1].digest.hex()}.proof").mkdir()
        url = f"/v1/keys/{pair[1].digest.hex()}/proof"
        assert provider._client.put(url, content=proof).status_code == 503
        (folder / f"{pair[1].digest.hex()}.proof").rmdir()
        assert provider._client.put(url, content=proof).status_code == 200


def test_a_registered_key_that_cannot_be_read(tmp_path, pair):
    with serving(write_heads(tmp_path)) as served:
        with RemoteProvider(served.url, "head0", tries=1) as provider:
            provider.register(pair[1])
            [file] = (tmp_path / "keys").glob("*/*.key")
            kept = file.read_bytes()
            file.write_bytes(b"nothing")
            answer = provider._client.post(
                "/v1/heads/head0/score", content=a_query(pair).to_bytes()
            )
            assert (answer.status_code, str(tmp_path) in answer.text) == (503, False)
            assert "a registered key cannot be read" in logged(served, "cannot answer")[0]["error"]
            file.write_bytes(kept)
        assert is_right(pair, served)


def test_an_audit_log_that_cannot_be_written(tmp_path, pair):
    """The answer was charged before, so it is sent; the service's log names the fault."""
    path, audit = write_heads(tmp_path, 1, budget="budget.sqlite", limit=100), tmp_path / "audit"
    path.write_text('audit_log = "audit/log"\n' + path.read_text())
    audit.mkdir()
    with serving(path) as served, RemoteProvider(served.url, "head0", tries=1) as provider:
        provider.register(pair[1])
        audit.rmdir()
        assert is_right(pair, served, 3)
        [line] = logged(served, "audit log not written")
        assert (line["level"], line["states"]) == ("error", 3)
        assert provider.budget(pair[2])["used"] == 3
        audit.mkdir()
        assert is_right(pair, served, 2, seed=2)
        assert json.loads((audit / "log").read_text())["states"] == 2
        assert provider.budget(pair[2])["used"] == 5


def test_a_budget_that_is_locked_for_a_moment(tmp_path, pair):
    """The query waits, and is charged once."""
    path, book = write_heads(tmp_path, 1, budget="budget.sqlite", limit=100), "budget.sqlite"
    with serving(path) as served, RemoteProvider(served.url, "head0", tries=1) as provider:
        provider.register(pair[1])
        with contextlib.closing(
            sqlite3.connect(tmp_path / book, isolation_level=None, check_same_thread=False)
        ) as db:
            db.execute("BEGIN EXCLUSIVE")
            timer = threading.Timer(1.0, lambda: db.execute("ROLLBACK"))
            timer.start()
            assert is_right(pair, served)
            timer.join()
        assert provider.budget(pair[2])["used"] == 1


# -- what it needs ---------------------------------------------------------------------------------


def test_a_service_loads_no_models(tmp_path, pair, monkeypatch):
    """It runs, scores and verifies proofs where none of these packages can be imported."""
    blocked = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in HEAVY)
    (tmp_path / "sitecustomize.py").write_text(blocked)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with serving(write_heads(tmp_path)) as served:
        with RemoteProvider(served.url) as provider:
            provider.register(proven(*pair[:2]))
        assert is_right(pair, served)
        for process in (served.process.pid, *served.children()):
            maps = Path(f"/proc/{process}/maps").read_text()
            assert not any(f"/{name}" in maps for name in ("onnxruntime", "torch", "libtorch"))


def test_a_service_that_was_killed_starts_again(tmp_path, pair):
    path = write_heads(tmp_path, 1, budget="budget.sqlite", limit=100)
    with serving(path) as served:
        with RemoteProvider(served.url) as provider:
            provider.register(pair[1])
        assert is_right(pair, served, 3)
        served.process.kill()
        served.process.wait(30)
    served = Served(path)
    try:
        assert is_right(pair, served, 2, seed=2)
        with RemoteProvider(served.url, "head0") as provider:
            assert provider.budget(pair[2])["used"] == 5
    finally:
        served.process.kill()
