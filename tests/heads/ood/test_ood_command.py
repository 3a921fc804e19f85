"""The commands `ood` and `decrypt --ood` on the bundled models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import refused, run

from linalign_lite import (
    demo,
    evaluate_detector,
    extract,
    fit,
    load_detector,
    load_head,
    load_map,
    load_model,
    load_states,
    save,
    train_head,
)
from linalign_lite.extraction.pipeline import extract_to
from linalign_lite.extraction.texts import Texts

STRANGE = [
    "what is the exchange rate of the dollar", "transfer 400 dollars to my savings account",
    "the committee approved the quarterly budget", "def main(): return 0",
    "interest rates rose by half a percent in march", "is my flight to boston delayed",
    "please set an alarm for 7 am", "a proof follows by induction on n",
    "shares of the company fell in early trading", "how do I reset my router",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """States of both models: labelled training and test texts, outlying texts, public texts."""
    folder = tmp_path_factory.mktemp("ood")
    train, test = (demo.labelled_texts(held_out=h) for h in (False, True))
    public = demo.public_texts().texts[:1000]
    for name in ("ash", "birch"):
        model = load_model(demo.model_folder(name))
        save(folder / f"{name}.train.npz", extract(model, train))
        save(folder / f"{name}.test.npz", extract(model, test))
        save(folder / f"{name}.strange.npz", extract(model, STRANGE))
        save(folder / f"{name}.public.npz", extract(model, public))
        extract_to(folder / f"{name}.train", model, train, shard_texts=100)
    states = {n: load_states(folder / f"{n}.public.npz") for n in ("ash", "birch")}
    save(folder / "b-to-a.map.npz", fit(states["birch"], states["ash"])[0])
    save(
        folder / "topics.head.npz",
        train_head(load_states(folder / "ash.train.npz"), method="logistic", penalty=1e-2)[0],
    )
    return folder


def test_fit_score_evaluate(made, here):
    done = run("ood", "fit", made / "ash.train.npz", "d.npz", "--validation", made / "ash.test.npz",
               "--method", "cosine")  # fmt: skip
    assert "cosine" in done.stdout
    assert "threshold" in done.stdout
    fitted = load_detector("d.npz")
    test, strange = (load_states(made / f"ash.{x}.npz") for x in ("test", "strange"))
    lines = run("ood", "score", "d.npz", made / "ash.strange.npz").stdout.splitlines()
    assert len(lines) == len(STRANGE)
    np.testing.assert_allclose(
        [float(x.split()[0]) for x in lines], fitted.scores(strange), rtol=1e-5
    )
    said = [x.split()[1] == "out" for x in lines]
    np.testing.assert_array_equal(said, fitted.outlying(strange))
    as_json = json.loads(run("ood", "score", "d.npz", made / "ash.strange.npz", "--json").stdout)
    assert as_json["outlying"] == said
    assert as_json["n"] == len(STRANGE)
    args = ("ood", "evaluate", "d.npz", made / "ash.test.npz", made / "ash.strange.npz")
    found = json.loads(run(*args, "--json").stdout)
    wanted = evaluate_detector(fitted, test, strange)
    assert found.pop("verdict") == wanted.verdict.as_dict()
    assert found == json.loads(json.dumps(wanted.as_card()))
    assert found["auroc"]["value"] > 0.7
    assert found["roc"][0] == [0, 0]
    shown = run(*args).stdout
    assert f"AUROC             {wanted.auroc.value:.4f}" in shown
    assert "of in kept" in shown
    assert "detector of outlying states" in run("inspect", "d.npz").stdout


def test_auto_reports_the_methods_tried(made, here):
    done = run("ood", "fit", made / "ash.train.npz", "d.npz", "--method", "auto", "--json")
    found = json.loads(done.stdout)
    assert found["tried"][found["method"]] == max(found["tried"].values())
    assert load_detector("d.npz").card["tried"] == found["tried"]
    assert "fold 1 of 3: mahalanobis" in done.stderr
    shown = run("ood", "fit", made / "ash.train.npz", "d.npz", "--method", "auto", "-q")
    assert "AUROC of labels left out" in shown.stdout
    assert shown.stderr == ""


def test_folders_of_states_are_read_too(made, here):
    for name in ("ash.train", "ash.train.npz"):
        run("ood", "fit", made / name, f"{Path(name).name}.ood.npz", "--method", "knn", "-k", "3")
    a, b = (load_detector(f"{x}.ood.npz") for x in ("ash.train", "ash.train.npz"))
    # batches differ, so values agree to float32 rounding; two texts differ by far more
    np.testing.assert_allclose(a.rule.bank, b.rule.bank, rtol=0, atol=1e-5)
    distances = np.linalg.norm(a.rule.bank[:, None] - a.rule.bank, axis=2)
    assert np.sort(distances, axis=1)[:, 1].min() > 0.1
    assert a.rule.k == 3
    assert a.threshold is None


def test_a_threshold_is_reset_for_mapped_states(made, here):
    run("ood", "fit", made / "ash.train.npz", "a.npz", "--validation", made / "ash.test.npz")
    run("ood", "threshold", "a.npz", made / "birch.test.npz", "b.npz",
        "--map", made / "b-to-a.map.npz", "--tpr", "0.9")  # fmt: skip
    before, after = load_detector("a.npz"), load_detector("b.npz")
    mapped = after.scores(load_states(made / "birch.test.npz"), load_map(made / "b-to-a.map.npz"))
    assert after.threshold == before.with_threshold(mapped, 0.9).threshold
    assert after.tpr == 0.9
    lines = run(
        "ood", "score", "b.npz", made / "birch.test.npz", "--map", made / "b-to-a.map.npz"
    ).stdout.splitlines()
    assert 0.9 <= np.mean([x.endswith("in") for x in lines]) <= 0.93
    found = json.loads(run("ood", "evaluate", "b.npz", made / "birch.test.npz",
        made / "birch.strange.npz", "--map", made / "b-to-a.map.npz", "--json").stdout)  # fmt: skip
    assert found["kept"] >= 0.9


def test_a_client_scores_decrypted_responses(made, here):
    """The provider fits a detector and shares it without its head; the client applies it."""
    head = made / "topics.head.npz"
    run("ood", "fit", made / "ash.train.npz", "e.npz", "--method", "energy", "--head", head,
        "--validation", made / "ash.test.npz", "--scores-only")  # fmt: skip
    assert load_detector("e.npz").rule.head is None
    assert "scores of a head" in run("inspect", "e.npz").stdout
    both = [*demo.labelled_texts(held_out=True).texts[:12], *STRANGE]
    states = extract(load_model(demo.model_folder("ash")), Texts(tuple(both)))
    save("both.npz", states)
    run("keygen", "keys")
    run("encrypt", "both.npz", "q", "--key", "keys", "--outputs", "5")
    run("score", "q", "r", "--head", head, "--public", "keys")
    done = run("decrypt", "r", "--key", "keys", "--ood", "e.npz", "--json")
    found = json.loads(done.stdout)
    judge = load_detector("e.npz")
    plain = judge.of_scores(load_head(head)(states.states))
    np.testing.assert_allclose(
        found["outlyingness"], plain, atol=2 * (found["error"] + 10.0 ** -found["decimals"])
    )
    sure = np.abs(plain - judge.threshold) > 1e-3
    np.testing.assert_array_equal(np.array(found["outlying"])[sure], judge.above(plain)[sure])
    assert any(found["outlying"])
    lines = run("decrypt", "r", "--key", "keys", "--ood", "e.npz").stdout.splitlines()
    assert lines[0].split("\t")[-1] in {"in", "out"}
    assert lines[0].split("\t")[-2].startswith("energy -")
    for name in ("energy", "msp", "max-logit"):
        line = run("decrypt", "r", "--key", "keys", "--ood", name).stdout.splitlines()[0]
        assert line.split("\t")[-1].startswith(f"{name} -")


def test_wrong_use_is_named(made, here, capsys):
    train, head = made / "ash.train.npz", made / "topics.head.npz"
    bare = dataclasses.replace(load_states(train), labels=(), label_ids=None)
    save("bare.npz", bare)
    run("ood", "fit", train, "d.npz", "-q")
    fit_ = ("ood", "fit", train, "x.npz")
    cases = [
        ((*fit_, "--method", "energy"), "energy reads a head's scores: expected a head"),
        ((*fit_, "--method", "forest"), "forest"),
        ((*fit_, "--validation", made / "birch.test.npz"), "of another space"),
        ((*fit_, "--validation", made / "ash.test.npz", "--tpr", "2"), "share to keep"),
        ((*fit_, "--validation", made / "ash.strange.npz"), "too few in-distribution states"),
        ((*fit_, "--scores-only"), "this detector reads states, not scores"),
        ((*fit_, "--shrinkage", "2"), "shrinkage is not usable"),
        ((*fit_, "-k", "0"), "-k"),
        (("ood", "fit", "bare.npz", "x.npz", "--method", "cosine"), "two labels or more"),
        (("ood", "fit", "bare.npz", "x.npz", "--method", "auto"), "three labels or more"),
        (("ood", "fit", "gone.npz", "x.npz"), "gone.npz"),
        (("ood", "fit", train, "gone/x.npz"), "the folder gone is not there"),
        (("ood", "fit", train, train), "is an input of this command"),
        (("ood", "score", head, train), "got linalign-head, expected format linalign-ood"),
        (("ood", "score", "d.npz", made / "birch.test.npz"), "does not read these states"),
        (("ood", "evaluate", "d.npz", train, made / "birch.test.npz"), "does not read these"),
        (("ood", "threshold", "d.npz", train, "d.npz"), "is an input of this command"),
        (("ood", "threshold", "d.npz", made / "ash.strange.npz", "x.npz"), "too few"),
        (("decrypt", "gone", "--key", "keys", "--ood", "d.npz"), "reads states, not scores"),
        (("decrypt", "gone", "--key", "keys", "--ood", "entropy"), "cannot read entropy"),
        (("ood", "nonsense"), "nonsense"),
    ]
    for args, words in cases:
        assert words in refused(capsys, *args), args
    assert "no threshold" in run(*fit_).stderr
