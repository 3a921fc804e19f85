"""Pair the token positions of two tokenizers on the same texts.

A position is a row of token states: a token that is not special. Its ``char_end`` is the number of
characters of its text up to the end of the token. Two positions match when both end at the same
character boundary.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.choices import PairingRule, values_of
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import InputError, MismatchError

Rows = npt.NDArray[np.intp]
Ints = npt.NDArray[np.integer[Any]]
Positions = tuple[Ints, Ints]
RULES = values_of(PairingRule)
_LARGEST = np.iinfo(np.int32).max


def boundary_rows(text_index: Ints, char_end: Ints) -> Rows:
    """Return the rows whose tokens end at a character boundary, ascending. Both arrays: (n,).

    Rows are tokens in order, without special ones, grouped by text. Of tokens with the same end
    only the last one counts: a character split over byte tokens, or normalised to several, is
    complete at its last token. Tokens with end 0 (an added prefix space alone) do not count, nor
    those that end before an earlier token of their text.
    Raises InputError when the arrays are not such rows.
    """
    return _boundaries(text_index, char_end)[0]


def _boundaries(text_index: Ints, char_end: Ints) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Return `boundary_rows`, and for each a key that orders rows by text, then by end."""
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
    # the keys of a text are above those of the texts before it: this is the maximum within a text
    forward = order == np.maximum.accumulate(order)
    rows = np.flatnonzero(forward & (end > 0))
    found = order[rows]
    last = np.ones(len(rows), dtype=np.bool_)
    last[:-1] = found[1:] != found[:-1]
    return rows[last], found[last]


def pair_positions(source: Positions, target: Positions, rule: str = "exact") -> tuple[Rows, Rows]:
    """Return matching rows of source and target, (source_rows, target_rows).

    source, target: (text_index, char_end) of all rows; only `boundary_rows` are paired.
    ``exact``: both end at the same character of the same text. ``after`` (arXiv 2603.18908): each
    target position is paired with the first source position of its text that ends there or later;
    target positions after the last source position are omitted.
    Raises InputError for an unknown rule, and as `boundary_rows`.
    """
    if rule not in RULES:
        raise InputError("unknown rule for pairing", got=rule, expected=", ".join(RULES))
    source_rows, source_keys = _boundaries(*source)
    target_rows, target_keys = _boundaries(*target)
    if not len(source_keys):
        return source_rows, target_rows[:0]
    # the first source position at or after each target position, in this text or a later one
    at = np.searchsorted(source_keys, target_keys)
    found = source_keys[np.minimum(at, len(source_keys) - 1)]
    if rule == "exact":
        pairs = found == target_keys
    else:
        pairs = (at < len(source_keys)) & (found >> 32 == target_keys >> 32)
    return source_rows[at[pairs]], target_rows[pairs]


def pair_states(
    source: HiddenStates, target: HiddenStates, rule: str = "exact"
) -> tuple[HiddenStates, HiddenStates]:
    """Select the matching rows of token states: row i of one is paired with row i of the other.

    rule: see `pair_positions`. With "after", both results have the target's ``char_end``, so that
    the positions count as equal (`HiddenStates.require_same_texts`), although the source's tokens
    may end later.
    Raises MismatchError for states of different texts or without token positions, InputError when
    no rows match.
    """
    target_positions = _positions(target, "target")
    source_positions = _positions(source, "source")
    source.require_same_digest(target)
    source_rows, target_rows = pair_positions(source_positions, target_positions, rule)
    if not len(target_rows):
        raise InputError(
            "no token position of the source matches one of the target",
            got=f"{len(source)} and {len(target)} rows",
            hint="are the texts the same, and do both tokenizers give the ends of their tokens?",
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
