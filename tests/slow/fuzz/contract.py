"""The contract of every loader: a result or a named error, in bounded memory and time."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from linalign_lite.errors import LinalignError

CAP_MIB = 512  # by which one input may make the process grow
SECONDS = 10.0  # that one input may take
LONGEST = 2000  # characters of a message
_STATM = Path("/proc/self/statm")


class Broken(Exception):  # noqa: N818 (it says what is, not what went wrong)
    """A loader accepted an input and broke its contract."""


class Hang(BaseException):
    """An input took longer than it may. No Exception: no loader may swallow it."""


class Finding(Exception):  # noqa: N818
    """The contract is broken. ``key`` names the place: inputs of one key are one finding."""

    def __init__(self, key: str, detail: str) -> None:
        super().__init__(f"{key}\n{detail}")
        self.key = key
        self.detail = detail


def outcome(target: Any, data: bytes, folder: Path) -> str:
    """ "accepted", or the class of the named error. Raises Finding for anything else."""
    try:
        with limited():
            target.run(data, folder)
    except LinalignError as e:
        text = str(e)
        if len(text) >= LONGEST:
            raise _finding(e, f"message of {LONGEST:,} characters or more") from e
        if not text.isprintable():
            raise _finding(e, "message that cannot be printed") from e
        return type(e).__name__
    except Hang as e:
        raise _finding(e, f"longer than {SECONDS:.0f} s") from e
    except Exception as e:
        raise _finding(e, type(e).__name__) from e
    return "accepted"


def _finding(e: BaseException, what: str) -> Finding:
    frames = traceback.extract_tb(e.__traceback__)
    ours = [f for f in frames if "linalign_lite" in Path(f.filename).parts]
    place = ours[-1] if ours else frames[-1]
    parts = Path(place.filename).parts
    at = parts.index("linalign_lite") if ours else -1
    where = f"{'/'.join(parts[at:])}: {place.name}"
    name = "LinalignError" if isinstance(e, LinalignError) else type(e).__name__
    key = f"{what} in {where}" if what == name else f"{name}: {what}, in {where}"
    if isinstance(e, Broken):
        key = f"{e}, in {frames[-1].name}"
    return Finding(key, f"{type(e).__name__}: {str(e)[:300]} (line {place.lineno})")


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Cap the address space at CAP_MIB above what it is now, and the time at SECONDS.

    An allocation above the cap is a MemoryError. Nothing is capped where the system has no such
    limits, and no time outside the main thread.
    """
    with _memory(), _clock():
        yield


@contextlib.contextmanager
def _memory() -> Iterator[None]:
    if sys.platform != "linux" or not _STATM.exists():
        yield
        return
    import resource

    pages = int(_STATM.read_bytes().split()[0])
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + (CAP_MIB << 20)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


@contextlib.contextmanager
def _clock() -> Iterator[None]:
    if os.name == "nt" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_signal: int, _frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def working_folder() -> Iterator[Path]:
    """A folder to write inputs to: in memory where the system has that."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)
