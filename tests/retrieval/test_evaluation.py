"""Evaluation of retrieval: rankings, differences, checks, commands."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import refused, run
from vectors.contract import write

import linalign_lite as la
from linalign_lite.commands import main
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.retrieval import measures
from linalign_lite.vectors.source import Batch


@pytest.fixture
def sides():
    """Unit vectors of 60 documents and 20 queries, and the same rotated; query i asks for i."""
    rng = np.random.default_rng(0)
    documents = rng.normal(size=(60, 12)).astype(np.float32)
    queries = documents[:20] + 0.8 * rng.normal(size=(20, 12)).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(12, 12)))[0].astype(np.float32)
    judged = [{i: 1} for i in range(20)]
    return (queries, documents), (queries @ turn.T, documents @ turn.T), turn, judged


def test_a_perfect_map_keeps_every_ranking(sides):
    source, target, turn, judged = sides
    report = la.evaluate_retrieval(source, target, la.AffineMap(turn, np.zeros(12)), judged, k=5)
    native = report.rankings["native target"]
    assert native.difference is None
    assert 0.3 < native.measures["ndcg@5"].value < 1
    for name, ranking in report.rankings.items():
        assert ranking.measures["overlap@5"].value == 1
        assert ranking.measures == native.measures
        if name != "native target":
            assert (ranking.difference.low, ranking.difference.high) == (0, 0)
    assert (report.n_queries, report.n_documents, report.metric) == (20, 60, "cosine")


def test_directions_are_searched_as_they_say(sides):
    source, target, _, judged = sides
    rng = np.random.default_rng(1)
    affine = la.AffineMap(rng.normal(size=(12, 12)), rng.normal(size=12))
    other = la.AffineMap(rng.normal(size=(12, 12)), rng.normal(size=12))
    report = la.evaluate_retrieval(source, target, affine, judged, documents_map=other, k=5)
    found = {
        "native source": source,
        "native target": target,
        "mapped queries": (affine(source[0]), target[1]),
        "mapped documents": (target[0], other(source[1])),
    }
    for name, (queries, documents) in found.items():
        rows, _ = la.search(queries, documents, 5)
        share = np.mean([i in found for i, found in enumerate(rows.tolist())])
        assert report.rankings[name].measures["recall@5"].value == pytest.approx(share)
    ranking = report.rankings["mapped queries"]
    base = report.rankings["native target"].measures["ndcg@5"].value
    expected = ranking.measures["ndcg@5"].value - base
    assert ranking.difference.value == pytest.approx(expected)


def test_queries_without_a_relevant_document_are_left_out(sides):
    source, target, turn, judged = sides
    affine = la.AffineMap(turn, np.zeros(12))
    some = judged[:5] + [{3: 0}] * 10 + [{}] * 5
    assert la.evaluate_retrieval(source, target, affine, some).n_queries == 5
    with pytest.raises(InputError, match="no query has a relevant document"):
        la.evaluate_retrieval(source, target, affine, [{}] * 20)


def test_what_does_not_fit_is_named(sides):
    source, target, turn, judged = sides
    affine = la.AffineMap(turn, np.zeros(12))
    with pytest.raises(InputError, match="judgements do not fit"):
        la.evaluate_retrieval(source, target, affine, judged[1:])
    by_id = [{"q1": {"d1": 1}}, {0: [3]}, [[3]] * 20]
    for wrong in by_id:
        with pytest.raises(InputError, match="judgements are not of rows"):
            la.evaluate_retrieval(source, target, affine, wrong)
    with pytest.raises(InputError, match="a document that is not there"):
        la.evaluate_retrieval(source, target, affine, [{60: 1}, *judged[1:]])
    with pytest.raises(MismatchError, match="rows"):
        la.evaluate_retrieval((source[0], source[1][:-1]), target, affine, judged)
    space = Space(12, "ab" * 32, "mine", "mean", True, "query: ")
    queries = la.HiddenStates(source[0], space=space)
    documents = la.HiddenStates(source[1], space=dataclasses.replace(space, prompt="passage: "))
    found = la.CollectionStates(queries, documents)  # prompts may differ
    assert la.evaluate_retrieval(found, target, affine, judged).n_queries == 20
    other = dataclasses.replace(space, model="cd" * 32)
    with pytest.raises(MismatchError, match="not of the same model"):
        la.CollectionStates(la.HiddenStates(source[0], space=other), documents)
    wrong = la.AffineMap(turn, np.zeros(12), source=other)
    with pytest.raises(MismatchError, match="the map's source"):
        la.evaluate_retrieval(found, target, wrong, judged)


def collection(folder):
    """Public sentences of the demo: documents of three, asked for by the second."""
    from linalign_lite.demo import HERE

    lines = (HERE / "public.txt").read_text(encoding="utf-8").splitlines()[:60]
    folder.mkdir()
    (folder / "qrels").mkdir()
    with (folder / "corpus.jsonl").open("w") as f:
        for i in range(20):
            row = {
                "_id": str(i),
                "title": lines[3 * i],
                "text": " ".join(lines[3 * i + 1 : 3 * i + 3]),
            }
            f.write(json.dumps(row) + "\n")
    with (folder / "queries.jsonl").open("w") as f:
        for i in range(20):
            f.write(json.dumps({"_id": f"q{i}", "text": lines[3 * i + 1]}) + "\n")
    judged = "".join(f"q{i}\t{i}\t1\n" for i in range(20))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def evaluated(at: object, source: str, target: str, *more: str, code: int = 0):
    sides = ("--source", source, "--target", target, "--map", "m.map.npz")
    return run("retrieval", "evaluate", at, *sides, *more, code=code)


def test_the_commands_as_a_user_runs_them(tmp_path, monkeypatch):
    from linalign_lite.demo import HERE

    monkeypatch.chdir(tmp_path)
    found = collection(tmp_path / "texts")
    for name in ("ash", "birch"):
        made = run("retrieval", "extract", HERE / "models" / name, found, name, "--json")
        assert json.loads(made.stdout) == {
            "out": name,
            "queries": 20,
            "documents": 20,
            "pseudo": 40,
        }
    assert la.load_states("ash/pseudo.states.npz").n_texts == 40
    run("fit", "birch/pseudo.states.npz", "ash/pseudo.states.npz", "m.map.npz")
    told = evaluated(found, "birch", "ash").stdout
    for word in ("mapped queries", "mapped documents", "ndcg@10", "overlap@10", "native target"):
        assert word in told
    data = json.loads(evaluated(found, "birch", "ash", "--json").stdout)
    assert data["rankings"]["native target"]["measures"]["ndcg@10"]["value"] > 0.7
    assert data["rankings"]["mapped queries"]["difference"]["value"] < 0.1
    assert "not of the same model" in evaluated(found, "ash", "birch", code=2).stderr
    assert "is not there" in evaluated("none", "ash", "birch", code=2).stderr
    there = run("retrieval", "extract", HERE / "models" / "ash", found, "ash", code=2)
    assert "ash" in there.stderr


@pytest.fixture
def vectors(sides, tmp_path, monkeypatch):
    """The same sides as vectors with ids, every file in another order, and judgements of ids."""
    monkeypatch.chdir(tmp_path)
    source, target, turn, judged = sides
    la.save("m.map.npz", la.AffineMap(turn, np.zeros(12)))
    rng = np.random.default_rng(5)
    for name, side in {"old": source, "new": target}.items():
        for kind, rows in zip("qd", side, strict=True):
            order = rng.permutation(len(rows))
            payload = tuple({"text": f"text of {kind}{i}"} for i in order)
            ids = tuple(f"{kind}{i}" for i in order)
            write(f"{name}-{kind}.jsonl", Batch(ids, rows[order], payload))
    lines = [f"q{i}\td{row}\t{g}\n" for i, of in enumerate(judged) for row, g in of.items()]
    (tmp_path / "qrels.tsv").write_text("query\tdocument\tgrade\n" + "".join(lines))
    return sides


def test_vectors_of_files_are_put_in_order_by_their_ids(vectors, capsys):
    source, target, turn, judged = vectors
    expected = la.evaluate_retrieval(source, target, la.AffineMap(turn, np.zeros(12)), judged)
    sides = ("--source", "old-d.jsonl", "--source-queries", "old-q.jsonl", "--target",
             "new-d.jsonl", "--target-queries", "new-q.jsonl", "--map", "m.map.npz")  # fmt: skip
    assert main(["retrieval", "evaluate", "qrels.tsv", *sides, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name, ranking in expected.as_dict()["rankings"].items():
        for measure, values in ranking["measures"].items():
            there = found["rankings"][name]["measures"][measure]["value"]
            assert there == pytest.approx(values["value"], abs=1e-4), (name, measure)
    assert expected.rankings["mapped queries"].measures["ndcg@10"].value < 1  # a wrong order shows


def test_vectors_in_a_store_and_a_folder_of_states(vectors, capsys):
    pytest.importorskip("qdrant_client")
    source, target, _, _ = vectors
    ids = tuple(f"d{i}" for i in range(60))
    write("qdrant:store#docs", Batch(ids, target[1]))
    Path("old").mkdir()
    Path("texts/qrels").mkdir(parents=True)
    for kind, rows in zip(("queries", "documents"), source, strict=True):
        la.save(f"old/{kind}.states.npz", la.HiddenStates(rows))
    for kind, count in (("corpus", 60), ("queries", 20)):
        rows = (
            {"_id": f"{'d' if kind == 'corpus' else 'q'}{i}", "text": "x"} for i in range(count)
        )
        Path(f"texts/{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("qrels.tsv").rename("texts/qrels/test.tsv")
    sides = ("--source", "old", "--target", "qdrant:store#docs", "--target-queries", "new-q.jsonl",
             "--map", "m.map.npz", "--json")  # fmt: skip
    assert main(["retrieval", "evaluate", "texts", *sides]) == 0
    found = json.loads(capsys.readouterr().out)["rankings"]
    assert found["mapped queries"]["measures"]["overlap@10"]["value"] > 0.99


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"--target": "less.jsonl"}, "does not hold the ids"),
        ({"--source": "short.npy"}, "as many vectors as there are ids"),
        ({"--target": "short.npy"}, "has no ids"),
        ({"--source-queries": None}, "--source-queries"),
        ({"--source": "absent.jsonl"}, "cannot read"),
        ({"--target-queries": "absent.xyz"}, "absent.xyz"),
    ],
)
def test_vectors_that_do_not_fit(vectors, capsys, change, text):
    _, target, _, _ = vectors
    write("less.jsonl", Batch(tuple(f"d{i}" for i in range(59)), target[1][:59]))
    np.save("short.npy", target[1][:50])
    sides = {"--source": "old-d.jsonl", "--source-queries": "old-q.jsonl", "--target":
             "new-d.jsonl", "--target-queries": "new-q.jsonl", "--map": "m.map.npz"}  # fmt: skip
    given = [part for item in {**sides, **change}.items() if item[1] for part in item]
    assert text in refused(capsys, "retrieval", "evaluate", "qrels.tsv", *given)


def test_judgements_may_be_of_some_queries_by_row(sides):
    source, target, turn, judged = sides
    affine = la.AffineMap(turn, np.zeros(12))
    some = la.evaluate_retrieval(source, target, affine, {3: judged[3], 0: judged[0]})
    listed = [of if i in (0, 3) else {} for i, of in enumerate(judged)]
    assert some.n_queries == 2
    assert some == la.evaluate_retrieval(source, target, affine, listed)


def test_rows_in_another_order_are_suspected(sides, rng):
    source, target, turn, judged = sides
    affine = la.AffineMap(turn, np.zeros(12))
    good = la.evaluate_retrieval(source, target, affine, judged)
    assert good.verdict.grade == "good"
    assert 0 < good.chance < 0.2
    shuffled = target[0], rng.permutation(target[1])
    found = la.evaluate_retrieval(source, shuffled, affine, judged).verdict
    assert (found.grade, "in one order" in found.advice) == ("poor", True)
    mixed = [judged[i] for i in rng.permutation(20)]
    found = la.evaluate_retrieval(source, target, affine, mixed).verdict
    assert (found.grade, "in one order" in found.advice) == ("poor", True)


def test_chance_is_the_mean_over_random_rankings(rng):
    judged = [{0: 1}, dict.fromkeys(range(12), 1), {3: 1, 5: 1, 7: 1}]
    ranked = np.array([[rng.permutation(40)[:10] for _ in judged] for _ in range(4000)])
    means = [measures.ndcg(rows, judged, 10).mean() for rows in ranked]
    assert measures.chance_ndcg(judged, 40, 10) == pytest.approx(np.mean(means), rel=0.03)
