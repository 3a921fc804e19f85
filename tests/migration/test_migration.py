"""A collection changes its model: planned, fitted, verified, applied, and rolled back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import refused
from support import ROOT
from vectors.contract import read, write

import linalign_lite as la
from linalign_lite.commands import main
from linalign_lite.core.metrics import Interval
from linalign_lite.migration import steps
from linalign_lite.migration.folder import MigrationFolder
from linalign_lite.migration.options import Canaries, Maps, Measured, best, fit_maps
from linalign_lite.migration.plan import Texts, _needed
from linalign_lite.migration.sample import Pairs, Queries, read_sample
from linalign_lite.vectors.source import Batch

N, SAMPLE, OLD, NEW = 900, 500, 24, 16
STORES = {"files": "docs.jsonl", "parquet": "docs.parquet", "lancedb": "lancedb:store#docs",
          "qdrant": "qdrant:store#docs"}  # fmt: skip


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def models(seed=0, noise=0.1):
    """Vectors of the same texts by two models: functions of the same causes, and noise."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(N + 50, 8))
    sides = [unit(causes @ rng.normal(size=(8, d)) + noise * rng.normal(size=(N + 50, d)))
             for d in (OLD, NEW)]  # fmt: skip
    return [(rows[:N], rows[N:]) for rows in sides]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """sample.jsonl of a part of the documents, q-old.jsonl and q-new.jsonl of queries."""
    monkeypatch.chdir(tmp_path)
    (_, asked_old), (new, asked) = models()
    chosen = np.random.default_rng(3).permutation(N)[:SAMPLE]
    write("sample.jsonl", Batch(tuple(f"d{i}" for i in chosen), new[chosen]))
    ids = tuple(f"q{i}" for i in range(50))
    best_ids = [[f"d{j}" for j in row] for row in np.argsort(-asked @ new.T, axis=1)[:, :3]]
    write("q-new.jsonl", Batch(ids, asked, tuple({"relevant": row} for row in best_ids)))
    write("q-old.jsonl", Batch(ids[::-1], asked_old[::-1].copy()))
    return tmp_path


def fill(location):
    (old, _), _ = models()
    rows = tuple({"title": f"document {i}"} for i in range(N))
    write(location, Batch(tuple(f"d{i}" for i in range(N)), old, rows), 200, metric="cosine")


def by_id(location):
    found = read(location, 500)[0]
    return {own: (found.vectors[i], found.payload[i]) for i, own in enumerate(found.ids)}


def run(capsys, *args, code=0):
    assert main(["migrate", *map(str, args), "--json"]) == code, capsys.readouterr().err
    captured = capsys.readouterr()
    return json.loads(captured.out) if captured.out else captured.err


@pytest.mark.parametrize("store", STORES)
def test_a_collection_changes_its_model_and_back(here, capsys, store):
    needed = {"files": "numpy", "parquet": "pyarrow", "qdrant": "qdrant_client"}.get(store, store)
    pytest.importorskip(needed)
    docs = STORES[store]
    fill(docs)
    before, (_, (new, _)) = by_id(docs), models()
    plan = run(capsys, "plan", "m", docs, "sample.jsonl", "--gate", "0.6")
    assert plan["choice"] in {"queries", "documents", "both"}
    assert plan["canaries"] == 100
    assert run(capsys, "fit", "m", "--way", "documents", "--embedded") == {
        "way": "documents", "maps": ["documents.map.npz"],
    }  # fmt: skip
    assert "not verified" in refused(capsys, "migrate", "apply", "m", code=1)
    assert run(capsys, "verify", "m")["passed"]
    state = run(capsys, "apply", "m")
    assert (state["state"], state["live"], state["count"]) == ("switched", docs, N)

    affine, after = la.load_map("m/documents.map.npz"), by_id(docs)
    assert affine.card["spread"] > 1
    ids = read("sample.jsonl")[0].ids
    assert after.keys() == before.keys()
    for own, (vector, payload) in after.items():
        assert payload == before[own][1]
        row = new[int(own[1:])] if own in ids else affine(before[own][0])
        np.testing.assert_allclose(unit(vector[None])[0], unit(row[None])[0], atol=1e-4)
    assert run(capsys, "verify", "m")["passed"]
    assert by_id(state["former"]).keys() == before.keys()
    assert "applied already" in refused(capsys, "migrate", "apply", "m")
    assert "is applied" in refused(capsys, "migrate", "fit", "m")

    assert run(capsys, "rollback", "m")["state"] == "rolled back"
    back = by_id(docs)
    for own, (vector, payload) in back.items():
        np.testing.assert_array_equal(vector, before[own][0])
        assert payload == before[own][1]
    assert "not applied" in refused(capsys, "migrate", "rollback", "m")


