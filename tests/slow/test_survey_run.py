"""A whole survey of the bundled models: rows equal the library's results, and it resumes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from linalign_lite import evaluate, extract, fit, load_model, train_head
from linalign_lite.errors import InputError, OutputExistsError
from linalign_lite.heads.ood.detectors import METHODS
from linalign_lite.survey import artefacts
from linalign_lite.survey.config import TextFile, load_config
from linalign_lite.survey.demo_survey import write_bundled
from linalign_lite.survey.results_file import load_results
from linalign_lite.survey.run import run_survey
from linalign_lite.survey.validation import check_results

STORIES = "texts/stories"
SMALL = {
    "few = [32, 128]": "few = [16]\npermutations = 4",
    'public.jsonl"': 'public.jsonl"\nlimit = 300',
    f'train = "{STORIES}-train.jsonl"': f'train = {{texts = "{STORIES}-train.jsonl", limit = 40}}',
    f'test = "{STORIES}-test.jsonl"': f'test = {{texts = "{STORIES}-test.jsonl", limit = 10}}',
}
TABLES = ("similarity", "classification", "curves", "tokenizers", "generation", "projections")
COMMAND = str(Path(sys.executable).with_name("linalign-lite"))


def small_config(folder):
    """The bundled survey with less of everything; its folder."""
    write_bundled(folder)
    text = (folder / "survey.toml").read_text()
    for old, new in SMALL.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "survey.toml").write_text(text)
    return load_config(folder / "survey.toml")


def command(*args):
    return subprocess.Popen(
        [COMMAND, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Folder and output of a survey that the command ran."""
    folder = tmp_path_factory.mktemp("survey")
    small_config(folder)
    run = command("survey", folder / "survey.toml", folder)
    out, err = run.communicate()
    assert run.returncode == 0, err
    assert err == ""
    return folder, out


@pytest.fixture(scope="module")
def results(done):
    return load_results(done[0] / "results.json")


def test_every_pair_is_measured_on_every_task(results):
    check_results(results)
    pairs = {("ash", "birch"), ("birch", "ash")}
    assert set(results.pairs()) == pairs
    for part in (
        "similarity",
        "classification",
        "curves",
        "tokenizers",
        "generation",
        "projections",
    ):
        assert {(r.source, r.target) for r in getattr(results, part)} == pairs, part
    ways = {
        (r.texts, r.objective, r.n_few) for r in results.classification if r.data == "four topics"
    }
    n = next(d.train for d in results.data if d.name == "four topics")
    assert ways == {("public", "ridge", 0), ("all", "ridge", n), ("few", "ridge", 16),
                    ("public+few", "ridge", 16), ("public", "kl", 0), ("all", "kl", n),
                    ("public+few", "kl", 16)}  # fmt: skip
    seen = {(r.source, r.target) for r in results.ood}
    assert seen == pairs | {("ash", "ash"), ("birch", "birch")}
    assert {r.detector for r in results.ood} == set(METHODS)
    assert {r.data for r in results.ood} == {"four topics"}  # the other has no texts outside
    assert {r.objective for r in results.generation} == {"ridge", "kl"}
    assert {r.kind for r in results.curves} == {"penalty", "size"}
    assert {r.x for r in results.curves if r.kind == "size"} == {100, 200, 300}


def test_rows_are_what_the_library_says(done, results):
    folder = done[0]
    config = load_config(folder / "survey.toml")
    models = {name: load_model(path) for name, path in config.models.items()}
    (data,) = (d for d in config.data if d.name == "topics")
    train = {m: extract(models[m], data.train.read(), pooling="mean") for m in models}
    test = {m: extract(models[m], data.test.read(), pooling="mean") for m in models}
    public = {m: extract(models[m], config.public.read(), pooling="mean") for m in models}
    head, _ = train_head(train["ash"], method="logistic")
    native = evaluate(head, test["ash"]).accuracy
    (row,) = (r for r in results.native if (r.model, r.data) == ("ash", "topics"))
    assert (row.accuracy, row.low, row.high) == (native.value, native.low, native.high)
    affine, report = fit(public["birch"], public["ash"])
    mapped = evaluate(head, test["birch"], affine=affine).accuracy
    (row,) = (
        r
        for r in results.classification
        if (r.source, r.target, r.data, r.texts, r.objective)
        == ("birch", "ash", "topics", "public", "ridge")
    )
    assert row.accuracy == mapped.value
    other = next(r.accuracy for r in results.native if (r.model, r.data) == ("birch", "topics"))
    assert row.retention == pytest.approx(mapped.value / min(native.value, other))
    (whole,) = (
        r
        for r in results.curves
        if (r.source, r.target, r.data, r.kind, r.x) == ("birch", "ash", "topics", "size", 300)
    )
    assert whole.r2 == pytest.approx(report.held_out_r2, abs=0.02)  # the same texts, shuffled
    curve = [(r.x, r.r2) for r in results.curves
             if (r.source, r.target, r.kind) == ("birch", "ash", "penalty")]  # fmt: skip
    np.testing.assert_allclose(curve, report.curve, rtol=1e-6)


