"""Labels of rows as callers have them: lists, arrays, columns of a DataFrame."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import InputError

Ints = npt.NDArray[np.int32]


def label_ids(labels: npt.ArrayLike, n: int) -> tuple[tuple[str, ...], Ints]:
    """Names of the distinct labels, sorted, and the index of each of the n rows', (n,).

    labels: (n,), strings, whole numbers or truth values, also a column of a DataFrame. Raises
    InputError for others, for rows without a label, and for another number of labels.
    """
    rows = np.asarray(labels)
    if rows.ndim == 1 and rows.dtype.kind in "OfU":  # as pandas has strings, and missing numbers
        require_all(rows)
    if rows.ndim == 1 and rows.dtype.kind == "O":
        kinds = {type(value) for value in rows}
        if kinds <= {str} or kinds <= {int, bool, np.bool_}:
            rows = np.array(rows.tolist())
    if rows.ndim != 1 or rows.dtype.kind not in "USiub":
        raise InputError(
            "the labels are not usable",
            got=f"{rows.dtype}, shape {rows.shape}",
            expected="one a row, strings or whole numbers",
        )
    if len(rows) != n:
        problem = "there are not as many labels as rows"
        raise InputError(problem, got=f"{len(rows)} labels", expected=f"{n} rows")
    values, ids = np.unique(rows, return_inverse=True)
    return tuple(map(str, values.tolist())), ids.astype(np.int32)


def remark_other_rows(rows: Any, labels: Any) -> None:
    """Warn of a DataFrame and a column of labels whose indexes differ: places are what counts."""
    both = all(hasattr(given, "iloc") for given in (rows, labels))
    if both and not rows.index.equals(labels.index):
        text = "rows and labels have different indexes: row i is taken with label i all the same"
        warnings.warn(text, stacklevel=4)


def require_all(rows: npt.NDArray[Any]) -> None:
    """Raise InputError where rows, (n,), have no label."""
    missing = [i for i, value in enumerate(rows.tolist()) if not _is_label(value)]
    if missing:
        problem = f"{len(missing)} of {len(rows)} rows have no label"
        hint = "leave out the rows without one"
        raise InputError(problem, got=f"row {missing[0]}", expected="one each", hint=hint)


def _is_label(value: Any) -> bool:
    """Return False for what stands in place of a missing label: None, NaN, pandas.NA, ""."""
    try:
        return value is not None and value != "" and bool(value == value)  # noqa: PLR0124
    except TypeError:  # pandas.NA is neither
        return False
