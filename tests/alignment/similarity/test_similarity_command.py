"""The command `similarity` on the bundled models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from linalign_lite import HiddenStates, compare_all, demo, extract, load_model, load_states, save
from linalign_lite.alignment.similarity.comparison import common_rows
from linalign_lite.alignment.similarity.results import DIRECTED, MEASURES, SYMMETRIC
from linalign_lite.commands import main
from linalign_lite.core.shards.states_folder import states_of
from linalign_lite.extraction.pipeline import extract_to

QUICK = ("--permutations", "9", "--null-rows", "100")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """States of both models on the same 300 texts, in files and in shards, and of tokens."""
    folder = tmp_path_factory.mktemp("similarity")
    texts = demo.public_texts().texts[:300]
    for name in ("ash", "birch"):
        model = load_model(demo.model_folder(name))
        save(folder / f"{name}.states.npz", extract(model, texts))
        extract_to(folder / f"{name}.shards", model, texts, shard_texts=120)
        save(folder / f"{name}.tokens.npz", extract(model, texts[:40], pooling="tokens"))
        save(folder / f"{name}.other.npz", extract(model, texts[:20]))
    rng = np.random.default_rng(0)
    digest = load_states(folder / "ash.states.npz").text_digest
    noise = HiddenStates(rng.normal(size=(300, 16)), text_digest=digest)
    save(folder / "noise.states.npz", noise)
    return folder


def ran(capsys, *args, code=0):
    assert main(["similarity", *map(str, args)]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def test_three_models_in_a_table(made, capsys):
    files = [made / f"{name}.states.npz" for name in ("ash", "birch", "noise")]
    out, err = ran(capsys, *files, *QUICK)
    assert err == ""
    blocks = out.split("\n\n")
    assert blocks[0] == "300 rows of 3 models"
    assert [b.splitlines()[0] for b in blocks[1:]] == [
        "ash and birch",
        "ash and noise",
        "birch and noise",
    ]
    for block in blocks[1:]:
        rows = block.splitlines()[1:]
        assert rows[0].split() == ["value", "rows", "p", "paired", "shuffled", "most", "alike"]
        assert len(rows) == 1 + len(SYMMETRIC) + 2 * len(DIRECTED)
    alike = [row.split() for row in blocks[1].splitlines()[2:]]
    assert all(row[-4] == "0.1000" for row in alike)  # 1 / (9 + 1): as small as 9 shuffles allow
    assert "r2 ash to birch " in blocks[1]
    assert "cycle birch to ash and back " in blocks[1]
    noise = [row.split() for row in blocks[2].splitlines()[2:]]
    assert any(float(row[-4]) > 0.1 for row in noise)


def test_json_is_what_the_library_says(made, capsys):
    files = {name: made / f"{name}.states.npz" for name in ("ash", "birch")}
    data = json.loads(ran(capsys, *files.values(), *QUICK, "--json")[0])
    states = {name: load_states(path) for name, path in files.items()}
    found = compare_all(states, permutations=9, null_rows=100).pairs[0]
    assert data["pairs"] == [json.loads(json.dumps(found.as_dict()))]
    assert set(data["pairs"][0]["measures"]) == set(MEASURES)
    assert (data["rows"], data["permutations"], data["k"]) == (300, 9, 10)
    assert [m["dim"] for m in data["models"]] == [s.space.dim for s in states.values()]
    assert [m["digest"] for m in data["models"]] == [s.space.model for s in states.values()]


def test_options_reach_the_library(made, capsys):
    files = [made / f"{name}.states.npz" for name in ("ash", "birch")]
    args = ("--measures", "svcca, mutual_knn", "--k", 3, "--share", 0.5, "--limit", 200,
            "--knn-rows", 150, "--permutations", 0, "--seed", 2, "--folds", 4)  # fmt: skip
    data = json.loads(ran(capsys, *files, *args, "--json")[0])
    states = {p.name[:-11]: load_states(p).rows(np.arange(200)) for p in files}
    found = compare_all(
        states, measures=["svcca", "mutual_knn"], k=3, share=0.5, knn_rows=150, permutations=0,
        seed=2, folds=4,
    )  # fmt: skip
    assert data["pairs"] == [json.loads(json.dumps(found.pairs[0].as_dict()))]
    assert data["rows"] == 200
    lines = ran(capsys, *files, *args)[0].splitlines()
    assert [line.split()[0] for line in lines[4:]] == ["svcca", "mutual_knn"]
    assert all(len(line.split()) == 3 for line in lines[4:])  # no p without shuffles


def test_folders_of_shards_and_files_are_alike(made, capsys):
    a = ran(capsys, made / "ash.shards", made / "birch.states.npz", *QUICK)[0]
    b = ran(capsys, made / "ash.states.npz", made / "birch.shards", *QUICK)[0]
    assert a.replace("ash.shards", "ash").split() == b.replace("birch.shards", "birch").split()


def test_token_states_are_paired(made, capsys):
    files = {name: made / f"{name}.tokens.npz" for name in ("ash", "birch")}
    data = json.loads(ran(capsys, *files.values(), *QUICK, "--measures", "cka", "--json")[0])
    sets = common_rows({f"{n}.tokens": states_of(p) for n, p in files.items()})
    assert data["rows"] == len(next(iter(sets.values())))
    assert data["pairs"][0]["measures"]["cka"]["null"]["n"] == 40  # one token of each text


def test_two_files_of_one_name_are_told_apart(made, tmp_path, capsys):
    copy = tmp_path / "ash.states.npz"
    copy.write_bytes((made / "ash.states.npz").read_bytes())
    out = ran(capsys, made / "ash.states.npz", copy, *QUICK, "--measures", "cka")[0]
    assert f"{made / 'ash.states.npz'} and {copy}" in out
    assert "1.0000" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("ash.states.npz",), "needs states of two models or more: got 1"),
        (("ash.states.npz", "ash.states.npz"), "a file is given twice"),
        (("ash.states.npz", "gone.npz"), "gone.npz"),
        (("ash.states.npz", "birch.other.npz"), "made from different texts"),
        (("ash.states.npz", "birch.tokens.npz"), "no token positions"),
        (("ash.states.npz", "birch.states.npz", "--measures", "cka,x"), "unknown measure: got x"),
        (("ash.states.npz", "birch.states.npz", "--k", "300"), "expected 1 to 299"),
        (("ash.states.npz", "birch.states.npz", "--share", "2"), "share of variance"),
        (("ash.states.npz", "birch.states.npz", "--limit", "3"), "too few rows"),
        (("ash.states.npz", "birch.states.npz", "--permutations", "-1"), "permutations"),
    ],
)
def test_wrong_use_exits_with_2(made, capsys, monkeypatch, args, words):
    monkeypatch.chdir(made)
    out, err = ran(capsys, *args, code=2)
    assert out == ""
    assert words in " ".join(err.split())
