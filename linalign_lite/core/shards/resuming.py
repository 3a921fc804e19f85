"""A folder of shards on its way: what is finished is written down, so that a killed run goes on.

docs/FORMAT.md, section 5. ``unfinished.jsonl`` makes a folder unfinished: no reader takes it for
states. Its first line says what is being made, and each other line names a shard that is finished.
Taking that file away, once the manifest is there, is what finishes the folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.serialization import load_states, save_states
from linalign_lite.core.shards.manifest import (
    MANIFEST,
    MAX_MANIFEST,
    MAX_SHARDS,
    UNFINISHED,
    Shard,
    regular_size,
    shard_name,
)
from linalign_lite.core.shards.states_folder import StatesFolder, misfit, require_name
from linalign_lite.core.space import Space
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.storage.atomic import PathLike, check_free, write_atomic
from linalign_lite.storage.hashing import hash_file, seal_of
from linalign_lite.storage.remote import Place, Remote, listing
from linalign_lite.storage.schema import strict_json
from linalign_lite.version import __version__

FORMAT = "linalign-unfinished-states"
VERSION = 1
_MAX_LINE = 512  # bytes of a line that names a shard
_HINT = "remove the folder, and extract again"


@dataclass(frozen=True)
class Plan:
    """All that the bytes of a finished folder depend on."""

    space: Space
    dtype: str  # "float32" or "float16"
    text_digest: str  # of all texts
    n_texts: int
    max_length: int
    labels: tuple[str, ...]
    shard_texts: int
    batch_tokens: int

    @property
    def n_shards(self) -> int:
        return -(-self.n_texts // self.shard_texts)

    def size_of(self, i: int) -> int:
        """Texts in shard ``i``."""
        return min(self.shard_texts, self.n_texts - i * self.shard_texts)

    def facts(self) -> dict[str, Any]:
        """What every shard has in common with the folder."""
        names = ("space", "labels", "max_length", "dtype")
        return {name: getattr(self, name) for name in names}

    def entry(self, i: int, part: HiddenStates) -> Shard:
        """Shard ``i``'s entry without its digest. Raises MismatchError when it does not fit."""
        first = i * self.shard_texts
        shard = Shard(shard_name(i), "0" * 64, len(part), first, part.n_texts, part.n_cut)
        problem = misfit(self.facts(), shard, part)
        if problem or part.n_texts != self.size_of(i):
            raise MismatchError(f"shard {i} is not as planned: {problem or 'another size'}")
        return shard

    def whole(self, folder: Place, shards: Sequence[Shard]) -> StatesFolder:
        """The finished folder. Raises InputError when shards are missing."""
        if len(shards) != self.n_shards:
            raise InputError("shards are missing", got=str(len(shards)))
        return StatesFolder(
            folder,
            text_digest=self.text_digest,
            n_texts=self.n_texts,
            n_cut=sum(s.n_cut for s in shards),
            rows=sum(s.rows for s in shards),
            shards=tuple(shards),
            **self.facts(),
        )

    def header(self) -> bytes:
        """The first line. Raises InputError when the manifest would be too large in the end."""
        raw = {"format": FORMAT, "version": VERSION, "library": __version__, **_raw(self)}
        line = json.dumps({**raw, "seal": seal_of(raw)}, sort_keys=True).encode() + b"\n"
        if len(line) + self.n_shards * _MAX_LINE // 2 > MAX_MANIFEST:
            raise InputError(
                "the labels and shards are too many for one folder's manifest",
                hint="put more texts in a shard",
            )
        return line


