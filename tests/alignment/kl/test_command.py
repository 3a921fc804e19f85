"""`fit --objective kl`, as a user runs it, on the bundled models."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from linalign_lite import (
    demo,
    evaluate,
    extract,
    load_head,
    load_map,
    load_model,
    load_states,
    save,
    train_head,
)
from linalign_lite.alignment.kl import divergence_fit
from linalign_lite.commands import main
from linalign_lite.core.shards.states_folder import states_of
from linalign_lite.core.token_alignment import pair_states
from linalign_lite.extraction.pipeline import extract_to

MODELS = {name: demo.model_folder(name) for name in ("ash", "birch")}
TEXTS, STORIES = 1000, 100  # public texts, and those of them whose tokens are read
READ, SPEAKS = "birch", "ash"  # the model that reads, and the one whose head it is
FIELDS = {
    "out", "method", "penalty", "n", "n_held_out", "d_source", "d_target", "n_outputs",
    "temperature", "truth", "start_method", "start_penalty", "start_divergence",
    "start_agreement", "held_out_divergence", "held_out_agreement", "iterations", "warnings",
    "curve",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """States of both models on the same texts, of texts and of tokens, and a trained head."""
    folder = tmp_path_factory.mktemp("kl")
    public = demo.public_texts().texts
    for name, path in MODELS.items():
        model = load_model(path)
        save(folder / f"{name}.npz", extract(model, public[:TEXTS]))
        save(folder / f"{name}.other.npz", extract(model, public[TEXTS : TEXTS + 20]))
        save(folder / f"{name}.test.npz", extract(model, demo.labelled_texts(held_out=True)))
        extract_to(folder / f"{name}.tokens", model, public[:STORIES], shard_texts=40,
                   pooling="tokens", normalize=False)  # fmt: skip
    train = extract(load_model(MODELS[SPEAKS]), demo.labelled_texts(held_out=False))
    save(folder / "topics.head.npz", train_head(train, method="logistic", penalty=1e-3)[0])
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch) -> Path:
    """An empty folder to write to; what was made is in the folder `made`, which is not changed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(capsys, *args, code=0):
    """Standard output and standard error of the command, run in this process."""
    assert main([str(a) for a in args]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def sides(made: Path, kind: str = ".npz"):
    return made / f"{READ}{kind}", made / f"{SPEAKS}{kind}"


def test_a_classifiers_map(made, here, capsys):
    head = made / "topics.head.npz"
    ran(capsys, "fit", *sides(made), "plain.map.npz")
    out, err = ran(
        capsys, "fit", *sides(made), "x.map.npz", "--objective", "kl", "--head", head, "--json"
    )
    found = json.loads(out)
    assert err == "".join(f"warning: {w}\n" for w in found["warnings"])
    assert found.pop("verdict")["grade"] in {"poor", "usable", "good"}
    assert set(found) == FIELDS
    assert (found["method"], found["out"], found["n"]) == ("kl", "x.map.npz", TEXTS)
    assert (found["temperature"], found["truth"]) == (0.7, 0)
    assert (found["n_outputs"], found["start_method"]) == (5, "ridge")
    assert found["held_out_divergence"] < found["start_divergence"]
    assert found["held_out_divergence"] == min(score for _, score in found["curve"])
    affine = load_map("x.map.npz")
    assert affine.card["head"]["outputs"] == 5
    assert affine.card["penalty"] == found["penalty"]
    states = load_states(made / f"{READ}.test.npz")
    scores = [
        evaluate(load_head(head), states, affine=load_map(name)).accuracy.value
        for name in ("plain.map.npz", "x.map.npz")
    ]
    assert scores[1] > scores[0] - 0.02
    assert scores[1] > 0.5  # one of five is right by chance
    assert sorted(p.name for p in here.iterdir()) == ["plain.map.npz", "x.map.npz"]


def test_what_is_said_of_it(made, here, capsys):
    args = ("fit", *sides(made), "x", "--objective", "kl", "--head", made / "topics.head.npz",
            "--penalty", "0.5", "--iterations", "3", "--temperature", "1.25")  # fmt: skip
    out, _ = ran(capsys, *args)
    lines = out.splitlines()[:-2]  # a blank one and the verdict are the last
    rows = dict(line.split(None, 1) for line in lines if not line.startswith("held"))
    assert rows["map"] == "x"
    assert rows["objective"] == "kl, penalty 0.5, temperature 1.25, truth 0"
    assert rows["dimensions"].endswith(", 5 outputs")
    assert rows["rows"] == str(TEXTS)
    for words in ("held-out divergence", "held-out agreement"):
        assert any(line.startswith(words) and "(ridge: " in line for line in out.splitlines())
    found = json.loads(ran(capsys, *args, "--json")[0])
    assert found["penalty"] == pytest.approx(0.5)
    assert len(found["curve"]) == 1


def test_a_folded_head_gives_the_scores_of_map_then_head(made, here, capsys):
    head = made / "topics.head.npz"
    common = ("--head", head, "--objective", "kl", "--penalty", "0.1", "--iterations", "5")
    ran(capsys, "fit", *sides(made), "x.map.npz", *common)
    out, _ = ran(capsys, "fit", *sides(made), "x.head.npz", *common, "--fold")
    assert out.startswith("head")
    folded, affine, served = load_head("x.head.npz"), load_map("x.map.npz"), load_head(head)
    states = load_states(made / f"{READ}.test.npz")
    assert folded.labels == served.labels
    assert folded.space == states.space
    np.testing.assert_allclose(folded(states.states), served(affine(states.states)), atol=1e-4)
    # a least-squares map folds as well
    ran(capsys, "fit", *sides(made), "p.map.npz")
    ran(capsys, "fit", *sides(made), "p.head.npz", "--fold", "--head", head)
    wanted = served(load_map("p.map.npz")(states.states))
    np.testing.assert_allclose(load_head("p.head.npz")(states.states), wanted, atol=1e-4)


def test_a_token_heads_map_from_folders_of_shards(made, here, capsys):
    args = ("fit", *sides(made, ".tokens"), "x.map.npz", "--objective", "kl", "--head",
            MODELS[SPEAKS], "--penalty", "3", "--iterations", "5", "--json")  # fmt: skip
    found = json.loads(ran(capsys, *args)[0])
    assert (found["temperature"], found["truth"]) == (0.5, 0.2)
    source, target = pair_states(*(states_of(p) for p in sides(made, ".tokens")))
    assert found["n"] == len(target) > 300
    head = load_model(MODELS[SPEAKS]).token_head()
    assert found["n_outputs"] == head.n_outputs
    assert found["held_out_divergence"] < found["start_divergence"]
    affine = load_map("x.map.npz")
    assert (affine.source, affine.target) == (source.space, target.space)
    wanted = head.predict(target.states)
    assert np.mean(head.predict(affine(source.states)) == wanted) > 0.3
    after = json.loads(ran(capsys, *args, "--pair", "after", "--truth", "0")[0])
    assert after["n"] > found["n"]
    assert after["truth"] == 0
    ran(capsys, *args, "--fold")
    scores = load_head("x.map.npz")(source.states[:9])
    np.testing.assert_allclose(scores, head(affine(source.states[:9])), atol=1e-3)


def test_wrong_use_is_one_line_and_exit_code_2(made, here, capsys):
    head, kl = made / "topics.head.npz", ("--objective", "kl")
    mine, theirs = sides(made)
    (here / "bare").mkdir()
    bare = json.loads((MODELS[SPEAKS] / "card.json").read_text())
    tokens = sides(made, ".tokens")
    with_head = (*kl, "--head", head)
    cases = [
        (kl, "--objective kl needs --head"),
        (("--fold",), "--fold needs --head"),
        (("--head", head), "--head goes with --objective kl or --fold"),
        (("--temperature", "0.5"), "go with --objective kl"),
        (("--truth", "0.5"), "go with --objective kl"),
        (("--checkpoint", "c"), "go with --objective kl"),
        ((*with_head, "--method", "lstsq"), "kl starts from ridge: got lstsq"),
        ((*with_head, "--method", "procrustes"), "kl starts from ridge"),
        ((*with_head, "--temperature", "0"), "temperature or the share"),
        ((*with_head, "--truth", "1.5"), "temperature or the share"),
        ((*with_head, "--truth", "0.5"), "have no next tokens"),
        ((*with_head, "--iterations", "0"), "number of iterations is not usable"),
        ((*with_head, "--penalty", "much"), "penalty is not usable: got much"),
        ((*with_head, "--penalty", "nan"), "penalty is not usable: got nan"),
        ((*with_head, "--checkpoint", "gone/c"), "the folder gone is not there"),
        ((*with_head, "--checkpoint", "bare"), "a folder"),
        ((*with_head, "--checkpoint", "./x"), "--checkpoint is the map's own name"),
        ((*with_head, "--checkpoint", mine), "got linalign-states, expected format linalign-fit"),
        ((*kl, "--head", "gone.npz"), "cannot read gone.npz"),
        ((*kl, "--head", "bare"), "no card.json"),
        ((*kl, "--head", mine), "got linalign-states, expected format linalign-head"),
        ((*kl, "--head", MODELS[SPEAKS]), "this head does not read the target's states"),
        ((*kl, "--head", MODELS[READ]), "this head does not read the target's states"),
        (("--objective", "kullback"), "kullback"),
    ]
    before = {p: p.read_bytes() for p in made.glob("*.npz")}
    for options, words in cases:
        out, err = ran(capsys, "fit", mine, theirs, "x", *options, code=2)
        assert words in err, options
        assert out == ""
        assert err.count("\n") == 1 or "Usage" in err, options
    places = [
        ((mine, made / f"{SPEAKS}.other.npz", "x", *with_head), "different texts"),
        ((theirs, mine, "x", *with_head), "this head does not read the target's states"),
        ((*tokens, "x", *with_head), "this head does not read the target's states"),
        ((tokens[0], theirs, "x", *with_head), "texts"),
        ((mine, theirs, head, *with_head), "is an input of this command"),
    ]
    for given, words in places:
        out, err = ran(capsys, "fit", *given, code=2)
        assert words in err, given
        assert (out, err.count("\n")) == ("", 1)
    # an exported model without a token head
    bare["files"] = {name: d for name, d in bare["files"].items() if "head" not in name}
    (here / "bare" / "card.json").write_text(json.dumps(bare))
    _, err = ran(capsys, "fit", mine, theirs, "x", *kl, "--head", "bare", code=2)
    assert "bare has no token head" in err or "card.json" in err
    assert {p: p.read_bytes() for p in made.glob("*.npz")} == before
    assert sorted(p.name for p in here.iterdir()) == ["bare"]


def test_ctrl_c_leaves_no_map_and_keeps_what_was_done(made, here, capsys, monkeypatch):
    args = (
        "fit",
        *sides(made),
        "x.map.npz",
        "--objective",
        "kl",
        "--head",
        made / "topics.head.npz",
        "--iterations",
        "4",
        "--checkpoint",
        "job",
        "--json",
    )
    whole = json.loads(ran(capsys, *args)[0])
    wanted = Path("x.map.npz").read_bytes()
    Path("x.map.npz").unlink()
    assert not list(here.iterdir())
    plain, calls = divergence_fit.optimizer.minimise_divergence, []

    def pressed(*given, **options):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return plain(*given, **options)

    monkeypatch.setattr(divergence_fit.optimizer, "minimise_divergence", pressed)
    out, err = ran(capsys, *args, code=130)
    assert out == ""
    assert "interrupted" in err
    assert [p.name for p in here.iterdir()] == ["job"]
    # another job does not take it up, nor harm it
    kept = Path("job").read_bytes()
    _, err = ran(capsys, *args, "--seed", "1", code=2)
    assert "job belongs to another fit" in err
    assert Path("job").read_bytes() == kept
    calls.clear()
    calls.extend([1] * 10)  # no key is pressed again
    found = json.loads(ran(capsys, *args)[0])
    assert found == whole
    assert len(calls) - 10 == len(whole["curve"]) + 1 - 3
    assert Path("x.map.npz").read_bytes() == wanted
    assert [p.name for p in here.iterdir()] == ["x.map.npz"]
