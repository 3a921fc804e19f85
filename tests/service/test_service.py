"""A real service, asked over HTTP."""

import contextlib
import json
import signal
import socket
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from served import CLASSES, SPACE, a_head, ask, close, serving, some_states, write_heads

from linalign_lite.core.signing import SigningKey
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.keys import keygen
from linalign_lite.encrypt.messages import Query
from linalign_lite.encrypt.packing import Layout
from linalign_lite.errors import BudgetError, FormatError, InputError, LinalignError, MismatchError
from linalign_lite.service.remote_provider import RemoteProvider, UnknownKeyError


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(write_heads(tmp_path_factory.mktemp("two"), 2)) as found:
        yield found
        assert found.stop() == 0


@pytest.fixture(scope="module")
def pair():
    return keygen()


@pytest.fixture(scope="module")
def registered(served, pair):
    with RemoteProvider(served.url, "head1") as provider:
        provider.register(pair[1])
    return pair


def test_scores_are_those_of_the_head(served, registered):
    states, client = some_states(3), Client(registered[0])
    query = client.encrypt(states, n_outputs=CLASSES)
    for i in range(2):
        with RemoteProvider(served.url, f"head{i}") as provider:
            scores = client.decrypt(provider.score(query), query)
        assert close(scores, a_head(i), states)
        assert scores.labels == a_head(i).labels


def test_heads_are_described(served):
    with RemoteProvider(served.url) as provider:
        heads = provider.heads()
        assert [h.name for h in heads] == ["head0", "head1"]
        assert all((h.space, h.n_outputs, h.profile) == (SPACE, CLASSES, "private") for h in heads)
        with pytest.raises(InputError, match="several heads: got no name, expected one of head0"):
            provider.chosen()
        with pytest.raises(InputError, match="no such head: got other"):
            RemoteProvider(served.url, "other").chosen()


def test_a_key_must_be_registered(served):
    secret, public = keygen()
    query = Client(secret).encrypt(some_states(1))
    with RemoteProvider(served.url, "head0") as provider:
        with pytest.raises(UnknownKeyError, match="register the public key"):
            provider.score(query)
        provider.register(public)
        provider.register(public)  # once more changes nothing
        assert len(provider.score(query)) == 1


def test_errors_are_those_of_the_library(served, registered):
    client = Client(registered[0])
    with RemoteProvider(served.url, "head0") as provider:
        other = client.encrypt(np.eye(1, 8))
        with pytest.raises(MismatchError, match="does not belong in the head's space"):
            provider.score(other)
        few = client.encrypt(some_states(1), n_outputs=1)
        with pytest.raises(MismatchError, match="serves fewer scores than the head has"):
            provider.score(few)
        good = client.encrypt(some_states(1))
        forged = Query(good.info, (b"\xff" * len(good.payloads[0]),))
        with pytest.raises(FormatError, match="not below its prime"):
            provider.score(forged)
    with pytest.raises(InputError, match="no address of a service"):
        RemoteProvider("ftp://somewhere")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(LinalignError, match="does not answer: got ConnectError"):
        RemoteProvider(address, tries=2).heads()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/", b"", 404, "Not Found"),
        ("GET", "/v1/heads/none", b"", 404, "UnknownHead"),
        ("GET", "/v1/heads/head0/score", b"", 405, "Method Not Allowed"),
        ("POST", "/v1/heads/none/score", b"x", 404, "UnknownHead"),
        ("POST", "/v1/heads/head0/score", b"", 400, "too short to be a query"),
        ("POST", "/v1/heads/head0/score", b"x" * 1000, 400, "no key, query or response"),
        ("POST", "/v1/keys", b"x" * 1000, 400, "no key, query or response"),
        ("POST", "/v1/keys", b"x" * (1 << 18), 413, "TooLarge"),
        ("PUT", "/v1/keys/zz/proof", b"x", 403, "UnknownKey"),
        ("PUT", f"/v1/keys/{'00' * 32}/proof", b"x", 403, "UnknownKey"),
        ("GET", "/v1/heads/head0/budget", b"", 404, "NoBudget"),
    ],
)
def test_requests_that_are_refused(served, method, path, body, status, said):
    found, text = ask(served, method, path, body)
    assert found == status
    assert said in text.decode()


