"""Retrieval in a survey: two tiny models, a made collection, rows of the library's own results."""

from __future__ import annotations

import json

import pytest

import linalign_lite as la
from linalign_lite import demo
from linalign_lite.errors import FormatError, InputError
from linalign_lite.retrieval.collection import read_collection_files
from linalign_lite.survey.config import load_config
from linalign_lite.survey.results_file import load_results, save_results
from linalign_lite.survey.run import run_survey

N = 60


def made_files(folder, n=N):
    """Documents of three public sentences, asked for by the second, judged in BEIR's layout."""
    lines = demo.public_texts().texts[1000:]
    documents = [" ".join(lines[3 * i : 3 * i + 3]) for i in range(n)]
    rows = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(documents)]
    asked = [{"_id": f"q{i}", "text": lines[3 * i + 1]} for i in range(n // 2)]
    for name, part in (("corpus", rows), ("queries", asked)):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text)
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(n // 2))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    (folder / "public.txt").write_text("\n".join(demo.public_texts().texts[:300]))


def config(folder, tables='[[retrieval]]\nname = "made"\n'):
    files = 'corpus = "corpus.jsonl"\nqueries = "queries.jsonl"\njudgements = "qrels.tsv"\n'
    models = "".join(f'{m} = "{demo.model_folder(m)}"\n' for m in ("ash", "birch"))
    text = f'tasks = ["retrieval"]\npublic = "public.txt"\n[models]\n{models}{tables}{files}'
    (folder / "survey.toml").write_text(text)
    return load_config(folder / "survey.toml")


def test_rows_are_the_librarys_own_results(tmp_path):
    made_files(tmp_path)
    results = run_survey(config(tmp_path), tmp_path / "out")
    assert len(results.retrieval) == 2 * 2 * 2  # pairs, maps, sides
    models = {m: la.load_model(demo.model_folder(m)) for m in ("ash", "birch")}
    found = read_collection_files(
        tmp_path / "corpus.jsonl", tmp_path / "queries.jsonl", tmp_path / "qrels.tsv"
    )
    public = demo.public_texts().texts[:300]
    sides = {m: tuple(la.extract(models[m], t, pooling="mean") for t in
                      (found.queries, found.documents, found.pseudo_queries(), public))
             for m in models}  # fmt: skip
    for row in results.retrieval:
        x, y = sides[row.source], sides[row.target]
        if row.objective == "ridge":
            affine = la.fit(x[3], y[3])[0]
        else:
            affine = la.fit_retrieval(x[1], y[1], pseudo=(x[2], y[2]), use=row.mapped)[0]
        expected = la.evaluate_retrieval(x[:2], y[:2], affine, found).rankings
        measures = expected[f"mapped {row.mapped}"].measures
        assert row.ndcg == pytest.approx(measures["ndcg@10"].value, abs=1e-4)
        assert row.low == pytest.approx(measures["ndcg@10"].low, abs=1e-3)
        assert row.overlap == pytest.approx(measures["overlap@10"].value, abs=1e-4)
        native = expected["native target"].measures["ndcg@10"].value
        assert row.native == pytest.approx(native, abs=1e-4)
        assert (row.collection, row.queries, row.documents) == ("made", N // 2, N)
    by_map = {(r.objective, r.pair, r.mapped): r.ndcg for r in results.retrieval}
    assert sum(v for k, v in by_map.items() if k[0] == "retrieval") > 0.3 * 4

    save_results(tmp_path / "results.json", results)
    assert load_results(tmp_path / "results.json") == results
    assert "## Retrieval" in la.to_markdown(results)
    told = []
    again = run_survey(config(tmp_path), tmp_path / "out", tell=told.append)
    assert again.retrieval == results.retrieval
    assert not told  # all of it was kept
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td2\t1\n")
    other = run_survey(config(tmp_path), tmp_path / "out")
    assert {r.queries for r in other.retrieval} == {1}


def test_collections_that_do_not_fit(tmp_path):
    made_files(tmp_path, 20)
    with pytest.raises(InputError, match="made is too small"):
        run_survey(config(tmp_path), tmp_path / "out")
    (tmp_path / "queries.jsonl").unlink()
    with pytest.raises(InputError, match=r"queries\.jsonl is missing"):
        run_survey(config(tmp_path), tmp_path / "out")
    with pytest.raises(FormatError, match="name"):
        config(tmp_path, "[[retrieval]]\n")
    twice = 'corpus = "a"\nqueries = "b"\njudgements = "c"\n[[retrieval]]\nname = "made"\n'
    with pytest.raises(FormatError, match="two data sets have the same name"):
        config(tmp_path, f'[[retrieval]]\nname = "made"\n{twice}')
