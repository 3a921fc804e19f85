"""Results of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from linalign_lite.core.text_tables import column_lines
from linalign_lite.errors import InputError, printable

SYMMETRIC = ("cka", "cka_debiased", "svcca", "mutual_knn")
DIRECTED = ("r2", "cosine", "cycle")  # of the map from the first to the second, and back
MEASURES = (*SYMMETRIC, *DIRECTED)
ERRORS = ("cycle",)  # small when the models are similar


@dataclass(frozen=True)
class Null:
    """The measure on pairs shuffled within folds, on ``n`` rows.

    ``observed`` is the measure on these rows as they are paired, ``mean`` its mean over the
    permutations, ``extreme`` the most similar of them (the largest; of an error the smallest).
    p = (1 + permutations at least as similar as observed) / (1 + permutations).
    """

    observed: float
    mean: float
    extreme: float
    p: float
    n: int
    permutations: int


@dataclass(frozen=True)
class Measured:
    """A measure on ``n`` rows, and its null; None when no permutation was asked for."""

    value: float
    n: int
    null: Null | None = None

    @property
    def p(self) -> float | None:
        return None if self.null is None else self.null.p

    def cells(self) -> list[str]:
        """Value, rows, and the figures of the null, empty without one, as text."""
        n = self.null
        null = [""] * 4 if n is None else [f"{v:.4f}" for v in (n.p, n.observed, n.mean, n.extreme)]
        return [f"{self.value:.4f}", str(self.n), *null]


@dataclass(frozen=True)
class Similarity:
    """Two models compared. ``measures``: by name; of `DIRECTED` ones, first to second.

    ``back`` holds the directed ones from second to first.
    """

    first: str
    second: str
    measures: Mapping[str, Measured]
    back: Mapping[str, Measured]
    warnings: tuple[str, ...] = ()

    def __getitem__(self, measure: str) -> Measured:
        """One measure, by its name."""
        return self.measures[measure]

    def lines(self) -> list[str]:
        """Table of the measures for printing."""
        rows = [["", "value", "rows", "p", "paired", "shuffled", "most alike"]]
        for name, found in self.measures.items():
            if name not in self.back:
                rows.append([name, *found.cells()])
                continue
            a, b, back = self.first, self.second, " and back" if name == "cycle" else ""
            rows.append([printable(f"{name} {a} to {b}{back}"), *found.cells()])
            rows.append([printable(f"{name} {b} to {a}{back}"), *self.back[name].cells()])
        return column_lines(rows)

    def swapped(self) -> Similarity:
        """Return the same comparison with the second model first."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            measures={**self.measures, **self.back},
            back={name: self.measures[name] for name in self.back},
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Similarities:
    """Every pair of N models, each once, in the models' order."""

    names: tuple[str, ...]
    pairs: tuple[Similarity, ...]

    def __iter__(self) -> Iterator[Similarity]:
        """The pairs, in order."""
        return iter(self.pairs)

    def between(self, first: str, second: str) -> Similarity:
        """Pair with ``first`` first. Raises InputError for names that are not a pair here."""
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair
            if (pair.first, pair.second) == (second, first):
                return pair.swapped()
        raise InputError("these two were not compared", expected=f"two of {', '.join(self.names)}")
