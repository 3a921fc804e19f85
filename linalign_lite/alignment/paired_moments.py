"""Moments of two models' states with their provenance: sufficient statistics of fixed size.

Machines or organisations measure parts of a text set, merge the moments and fit a map.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Annotated

import numpy as np

from linalign_lite.alignment.least_squares import FitReport, fit_moments
from linalign_lite.alignment.moments import FoldedMoments
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.space import Space
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.storage.schema import Range, Size, Text, all_required

MAX_PARTS = 4096
MAX_DIGESTS = 1 << 17
MAX_ROWS = 1 << 48
Digest = Annotated[str, Text(64, 0, "|[0-9a-f]{64}")]  # SHA-256, or "" where unknown


@all_required
@dataclass(frozen=True)
class MomentsPart:
    """Texts of one measurement. ``shards``: the text digest of each shard of a folder."""

    text_digest: Digest
    rows: Annotated[int, Range(0, MAX_ROWS)]
    shards: Annotated[tuple[Digest, ...], Size(MAX_DIGESTS)] = ()

    @property
    def digests(self) -> frozenset[str]:
        """Digests of the texts as a whole and of each shard, without ""."""
        return frozenset((self.text_digest, *self.shards)) - {""}


@dataclass(frozen=True, eq=False)
class PairedMoments:
    """Moments of (source, target) pairs in folds, with their spaces and parts. ``a + b`` merges.

    seed: of the folds. pairing: the rule by which token states were paired, or "". Raises
    InputError when the parts do not fit together, MismatchError when texts would count twice.
    """

    moments: FoldedMoments
    source: Space
    target: Space
    seed: int
    parts: tuple[MomentsPart, ...]
    pairing: str = ""

    def __post_init__(self) -> None:
        if self.moments.folds[0].xy.shape != (self.source.dim, self.target.dim):
            raise InputError(
                "moments do not fit their spaces",
                got=str(self.moments.folds[0].xy.shape),
                expected=f"({self.source.dim}, {self.target.dim})",
            )
        if not 1 <= len(self.parts) <= MAX_PARTS or sum(p.rows for p in self.parts) != self.n:
            raise InputError("the rows of the parts do not add up to those of the moments")
        seen: set[str] = set()
        for part in self.parts:
            twice = seen & part.digests
            if twice:
                raise MismatchError(
                    "the same texts would count twice",
                    got=f"text digest {min(twice)[:8]} in two parts",
                    hint="leave one of them out",
                )
            seen |= part.digests
        if len(seen) > MAX_DIGESTS:
            raise InputError("too many shards for one file of moments", got=str(len(seen)))

    @property
    def n(self) -> int:
        """The number of pairs in all folds."""
        return self.moments.n

    @property
    def fewest(self) -> int:
        """Pairs in the smallest fold that has any."""
        return min(int(f.n) for f in self.moments.folds if f.n)

    @property
    def telling(self) -> bool:
        """Return True if some fold's moments reveal its states up to a rotation, for want of pairs.

        n rows of d dimensions have n·d numbers, their centred squares d(d+1)/2: with n − 1 ≤ d the
        rows follow from them up to a rotation of the rows among themselves (docs/SECURITY.md).
        """
        return self.fewest <= max(self.source.dim, self.target.dim) + 1

    def __add__(self, other: PairedMoments) -> PairedMoments:
        """Merge both. Raises MismatchError when folds, seed, pairing or spaces differ."""
        self.source.require(other.source, "the moments have other sources")
        self.target.require(other.target, "the moments have other targets")
        for name, mine, theirs in (
            ("folds", len(self.moments.folds), len(other.moments.folds)),
            ("seed", self.seed, other.seed),
            ("pairing", self.pairing or "none", other.pairing or "none"),
        ):
            if mine != theirs:
                raise MismatchError(
                    f"moments with other {name} do not go together",
                    got=str(theirs),
                    expected=str(mine),
                    hint="measure one of them again",
                )
        parts = (*self.parts, *other.parts)
        return replace(self, moments=self.moments + other.moments, parts=parts)


def put_together(parts: Iterable[PairedMoments]) -> PairedMoments:
    """Merge all, in the order given. Raises InputError when there is none."""
    parts = list(parts)
    if not parts:
        raise InputError("there are no moments to put together")
    return reduce(lambda a, b: a + b, parts)


def fit_paired(
    moments: PairedMoments, *, method: str = "ridge", penalty: float | str = "auto"
) -> tuple[AffineMap, FitReport]:
    """Fit the map that `fit` makes of the states, from their moments alone.

    method: "ridge" or "procrustes". Raises InputError for another one ("lstsq" needs the states),
    for an unusable penalty, and for fewer than two folds with pairs; FormatError for moments whose
    map is beyond float32.
    """
    if sum(f.n > 0 for f in moments.moments.folds) < 2:
        raise InputError("all pairs are in one fold, so no map can be judged", hint="more texts")
    weight, bias, report = fit_moments(moments.moments, method=method, penalty=penalty)
    digest = moments.parts[0].text_digest if len(moments.parts) == 1 else ""
    card = {**report.as_card(), "text_digest": digest}
    if len(moments.parts) > 1:
        card["text_digests"] = [p.text_digest for p in moments.parts]
    with np.errstate(over="ignore", invalid="ignore"):
        parts = weight.astype(np.float32), bias.astype(np.float32)
    if not all(np.isfinite(part).all() for part in parts):
        raise FormatError("these moments give a map of numbers beyond float32")
    return AffineMap(*parts, moments.source, moments.target, card), report
