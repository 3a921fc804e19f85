"""A detector: a rule, the space that it reads, the threshold above which a state is outlying."""

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
from linalign_lite.core.space import UNKNOWN, Space, usable_label
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.heads.ood.detectors.base import Float64, Rule
from linalign_lite.heads.ood.detectors.logits import LogitRule

BLOCK = 32 << 20  # bytes that a block of states may need while it is scored
ROWS = 4096  # and at most so many states at once
TPR = 0.95


@dataclass(frozen=True, eq=False)
class Detector:
    """How outlying states are; with a threshold, whether they are.

    ``tpr``: the share of in-distribution states that the threshold was set to keep. ``labels`` are
    those of the head's outputs, where the rule has a head or reads its scores.
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
        if self.tpr is not None and not 0 < self.tpr < 1:
            raise InputError(
                "the share to keep is not usable", got=str(self.tpr), expected="0 to 1"
            )
        if self.labels and (
            not isinstance(self.rule, LogitRule) or len(self.labels) != self.rule.n_outputs
        ):
            raise InputError("the labels do not fit the detector", got=f"{len(self.labels)} labels")
        if len(set(self.labels)) != len(self.labels) or not all(map(usable_label, self.labels)):
            raise InputError("the detector's labels are not usable", expected="distinct, printable")

    @property
    def method(self) -> str:
        """The name of the rule, as `fit_detector` takes it."""
        return self.rule.method

    def scores(
        self,
        states: HiddenStates | Array,
        map: AffineMap | None = None,  # noqa: A002 (the field's word)
    ) -> Float64:
        """How outlying map(state) is, or the state as it is: (n, d) → (n,), in blocks of rows.

        Raises MismatchError when detector, map and states do not belong together, InputError when
        a score would not be finite.
        """
        states = as_states(states)
        if map is not None:
            map.source.require(states.space, "this map does not read these states")
            self.space.require(map.target, "this map does not lead into this detector's space")
        else:
            self.space.require(states.space, "this detector does not read these states")
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
        """How outlying each row of a head's scores (n, n_outputs) is, decrypted ones too: (n,).

        labels: of the scores' columns, when known, in any order. Raises InputError when the
        detector does not read scores or these do not fit, MismatchError for other labels.
        """
        rule = self.require_scores()
        if labels and self.labels and set(labels) != set(self.labels):
            raise MismatchError(
                "this detector is for the scores of another head",
                got=f"{len(set(labels) - set(self.labels))} labels that it does not know",
            )
        return rule.of_scores(scores)

    def require_scores(self) -> LogitRule:
        """Its rule. Raises InputError when it does not read scores."""
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
        """Whether each state's score is above the threshold, (n,). InputError without one."""
        return self.above(self.scores(states, map))

    def above(self, scores: Float64) -> npt.NDArray[np.bool_]:
        """Which of these scores of the detector's are above its threshold. InputError without."""
        if self.threshold is None:
            raise InputError(
                "this detector has no threshold",
                hint="fit it with validation states, or set one: ood threshold",
            )
        return np.asarray(scores) > self.threshold

    def with_threshold(self, scores: Float64, tpr: float = TPR) -> Detector:
        """The same with its threshold set from its scores (n,) on in-distribution states."""
        return dataclasses.replace(self, threshold=threshold_for(scores, tpr), tpr=float(tpr))

    def without_head(self) -> Detector:
        """The same for scores alone: what a provider may give a client who gets scores only.

        Raises InputError when the detector does not read scores.
        """
        return dataclasses.replace(self, rule=dataclasses.replace(self.require_scores(), head=None))


def threshold_for(scores: Float64, tpr: float = TPR) -> float:
    """The ⌈tpr·(n + 1)⌉-th smallest of in-distribution scores (n,).

    Of in-distribution states like these, a new one is kept (its score is not above) with a chance
    of tpr or more, whatever the scores' distribution: split conformal prediction (Papadopoulos et
    al. 2002; Angelopoulos & Bates 2021, theorem 1). Raises InputError when n is too small for tpr.
    """
    if not 0 < tpr < 1:
        raise InputError("the share to keep is not usable", got=str(tpr), expected="0 to 1")
    scores = np.sort(np.asarray(scores, dtype=np.float64))
    rank = math.ceil(round(tpr * (len(scores) + 1), 9))
    if rank > len(scores):
        raise InputError(
            "too few in-distribution states to set this threshold",
            got=f"{len(scores)} states for a share of {tpr:g}",
            expected=f"at least {math.ceil(tpr / (1 - tpr) - 1e-9)}",
        )
    return float(scores[rank - 1])
