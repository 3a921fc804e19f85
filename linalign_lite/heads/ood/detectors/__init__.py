"""Out-of-distribution detectors, one file per family. A score is higher for what is more outlying.

To add a detector, write a subclass of `base.Rule` (its method, fit, score, arrays and settings) and
list it in `RULES`; fitting, files and `METHODS` follow. docs/FORMAT.md, section 1, has a row each.
"""

from __future__ import annotations

from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError
from linalign_lite.heads.ood.detectors.base import Float64, Rule
from linalign_lite.heads.ood.detectors.cosine import Cosine
from linalign_lite.heads.ood.detectors.logits import Energy, LogitRule, MaxLogit, MaxSoftmax
from linalign_lite.heads.ood.detectors.mahalanobis import Mahalanobis, RelativeMahalanobis
from linalign_lite.heads.ood.detectors.nearest_neighbours import (
    NearestNeighbours,
    WhitenedNearestNeighbours,
)
from linalign_lite.heads.ood.detectors.vim import VirtualLogit

_CLASSES: tuple[type[Rule], ...] = (
    Energy,
    MaxSoftmax,
    MaxLogit,
    Mahalanobis,
    RelativeMahalanobis,
    Cosine,
    NearestNeighbours,
    WhitenedNearestNeighbours,
    VirtualLogit,
)
RULES: dict[str, type[Rule]] = {rule.method: rule for rule in _CLASSES}
METHODS = tuple(RULES)
NEEDS_HEAD = tuple(name for name, rule in RULES.items() if rule.needs_head)
SCORE_METHODS = tuple(name for name, rule in RULES.items() if issubclass(rule, LogitRule))


def outlyingness(scores: Array, method: str = "energy", temperature: float = 1.0) -> Float64:
    """``energy``, ``msp`` or ``max-logit`` of a head's scores (n, n_outputs), n ≥ 1; returns (n,).

    Decrypted scores will do. A score that is off by ε moves energy and max-logit by ε at most, msp
    by ε/(2T). Raises InputError for an unknown method, a temperature that is not above 0, or
    scores that are not finite, of another shape or of fewer than two outputs.
    """
    rule = RULES.get(method)
    if rule is None or not issubclass(rule, LogitRule):
        raise InputError("no score of this name", got=method, expected=", ".join(SCORE_METHODS))
    return rule.of_logits(scores, temperature)
