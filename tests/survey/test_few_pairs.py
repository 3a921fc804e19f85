"""The survey's curves over the number of pairs, with and without unshared texts."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from alignment.unpaired.two_models import two_models
from made import made_results

from linalign_lite import AlignmentError, HiddenStates, evaluate, fit, train_head
from linalign_lite.survey import few_pair_jobs
from linalign_lite.survey.config import DataSet, TextFile
from linalign_lite.survey.report import render
from linalign_lite.survey.results import CurveRow


@pytest.fixture(scope="module")
def store():
    """Make what the jobs ask of a store: two models, public texts, one data set."""
    models = two_models(n=60, pairs=1380)
    public = dict(zip("ab", map(HiddenStates, models.pairs), strict=True))
    score = models.judged[1] @ np.linspace(-1, 1, 36)
    labels = (score > np.median(score)).astype(int).tolist()
    seen = {m: HiddenStates(rows, labels=[f"l{i}" for i in labels])
            for m, rows in zip("ab", models.judged, strict=True)}  # fmt: skip
    file = TextFile("x")
    return SimpleNamespace(
        config=SimpleNamespace(public=file, seed=0, pairs=lambda: [("a", "b"), ("b", "a")]),
        data={"D": DataSet("D", file, file, None)},
        text_digests=lambda *files: ["0" * 64] * len(files),
        texts=lambda _: SimpleNamespace(texts=[""] * 1380),
        public=lambda model: public[model],
        head=lambda model, _: train_head(seen[model], method="ridge")[0],
        test=lambda model, _: seen[model],
    )


def test_both_maps_are_judged_on_texts_kept_aside(store):
    jobs = list(few_pair_jobs.list_few_pairs(store))
    assert [job.label.split(":")[0] for job in jobs] == [  # 256 pairs would leave too few texts
        f"{n} pairs and unshared texts" for n in (16, 16, 64, 64)
    ]
    alone, both = jobs[0].compute()
    assert (alone.kind, both.kind, alone.x, both.data) == ("pairs", "pairs+unshared", 16, "D")
    assert both.r2 > 0.9
    assert alone.r2 < both.r2
    assert both.accuracy > 0.8
    order = np.random.default_rng(0).permutation(1380)
    ridge = fit(*(store.public(m).rows(order[138:154]) for m in "ab"))[0]
    assert (
        alone.accuracy
        == evaluate(store.head("b", "D"), store.test("a", "D"), affine=ridge).accuracy.value
    )


def test_what_is_refused_has_no_point(store, monkeypatch):
    def refuse(*_args, **_options):
        raise AlignmentError("no alignment was found")

    monkeypatch.setattr(few_pair_jobs, "fit_unpaired", refuse)
    job = next(iter(few_pair_jobs.list_few_pairs(store)))
    assert [row.kind for row in job.compute()] == ["pairs"]


def test_the_page_has_both_curves():
    results = made_results()
    source, target = (m.name for m in results.models[:2])
    data = results.data[0].name
    curves = [
        CurveRow(source, target, data, kind, n, 0.1, accuracy)
        for kind, accuracy in (("pairs", 0.2), ("pairs+unshared", 0.7))
        for n in (16, 64)
    ]
    text = render(dataclasses.replace(results, curves=(*results.curves, *curves)))
    assert "Number of pairs, alone" in text
    assert f"Accuracy on {data} against pairs, and unshared texts, into {target}" in text
    assert "0.70 with 16" in text
    assert "Number of pairs" not in render(results)
