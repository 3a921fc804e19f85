"""Choose the next token, and end a text at a stop string."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError, LinalignError

Sampler = Callable[[Array], int]
Ints = npt.NDArray[np.integer[Any]]
FIRST_SORTED = 1024  # outputs among which a nucleus is looked for first
LONGEST_STOP = 4096  # characters


def make_sampler(temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> Sampler:
    """Make a function from scores (n_outputs,) to a token: greedy, or nucleus sampling.

    With temperature 0, the first token with the highest score. Otherwise a draw from
    softmax(scores / temperature), restricted to the nucleus: the fewest tokens whose probabilities
    sum to ``top_p``. Raises InputError when a number is not usable; the sampler raises
    LinalignError when the highest score is not finite.
    """
    if not 0 <= temperature < np.inf:
        raise InputError(
            "the temperature is not usable", got=repr(temperature), expected="0 (greedy) or above"
        )
    if not 0 < top_p <= 1:
        raise InputError("top-p is not usable", got=repr(top_p), expected="above 0, at most 1")
    if seed < 0:
        raise InputError("the seed is not usable", got=str(seed), expected="0 or above")
    if temperature == 0:
        return _argmax
    rng = np.random.default_rng(seed)
    return lambda scores: _nucleus(scores, _argmax(scores), temperature, top_p, rng.random())


def _argmax(scores: Array) -> int:
    best = int(scores.argmax())  # the first NaN if there is one
    if not np.isfinite(scores[best]):
        raise LinalignError(
            "no token can be chosen from these scores",
            got=f"a highest score of {scores[best]}",
            hint="do the map and the head belong to these models?",
        )
    return best


def _nucleus(scores: Array, best: int, temperature: float, top_p: float, uniform: float) -> int:
    with np.errstate(over="ignore"):  # far below the highest: probability 0
        mass = np.exp((scores.astype(np.float64) - float(scores[best])) / temperature)
    if top_p == 1:
        return _inverse_cdf(mass, uniform)
    kept = _nucleus_of(mass, top_p * mass.sum())
    return int(kept[_inverse_cdf(mass[kept], uniform)])


def _nucleus_of(mass: Array, least: float) -> Ints:
    """The fewest outputs whose mass sums to ``least``, the greatest first; of equals the first.

    Only some of the greatest are sorted, ever more until they suffice: a nucleus is small.
    """
    count = FIRST_SORTED
    while True:
        some = np.arange(len(mass))
        if count < len(mass):
            some = np.flatnonzero(mass >= np.partition(mass, -count)[-count])
        order = some[np.argsort(-mass[some], kind="stable")]
        sums = np.cumsum(mass[order])
        if sums[-1] >= least or len(some) == len(mass):
            return order[: int(np.searchsorted(sums, least)) + 1]
        count *= 16


def _inverse_cdf(mass: Array, uniform: float) -> int:
    """The index at which the cumulated mass exceeds ``uniform`` of the total."""
    sums = np.cumsum(mass)
    found = int(np.searchsorted(sums, uniform * sums[-1], side="right"))
    return min(found, int(np.flatnonzero(mass)[-1]))  # rounding at the upper end


class RepetitionPenalty:
    """Lower the scores of tokens that were read or made: s / penalty where s > 0, else s · penalty.

    Keskar et al., "CTRL: A conditional transformer language model for controllable generation",
    2019. With a penalty of 1 nothing changes. Raises InputError for a penalty below 1.
    """

    def __init__(self, penalty: float, tokens: Iterable[int] = ()) -> None:
        if not 1 <= penalty < np.inf:
            raise InputError(
                "the repetition penalty is not usable",
                got=repr(penalty),
                expected="1 (none) or above, such as 1.2",
            )
        self._penalty = np.float32(penalty)
        self._seen = set(tokens) if penalty > 1 else None

    def add(self, token: int) -> None:
        """Lower this token from now on."""
        if self._seen is not None:
            self._seen.add(token)

    def lowers(self, token: int) -> bool:
        """True if the score of this token is lowered; the highest of the others stays so."""
        return self._seen is not None and token in self._seen

    def __call__(self, scores: Array) -> Array:
        """A copy with the scores lowered; ``scores`` itself where none is."""
        if not self._seen:
            return scores
        seen, found = np.fromiter(self._seen, np.intp), scores.copy()
        lowered = found[seen]
        found[seen] = np.where(lowered > 0, lowered / self._penalty, lowered * self._penalty)
        return found


class StopStrings:
    """Passes text through up to the first stop string, and never part of one.

    Of several strings, the one that is complete first ends the text, however it is cut into pieces.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        strings = [strings] if isinstance(strings, str) else list(strings)
        for string in strings:
            if not 1 <= len(string) <= LONGEST_STOP:
                raise InputError(
                    "a stop string is not usable",
                    got=f"{len(string)} characters",
                    expected=f"1 to {LONGEST_STOP}",
                )
        self._strings = strings
        self._held = ""
        self.met = False

    def push(self, text: str) -> str:
        """Add text; return what can be shown now, nothing more once a string was met."""
        if not self._strings or self.met:
            return "" if self.met else text
        self._held += text
        found = [(at + len(s), at) for s in self._strings if (at := self._held.find(s)) >= 0]
        if found:
            self.met = True
            shown, self._held = self._held[: min(found)[1]], ""
            return shown
        keep = max(map(self._overlap, self._strings))
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(shown) :]
        return shown

    def _overlap(self, string: str) -> int:
        """Count the characters at the end that could begin a stop string."""
        most = min(len(string) - 1, len(self._held))
        return next((n for n in range(most, 0, -1) if self._held.endswith(string[:n])), 0)

    def close(self) -> str:
        """Return the text that was held and did not become a stop string."""
        shown, self._held = self._held, ""
        return shown
