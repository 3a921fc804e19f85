"""Check the arguments of a head-aware fit before any work is done."""

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.kl.objective import Ints, Teaching
from linalign_lite.alignment.kl.softmax import Float32
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import InputError

CLASSIFIER_TEACHING = Teaching(temperature=0.7)  # docs/DESIGN.md, section 4, has what was tried
TOKEN_TEACHING = Teaching(temperature=0.5, truth=0.2)
LARGE_TEACHING = Teaching()  # of token heads with more outputs than LARGE
LARGE = 16_384


def usable_weights(weights: npt.ArrayLike | None, n: int) -> Float32:
    """Scale the weights of the rows, (n,), so that those above 0 have mean 1."""
    if weights is None:
        return np.ones(n, dtype=np.float32)
    found = np.asarray(weights, dtype=np.float64)
    if found.shape != (n,) or not np.isfinite(found).all() or found.min() < 0 or not found.any():
        raise InputError(
            "the weights of the rows are not usable",
            got=f"shape {found.shape}",
            expected=f"({n},), none below 0, not all 0",
        )
    found = found / found.max()  # so that their sum is a number
    shares: Float32 = (found / found[found > 0].mean()).astype(np.float32)
    return shares


def next_token_outputs(target: HiddenStates, head: Head, teaching: Teaching) -> Ints | None:
    """Return the next token of each row, (n,), -1 where none is known; None if it has no share."""
    if target.next_token is None or not teaching.truth:
        return None
    if target.next_token.max() >= head.n_outputs:
        raise InputError(
            "the target's tokens are not this head's outputs",
            got=f"token {target.next_token.max()}",
            expected=f"below {head.n_outputs}",
        )
    return target.next_token


def is_classifier(target: HiddenStates, head: Head) -> bool:
    """Return True if the head is a classifier: with labels, or states without next tokens."""
    return bool(head.labels) or target.next_token is None


def usable_teaching(given: Teaching | None, target: HiddenStates, head: Head) -> Teaching:
    """Check what is given; the default is that of a classifier, a token head or a large one."""
    if given is None:
        if is_classifier(target, head):
            return CLASSIFIER_TEACHING
        return LARGE_TEACHING if head.n_outputs > LARGE else TOKEN_TEACHING
    if not 0 < given.temperature < float("inf") or not 0 <= given.truth <= 1:
        raise InputError(
            "the temperature or the share of the truth is not usable",
            got=f"{given.temperature} and {given.truth}",
            expected="above 0, and 0 to 1",
        )
    if given.truth and target.next_token is None:
        raise InputError(
            "the target's states have no next tokens",
            hint="extract them with --pooling tokens, or leave the truth out",
        )
    return given
