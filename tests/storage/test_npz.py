"""Files: exact round trips, golden bytes, and hostile files."""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import os
import stat
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support import ROOT

from linalign_lite.commands.describe_file import describe
from linalign_lite.core import serialization
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates, text_digest
from linalign_lite.core.space import Space
from linalign_lite.errors import FormatError, InputError, OutputExistsError
from linalign_lite.heads.serialization import load, save
from linalign_lite.storage import atomic, npz

SPACE = Space(3, "ab" * 32, "ash", "mean", normalize=True)


def example_states() -> HiddenStates:
    return HiddenStates(
        np.arange(12, dtype=np.float32).reshape(4, 3) / 8,
        SPACE,
        text_digest(["a", "b", "c", "d"]),
        n_texts=4,
        n_cut=1,
        max_length=16,
        labels=("no", "yes"),
        label_ids=np.array([0, 1, 1, 0], dtype=np.int32),
    )


def example_map() -> AffineMap:
    weight = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32) / 4
    return AffineMap(weight, np.array([0.5, -1], dtype=np.float32), SPACE, Space(2), {"n": 4})


def example_head() -> Head:
    weight = np.array([[1, -2, 3], [-4, 5, -6]], dtype=np.float32) / 4
    return Head(weight, np.zeros(2, dtype=np.float32), ("no", "yes"), SPACE, 30.0, {"n": 4})


EXAMPLES = {
    "states": (example_states, serialization.load_states),
    "map": (example_map, serialization.load_map),
    "head": (example_head, serialization.load_head),
}
# The digest of each file in version 1: same content, same bytes, in every later version.
GOLDEN = {
    "states": "32e7c3079e80bc55373f26126335c13a7db5e290d47f4bea29e431f23e42cff4",
    "map": "3c122dfc11f0aabbcf5628b26d43171a1d6d19d11b5d95700a5b9c2135f8660d",
    "head": "87afd5fcee71d9517650c0cb4065f6d5c7ab7dedaf58a7aad706f4998bb33b78",
}


@pytest.fixture(params=sorted(EXAMPLES))
def kind(request):
    return request.param


@pytest.fixture
def saved(kind, tmp_path):
    path = tmp_path / f"x.{kind}.npz"
    save(path, EXAMPLES[kind][0]())
    return path


def same(a, b):
    for name in ("states", "weight", "bias", "label_ids", "text_index", "char_end"):
        x, y = getattr(a, name, None), getattr(b, name, None)
        assert (x is None) == (y is None)
        if x is not None:
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
    for name in ("space", "source", "target", "labels", "softcap", "text_digest", "n_cut"):
        assert getattr(a, name, None) == getattr(b, name, None)


def test_round_trip(kind, saved):
    same(EXAMPLES[kind][1](saved), EXAMPLES[kind][0]())
    same(load(saved), EXAMPLES[kind][0]())


def test_golden_bytes(kind, saved):
    assert hashlib.sha256(saved.read_bytes()).hexdigest() == GOLDEN[kind]


def test_golden_files_still_load(kind):
    golden = ROOT / "tests" / "golden" / f"v1.{kind}.npz"
    same(EXAMPLES[kind][1](golden), EXAMPLES[kind][0]())


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32]),
        st.tuples(st.integers(1, 6), st.integers(1, 6)),
        elements=st.floats(-100, 100, width=16),
    ),
    st.text(max_size=30).filter(lambda t: t.isprintable()),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_states_come_back(tmp_path, states, name):
    made = HiddenStates(states, Space(states.shape[1], "ff" * 32, name, "tokens"))
    save(tmp_path / "any.npz", made)
    same(serialization.load_states(tmp_path / "any.npz"), made)


def test_every_truncation_is_named(kind, saved):
    whole = saved.read_bytes()
    for size in range(0, len(whole) - 1, 7):
        saved.write_bytes(whole[:size])
        with pytest.raises(FormatError):
            EXAMPLES[kind][1](saved)


