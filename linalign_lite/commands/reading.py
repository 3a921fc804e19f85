"""States that commands read for a map, a head, a detector or an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from linalign_lite.commands.console import Console
from linalign_lite.commands.remarks import doubts, poor
from linalign_lite.commands.states import ModelOptions, extract_texts
from linalign_lite.errors import FormatError, InputError

if TYPE_CHECKING:
    from linalign_lite.core.affine_map import AffineMap
    from linalign_lite.core.hidden_states import HiddenStates
    from linalign_lite.core.space import Space


def read_for(
    console: Console, location: str, affine: AffineMap | None, reader: Space, what: str
) -> HiddenStates:
    """Read states for a map, or for ``what`` without one; remark where nothing shows they fit."""
    from linalign_lite.vectors.reading import read_states

    states = read_states(location)
    console.warn(doubts(location, states.space, affine, reader, what))
    return states


def read_encoded(queries: str) -> HiddenStates:
    """Read states or vectors; a .jsonl that is not usable may hold texts, which need --model."""
    from linalign_lite.vectors.locations import find_location
    from linalign_lite.vectors.reading import read_states

    if find_location(queries) is None:
        what, hint = f"cannot encrypt {queries} as it is", "add --model FOLDER to read texts"
        raise InputError(what, expected="states (.npz) or vectors", hint=hint)
    try:
        return read_states(queries)
    except FormatError as e:
        if not queries.lower().endswith(".jsonl"):
            raise
        hint = "for texts give --model"
        raise FormatError(e.problem, got=e.got, expected=e.expected, hint=hint) from e


def read_queries(
    queries: str,
    model: Path | None,
    affine: AffineMap | None,
    console: Console,
    *,
    search: bool = False,
    reader: Space | None = None,
) -> HiddenStates:
    """Read states, or extract those of texts as the map's source was; search: as queries.

    reader: of the states where no map reads them.
    """
    console.warn(poor(affine))
    if model is None:
        found = read_encoded(queries)
        what = "the index" if search else "the head"
        console.warn(doubts(queries, found.space, affine, reader, what))
        return found
    if queries.lower().endswith((".npz", ".npy")):
        raise InputError(f"{queries} holds states already", hint="leave --model out")
    from linalign_lite.extraction.model_card import load_card
    from linalign_lite.extraction.texts import read_texts

    source = None if affine is None else affine.source
    prompt = source.prompt if source and source.model else None
    if search and "query" in load_card(model, verify=False).prompts:
        prompt = "query"
    options = ModelOptions(
        pooling=(source.pooling or None) if source else None,
        normalize=source.normalize if source and source.model else None,
        prompt=prompt,
    )
    return extract_texts(console, model, read_texts(queries), options)
