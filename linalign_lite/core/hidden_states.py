"""Hidden states with their provenance."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.core.labels import Ints, label_ids, remark_other_rows
from linalign_lite.core.space import UNKNOWN, Space, require_labels
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.storage.arrays import count_nonfinite

POSITIONS = ("text_index", "char_end", "next_token")  # columns of token states
ROWS = ("label_ids", *POSITIONS)  # optional columns, one value per row
NO_TOKEN = -1  # next_token of the last token of a text


def text_digest(texts: Iterable[str]) -> str:
    """Compute SHA-256 over the texts in order, each as its UTF-8 length (8 bytes) and its bytes."""
    digest = TextDigest()
    for text in texts:
        digest.add(text)
    return digest.hexdigest()


class TextDigest:
    """`text_digest` of texts that are added one by one."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()

    def add(self, text: str) -> None:
        raw = text.encode("utf-8", "surrogatepass")
        self._sum.update(len(raw).to_bytes(8, "little"))
        self._sum.update(raw)

    def hexdigest(self) -> str:
        """Return the digest of the texts added so far."""
        return self._sum.hexdigest()


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """Final hidden states of n texts (or of n tokens, with pooling ``tokens``).

    ``label_ids`` index ``labels``. ``labels`` without them are one label a row, (n,), strings or
    whole numbers, and become both. With pooling ``tokens``, ``text_index`` is the text of each row,
    ``char_end`` the number of its characters up to the end of the token, ``next_token`` the id of
    the token that follows. Raises InputError when parts do not agree or a value is not finite.
    """

    states: Array  # shape: (n, d)
    space: Space = UNKNOWN
    text_digest: str = ""
    n_texts: int = 0
    n_cut: int = 0
    max_length: int = 0
    labels: tuple[str, ...] = ()
    label_ids: Ints | None = None  # shape: (n,)
    text_index: Ints | None = None  # shape: (n,)
    char_end: Ints | None = None  # shape: (n,)
    next_token: Ints | None = None  # shape: (n,)

    def __post_init__(self) -> None:
        states = _numbers(self.states)
        if states.ndim != 2 or 0 in states.shape:
            raise InputError(
                "states have the wrong shape", got=str(states.shape), expected="(n, d)"
            )
        if count_nonfinite(states):
            rows = np.flatnonzero(~np.isfinite(states).all(axis=1))
            raise InputError(
                "states hold values that are not finite",
                got=f"{len(rows)} of {len(states)} rows, the first number {rows[0]}",
                hint="leave these rows out, or scale values beyond float32 down",
            )
        object.__setattr__(self, "states", states)
        space = self.space if self.space.dim else Space(states.shape[1])
        if space.dim != states.shape[1]:
            raise InputError(
                "states do not fit their space", got=str(states.shape[1]), expected=str(space.dim)
            )
        object.__setattr__(self, "space", space)
        if not self.n_texts and self.text_index is None:
            object.__setattr__(self, "n_texts", states.shape[0])
        if self.label_ids is None and len(self.labels):
            names, ids = label_ids(self.labels, len(states))
            object.__setattr__(self, "labels", names)
            object.__setattr__(self, "label_ids", ids)
        for name in ROWS:
            rows = getattr(self, name)
            if rows is None:
                continue
            lowest = NO_TOKEN if name == "next_token" else 0
            if rows.shape != states.shape[:1] or rows.min() < lowest:
                raise InputError(
                    f"{name} does not fit the states",
                    got=f"shape {rows.shape}",
                    expected=f"{states.shape[:1]}, nothing below {lowest}",
                )
        require_labels(self.labels, "the states")
        if self.label_ids is not None and self.label_ids.max() >= len(self.labels):
            raise InputError("label_ids are not indices of the labels")

    def __repr__(self) -> str:
        labels = f", {len(self.labels)} labels" if self.labels else ""
        return f"HiddenStates({len(self)} rows, {self.space.describe()}{labels})"

    def __len__(self) -> int:
        """The number of rows: texts, or tokens."""
        return int(self.states.shape[0])

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """The text of each row, (n,): all rows of a text are in the same fold."""
        if self.text_index is not None:
            return self.text_index.astype(np.int64)
        return np.arange(len(self), dtype=np.int64)

    def rows(self, index: npt.NDArray[np.integer[Any]]) -> HiddenStates:
        """Select rows by number, index: (m,), with their labels and positions.

        ``text_digest``, ``n_texts`` and ``n_cut`` still describe all texts. Raises InputError for
        an empty index, and for numbers outside 0 to n − 1.
        """
        index = np.asarray(index)
        whole = np.issubdtype(index.dtype, np.integer)  # not a mask
        if index.ndim != 1 or not index.size or not whole:
            raise InputError(
                "the index of rows is not usable",
                got=f"{index.dtype}, shape {index.shape}",
                expected="whole numbers, (m,), at least one",
            )
        if index.min() < 0 or index.max() >= len(self):
            raise InputError(
                "the index of rows is out of range",
                got=f"rows {index.min()} to {index.max()}",
                expected=f"0 to {len(self) - 1}",
            )
        columns = {name: getattr(self, name) for name in ROWS}
        chosen: dict[str, Any] = {n: None if c is None else c[index] for n, c in columns.items()}
        return dataclasses.replace(self, states=self.states[index], **chosen)

    def require_same_digest(self, other: HiddenStates) -> None:
        """Raise MismatchError for states of other texts, as far as both text digests are known."""
        if self.text_digest and other.text_digest and self.text_digest != other.text_digest:
            hint = "extract both models on the same file"
            if len(other) != len(self):
                hint = f"{hint}, with the same --limit"
            raise MismatchError(
                "these states were made from different texts",
                got=f"text digest {other.text_digest[:8]} ({len(other)} rows)",
                expected=f"{self.text_digest[:8]} ({len(self)} rows)",
                hint=hint,
            )

    def require_same_texts(self, other: HiddenStates) -> None:
        """Raise MismatchError unless row i of both is the same text (or token position)."""
        self.require_same_digest(other)
        if (self.text_index is None) != (other.text_index is None):
            raise MismatchError(
                "token states and states of whole texts do not go together",
                got=f"pooling {other.space.pooling or 'unknown'}",
                expected=self.space.pooling or "unknown",
                hint="extract both with the same --pooling",
            )
        if len(self) != len(other):
            raise MismatchError(
                "these states do not have the same number of rows",
                got=str(len(other)),
                expected=str(len(self)),
            )
        for name in ("text_index", "char_end"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if (mine is None) != (theirs is None) or (
                mine is not None and not np.array_equal(mine, theirs)
            ):
                raise MismatchError(
                    "these states do not have the same token positions",
                    hint="two tokenizers split a text differently; use --pooling mean",
                )


def _numbers(values: Any) -> Array:
    """The values as an array of float16 or float32. InputError if they are no table of numbers."""
    try:
        array = np.asarray(values)
        if array.dtype in (np.float16, np.float32):
            return array
        if array.dtype.kind in "fiub":
            with np.errstate(over="ignore"):
                return array.astype(np.float32)
        got = f"values of type {array.dtype}"
        if array.ndim == 1 and len(array) and np.ndim(array[0]) == 1:
            hint = "np.stack makes a matrix of a column of vectors"
            raise InputError(
                "states are no table of numbers", got=got, expected="(n, d)", hint=hint
            )
    except ValueError:  # rows of different lengths
        got = "rows of different lengths"
    raise InputError(
        "states are no table of numbers",
        got=got,
        expected="(n, d)",
        hint="choose the columns of numbers, and give labels apart",
    )


def as_sides(
    source: HiddenStates | Array, target: HiddenStates | Array
) -> tuple[HiddenStates, HiddenStates]:
    """Return both sides of a map as `as_states` does; its InputError names the side."""
    found = []
    for side, value in (("source", source), ("target", target)):
        try:
            found.append(as_states(value))
        except InputError as e:
            problem = f"of the {side}, {e.problem}"
            raise InputError(problem, got=e.got, expected=e.expected, hint=e.hint) from e
    return found[0], found[1]


def as_states(value: HiddenStates | Array, labels: npt.ArrayLike | None = None) -> HiddenStates:
    """Return HiddenStates; an array (n, d) is wrapped as states of an unknown space.

    labels: (n,), the label of each row, in place of those that the states have (`label_ids`).
    Raises InputError for another number of labels than rows.
    """
    states = value if isinstance(value, HiddenStates) else HiddenStates(value)
    if labels is None:
        return states
    remark_other_rows(value, labels)
    names, ids = label_ids(labels, len(states))
    return dataclasses.replace(states, labels=names, label_ids=ids)
