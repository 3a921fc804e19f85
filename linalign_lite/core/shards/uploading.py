"""A folder of shards that grows under a URL: a run that is cut off goes on. FORMAT, section 5.

As in `resuming`, but no line names a finished shard: nothing can be put at the end of an object,
and a shard gets its name there once it is whole. So the shards that are there say it themselves,
each fetched and compared with the plan and the texts before it counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from linalign_lite.core.hidden_states import ROWS, HiddenStates
from linalign_lite.core.serialization import load_states, save_states
from linalign_lite.core.shards.manifest import MANIFEST, MAX_MANIFEST, UNFINISHED, Shard, shard_name
from linalign_lite.core.shards.resuming import Plan, require_plan
from linalign_lite.core.shards.states_folder import FRAME, StatesFolder, require_name
from linalign_lite.errors import (
    FormatError,
    InputError,
    LinalignError,
    MismatchError,
    OutputExistsError,
)
from linalign_lite.storage.hashing import hash_file
from linalign_lite.storage.npz import MAX_CARD
from linalign_lite.storage.remote import (
    Remote,
    delivered,
    fetched,
    listing,
    make_folder,
    remove,
    remove_folder,
)

_HINT = "remove the folder, and extract again"


@dataclass(eq=False)
class Uploads:
    """An unfinished folder under a URL: shards are added in order, one by one. Not locked."""

    folder: Remote
    plan: Plan
    there: int = 0  # shards that an earlier run left, from the first on without a gap
    shards: list[Shard] = field(default_factory=list)  # checked, or made, by this run

    def has(self, first_text: int, text_digest: str) -> bool:
        """Whether the next shard, which begins with that text, is there; it is then checked.

        Raises FormatError when it was altered, MismatchError when it is of other texts.
        """
        i = len(self.shards)
        if i >= self.there:
            return False
        path = self.folder / shard_name(i)
        with fetched(path, _most_bytes(self.plan, i)) as local:
            digest, part = hash_file(local), load_states(local)
        try:
            shard = self.plan.entry(i, part)
        except MismatchError as e:
            raise FormatError(f"{path} is not as planned", got=e.problem, hint=_HINT) from e
        if (shard.first_text, part.text_digest) != (first_text, text_digest):
            raise MismatchError(f"{path} is of other texts", hint=_HINT)
        self.shards.append(dataclasses.replace(shard, sha256=digest))
        return True

    def add(self, part: HiddenStates) -> None:
        """Write the next shard. Raises MismatchError when it does not fit."""
        shard = self.plan.entry(len(self.shards), part)
        with delivered(self.folder / shard.file) as local:
            save_states(local, part)
            digest = hash_file(local)
        self.shards.append(dataclasses.replace(shard, sha256=digest))

    def finish(self) -> StatesFolder:
        """Write the manifest: the folder is whole. Raises InputError when shards are missing."""
        whole = self.plan.whole(self.folder, self.shards)
        _write(self.folder / MANIFEST, whole.manifest())
        for name in filter(_is_leftover, listing(self.folder)):
            remove(self.folder / name)
        remove(self.folder / UNFINISHED)
        return whole

    def discard(self) -> None:
        """Remove what this run wrote, as far as the filesystem lets it."""
        names = [shard_name(i) for i in range(len(self.shards))]
        for name in (*names, MANIFEST, UNFINISHED):
            with contextlib.suppress(LinalignError):
                remove(self.folder / name)
        with contextlib.suppress(LinalignError):
            remove_folder(self.folder)


@contextlib.contextmanager
def uploads(out: Remote, plan: Plan) -> Iterator[Uploads]:
    """As `resuming.unfinished`, with its errors, under a URL. Two processes are not kept apart."""
    require_name(out)
    names = listing(out)
    begun = UNFINISHED not in names
    work = _begin(out, plan, names) if begun else _resume(out, plan, names)
    try:
        yield work
    except BaseException as e:
        if begun and (isinstance(e, InputError) or not work.shards):
            work.discard()
        raise


def require_free(out: Remote) -> None:
    """Raise OutputExistsError when something is there that is no unfinished folder."""
    names = listing(out)
    if UNFINISHED not in names and (names or (out.exists() and not out.is_dir())):
        raise OutputExistsError(
            f"{out} is already there and is not an empty folder",
            hint="choose another folder, or remove the old one yourself",
        )


def _begin(out: Remote, plan: Plan, names: dict[str, int]) -> Uploads:
    require_free(out)
    header = plan.header()
    work = Uploads(out, plan)
    try:
        make_folder(out)
        _write(out / UNFINISHED, header)
    except BaseException:
        if not names:
            work.discard()
        raise
    return work


def _resume(out: Remote, plan: Plan, names: dict[str, int]) -> Uploads:
    with fetched(out / UNFINISHED, MAX_MANIFEST) as local, local.open("rb") as f:
        require_plan(out, f.readline(), plan)
    known = {UNFINISHED, MANIFEST, *map(shard_name, range(plan.n_shards))}
    for name, size in sorted(names.items()):
        if size < 0 or not (name in known or _is_leftover(name)):
            raise FormatError(f"{out}: {name[:60]} does not belong", hint=_HINT)
    there = 0
    while shard_name(there) in names:
        there += 1
    return Uploads(out, plan, there)


def _most_bytes(plan: Plan, i: int) -> int:
    """That shard ``i`` can have: of token states, a row for each token that a text may have."""
    rows = plan.size_of(i) * (plan.max_length if plan.space.pooling == "tokens" else 1)
    row = plan.space.dim * np.dtype(plan.dtype).itemsize + 4 * len(ROWS)
    return rows * row + MAX_CARD + FRAME


def _is_leftover(name: str) -> bool:
    return name.startswith(".linalign-") and name.endswith(".tmp")


def _write(path: Remote, data: bytes) -> None:
    with delivered(path) as local:
        local.write_bytes(data)
