"""An index behind a service, asked with `ask`."""

import asyncio
import contextlib
import gzip
import json
import re
import socket
import ssl
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from certificates import certificate
from command_line import run
from served import SPACE, ask, serving, some_states, write_heads

from linalign_lite import Client, Query, keygen
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import FormatError, InputError, LinalignError, MismatchError
from linalign_lite.heads.serialization import save
from linalign_lite.retrieval.index.building import build_index
from linalign_lite.retrieval.index.card import card_digest, parse_card
from linalign_lite.retrieval.index.clusters import NearestClusters
from linalign_lite.retrieval.index.reading import open_index
from linalign_lite.service import remote_provider
from linalign_lite.service.configuration import Configuration
from linalign_lite.service.published import READERS
from linalign_lite.service.remote_provider import RemoteProvider
from linalign_lite.service.startup import require_usable
from linalign_lite.service.workers import Workers
from linalign_lite.vectors.locations import open_vectors
from linalign_lite.vectors.source import Batch, VectorInfo, VectorSource


def write_index(folder):
    """An index of 900 documents beside a head, and a configuration of both."""
    path = write_heads(folder, 1)
    vectors = np.random.default_rng(2).normal(size=(900, SPACE.dim)).astype(np.float32)
    save(folder / "docs.states.npz", HiddenStates(vectors, space=SPACE))
    run("index", "build", folder / "docs.states.npz", folder / "docs.index")
    with open_vectors(folder / "docs.states.npz") as source:
        build_index(source, folder / "near.index", clusters=9)
    for name in ("docs", "near"):
        entry = f'[[heads]]\nname = "{name}"\nfile = "{name}.index"\n'
        path.write_text(path.read_text() + entry)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(write_index(tmp_path_factory.mktemp("served"))) as found:
        yield found
        assert found.stop() == 0


@pytest.fixture(scope="module")
def same(tmp_path_factory):
    """The folder of the same indexes."""
    folder = tmp_path_factory.mktemp("same")
    write_index(folder)
    return folder


@pytest.fixture(scope="module")
def index(same):
    return open_index(same / "docs.index")


@pytest.fixture(scope="module")
def near(same):
    return open_index(same / "near.index")


def test_ask_prints_the_best_documents(served, index, tmp_path):
    save(tmp_path / "q.states.npz", some_states(3))
    run("keygen", tmp_path / "keys", "--prove")
    words = ("ask", served.url, tmp_path / "q.states.npz", "--key", tmp_path / "keys")
    lines = run(*words, "--head", "docs", "--top", 2).stdout.splitlines()
    rows, _ = index.search(some_states(3), 2)
    assert [line.split()[0] for line in lines] == ["0", "0", "1", "1", "2", "2"]
    assert [int(line.split()[2]) for line in lines[::2]] == rows[:, 0].tolist()
    found = json.loads(run(*words, "--head", "docs", "--json").stdout)["found"]
    assert [int(f["documents"][0]["id"]) for f in found] == rows[:, 0].tolist()
    said = run(*words, "--head", "docs", "--ood", "energy", code=2).stderr
    assert "scores of a head" in said
    assert run(*words, "--head", "head0").stdout.startswith("label")


def test_what_is_published(served, index):
    status, content = ask(served, "GET", "/v1/heads/docs/index")
    assert status == 200
    assert parse_card("it", content) == index.card
    for path in ("/v1/heads/docs/ids", "/v1/heads/head0/index", "/v1/heads/gone/index"):
        assert ask(served, "GET", path)[0] == 404
    cards = json.loads(ask(served, "GET", "/v1/heads")[1])["heads"]
    assert [(c["name"], c["index"], c["n_outputs"]) for c in cards] == [
        ("head0", False, 4), ("docs", True, 900), ("near", True, 900)]  # fmt: skip
    with RemoteProvider(served.url, "docs") as provider:
        card, ids = provider.index()
        assert (card, ids[17], len(ids)) == (index.card, "17", 900)
    with (
        RemoteProvider(served.url, "head0", tries=1) as provider,
        pytest.raises(LinalignError, match="no index"),
    ):
        provider.index()


def test_ask_names_the_nearest_clusters(served, near, tmp_path):
    save(tmp_path / "q.states.npz", some_states(1))
    run("keygen", tmp_path / "keys", "--prove")
    words = ("ask", served.url, tmp_path / "q.states.npz", "--key", tmp_path / "keys", "--head")
    lines = run(*words, "near", "--top", 3, "--clusters", 2).stdout.splitlines()
    rows, scores = near.search(some_states(1), 3, clusters=2)
    assert [line.split()[2] for line in lines] == [near.ids[i] for i in rows[0].tolist()]
    assert [float(line.split()[4]) for line in lines] == pytest.approx(scores[0], abs=0.01)
    said = run(*words, "docs", "--clusters", 2, code=2).stderr
    assert "has no clusters" in said
    assert "of an index" in run(*words, "head0", "--clusters", 2, code=2).stderr
    whole = (near.folder / "centroids.rows").read_bytes()
    assert ask(served, "GET", "/v1/heads/near/centroids") == (200, whole)
    assert ask(served, "GET", "/v1/heads/docs/centroids")[0] == 404
    with RemoteProvider(served.url, "near") as provider:
        card, _ = provider.index()
        assert np.array_equal(provider.centroids(card).values, near.centroids.values)
        other = replace(card, clusters=replace(card.clusters, sha256="0" * 64))
        with pytest.raises(FormatError, match="digest"):
            provider.centroids(other)


