"""Stores, in common: their errors, and what an interrupted run left."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from linalign_lite.errors import (
    InputError,
    LinalignError,
    MismatchError,
    OutputExistsError,
    is_disk_full,
)
from linalign_lite.vectors.cards import read_card
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import VectorInfo

PARTIAL = ".partial"  # ends the name of what is written until it is complete


class StoreError(LinalignError):
    """A store refused what was asked of it."""


class StoreGoneError(StoreError):
    """A store does not answer, or was closed or removed."""


class CollectionGoneError(StoreError):
    """A collection was removed, or replaced by another, while it was read or written."""


class StoreLockedError(StoreError):
    """Another process holds a store."""


class StoreFullError(StoreError):
    """The disk of a store is full."""


HINTS: dict[type[LinalignError], str] = {
    StoreGoneError: "is the store still there?",
    CollectionGoneError: "start again when nobody else writes to it",
    StoreLockedError: "let the other process end, or use a server",
    StoreFullError: "make room, then give the same command again",
    MismatchError: "the collection was replaced by one of another dimension",
}
_MOST = 300  # characters of a client's message that are quoted
_RUST = re.compile(r", (?:/[^\s,]+/)+[^\s,]+\.rs:\d+:\d+")  # where in a client's source

Kinds = Callable[[Exception], type[LinalignError]]


@contextlib.contextmanager
def store_errors(location: Location, what: str, kind_of: Kinds) -> Iterator[None]:
    """Turn errors of the block, of a store's client, into a named error that says what failed.

    kind_of: the client's error to StoreError or one below it, or MismatchError. A full disk is
    found here.
    """
    try:
        yield
    except LinalignError:
        raise
    except Exception as e:
        kind = StoreFullError if is_disk_full(e) else kind_of(e)
        text = _RUST.sub("", " ".join(str(e).split()))[:_MOST]
        problem, got = f"{what} {location} failed", f"{type(e).__name__}: {text}"
        raise kind(problem, got=got, hint=HINTS.get(kind, "")) from e


def resumed_cursor(text: str | None, info: VectorInfo, location: Location) -> str:
    """Return the cursor in the card that an interrupted run left, "" when it kept no batch.

    Raises MismatchError when it wrote other vectors: of another space, metric or version.
    """
    card = read_card(text, location)
    if card is None or not card.cursor:
        return ""
    if (card.space, card.metric, card.job) != (info.space, info.metric, info.version):
        raise MismatchError(
            f"an interrupted run left other vectors at {location}",
            got=f"{card.space.describe()}, metric {card.metric or 'unknown'}",
            expected=f"{info.space.describe()}, metric {info.metric or 'unknown'}",
            hint="the map or the source is another one; start again without resuming",
        )
    return card.cursor


def required_part(location: Location, what: str) -> str:
    """Return the name of a collection or table. Raises InputError where a location names none."""
    name = location.part
    if not name or not name.isprintable() or set(name) & set("/\\") or name.startswith("."):
        raise InputError(
            f"{location} names no {what}",
            expected=location.backend.form,
            hint="no slashes, no dot at the beginning",
        )
    return name


def collection_exists(location: Location) -> OutputExistsError:
    """Return the error for a collection that is there: it is never overwritten."""
    return OutputExistsError(
        f"{location} is already there and is never overwritten",
        hint="choose another name; `vectors switch` puts it in the place of an old one",
    )


def no_collection(location: Location, found: list[str]) -> InputError:
    """Return the error for a collection that is not there."""
    there = ", ".join(sorted(found)[:8])
    return InputError(f"{location} is not there", hint=f"there are: {there}" if there else "")


def part_location(location: Location, part: str) -> str:
    """Return the location of another collection of the same store."""
    return f"{location.text.partition('#')[0]}#{part}"
