"""TOML files of a limited size."""

import pytest

from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.toml_file import read_toml

MOST = 4096


def test_a_file_of_the_largest_size_is_read(tmp_path):
    text = 'name = "ä"\n'
    path = tmp_path / "a.toml"
    path.write_bytes(text.encode() + b"#" * (MOST - len(text.encode())))
    assert read_toml(path, "recipe", MOST) == {"name": "ä"}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'a = "x\n"', r"Illegal character '\n' (at line 1, column 7)"),
        (b"a = 1\na = 2", "Cannot overwrite a value (at end of document)"),
        (b"a = \xff", "bytes that are not UTF-8"),
        (b"a = " + b"[" * 4000, "values nested too deeply"),
        (b"[" + b"x" * 2000 + b"]\n[" + b"x" * 2000 + b"]\n", "Cannot declare ('xxx"),
    ],
)
def test_what_is_no_toml_is_named(tmp_path, raw, said):
    path = tmp_path / "a.toml"
    path.write_bytes(raw)
    with pytest.raises(FormatError) as error:
        read_toml(path, "recipe", MOST)
    assert error.value.problem == f"{path} is not TOML"
    assert error.value.got.startswith(said)
    assert len(error.value.got) <= 120
    assert str(error.value).isprintable()


def test_a_file_too_large_is_not_parsed(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"[" * (MOST + 1))
    with pytest.raises(FormatError, match="too large for a recipe: expected at most 4096 bytes"):
        read_toml(path, "recipe", MOST)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_toml(tmp_path / "a.toml", "recipe", MOST)
