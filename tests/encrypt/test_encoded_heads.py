"""Encoded heads in memory, and shared by processes through files."""

import os
import shutil

import numpy as np
import pytest

from linalign_lite.encrypt.encoded_heads import EncodedHeads

SHAPE = (4, 2, 8192)  # 1 MiB


def rows(value, shape=SHAPE):
    for i in range(shape[0]):
        yield np.full(shape[1:], value + i + 1j)


def never():
    raise AssertionError("encoded again")
    yield


def values(found):
    return [complex(row[0, 0]) for row in found]


def test_another_process_maps_what_one_encoded(tmp_path):
    first, second = EncodedHeads(1 << 24, tmp_path), EncodedHeads(1 << 24, tmp_path)
    expected = [7 + i + 1j for i in range(4)]
    assert values(first.get((1, 2, 3), SHAPE, rows(7))) == expected
    found = list(second.get((1, 2, 3), SHAPE, never()))
    assert values(found) == expected
    assert not found[0].flags.writeable
    assert [f.name for f in tmp_path.iterdir()] == ["1-2-3.spectra"]
    assert (tmp_path / "1-2-3.spectra").stat().st_mode & 0o777 == 0o400


def test_small_ones_stay_in_memory(tmp_path):
    encoded, shape = EncodedHeads(1 << 24, tmp_path), (4, 2, 16)
    for made in (rows(1, shape), never()):
        assert values(encoded.get((1,), shape, made)) == [1 + i + 1j for i in range(4)]
    assert not list(tmp_path.iterdir())


def test_the_oldest_files_go_first_and_stay_readable(tmp_path):
    encoded = EncodedHeads(2 << 20, tmp_path)
    first = list(encoded.get((1,), SHAPE, rows(1)))
    os.utime(tmp_path / "1.spectra", ns=(1, 1))
    for key in (2, 3):
        encoded.get((key,), SHAPE, rows(key))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["2.spectra", "3.spectra"]
    assert values(first)[0] == 1 + 1j
    assert list(encoded._kept) == [(2,), (3,)]


def test_what_killed_processes_left_does_not_defeat_the_cache(tmp_path):
    left = tmp_path / "left.new"
    left.write_bytes(bytes(2 << 20))
    os.utime(left, ns=(1, 1))
    encoded = EncodedHeads(2 << 20, tmp_path)
    for key in (1, 2):
        encoded.get((key,), SHAPE, rows(key))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["1.spectra", "2.spectra"]


def test_a_file_is_private_from_its_first_byte(tmp_path):
    modes = []

    def watched():
        for row in rows(3):
            modes.extend(f.stat().st_mode & 0o777 for f in tmp_path.iterdir())
            yield row

    EncodedHeads(1 << 24, tmp_path).get((1,), SHAPE, watched())
    assert modes == [0o600] * 4


def test_a_folder_that_goes_meanwhile_costs_no_row(tmp_path):
    """Rows that were encoded before the name failed are used: nothing is encoded twice."""
    folder = tmp_path / "folder"
    folder.mkdir()

    def removed():
        yield from rows(4)
        shutil.rmtree(folder)

    encoded = EncodedHeads(1 << 24, folder)
    for made in (removed(), never()):
        assert values(encoded.get((1,), SHAPE, made)) == [4 + i + 1j for i in range(4)]
    assert not folder.exists()


@pytest.mark.parametrize("where", ["full", "missing", "macOS"])
def test_without_room_they_are_kept_in_memory(tmp_path, monkeypatch, where):
    def full(*_):
        raise OSError(28, "No space left on device")

    if where == "full":
        monkeypatch.setattr(os, "posix_fallocate", full)
    if where == "macOS":
        monkeypatch.delattr(os, "posix_fallocate")
    encoded = EncodedHeads(1 << 24, tmp_path / "none" if where == "missing" else tmp_path)
    for made in (rows(5), never()):
        assert values(encoded.get((1,), SHAPE, made)) == [5 + i + 1j for i in range(4)]
    assert not list(tmp_path.iterdir())


def test_too_large_for_all_is_encoded_while_it_is_used(tmp_path):
    encoded = EncodedHeads((1 << 20) - 1, tmp_path)
    for value in (1, 2):
        assert values(encoded.get((1,), SHAPE, rows(value)))[0] == value + 1j
    assert not list(tmp_path.iterdir())
