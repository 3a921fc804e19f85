"""States of a service for private fits, as its clients see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from linalign_lite.core.space import MAX_DIM, Space
from linalign_lite.encrypt.fitting.descriptions import OfferInfo
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.storage.schema import Range


@dataclass(frozen=True, kw_only=True)
class RemoteFit:
    """States of a service for private fits, of ``texts`` texts. ``most_bytes``: of an offer."""

    name: str
    space: Space
    dim: Annotated[int, Range(1, MAX_DIM)]
    texts: Annotated[int, Range(1, 1 << 32)]
    text_digest: str
    most_bytes: Annotated[int, Range(1, 1 << 53)]


def choose_fit(fits: Sequence[RemoteFit], offer: OfferInfo, name: str | None = None) -> RemoteFit:
    """Choose the states for an offer: those named, or the only ones of its texts.

    Raises InputError for no or several such states, MismatchError where they are of others.
    """
    named = [f for f in fits if name in (None, f.name)]
    found = [f for f in named if (f.text_digest, f.texts) == (offer.text_digest, offer.n)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(f.name for f in found or fits)[:200]
    if found:
        raise InputError("the service has several states of these texts", expected=names)
    if name is not None and not named:
        what = "the service has no such states for private fits"
        raise InputError(what, got=name, expected=names or "none are there")
    raise MismatchError(
        "the service has no states of the offer's texts, in its order",
        got=f"text digest {offer.text_digest[:8]} ({offer.n} texts)",
        expected=", ".join(f"{f.text_digest[:8]} ({f.texts} texts)" for f in named)[:200],
        hint="extract your states from the texts that the provider names",
    )
