"""ViM: a virtual logit from the residual of the principal directions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from linalign_lite.core.affine_map import Array
from linalign_lite.core.head import Head
from linalign_lite.errors import InputError
from linalign_lite.heads.ood.covariance import covariance_about
from linalign_lite.heads.ood.detectors.base import FitData, Float64, Rule, as_float64, require_shape
from linalign_lite.heads.ood.detectors.logits import Energy, require_outputs

PRINCIPAL_SHARE = 8  # one in so many of the directions that vary is principal
MIN_MOMENT = 1e-12  # share of the largest second moment below which a direction is left out
ROWS = 1024  # states of a block


@dataclass(frozen=True, eq=False)
class VirtualLogit(Rule):
    """α‖R(z − m)‖ − log Σₖ exp(sₖ), R an orthonormal basis of the residual space.

    Wang et al. 2022, "ViM: Out-Of-Distribution with Virtual-logit Matching": the log odds that
    softmax gives to a virtual logit α‖R(z − m)‖. m = −V⁺c, so that the head is V(z − m).
    """

    head: Head
    mean: Array  # shape: (d,)
    residual: Array  # shape: (q, d)
    alpha: float

    method = "vim"
    needs_head = True
    arrays: ClassVar = {"mean": 1, "residual": 2}
    settings: ClassVar = {"alpha": float, "n_outputs": int}

    def __post_init__(self) -> None:
        d = self.head.weight.shape[1]
        require_shape("mean", self.mean, (d,))
        require_shape("residual", self.residual, (None, d))
        if self.head.n_outputs < 2:
            raise InputError("the head has only one output", expected="2 or more")
        if not 0 < self.alpha < np.inf:
            raise InputError("alpha is not usable", got=str(self.alpha), expected="above 0")

    @classmethod
    def rebuild(cls, arrays: Mapping[str, Array], settings: Any, head: Head | None) -> Self:
        """Rebuild the rule from a file's arrays, settings and head."""
        assert head is not None
        require_outputs(head, settings["n_outputs"])
        return cls(head, arrays["mean"], arrays["residual"], settings["alpha"])

    @classmethod
    def fit(cls, data: FitData) -> tuple[Self, dict[str, Any]]:
        """Residual space: eigenvectors of Σ (z − m)(z − m)ᵀ/n except the largest ``components``.

        α = Σ maxₖ sₖ / Σ ‖R(z − m)‖ over the states. Wang et al. 2022, section 4.
        """
        head, states = data.head, data.training.states
        assert head is not None
        weight, bias = as_float64(head.weight), as_float64(head.bias)
        # a ridge head's scores add up to a constant: its smallest singular value is float32 noise
        smallest = max(weight.shape) * float(np.finfo(np.float32).eps)
        mean = np.asarray(-np.linalg.lstsq(weight, bias, rcond=smallest)[0], dtype=np.float64)
        values, vectors = np.linalg.eigh(covariance_about(states, mean).covariance)
        varying = vectors[:, values > MIN_MOMENT * values[-1]]  # smallest first
        count = data.components or max(1, varying.shape[1] // PRINCIPAL_SHARE)
        if not 1 <= count < varying.shape[1]:
            problem = "the number of components leaves no residual"
            raise InputError(problem, got=str(count), expected=f"1 to {varying.shape[1] - 1}")
        residual = np.ascontiguousarray(varying[:, : varying.shape[1] - count].T)
        highest = lengths = 0.0
        for start in range(0, len(states), ROWS):
            rows = states[start : start + ROWS].astype(np.float64)
            highest += float(head(rows).max(axis=1).sum())
            lengths += float(np.linalg.norm((rows - mean) @ residual.T, axis=1).sum())
        if not (lengths > 0 and highest > 0):
            raise InputError(
                "vim does not fit this head: its highest scores are not above 0 on average",
                hint="another method, or a head whose scores are",
            )
        return cls(head, mean, residual, highest / lengths), {"components": count}

    @property
    def n_outputs(self) -> int:
        """Outputs of the head."""
        return self.head.n_outputs

    @property
    def width(self) -> int:
        return self.n_outputs

    def score(self, states: Float64) -> Float64:
        left = np.linalg.norm((states - self.mean) @ as_float64(self.residual).T, axis=1)
        return as_float64(self.alpha * left + Energy.of_logits(self.head(states)))
