"""Vectors of any location as hidden states: whole, in pairs, and in pairs of batches."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from linalign_lite.core.affine_map import Array
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.shards.states_folder import states_of
from linalign_lite.core.token_alignment import pair_states
from linalign_lite.errors import InputError, MismatchError, without_secrets
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.places import Place, place
from linalign_lite.storage.remote import Remote
from linalign_lite.vectors.files.states import gather
from linalign_lite.vectors.locations import STATES, find_location, open_vectors
from linalign_lite.vectors.source import ROWS, Batch, Vectors, VectorSource

TEXTS = (".txt", ".csv", ".tsv", ".jsonl")  # lines of vectors (.jsonl) are never packed
StatesAt = PathLike | Remote  # of vectors anywhere, or of states also under a URL


def is_vectors(location: StatesAt) -> bool:
    """Return True for a location of vectors that is no file or folder of states."""
    found = None if isinstance(location, Remote) else find_location(os.fspath(location))
    return found is not None and found.backend.module != STATES


def place_of(location: StatesAt) -> Place | None:
    """Return the file or folder of a location, without its #part; None for a store."""
    if is_vectors(location):
        found = find_location(os.fspath(str(location)))
        return Path(found.path) if found is not None and not found.scheme else None
    return place(location)


def read_states(location: StatesAt) -> HiddenStates:
    """Read states of a `.states.npz` or folder, or vectors of any other file or store.

    location: as `open_vectors` takes it, or a URL of states. Payload `label` of all rows becomes
    the labels, `text` the text digest. Raises InputError when nothing is there, FormatError when it
    is not usable, MissingExtraError without the package that reads it.
    """
    if not is_vectors(location):
        _require_no_texts(location)
        return states_of(location)
    with open_vectors(str(location)) as source:
        return gather(source.batches(), source.info)


def read_pair(source: StatesAt, target: StatesAt, rule: str) -> tuple[HiddenStates, HiddenStates]:
    """Read the states of both sides (`read_aligned`); token states are paired by ``rule``.

    Raises MismatchError, which names both, for states of different texts.
    """
    x, y = read_aligned([source, target])
    tokens = x.text_index is not None and y.text_index is not None
    try:
        (x.require_same_digest if tokens else x.require_same_texts)(y)
    except MismatchError as e:
        got, expected = (f"{at}: {part}" if part else str(at) for at, part in
                         ((target, e.got), (source, e.expected)))  # fmt: skip
        raise MismatchError(e.problem, got=got, expected=expected, hint=e.hint) from e
    return pair_states(x, y, rule) if tokens else (x, y)


def read_aligned(locations: Sequence[StatesAt]) -> list[HiddenStates]:
    """Read states of several models, the same text in row i of each.

    Locations with ids of their own are put in the order of the first such one. Raises
    MismatchError when an id is in one of them only.
    """
    read = [read_with_ids(location) for location in locations]
    first = next((ids for _, ids in read if ids), ())
    return [
        states if ids in ((), first) else _in_order(states, ids, first, location)
        for (states, ids), location in zip(read, locations, strict=True)
    ]


def read_by_ids(location: StatesAt, ids: tuple[str, ...]) -> HiddenStates:
    """Read the states of ``ids``, in their order; a location without ids has that order already.

    Raises MismatchError when it holds other ids, or another number of rows.
    """
    states, own = read_with_ids(location)
    if own in ((), ids):
        if len(states) != len(ids):
            raise MismatchError(
                f"{without_secrets(str(location))} does not hold as many vectors as there are ids",
                got=str(len(states)),
                expected=str(len(ids)),
            )
        return states
    return _in_order(states, own, ids, location)


def _require_no_texts(location: StatesAt) -> None:
    name = str(location)
    if name.lower().removesuffix(".gz").removesuffix(".zst").endswith(TEXTS):
        raise InputError(
            f"{without_secrets(name)} holds texts, by its name",
            expected="states or vectors of them",
            hint="`linalign-lite extract MODEL TEXTS OUT` makes states of texts",
        )


def read_with_ids(location: StatesAt) -> tuple[HiddenStates, tuple[str, ...]]:
    """Read states, and their ids if they have some of their own, else ()."""
    if not is_vectors(location):
        _require_no_texts(location)
        return states_of(location), ()
    ids: list[str] = []

    def noted(batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            ids.extend(batch.ids)
            yield batch

    with open_vectors(str(location)) as source:
        states = gather(noted(source.batches()), source.info)
    return states, () if source.info.ids == "rows" else tuple(ids)


def _in_order(
    states: HiddenStates, ids: tuple[str, ...], wanted: tuple[str, ...], name: object
) -> HiddenStates:
    """Return the rows of ``ids`` in the order of the ``wanted`` ones, which must be the same."""
    row = {own: i for i, own in enumerate(ids)}
    if differing := row.keys() ^ set(wanted):
        raise MismatchError(
            f"{without_secrets(str(name))} does not hold the ids that are expected",
            got=f"{len(differing)} ids that only one of the two has",
            hint="leave them out",
        )
    order = np.array([row[own] for own in wanted])
    return dataclasses.replace(states.rows(order), text_digest="")  # that of the texts as they were


def count(source: VectorSource) -> int:
    """Return the number of vectors, read once where a source does not tell."""
    if source.info.count is not None:
        return source.info.count
    return sum(map(len, source.batches()))


def vectors_of(source: VectorSource, ids: Sequence[str]) -> tuple[Vectors, set[str], int]:
    """Read the vectors of some ids, (n, d), in their order; all vectors are read once.

    Returns them, the ids that are not there, whose rows have no meaning, and the number of vectors.
    """
    row, total = {own: i for i, own in enumerate(ids)}, 0
    found = np.empty((len(ids), source.info.dim), np.float32)
    missing = set(row)
    for batch in source.batches():
        total += len(batch)
        for i, own in enumerate(batch.ids):
            if own in row:
                found[row[own]] = batch.vectors[i]
                missing.discard(own)
    return found, missing, total


def paired_batches(
    source: VectorSource, target: VectorSource, rows: int = ROWS
) -> Iterator[tuple[Array, Array]]:
    """Yield matching rows of two sources of the same order, a batch of each in memory.

    Raises MismatchError where ids differ, or one has more vectors.
    """
    theirs, left, waiting = target.batches(rows), None, 0
    own_ids = "rows" not in (source.info.ids, target.info.ids)
    for batch in source.batches(rows):
        at = 0
        while at < len(batch):
            if left is None or waiting == len(left):
                left, waiting = next(theirs, None), 0
                if left is None:
                    raise MismatchError("the target has fewer vectors than the source")
            n = min(len(batch) - at, len(left) - waiting)
            mine, other = slice(at, at + n), slice(waiting, waiting + n)
            if own_ids and batch.ids[mine] != left.ids[other]:
                raise MismatchError(
                    "source and target do not have the same ids in the same order",
                    hint="sort both by id; what fits in memory is paired by id",
                )
            yield batch.vectors[mine], left.vectors[other]
            at, waiting = at + n, waiting + n
    if (left is not None and waiting < len(left)) or next(theirs, None) is not None:
        raise MismatchError("the target has more vectors than the source")
