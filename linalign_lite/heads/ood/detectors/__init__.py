"""Scoring rules of out-of-distribution detectors, one file per family. Higher is more outlying.

To add a method, write a subclass of `base.Rule` (its method, fit, score, arrays and settings) and
list it in `_CLASSES`; fitting, files and `METHODS` follow. docs/FORMAT.md, section 1, lists them.
"""

from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError
from linalign_lite.heads.ood.detectors import cosine, logits, mahalanobis, nearest_neighbours, vim
from linalign_lite.heads.ood.detectors.base import Float64, Rule

_CLASSES: tuple[type[Rule], ...] = (
    logits.Energy,
    logits.MaxSoftmax,
    logits.MaxLogit,
    mahalanobis.Mahalanobis,
    mahalanobis.RelativeMahalanobis,
    cosine.Cosine,
    nearest_neighbours.NearestNeighbours,
    nearest_neighbours.WhitenedNearestNeighbours,
    vim.VirtualLogit,
)
RULES: dict[str, type[Rule]] = {rule.method: rule for rule in _CLASSES}
METHODS = tuple(RULES)
NEEDS_HEAD = tuple(name for name, rule in RULES.items() if rule.needs_head)
NEEDS_CLASSES = tuple(name for name, rule in RULES.items() if rule.needs_classes)
SCORE_METHODS = tuple(name for name, rule in RULES.items() if issubclass(rule, logits.LogitRule))


def outlyingness(scores: Array, method: str = "energy", temperature: float = 1.0) -> Float64:
    """``energy``, ``msp`` or ``max-logit`` of a head's scores (n, n_outputs), n ≥ 1; returns (n,).

    The scores may be decrypted: an error ε changes energy and max-logit by at most ε, msp by at
    most ε/(2T). Raises InputError for an unknown method, a temperature that is not above 0, or
    scores that are not finite, of another shape or of fewer than two outputs.
    """
    rule = RULES.get(method)
    if rule is None or not issubclass(rule, logits.LogitRule):
        raise InputError("no score of this name", got=method, expected=", ".join(SCORE_METHODS))
    return rule.of_logits(scores, temperature)