def test_bytes_before_or_after_are_named(kind, saved):
    whole = saved.read_bytes()
    for broken in (whole + b"x", b"x" + whole, whole + whole):
        saved.write_bytes(broken)
        with pytest.raises(FormatError):
            EXAMPLES[kind][1](saved)


def test_every_flipped_byte_is_named_or_harmless(kind, saved):
    whole = saved.read_bytes()
    original = EXAMPLES[kind][0]()
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        saved.write_bytes(broken)
        try:
            loaded = EXAMPLES[kind][1](saved)
        except FormatError:
            continue
        same(loaded, original)  # time stamps and the like are no content


def test_another_kind_is_named(tmp_path):
    save(tmp_path / "x.npz", example_map())
    with pytest.raises(FormatError, match="got linalign-map, expected format linalign-head"):
        serialization.load_head(tmp_path / "x.npz")
    with pytest.raises(FormatError, match="got linalign-map, expected format linalign-states"):
        serialization.load_states(tmp_path / "x.npz")


def test_a_newer_version_is_named(tmp_path):
    npz.save_npz(tmp_path / "x.npz", "linalign-map", 2, {}, {})
    with pytest.raises(FormatError, match="got 2, expected 1 to 1"):
        serialization.load_map(tmp_path / "x.npz")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*gone.npz: got No such file"):
        serialization.load_map(tmp_path / "gone.npz")
    with pytest.raises(InputError, match="cannot read"):
        serialization.load_map(tmp_path)


# --- attacks: archives made by hand -------------------------------------------------------------


def npy(array, shape=None, descr=None):
    """Make an .npy whose header may be wrong."""
    header = {
        "descr": descr or array.dtype.str,
        "fortran_order": False,
        "shape": shape or array.shape,
    }
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + array.tobytes()


def card(**extra):
    space = {"dim": 3, "model": "", "name": "", "pooling": "", "normalize": False}
    data = {
        "format": "linalign-map",
        "version": 1,
        "source": space,
        "target": {**space, "dim": 2},
        "info": {},
        **extra,
    }
    return npy(np.frombuffer(json.dumps(data).encode(), dtype=np.uint8))


def header(text):
    """Make an .npy with any text as its header."""
    raw = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw + bytes(24)


WEIGHT = npy(np.zeros((2, 3), dtype=np.float32))
BIAS = npy(np.zeros(2, dtype=np.float32))
PICKLE = npy(np.frombuffer(b"cos\nsystem\n(S'true'\ntR.", dtype=np.uint8), (1,), "|O")

