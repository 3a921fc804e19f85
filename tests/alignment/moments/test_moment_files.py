"""Files of moments: what is kept, what goes together, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from moment_cases import folder, pooled
from support import ROOT

from linalign_lite.alignment.least_squares import fit
from linalign_lite.alignment.moments import FoldedMoments, Moments
from linalign_lite.alignment.moments_io import _SCHEMA, load_moments, save_moments
from linalign_lite.alignment.paired_moments import (
    MomentsPart,
    PairedMoments,
    fit_paired,
    put_together,
)
from linalign_lite.alignment.streaming.measure import measure_pair, measure_shards
from linalign_lite.commands import main
from linalign_lite.commands.describe_file import describe
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.serialization import load_map
from linalign_lite.core.space import Space
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.heads.serialization import save
from linalign_lite.storage.npz import save_npz

GOLDEN = ROOT / "tests" / "golden" / "v1.moments.npz"


@pytest.fixture
def whole():
    return measure_pair(pooled("x", 200), pooled("y", 200))


def tiny() -> PairedMoments:
    """Whole numbers, so that every machine has the same bytes."""
    fold = Moments(
        4, np.array([1.0, 2.0]), np.array([3.0]), np.array([[4.0, 1.0], [1.0, 9.0]]),
        np.array([[2.0], [3.0]]), np.array([8.0]),
    )  # fmt: skip
    other = replace(fold, n=3, mean_x=np.array([0.5, 0.25]))
    part = MomentsPart("ab" * 32, 7, ("cd" * 32, "ef" * 32))
    spaces = Space(2, "12" * 32, "reader", "mean"), Space(1, "34" * 32, "speaker", "mean")
    return PairedMoments(FoldedMoments((fold, other)), *spaces, 11, (part,))


def alike(a: PairedMoments, b: PairedMoments) -> None:
    assert (a.source, a.target, a.seed, a.parts, a.pairing) == (
        b.source, b.target, b.seed, b.parts, b.pairing)  # fmt: skip
    for one, other in zip(a.moments.folds, b.moments.folds, strict=True):
        assert one.n == other.n
        for name in ("mean_x", "mean_y", "xy", "yy"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_allclose(one.xx, other.xx, rtol=1e-15)


def test_moments_come_back_and_the_same_gives_the_same_bytes(whole, tmp_path):
    for name in ("a", "b"):
        save_moments(tmp_path / name, whole)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    alike(load_moments(tmp_path / "a"), whole)


def test_the_golden_file_is_read_and_written(tmp_path):
    alike(load_moments(GOLDEN), tiny())
    save_moments(tmp_path / "now", replace(load_moments(GOLDEN)), reveal=True)
    for one, other in zip(*(np.load(p).items() for p in (GOLDEN, tmp_path / "now")), strict=True):
        assert one[0] == other[0]
        if one[0] != "card":  # it names the library's version
            np.testing.assert_array_equal(one[1], other[1])
    assert np.load(GOLDEN)["xx"].tolist() == [[4.0, 1.0, 9.0]] * 2


def test_parts_put_together_are_the_whole(tmp_path):
    """Three organisations, each with its own texts; the map is good on all of them."""
    parts = [
        measure_pair(pooled("x", n, at), pooled("y", n, at))
        for at, n in ((0, 100), (100, 60), (160, 140))
    ]
    for i, part in enumerate(parts):
        save_moments(tmp_path / f"{i}", part)
    together = put_together(load_moments(tmp_path / f"{i}") for i in range(3))
    assert together.n == 300
    x, y = pooled("x", 300), pooled("y", 300)
    total = together.moments.total
    xc, yc = (s.states.astype(float) - s.states.astype(float).mean(axis=0) for s in (x, y))
    np.testing.assert_allclose(total.xx, xc.T @ xc, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(total.xy, xc.T @ yc, rtol=1e-9, atol=1e-9)
    affine, report = fit_paired(together, penalty=1e-3)
    theirs, expected = fit(x, y, penalty=1e-3)
    np.testing.assert_allclose(affine.weight, theirs.weight, rtol=1e-5, atol=1e-6)
    assert report.held_out_r2 == pytest.approx(expected.held_out_r2, abs=0.01)  # other folds
    assert len(affine.card["text_digests"]) == 3


def test_texts_do_not_count_twice(whole, tmp_path):
    with pytest.raises(MismatchError, match="the same texts would count twice: got text digest"):
        whole + whole
    x, y = folder(tmp_path / "x", "x", [30, 50]), folder(tmp_path / "y", "y", [30, 50])
    both = measure_shards(x, y)
    second = measure_pair(pooled("x", 50, 30), pooled("y", 50, 30))  # the second shard by itself
    with pytest.raises(MismatchError, match="count twice"):
        second + both


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"seed": 1}, "other seed .*: got 1, expected 0"),
        ({"folds": 4}, "other folds .*: got 4, expected 5"),
        ({"pairing": "exact"}, "other pairing .*: got exact, expected none"),
    ],
)
def test_what_does_not_go_together_is_named(whole, other, words):
    with pytest.raises(MismatchError, match=words):
        whole + measure_pair(pooled("x", 200, 200), pooled("y", 200, 200), **other)


def test_other_models_do_not_go_together(whole):
    x = pooled("x", 200, 200)
    x = replace(x, space=replace(x.space, model="99" * 32))
    with pytest.raises(MismatchError, match="the moments have other sources"):
        whole + measure_pair(x, pooled("y", 200, 200))
    with pytest.raises(InputError, match="no moments to put together"):
        put_together([])


def test_moments_that_give_the_states_away_are_not_written_unless_told_to(tmp_path):
    few = measure_pair(pooled("x", 40), pooled("y", 40))  # 8 pairs a fold, 7 dimensions
    assert few.telling
    with pytest.raises(InputError, match="give the states themselves away: got 8 in a fold"):
        save_moments(tmp_path / "few", few)
    assert not (tmp_path / "few").exists()
    save_moments(tmp_path / "few", few, reveal=True)
    alike(load_moments(tmp_path / "few"), few)
    assert not measure_pair(pooled("x", 45), pooled("y", 45)).telling


def test_so_few_rows_follow_from_their_squares():
    """Rows follow from few squares up to a rotation, which `telling` warns of."""
    rows = np.random.default_rng(0).normal(size=(5, 8))
    centred = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    guess = (vectors * np.sqrt(np.maximum(values, 0))).T[-5:]
    u, _, vt = np.linalg.svd(centred @ guess.T)
    np.testing.assert_allclose((u @ vt) @ guess, centred, atol=1e-6)


# --- attacks ------------------------------------------------------------------------------------


def written(path: Path, card=(), **arrays) -> Path:
    """The tiny file with some of its members or fields put otherwise; None takes one away."""
    save_moments(path, tiny(), reveal=True)
    with np.load(path) as f:
        members = {name: f[name] for name in _SCHEMA}
    from linalign_lite.storage.npz import peek_npz

    fields = {**peek_npz(path), **dict(card)}
    fields = {k: v for k, v in fields.items() if k not in ("format", "version") and v is not None}
    members = {k: v for k, v in {**members, **arrays}.items() if v is not None}
    save_npz(path, "linalign-moments", 1, members, fields)
    return path


XX = np.array([[4.0, 1.0, 9.0]] * 2)


@pytest.mark.parametrize(
    "arrays",
    [
        {"n": np.array([4, -3])},
        {"n": np.array([0, 0])},
        {"n": np.array([4, 3, 0])},
        {"n": np.array([4, 1])},  # squares of a single pair are 0
        {"n": np.array([1 << 60, 3])},
        {"n": np.array([5, 3])},  # not the rows of the parts
        {"n": None},
        {"xx": None},
        {"xx": XX * [-1, 1, 1]},  # a negative diagonal
        {"xx": XX * [1, 7, 1]},  # 7² > 4·9: no XᵀX
        {"xx": XX * 1.9e307},
        {"xx": XX * 0},
        {"xx": XX[:, :2]},
        {"xx": np.array([[4.0, 1, 1, 9]] * 2)},
        {"xy": np.array([[[2.0], [9.0]]] * 2)},  # 9² > 9·8: R² above 1
        {"xy": np.zeros((2, 2, 0))},
        {"xy": np.zeros((1, 2, 1))},
        {"yy": np.array([[8.0], [-8.0]])},
        {"yy": np.array([[8.0], [np.inf]])},
        {"mean_x": np.zeros((2, 3))},
        {"mean_y": np.zeros((2, 1), dtype="f4")},
    ],
    ids=str,
)
def test_moments_that_no_states_have_are_refused(tmp_path, arrays):
    with pytest.raises(FormatError):
        load_moments(written(tmp_path / "x", **arrays))


@pytest.mark.parametrize(
    "card",
    [
        {"seed": -1}, {"seed": 1 << 63}, {"seed": True}, {"seed": 0.0}, {"rule": "hashed"},
        {"pairing": "near"}, {"pairing": ["exact"]}, {"parts": []}, {"parts": None}, {"parts": {}},
        {"parts": [{"text_digest": "", "rows": 7}]},
        {"parts": [{"text_digest": "", "rows": 8, "shards": []}]},
        {"parts": [{"text_digest": "AB" * 32, "rows": 7, "shards": []}]},
        {"parts": [{"text_digest": "", "rows": 7, "shards": ["x"]}]},
        {"parts": [{"text_digest": "", "rows": -1, "shards": []},
                   {"text_digest": "", "rows": 8, "shards": []}]},
        {"parts": [{"text_digest": "ab" * 32, "rows": 4, "shards": []},
                   {"text_digest": "ab" * 32, "rows": 3, "shards": []}]},
        {"source": {"dim": 3}}, {"source": None}, {"extra": 1},
    ],
    ids=str,
)  # fmt: skip
def test_cards_that_are_not_usable_are_refused(tmp_path, card):
    with pytest.raises(FormatError):
        load_moments(written(tmp_path / "x", card))


def test_the_file_that_the_attacks_start_from_is_good(tmp_path):
    alike(load_moments(written(tmp_path / "x")), tiny())


def test_any_altered_byte_is_refused_or_harmless(tmp_path):
    save_moments(tmp_path / "x", tiny(), reveal=True)
    raw = (tmp_path / "x").read_bytes()
    for at in range(0, len(raw), 7):
        (tmp_path / "y").write_bytes(raw[:at] + bytes([raw[at] ^ 0x41]) + raw[at + 1 :])
        try:
            alike(load_moments(tmp_path / "y"), tiny())
        except FormatError:
            continue


# --- commands -----------------------------------------------------------------------------------


def run(capsys, *args, code=0):
    assert main([str(a) for a in args]) == code
    return capsys.readouterr()


def test_two_houses_fit_one_map(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(Path("x"), "x", [60, 60, 30])
    folder(Path("y"), "y", [60, 60, 30])
    save("x2.states.npz", pooled("x", 150, 150))
    save("y2.states.npz", pooled("y", 150, 150))
    run(capsys, "moments", "x", "y", "one.moments.npz")
    run(capsys, "moments", "x2.states.npz", "y2.states.npz", "two.moments.npz")
    said = run(capsys, "fit-moments", "one.moments.npz", "two.moments.npz", "m.map.npz").out
    assert "files        2" in said
    assert "texts        300" in said
    parts = [load_moments(f"{n}.moments.npz") for n in ("one", "two")]
    np.testing.assert_array_equal(
        load_map("m.map.npz").weight, fit_paired(put_together(parts))[0].weight
    )
    said = run(capsys, "inspect", "one.moments.npz").out
    assert "kind              moments" in said
    assert describe(Path("one.moments.npz"))["pairs"] == 150
    twice = run(capsys, "fit-moments", "one.moments.npz", "one.moments.npz", "n.map.npz", code=2)
    assert "the same texts would count twice" in twice.err
    assert not Path("n.map.npz").exists()


def test_fit_of_folders_is_fit_of_their_states(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = folder(Path("x"), "x", [60, 90]), folder(Path("y"), "y", [70, 80])
    monkeypatch.setattr(
        "linalign_lite.core.shards.states_folder.StatesFolder.load", None
    )  # nothing is read whole
    run(capsys, "fit", "x", "y", "folders.map.npz")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    theirs, _ = fit(x.load(), y.load())
    np.testing.assert_allclose(load_map("folders.map.npz").weight, theirs.weight, rtol=1e-5)
    run(capsys, "fit", "x", "y", "l.map.npz", "--method", "lstsq")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("moments", "x.npz", "y.npz", "o", "--scheduler", "tcp://x:1"), "goes with folders"),
        (("fit", "x.npz", "y.npz", "o", "--scheduler", "tcp://x:1"), "goes with two folders"),
        (("moments", "x.npz", "y.npz", "o", "--folds", "1"), "folds does not fit"),
        (("moments", "x.npz", "y.npz", "x.npz"), "is an input of this command"),
        (("moments", "x.npz", "y.npz", "o", "--folds", "30"), "give the states themselves away"),
        (("fit-moments", "x.npz", "o"), "not a linalign-moments file: got linalign-states"),
        (("fit-moments", "absent", "o"), "cannot read absent"),
    ],
)
def test_what_cannot_be_measured_is_named(tmp_path, capsys, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    save("x.npz", pooled("x", 60))
    save("y.npz", pooled("y", 60))
    assert words in run(capsys, *args, code=2).err
    assert not Path("o").exists()


def test_all_pairs_in_one_fold_cannot_be_judged():
    x = HiddenStates(np.eye(3, dtype="f4"), Space(3, "", "x", "mean"))
    whole = measure_pair(x, x, folds=2)
    one = replace(whole.moments.folds[0], n=3)
    with pytest.raises(InputError, match="all pairs are in one fold"):
        fit_paired(
            PairedMoments(
                FoldedMoments((one, replace(one, n=0))), x.space, x.space, 0, (MomentsPart("", 3),)
            )
        )
