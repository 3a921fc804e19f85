"""Verdicts: thresholds as documented, grades in order, and what the commands print."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from linalign_lite import HiddenStates, Space, fit, report_scores, save, train_head
from linalign_lite.commands import main
from linalign_lite.core import verdict as verdicts
from linalign_lite.core.verdict import Grade, Scale, Verdict, of_accuracy

SCALES = [value for value in vars(verdicts).values() if isinstance(value, Scale)]
ORDER = list(Grade)


@given(st.sampled_from(SCALES), st.floats(-2, 2), st.floats(-2, 2))
def test_a_better_figure_has_no_worse_grade(scale, a, b):
    low, high = (ORDER.index(scale.judge(x).grade) for x in sorted((a, b)))
    assert low <= high


@pytest.mark.parametrize("scale", SCALES, ids=lambda s: s.measure)
def test_the_page_states_the_thresholds(scale):
    page = (ROOT / "docs" / "VERDICTS.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| ([\d.]+) \| ([\d.]+) \|", page)
    assert (f"{scale.usable:g}", f"{scale.good:g}") in rows
    for value, grade in ((scale.good, "good"), (scale.usable, "usable"), (-1.0, "poor")):
        assert scale.judge(value).grade == grade
    assert scale.judge(float("nan")).grade == "poor"


def test_advice_stands_unless_good():
    scale = Scale("R²", 0.3, 0.5)
    assert str(scale.judge(0.1, "more pairs")) == "poor: R² 0.100, below 0.3; next: more pairs"
    assert str(scale.judge(0.4, "more pairs")) == "usable: R² 0.400, below 0.5; next: more pairs"
    assert str(scale.judge(0.7, "more pairs")) == "good: R² 0.700, at least 0.5"


def test_an_accuracy_within_noise_of_the_commonest_label_is_poor():
    found = of_accuracy(0.31, 0.27, 0.32, advice="more texts")
    assert found.grade == "poor"
    assert "no better than always predicting the commonest label" in found.reason
    assert found.advice.startswith("first see that each row has its own label")
    found = of_accuracy(0.667, 0.33, 0.333, advice="more texts")
    assert str(found) == (
        "poor: accuracy 0.667, the commonest label 0.333, interval from 0.330: too few texts to "
        "tell it from always predicting the commonest label; next: more texts"
    )
    assert of_accuracy(0.81, 0.78, 0.32).grade == "good"
    assert of_accuracy(0.60, 0.56, 0.32).grade == "usable"
    assert of_accuracy(0.60, 0.56, 0.32, own=0.62).grade == "good"
    assert of_accuracy(0.40, 0.36, 0.32, own=0.80).grade == "poor"
    assert of_accuracy(1.0, 1.0, 1.0).grade == "poor"  # one label: nothing was measured
    assert of_accuracy(0.7, 0.66, 0.32, own=0.62).reason.endswith("own gain 1.000, at least 0.9")


def test_a_report_prints_as_its_command_does(rng):
    x = rng.normal(size=(60, 4))
    lines = str(fit(x, x @ rng.normal(size=(4, 3)))[1]).splitlines()
    assert lines[0].startswith("method       ridge, penalty")
    assert lines[-2:] == ["", "good: held-out R² 1.000, at least 0.5"]
    x = np.concatenate([x, x])
    lines = str(fit(x, x @ rng.normal(size=(4, 3)))[1]).splitlines()
    assert [line for line in lines if line.startswith("warning: 60 of 120 rows repeat another")]


def test_a_detector_whose_threshold_catches_little_is_not_good(rng):
    low, high = rng.normal(size=200), rng.normal(2, size=200)
    assert report_scores(low, high, threshold=1.0).verdict.grade == "good"
    assert report_scores(low, high).verdict.grade == "good"
    found = report_scores(low, high, threshold=5.0).verdict
    assert found.grade == "usable"
    assert "its threshold keeps 1.000 of in and catches 0.000 of out, 0.75 and" in found.reason
    assert "--tpr" in found.advice
    low = report_scores(low, high, threshold=-0.5).verdict
    assert (low.grade, "catches 0.9" in low.reason) == ("usable", True)


# --- reports and commands -------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path, monkeypatch):
    """States of two models: pairs that share much, pairs that share nothing; four labels."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(600, 8))
    labels = rng.integers(4, size=600)
    hidden[np.arange(600), labels] += 4
    names = [f"l{i}" for i in labels]
    x, y = hidden @ rng.normal(size=(8, 12)), hidden @ rng.normal(size=(8, 10))
    for name, rows in (("x", x), ("y", y), ("noise", rng.normal(size=(600, 10)))):
        states = HiddenStates(
            rows.astype(np.float32), labels=names, space=Space(rows.shape[1], name=name)
        )
        save(tmp_path / f"{name}.states.npz", states)
    return tmp_path


def last_line(capsys):
    return capsys.readouterr().out.splitlines()[-1]


