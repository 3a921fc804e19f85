"""Which positions of two tokenizations of the same texts belong together.

A position is a row: a token that is not special. Its ``char_end`` says how much of its text has
been read there, so two positions of different tokenizers say the same thing when both have read
the same characters, whole.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.choices import PairingRule, values_of
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import InputError, MismatchError

Rows = npt.NDArray[np.intp]
Positions = tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.integer[Any]]]
RULES = values_of(PairingRule)
_LARGEST = np.iinfo(np.int32).max


def completing(
    text_index: npt.NDArray[np.integer[Any]],  # shape: (n,)
    char_end: npt.NDArray[np.integer[Any]],  # shape: (n,)
) -> Rows:
    """The rows at which a character has been read whole, ascending.

    Rows are tokens in order, special ones left out, those of a text together. Of tokens with the
    same end the last counts alone: a character split over byte tokens, or written by a normaliser
    as several, is read when its last token is. None counts with end 0 (an added prefix space
    alone), nor one that ends before an earlier token of its text does.
    Raises InputError when the arrays are not such rows.
    """
    return _completing(text_index, char_end)[0]


def _completing(
    text_index: npt.NDArray[np.integer[Any]], char_end: npt.NDArray[np.integer[Any]]
) -> tuple[Rows, npt.NDArray[np.int64]]:
    """The completing rows, and for each a number that grows with its text, then with its end."""
    text, end = np.asarray(text_index), np.asarray(char_end)
    if text.ndim != 1 or text.shape != end.shape:
        raise InputError(
            "text_index and char_end do not fit together",
            got=f"shapes {text.shape} and {end.shape}",
            expected="(n,) both",
        )
    if text.size == 0:
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.int64)
    if not all(np.issubdtype(a.dtype, np.integer) for a in (text, end)) or (
        min(text.min(), end.min()) < 0 or max(text.max(), end.max()) > _LARGEST
    ):
        raise InputError(
            "text_index and char_end are not usable", expected="whole numbers from 0 to 2^31 - 1"
        )
    if (text[1:] < text[:-1]).any():
        raise InputError("the rows are not in the order of their texts")
    order = (text.astype(np.int64) << 32) | end.astype(np.int64)
    # a text's numbers are above all of the text before it, so this is the maximum within a text
    forward = order == np.maximum.accumulate(order)
    rows = np.flatnonzero(forward & (end > 0))
    found = order[rows]
    last = np.ones(len(rows), dtype=np.bool_)
    last[:-1] = found[1:] != found[:-1]
    return rows[last], found[last]


def pair_ends(source: Positions, target: Positions, rule: str = "exact") -> tuple[Rows, Rows]:
    """Rows of source and target, (source_rows, target_rows), that belong together.

    Both are given as (text_index, char_end) of all rows. Only completing positions pair.
    ``exact``: both end at the same character of the same text. ``after`` (arXiv 2603.18908): every
    target position gets the first source position of its text that ends there or later, which has
    then read more than the target has; targets beyond the source's last end are left out.
    Raises InputError for an unknown rule and for what `completing` refuses.
    """
    if rule not in RULES:
        raise InputError("unknown rule for pairing", got=rule, expected=", ".join(RULES))
    source_rows, theirs = _completing(*source)
    target_rows, mine = _completing(*target)
    if not len(theirs):
        return source_rows, target_rows[:0]
    # the first source position at or after each target position, were all texts one
    at = np.searchsorted(theirs, mine)
    inside = np.minimum(at, len(theirs) - 1)
    if rule == "exact":
        pairs = theirs[inside] == mine
    else:
        pairs = (at < len(theirs)) & (theirs[inside] >> 32 == mine >> 32)
    return source_rows[at[pairs]], target_rows[pairs]


def pair_states(
    source: HiddenStates, target: HiddenStates, rule: str = "exact"
) -> tuple[HiddenStates, HiddenStates]:
    """The rows of token states that belong together: row i of one with row i of the other.

    See `pair_ends` for ``rule``. After "after", the target's ``char_end`` stands in both, so that
    the positions count as the same ones (`HiddenStates.require_same_texts`), though the source has
    read on from there to the end of its own token.
    Raises MismatchError for states of different texts or without token positions, InputError when
    nothing pairs.
    """
    mine, theirs = _positions(target, "target"), _positions(source, "source")
    if source.text_digest and target.text_digest and source.text_digest != target.text_digest:
        raise MismatchError(
            "these states were made from different texts",
            got=f"text digest {target.text_digest[:8]}",
            expected=source.text_digest[:8],
            hint="extract both models on the same file",
        )
    source_rows, target_rows = pair_ends(theirs, mine, rule)
    if not len(target_rows):
        raise InputError(
            "no token position of the source belongs to one of the target",
            got=f"{len(source)} and {len(target)} rows",
            hint="is it the same text, and do both tokenizers say where their tokens end?",
        )
    paired = target.rows(target_rows)
    return dataclasses.replace(source.rows(source_rows), char_end=paired.char_end), paired


def _positions(states: HiddenStates, name: str) -> Positions:
    if states.text_index is None or states.char_end is None:
        raise MismatchError(
            f"the {name} states have no token positions",
            got=f"pooling {states.space.pooling or 'unknown'}",
            expected="pooling tokens",
            hint="extract both models with --pooling tokens",
        )
    return states.text_index, states.char_end
