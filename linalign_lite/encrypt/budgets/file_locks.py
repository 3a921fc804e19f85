"""Locks of a budget's file beside SQLite's own: who is alive, and that its log stays in use.

A process locks one random byte of each budget file, far beyond those that SQLite locks, and its
pending rows name that byte. The kernel releases it however the process dies. SQLite needs the same
kind of lock, so wherever a file can be shared, the test is right. Where there is no such lock the
process is UNKNOWN.
"""

import os
import secrets
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from linalign_lite.encrypt.budgets.store import FIRST_OWNER, OWNERS, UNKNOWN, Owner

if sys.platform == "linux":
    import fcntl

Identity = tuple[int, int]  # device and inode
_FLOCK = struct.Struct("hhqqi0q")  # C's struct flock: type, whence, start, length, process
_SHARED = (1 << 30) + 2, 510  # the bytes that SQLite locks for as long as a connection uses the log


@dataclass(frozen=True)
class Held:
    """A descriptor of one file, which is never closed, and the byte that it locks."""

    handle: int
    owner: Owner


HELD: dict[Identity, Held] = {}


def identity(path: Path | str) -> Identity | None:
    """Return device and inode; None when nothing is there."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def hold(path: Path) -> Identity:
    """Open the file, unless this process has it open, and lock a byte. Returns its identity."""
    found = identity(path)
    if found is None or found not in HELD:
        try:
            handle = os.open(path, os.O_RDWR)
        except PermissionError:
            handle = os.open(path, os.O_RDONLY)
        status = os.fstat(handle)  # of the opened file, in case the path was replaced
        byte = FIRST_OWNER + secrets.randbelow(OWNERS)
        found = status.st_dev, status.st_ino
        HELD[found] = Held(handle, Owner(byte if _lock(handle, byte) else UNKNOWN))
    return found


def is_free(handle: int, byte: int) -> bool:
    """Return True if no process holds the byte. False also where locks do not work."""
    return _lock(handle, byte, ask=True)


def keep_log(handle: int, *, keep: bool = True) -> None:
    """Keep the log from being removed by a connection that takes itself for the last one.

    Whoever closes any descriptor of the file drops all POSIX locks that SQLite has on it in this
    process. This lock stays: it belongs to the descriptor.
    """
    if sys.platform == "linux":
        kind = fcntl.F_RDLCK if keep else fcntl.F_UNLCK
        try:
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, *_SHARED, 0))
        except OSError:  # a file system without such locks
            return


def forget_all() -> None:
    """Release in a child what it inherited: the descriptors of its parent's bytes."""
    for held in HELD.values():
        os.close(held.handle)
    HELD.clear()


def _lock(handle: int, byte: int, *, ask: bool = False) -> bool:
    if sys.platform != "linux":
        return False
    try:
        request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        answer = fcntl.fcntl(handle, fcntl.F_OFD_GETLK if ask else fcntl.F_OFD_SETLK, request)
    except (OSError, struct.error):  # struct.error: a damaged file named no byte
        return False
    return not ask or _FLOCK.unpack(answer)[0] == fcntl.F_UNLCK
