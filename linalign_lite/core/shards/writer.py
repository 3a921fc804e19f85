"""Write a folder of shards that a killed run can continue. docs/FORMAT.md, section 5.

``unfinished.jsonl`` marks a folder as unfinished: no reader opens it. Removing that file, once the
manifest is written, finishes the folder. On the local disk it is also a log: each finished shard
adds its entry. Nothing can be appended to a remote object, but there a shard gets its name only
once it is complete; so each shard found there is fetched and compared with the plan and the texts.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO

from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.serialization import load_states, save_states
from linalign_lite.core.shards import manifest
from linalign_lite.core.shards.manifest import MANIFEST, UNFINISHED, Shard, shard_name
from linalign_lite.core.shards.plan import HINT, MAX_LINE, FolderPlan
from linalign_lite.core.shards.states_folder import StatesFolder, require_name, shared_fields
from linalign_lite.errors import FormatError, InputError, LinalignError, MismatchError
from linalign_lite.storage import places
from linalign_lite.storage.atomic import write_atomic
from linalign_lite.storage.hashing import hash_file
from linalign_lite.storage.places import Place, fetched, listing
from linalign_lite.storage.remote import Remote


@dataclass(eq=False)
class FolderWriter:
    """An unfinished folder, to which shards are added in order."""

    folder: Place
    plan: FolderPlan
    log: IO[bytes] | None  # local and locked; None under a URL
    earlier: Sequence[Shard | None] = ()  # shards of an earlier run; None: without an entry
    shards: list[Shard] = field(default_factory=list)  # checked, or written, by this run

    def has(self, first_text: int, text_digest: str) -> bool:
        """Return True if the next shard, which begins with that text, exists, after checking it.

        Raises FormatError when it was altered, MismatchError when it is of other texts.
        """
        i = len(self.shards)
        if i >= len(self.earlier):
            return False
        path, logged = self.folder / shard_name(i), self.earlier[i]
        with fetched(path, self.plan.most_bytes(i)) as local:
            manifest.regular_size(local)
            digest = hash_file(local)
            if logged is not None and digest != logged.sha256:
                raise FormatError(f"{path} is not the file that {UNFINISHED} lists", hint=HINT)
            part = load_states(local)
        try:
            shard = replace(self.plan.entry(i, part), sha256=digest)
        except MismatchError as e:
            raise FormatError(f"{path} is not as planned", got=e.problem, hint=HINT) from e
        if logged is not None and shard != logged:
            raise FormatError(f"{path} is not as {UNFINISHED} lists it", hint=HINT)
        if (shard.first_text, part.text_digest) != (first_text, text_digest):
            raise MismatchError(f"{path} is of other texts", hint=HINT)
        self.shards.append(shard)
        return True

    def add(self, part: HiddenStates) -> None:
        """Write the next shard, then its entry. Raises MismatchError when it does not fit."""
        shard = self.plan.entry(len(self.shards), part)
        with places.delivered(self.folder / shard.file) as local:
            save_states(local, part)
            shard = replace(shard, sha256=hash_file(local))
        if self.log is not None:
            self.log.write(json.dumps(asdict(shard), sort_keys=True).encode() + b"\n")
            self.log.flush()
            os.fsync(self.log.fileno())
        self.shards.append(shard)

    def finish(self) -> StatesFolder:
        """Write the manifest and remove the mark. Raises InputError when shards are missing."""
        if len(self.shards) != self.plan.n_shards:
            raise InputError("shards are missing", got=str(len(self.shards)))
        shared, digest = shared_fields(self.plan), self.plan.text_digest
        whole = StatesFolder.of_shards(self.folder, shared, digest, self.shards)
        with places.delivered(self.folder / MANIFEST) as local:
            write_atomic(local, whole.manifest())
        for name in filter(_is_leftover, listing(self.folder)):
            (self.folder / name).unlink()
        (self.folder / UNFINISHED).unlink()
        return whole

    def discard(self, *, folder: bool) -> None:
        """Remove what this run wrote, and with ``folder`` the folder itself, as far as possible."""
        names = [shard_name(i) for i in range(len(self.shards) + 1)]
        for name in (*names, MANIFEST, UNFINISHED):
            with contextlib.suppress(LinalignError, OSError):
                (self.folder / name).unlink()
        with contextlib.suppress(LinalignError, OSError):
            if folder:
                self.folder.rmdir()


@contextlib.contextmanager
def unfinished(out: Place, plan: FolderPlan) -> Iterator[FolderWriter]:
    """Begin the folder ``out``, or continue it when it was begun with the same plan.

    An InputError in the block, or any error before the first shard is finished, removes a folder
    that was begun here; an older one stays. Raises OutputExistsError when something else is at
    ``out``, MismatchError naming what differs from the plan, FormatError for an altered folder,
    InputError when another process writes it (local folders only).
    """
    require_name(out)
    begun = not _is_marked(out)
    existed = isinstance(out, Path) and out.is_dir()
    writer = _begin(out, plan, existed=existed) if begun else _resume(out, plan)
    with writer.log or contextlib.nullcontext():
        try:
            yield writer
        except BaseException as e:
            if begun and (isinstance(e, InputError) or not writer.shards):
                writer.discard(folder=not existed)
            raise


def is_unfinished(out: Place) -> bool:
    """Return True if ``out`` is a folder that a run left unfinished."""
    return _is_marked(out) and (isinstance(out, Remote) or not out.is_symlink())


def _is_marked(out: Place) -> bool:
    if isinstance(out, Remote):
        return UNFINISHED in listing(out)
    return os.path.lexists(out / UNFINISHED)


def _begin(out: Place, plan: FolderPlan, *, existed: bool) -> FolderWriter:
    places.require_free(out)
    header = plan.header()
    try:
        places.make_folder(out)
        with places.delivered(out / UNFINISHED) as local:
            write_atomic(local, header)
        log = None if isinstance(out, Remote) else _locked(out)
    except BaseException:
        if isinstance(out, Remote):
            FolderWriter(out, plan, None).discard(folder=True)
        elif not existed:
            with contextlib.suppress(OSError):
                out.rmdir()  # only if empty: another process may have begun the same folder
        raise
    if log is not None:
        log.seek(0, os.SEEK_END)
    return FolderWriter(out, plan, log)


def _resume(out: Place, plan: FolderPlan) -> FolderWriter:
    if isinstance(out, Remote):
        names = listing(out)
        with fetched(out / UNFINISHED, manifest.MAX_MANIFEST) as local, local.open("rb") as f:
            plan.require_same(out, f.readline())
        _require_names(out, names, plan.n_shards)
        n = next(i for i in range(plan.n_shards + 1) if shard_name(i) not in names)
        return FolderWriter(out, plan, None, [None] * n)
    path, most = out / UNFINISHED, manifest.MAX_MANIFEST + manifest.MAX_SHARDS * MAX_LINE
    if out.is_symlink():
        raise FormatError(f"{out} is a link", expected="a folder", hint=HINT)
    if manifest.regular_size(path) > most:
        raise FormatError(f"{path} is too large", expected=f"at most {most} bytes", hint=HINT)
    log = _locked(out)
    try:
        plan.require_same(out, log.readline(manifest.MAX_MANIFEST))
        shards, end = plan.read_entries(path, log)
        _require_names(out, listing(out), len(shards) + 1)  # one shard may have no entry yet
        log.truncate(end)
        log.seek(end)
    except BaseException:
        log.close()
        raise
    return FolderWriter(out, plan, log, shards)


def _locked(out: Path) -> IO[bytes]:
    log = (out / UNFINISHED).open("r+b")
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        return log
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        log.close()
        raise InputError(f"another process is at work on {out}", hint="let it finish") from e
    return log


def _require_names(out: Place, names: Mapping[str, int], n_shards: int) -> None:
    """Raise FormatError unless the folder holds only the files of an unfinished run."""
    known = {UNFINISHED, MANIFEST, *map(shard_name, range(n_shards))}
    for name, size in sorted(names.items()):
        if not (name in known or _is_leftover(name)):
            raise FormatError(f"{out}: {name[:60]} does not belong", hint=HINT)
        if size < 0:
            raise FormatError(f"{out / name} is a link, a folder or a device", hint=HINT)


def _is_leftover(name: str) -> bool:
    return name.startswith(".linalign-") and name.endswith(".tmp")