def test_a_length_is_stated_and_held_to(served):
    host, port = served.url.removeprefix("http://").split(":")
    head = b"POST /v1/heads/head0/score HTTP/1.1\r\nHost: x\r\n"
    for lines, status in (
        (b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", b"411"),
        (b"Content-Length: 99999999999\r\n\r\n", b"413"),
        (b"Content-Length: -1\r\n\r\n", b"400"),
    ):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(head + lines)
            assert connection.recv(4096).split(b" ", 2)[1] == status


def test_a_name_is_one_part_of_the_path(served):
    with (
        RemoteProvider(served.url, "../heads?x", tries=1) as provider,
        pytest.raises(InputError, match="cannot be the name of a head"),
    ):
        provider.score(Client(keygen()[0]).encrypt(some_states(1)))


def test_pages_of_other_origins_may_ask_if_they_are_named(tmp_path):
    path = write_heads(tmp_path)
    path.write_text('origins = ["https://example.org"]\n' + path.read_text())
    asked = {
        "Origin": "https://example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    with serving(path) as served:
        assert ask(served, "OPTIONS", "/v1/heads/head0/score", headers=asked)[0] == 200
        asked["Origin"] = "https://example.com"
        assert ask(served, "OPTIONS", "/v1/heads/head0/score", headers=asked)[0] == 400


def test_health_metrics_and_description(served):
    assert ask(served, "GET", "/health")[0] == 200
    assert json.loads(ask(served, "GET", "/ready")[1]) == {"ready": True}
    text = ask(served, "GET", "/metrics")[1].decode()
    assert 'linalign_requests_total{route="/health",status="200"}' in text
    assert "linalign_waiting 0.0" in text
    description = json.loads(ask(served, "GET", "/openapi.json")[1])
    assert "/v1/heads/{head}/score" in description["paths"]


def test_logs_hold_nothing_of_queries_or_keys(served, registered):
    query = Client(registered[0]).encrypt(some_states(1))
    with RemoteProvider(served.url, "head0") as provider:
        provider.score(query)
    while not served._lines.empty():
        served.log.append(served._lines.get())
    text = "".join(served.log)
    assert query.digest not in text
    assert registered[1].digest.hex() not in text
    assert "127.0.0.1" not in text.partition('"ready"')[2].partition("\n")[2]


# -- accounts and budgets --------------------------------------------------------------------------


def test_accounts_pay_once(tmp_path):
    signer, stranger = SigningKey.generate(), SigningKey.generate()
    signer.verifying.save(tmp_path / "signer.pub")
    more = {"accounts": ["signer.pub"], "budget": "budget.sqlite", "limit": 5}
    path = write_heads(tmp_path, 1, **more)
    path.write_text('audit_log = "audit.jsonl"\n' + path.read_text())
    secret, public = keygen(account=signer)
    client = Client(secret, account=signer)
    with serving(path) as served, RemoteProvider(served.url) as provider:
        with pytest.raises(LinalignError, match="is not among those that are answered"):
            provider.register(keygen(account=stranger)[1])
        with pytest.raises(LinalignError, match="belongs to no account"):
            provider.register(keygen()[1])
        provider.register(public)
        query = client.encrypt(some_states(3))
        first, again = provider.score(query), provider.score(query)
        assert first.payloads == again.payloads
        assert close(client.decrypt(first, query), a_head(), some_states(3))
        usage = provider.budget(signer)
        assert (usage["used"], usage["limit"], usage["pending"]) == (3, 5, 0)
        assert provider.budget(stranger)["used"] == 0
        with pytest.raises(BudgetError, match="used up: got 3 states"):
            provider.score(client.encrypt(some_states(3)))
        unsigned = Client(secret).encrypt(some_states(1))
        with pytest.raises(LinalignError, match="not signed by the account"):
            provider.score(unsigned)
        found, _ = ask(served, "GET", "/v1/heads/head0/budget")
        assert found == 403
    asked = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [a["states"] for a in asked] == [3, 3]
    assert asked[0]["account"] == signer.public.hex()


def test_faults_of_the_service_are_not_described(tmp_path):
    """The book of charges is gone, is no book, or is locked: 503, and nothing of its name."""
    signer = SigningKey.generate()
    path = write_heads(tmp_path, 1, budget="book.sqlite", limit=100)
    secret, public = keygen(account=signer)
    client, book = Client(secret, account=signer), tmp_path / "book.sqlite"
    with serving(path) as served, RemoteProvider(served.url, "head0", tries=1) as provider:
        provider.register(public)
        query = client.encrypt(some_states(1))
        copy = tmp_path / "copy"
        with contextlib.closing(sqlite3.connect(book)) as db:
            db.execute("VACUUM INTO ?", [str(copy)])
        for damage in (book.unlink, lambda: book.write_bytes(b"x" * 500)):
            damage()
            found, text = ask(served, "POST", "/v1/heads/head0/score", query.to_bytes())
            assert found == 503
            assert b"book" not in text
            with pytest.raises(LinalignError, match="does not answer: got status 503"):
                provider.score(query)
        for left in ("-wal", "-shm"):
            Path(f"{book}{left}").unlink(missing_ok=True)
        copy.replace(book)
        assert close(client.decrypt(provider.score(query), query), a_head(), some_states(1))
        assert provider.budget(signer)["used"] == 1


def test_a_proof_is_verified_when_it_is_registered(tmp_path):
    from linalign_lite.encrypt.key_proof import proof_bytes, proven

    secret, public = keygen()
    good = proven(secret, public)
    with serving(write_heads(tmp_path)) as served, RemoteProvider(served.url) as provider:
        provider.register(public)
        path = f"/v1/keys/{public.digest.hex()}/proof"
        bad = bytearray(proof_bytes(good))
        bad[-40] ^= 1
        assert ask(served, "PUT", path, bytes(bad))[0] == 400
        provider.register(good)
        states = some_states(300)
        layout = Layout(4096, 16, 16, 300)  # more together than a key without a proof may
        query = Client(secret).encrypt(states, layout=layout)
        assert close(Client(secret).decrypt(provider.score(query), query), a_head(), states)


# -- what goes wrong -------------------------------------------------------------------------------


def test_heads_are_reloaded_and_a_bad_configuration_is_not(tmp_path):
    path = write_heads(tmp_path)
    with serving(path) as served, RemoteProvider(served.url) as provider:
        write_heads(tmp_path, 2)
        served.process.send_signal(signal.SIGHUP)
        served.wait_for("reloaded")
        assert len(provider.heads()) == 2
        path.write_text("keys = 3\n")
        served.process.send_signal(signal.SIGHUP)
        served.wait_for("not reloaded")
        assert len(provider.heads()) == 2


def test_slow_senders_are_let_go(tmp_path):
    path = write_heads(tmp_path)
    path.write_text("request_seconds = 0.5\n" + path.read_text())
    with serving(path) as served:
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(
                b"POST /v1/heads/head0/score HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx"
            )
            assert connection.recv(4096).split(b" ", 2)[1] == b"408"
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"GET /hea")  # half of a request line, and nothing more
            assert connection.recv(4096) == b""
        assert ask(served, "GET", "/health")[0] == 200


def test_a_service_that_cannot_start_says_why(tmp_path):
    path = write_heads(tmp_path)
    assert "heads head0" in run("serve", path, "--check").stdout
    (tmp_path / "0.head.npz").write_bytes(b"nothing")
    assert "0.head.npz" in run("serve", path, code=2).stderr
