"""Detectors: a scoring rule, the space that it reads, and a threshold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.core.space import UNKNOWN, Space, require_labels
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.heads.evaluation import require_readable
from linalign_lite.heads.ood.detectors.base import Float64, Rule
from linalign_lite.heads.ood.detectors.logits import LogitRule

BLOCK = 32 << 20  # bytes of memory for the states that are scored at once
ROWS = 4096  # largest number of states that are scored at once
TPR = 0.95


@dataclass(frozen=True, eq=False)
class Detector:
    """An out-of-distribution detector: scores of states, and with a threshold a decision.

    ``tpr``: share of in-distribution states that the threshold was set to keep. ``labels``: names
    of the head's outputs, for a rule on a head's scores.
    Raises InputError when the parts do not fit together.
    """

    rule: Rule
    space: Space = UNKNOWN
    threshold: float | None = None
    tpr: float | None = None
    labels: tuple[str, ...] = ()
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dim = self.rule.dim
        if dim is not None and not self.space.dim:
            object.__setattr__(self, "space", Space(dim))
        elif dim is not None and dim != self.space.dim:
            raise InputError(
                "the detector's space does not fit", got=str(self.space.dim), expected=str(dim)
            )
        if (self.threshold is None) != (self.tpr is None):
            raise InputError("threshold and tpr go together")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise InputError("the threshold is not finite")
        if self.tpr is not None:
            _require_share(self.tpr)
        n_outputs = self.rule.n_outputs if isinstance(self.rule, LogitRule) else 0
        if self.labels and len(self.labels) != n_outputs:
            raise InputError("the labels do not fit the detector", got=f"{len(self.labels)} labels")
        require_labels(self.labels, "the detector")

    @property
    def method(self) -> str:
        """Name of the method, as `fit_detector` takes it."""
        return self.rule.method

    def scores(
        self,
        states: HiddenStates | Array,
        map: AffineMap | None = None,  # noqa: A002 (the field's word)
    ) -> Float64:
        """Score states (n, d), after ``map`` if given; returns (n,), higher is more outlying.

        Memory does not grow with n. Raises MismatchError when detector, map and states do not
        belong together, InputError when a score would not be finite.
        """
        states = as_states(states)
        require_readable(self.space, states, map, "detector")
        result = np.empty(len(states))
        step = max(1, min(ROWS, BLOCK // (8 * (self.rule.width + self.space.dim))))
        for start in range(0, len(states), step):
            block = states.states[start : start + step].astype(np.float64)
            if map is not None:
                block = np.asarray(map(block), dtype=np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                result[start : start + step] = self.rule.score(block)
        if not np.isfinite(result).all():
            raise InputError("this detector gives scores that are not finite on these states")
        return result

    def of_scores(self, scores: Array, labels: tuple[str, ...] = ()) -> Float64:
        """Score rows of a head's scores (n, n_outputs), decrypted ones too; returns (n,).

        labels: of the columns, if known, in any order. Raises InputError when the detector does
        not read scores or these do not fit, MismatchError for other labels.
        """
        rule = self.require_scores()
        if labels and self.labels and set(labels) != set(self.labels):
            raise MismatchError(
                "this detector is for the scores of another head",
                got=f"{len(set(labels) - set(self.labels))} unknown labels",
            )
        return rule.of_scores(scores)

    def require_scores(self) -> LogitRule:
        """The rule. Raises InputError when it does not read a head's scores."""
        if not isinstance(self.rule, LogitRule):
            raise InputError(
                "this detector reads states, not scores",
                got=self.method,
                expected="energy, msp or max-logit",
            )
        return self.rule

    def outlying(
        self,
        states: HiddenStates | Array,
        map: AffineMap | None = None,  # noqa: A002
    ) -> npt.NDArray[np.bool_]:
        """Compare scores of states with the threshold, (n,) bool. InputError without one."""
        return self.above(self.scores(states, map))

    def above(self, scores: Float64) -> npt.NDArray[np.bool_]:
        """Compare the detector's scores (n,) with its threshold, (n,) bool. InputError without."""
        if self.threshold is None:
            raise InputError(
                "this detector has no threshold",
                hint="fit it with validation states, or set one: ood threshold",
            )
        return np.asarray(scores) > self.threshold

    def with_threshold(self, scores: Float64, tpr: float = TPR) -> Detector:
        """The detector with its threshold set from its scores (n,) of in-distribution states."""
        return dataclasses.replace(self, threshold=threshold_for(scores, tpr), tpr=float(tpr))

    def without_head(self) -> Detector:
        """The detector for scores alone: a client can use it on decrypted scores.

        Raises InputError when the detector does not read scores.
        """
        return dataclasses.replace(self, rule=dataclasses.replace(self.require_scores(), head=None))


def threshold_for(scores: Float64, tpr: float = TPR) -> float:
    """The ⌈tpr·(n + 1)⌉-th smallest of in-distribution scores (n,).

    A new state of the same distribution is kept (its score is not above) with probability tpr or
    more, for any distribution: split conformal prediction (Papadopoulos et al. 2002; Angelopoulos &
    Bates 2021, theorem 1). Raises InputError when n is too small for tpr.
    """
    _require_share(tpr)
    scores = np.sort(np.asarray(scores, dtype=np.float64))
    rank = math.ceil(round(tpr * (len(scores) + 1), 9))
    if rank > len(scores):
        raise InputError(
            "too few in-distribution states to set this threshold",
            got=f"{len(scores)} states for a share of {tpr:g}",
            expected=f"at least {math.ceil(tpr / (1 - tpr) - 1e-9)}",
        )
    return float(scores[rank - 1])


def _require_share(tpr: float) -> None:
    if not 0 < tpr < 1:
        raise InputError("the share to keep is not usable", got=str(tpr), expected="0 to 1")
