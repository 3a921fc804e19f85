"""A folder of shards: states of a text set that is too large for one file, or for memory.

docs/FORMAT.md, section 5. Writing and reading hold one shard at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.affine_map import Array
from linalign_lite.core.hidden_states import POSITIONS, HiddenStates, Ints
from linalign_lite.core.serialization import load_states, save_states
from linalign_lite.core.shards.manifest import (
    DIGEST,
    HINT,
    MANIFEST,
    MAX_MANIFEST,
    MAX_ROWS,
    MAX_SHARDS,
    UNFINISHED,
    Shard,
    manifest_bytes,
    parse_manifest,
    regular_size,
    shard_name,
)
from linalign_lite.core.space import Space, usable_label
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.storage.atomic import PathLike, open_regular, whole_folder, write_atomic
from linalign_lite.storage.hashing import hash_file
from linalign_lite.storage.npz import DEFAULT_CAP, MAX_CARD
from linalign_lite.storage.remote import Place, Remote, fetched, listing, place

_DTYPES = ("float32", "float16")
_MAX_TEXTS = (1 << 31) - 1  # text_index is an int32
_AHEAD = 1 << 17  # bytes that are asked for at once: of more, the system may take the beginning
FRAME = 1 << 16  # bytes of an archive that are neither its rows nor its card, at most


@dataclass(frozen=True)
class StatesFolder:
    """A folder of shards whose manifest was checked. Iterating reads and checks one at a time.

    Raises InputError when the parts do not fit together.
    """

    folder: Place  # here, or under a URL: a shard is then fetched when it is read
    space: Space
    dtype: str  # "float32" or "float16"
    text_digest: str  # of all texts
    n_texts: int
    n_cut: int
    max_length: int
    labels: tuple[str, ...]
    rows: int
    shards: tuple[Shard, ...]

    def __post_init__(self) -> None:
        counts = (self.n_texts, self.n_cut, self.max_length, self.rows)
        if not all(type(n) is int and 0 <= n < MAX_ROWS for n in counts):
            raise InputError("its counts are not usable")
        if type(self.text_digest) is not str or not DIGEST.fullmatch(self.text_digest):
            raise InputError("its text digest is not usable")
        if self.dtype not in _DTYPES:
            raise InputError("its dtype is not usable", expected=" or ".join(_DTYPES))
        usable = all(type(label) is str and usable_label(label) for label in self.labels)
        if not usable or len(set(self.labels)) != len(self.labels):
            raise InputError("its labels are not distinct and printable")
        if not 1 <= len(self.shards) <= MAX_SHARDS or self.n_texts > _MAX_TEXTS:
            raise InputError(f"it has no shard, more than {MAX_SHARDS}, or too many texts")
        first = 0
        for i, shard in enumerate(self.shards):
            if shard.file != shard_name(i):  # so no name leads elsewhere, and none comes twice
                raise InputError(
                    "a shard has another name than its place gives it",
                    got=str(shard.file)[:60],
                    expected=shard_name(i),
                )
            if shard.first_text != first:
                raise InputError(f"the texts of {shard.file} do not follow those before it")
            if self.space.pooling != "tokens" and shard.rows != shard.n_texts:
                raise InputError(f"{shard.file} does not have a row a text")
            first += shard.n_texts
        found = (first, sum(s.rows for s in self.shards), sum(s.n_cut for s in self.shards))
        if found != (self.n_texts, self.rows, self.n_cut):
            raise InputError("the counts of its shards do not add up to its own")

    def __iter__(self) -> Iterator[HiddenStates]:
        """The shards in order, each checked. Raises FormatError naming the file."""
        for shard in self.shards:
            yield self.read(shard)  # no name holds it: it can go before the next one is read

    def load(self, *, cap: int = DEFAULT_CAP) -> HiddenStates:
        """Everything as one. Raises FormatError when that is more than ``cap`` bytes."""
        size = self.rows * self._row_bytes()
        if size > cap:
            raise FormatError(
                f"{self.folder} holds more than may be read at once",
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
            del part  # or the next one is read beside it
        return HiddenStates(
            states=states,
            space=self.space,
            text_digest=self.text_digest,
            n_texts=self.n_texts,
            n_cut=self.n_cut,
            max_length=self.max_length,
            labels=self.labels,
            **columns,
        )

    def manifest(self) -> bytes:
        """What `manifest.json` holds. Raises InputError when that would be too large."""
        return manifest_bytes({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    def _columns(self) -> tuple[str, ...]:
        positions = POSITIONS if self.space.pooling == "tokens" else ()
        return (*positions, "label_ids") if self.labels else positions

    def _row_bytes(self) -> int:
        return self.space.dim * np.dtype(self.dtype).itemsize + 4 * len(self._columns())

    def read(self, shard: Shard, *, verify: bool = True) -> HiddenStates:
        """One of the shards, checked as iterating does; not ``verify``: its CRC, but no SHA-256."""
        path = self.folder / shard.file
        with fetched(path, self._most_bytes(shard)) as local:
            self._require_size(shard, regular_size(local))
            if verify and hash_file(local) != shard.sha256:
                problem = f"{path} does not have the digest that {MANIFEST} says"
                raise FormatError(problem, hint=HINT)
            part = load_states(local)
        problem = misfit(facts_of(self), shard, part)
        if problem:
            raise FormatError(f"{path} does not agree with {MANIFEST}: {problem}", hint=HINT)
        return part

    def warm(self, shard: Shard) -> None:
        """Have the system read a shard's file, so that `read` need not wait for the disk.

        Nothing is checked, and what goes wrong is left for `read` to say. Does nothing for a URL.
        """
        if not isinstance(self.folder, Path) or not hasattr(os, "posix_fadvise"):
            return
        with contextlib.suppress(InputError, OSError), open_regular(self.folder / shard.file) as f:
            size = min(os.fstat(f.fileno()).st_size, self._most_bytes(shard))
            for at in range(0, size, _AHEAD):
                os.posix_fadvise(f.fileno(), at, _AHEAD, os.POSIX_FADV_WILLNEED)

    def _most_bytes(self, shard: Shard) -> int:
        return shard.rows * self._row_bytes() + MAX_CARD + FRAME

    def _require_size(self, shard: Shard, size: int) -> None:
        """Before a byte of it is read: a shard has the size that its rows need."""
        least = shard.rows * self._row_bytes()
        if not least <= size <= self._most_bytes(shard):
            problem = f"{self.folder / shard.file} does not have the size that its rows need"
            raise FormatError(problem, got=f"{size} bytes", expected=f"{least}, and its card")


def write_shards(out: PathLike, parts: Iterable[HiddenStates], *, text_digest: str) -> StatesFolder:
    """Write a folder of shards, whole or not at all; each part is let go before the next is made.

    parts: as `extract_shards` gives them. text_digest: of all texts. Raises OutputExistsError when
    ``out`` is there and not empty, MismatchError when a part does not continue those before it.
    """
    out = Path(out)
    require_name(out)
    shards: list[Shard] = []
    facts: dict[str, Any] = {}
    first = rows = n_cut = 0
    with whole_folder(out) as folder:
        for part in parts:
            path = folder / shard_name(len(shards))
            facts = facts or facts_of(part)
            shard = Shard(path.name, "0" * 64, len(part), first, part.n_texts, part.n_cut)
            problem = misfit(facts, shard, part)
            if problem:
                raise MismatchError(f"shard {len(shards)} does not continue the others: {problem}")
            save_states(path, part)
            del part  # or the next one is made beside it
            shards.append(dataclasses.replace(shard, sha256=hash_file(path)))
            first, rows, n_cut = first + shard.n_texts, rows + shard.rows, n_cut + shard.n_cut
        if not shards:
            raise InputError("there are no states to write")
        whole = StatesFolder(
            out, text_digest=text_digest, n_texts=first, n_cut=n_cut, rows=rows,
            shards=tuple(shards), **facts,
        )  # fmt: skip
        write_atomic(folder / MANIFEST, whole.manifest())
    return whole


def open_folder(folder: PathLike | Remote) -> StatesFolder:
    """Read and check a folder's manifest, and that its files are there and no others.

    folder: a path, or a URL (`remote`). Raises InputError when it is no folder of states,
    FormatError when it was altered. What the shards hold is checked when they are read.
    """
    folder = place(folder)
    there = _files(folder)
    if UNFINISHED in there:
        raise InputError(
            f"{folder} is unfinished: its extraction was cut off",
            hint="the same `linalign-lite extract` again goes on with it",
        )
    if MANIFEST not in there:
        raise InputError(
            f"{folder} is not a folder of states: no {MANIFEST}",
            hint="make one with `linalign-lite extract MODEL TEXTS OUT`",
        )
    path = folder / MANIFEST
    with fetched(path, MAX_MANIFEST) as local:
        size = regular_size(local)
        if size > MAX_MANIFEST:
            raise FormatError(f"{path} is too large", expected=f"at most {MAX_MANIFEST} bytes")
        with local.open("rb") as f:
            found = _parse(folder, path, f.read(size))
    _require_files(found, there)
    return found


def open_states(path: PathLike | Remote, *, cap: int = DEFAULT_CAP) -> StatesFolder | HiddenStates:
    """A folder of shards, opened; or the states of a `.states.npz`, read. Either may be a URL."""
    path = place(path)
    if path.is_dir():
        return open_folder(path)
    with fetched(path, cap) as local:
        return load_states(local, cap=cap)


def states_of(path: PathLike | Remote, *, cap: int = DEFAULT_CAP) -> HiddenStates:
    """All states of a `.states.npz` or of a folder of shards, in memory.

    Raises InputError when it is not there, FormatError when it was altered or is above ``cap``.
    """
    found = open_states(path, cap=cap)
    return found.load(cap=cap) if isinstance(found, StatesFolder) else found


def require_name(out: Place) -> None:
    """Raise InputError for a folder that cannot be made because it is there whatever it holds."""
    if out.name in {"", ".."}:
        raise InputError(f"{out} is a folder already", expected="the name of a folder to make")


def facts_of(thing: HiddenStates | StatesFolder) -> dict[str, Any]:
    """What every shard has in common with the folder."""
    dtype = thing.dtype if isinstance(thing, StatesFolder) else str(thing.states.dtype)
    facts = {name: getattr(thing, name) for name in ("space", "labels", "max_length")}
    return {**facts, "dtype": dtype}


def misfit(facts: Mapping[str, Any], shard: Shard, part: HiddenStates) -> str:
    """What of ``part`` does not fit the folder's facts or its own entry; "" when all does."""
    mine = facts_of(part)
    other = next((name for name in facts if mine[name] != facts[name]), None)
    if other is not None:
        return f"another {other.replace('_', ' ')}"
    if (len(part), part.n_texts, part.n_cut) != (shard.rows, shard.n_texts, shard.n_cut):
        return "other counts of rows, texts or texts cut"
    index, tokens = part.text_index, part.space.pooling == "tokens"
    columns = [getattr(part, name) is not None for name in ("label_ids", *POSITIONS)]
    if columns != [bool(part.labels)] + [tokens] * len(POSITIONS):
        return "labels or token positions without their rows, or the other way round"
    if not tokens and len(part) != part.n_texts:
        return "not a row a text"
    after = shard.first_text + shard.n_texts
    if index is not None and not (
        shard.first_text <= index[0] and index[-1] < after and (index[1:] >= index[:-1]).all()
    ):
        return "text indices outside its own texts, or not in order"
    return ""


def _parse(folder: Place, path: Place, content: bytes) -> StatesFolder:
    try:
        return StatesFolder(folder, **parse_manifest(path, content))
    except FormatError:
        raise
    except InputError as e:
        raise FormatError(f"{path}: {e}") from e
    except (ValueError, TypeError, AttributeError) as e:
        raise FormatError(f"{path} is not a usable manifest", got=type(e).__name__) from e


def _files(folder: Place) -> dict[str, int | None]:
    """Names in a folder; with the size where a listing says it, -1 for what is no file."""
    if isinstance(folder, Remote):
        return {**listing(folder)}
    return {path.name: None for path in folder.iterdir()} if folder.is_dir() else {}


def _require_files(found: StatesFolder, there: Mapping[str, int | None]) -> None:
    named = {MANIFEST, *(shard.file for shard in found.shards)}
    for names, problem in (
        (there.keys() - named, "does not belong"),
        (named - there.keys(), "is missing"),
    ):
        if names:
            raise FormatError(f"{found.folder}: {min(names)[:60]} {problem}", hint=HINT)
    for shard in found.shards:
        path, size = found.folder / shard.file, there[shard.file]
        found._require_size(shard, regular_size(path) if isinstance(path, Path) else size or 0)
