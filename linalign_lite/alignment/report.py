"""Base of the reports of fits: their form in map files and in JSON."""

import math
from dataclasses import asdict
from typing import Any

from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.verdict import Measurement
from linalign_lite.storage.arrays import repeated_rows

FEW_ROWS = 64  # pairs below which unshared texts help most
FEW_AN_OUTPUT = 4  # few texts of each output, from which on a fit for a head is rarely the worse
UNRELATED = 0.1  # held-out R² below which rows may not be paired
LOW_ROWS = 4  # fewer rows than this times d_source draws a warning
REPEATED = 0.01  # share of repeated rows from which on held-out rows are not new


class Report(Measurement):
    """Base of the reports of fits, which are data classes with warnings and a curve."""

    curve: tuple[tuple[float, ...], ...]

    def as_card(self) -> dict[str, Any]:
        """Return the report for the map file: all but the curve, NaN and infinities as null."""
        fields: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        del fields["curve"]
        card = {name: _finite(value) for name, value in fields.items()}
        return {**card, "warnings": list(self.warnings)}

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON, NaN and infinities as null."""
        return {**self.as_card(), "curve": [list(map(_finite, row)) for row in self.curve]}


def not_new(states: HiddenStates, what: str) -> tuple[str, ...]:
    """A warning if so many texts are there more than once that held-out ones were seen before.

    what: the measure of held-out rows that is too high.
    """
    repeated = 0 if states.text_index is not None else repeated_rows(states.states)
    if repeated < max(1, REPEATED * len(states)):
        return ()
    return (f"{repeated} of {len(states)} rows repeat another, so {what} is of rows that were seen "
            "in the fit; take each text once",)  # fmt: skip


def see_pairing(step: str) -> str:
    """Advice for a measure of nearly nothing: rows that are not paired come first."""
    return f"first see that row i of both sides is the same text; then {step}"


def next_step(n: int, d_source: int) -> str:
    """The step that most likely makes a poor map better, by its rows."""
    if n < FEW_ROWS:
        step = f"more pairs, or texts that only one side has: --unpaired ({n} pairs are few)"
    elif n < LOW_ROWS * d_source:
        step = f"more pairs: {n} are few for {d_source} dimensions"
    else:
        step = "pairs of texts nearer to yours (--with-few)"
    return f"{step}; `evaluate --map` on labelled texts decides"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
