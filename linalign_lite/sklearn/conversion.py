"""Conversions between scikit-learn's conventions and the library's: errors, arrays, labels."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from linalign_lite.core.affine_map import Array
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import InputError

DTYPES = (np.float64, np.float32)  # others become the first


@contextlib.contextmanager
def value_errors() -> Iterator[None]:
    """Turn InputErrors of the block into ValueErrors, which scikit-learn's conventions ask for."""
    try:
        yield
    except InputError as e:
        raise ValueError(str(e)) from e


def fitted_states(estimator: Any, X: npt.ArrayLike) -> Array:
    """Rows (n, n_features_in_) for a fitted estimator: finite, with the columns of the fit."""
    check_is_fitted(estimator)
    states: Array = validate_data(estimator, X, dtype=DTYPES, reset=False)
    return states


def labelled_states(X: Array, y: npt.ArrayLike) -> tuple[HiddenStates, npt.NDArray[Any]]:
    """States with the label of each row, (n,), and the distinct labels in their own type, sorted.

    Raises ValueError for labels that are no classes, such as fractions.
    """
    check_classification_targets(y)
    classes, ids = np.unique(np.asarray(y), return_inverse=True)
    names = tuple(map(str, classes.tolist()))
    return HiddenStates(X, labels=names, label_ids=ids.astype(np.int32)), classes
