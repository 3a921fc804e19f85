"""An index behind a service, asked with `ask`."""

import json

import numpy as np
import pytest
from command_line import run
from served import SPACE, ask, serving, some_states, write_heads

from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import InputError, LinalignError, MismatchError
from linalign_lite.heads.serialization import save
from linalign_lite.retrieval.index.card import parse_card
from linalign_lite.retrieval.index.reading import open_index
from linalign_lite.service.configuration import Configuration
from linalign_lite.service.remote_provider import RemoteProvider
from linalign_lite.service.startup import require_usable


def write_index(folder):
    """An index of 900 documents beside a head, and a configuration of both."""
    path = write_heads(folder, 1)
    vectors = np.random.default_rng(2).normal(size=(900, SPACE.dim)).astype(np.float32)
    save(folder / "docs.states.npz", HiddenStates(vectors, space=SPACE))
    run("index", "build", folder / "docs.states.npz", folder / "docs.index")
    path.write_text(path.read_text() + '[[heads]]\nname = "docs"\nfile = "docs.index"\n')
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(write_index(tmp_path_factory.mktemp("served"))) as found:
        yield found
        assert found.stop() == 0


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same")
    write_index(folder)
    return open_index(folder / "docs.index")


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
        ("head0", False, 4), ("docs", True, 900)]  # fmt: skip
    with RemoteProvider(served.url, "docs") as provider:
        card, ids = provider.index()
        assert (card, ids[17], len(ids)) == (index.card, "17", 900)
    with (
        RemoteProvider(served.url, "head0", tries=1) as provider,
        pytest.raises(LinalignError, match="no index"),
    ):
        provider.index()


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
