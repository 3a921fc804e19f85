"""The command `fit --with-few` on the bundled models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from linalign_lite import (
    demo,
    evaluate,
    extract,
    fit,
    fit_kl,
    load_head,
    load_map,
    load_model,
    load_states,
    save,
    train_head,
)
from linalign_lite.commands import main
from linalign_lite.extraction.pipeline import extract_to

READS, OWNS = "birch", "ash"  # the client's model and the one of the provider, who has the head
FIELDS = {
    "out", "method", "objective", "few_weight", "penalty", "start_penalty", "n_public", "n_few",
    "folds", "d_source", "d_target", "n_outputs", "temperature", "truth", "loss", "loss_error",
    "public_loss", "public_error", "few_loss", "few_error", "both_loss", "both_error", "warnings",
    "curve",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    public, train = demo.public_texts().texts, demo.labelled_texts(held_out=False)
    for name in (READS, OWNS):
        model = load_model(demo.model_folder(name))
        save(folder / f"{name}.npz", extract(model, public[:600]))
        save(folder / f"{name}.few.npz", extract(model, train.texts[::5]))
        save(folder / f"{name}.seven.npz", extract(model, train.texts[:7]))
        save(folder / f"{name}.test.npz", extract(model, demo.labelled_texts(held_out=True)))
        for kind, texts in (("tokens", public[:60]), ("few-tokens", public[60:80])):
            extract_to(folder / f"{name}.{kind}", model, texts, pooling="tokens", normalize=False)
    states = extract(load_model(demo.model_folder(OWNS)), train)
    save(folder / "topics.head.npz", train_head(states, method="logistic", penalty=1e-3)[0])
    return folder


def ran(capsys, *args, code=0):
    assert main([str(a) for a in args]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def sides(made: Path, kind: str = "") -> tuple[Path, Path]:
    return made / f"{READS}{kind}.npz", made / f"{OWNS}{kind}.npz"


def test_least_squares(made, here, capsys):
    few = sides(made, ".few")
    out, _ = ran(capsys, "fit", *sides(made), "x.map.npz", "--with-few", *few, "--json")
    found = json.loads(out)
    assert found.pop("verdict") is None  # `evaluate` decides
    assert set(found) == FIELDS
    assert (found["method"], found["objective"]) == ("ridge", "least-squares")
    assert (found["n_public"], found["n_few"], found["n_outputs"]) == (600, 59, None)
    assert found["loss"] == min(found["public_loss"], found["few_loss"], found["both_loss"])
    card = load_map("x.map.npz").card
    assert {k: found[k] for k in FIELDS - {"out", "curve"}}.items() <= card.items()
    assert card["few_text_digest"] == load_states(few[0]).text_digest
    assert [p.name for p in here.iterdir()] == ["x.map.npz"]


def test_for_a_head_it_serves_better_than_either_side_by_ridge(made, here, capsys):
    few, head = sides(made, ".few"), load_head(made / "topics.head.npz")
    _, err = ran(capsys, "fit", *sides(made), "x.map.npz", "--objective", "kl",
                 "--head", made / "topics.head.npz", "--with-few", *few)  # fmt: skip
    assert "\x1b" not in err
    test = load_states(sides(made, ".test")[0])
    alone = [fit(*map(load_states, pair))[0] for pair in (sides(made), few)]
    ours = evaluate(head, test, affine=load_map("x.map.npz")).accuracy.value
    assert ours >= max(evaluate(head, test, affine=a).accuracy.value for a in alone) - 0.02
    out, _ = ran(capsys, "inspect", "x.map.npz", "--json")
    assert json.loads(out)["n_few"] == 59


def test_what_is_said_of_it(made, here, capsys):
    few = sides(made, ".few")
    out, _ = ran(capsys, "fit", *sides(made), "x.map.npz", "--with-few", *few,
                 "--few-weight", "0.5", "--penalty", "0.1")  # fmt: skip
    lines = dict(line.split("  ", 1) for line in out.splitlines()[:-2] if line[0] != " ")
    assert lines["objective"].strip() == "least-squares, penalty 0.1"
    assert lines["rows"].strip() == "600 public, 59 few"
    assert lines["weight of the few"].strip() == "0.5 times that of the public texts"
    found = load_map("x.map.npz").card["loss"]
    assert lines["held-out R²"].strip().startswith(f"{1 - found:.4f} ± ")
    out, _ = ran(capsys, "fit", *sides(made), "y.map.npz", "--with-few", *few, "--objective",
                 "kl", "--head", made / "topics.head.npz", "--few-weight", "inf",
                 "--penalty", "3")  # fmt: skip
    assert "infinite: only the few texts count" in out
    assert "start's" in out
    assert "held-out divergence" in out
    assert "public alone" not in out


def test_weight_0_is_the_map_of_the_public_texts(made, here, capsys):
    few, head = sides(made, ".few"), made / "topics.head.npz"
    out, _ = ran(capsys, "fit", *sides(made), "x.map.npz", "--with-few", *few, "--objective",
                 "kl", "--head", head, "--few-weight", "0", "--temperature", "0.9")  # fmt: skip
    assert "0: only the public texts count" in out
    from linalign_lite import Teaching

    plain, _ = fit_kl(*map(load_states, sides(made)), load_head(head), teaching=Teaching(0.9))
    np.testing.assert_array_equal(load_map("x.map.npz").weight, plain.weight)


def test_folded_it_is_a_head_for_the_source(made, here, capsys):
    few = sides(made, ".few")
    ran(capsys, "fit", *sides(made), "x.head.npz", "--with-few", *few, "--fold",
        "--head", made / "topics.head.npz", "--penalty", "0.1")  # fmt: skip
    folded = load_head("x.head.npz")
    assert folded.space == load_states(few[0]).space
    assert folded.labels == load_head(made / "topics.head.npz").labels


def test_tokens_are_paired_on_both_sides(made, here, capsys):
    public = [made / f"{n}.tokens" for n in (READS, OWNS)]
    few = [made / f"{n}.few-tokens" for n in (READS, OWNS)]
    out, _ = ran(capsys, "fit", *public, "x.map.npz", "--with-few", *few, "--penalty", "0.1",
                 "--few-weight", "1", "--json")  # fmt: skip
    found = json.loads(out)
    assert found["n_public"] > found["n_few"] > 20
    assert (found["few_loss"], found["public_loss"]) == (None, None)


def test_wrong_use_is_one_line_and_exit_code_2(made, here, capsys):
    public, few, seven = sides(made), sides(made, ".few"), sides(made, ".seven")
    tokens = [made / f"{n}.few-tokens" for n in (READS, OWNS)]
    head = made / "topics.head.npz"
    cases = [
        (("--few-weight", "1"), "--few-weight goes with --with-few"),
        (("--with-few", few[0]), "requires 2 arguments"),
        (("--with-few", *few, "--few-weight", "-1"), "weight of the few texts is not usable"),
        (("--with-few", *few, "--few-weight", "lots"), "weight of the few texts is not usable"),
        (("--with-few", *few, "--method", "lstsq"), "--with-few is for ridge or kl: got lstsq"),
        (("--with-few", *few[::-1]), "few texts' source states are not like the public ones"),
        (("--with-few", *tokens), "few texts' source states are not like the public ones"),
        (("--with-few", few[0], public[1]), "different texts"),
        (("--with-few", *seven), "too few to choose anything by: got 7, expected 8 or more"),
        (("--with-few", few[0], "gone.npz"), "cannot read gone.npz"),
        (("--with-few", *few, "--folds", "60"), "number of folds"),
        (("--with-few", *few, "--temperature", "1"), "go with --objective kl"),
        (("--with-few", *few, "--objective", "kl"), "needs --head"),
        (("--with-few", *few, "--objective", "kl", "--head", head, "--checkpoint", "c"),
         "--with-few keeps no checkpoint"),
        (("--with-few", *few, "--objective", "kl", "--head", head, "--penalty", "-1"),
         "penalty is not usable"),
    ]  # fmt: skip
    for options, words in cases:
        out, err = ran(capsys, "fit", *public, "x.map.npz", *options, code=2)
        assert words in err, options
        assert out == ""
        assert err.count("\n") == 1 or "Usage" in err, options
    _, err = ran(capsys, "fit", *public, few[0], "--with-few", *few, code=2)
    assert "is an input of this command" in err
    assert not list(here.iterdir())
