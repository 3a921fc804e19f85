"""Remarks on vectors of which nothing shows that they belong where they go, and on poor maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linalign_lite.errors import without_secrets

if TYPE_CHECKING:
    from linalign_lite.core.affine_map import AffineMap
    from linalign_lite.core.space import Space


def doubts(
    location: str,
    states: Space,
    affine: AffineMap | None,
    reader: Space | None = None,
    what: str = "",
) -> list[str]:
    """A remark if states could be of the model that reads them, but do not name it.

    The map reads them, or where there is none ``what``, of the space ``reader`` if it is known.
    """
    if affine is not None:
        reader, what = affine.source, "the map"
    if reader is None or not (reader.model or reader.name) or reader.known_as(states):
        return []
    if not reader.agrees(states, any_prompt=True):
        return []  # an error says more
    own = states.name or states.model[:8]
    whose = f"is named {own}" if own else "names no model"
    return [f"{without_secrets(location)} {whose}, so nothing shows that {what}, of "
            f"{reader.name or reader.model[:8]}, reads it "
            "(`vectors import --model` names vectors)"]  # fmt: skip


def nameless(affine: AffineMap) -> list[str]:
    """A remark if a map's vectors name no model: it cannot be told from any other."""
    if all(space.model or space.name for space in (affine.source, affine.target)):
        return []
    return ["these vectors name no model, so nothing will show what this map reads "
            "(`vectors import --model` names them)"]  # fmt: skip


def poor(affine: AffineMap | None) -> list[str]:
    """A remark if a map to answer queries with was fitted with a poor held-out R²."""
    from linalign_lite.core.verdict import MAP_R2

    r2 = None if affine is None else affine.card.get("held_out_r2")
    if not isinstance(r2, float) or r2 >= MAP_R2.usable:
        return []
    return [f"the map is poor: held-out R² {r2:.3f}, below {MAP_R2.usable:g}; "
            "`decrypt --texts` on labelled texts tells what it keeps"]  # fmt: skip