def test_hostile_clusters_are_refused_by_the_service(served, near):
    """Clusters that are not there, of another index, or of a head: nothing is scored."""
    secret, public = keygen()
    client = Client(secret)
    query = client.encrypt(some_states(1), index=NearestClusters(near.centroids, 2))
    with RemoteProvider(served.url, "near", tries=1) as provider:
        provider.register(public)
        assert provider.score(query).info.clusters == query.info.clusters
        for fields, kind, word in (
            ({"clusters": (1, 4000)}, MismatchError, "no such cluster"),
            ({"index": "0" * 64}, MismatchError, "of another index"),
            ({"clusters": (5, 5)}, FormatError, "named twice"),
            ({"clusters": ()}, FormatError, "without clusters"),
        ):
            bad = Query(replace(query.info, **fields), query.payloads)
            with pytest.raises(kind, match=word):
                provider.score(bad)
        for head in ("docs", "head0"):
            provider.head = head
            with pytest.raises(MismatchError, match="of another index"):
                provider.score(query)


def test_configurations_of_damaged_indexes_are_refused(tmp_path):
    path = write_index(tmp_path)
    require_usable(Configuration.load(path))
    whole = path.read_text()
    path.write_text(whole + 'map = "m.npz"\n')
    with pytest.raises(InputError, match="cannot be folded"):
        require_usable(Configuration.load(path))
    path.write_text(whole)
    rows = tmp_path / "docs.index" / "00000.rows"
    content = bytearray(rows.read_bytes())
    content[77] ^= 1
    rows.write_bytes(content)
    with pytest.raises((LinalignError, MismatchError), match="does not have the digest"):
        require_usable(Configuration.load(path))


class Named(VectorSource):
    """Vectors (1, i) with ids of 250 characters: 20 MB of them."""

    info = VectorInfo(SPACE, 80_000, ids="texts")

    def batches(self, rows=4096, after=""):
        for start in range(0, 80_000, rows):
            numbers = range(start, min(start + rows, 80_000))
            vectors = np.ones((len(numbers), SPACE.dim), np.float32)
            yield Batch(tuple(f"{i:0250d}" for i in numbers), vectors)

    def current(self):
        return self.info


def memory(served):
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) << 10


def test_readers_of_ids_who_read_nothing_take_little_memory(tmp_path):
    """Under TLS, which copies what is written."""
    path = write_heads(tmp_path, 1)
    certificate(tmp_path, "server", certificate(tmp_path, "ca"))
    trust = str(tmp_path / "ca.pem")
    build_index(Named(), tmp_path / "docs.index")
    path.write_text(
        path.read_text() + '[[heads]]\nname = "docs"\nfile = "docs.index"\n'
        '[tls]\ncertificate = "server.pem"\nkey = "server.key.pem"\n'
    )
    with serving(path) as served, contextlib.ExitStack() as opened:
        address = served.url.removeprefix("https://").split(":")
        secured = ssl.create_default_context(cafile=trust)
        before = memory(served)
        for _ in range(READERS):
            bare = opened.enter_context(socket.create_connection((address[0], int(address[1]))))
            some = opened.enter_context(secured.wrap_socket(bare, server_hostname="127.0.0.1"))
            some.sendall(b"GET /v1/heads/docs/ids HTTP/1.1\r\nhost: x\r\n\r\n")
            assert some.recv(12) == b"HTTP/1.1 200"
        assert memory(served) - before < 10 * 20_080_000  # of 64 times as much
        with (
            RemoteProvider(served.url, "docs", tries=1, verify=trust) as provider,
            pytest.raises(LinalignError, match="429"),
        ):
            provider.index()
        opened.close()
        with RemoteProvider(
            served.url, "docs", verify=trust
        ) as provider:  # asks again until there is room
            assert provider.index()[1][79_999] == f"{79_999:0250d}"
        assert served.stop() == 0


@contextlib.contextmanager
def hostile(**answers):
    """A service that answers paths, by their last words, with these bytes, and headers."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            content, headers = answers[self.path.rpartition("/")[2]]
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_answers_of_a_hostile_service_are_limited(served, index, tmp_path, monkeypatch):
    heads = json.loads(ask(served, "GET", "/v1/heads")[1])["heads"]
    own = index.card.to_bytes(), {}
    other = [{**h, "n_outputs": 901} for h in heads]
    with (
        hostile(heads=(json.dumps({"heads": other}).encode(), {}), index=own) as url,
        RemoteProvider(url, "docs", tries=1) as provider,
        pytest.raises(FormatError, match="has other rows than the service says"),
    ):
        provider.index()
    build_index(Named(), tmp_path / "i")
    content = open_index(tmp_path / "i").card.to_bytes()
    listed = json.dumps({"heads": [{**h, "n_outputs": 80_000} for h in heads]}).encode()
    monkeypatch.setattr(remote_provider, "MAX_RESPONSE", 1 << 20)
    for ids, word in (
        ((b"x" * (2 << 20), {}), "too large"),
        ((gzip.compress(b"x" * (2 << 20)), {"content-encoding": "gzip"}), "does not hold the ids"),
    ):
        with (
            hostile(heads=(listed, {}), index=(content, {}), ids=ids) as url,
            RemoteProvider(url, "docs", tries=1) as provider,
            pytest.raises(LinalignError, match=word),
        ):
            provider.index()


def test_no_process_serves_an_index_that_the_service_did_not_read(tmp_path):
    configuration = Configuration.load(write_index(tmp_path))
    names = ("docs", "near")
    good = {n: card_digest(open_index(tmp_path / f"{n}.index").card) for n in names}

    async def started(indexes):
        workers = Workers(configuration.heads, 1, indexes)
        try:
            await workers.start()
        finally:
            workers.kill()

    asyncio.run(started(good))
    with pytest.raises(LinalignError, match="changed while it is served"):
        asyncio.run(started({"docs": "0" * 64}))
