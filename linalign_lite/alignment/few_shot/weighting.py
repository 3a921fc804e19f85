"""Weights of the few texts relative to the public ones, and the trial of each."""

from collections.abc import Iterable
from dataclasses import dataclass

from linalign_lite.alignment.moments import Moments
from linalign_lite.alignment.ridge import number_or_auto

PUBLIC_ONLY, FEW_ONLY = 0.0, float("inf")  # weights at which only one side counts
WEIGHTS = (PUBLIC_ONLY, 0.1, 0.3, 1.0, 3.0, FEW_ONLY)


@dataclass(frozen=True)
class FewShotTrial:
    """A few weight and penalties, and their mean loss on held-out few texts with its error.

    ``start_penalty`` is that of the ridge map which a head-aware fit begins with; nan for others.
    """

    weight: float
    penalty: float
    loss: float
    error: float
    start_penalty: float = float("nan")


def merged(public: Moments, few: Moments, weight: float) -> Moments:
    """Merge both; ``weight``: total weight of the few texts relative to the public texts."""
    if weight == FEW_ONLY:
        return few
    return public.scaled(1 / public.n) + few.scaled(weight / few.n)


def usable_weight(value: float | str) -> tuple[float, ...]:
    """Return the weights to try: all for "auto", else the given one."""
    found = number_or_auto(
        value,
        "the weight of the few texts",
        lambda weight: 0 <= weight <= 1e12 or weight == FEW_ONLY,
        "auto, or 0 or more; 0: public texts alone, inf: the few alone",
    )
    return WEIGHTS if found is None else (found,)


def lowest(trials: Iterable[FewShotTrial]) -> FewShotTrial:
    """Return the trial of the lowest loss, the first of equals."""
    return min(trials, key=lambda t: t.loss)