@dataclass(eq=False)
class Work:
    """An unfinished folder, locked: shards are added in order, one by one."""

    folder: Path
    plan: Plan
    log: IO[bytes]
    logged: list[Shard] = field(default_factory=list)  # by an earlier run
    shards: list[Shard] = field(default_factory=list)  # checked, or made, by this one

    def has(self, first_text: int, text_digest: str) -> bool:
        """Whether the next shard, which begins with that text, is there; it is then checked.

        Raises FormatError when it was altered, MismatchError when it is of other texts.
        """
        i = len(self.shards)
        if i >= len(self.logged):
            return False
        shard = self.logged[i]
        part = self._read(shard)
        if (shard.first_text, part.text_digest) != (first_text, text_digest):
            raise MismatchError(f"{self.folder / shard.file} is of other texts", hint=_HINT)
        self.shards.append(shard)
        return True

    def add(self, part: HiddenStates) -> None:
        """Write the next shard, then its line. Raises MismatchError when it does not fit."""
        shard = self.plan.entry(len(self.shards), part)
        path = self.folder / shard.file
        save_states(path, part)
        shard = dataclasses.replace(shard, sha256=hash_file(path))
        self.log.write(json.dumps(dataclasses.asdict(shard), sort_keys=True).encode() + b"\n")
        self.log.flush()
        os.fsync(self.log.fileno())
        self.shards.append(shard)

    def finish(self) -> StatesFolder:
        """Write the manifest: the folder is whole. Raises InputError when shards are missing."""
        whole = self.plan.whole(self.folder, self.shards)
        write_atomic(self.folder / MANIFEST, whole.manifest())
        for leftover in self.folder.glob(".linalign-*.tmp"):
            leftover.unlink()
        (self.folder / UNFINISHED).unlink()
        return whole

    def discard(self, *, folder: bool) -> None:
        """Remove what this run wrote, and with ``folder`` the folder itself."""
        names = [shard_name(i) for i in range(len(self.shards) + 1)]
        for name in (*names, MANIFEST, UNFINISHED):
            (self.folder / name).unlink(missing_ok=True)
        if folder:
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _read(self, shard: Shard) -> HiddenStates:
        path = self.folder / shard.file
        regular_size(path)
        if hash_file(path) != shard.sha256:
            raise FormatError(f"{path} is not what {UNFINISHED} says", hint=_HINT)
        part = load_states(path)
        problem = misfit(self.plan.facts(), shard, part)
        if problem:
            raise FormatError(f"{path} is not as planned: {problem}", hint=_HINT)
        return part


@contextlib.contextmanager
def unfinished(out: PathLike, plan: Plan) -> Iterator[Work]:
    """Begin the folder ``out``, or go on with it when ``plan`` is what is being made there.

    Left by an InputError, or before a shard was finished, a folder that was begun here goes again;
    what was begun earlier stays. Raises OutputExistsError when something else is at ``out``,
    MismatchError naming what differs from the plan, FormatError for a folder that was altered,
    InputError when another process is at work on it.
    """
    out = Path(out)
    require_name(out)
    begun = not os.path.lexists(out / UNFINISHED)
    there = out.is_dir()
    work = _begin(out, plan) if begun else _resume(out, plan)
    with work.log:
        try:
            yield work
        except BaseException as e:
            if begun and (isinstance(e, InputError) or not work.shards):
                work.discard(folder=not there)
            raise


def is_unfinished(out: Place) -> bool:
    """Whether ``out`` is a folder that a run left unfinished."""
    if isinstance(out, Remote):
        return UNFINISHED in listing(out)
    return out.is_dir() and not out.is_symlink() and os.path.lexists(out / UNFINISHED)


def _begin(out: Path, plan: Plan) -> Work:
    check_free(out)
    header, there = plan.header(), out.is_dir()
    try:
        out.mkdir(exist_ok=True)
    except OSError as e:
        raise InputError(
            f"cannot write {out}", got=e.strerror or str(e), hint="does the folder above it exist?"
        ) from e
    try:
        write_atomic(out / UNFINISHED, header)
        log = _locked(out)
        log.seek(0, os.SEEK_END)
        return Work(out, plan, log)
    except BaseException:
        if not there:
            with contextlib.suppress(OSError):
                out.rmdir()
        raise


