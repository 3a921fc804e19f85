"""Cards: the space and metric of a collection, as JSON kept beside it in its file or store."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated

from linalign_lite.core.space import Space
from linalign_lite.errors import FormatError, MismatchError
from linalign_lite.storage.schema import LEFT_OUT, Text, format_errors, parse, plain, strict_json
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import Metric, VectorInfo

KEY = "linalign_lite"  # of a card in what a file or store keeps beside a collection
MAX_CARD = 1 << 16  # characters


@dataclass(frozen=True)
class Card:
    """Description of a collection. docs/FORMAT.md, section 10.

    cursor: of the last batch of a collection that is not complete; job: the version of its info.
    """

    space: Space
    metric: Metric = ""
    cursor: Annotated[str, Text(1024)] = field(default="", metadata=LEFT_OUT)
    job: Annotated[str, Text(1024)] = field(default="", metadata=LEFT_OUT)


def write_card(info: VectorInfo, cursor: str = "") -> str:
    """Return the card of a collection as JSON text."""
    card = Card(info.space, info.metric, cursor, info.version if cursor else "")
    return json.dumps({KEY: plain(card)}, sort_keys=True)


def read_card(text: str | None, location: Location) -> Card | None:
    """Return the card in a text, None when the text is of somebody else.

    Raises FormatError for a card that is not usable.
    """
    if not text or KEY not in text:
        return None
    if len(text) > MAX_CARD:
        raise FormatError(f"{location}: the card is too large", got=f"{len(text)} characters")
    with format_errors(location, "card of a collection"):
        found = strict_json(text.encode())
        card: Card = parse(Card, found[KEY], "card")
    return card


def stated_space(card: Card | None, dim: int, location: Location) -> Space:
    """Return the space that a card states, or an unknown one. MismatchError for another dim."""
    if card is None:
        return Space(dim)
    if card.space.dim != dim:
        raise MismatchError(
            f"{location} says that its vectors have another dimension",
            got=str(card.space.dim),
            expected=str(dim),
        )
    return card.space
