"""Stores, in common: their errors, and what an interrupted run left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from linalign_lite.errors import (
    InputError,
    LinalignError,
    MismatchError,
    OutputExistsError,
    quote_errors,
)
from linalign_lite.vectors.cards import read_card
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import VectorInfo

PARTIAL = ".partial"  # ends the name of what is written until it is complete


class StoreError(LinalignError):
    """A store refused what was asked of it, or went away."""


@contextlib.contextmanager
def store_errors(location: Location, what: str) -> Iterator[None]:
    """Turn errors of the block, of a store's client, into a StoreError that says what failed."""
    try:
        yield
    except LinalignError:
        raise
    except Exception as e:
        with quote_errors(
            f"{what} {location} failed", StoreError, hint="is the store still there?"
        ):
            raise e from None


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
