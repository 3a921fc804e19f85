"""Markdown tables: numbers of the rows, escaped names, no heavy imports."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest
from made import PALE, SMALL, TINY, made_results, small_results
from support import ROOT

from linalign_lite import to_markdown
from linalign_lite.errors import InputError
from linalign_lite.survey.report import analysis
from linalign_lite.survey.report.markdown import plain
from linalign_lite.survey.results import ModelRow, Results


def tables(text):
    """Heading → rows of cells of its tables."""
    found, heading = {}, ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| ") and not line.startswith("| ---"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found.setdefault(heading, []).append([c.strip() for c in cells])
    return found


def test_golden():
    text = to_markdown(small_results())
    assert "# Two \\| &lt;models&gt;\n" in text
    found = tables(text)
    assert found["topics"] == [
        ["source → target", "native target", "native source", "public texts, kl"],
        ["birch é → ash", "0.738", "–", "0.731 (0.99)"],
    ]
    assert found["On public texts"][1] == ["birch é → ash", "0.562 (0.594, 0.031)"]
    assert found["Out of distribution"][1] == [
        "topics", "birch é → ash", "knn", "0.900", "0.800", "0.400", "0.500", "public, kl",
    ]  # fmt: skip
    assert found["Generation"][1][2:] == ["0.493", "0.750", "2.50", "1.75", "2,285"]
    assert found["Tokenizers"][1][1:4] == ["0.620", "0.810", "0.300"]
    assert found["In short"][1] == ["topics", "public", "0.991", "0.991 to 0.991", "1 of 1"]


def test_every_row_of_classification_is_there():
    results = made_results()
    found = tables(to_markdown(results))
    for row in results.classification:
        pair = f"{plain(row.source)} → {plain(row.target)}"
        cells = next(c for c in found[row.data] if c[0] == pair)
        assert f"{row.accuracy:.3f} ({row.retention:.2f})" in cells


def test_all_tables_are_rectangular():
    for rows in tables(to_markdown(made_results())).values():
        for row in rows:
            assert len(row) >= 4


def test_names_stay_names():
    evil = "<script>x</script> | `a` [b](c) *d* _e_ # ~f~"
    small = small_results()
    models = (dataclasses.replace(small.models[0], name=evil), small.models[1])
    text = to_markdown(Results("t", "1", 0, "mean", 0, models))
    assert "<script>" not in text
    row = next(line for line in text.splitlines() if "script" in line)
    assert len(re.split(r"(?<!\\)\|", row)) == 8
    assert "\\[b\\](c)" in row


def test_what_was_not_surveyed_has_no_section():
    models = tuple(ModelRow(n, "", "", "embed", 1, 1, 1) for n in "ab")
    text = to_markdown(Results("t", "1", 0, "mean", 0, models))
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# t",
        "## Models and data",
    ]


def test_results_that_do_not_hang_together_are_refused():
    small = small_results()
    with pytest.raises(InputError, match="one name twice"):
        to_markdown(dataclasses.replace(small, models=small.models * 2))


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_markdown_needs_no_extra(package):
    code = (
        f"import sys; sys.modules['{package}'] = None; from made import made_results; "
        "from linalign_lite import to_markdown; to_markdown(made_results())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "tests")


# --- findings -------------------------------------------------------------------------------------


def changed(**retention):
    """Classification rows of one pair with the given retention of each kind of texts."""
    made = made_results()
    rows = tuple(
        dataclasses.replace(r, retention=retention[r.texts.replace("+", "_")])
        for r in made.classification
        if (r.source, r.target, r.data) == (PALE, TINY, "trec")
        and r.texts.replace("+", "_") in retention
    )
    return dataclasses.replace(made, classification=rows)


@pytest.mark.parametrize(
    ("retention", "words"),
    [
        (
            {"public": 0.7, "few": 0.6, "public_few": 0.85, "all": 0.9},
            "a few of its own texts 0.85",
        ),
        ({"public": 0.7, "few": 0.82, "public_few": 0.75}, "a few of its own texts 0.82"),
        ({"public": 0.7, "public_few": 0.75, "all": 0.9}, "with all of them 0.90"),
        ({"public": 0.7, "all": 0.75}, "not explained"),
    ],
)
def test_why_a_map_fails_is_read_off_the_rows(retention, words):
    (failure,) = analysis.failures(changed(**retention))
    assert failure.retention == 0.7
    assert words in failure.why


def test_dissimilar_spaces_are_named():
    made = changed(public=0.7, all=0.75)
    similarity = tuple(
        dataclasses.replace(r, value=0.21) if r.measure == "r2" else r for r in made.similarity
    )
    (failure,) = analysis.failures(dataclasses.replace(made, similarity=similarity))
    assert failure.why == "the two spaces are dissimilar: held-out R² on public texts 0.21"
    assert analysis.failures(changed(public=0.8)) == []


def test_the_better_of_two_objectives_counts_and_is_named():
    made = made_results()
    rows = analysis.best_by_texts(made)[SMALL, TINY, "sst2"]["public"]
    wanted = (SMALL, TINY, "sst2", "public")
    both = [r for r in made.classification if (r.source, r.target, r.data, r.texts) == wanted]
    assert len(both) == 2
    assert rows.accuracy == max(r.accuracy for r in both)
    mended = analysis.fixed_by_kl(made)
    assert mended
    for ridge, kl in mended:
        assert ridge.retention < analysis.FAILS <= kl.retention
        assert (ridge.objective, kl.objective) == ("ridge", "kl")


def test_ood_is_compared_with_the_best_native_detector():
    made = made_results()
    for loss in analysis.ood_losses(made):
        native = [r for r in made.ood if r.source == r.target == loss.mapped.target
                  and r.data == loss.mapped.data]  # fmt: skip
        assert loss.native.auroc == max(r.auroc for r in native)
        assert loss.mapped.detector == loss.native.detector
    assert len(analysis.ood_losses(made)) == 6 * 2 * 2


def test_several_numbers_of_own_texts_are_recipes_of_their_own():
    made = made_results()
    rows = [r for r in made.classification if r.data == "trec"]
    assert len(analysis.by_settings(rows)) == 8
    more = [dataclasses.replace(r, n_few=512) for r in rows if r.texts == "few"]
    found = analysis.by_settings([*rows, *more])
    assert len(found) == 10
    assert "few own texts (512), kl" in [analysis.settings_label(key) for key in found]
