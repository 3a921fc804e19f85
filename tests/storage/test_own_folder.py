"""Folders of one's own, and the removal of their oldest files."""

import os
import time

import pytest

from linalign_lite.errors import InputError
from linalign_lite.storage.own_folder import forget_oldest, make_own_folder


def put(path, size, age):
    path.write_bytes(bytes(size))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def names(folder):
    return sorted(f.name for f in folder.iterdir())


def test_the_oldest_go_and_what_is_written_does_not_count(tmp_path):
    for i in range(4):
        put(tmp_path / f"{i}.kept", 100, age=50 - i)
    put(tmp_path / "being-written", 1000, age=0)
    forget_oldest(tmp_path, 300, keep=tmp_path / "0.kept", suffix=".kept", fresh=60)
    assert names(tmp_path) == ["0.kept", "2.kept", "3.kept", "being-written"]


def test_what_a_crash_left_goes_first(tmp_path):
    kept = put(tmp_path / "old.kept", 100, age=1000)
    put(tmp_path / "left", 1000, age=61)
    (tmp_path / "folder").mkdir()
    forget_oldest(tmp_path, 100, keep=tmp_path / "other", suffix=".kept", fresh=60)
    assert names(tmp_path) == ["folder", kept.name]


def test_a_folder_is_ones_own_and_nothing_above_it_is_made(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    for _ in range(2):
        make_own_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileNotFoundError):
        make_own_folder(tmp_path / "none" / "own")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "file").touch()
    for other in ("link", "file"):
        with pytest.raises(InputError, match="expected a folder of your own"):
            make_own_folder(tmp_path / other)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(InputError, match="expected a folder of your own"):
        make_own_folder(folder)
