"""fit, verify, apply and rollback: the steps of a migration after its plan."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import PurePath

import numpy as np

from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError, LinalignError
from linalign_lite.migration.folder import Applied, GateError, MigrationFolder, Verified
from linalign_lite.migration.options import (
    BOTH,
    CHOICES,
    DOCUMENTS,
    QUERIES,
    SPREAD,
    Maps,
    Measured,
    canaries,
    fit_maps,
)
from linalign_lite.migration.plan import Plan
from linalign_lite.migration.sample import Pairs, Sample, read_sample, read_sample_vectors
from linalign_lite.storage.arrays import unit_rows
from linalign_lite.vectors.locations import locate, open_vectors
from linalign_lite.vectors.mapping import apply_map
from linalign_lite.vectors.reading import count, vectors_of
from linalign_lite.vectors.switching import switch_vectors

FIRST = 16  # vectors by which a collection is known again
SAME = 1e-3  # largest difference of a cosine from 1 of vectors that a store rounded
Progress = Callable[[int], None]


def sample_of(plan: Plan, documents: str = "") -> Sample:
    """Read the sample of a plan again; documents: where the old collection is now."""
    places = (documents or plan.documents, plan.sample, plan.queries, plan.queries_old)
    return read_sample(*places, plan.metric, judgements=plan.judgements)


def fit(folder: MigrationFolder, choice: str = "", *, embedded: bool | None = None) -> str:
    """Fit the maps of the planned way, or of another, without the canaries; returns its name.

    embedded: documents that the sample has get the new model's own vectors; None: if the plan
    measured that this keeps more.
    """
    plan = folder.plan()
    chosen = choice or plan.choice
    if chosen not in CHOICES:
        raise InputError("unknown way to migrate", got=chosen[:40], expected=", ".join(CHOICES))
    if (there := folder.applied()) is not None and there.state in {"switching", "switched"}:
        raise InputError(f"{folder.path} is applied", hint="roll it back before another fit")
    sample = sample_of(plan)
    train, _ = sample.split(plan.seed)
    mixed = chosen == DOCUMENTS and (plan.mixing_pays if embedded is None else embedded)
    folder.save_maps(fit_maps(chosen, train, sample, mixed=mixed, seed=plan.seed))
    return chosen


def verify(folder: MigrationFolder, gate: float | None = None) -> tuple[Verified, Measured]:
    """Measure the maps on the canaries, which they were not fitted on, and note the verdict.

    After `apply` the vectors that the live collection holds are compared as well: LinalignError
    when they are not those that were written. The gate is met when the overlap with the new model's
    own ranking, or its share of nDCG where the plan has judgements, is at least as large; it is
    measured, not predicted. Nothing is raised when it is not met: see ``passed``.
    """
    plan, maps, there = folder.plan(), folder.load_maps(), folder.applied()
    switched = there is not None and there.state == "switched"
    old = there.former if there is not None and switched else ""
    sample = sample_of(plan, old)
    _, held_out = sample.split(plan.seed)
    judge = canaries(sample, held_out, plan.k)
    choice = BOTH if maps.documents and maps.queries else QUERIES if maps.queries else DOCUMENTS
    if switched and there is not None and maps.documents is not None:
        _require_written(there.live, held_out, maps.documents(held_out.old))
    share = plan.sample_size / plan.count if is_mixed(maps) else 0.0
    found = judge.measure(maps, choice, share, seed=plan.seed)
    asked = plan.gate if gate is None else gate
    value = found.retention
    verdict = Verified(
        choice,  # type: ignore[arg-type]
        folder.digests(),
        value.value,
        value.low,
        value.high,
        asked,
        passed=value.value >= asked,
    )
    folder.write("verified", verdict)
    return verdict, found


def apply(
    folder: MigrationFolder,
    to: str = "",
    *,
    in_place: bool = True,
    progress: Progress | None = None,
) -> Applied | None:
    """Write the mapped documents to a new collection, then put it in the place of the old one.

    to: where to write; default: beside the old one. in_place: switch afterwards. An interrupted run
    is resumed; until the switch, which the store does at once, the old collection is untouched, and
    after it it is kept. Returns None where only queries are mapped, so that no document changes.
    Raises GateError unless `verify` has passed with these maps.
    """
    plan, maps, verdict = folder.plan(), folder.load_maps(), folder.verified()
    if verdict is None or not verdict.passed:
        raise GateError(
            "the maps are not verified" if verdict is None else "the gate was not met",
            got="" if verdict is None else f"{verdict.retention:.3f}",
            expected="" if verdict is None else f"{verdict.gate:g} or more",
            hint="run `linalign-lite migrate verify` first",
        )
    if maps.documents is None:
        return None
    state, live = folder.applied(), plan.documents
    if state is not None and state.state == "switched":
        raise InputError(f"{folder.path} is applied already", hint="`migrate rollback` undoes it")
    if state is None or state.state == "rolled back":
        new = to or beside(live)
        known = read_sample_vectors(plan.sample) if is_mixed(maps) else {}
        with open_vectors(live) as source:
            apply_map(maps.documents, source, new, known=known, progress=progress)
        state = Applied("written", live, new, "", _first(live), _count(new))
        folder.write("applied", state)
    return _switch(folder, state) if in_place else state


def rollback(folder: MigrationFolder, former: str = "") -> Applied:
    """Put the old collection back in its place; the new one is kept.

    former: where the old one is, if a killed run did not note it.
    """
    state = folder.applied()
    if state is not None and state.state == "switching":
        state = _switch(folder, state, go_on=False)
    if state is None or state.state != "switched":
        raise InputError(f"{folder.path} is not applied", hint="there is nothing to roll back")
    old = former or state.former
    if not old:
        raise InputError(
            f"where the former {state.live} is was not noted", hint="name it with --former"
        )
    if _first(old) != state.first:
        raise InputError(f"{old} is not the collection that was at {state.live}")
    new = switch_vectors(state.live, old)
    state = dataclasses.replace(state, state="rolled back", new=new, former="")
    folder.write("applied", state)
    return state


def is_mixed(maps: Maps) -> bool:
    """Return True for a map of documents that stand among the new model's own vectors."""
    return maps.documents is not None and SPREAD in maps.documents.card


