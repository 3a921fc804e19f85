"""Files of detectors: round trips, golden bytes, hostile files."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from ood_cases import every, labelled
from support import ROOT

from linalign_lite import (
    Detector,
    FormatError,
    Head,
    InputError,
    MismatchError,
    Space,
    load,
    load_detector,
    load_head,
    save,
)
from linalign_lite.commands.describe_file import describe
from linalign_lite.core.choices import DetectorMethod, values_of
from linalign_lite.heads.ood import serialization
from linalign_lite.heads.ood.detectors import METHODS, RULES
from linalign_lite.heads.ood.detectors.base import Rule
from linalign_lite.heads.ood.detectors.cosine import Cosine
from linalign_lite.heads.ood.detectors.logits import Energy, LogitRule, MaxLogit, MaxSoftmax
from linalign_lite.heads.ood.detectors.mahalanobis import Mahalanobis, RelativeMahalanobis
from linalign_lite.heads.ood.detectors.nearest_neighbours import (
    NearestNeighbours,
    WhitenedNearestNeighbours,
)
from linalign_lite.heads.ood.detectors.vim import VirtualLogit
from linalign_lite.storage.npz import load_npz, save_npz

GOLDEN = ROOT / "tests" / "golden" / "ood"
SPACE = Space(3, "ab" * 32, "ash", "mean", normalize=True)
NAMES = ("no", "yes")


def examples() -> dict[str, Detector]:
    """One detector of each method, with exactly representable numbers."""
    weight = np.array([[1, -2, 3], [-4, 5, -6]], dtype=np.float32) / 4
    head = Head(weight, np.array([0.5, -1], dtype=np.float32), NAMES, SPACE, 30.0)
    mean, white = np.array([0.5, -1, 2]), np.array([[2.0, 0, 1], [0, 4, -1]])
    points, bank = np.array([[1.0, 0], [0, -1]]), np.eye(3, dtype=np.float32)
    rules: dict[str, Rule] = {
        "energy": Energy(2, 0.5, head),
        "msp": MaxSoftmax(2, 1.0, head),
        "max-logit": MaxLogit(2, 1.0, head),
        "bare": Energy(2, 2.0),
        "mahalanobis": Mahalanobis(mean, white, points * 3),
        "relative-mahalanobis": RelativeMahalanobis(mean, white, points * 3, np.eye(3) / 2),
        "cosine": Cosine(mean, white, points),
        "knn": NearestNeighbours(bank, 2),
        "whitened-knn": WhitenedNearestNeighbours(bank[:2, :2], 1, mean, white),
        "vim": VirtualLogit(dataclasses.replace(head, labels=()), mean, np.eye(3)[:1], 0.25),
    }
    return {
        name: Detector(
            rule,
            SPACE,
            threshold=0.75,
            tpr=0.95,
            labels=NAMES if isinstance(rule, LogitRule) else (),
            card={"n": 4},
        )
        for name, rule in rules.items()
    }


NAMED = list(examples())


def same(a: Detector, b: Detector) -> None:
    for name in ("method", "space", "threshold", "tpr", "labels"):
        assert getattr(a, name) == getattr(b, name), name
    assert type(a.rule) is type(b.rule)
    for field in dataclasses.fields(a.rule):
        x, y = getattr(a.rule, field.name), getattr(b.rule, field.name)
        if isinstance(x, Head):
            assert x.softcap == y.softcap
            x, y = (np.column_stack([h.weight, h.bias]) for h in (x, y))
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        else:
            assert x == y, field.name


@pytest.mark.parametrize("name", NAMED)
def test_golden_bytes_and_golden_files(name, tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "__version__", "0.1.0")  # of the library that wrote them
    golden, made = GOLDEN / f"v1.{name}.ood.npz", examples()[name]
    save(tmp_path / "x.npz", made)
    assert (tmp_path / "x.npz").read_bytes() == golden.read_bytes()
    for read in (load, load_detector):
        same(read(golden), made)


def test_every_method_has_a_golden_file():
    assert set(METHODS) == {load_detector(p).method for p in GOLDEN.glob("v1.*.ood.npz")}
    assert set(METHODS) == set(RULES) == set(values_of(DetectorMethod))


def test_a_loaded_detector_scores_as_the_one_that_was_saved(rng, tmp_path):
    test = labelled(rng, 50)
    for method, fitted in every(rng).items():
        save(tmp_path / "x.npz", fitted)
        found = load_detector(tmp_path / "x.npz")
        np.testing.assert_array_equal(found.scores(test), fitted.scores(test))
        np.testing.assert_array_equal(found.outlying(test), fitted.outlying(test))
        assert found.card["n"] == 600, method


def test_what_is_described(tmp_path):
    for name, made in examples().items():
        save(tmp_path / "x.npz", made)
        facts = describe(tmp_path / "x.npz")
        assert facts["kind"] == "detector of outlying states"
        assert (facts["method"], facts["threshold"], facts["tpr"]) == (made.method, 0.75, 0.95)
        assert facts["n"] == 4
        reads = "scores of a head" if name == "bare" else SPACE.describe()
        assert facts["reads"] == reads
        json.dumps(facts)
    assert facts["alpha"] == 0.25


def test_every_truncation_and_every_flipped_byte_is_named_or_harmless(tmp_path):
    path = tmp_path / "x.npz"
    for name in ("bare", "relative-mahalanobis", "vim"):
        original = examples()[name]
        save(path, original)
        whole = path.read_bytes()
        for size in range(0, len(whole) - 1, 13):
            path.write_bytes(whole[:size])
            with pytest.raises(FormatError):
                load_detector(path)
        for place in range(len(whole)):
            broken = bytearray(whole)
            broken[place] ^= 0xFF
            path.write_bytes(broken)
            try:
                found = load_detector(path)
            except FormatError:
                continue
            same(found, original)  # time stamps and the like: no content


def altered(tmp_path, name, arrays=None, drop=(), version=1, **card):
    """Write an example with changed arrays and card fields, and valid checksums."""
    path = tmp_path / "x.npz"
    save(path, examples()[name])
    members, facts = load_npz(path, serialization.KIND, 1, serialization._SCHEMA)
    members = {k: v for k, v in {**members, **(arrays or {})}.items() if k not in drop}
    facts = {k: v for k, v in facts.items() if k not in {"format", "version"}}
    save_npz(path, serialization.KIND, version, members, {**facts, **card})
    return path


ATTACKS = {
    "unknown method": (("knn", {"method": "forest"}), "unknown method: got forest"),
    "method is no string": (("knn", {"method": ["knn"]}), "unknown method"),
    "another method": (
        ("knn", {"method": "cosine"}),
        "does not hold the arrays of a detector of this method",
    ),
    "version": (("knn", {"version": 2}), "got 2, expected 1 to 1"),
    "a member too many": (("knn", {"arrays": {"mean": np.zeros(3)}}), "does not hold"),
    "a member of no detector": (("knn", {"arrays": {"evil": np.zeros(3)}}), "do not belong"),
    "a member missing": (("vim", {"drop": ("residual",)}), "does not hold"),
    "bias alone": (("energy", {"drop": ("weight",)}), "does not hold"),
    "nothing at all": (("cosine", {"drop": ("mean", "whitening", "centres")}), "got nothing"),
    "wrong dtype": (("knn", {"arrays": {"bank": np.eye(3, dtype=np.int32)}}), "wrong type"),
    "not finite": (("knn", {"arrays": {"bank": np.full((2, 3), np.nan)}}), "not finite"),
    "rows too long": (("knn", {"arrays": {"bank": np.eye(3) * 2}}), "do not have length 1"),
    "no rows": (("knn", {"arrays": {"bank": np.zeros((0, 3))}}), "bank does not fit"),
    "no centres": (("mahalanobis", {"arrays": {"centres": np.zeros((0, 2))}}), "does not fit"),
    "shapes apart": (("mahalanobis", {"arrays": {"mean": np.zeros(4)}}), "whitening does not fit"),
    "background apart": (
        ("relative-mahalanobis", {"arrays": {"background": np.eye(2)}}),
        "background does not fit",
    ),
    "bias apart": (("msp", {"arrays": {"bias": np.zeros(3, np.float32)}}), "bias does not fit"),
    "another space": (
        ("cosine", {"space": {**dataclasses.asdict(SPACE), "dim": 4}}),
        "space does not fit",
    ),
    "no space": (("cosine", {"space": None}), "space is not an object: got null"),
    "settings of another": (
        ("knn", {"settings": {"alpha": 1.0}}),
        "card.settings has unknown fields: got alpha, expected",
    ),
    "settings is a list": (
        ("knn", {"settings": [2]}),
        "card.settings is not an object: got a list",
    ),
    "k of nothing": (("knn", {"settings": {"k": 0}}), "expected 1 to 3"),
    "k too large": (("knn", {"settings": {"k": 10**9}}), "expected 1 to 3"),
    "k is half": (
        ("knn", {"settings": {"k": 1.5}}),
        "settings.k is not usable: got 1.5, expected a whole number",
    ),
    "k is true": (
        ("knn", {"settings": {"k": True}}),
        "settings.k is not usable: got true or false, expected a whole number",
    ),
    "k is huge": (("knn", {"settings": {"k": 10**400}}), "settings.k is not usable: got 1000"),
    "k is null": (
        ("knn", {"settings": {"k": None}}),
        "settings.k is not usable: got null, expected a whole number",
    ),
    "cold": (("energy", {"settings": {"temperature": 0, "n_outputs": 2}}), "temperature is not"),
    "outputs that lie": (
        ("energy", {"settings": {"temperature": 1, "n_outputs": 3}}),
        "n_outputs does not fit: got 3, expected 2",
    ),
    "outputs of none": (
        ("bare", {"labels": [], "settings": {"temperature": 1, "n_outputs": -2}}),
        "too few outputs",
    ),
    "alpha below 0": (("vim", {"settings": {"alpha": -1, "n_outputs": 2}}), "alpha is not usable"),
    "threshold is a string": (
        ("knn", {"threshold": "1"}),
        "card.threshold is not usable: got text, expected a number",
    ),
    "threshold alone": (("knn", {"tpr": None}), "threshold and tpr go together"),
    "tpr of 2": (("knn", {"tpr": 2}), "share to keep is not usable"),
    "labels of no string": (
        ("energy", {"labels": [1, 2]}),
        r"labels\[0\] is not usable: got a whole number, expected text",
    ),
    "labels that do not fit": (("bare", {"labels": ["a", "b", "c"]}), "labels do not fit"),
    "labels where none belong": (("knn", {"labels": ["a", "b"]}), "labels do not fit"),
    "labels that move the cursor": (
        ("bare", {"labels": ["a", "\x1b[2J"]}),
        r"labels\[1\] is not usable: got 4 long",
    ),
    "soft cap of 0": (("energy", {"softcap": 0}), "soft cap is not usable"),
    "soft cap is true": (
        ("knn", {"softcap": True}),
        "card.softcap is not usable: got true or false, expected a number",
    ),
    "info is a list": (("knn", {"info": []}), "card.info is not an object: got a list"),
}


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_attacks_are_refused_by_name(attack, tmp_path):
    (name, changes), words = ATTACKS[attack]
    path = altered(tmp_path, name, **changes)
    with pytest.raises(FormatError, match=words) as caught:
        load_detector(path)
    assert str(caught.value).isprintable()
    assert "x.npz" in str(caught.value)


def test_another_kind_and_another_head_are_named(tmp_path):
    save(tmp_path / "d.npz", examples()["knn"])
    with pytest.raises(FormatError, match="got linalign-ood, expected format linalign-head"):
        load_head(tmp_path / "d.npz")
    with pytest.raises(InputError, match="cannot read"):
        load_detector(tmp_path / "gone.npz")
    with pytest.raises(FormatError, match="at most 100"):
        load_detector(tmp_path / "d.npz", cap=100)
    with pytest.raises(MismatchError, match="another head"):
        examples()["bare"].of_scores(np.zeros((1, 2)), ("left", "right"))
