"""Put one collection of vectors in the place of another, at once, and back."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from linalign_lite.errors import InputError, MismatchError
from linalign_lite.storage.atomic import require_replaceable
from linalign_lite.vectors.locations import Location, backend_module, locate, open_vectors


def switch_vectors(live: str, new: str) -> str:
    """Let the collection ``new`` answer at the location ``live``, and return where the former is.

    Readers find the one or the other, never neither. ``switch_vectors(live, former)`` undoes it.
    Nothing is removed. Which step of a store does it stands in docs/FORMAT.md, section 10.

    Raises InputError for collections of different stores, or of a kind that cannot be switched, and
    MismatchError when both state a metric of search and the two differ.
    """
    old, other = locate(live), locate(new)
    if (old.backend, old.scheme) != (other.backend, other.scheme) or old == other:
        raise InputError(
            "only two collections of the same store can be switched", got=f"{old} and {other}"
        )
    with open_vectors(live) as a, open_vectors(new) as b:
        metrics = a.info.metric, b.info.metric
    if all(metrics) and metrics[0] != metrics[1]:
        raise MismatchError(
            f"{other} is searched by another metric than {old}",
            got=metrics[1],
            expected=metrics[0],
            hint="write it again with the metric of the old one",
        )
    if not old.scheme:
        return _switch_files(old, other)
    if old.path != other.path:
        raise InputError(
            "only two collections of the same store can be switched", got=f"{old} and {other}"
        )
    former: str = backend_module(old).switch(old, other)
    return former


def _switch_files(live: Location, new: Location) -> str:
    """Rename ``new`` to ``live``, whose file keeps a name of its own."""
    path = Path(live.path)
    if live.part or new.part:
        raise InputError(f"{live} is a part of a file", hint="only whole files can be switched")
    require_replaceable(path)
    former = path.with_name(f"{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    os.link(path, former)
    try:
        Path(new.path).replace(path)
    except OSError as e:
        former.unlink()
        raise InputError(f"cannot switch {live} and {new}", got=e.strerror or str(e)) from e
    return str(former)
