"""The command `ask`, against a real service."""

import json

import numpy as np
import pytest
from command_line import run
from served import CLASSES, DIM, a_head, serving, some_states, write_heads

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.space import Space
from linalign_lite.heads.serialization import save


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(write_heads(tmp_path_factory.mktemp("ask"), 2)) as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    run("keygen", folder / "keys")
    save(folder / "mine.states.npz", some_states(3))
    return folder


def test_it_registers_the_key_and_prints_the_best_labels(served, files):
    states, out = files / "mine.states.npz", files / "scores.jsonl"
    words = ("ask", served.url, states, "--key", files / "keys", "--head", "head1")
    done = run(*words, "--json", "--top", 2, "--out", out)
    found = json.loads(done.stdout)
    exact = some_states(3).states @ a_head(1).weight.T + a_head(1).bias
    best = [f"label {i}" for i in exact.argmax(axis=1)]
    assert [row[0]["label"] for row in found["best"]] == best
    assert len(found["best"][0]) == 2
    rows = [json.loads(line)["scores"] for line in out.read_text().splitlines()]
    assert np.abs([[r[f"label {i}"] for i in range(CLASSES)] for r in rows] - exact).max() < 2e-2
    assert run(*words).stdout.splitlines()[0].startswith(best[0])


def test_a_map_is_applied_here(served, files):
    theirs = Space(DIM + 1, "cd" * 32, "other", "mean")
    rng = np.random.default_rng(3)
    affine = AffineMap(rng.normal(size=(DIM, DIM + 1)) / 9, rng.normal(size=DIM) / 9, theirs,
                       some_states(1).space)  # fmt: skip
    states = HiddenStates(rng.normal(size=(2, DIM + 1)).astype(np.float32), space=theirs)
    save(files / "other.states.npz", states)
    save(files / "map.npz", affine)
    words = ("ask", served.url, files / "other.states.npz", "--key", files / "keys")
    done = run(*words, "--map", files / "map.npz", "--head", "head0", "--json")
    exact = affine(states.states) @ a_head(0).weight.T + a_head(0).bias
    best = [row[0]["label"] for row in json.loads(done.stdout)["best"]]
    assert best == [f"label {i}" for i in exact.argmax(axis=1)]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "the service has several heads"),
        (("--head", "none"), 2, "no such head: got none, expected one of head0, head1"),
        (("--head", "head0", "--cert", "x.pem"), 2, "a client's certificate needs its key"),
        (("--head", "head0", "--cacert", "missing.pem"), 2, "cannot read missing.pem"),
    ],
)
def test_what_is_refused(served, files, words, code, said):
    states = files / "mine.states.npz"
    done = run("ask", served.url, states, "--key", files / "keys", *words, code=code)
    assert said in done.stderr


def test_states_of_another_space_are_not_sent(served, files):
    save(files / "strange.states.npz", HiddenStates(np.eye(2, DIM, dtype=np.float32)))
    known = Space(DIM, "ef" * 32, "strange", "mean")
    save(files / "named.states.npz", HiddenStates(np.eye(2, DIM, dtype=np.float32), space=known))
    words = ("--key", files / "keys", "--head", "head0")
    done = run("ask", served.url, files / "named.states.npz", *words, code=2)
    assert "do not belong to head head0" in done.stderr


def test_a_service_that_is_not_there(files, tmp_path):
    words = ("ask", "http://127.0.0.1:9", files / "mine.states.npz", "--key", files / "keys")
    said = run(*words, code=1).stderr
    assert "the service at http://127.0.0.1:9 does not answer: got ConnectError" in said
    assert "waiting" in said
    words = ("ask", "nowhere", files / "mine.states.npz", "--key", files / "keys")
    assert "this is no address of a service" in run(*words, code=2).stderr
