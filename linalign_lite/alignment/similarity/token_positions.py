"""Rows that N models have in common."""

from collections.abc import Mapping

from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.token_alignment import pair_states


def common_rows(states: Mapping[str, HiddenStates]) -> dict[str, HiddenStates]:
    """Token states at the positions where a token of every model ends; other states as they are.

    Raises MismatchError when some have token positions and some have not, or texts differ,
    InputError when no position is common.
    """
    sets = dict(states)
    if all(value.text_index is None for value in sets.values()):
        return sets
    name, *others = sets
    anchor = sets[name]
    for other in others:
        anchor, _ = pair_states(anchor, sets[other])
    return {name: anchor, **{other: pair_states(anchor, sets[other])[1] for other in others}}