def test_queries_or_both_sides_are_mapped(here, capsys):
    fill("docs.jsonl")
    content = Path("docs.jsonl").read_bytes()
    run(capsys, "plan", "m", "docs.jsonl", "sample.jsonl", "--gate", "0.5")
    assert run(capsys, "fit", "m", "--way", "queries")["maps"] == ["queries.map.npz"]
    alone = run(capsys, "verify", "m")
    assert run(capsys, "apply", "m") == {"state": "queries", "map": "m/queries.map.npz"}
    assert Path("docs.jsonl").read_bytes() == content
    assert len(run(capsys, "fit", "m", "--way", "both")["maps"]) == 2
    assert "not verified" in refused(capsys, "migrate", "apply", "m", code=1)  # of other maps
    both = run(capsys, "verify", "m")
    assert both["retention"] > alone["retention"] - 0.05
    state = run(capsys, "apply", "m", "--keep", "--to", "both.npy")
    assert state["state"] == "written"
    found, (old, _) = np.load("both.npy"), models()[0]
    assert found.shape == (N, OLD + NEW)
    asked, queries = models()[1][1], la.load_map("m/queries.map.npz")
    scores = queries(asked) @ found.T  # the sum of those in both spaces
    forward = fit_maps("documents", *_training("m"))
    back = fit_maps("queries", *_training("m"))
    want = asked @ forward.documents(old).T + back.queries(asked) @ old.T
    np.testing.assert_allclose(scores, want, atol=1e-3)
    assert Path("docs.jsonl").read_bytes() == content


def _training(folder):
    plan = MigrationFolder(Path(folder)).plan()
    sample = steps.sample_of(plan)
    return sample.split(plan.seed)[0], sample


def test_the_plan_measures_what_it_says(here, capsys):
    """Retention of a way is that of a search by hand; recall stands beside the old model's."""
    fill("docs.jsonl")
    files = ("--queries", "q-new.jsonl", "--queries-old", "q-old.jsonl")
    plan = run(capsys, "plan", "m", "docs.jsonl", "sample.jsonl", *files, "-k", "5")
    names = [(way["name"], way["share"]) for way in plan["ways"]]
    assert names == [("stay", 0), ("queries", 0), ("documents", 0), ("both", 0),
                     ("documents", 0.25), ("documents", 0.5), ("documents", 0.5556)]  # fmt: skip
    ways = dict(zip(names, plan["ways"], strict=True))
    train, sample = _training("m")
    held_out = sample.split(0)[1]
    (_, asked_old), (_, asked) = models()

    def top(queries, documents):
        return np.argsort(-queries @ unit(documents).T, axis=1)[:, :5]

    native, maps = top(asked, held_out.new), fit_maps("documents", train, sample)
    for key, found in [(("stay", 0), top(asked_old, held_out.old)),
                       (("documents", 0), top(asked, maps.documents(held_out.old)))]:  # fmt: skip
        want = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found, native, strict=True)])
        assert ways[key]["retention"]["value"] == pytest.approx(want)
    assert ways["stay", 0]["recall_change"]["value"] == 0
    assert ways["documents", 0]["recall"]["value"] > 0
    shares = [ways["documents", s]["retention"]["value"] for s in (0, 0.25, 0.5)]
    assert shares == sorted(shares)
    mixed = fit_maps("documents", train, sample, mixed=True).documents
    variances = [rows.var(axis=0).sum() for rows in (mixed(train.old), train.new)]
    assert variances[0] == pytest.approx(variances[1], rel=1e-4)
    np.testing.assert_allclose(mixed(train.old).mean(0), train.new.mean(0), atol=1e-5)
    assert [t["texts"] for t in plan["curve"]] == [50, 100, 200, 400]
    assert main(["migrate", "plan", "n", "docs.jsonl", "sample.jsonl", *files]) == 0
    text = capsys.readouterr().out
    assert "− old model" in text
    assert "choice: " in text


