"""A disk that is full and a budget that is locked, under load: 503, and every charge is right."""

import contextlib
import os
import resource
import sqlite3
import subprocess
import threading
import time

import pytest
from served import serving, write_heads

from linalign_lite.service.remote_provider import RemoteProvider
from service.load import Load

UNAVAILABLE = "LinalignError: the service does not answer: got status 503 (hint: ask again later)"


@pytest.fixture
def small(tmp_path):
    """A disk of 1 MB."""
    disk = tmp_path / "small"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this system lets no process mount a disk (unshare)")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@contextlib.contextmanager
def filled(disk):
    """A disk without a free byte, again and again while others free some."""
    stop, path = threading.Event(), disk / "filler"

    def fill():
        with path.open("wb", buffering=0) as file:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    file.write(bytes(512))
                    continue
                time.sleep(0.001)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        path.unlink()


@contextlib.contextmanager
def limited(served, size):
    """Processes that cannot write beyond ``size`` in any file."""
    processes = [served.process.pid, *served.children()]
    old = [resource.prlimit(p, resource.RLIMIT_FSIZE) for p in processes]
    for process, (_, most) in zip(processes, old, strict=True):
        resource.prlimit(process, resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        for process, limits in zip(processes, old, strict=True):
            resource.prlimit(process, resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def gone(book):
    """Have the file elsewhere."""
    away = book.rename(book.with_name("away"))
    yield
    away.rename(book)


def events(served):
    """Return lines that the service logged as errors, so far."""
    found = []
    while not served._lines.empty():
        served.log.append(served._lines.get())
    for line in served.log:
        assert line.startswith("{"), line
        if '"level": "error"' in line:
            found.append(line)
    return found


def fails(load, seconds=2.0):
    """Wait until requests fail, and some time longer."""
    limit = time.monotonic() + 90
    while not load.failed[UNAVAILABLE] and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(seconds)
    assert set(+load.failed) == {UNAVAILABLE}


def two_processes(folder, book="budget.sqlite"):
    return write_heads(folder, 1, workers=2, budget=book, limit=1 << 40)


def survives(served, book, fault):
    """Queries fail while there is the fault, are answered after it, and are charged once."""
    load = Load(served.url, tries=1)
    load.register()
    with load.running():
        load.wait_for(5)
        with fault:
            fails(load)
        load.wait_for(10)
    load.check_charges(book)


def test_a_full_disk(small, tmp_path):
    path = two_processes(tmp_path, "small/budget.sqlite")
    with serving(path) as served:
        survives(served, small / "budget.sqlite", filled(small))
        assert any("cannot be used" in line or "cannot use" in line for line in events(served))


@pytest.mark.parametrize("size", [0, 1000, 8192])
def test_files_that_cannot_grow(tmp_path, size):
    """A quota, or a limit on files: errors at other places than those of a full disk."""
    path = two_processes(tmp_path)
    with serving(path) as served:
        survives(served, tmp_path / "budget.sqlite", limited(served, size))


def test_a_locked_budget(tmp_path):
    """Another process keeps it locked for longer than is waited, and then for less."""
    path = two_processes(tmp_path)
    with serving(path) as served:
        load = Load(served.url, tries=1)
        load.register()
        with load.running():
            load.wait_for(5)
            with contextlib.closing(sqlite3.connect(tmp_path / "budget.sqlite", timeout=30)) as db:
                db.execute("BEGIN EXCLUSIVE")
                fails(load, 0.5)
                db.execute("ROLLBACK")
            load.wait_for(10)
            failed = dict(load.failed)
            with contextlib.closing(sqlite3.connect(tmp_path / "budget.sqlite", timeout=30)) as db:
                db.execute("BEGIN EXCLUSIVE")
                time.sleep(2.0)
                db.execute("ROLLBACK")
            load.wait_for(10)
        assert dict(load.failed) == failed
        load.check_charges(tmp_path / "budget.sqlite")
        assert any("SQLITE_BUSY" in line for line in events(served))


def test_a_budget_that_goes_and_comes_back(tmp_path):
    path, book = two_processes(tmp_path), "budget.sqlite"
    with serving(path) as served:
        survives(served, tmp_path / book, gone(tmp_path / book))
        with RemoteProvider(served.url) as provider:
            assert len(provider.heads()) == 1