def _resume(out: Path, plan: Plan) -> Work:
    path = out / UNFINISHED
    if out.is_symlink() or not out.is_dir():
        raise FormatError(f"{out} is a link", expected="a folder", hint=_HINT)
    size, most = regular_size(path), MAX_MANIFEST + MAX_SHARDS * _MAX_LINE
    if size > most:
        raise FormatError(f"{path} is too large", expected=f"at most {most} bytes", hint=_HINT)
    log = _locked(out)
    try:
        require_plan(out, log.readline(MAX_MANIFEST), plan)
        logged, end = _logged(path, log, plan)
        _require_names(out, len(logged))
        log.truncate(end)  # a line that was cut off: its shard is made again
        log.seek(end)
    except BaseException:
        log.close()
        raise
    return Work(out, plan, log, logged)


def _locked(out: Path) -> IO[bytes]:
    log = (out / UNFINISHED).open("r+b")
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        fcntl = None  # type: ignore[assignment]
    try:
        if fcntl is not None:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        log.close()
        raise InputError(f"another process is at work on {out}", hint="let it finish") from e
    return log


def require_plan(folder: Place, line: bytes, plan: Plan) -> None:
    """Raise MismatchError unless ``line`` is `Plan.header`, FormatError when it is no header."""
    path = folder / UNFINISHED
    try:
        raw = strict_json(line)
        if raw["format"] != FORMAT:
            raise FormatError(f"{path} does not say what is being made", hint=_HINT)
        if type(raw["version"]) is not int or raw["version"] != VERSION:
            raise FormatError(f"{path}: unknown version", got=str(raw["version"])[:20])
        if raw.pop("seal") != seal_of(raw):
            raise FormatError(f"{path} does not agree with its own digest", hint=_HINT)
        mine = json.loads(json.dumps({**_raw(plan), "library": __version__}))
        other = [name for name in mine if raw[name] != mine[name]]
    except FormatError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise FormatError(f"{path} is not usable", got=type(e).__name__, hint=_HINT) from e
    if other:
        raise MismatchError(
            f"{folder} was begun with another {' and '.join(map(_words, other))}",
            got=_shown(mine[other[0]]),
            expected=_shown(raw[other[0]]),
            hint="extract to another folder, or remove this one",
        )


def _logged(path: Path, log: IO[bytes], plan: Plan) -> tuple[list[Shard], int]:
    """The finished shards, and where the last whole line ends."""
    found: list[Shard] = []
    end = log.tell()
    for line in iter(lambda: log.readline(_MAX_LINE), b""):
        if not line.endswith(b"\n") and log.tell() - end < _MAX_LINE:
            break
        i = len(found)
        try:
            shard = Shard(**strict_json(line))
            first, size = i * plan.shard_texts, plan.size_of(i)
            if (shard.file, shard.first_text) != (shard_name(i), first) or shard.n_texts != size:
                raise InputError("it is not the next shard")
        except (InputError, ValueError, TypeError, RecursionError) as e:
            raise FormatError(f"{path}, line {i + 2} is not usable", hint=_HINT) from e
        found.append(shard)
        end = log.tell()
    return found, end


def _require_names(out: Path, n_logged: int) -> None:
    """Nothing is in the folder but what a run leaves there: one shard may not be written down."""
    known = {UNFINISHED, MANIFEST, *(shard_name(i) for i in range(n_logged + 1))}
    for name in sorted(path.name for path in out.iterdir()):
        if name not in known and not (name.startswith(".linalign-") and name.endswith(".tmp")):
            raise FormatError(f"{out}: {name[:60]} does not belong", hint=_HINT)


def _raw(plan: Plan) -> dict[str, Any]:
    return {**dataclasses.asdict(plan), "labels": list(plan.labels)}


def _words(name: str) -> str:
    plain = {"text_digest": "text set", "n_texts": "number of texts", "space": "model or pooling"}
    return plain.get(name, name).replace("_", " ")


def _shown(value: Any) -> str:
    return json.dumps(value)[:200]