@pytest.fixture
def judged(here):
    """Judgements of forty documents a query, graded by the new model's own ranking, with noise."""
    (_, _), (new, asked) = models()
    rng = np.random.default_rng(8)
    noisy = asked @ new.T + 0.01 * rng.normal(size=(50, N))
    best_rows, grade = np.argsort(-noisy, axis=1)[:, :40], [3] * 8 + [2] * 12 + [1] * 20
    lines = [f"q{i}\td{row}\t{g}\n" for i, rows in enumerate(best_rows)
             for row, g in zip(rows, grade, strict=True)]  # fmt: skip
    (here / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    grades = [dict[str, int]() for _ in range(50)]
    for line in lines:
        query, document, grade = line.split()
        grades[int(query[1:])][document] = int(grade)
    return grades


JUDGED = ("--queries", "q-new.jsonl", "--queries-old", "q-old.jsonl", "--judgements", "qrels.tsv")


def test_retention_is_that_of_ndcg_where_there_are_judgements(judged, capsys):
    fill("docs.jsonl")
    plan = run(capsys, "plan", "m", "docs.jsonl", "sample.jsonl", *JUDGED, "--gate", "0.5")
    train, sample = _training("m")
    held_out, (_, asked_old), (_, asked) = sample.split(0)[1], *models()

    def gained(queries, documents):
        """Mean nDCG@10 of the queries with a relevant canary, by hand."""
        order = np.argsort(-queries @ unit(documents).T, axis=1)[:, :10]
        discount, found = 1 / np.log2(np.arange(2, 12)), []
        for rows, grades in zip(order, judged, strict=True):
            there = sorted((grades.get(own, 0) for own in held_out.ids), reverse=True)[:10]
            if there[0] > 0:
                got = [grades.get(held_out.ids[row], 0) for row in rows]
                found.append(np.dot(got, discount) / np.dot(there, discount))
        return np.mean(found)

    native, maps = gained(asked, held_out.new), fit_maps("documents", train, sample)
    ways = {(way["name"], way["share"]): way for way in plan["ways"]}
    for name, value in [("stay", gained(asked_old, held_out.old)),
                        ("documents", gained(asked, maps.documents(held_out.old)))]:  # fmt: skip
        found = ways[name, 0]["retention"]
        assert found["value"] == pytest.approx(value / native)
        assert found["low"] < found["value"] < found["high"]
    assert 0 < ways["documents", 0]["recall"]["value"] < 1
    run(capsys, "fit", "m", "--way", "documents", "--mapped")
    assert main(["migrate", "verify", "m", "--gate", "0.999"]) == 1
    assert "got share of nDCG 0." in capsys.readouterr().err
    run(capsys, "verify", "m")
    assert main(["migrate", "plan", "m", "docs.jsonl", "sample.jsonl", *JUDGED]) == 0
    assert "share of nDCG@10" in capsys.readouterr().out


def test_more_ndcg_than_the_new_model_has_is_verified(judged, capsys):
    """Judgements that the old model answers better: retention above 1 is noted and read again."""
    fill("docs.jsonl")
    ((old, asked_old), _) = models()
    best_ids = np.argsort(-asked_old @ old.T, axis=1)[:, :40]
    lines = [f"q{i}\td{row}\t1\n" for i, rows in enumerate(best_ids) for row in rows]
    Path("qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    run(capsys, "plan", "m", "docs.jsonl", "sample.jsonl", *JUDGED)
    run(capsys, "fit", "m", "--way", "queries")
    assert run(capsys, "verify", "m")["high"] > 1
    assert run(capsys, "apply", "m")["state"] == "queries"


@pytest.mark.parametrize(
    ("args", "content", "text"),
    [
        (JUDGED[4:], "q1\td1\t1\n", "need the vectors of their queries"),
        (JUDGED, "other\td1\t1\n", "judges none of the queries"),
        (JUDGED, "q1\tother\t1\n", "no judged query has a relevant document"),
        (JUDGED, "q1\td1\n", "2 columns"),
        ((*JUDGED[:5], "absent.tsv"), "", "absent.tsv"),
    ],
)
def test_judgements_that_do_not_fit(here, capsys, args, content, text):
    fill("docs.jsonl")
    Path("qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + content)
    assert text in refused(capsys, "migrate", "plan", "m", "docs.jsonl", "sample.jsonl", *args)


def test_the_gate_is_measured(here, capsys):
    fill("docs.jsonl")
    run(capsys, "plan", "m", "docs.jsonl", "sample.jsonl", "--gate", "0.999")
    run(capsys, "fit", "m", "--way", "documents")
    assert main(["migrate", "verify", "m"]) == 1
    captured = capsys.readouterr()
    assert "not met" in captured.out
    assert "the gate is not met: got overlap 0." in captured.err
    assert "gate was not met" in refused(capsys, "migrate", "apply", "m", code=1)
    assert run(capsys, "verify", "m", "--gate", "0.2")["passed"]
    text = Path("m/verified.json").read_text()
    Path("m/verified.json").write_text(text.replace('"gate": 0.2', '"gate": 0.1'))
    assert "its own digest" in refused(capsys, "migrate", "apply", "m")


@pytest.mark.parametrize("point", ["mapping", "before", "after"])
def test_a_killed_apply_is_continued(here, capsys, monkeypatch, point):
    pytest.importorskip("pyarrow")
    fill("docs.parquet")
    before = by_id("docs.parquet")
    run(capsys, "plan", "m", "docs.parquet", "sample.jsonl", "--gate", "0.2")
    run(capsys, "fit", "m", "--way", "documents")
    run(capsys, "verify", "m")

    class Killed(BaseException):
        pass

    def kill(*args):
        if point == "after":
            real(*args)
        raise Killed

    real = steps.switch_vectors
    if point == "mapping":
        from linalign_lite.vectors import mapping
        from linalign_lite.vectors.files import parquet

        monkeypatch.setattr(mapping, "BATCH", 100 * OLD * 4)
        monkeypatch.setattr(parquet, "SEGMENT", 1)
        wrote = parquet.Sink.write

        def write_some(self, batch):
            wrote(self, batch)
            if batch.cursor == "500":
                raise Killed

        monkeypatch.setattr(parquet.Sink, "write", write_some)
    else:
        monkeypatch.setattr(steps, "switch_vectors", kill)
        # a killed process writes nothing more
        monkeypatch.setattr(
            MigrationFolder, "write",
            lambda self, name, value, write=MigrationFolder.write: (
                None if value.state == "written" and Path("m/applied.json").exists()
                else write(self, name, value)
            ),
        )  # fmt: skip
    with pytest.raises(Killed):
        main(["migrate", "apply", "m"])
    monkeypatch.undo()
    monkeypatch.chdir(here)
    capsys.readouterr()
    if point != "after":
        assert {k: v[1] for k, v in by_id("docs.parquet").items()} == {
            k: v[1] for k, v in before.items()
        }
        np.testing.assert_array_equal(by_id("docs.parquet")["d0"][0], before["d0"][0])
    state = run(capsys, "apply", "m")
    assert state["state"] == "switched"
    assert by_id("docs.parquet")["d0"][0].shape == (NEW,)
    former = next(p.name for p in here.glob("docs.*.parquet"))
    if point == "after":
        assert state["former"] == ""
        assert "--former" in refused(capsys, "migrate", "rollback", "m")
        assert "is not the collection" in refused(
            capsys, "migrate", "rollback", "m", "--former", "docs.parquet"
        )
        run(capsys, "rollback", "m", "--former", former)
    else:
        assert state["former"] == former
        run(capsys, "rollback", "m")
    np.testing.assert_array_equal(by_id("docs.parquet")["d0"][0], before["d0"][0])


def test_a_collection_that_changed_meanwhile_is_not_replaced(here, capsys):
    fill("docs.jsonl")
    run(capsys, "plan", "m", "docs.jsonl", "sample.jsonl", "--gate", "0.2")
    run(capsys, "fit", "m", "--way", "documents")
    run(capsys, "verify", "m")
    run(capsys, "apply", "m", "--keep")
    (old, _), _ = models()
    more = Batch((*(f"d{i}" for i in range(N)), "late"), np.concatenate([old, old[:1]]))
    write("docs.jsonl", more, 200, metric="cosine")
    assert "was changed since" in refused(capsys, "migrate", "apply", "m", code=1)
    assert len(read("docs.jsonl")[0]) == N + 1


def test_a_migration_of_version_1_goes_on(tmp_path, capsys, monkeypatch):
    """The folder that version 1 left is verified, applied, and rolled back."""
    shutil.copytree(ROOT / "tests/golden/v1.migration", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    before = Path("docs.jsonl").read_bytes()
    noted = json.loads(Path("m/verified.json").read_text())
    verdict = run(capsys, "verify", "m")
    assert verdict["passed"]
    assert verdict["maps"] == noted["maps"]
    for name in ("retention", "low", "high"):
        assert verdict[name] == pytest.approx(noted[name], abs=0.02)  # processors round otherwise
    state = run(capsys, "apply", "m")
    assert (state["state"], state["new"]) == ("switched", "docs-new.jsonl")
    assert read("docs.jsonl", 500)[1].dim == 4
    run(capsys, "rollback", "m")
    assert Path("docs.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["plan", "m", "absent.jsonl", "sample.jsonl"], "cannot read"),
        (["plan", "m", "docs.jsonl", "few.jsonl"], "too small a sample"),
        (["plan", "m", "docs.jsonl", "others.jsonl"], "does not have"),
        (["plan", "m", "docs.jsonl", "sample.jsonl", "--gate", "1.5"], "gate or k"),
        (["plan", "m", "docs.jsonl", "sample.jsonl", "--queries", "q-old.jsonl"], "another model"),
        (["plan", "a/b", "docs.jsonl", "sample.jsonl"], "not there"),
        (["fit", "absent"], "migrate plan"),
        (["verify", "absent"], "migrate plan"),
        (["apply", "absent"], "migrate plan"),
        (["rollback", "absent"], "not applied"),
    ],
)
def test_bad_usage(here, capsys, args, text):
    fill("docs.jsonl")
    write("few.jsonl", Batch(("d1", "d2"), np.ones((2, NEW), np.float32)))
    write("others.jsonl", Batch(tuple(map(str, range(90))), np.ones((90, NEW), np.float32)))
    assert text in refused(capsys, "migrate", *args)


def test_the_split_depends_on_ids_alone(here):
    fill("docs.jsonl")
    found = read("sample.jsonl")[0]
    order = np.random.default_rng(9).permutation(SAMPLE)
    write("other.jsonl", Batch(tuple(found.ids[i] for i in order), found.vectors[order]))
    splits = [read_sample("docs.jsonl", name).split(4) for name in ("sample.jsonl", "other.jsonl")]
    for a, b in zip(*splits, strict=True):
        assert a.ids == b.ids
        np.testing.assert_array_equal(a.new, b.new)
        np.testing.assert_array_equal(a.old, b.old)
    train, held_out = splits[0]
    assert not set(train.ids) & set(held_out.ids)
    assert len(train) + len(held_out) == SAMPLE


def test_a_document_does_not_find_itself():
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(30, 4)))
    rows[7] = rows[3]  # twins
    own = Canaries(Pairs(("",) * 30, rows, rows), Queries((), rows), True, "cosine", 6)
    found = own.ranking(rows, rows)
    assert found.shape == (30, 6)
    scores = rows @ rows.T
    np.fill_diagonal(scores, -2)
    best_rows = np.argsort(-scores, axis=1)[:, :6]
    for i in set(range(30)) - {3, 7}:
        assert i not in found[i]
        assert set(found[i]) == set(best_rows[i])
    assert own.measure(Maps(), "same").retention.value == 1


def test_the_least_work_is_chosen_unless_clearly_worse():
    def way(name, value):
        return Measured(name, 0.0, Interval(value, value - 0.04, value + 0.04))

    values = {"queries": 0.70, "documents": 0.71, "both": 0.715}
    assert best([way(*item) for item in values.items()]) == "queries"
    assert best([way(*item) for item in {**values, "both": 0.8}.items()]) == "both"
    assert best([way(*item) for item in {**values, "documents": 0.8}.items()]) == "documents"


def test_texts_that_a_gate_needs():
    def curve(loss):
        return tuple(Texts(n, Interval(1 - loss(n), 0, 1)) for n in (50, 100, 200, 400))

    halving = curve(lambda n: 0.4 * (50 / n) ** 0.5)
    assert _needed(halving, 0.7, 10**6) == 100
    assert _needed(halving, 0.9, 10**6) == pytest.approx(800, abs=2)
    assert _needed(halving, 0.99, 10**4) is None  # more than there are
    assert _needed(curve(lambda n: 0.4), 0.9, 10**6) is None