def test_the_page_and_the_tables_are_of_these_results(done, results):
    folder, out = done
    assert str(folder / "report.html") in out
    assert "birch" in (folder / "results.md").read_text()
    page = (folder / "report.html").read_text()
    assert results.title in page
    assert "<svg" in page


def test_a_second_run_makes_nothing_and_finds_the_same(done, results, monkeypatch):
    folder = done[0]

    def refuse(*_args, **_options):
        raise AssertionError("made again")

    for name in ("extract", "train_head", "fit_several", "fit_kl", "fit_detector", "load_model"):
        monkeypatch.setattr(artefacts, name, refuse)
    again = run_survey(load_config(folder / "survey.toml"), folder)
    assert all(t.cached for t in again.times)
    assert dataclasses.replace(again, times=()) == dataclasses.replace(results, times=())


def test_another_seed_makes_again_what_depends_on_it(done, monkeypatch):
    folder = done[0]
    config = dataclasses.replace(load_config(folder / "survey.toml"), seed=1, tasks=("tokenizers",))
    monkeypatch.setattr(artefacts, "extract", None)  # states do not depend on the seed
    found = run_survey(config, folder)
    assert any(not t.cached for t in found.times)


def test_a_killed_survey_goes_on(tmp_path, done, results):
    started = time.monotonic()
    small_config(tmp_path)
    run = command("survey", tmp_path / "survey.toml", tmp_path)
    while len(list((tmp_path / "cache").glob("*.json"))) < 12:
        assert run.poll() is None
        assert time.monotonic() - started < 600
        time.sleep(0.01)
    run.kill()
    run.communicate()
    assert not (tmp_path / "results.json").exists()
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*.json")}
    assert not list((tmp_path / "cache").glob(".linalign*"))
    again = command("survey", tmp_path / "survey.toml", tmp_path, "--json")
    out, err = again.communicate()
    assert again.returncode == 0, err
    now = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*.json")}
    assert kept.items() <= now.items()  # nothing that was whole was made again
    found = load_results(tmp_path / "results.json")
    assert dataclasses.replace(found, times=()) == dataclasses.replace(results, times=())
    assert json.loads(out)["results"]["title"] == results.title


def test_ctrl_c_leaves_no_results_and_no_half_written_file(tmp_path):
    small_config(tmp_path)
    run = command("survey", tmp_path / "survey.toml", tmp_path)
    while not list((tmp_path / "cache").glob("*.json")):
        assert run.poll() is None
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGINT)
    _, err = run.communicate()
    assert run.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not (tmp_path / "results.json").exists()


def test_what_is_wrong_is_said_before_any_work(tmp_path, done):
    config = load_config(done[0] / "survey.toml")
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "file").write_text("mine")
    with pytest.raises(OutputExistsError, match="not the folder of a survey"):
        run_survey(config, strange)
    missing = dataclasses.replace(config, public=TextFile(tmp_path / "nowhere.txt"))
    with pytest.raises(InputError, match=r"nowhere\.txt is missing"):
        run_survey(missing, tmp_path / "new")
    many = dataclasses.replace(config, few=(100_000,))
    with pytest.raises(InputError, match="too few training texts for few = 100000"):
        run_survey(many, tmp_path / "new")
    absent = dataclasses.replace(config, models={**config.models, "oak": tmp_path / "oak"})
    with pytest.raises(InputError, match="oak is not a folder"):
        run_survey(absent, tmp_path / "new")