def beside(location: str) -> str:
    """Return a location for the new collection: that of the old one with "-new" in its name."""
    found = locate(location)
    if found.scheme:
        whole, _, part = location.partition("#")
        whole = whole.replace(f"version={found.option('version')}", "") if found.options else whole
        return f"{whole}#{part}-new"
    path = PurePath(found.path)
    return str(path.with_name(f"{path.stem}-new{path.suffix}"))


def _switch(folder: MigrationFolder, state: Applied, *, go_on: bool = True) -> Applied:
    """Switch, and note it before and after; a killed run is continued.

    go_on: switch if that was not done yet.
    """
    if state.state == "switching" and _first(state.live) != state.first:  # killed after the switch
        state = dataclasses.replace(state, state="switched")
    elif go_on:
        if _first(state.live) != state.first or _count(state.live) != state.count:
            raise LinalignError(
                f"{state.live} was changed since {state.new} was written",
                hint=f"remove {state.new} and applied.json, and apply again",
            )
        folder.write("applied", dataclasses.replace(state, state="switching"))
        try:
            former = switch_vectors(state.live, state.new)
        except BaseException:
            folder.write("applied", dataclasses.replace(state, state="written"))
            raise
        state = dataclasses.replace(state, state="switched", former=former)
    folder.write("applied", state)
    return state


def _first(location: str) -> str:
    """Return the digest of the first vectors."""
    with open_vectors(location) as source:
        batch = next(iter(source.batches(FIRST)))
    text = "\0".join(batch.ids[:FIRST]).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text + batch.vectors[:FIRST].tobytes()).hexdigest()


def _count(location: str) -> int:
    with open_vectors(location) as source:
        return count(source)


def _require_written(live: str, pairs: Pairs, mapped: Array) -> None:
    """Raise unless a collection holds, up to length, the mapped or the new model's vectors."""
    with open_vectors(live) as source:
        found, missing, _ = vectors_of(source, pairs.ids)
    if missing:
        raise LinalignError(f"{live} lacks {len(missing)} of the canaries")
    there = unit_rows(found)
    near = [(there * unit_rows(rows)).sum(axis=1) for rows in (mapped, pairs.new)
            if rows.shape == there.shape]  # fmt: skip
    if not near or (np.max(near, axis=0) < 1 - SAME).any():
        raise LinalignError(f"{live} does not hold the vectors that were written to it")