def test_a_useless_map_is_called_poor(made, capsys):
    for target, grade in (("y", "good"), ("noise", "poor")):
        arguments = ["fit", "x.states.npz", f"{target}.states.npz", f"{target}.map.npz"]
        assert main(arguments) == 0
        line = last_line(capsys)
        assert line.startswith(f"{grade}: held-out R²")
        assert main([*arguments, "--strict", "--json"]) == (grade == "poor")
        found = json.loads(capsys.readouterr().out)["verdict"]
        assert found["grade"] == grade
        assert bool(found["advice"]) == (grade == "poor")
        assert (made / f"{target}.map.npz").exists()


def test_a_classifier_through_a_useless_map_is_called_poor(made, capsys):
    assert main(["head", "y.states.npz", "y.head.npz", "--strict"]) == 0
    assert last_line(capsys).startswith("good: accuracy")
    assert main(["fit", "x.states.npz", "y.states.npz", "good.map.npz"]) == 0
    assert main(["evaluate", "y.head.npz", "x.states.npz", "--map", "good.map.npz"]) == 0
    line = last_line(capsys)
    assert line.startswith("good: accuracy")
    assert "the head's own" in line
    rng = np.random.default_rng(1)
    x, y = (HiddenStates(rng.normal(size=(500, d)), space=Space(d, name=n)) for n, d in
            (("x", 12), ("y", 10)))  # fmt: skip
    save(made / "useless.map.npz", fit(x, y)[0])
    arguments = ["evaluate", "y.head.npz", "x.states.npz", "--map", "useless.map.npz"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "labels never right" in printed
    assert printed.splitlines()[-1].startswith("poor: no better than always predicting")
    assert main([*arguments, "--strict"]) == 1


def test_reports_have_their_verdict(made):
    states = HiddenStates(np.eye(4).repeat(20, 0), labels=np.arange(4).repeat(20))
    _, report = train_head(states)
    assert isinstance(report.verdict, Verdict)
    assert report.verdict.grade == "good"
    assert report.majority == 0.25


def test_detectors_have_theirs(made, capsys):
    assert main(["ood", "fit", "y.states.npz", "y.ood.npz", "--method", "mahalanobis"]) == 0
    rng = np.random.default_rng(2)
    save(made / "far.states.npz",
         HiddenStates(rng.normal(size=(90, 10)) + 40, space=Space(10, name="y")))  # fmt: skip
    for other, code, grade in (("far", 0, "good"), ("y", 1, "poor")):
        arguments = ["ood", "evaluate", "y.ood.npz", "y.states.npz", f"{other}.states.npz"]
        assert main([*arguments, "--strict"]) == code
        assert last_line(capsys).startswith(f"{grade}: AUROC")


def test_plots_are_pages_that_load_nothing(made, capsys):
    """Written whole beside the result; another ending or a name in use is refused first."""
    pytest.importorskip("matplotlib", reason="matplotlib is absent: pip install '.[report]'")
    x, y = "x.states.npz", "y.states.npz"
    assert main(["fit", x, y, "m.map.npz", "--plot", "fit.html"]) == 0
    assert main(["head", y, "y.head.npz"]) == 0
    evaluated = ["evaluate", "y.head.npz", x, "--map", "m.map.npz"]
    assert main([*evaluated, "--plot", "evaluate.html"]) == 0
    assert main(["ood", "fit", y, "y.ood.npz", "--method", "mahalanobis"]) == 0
    assert main(["ood", "evaluate", "y.ood.npz", y, y, "--plot", "ood.html"]) == 0
    capsys.readouterr()
    for name, words in (("fit", "held-out R² by penalty"), ("evaluate", "recall of each label"),
                        ("ood", "ROC curve")):  # fmt: skip
        page = (made / f"{name}.html").read_text(encoding="utf-8")
        assert words in page
        assert "<svg" in page
        assert re.search(r"<strong>(good|usable|poor): ", page)
        assert not re.search(r'(src|href)="(?!#)|url\((?!#)|@import|<script', page)
    for name, said in (("fit.png", "--plot writes a page"), ("gone/a.html", "is not there"),
                       ("y.head.npz", "--plot writes a page")):  # fmt: skip
        assert main([*evaluated, "--plot", name]) == 2
        assert said in capsys.readouterr().err


def test_hostile_labels_stay_text_on_a_page(made):
    pytest.importorskip("matplotlib", reason="matplotlib is absent: pip install '.[report]'")
    names = np.array(["<script>alert(1)</script>", 'a" onload="x', "plain"])[np.arange(90) % 3]
    rows = np.eye(3)[np.arange(90) % 3] + np.random.default_rng(0).normal(size=(90, 3)) / 9
    save(made / "s.states.npz", HiddenStates(rows, labels=names))
    assert main(["head", "s.states.npz", "s.head.npz"]) == 0
    assert main(["evaluate", "s.head.npz", "s.states.npz", "--plot", "<b>.html"]) == 0
    page = (made / "<b>.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert 'onload="x' not in page
    assert "&lt;script&gt;" in page
