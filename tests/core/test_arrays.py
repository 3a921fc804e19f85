"""Arrays, lists and DataFrames as callers have them, where states and labels are taken."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import linalign_lite as la
from linalign_lite.storage.arrays import repeated_rows

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(90, 5)), RNG.normal(size=(90, 4))
NAMES = np.array(["ant", "bee", "cat"])[np.arange(90) % 3]


@pytest.mark.parametrize("kind", [pd.DataFrame, np.ndarray.tolist, np.asfortranarray])
def test_tables_of_any_kind_are_the_array(kind):
    affine, report = la.fit(kind(X), kind(Y))
    expected, wanted = la.fit(X, Y)
    assert np.array_equal(affine.weight, expected.weight)
    assert report == wanted
    assert np.array_equal(affine(kind(X)), expected(X))
    assert la.fit_detector(kind(X), method="knn").scores(kind(X)).shape == (90,)


@pytest.mark.parametrize("dtype", ["str", "object", "category"])
def test_labels_may_be_a_column_of_a_data_frame(dtype):
    head, report = la.train_head(X, pd.Series(NAMES, dtype=dtype))
    expected, wanted = la.train_head(X, NAMES)
    assert (head.labels, report) == (expected.labels, wanted)
    numbers = pd.Series(np.arange(90) % 3, dtype="object" if dtype == "object" else "int64")
    assert la.train_head(X, numbers)[0].labels == ("0", "1", "2")
    assert la.train_head(X, numbers > 0)[0].labels == ("False", "True")


def test_a_detector_takes_labels_of_rows():
    states = la.HiddenStates(X, labels=NAMES)
    by_labels = la.fit_detector(X, NAMES, method="relative-mahalanobis", validation=X)
    expected = la.fit_detector(states, method="relative-mahalanobis", validation=la.HiddenStates(X))
    assert np.array_equal(by_labels.scores(X), expected.scores(X))
    assert by_labels.threshold == expected.threshold


def with_nan(rows):
    return np.where(np.isin(np.arange(90), rows)[:, None], np.nan, X)


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (pd.DataFrame(X).assign(topic=NAMES), "no table of numbers: got values of type object"),
        (NAMES, "no table of numbers: got values of type <U3"),
        ([[1.0, 2.0], [3.0]], "no table of numbers: got rows of different lengths"),
        (csr_matrix(X), "no table of numbers: got values of type object"),
        (X.astype(complex), "no table of numbers: got values of type complex128"),
        (X[:, 0], "wrong shape"),
        (with_nan([3, 50]), "not finite: got 2 of 90 rows, the first number 3 (hint: leave"),
        (X * 1e300, "not finite: got 90 of 90 rows, the first number 0"),
    ],
)
def test_what_is_no_table_of_numbers_is_named(states, said):
    for take in (lambda s: la.fit(s, Y), lambda s: la.train_head(s, NAMES), la.HiddenStates):
        with pytest.raises(la.InputError) as e:
            take(states)
        assert said in str(e.value)


def test_rows_without_a_label_are_counted():
    labels = pd.Series(NAMES, dtype="object")
    labels[[7, 9]] = None
    with pytest.raises(la.InputError, match="2 of 90 rows have no label: got row 7"):
        la.train_head(X, labels)
    labels[[7, 9]] = np.nan
    with pytest.raises(la.InputError, match="2 of 90 rows have no label: got row 7"):
        la.train_head(X, labels)


def test_shown_objects_are_one_line():
    affine, _ = la.fit(la.HiddenStates(X, la.Space(5, name="birch")), Y)
    assert repr(affine) == "AffineMap(birch (5 dimensions) to unnamed (4 dimensions))"
    states = la.HiddenStates(X, labels=NAMES)
    assert repr(states) == "HiddenStates(90 rows, unnamed (5 dimensions), 3 labels)"
    assert repr(la.train_head(states)[0]) == "Head(3 outputs, unnamed (5 dimensions))"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("columns", [3, 40])
def test_repeated_rows_are_counted(rng, dtype, columns):
    rows = rng.normal(size=(50, columns)).astype(dtype)
    assert repeated_rows(rows) == 0
    assert repeated_rows(np.concatenate([rows, rows[:7], rows[:7]])) == 14
    rows[:, :20] = 1  # rows may agree in the first columns
    assert repeated_rows(rows) == (49 if columns == 3 else 0)


def test_a_frame_and_labels_of_other_rows_are_remarked():
    frame, labels = pd.DataFrame(X), pd.Series(NAMES)
    la.train_head(frame, labels)
    with pytest.warns(UserWarning, match="rows and labels have different indexes"):
        la.train_head(frame, labels.sample(frac=1, random_state=0))


def test_a_column_of_vectors_gets_a_hint():
    with pytest.raises(la.InputError, match=r"np\.stack makes a matrix"):
        la.HiddenStates(pd.Series(list(X)))


def test_an_array_file_is_no_map(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(la.FormatError, match=r"x\.npy is a NumPy array, not a linalign-map file"):
        la.load_map(tmp_path / "x.npy")


def test_rows_that_are_not_finite_are_named_to_a_map():
    affine, _ = la.fit(X, Y)
    wrong = X.copy()
    wrong[[5, 8]] = np.nan
    with pytest.raises(la.InputError, match="got 10 of 450 values, in 2 rows, the first number 5"):
        affine(wrong)
