"""Summaries of the rows of a survey: best maps, retention, failures and their reasons.

Every number is one of a row, or a median or difference of these.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeVar

from linalign_lite.survey.results import (
    ClassRow,
    GenerationRow,
    MapSettings,
    OodRow,
    PairRow,
    Results,
)

KEPT = 0.9  # retention of a good map
FAILS = 0.8  # retention below which a map fails
DISSIMILAR = 0.3  # held-out R² on public texts, below
TEXTS = ("public", "few", "public+few", "all", "native")
OBJECTIVES = ("ridge", "kl", "native")
_WORDS = {
    "public": "public texts",
    "few": "few own texts",
    "public+few": "public + few own",
    "all": "all own texts",
    "documents": "the documents",
}
T = TypeVar("T")


@dataclass(frozen=True)
class Retention:
    """Retention of all pairs on one data set; the better objective of each counts."""

    data: str
    texts: str
    retention: tuple[float, ...]  # one per pair

    @property
    def median(self) -> float:
        return statistics.median(self.retention)

    @property
    def kept(self) -> int:
        return sum(r >= KEPT for r in self.retention)


@dataclass(frozen=True)
class Failure(PairRow):
    """A pair whose maps from public texts fail on a data set, with its other rows."""

    data: str
    retention: float
    objective: str
    r2: float | None
    by_texts: tuple[tuple[str, float], ...]  # best retention of each kind

    @property
    def why(self) -> str:
        """The reason in words, by rule from the numbers."""
        better = {texts: r for texts, r in self.by_texts if r >= FAILS}
        few = max(better.get("few", 0.0), better.get("public+few", 0.0))
        cover = "the public texts do not cover this data"
        if few:
            return f"{cover}: with a few of its own texts {few:.2f} is kept"
        if kept := better.get("all"):
            return f"{cover}, and a few of its own are too few: with all of them {kept:.2f} is kept"
        if self.r2 is not None and self.r2 < DISSIMILAR:
            return f"the two spaces are dissimilar: held-out R² on public texts {self.r2:.2f}"
        return "not explained by what was measured"


@dataclass(frozen=True)
class OodLoss:
    """The target's best native detector on a data set: on native and on mapped states.

    ``mapped``: the better of the maps from the same kind of texts.
    """

    native: OodRow
    mapped: OodRow

    @property
    def lost(self) -> float:
        return self.native.auroc - self.mapped.auroc


def by_settings(rows: Iterable[ClassRow]) -> dict[MapSettings, list[ClassRow]]:
    """Rows of one data set by the settings of their map, in the order of TEXTS and OBJECTIVES.

    ``n_few`` is 0 unless the data set has maps from several numbers of texts of its own.
    """
    rows = list(rows)
    seen: dict[tuple[str, str], set[int]] = {}
    for r in rows:
        seen.setdefault((r.texts, r.objective), set()).add(r.n_few)
    found: dict[MapSettings, list[ClassRow]] = {}
    for r in rows:
        n_few = r.n_few if len(seen[r.texts, r.objective]) > 1 else 0
        found.setdefault(MapSettings(r.texts, r.objective, n_few), []).append(r)
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def _order(settings: MapSettings) -> tuple[int, int, str, str, int]:
    texts, objective = settings.texts, settings.objective
    return _index(TEXTS, texts), _index(OBJECTIVES, objective), texts, objective, settings.n_few


def settings_label(settings: MapSettings) -> str:
    """Texts and objective of a map in words."""
    few = f" ({settings.n_few:,})" if settings.n_few else ""
    return f"{texts_label(settings.texts)}{few}, {settings.objective}"


def native_accuracy(results: Results) -> dict[tuple[str, str], float]:
    """(model, data) → accuracy of its own head on its own states."""
    return {(r.model, r.data): r.accuracy for r in results.native}


def best_by_texts(results: Results) -> dict[tuple[str, str, str], dict[str, ClassRow]]:
    """(source, target, data) → texts → the row with the highest accuracy."""
    found: dict[tuple[str, str, str], dict[str, ClassRow]] = {}
    for row in _best(results.classification, "accuracy", "pair", "data", "texts").values():
        found.setdefault((*row.pair, row.data), {})[row.texts] = row
    return found


def retention_by_texts(results: Results) -> list[Retention]:
    """Retention on each data set by each kind of texts, in order."""
    values: dict[tuple[str, str], list[float]] = {}
    for (_, _, data), rows in best_by_texts(results).items():
        for texts, row in rows.items():
            values.setdefault((data, texts), []).append(row.retention)
    order = [d.name for d in results.data]
    keys = sorted(values, key=lambda k: (order.index(k[0]), _index(TEXTS, k[1]), k[1]))
    return [Retention(d, t, tuple(values[d, t])) for d, t in keys]


def failures(results: Results) -> list[Failure]:
    """Pairs whose maps from public texts keep less than FAILS, the worst first."""
    r2 = {x.pair: x.value for x in results.similarity if (x.measure, x.texts) == ("r2", "public")}
    found = [
        Failure(s, t, d, rows["public"].retention, rows["public"].objective, r2.get((s, t)),
                tuple((texts, r.retention) for texts, r in rows.items()))
        for (s, t, d), rows in best_by_texts(results).items()
        if "public" in rows and rows["public"].retention < FAILS
    ]  # fmt: skip
    return sorted(found, key=lambda f: (f.retention, f.source, f.target, f.data))


def fixed_by_kl(results: Results) -> list[tuple[ClassRow, ClassRow]]:
    """(ridge, kl) rows of public texts in which ridge fails and kl does not."""
    rows = {(r.source, r.target, r.data, r.objective): r
            for r in results.classification if r.texts == "public"}  # fmt: skip
    pairs = ((r, rows.get((*key[:3], "kl"))) for key, r in rows.items() if key[3] == "ridge")
    return [(r, k) for r, k in pairs if k and r.retention < FAILS <= k.retention]


def best_pairs(results: Results) -> list[ClassRow]:
    """The row of each data set with the highest retention, from public texts if there are any."""
    found = []
    for data in results.data:
        rows = [r for r in results.classification if r.data == data.name]
        public = [r for r in rows if r.texts == "public"] or rows
        if public:
            found.append(max(public, key=lambda r: (r.retention, r.accuracy)))
    return found


def ood_losses(results: Results) -> list[OodLoss]:
    """One per pair, data set and kind of texts whose target has a native row."""
    own = [r for r in results.ood if r.source == r.target]
    native = _best(own, "auroc", "target", "data")
    detectors = {key: row.detector for key, row in native.items()}
    mapped = [
        r for r in results.ood
        if r.source != r.target and detectors.get((r.target, r.data)) == r.detector
    ]  # fmt: skip
    best = _best(mapped, "auroc", "pair", "data", "texts").values()
    return [OodLoss(native[row.target, row.data], row) for row in best]


def best_generation(results: Results) -> list[GenerationRow]:
    """The row with the highest agreement of each pair, the best pair first."""
    best = _best(results.generation, "agreement", "source", "target")
    return sorted(best.values(), key=lambda r: -r.agreement)


def _best(rows: Iterable[T], value: str, *key: str) -> dict[Any, T]:
    """The row with the highest ``value`` by the fields ``key`` (two or more); first of equals."""
    key_of, value_of, found = attrgetter(*key), attrgetter(value), dict[Any, T]()
    for row in rows:
        at = key_of(row)
        if at not in found or value_of(row) > value_of(found[at]):
            found[at] = row
    return found


def texts_label(texts: str) -> str:
    """Training texts of a map in words."""
    return _WORDS.get(texts, texts)


def plural(count: int, one: str, many: str = "") -> str:
    """ "1 pair", "6 pairs"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _index(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)
