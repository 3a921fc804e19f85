"""Every tampered bundle of attacks.py is refused with its error, and nothing is written."""

from __future__ import annotations

import random

import pytest
from attacks import ATTACKS
from forging import KEY, made_inputs, parse, signer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linalign_lite.bundle.reading import install_bundle, verify_bundle
from linalign_lite.bundle.wheels import Platform
from linalign_lite.bundle.writing import create_bundle
from linalign_lite.commands import main
from linalign_lite.commands.describe_file import describe
from linalign_lite.errors import FormatError

PLATFORM = Platform("3.11", "manylinux_2_36_x86_64")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("good")
    things, wheels = made_inputs(folder / "in")
    out = folder / "good.bundle"
    create_bundle(out, things, key=signer(), wheelhouse=wheels, platform=PLATFORM)
    return out.read_bytes()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder, with the folder of temporary files below it."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder):
    return {p: p.lstat().st_mtime_ns for p in [folder, *folder.rglob("*")]}


def test_the_good_one_is_good(good, here):
    (here / "x.bundle").write_bytes(good)
    info = verify_bundle("x.bundle", keys=[KEY], deep=True)
    assert {f.kind for f in info.manifest.files} == {
        "map", "head", "model", "public-key", "signer", "wheel",
    }  # fmt: skip
    install_bundle("x.bundle", "out", keys=[KEY])
    assert parse(good).encode() == good, "forging.py and the library write the same format"


def test_there_are_many():
    assert len(ATTACKS) >= 130


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_refused_by_name_and_nothing_is_written(good, here, name):
    attack = ATTACKS[name]
    (here / "x.bundle").write_bytes(attack.forge(parse(good)))
    before = tree(here)
    for call in (
        lambda: verify_bundle("x.bundle", keys=[KEY], deep=attack.deep),
        lambda: install_bundle("x.bundle", "out", keys=[KEY]),
    ):
        with pytest.raises(attack.error, match=attack.words) as caught:
            call()
        text = str(caught.value)
        assert type(caught.value) is not FormatError or attack.error is FormatError
        assert text.isprintable()
        assert len(text) < 1000
        assert str(here / "tmp") not in text
        assert ".tmp" not in text
        after = tree(here)
        if attack.deep:  # files were read in a folder that is gone; its parent's time changed
            before, after = dict.fromkeys(before), dict.fromkeys(after)
        assert after == before, "something was written"
    if attack.deep:
        verify_bundle("x.bundle", keys=[KEY])  # without reading files as their kind it is valid


@pytest.mark.parametrize("name", ["not signed", "zip-slip", "bit of the last byte"])
def test_the_command_says_it_in_one_line(good, here, capsys, name):
    (here / "x.bundle").write_bytes(ATTACKS[name].forge(parse(good)))
    (here / "signing.pub").write_bytes(KEY.to_bytes())
    before = tree(here)
    for command in (("verify", "x.bundle"), ("install", "x.bundle", "out")):
        assert main(["bundle", *command, "--key", "signing.pub"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
    assert tree(here) == before


SETTINGS = settings(
    max_examples=150, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


def refused(data, here):
    (here / "x.bundle").write_bytes(data)
    before = tree(here)
    with pytest.raises(FormatError):
        verify_bundle("x.bundle", keys=[KEY])
    with pytest.raises(FormatError):
        install_bundle("x.bundle", "out", keys=[KEY])
    assert tree(here) == before


@SETTINGS
@given(st.data())
def test_every_flipped_bit_is_found(good, here, data):
    changed = bytearray(good)
    changed[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refused(bytes(changed), here)


def test_every_bit_of_the_signed_part_is_found(good, here):
    end = len(good) - sum(map(len, parse(good).contents))
    r = random.Random(0)
    for place in range(end):
        changed = bytearray(good)
        changed[place] ^= 1 << r.randrange(8)
        (here / "x.bundle").write_bytes(changed)
        with pytest.raises(FormatError):
            verify_bundle("x.bundle", keys=[KEY])


@SETTINGS
@given(st.integers(min_value=0), st.binary(max_size=40))
def test_every_cut_and_every_addition_is_found(good, here, place, more):
    place %= len(good)
    refused(good[:place], here)
    refused(good[:place] + b"\0" + more + good[place:], here)


@SETTINGS
@given(st.data())
def test_inspect_refuses_altered_ones_too(good, here, data):
    """A bundle is described only if it is whole and signed by the key in it."""
    changed = bytearray(good)
    changed[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (here / "x.bundle").write_bytes(changed)
    with pytest.raises(FormatError):
        describe(here / "x.bundle")
