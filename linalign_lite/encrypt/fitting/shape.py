"""The shape of an encrypted fit: texts in folds, their chunks, and the fewest texts that it takes.

Write U for a client's columns (one row a text) and Y for a provider's states. A ciphertext holds
w = ⌊N/m⌋ texts of one fold, m columns of each: text i of a chunk, column r, at coefficient i·m + r.
Multiplied by X^(−i·m), column r of text i is at coefficient r, so Σ_chunks Σ_i y_i·X^(−i·m)·chunk
has (UᵀY)_rj at coefficients r < m. All other coefficients are masked and never returned.

**Fewest texts.** Of a fold of n_k texts the client learns, for each of the provider's dimensions,
a mean and m products: m + 1 linear functions of n_k numbers. With n_k ≤ m + 1 they give every
state of the fold. Otherwise they give the projection of the numbers onto an (m + 1)-dimensional
subspace. A map's own predictions lie in it, so what a map tells is told in any case; of the rest,
which no map tells, a share (m + 1)/n_k on average over texts. `LEAST_SHARE` = 4 keeps that share at
a quarter or less in every fold: n_k ≥ 4·(m + 1). Texts whose states repeat count once. The sum of
squares beside them is one number more, no linear function: a budget counts it, the rule does not.

That counts real numbers. A returned coefficient is a linear function modulo q, seen to 16 bits or
so: where a dimension has few different values, a dishonest client weighs several texts so that each
sum of them has a value of its own, and reads them all from one column. Such dimensions are
refused (`require_fine`), unless the provider allows them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import assign_folds
from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError, MismatchError

LEAST_SHARE = 4  # texts of a fold for each number that its products tell of a column
LEAST_VALUES = 256  # different values of a dimension; two texts of 8 bits fit in a coefficient
MAX_FOLDS, FOLDS = 64, 5  # FOLDS by default, fewer where texts are few
_ROW_DIGEST = 16  # bytes


@dataclass(frozen=True)
class FitShape:
    """n texts in ``folds`` dealt folds, and ``columns`` columns in rings of ``degree``."""

    n: int
    folds: int
    seed: int
    columns: int
    degree: int

    @property
    def width(self) -> int:
        """Texts of a ciphertext, w."""
        return self.degree // self.columns

    @property
    def sent(self) -> int:
        """Coefficients of a first component that are sent: w·m, rounded up to a multiple of 8."""
        return min(self.degree, -(-self.width * self.columns // 8) * 8)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Texts of each fold: `assign_folds` deals them in turn."""
        return tuple(len(range(k, self.n, self.folds)) for k in range(self.folds))

    @property
    def chunks(self) -> int:
        """Ciphertexts: the last of each fold may be filled up with zeros."""
        return sum(-(-size // self.width) for size in self.sizes)

    @cached_property
    def fold_of_text(self) -> npt.NDArray[np.int64]:
        """The fold of each text, (n,), the same that `fit` gives it."""
        return assign_folds(self.n, self.folds, self.seed).astype(np.int64)

    def dealt(self, blocks: Iterable[Array]) -> Iterator[tuple[npt.NDArray[np.int64], Array]]:
        """Yield each block of the texts in order with the folds of its texts, (m,)."""
        at = 0
        for block in blocks:
            yield self.fold_of_text[at : at + len(block)], block
            at += len(block)

    def chunked(self, blocks: Iterable[Array]) -> Iterator[tuple[int, Array]]:
        """Yield (fold, rows) of each chunk, at most w rows, in the order of the offer's records.

        blocks: rows of the texts in order, (m, d) each. A chunk follows once its last text came, so
        that either side reads its states once, whatever its files; chunks that are not full follow
        at the end, by fold. Raises MismatchError for another number of rows.
        """
        waiting: dict[int, list[Array]] = {k: [] for k in range(self.folds)}
        at = 0
        for block in blocks:
            if at + len(block) > self.n:
                raise MismatchError("there are more rows than texts", expected=str(self.n))
            for fold, row in zip(self.fold_of_text[at : at + len(block)].tolist(), block):  # noqa: B905 (the slice has as many)
                held = waiting[fold]
                held.append(row)
                if len(held) == self.width:
                    yield fold, np.stack(held)
                    held.clear()
            at += len(block)
        if at != self.n:
            raise MismatchError(
                "there are fewer rows than texts", got=str(at), expected=str(self.n)
            )
        for fold, held in waiting.items():
            if held:
                yield fold, np.stack(held)

    def require_enough(self, distinct: tuple[int, ...] | None = None) -> None:
        """Raise InputError unless every fold has 4·(m + 1) texts.

        distinct: of each fold, the texts whose states occur nowhere before; by default all.
        """
        fewest, least = min(distinct or self.sizes), least_texts(self.columns)
        if fewest < least:
            repeated = distinct is not None and min(self.sizes) >= least
            what = "different texts" if repeated else "texts"
            raise InputError(
                "so few texts would give the provider's states away",
                got=f"a fold of {fewest} {what} for {self.columns} columns",
                expected=f"at least {least}, 4 for each column and 4 more",
                hint="more texts, fewer folds, or fewer columns (--columns)",
            )


def least_texts(columns: int) -> int:
    """Compute the fewest texts of a fold, 4·(m + 1)."""
    return LEAST_SHARE * (columns + 1)


def choose_folds(n: int, columns: int) -> int:
    """Choose the most folds, up to 5, that have enough texts each. Raises InputError below two."""
    folds = min(FOLDS, n // least_texts(columns))
    if folds < 2:
        raise InputError(
            "so few texts would give the provider's states away",
            got=f"{n} texts for {columns} columns",
            expected=f"at least {2 * least_texts(columns)}, in two folds",
            hint=f"more texts, or --columns {max(1, n // (2 * LEAST_SHARE) - 1)}",
        )
    return folds


def count_distinct(
    dealt: Iterable[tuple[npt.NDArray[np.int64], Array]], folds: int
) -> tuple[int, ...]:
    """Count, for each fold, the rows that are equal to no row before them in any fold."""
    seen: set[bytes] = set()
    counts = [0] * folds
    for folds_of_rows, block in dealt:
        for fold, row in zip(folds_of_rows.tolist(), np.ascontiguousarray(block)):  # noqa: B905
            name = hashlib.blake2b(row.tobytes(), digest_size=_ROW_DIGEST).digest()
            if name not in seen:
                seen.add(name)
                counts[fold] += 1
    return tuple(counts)


def require_fine(blocks: Iterable[Array], n: int) -> None:
    """Raise InputError when a dimension has few different values: below 256 and below n/2.

    A dimension that does not vary tells nothing, and is let through.
    """
    least = min(LEAST_VALUES, -(-n // 2))
    seen: dict[int, Array] | None = None  # of the dimensions that have had few so far
    for block in blocks:
        if seen is None:
            seen = {j: block[:0, j] for j in range(block.shape[1])}
        seen = {j: np.unique(np.concatenate([v, block[:, j]])) for j, v in seen.items()}
        seen = {j: values for j, values in seen.items() if len(values) < least}
    coarse = {j: len(values) for j, values in (seen or {}).items() if len(values) > 1}
    if coarse:
        first = min(coarse)
        raise InputError(
            "states of few different values can be read whole from a client's choice of columns",
            got=f"{len(coarse)} such dimensions; dimension {first} has {coarse[first]} values",
            expected=f"at least {least} of each, or one",
            hint="leave these dimensions out; --coarse allows them, for a client that you trust",
        )
