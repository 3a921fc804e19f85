"""Folders of shards: hidden states of text sets too large for one file, or for memory.

docs/FORMAT.md, section 5. Writing and reading hold one shard in memory at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.affine_map import Array
from linalign_lite.core.hidden_states import POSITIONS, HiddenStates
from linalign_lite.core.labels import Ints
from linalign_lite.core.serialization import load_states, save_states
from linalign_lite.core.shards import manifest
from linalign_lite.core.shards.manifest import HINT, MANIFEST, Shard, regular_size, shard_name
from linalign_lite.core.space import require_labels
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.storage.atomic import PathLike, open_regular, whole_folder, write_atomic
from linalign_lite.storage.hashing import hash_file
from linalign_lite.storage.npz import DEFAULT_CAP, MAX_CARD
from linalign_lite.storage.places import Place, fetched, listing, place
from linalign_lite.storage.remote import Remote
from linalign_lite.storage.schema import format_errors, plain
from linalign_lite.version import __version__

_READAHEAD = 1 << 17  # bytes requested at once: of a larger request only the beginning may be read
FRAME = 1 << 16  # most bytes of an archive that are neither its rows nor its card


@dataclass(frozen=True)
class StatesFolder(manifest.Manifest):
    """Hidden states in a folder of shards. Iterating reads and checks one shard at a time.

    Raises InputError when the fields do not agree.
    """

    folder: Place  # a shard under a URL is fetched when it is read

    def __post_init__(self) -> None:
        require_labels(self.labels, "the folder")
        first = 0
        for i, shard in enumerate(self.shards):
            if shard.file != shard_name(i):  # so no path leads elsewhere, and no name repeats
                raise InputError(
                    "a shard does not have the name of its place",
                    got=str(shard.file)[:60],
                    expected=shard_name(i),
                )
            if shard.first_text != first:
                raise InputError(f"the texts of {shard.file} do not follow the texts before it")
            if self.space.pooling != "tokens" and shard.rows != shard.n_texts:
                raise InputError(f"{shard.file} must have one row per text")
            first += shard.n_texts
        found = (first, sum(s.rows for s in self.shards), sum(s.n_cut for s in self.shards))
        if found != (self.n_texts, self.rows, self.n_cut):
            raise InputError("the counts of the shards do not add up to those of the folder")

    @classmethod
    def of_shards(
        cls, folder: Place, shared: Mapping[str, Any], text_digest: str, shards: Sequence[Shard]
    ) -> StatesFolder:
        """Return the folder of these shards. shared: see `shared_fields`."""
        return cls(
            folder=folder,
            text_digest=text_digest,
            n_texts=sum(s.n_texts for s in shards),
            n_cut=sum(s.n_cut for s in shards),
            rows=sum(s.rows for s in shards),
            shards=tuple(shards),
            library=__version__,
            **shared,
        )

    def __iter__(self) -> Iterator[HiddenStates]:
        """Yield the shards in order, each checked. Raises FormatError naming the file."""
        for shard in self.shards:
            yield self.read(shard)  # no name holds it, so it is freed before the next is read

    def load(self, *, cap: int = DEFAULT_CAP) -> HiddenStates:
        """Read all shards into one. Raises FormatError when that is more than ``cap`` bytes."""
        size = self.rows * self._row_bytes()
        if size > cap:
            raise FormatError(
                f"{self.folder} has more than may be read at once",
                got=f"{size} bytes",
                expected=f"at most {cap}",
                hint="read it shard by shard",
            )
        states: Array = np.empty((self.rows, self.space.dim), dtype=self.dtype)
        columns: dict[str, Ints] = {n: np.empty(self.rows, np.int32) for n in self._columns()}
        start = 0
        for part in self:
            rows = slice(start, start + len(part))
            states[rows] = part.states
            for name, column in columns.items():
                column[rows] = getattr(part, name)
            start += len(part)
            del part  # free it before the next one is read
        names = ("space", "text_digest", "n_texts", "n_cut", "max_length", "labels")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        return HiddenStates(states, **(fields | columns))

    def manifest(self) -> bytes:
        """Return the content of `manifest.json`. InputError when it is too large or not usable."""
        fields = plain(self)
        del fields["folder"]
        return manifest.manifest_bytes(fields)

    def _columns(self) -> tuple[str, ...]:
        positions = POSITIONS if self.space.pooling == "tokens" else ()
        return (*positions, "label_ids") if self.labels else positions

    def _row_bytes(self) -> int:
        return self.space.dim * np.dtype(self.dtype).itemsize + 4 * len(self._columns())

    def read(self, shard: Shard, *, verify: bool = True) -> HiddenStates:
        """Read and check one of the shards. verify: check its SHA-256, not its CRC alone."""
        path = self.folder / shard.file
        with fetched(path, self._most_bytes(shard)) as local:
            self._require_size(shard, regular_size(local))
            if verify and hash_file(local) != shard.sha256:
                raise FormatError(f"{path} does not have the digest in {MANIFEST}", hint=HINT)
            part = load_states(local)
        problem = misfit(shared_fields(self), shard, part)
        if problem:
            raise FormatError(f"{path} does not agree with {MANIFEST}: {problem}", hint=HINT)
        return part

    def warm(self, shard: Shard) -> None:
        """Ask the system to read a shard's file, so that `read` need not wait for the disk.

        Nothing is checked, and errors are left to `read`. Does nothing for a URL.
        """
        if not isinstance(self.folder, Path) or not hasattr(os, "posix_fadvise"):
            return
        with contextlib.suppress(InputError, OSError), open_regular(self.folder / shard.file) as f:
            size = min(os.fstat(f.fileno()).st_size, self._most_bytes(shard))
            for at in range(0, size, _READAHEAD):
                os.posix_fadvise(f.fileno(), at, _READAHEAD, os.POSIX_FADV_WILLNEED)

    def _most_bytes(self, shard: Shard) -> int:
        return shard.rows * self._row_bytes() + MAX_CARD + FRAME

    def _require_size(self, shard: Shard, size: int) -> None:
        """Raise FormatError unless a file of ``size`` bytes can hold the rows of the shard."""
        least = shard.rows * self._row_bytes()
        if not least <= size <= self._most_bytes(shard):
            raise FormatError(
                f"{self.folder / shard.file} does not have the size that its rows need",
                got=f"{size} bytes",
                expected=f"{least}, and its card",
            )


def write_shards(out: PathLike, parts: Iterable[HiddenStates], *, text_digest: str) -> StatesFolder:
    """Write a folder of shards, whole or not at all; each part is freed before the next is drawn.

    parts: as `extract_shards` yields them. text_digest: of all texts. Raises OutputExistsError when
    ``out`` exists and is not empty, MismatchError when a part does not continue those before it.
    """
    out = Path(out)
    require_name(out)
    shards: list[Shard] = []
    shared: dict[str, Any] = {}
    first = 0
    with whole_folder(out) as folder:
        for part in parts:
            shared = shared or shared_fields(part)
            shard = new_shard(shared, len(shards), first, part)
            save_states(folder / shard.file, part)
            del part  # free it before the next one is made
            shards.append(dataclasses.replace(shard, sha256=hash_file(folder / shard.file)))
            first += shard.n_texts
        if not shards:
            raise InputError("there are no states to write")
        whole = StatesFolder.of_shards(out, shared, text_digest, shards)
        write_atomic(folder / MANIFEST, whole.manifest())
    return whole


def open_folder(folder: PathLike | Remote) -> StatesFolder:
    """Read a folder's manifest and check it, and that exactly the files it lists are there.

    folder: a path, or a URL (`remote`). Raises InputError when it is no folder of states,
    FormatError when it was altered. The content of the shards is checked when they are read.
    """
    folder = place(folder)
    there = listing(folder)
    if manifest.UNFINISHED in there:
        raise InputError(
            f"{folder} is unfinished: its extraction was interrupted",
            hint="run the same `linalign-lite extract` again to continue it",
        )
    if MANIFEST not in there:
        raise InputError(
            f"{folder} is not a folder of states: no {MANIFEST}",
            hint="make one with `linalign-lite extract MODEL TEXTS OUT`",
        )
    path = folder / MANIFEST
    most = manifest.MAX_MANIFEST
    with fetched(path, most) as local:
        size = regular_size(local)
        if size > most:
            raise FormatError(f"{path} is too large", expected=f"at most {most} bytes")
        with local.open("rb") as f, format_errors(path, "manifest", hint=HINT):
            fields = vars(manifest.parse_manifest(path, f.read(size)))
            found = StatesFolder(**fields, folder=folder)
    _require_files(found, there)
    return found


def open_states(path: PathLike | Remote, *, cap: int = DEFAULT_CAP) -> StatesFolder | HiddenStates:
    """Open a folder of shards, or read a `.states.npz`; either may be a URL."""
    path = place(path)
    if path.is_dir():
        return open_folder(path)
    with fetched(path, cap) as local:
        return load_states(local, cap=cap)


def states_of(path: PathLike | Remote, *, cap: int = DEFAULT_CAP) -> HiddenStates:
    """Read all states of a `.states.npz` or of a folder of shards into memory.

    Raises InputError when it is not there, FormatError when it was altered or is above ``cap``.
    """
    found = open_states(path, cap=cap)
    return found.load(cap=cap) if isinstance(found, StatesFolder) else found


def require_name(out: Place) -> None:
    """Raise InputError for a path such as . or /, where no folder can be made."""
    if out.name in {"", ".."}:
        raise InputError(f"{out} is a folder already", expected="the name of a folder to make")


def shared_fields(owner: Any) -> dict[str, Any]:
    """Return the fields that the shards of a folder share, of states, a folder or a plan."""
    dtype = str(owner.states.dtype) if isinstance(owner, HiddenStates) else owner.dtype
    fields = {name: getattr(owner, name) for name in ("space", "labels", "max_length")}
    return {**fields, "dtype": dtype}


def new_shard(shared: Mapping[str, Any], i: int, first_text: int, part: HiddenStates) -> Shard:
    """Return the entry of shard ``i``, its digest zeros. MismatchError when ``part`` misfits."""
    shard = Shard(shard_name(i), "0" * 64, len(part), first_text, part.n_texts, part.n_cut)
    problem = misfit(shared, shard, part)
    if problem:
        raise MismatchError(f"shard {i} does not fit the folder: {problem}")
    return shard


def misfit(shared: Mapping[str, Any], shard: Shard, part: HiddenStates) -> str:
    """Name what of ``part`` does not fit the folder or its own entry; "" when everything does."""
    mine = shared_fields(part)
    other = next((name for name in shared if mine[name] != shared[name]), None)
    if other is not None:
        return f"another {other.replace('_', ' ')}"
    if (len(part), part.n_texts, part.n_cut) != (shard.rows, shard.n_texts, shard.n_cut):
        return "other counts of rows, texts or texts cut"
    index, tokens = part.text_index, part.space.pooling == "tokens"
    columns = [getattr(part, name) is not None for name in ("label_ids", *POSITIONS)]
    if columns != [bool(part.labels)] + [tokens] * len(POSITIONS):
        return "labels without label_ids, no token positions, or the other way round"
    if not tokens and len(part) != part.n_texts:
        return "it must have one row per text"
    after = shard.first_text + shard.n_texts
    if index is not None and not (
        shard.first_text <= index[0] and index[-1] < after and (index[1:] >= index[:-1]).all()
    ):
        return "text indices outside its own texts, or not in order"
    return ""


def _require_files(found: StatesFolder, there: Mapping[str, int]) -> None:
    """Raise FormatError unless a folder holds exactly the files of its manifest."""
    named = {MANIFEST, *(shard.file for shard in found.shards)}
    if wrong := there.keys() ^ named:
        problem = "does not belong" if min(wrong) in there else "is missing"
        raise FormatError(f"{found.folder}: {min(wrong)[:60]} {problem}", hint=HINT)
    for shard in found.shards:
        path = found.folder / shard.file
        if isinstance(path, Path):
            regular_size(path)
        found._require_size(shard, there[shard.file])
