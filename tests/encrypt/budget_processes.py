"""Processes that charge a budget, and are killed."""

import contextlib
import os
import signal
import traceback

from linalign_lite.encrypt.budgets import sqlite_store

KEY, OTHER = bytes(range(32)), bytes([255]) * 32
ASKED = b"q" * 32


def name(i):
    return i.to_bytes(32, "big")


def names(folder):
    """Names of all files, once this process uses no budget: its log goes with the last use."""
    sqlite_store.close_connections()
    return sorted(p.name for p in folder.iterdir())


def used(budget, key=KEY):
    """Return (used, pending) of one key."""
    found = [(u.used, u.pending) for u in budget.usage() if u.account == key.hex()]
    return found[0] if found else (0, 0)


def ended(child):
    """Wait until others can see that a process ended; where a kernel tells, that is at once."""


def fork(work):
    """Run ``work`` in a child that is killed afterwards, as by a crash. Return its process id."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:  # noqa: BLE001 (nothing may return into the parent's tests)
            traceback.print_exc()
            os._exit(1)
        os.kill(os.getpid(), signal.SIGKILL)
    return child


def joined(child):
    """Wait for a child of ``fork``, which must have finished its work."""
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the child failed: {status}"
    ended(child)


def crashed(work):
    joined(fork(work))


@contextlib.contextmanager
def beside(work):
    """Run ``work`` in a child that stays alive until the block ends."""
    (ready, tell), (listen, end) = os.pipe(), os.pipe()

    def run():
        os.close(end)
        work()
        os.write(tell, b"!")
        os.read(listen, 1)

    child = fork(run)
    os.close(listen)
    os.close(tell)
    try:
        assert os.read(ready, 1) == b"!"
        yield child
    finally:
        os.close(end)
        os.close(ready)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
        ended(child)
