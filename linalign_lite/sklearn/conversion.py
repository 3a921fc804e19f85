"""Conversions between scikit-learn's conventions and the library's: errors, arrays, labels."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from linalign_lite.core.affine_map import Array
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError

Rows = npt.ArrayLike | HiddenStates  # (n, d); DataFrames too
DTYPES = (np.float64, np.float32)  # others become the first


@contextlib.contextmanager
def value_errors() -> Iterator[None]:
    """Turn InputErrors of the block into ValueErrors, which scikit-learn's conventions ask for."""
    try:
        yield
    except InputError as e:
        raise ValueError(str(e)) from e


def rows_of(X: Rows) -> Any:
    """The rows of states; anything else as it is."""
    return X.states if isinstance(X, HiddenStates) else X


def as_given(X: Rows, rows: Array) -> HiddenStates:
    """States as given, or of an unknown space with these checked rows."""
    return X if isinstance(X, HiddenStates) else HiddenStates(rows)


def fitted_states(estimator: Any, X: Rows, space: Callable[[], Space]) -> Array:
    """Rows (n, n_features_in_) for a fitted estimator: finite, with the columns of the fit.

    Raises ValueError for states that are not of the estimator's space.
    """
    check_is_fitted(estimator)
    states: Array = validate_data(estimator, rows_of(X), dtype=DTYPES, reset=False)
    if isinstance(X, HiddenStates):
        with value_errors():
            space().require(X.space, f"this {type(estimator).__name__} does not read these states")
    return states


def labelled_states(
    states: HiddenStates, y: npt.ArrayLike
) -> tuple[HiddenStates, npt.NDArray[Any]]:
    """States with the label of each row, (n,), and the distinct labels in their own type, sorted.

    Raises ValueError for labels that are no classes, such as fractions.
    """
    check_classification_targets(y)
    classes, ids = np.unique(np.asarray(y), return_inverse=True)
    names = tuple(map(str, classes.tolist()))
    return dataclasses.replace(states, labels=names, label_ids=ids.astype(np.int32)), classes