ATTACKS = {
    "pickled object": ({"weight": PICKLE, "bias": BIAS}, "wrong type"),
    "shape larger than the data": (
        {"weight": npy(np.zeros(4, dtype=np.float32), (1 << 20, 1 << 20)), "bias": BIAS},
        "does not have the size",
    ),
    "negative shape": (
        {"weight": npy(np.zeros(4, dtype=np.float32), (-2, -3)), "bias": BIAS},
        "unknown header",
    ),
    "float where a card is": ({"weight": WEIGHT, "bias": BIAS, "card": BIAS}, "wrong type"),
    "no weight": ({"bias": BIAS}, "no member 'weight'"),
    "extra member": ({"weight": WEIGHT, "bias": BIAS, "../evil": BIAS}, "do not belong"),
    "not finite": (
        {"weight": npy(np.full((2, 3), np.nan, dtype=np.float32)), "bias": BIAS},
        "not finite",
    ),
    "bias does not fit": (
        {"weight": WEIGHT, "bias": npy(np.zeros(5, dtype=np.float32))},
        "bias does not fit",
    ),
    "big endian": ({"weight": npy(np.zeros((2, 3), dtype=">f4")), "bias": BIAS}, "wrong type"),
    "card is no object": (
        {"weight": WEIGHT, "bias": BIAS, "card": npy(np.frombuffer(b"[1]", dtype=np.uint8))},
        "is not a linalign-map file: got list, expected format linalign-map",
    ),
    "card is deep": (
        {"weight": WEIGHT, "bias": BIAS,
         "card": npy(np.frombuffer(b"[" * 100000, dtype=np.uint8))},
        "is not a usable linalign-map file: got RecursionError",
    ),
    "space with a wrong type": (
        {"weight": WEIGHT, "bias": BIAS, "card": card(source={"dim": "3"})},
        r"card\.source lacks fields: expected model, name, normalize, pooling",
    ),
    "space of another dimension": (
        {"weight": WEIGHT, "bias": BIAS, "card": card(source={
            "dim": 7, "model": "", "name": "", "pooling": "", "normalize": False})},
        "source space does not fit",
    ),
    "space whose name moves the cursor": (
        {"weight": WEIGHT, "bias": BIAS, "card": card(source={
            "dim": 3, "model": "", "name": "\x1b[2J", "pooling": "", "normalize": False})},
        r"card\.source\.name is not usable: got 4 long, expected 0 to 256 printable",
    ),
    "info is no object": (
        {"weight": WEIGHT, "bias": BIAS, "card": card(info=3)},
        r"card\.info is not an object: got a whole number",
    ),
    "version is a string": ({"weight": WEIGHT, "bias": BIAS, "card": card(version="1")}, "version"),
    "version is true": ({"weight": WEIGHT, "bias": BIAS, "card": card(version=True)}, "version"),
    "version is 0": ({"weight": WEIGHT, "bias": BIAS, "card": card(version=0)}, "version"),
    "info holds NaN": (
        {"weight": WEIGHT, "bias": BIAS, "card": card(info=math.nan)},
        "is not a usable linalign-map file: got ValueError",
    ),
    **{
        f"header {i}": ({"weight": header(text), "bias": BIAS}, "unknown header")
        for i, text in enumerate(
            ("{[]: 1}", "{'descr': '<f4', 'fortran_order': False, 'shape': ((", "  x\n y",
             "{'descr': (), 'fortran_order': False, 'shape': (2, 3), }",
             "{'descr': 'f4,,', 'fortran_order': False, 'shape': (2, 3), }",
             "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", "")
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_attacks_are_refused_by_name(name, tmp_path):
    members, words = ATTACKS[name]
    path = tmp_path / "attack.npz"
    with zipfile.ZipFile(path, "w") as npz:
        for member, data in {"card": card(), **members}.items():
            npz.writestr(f"{member}.npy", data)
    with pytest.raises(FormatError, match=words):
        serialization.load_map(path)


def test_a_compressed_bomb_is_refused_before_it_grows(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as npz:
        npz.writestr("card.npy", card())
        npz.writestr("weight.npy", npy(np.zeros((2000, 3000), dtype=np.float32)))
    with pytest.raises(FormatError, match="claims more data than it may hold"):
        serialization.load_map(path)


def test_a_compressed_member_is_refused(tmp_path):
    path = tmp_path / "squeezed.npz"
    with zipfile.ZipFile(path, "w") as npz:
        npz.writestr("card.npy", card())
        npz.writestr("bias.npy", BIAS)
        npz.writestr("weight.npy", WEIGHT, compress_type=zipfile.ZIP_DEFLATED)
        npz.writestr("pad.npy", b"\0" * 4096)
    with pytest.raises(FormatError):
        serialization.load_map(path)


def test_repeated_members_are_refused(tmp_path):
    path = tmp_path / "twice.npz"
    with zipfile.ZipFile(path, "w") as npz:
        npz.writestr("card.npy", card())
        with pytest.warns(UserWarning, match="Duplicate"):
            npz.writestr("card.npy", card())
    with pytest.raises(FormatError, match="repeated"):
        serialization.load_map(path)


def test_a_pipe_is_refused_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for read in (load, serialization.load_map, describe):
        with pytest.raises(InputError, match="got a pipe or a device, expected a file"):
            read(tmp_path / "pipe.npz")


def test_a_directory_of_many_members_is_refused_unparsed(tmp_path):
    path = tmp_path / "many.npz"
    with zipfile.ZipFile(path, "w") as made:
        for i in range(40):
            made.writestr(f"{i}.npy", b"")
    with pytest.raises(FormatError, match="too many members"):
        serialization.load_map(path)


@pytest.mark.parametrize("cap", [10**400, True, "30"])
def test_a_soft_cap_that_is_no_number_is_refused(tmp_path, cap):
    space = {"dim": 3, "model": "", "name": "", "pooling": "", "normalize": False}
    head = {"space": space, "labels": [], "softcap": cap, "info": {}}
    arrays = {"weight": np.zeros((2, 3)), "bias": np.zeros(2)}
    npz.save_npz(tmp_path / "x.npz", "linalign-head", 1, arrays, head)
    with pytest.raises(FormatError, match=r"card\.softcap is not usable"):
        serialization.load_head(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a", "a"], "the labels of the head are not usable: expected distinct"),
        (
            ["a", "b\nc"],
            r"card\.labels\[1\] is not usable: got 3 long, expected 1 to 256 printable",
        ),
        (["a", "\x1b[31m"], r"card\.labels\[1\] is not usable: got 5 long"),
        (["a", ""], r"card\.labels\[1\] is not usable: got 0 long"),
    ],
)
def test_labels_that_could_not_be_printed_are_refused(tmp_path, labels, words):
    space = {"dim": 3, "model": "", "name": "", "pooling": "", "normalize": False}
    head = {"space": space, "labels": labels, "softcap": None, "info": {}}
    arrays = {"weight": np.zeros((2, 3)), "bias": np.zeros(2)}
    npz.save_npz(tmp_path / "x.npz", "linalign-head", 1, arrays, head)
    with pytest.raises(FormatError, match=words) as caught:
        serialization.load_head(tmp_path / "x.npz")
    assert str(caught.value).isprintable()


def test_a_cap_is_kept(tmp_path):
    save(tmp_path / "x.npz", example_states())
    with pytest.raises(FormatError, match="at most 100"):
        serialization.load_states(tmp_path / "x.npz", cap=100)


def test_an_encrypted_member_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    save(path, example_map())
    raw = bytearray(path.read_bytes())
    place = raw.index(b"PK\x01\x02")
    struct.pack_into("<H", raw, place + 8, 1)  # the flag that says "encrypted"
    path.write_bytes(raw)
    with pytest.raises(FormatError):
        serialization.load_map(path)


# --- writing ------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(b"old")

    def interrupted():
        with atomic.atomic(path) as f:
            f.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    path.write_bytes(b"old")

    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, example_map())
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="does the folder exist"):
        atomic.write_atomic(tmp_path / "gone" / "x", b"")


def test_secrets_are_private_and_never_overwritten(tmp_path):
    path = tmp_path / "secret.key"
    atomic.write_new(path, b"s3cret", private=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OutputExistsError, match="never overwritten") as caught:
        atomic.write_new(path, b"other", private=True)
    assert "s3cret" not in str(caught.value)
    assert path.read_bytes() == b"s3cret"
    (tmp_path / "dangling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputExistsError):
        atomic.write_new(tmp_path / "dangling", b"x", private=True)
    assert not (tmp_path / "elsewhere").exists()


def test_written_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        atomic.write_atomic(tmp_path / "x", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


# --- heads whose weight stays in the file -------------------------------------------------------


def large_head(rng, dtype=np.float16) -> Head:
    return Head(rng.normal(size=(37, 5)).astype(dtype), rng.normal(size=37).astype(dtype))


def in_file(array) -> bool:
    """Return True if the data of an array are in a mapped file."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    return array is not None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_mapped_head_is_the_same_head(tmp_path, rng, dtype):
    path, made = tmp_path / "x.head.npz", large_head(rng, dtype)
    save(path, made)
    found, read = (
        serialization.load_head(path, mapped=True),
        serialization.load_head(path, mapped=False),
    )
    assert in_file(found.weight)
    assert not in_file(read.weight)
    same(found, made)
    same(read, made)
    z = rng.normal(size=(3, 5)).astype(np.float32)
    np.testing.assert_allclose(found(z), made(z), rtol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        found.weight[0, 0] = 1


def test_large_files_are_mapped_unless_told_otherwise(tmp_path, rng, monkeypatch):
    path = tmp_path / "x.head.npz"
    save(path, large_head(rng))
    assert not in_file(serialization.load_head(path).weight)
    monkeypatch.setattr(serialization, "MAPPED", path.stat().st_size)
    assert not in_file(serialization.load_head(path).weight)
    monkeypatch.setattr(serialization, "MAPPED", path.stat().st_size - 1)
    assert in_file(serialization.load_head(path).weight)
    assert not in_file(serialization.load_head(path, mapped=False).weight)
    for missing in (tmp_path / "gone", tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            serialization.load_head(missing)


def test_a_mapped_head_is_not_read_into_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "x.head.npz"
    save(path, Head(np.ones((200_000, 64), np.float16), np.zeros(200_000, np.float16)))
    tracemalloc.start()
    try:
        found = serialization.load_head(path, mapped=True)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.weight.nbytes == 25_600_000
    assert held < 1_500_000
    assert peak < 3 * npz.BLOCK
    assert found.weight.nbytes > npz.BLOCK


@pytest.mark.parametrize("piece", [None, 7])
def test_every_flipped_byte_of_a_mapped_head_is_named_or_harmless(tmp_path, monkeypatch, piece):
    if piece:  # the CRC is compared at the end of many pieces
        monkeypatch.setattr(npz, "BLOCK", piece)
    path, made = tmp_path / "x.head.npz", example_head()
    save(path, made)
    whole = path.read_bytes()
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 0x01
        path.write_bytes(broken)
        try:
            found = serialization.load_head(path, mapped=True)
        except FormatError:
            continue
        same(found, made)
    for size in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError):
            serialization.load_head(path, mapped=True)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_flipped_bit_far_into_a_mapped_weight_is_named(tmp_path, rng, share):
    """The member is larger than what zipfile buffers: the CRC is compared at its end only."""
    path = tmp_path / "x.head.npz"
    made = Head(rng.normal(size=(500, 40)).astype(np.float32), np.zeros(500, np.float32))
    save(path, made)
    raw = bytearray(path.read_bytes())
    start = raw.index(made.weight[:4].tobytes())
    raw[start + int(share * made.weight.nbytes) // 4 * 4] ^= 1  # still a finite number
    path.write_bytes(raw)
    with pytest.raises(FormatError, match="Bad CRC"):
        serialization.load_head(path, mapped=True)


def test_mapped_numbers_are_looked_at_too(tmp_path):
    path = tmp_path / "x.head.npz"
    weight = np.zeros((4, 3), np.float32)
    weight[3, 2] = np.inf
    space = {"dim": 3, "model": "", "name": "", "pooling": "", "normalize": False}
    facts = {"space": space, "labels": [], "softcap": None, "info": {}}
    npz.save_npz(path, "linalign-head", 1, {"weight": weight, "bias": np.zeros(4)}, facts)
    with pytest.raises(FormatError, match="'weight' holds values that are not finite"):
        serialization.load_head(path, mapped=True)


def directory(raw: bytes, name: bytes) -> int:
    """Find the offset of a member's record in the directory of an archive."""
    at = -1
    while (at := raw.index(b"PK\x01\x02", at + 1)) and raw[at + 46 : at + 46 + len(name)] != name:
        pass
    return at


LARGEST = 2**32 - 2


@pytest.mark.parametrize(
    ("place", "form", "value"),
    [
        *((42, "<I", offset) for offset in (1, 7, 100, 10**6, LARGEST)),  # where it begins
        *((20, "<I", size) for size in (0, 1, 130, 10**6, LARGEST)),  # its size, as stored
        *((24, "<I", size) for size in (0, 1, 130, 10**6, LARGEST)),  # its size, unpacked
        (16, "<I", 12345),  # its CRC
        (10, "<H", 8),  # how it is packed
        (30, "<H", 40),  # how long what follows the name is
        (8, "<H", 0x20),  # a flag: to be patched
    ],
)
def test_a_directory_that_lies_of_a_mapped_member_is_named(tmp_path, place, form, value):
    path = tmp_path / "x.head.npz"
    save(path, example_head())
    raw = bytearray(path.read_bytes())
    struct.pack_into(form, raw, directory(raw, b"weight.npy") + place, value)
    path.write_bytes(raw)
    with pytest.raises(FormatError):
        serialization.load_head(path, mapped=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [*((26, n) for n in (0, 3, 64, 200, 65535)), *((28, n) for n in (3, 64, 200, 65535))],
)
def test_a_member_whose_own_header_lies_is_named(tmp_path, field, value):
    """The offset of the data depends on the lengths of the name and of the extra field."""
    path, made = tmp_path / "x.head.npz", example_head()
    save(path, made)
    raw = bytearray(path.read_bytes())
    start = raw.index(b"weight.npy") - 30
    struct.pack_into("<H", raw, start + field, value)
    path.write_bytes(raw)
    with pytest.raises(FormatError):
        serialization.load_head(path, mapped=True)


def test_numbers_with_something_before_them_are_found_where_they_are(tmp_path):
    """A member may have an extra field, as other writers add it: the mapping begins after it."""
    path, made = tmp_path / "x.head.npz", example_head()
    save(path, made)
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in content.items():
            info = zipfile.ZipInfo(name)
            info.extra = struct.pack("<HH", 0xCAFE, 9) + b"nine byte"
            new.writestr(info, data)
    same(serialization.load_head(path, mapped=True), made)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("more", [-8, 8])
def test_a_member_of_two_sizes_is_named(tmp_path, mapped, more):
    """The CRC is of the part that exists, or would never be compared."""
    path = tmp_path / "x.head.npz"
    save(path, example_head())
    raw = bytearray(path.read_bytes())
    at = directory(raw, b"weight.npy")
    size = struct.unpack_from("<I", raw, at + 20)[0]
    start = raw.index(b"weight.npy") + len(b"weight.npy")
    raw[start + size - 5] ^= 1
    struct.pack_into("<I", raw, at + 20, size + more)
    if more < 0:
        struct.pack_into("<I", raw, at + 16, zipfile.crc32(raw[start : start + size + more]))
    path.write_bytes(raw)
    with pytest.raises(FormatError, match="'weight' has two sizes"):
        serialization.load_head(path, mapped=mapped)


def test_an_empty_mapped_member_is_named(tmp_path):
    space = {"dim": 3, "model": "", "name": "", "pooling": "", "normalize": False}
    facts = {"space": space, "labels": [], "softcap": None, "info": {}}
    arrays = {"weight": np.zeros((0, 3)), "bias": np.zeros(0)}
    npz.save_npz(tmp_path / "x.npz", "linalign-head", 1, arrays, facts)
    with pytest.raises(FormatError, match="none of them empty"):
        serialization.load_head(tmp_path / "x.npz", mapped=True)


def test_labels_of_a_file_without_label_ids_are_not_taken_for_one_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "ROWS", ())  # a file that this library does not write
    path = tmp_path / "a.states.npz"
    save(path, HiddenStates(np.eye(2), labels=("a", "b"), label_ids=np.array([0, 0], np.int32)))
    with pytest.raises(FormatError, match="labels without label_ids"):
        serialization.load_states(path)
