"""Summaries of the rows of a survey: best maps, retention, failures and their reasons.

Every number is one of a row, or a median or difference of these.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
}


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
        if few:
            return (
                f"the public texts do not cover this data: with a few of its own texts "
                f"{few:.2f} is kept"
            )
        if "all" in better:
            return (
                f"the public texts do not cover this data, and a few of its own are too few: "
                f"with all of them {better['all']:.2f} is kept"
            )
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


def held_out_r2(results: Results) -> dict[tuple[str, str], float]:
    """(source, target) → R² on public texts, where measured."""
    return {
        r.pair: r.value for r in results.similarity if r.measure == "r2" and r.texts == "public"
    }


def best_by_texts(results: Results) -> dict[tuple[str, str, str], dict[str, ClassRow]]:
    """(source, target, data) → texts → the row with the highest accuracy."""
    found: dict[tuple[str, str, str], dict[str, ClassRow]] = {}
    for r in results.classification:
        of_pair = found.setdefault((r.source, r.target, r.data), {})
        if r.texts not in of_pair or r.accuracy > of_pair[r.texts].accuracy:
            of_pair[r.texts] = r
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
    r2 = held_out_r2(results)
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
    native: dict[tuple[str, str], OodRow] = {}
    for r in results.ood:
        key = (r.target, r.data)
        if r.source == r.target and (key not in native or r.auroc > native[key].auroc):
            native[key] = r
    mapped: dict[tuple[str, str, str, str], OodRow] = {}
    for r in results.ood:
        own = native.get((r.target, r.data))
        if r.source == r.target or own is None or own.detector != r.detector:
            continue
        at = (r.source, r.target, r.data, r.texts)
        if at not in mapped or r.auroc > mapped[at].auroc:
            mapped[at] = r
    return [OodLoss(native[t, d], row) for (_, t, d, _), row in mapped.items()]


def best_generation(results: Results) -> list[GenerationRow]:
    """The row with the highest agreement of each pair, the best pair first."""
    found: dict[tuple[str, str], GenerationRow] = {}
    for r in results.generation:
        if r.pair not in found or r.agreement > found[r.pair].agreement:
            found[r.pair] = r
    return sorted(found.values(), key=lambda r: -r.agreement)


def texts_label(texts: str) -> str:
    """Training texts of a map in words."""
    return _WORDS.get(texts, texts)


def plural(count: int, one: str, many: str = "") -> str:
    """ "1 pair", "6 pairs"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _index(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)
