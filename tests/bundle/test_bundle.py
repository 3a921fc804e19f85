"""Round trips, reproducible bytes, refused files, golden files, keys and commands of bundles."""

from __future__ import annotations

import json
import os
import pickle
import stat
import sys
import zipfile
from pathlib import Path

import pytest
from forging import (
    GOLDEN,
    KEY,
    KEYS,
    OTHER,
    SEED,
    made_inputs,
    made_model,
    made_wheel,
    parse,
    signer,
)

from linalign_lite import load, save
from linalign_lite.bundle import file_format
from linalign_lite.bundle.file_types import detect_kind
from linalign_lite.bundle.hashing_copy import CHUNK, HashingCopy
from linalign_lite.bundle.reading import inspect_bundle, install_bundle, verify_bundle
from linalign_lite.bundle.wheels import Platform
from linalign_lite.bundle.writing import create_bundle
from linalign_lite.commands import main
from linalign_lite.commands.describe_file import describe
from linalign_lite.core.signing import SigningKey, VerifyingKey
from linalign_lite.errors import (
    FormatError,
    InputError,
    MissingExtraError,
    OutputExistsError,
    SignatureError,
)
from linalign_lite.storage import atomic

PLATFORM = Platform("3.11", "manylinux_2_36_x86_64")


@pytest.fixture
def inputs(tmp_path):
    return made_inputs(tmp_path / "in")


def made(out: Path, inputs, **more) -> Path:
    things, wheels = inputs
    settings = {"key": signer(), "wheelhouse": wheels, "platform": PLATFORM, **more}
    create_bundle(out, things, **settings)
    return out


# --- round trips ----------------------------------------------------------------------------------


def test_an_installed_bundle_has_the_same_files(tmp_path, inputs):
    things, wheels = inputs
    info = install_bundle(made(tmp_path / "x.bundle", inputs), tmp_path / "out", keys=[KEY])
    out = tmp_path / "out"
    expected = {
        "models/tiny/card.json": things[0] / "card.json",
        "models/tiny/model.onnx": things[0] / "model.onnx",
        "models/tiny/tokenizer.json": things[0] / "tokenizer.json",
        "maps/a-to-b.map.npz": things[1],
        "heads/b.head.npz": things[2],
        "keys/public.key": things[3],
        "signers/next.pub": things[4],
        **{f"wheelhouse/{p.name}": p for p in wheels.iterdir()},
    }
    found = {str(p.relative_to(out)) for p in out.rglob("*") if not p.is_dir()}
    assert found == {*expected, "SHA256SUMS", "wheelhouse/requirements.txt"}
    for name, source in expected.items():
        assert (out / name).read_bytes() == source.read_bytes()
    assert [f.path for f in info.manifest.files] == sorted(expected)
    for p in [out, *out.rglob("*")]:
        assert stat.S_IMODE(p.lstat().st_mode) == (0o755 if p.is_dir() else 0o644)
    sums = (out / "SHA256SUMS").read_text().splitlines()
    assert sums == [f"{f.sha256}  {f.path}" for f in info.manifest.files]
    lines = (out / "wheelhouse" / "requirements.txt").read_text().splitlines()
    assert [line.split(" --hash=sha256:")[0] for line in lines] == ["fast-thing==2.1", "thing==1.0"]


def test_modes_do_not_depend_on_the_umask(tmp_path, inputs):
    made(tmp_path / "x.bundle", inputs)
    old = os.umask(0o077)
    try:
        install_bundle(tmp_path / "x.bundle", tmp_path / "out", keys=[KEY])
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "out" / "maps").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "out" / "maps" / "a-to-b.map.npz").stat().st_mode) == 0o644


def test_the_same_files_give_the_same_bytes(tmp_path, inputs):
    things, wheels = inputs
    a = made(tmp_path / "a", inputs, note="one")
    for p in (tmp_path / "in").rglob("*"):
        os.utime(p, (1, 1))
        p.chmod(0o700)
    b = made(tmp_path / "b", (things[::-1], wheels), note="one")
    assert a.read_bytes() == b.read_bytes()
    c = made(tmp_path / "c", inputs, note="two")
    assert c.read_bytes() != a.read_bytes()


def test_a_golden_bundle_is_read_and_written_again(tmp_path):
    """tests/golden/v1.bundle holds a map, a head and a public key; the seed is 0, 1, …, 31."""
    golden = GOLDEN / "v1.bundle"
    install_bundle(golden, tmp_path / "out", keys=[KEY])
    things = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and p.name != "SHA256SUMS"]
    assert len(things) == 3
    create_bundle(tmp_path / "again", things, key=signer(), note="golden, version 1")
    assert (tmp_path / "again").read_bytes() == golden.read_bytes()
    assert KEY.fingerprint == "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c"


def test_an_unsigned_bundle_needs_the_option(tmp_path, inputs):
    path = made(tmp_path / "x.bundle", inputs, key=None)
    with pytest.raises(SignatureError, match="is not signed"):
        verify_bundle(path, keys=[KEY])
    with pytest.raises(InputError, match="pass either keys or unsigned=True"):
        verify_bundle(path)
    assert verify_bundle(path, unsigned=True).signer == ""
    signed = made(tmp_path / "y.bundle", inputs)
    with pytest.raises(SignatureError, match=r"y\.bundle is signed"):
        verify_bundle(signed, unsigned=True)
    with pytest.raises(InputError, match="pass either keys or unsigned=True"):
        verify_bundle(signed, keys=[KEY], unsigned=True)
    half = bytearray(path.read_bytes())
    half[half.index(b'"version":1}') + 12] = 1  # the first byte of the signature
    (tmp_path / "z.bundle").write_bytes(half)
    with pytest.raises(SignatureError, match="a signature and no key"):
        verify_bundle(tmp_path / "z.bundle", unsigned=True)


def test_any_of_several_keys_will_do(tmp_path, inputs):
    path = made(tmp_path / "x.bundle", inputs, key=signer(OTHER))
    with pytest.raises(SignatureError, match="signed by somebody else"):
        verify_bundle(path, keys=[KEY])
    assert verify_bundle(path, keys=[KEY, signer(OTHER).verifying]).signer


def test_an_older_file_stays_when_creating_fails(tmp_path, inputs):
    things, _ = inputs
    out = tmp_path / "x.bundle"
    out.write_bytes(b"old")
    (things[0] / "model.onnx").write_bytes(b"B graph" * 9)  # of the same size
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FormatError, match=r"does not have the digest in its card\.json"):
        made(out, inputs)
    assert out.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("there", ["file", "full", "link"])
def test_installing_never_overwrites(tmp_path, inputs, there):
    path, out = made(tmp_path / "x.bundle", inputs), tmp_path / "out"
    if there == "file":
        out.write_text("mine")
    elif there == "full":
        out.mkdir()
        (out / "mine").write_text("mine")
    else:
        out.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputExistsError, match="already there"):
        install_bundle(path, out, keys=[KEY])
    assert not (tmp_path / "elsewhere").exists()
    assert there != "full" or [p.name for p in out.iterdir()] == ["mine"]


def test_a_full_disk_leaves_nothing(tmp_path, inputs, monkeypatch):
    path = made(tmp_path / "x.bundle", inputs)

    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="No space"):
        install_bundle(path, tmp_path / "out", keys=[KEY])
    with pytest.raises(OSError, match="No space"):
        made(tmp_path / "y.bundle", inputs)
    assert sorted(tmp_path.rglob("*")) == before


def test_too_little_disk_space_is_found_before_writing(tmp_path, inputs, monkeypatch):
    path = made(tmp_path / "x.bundle", inputs)
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="not enough disk space for"):
        install_bundle(path, tmp_path / "out", keys=[KEY])


# --- refused files --------------------------------------------------------------------------


def secrets(folder: Path) -> dict[str, Path]:
    signer().save(folder / "signing.key")
    found = {"signing key": folder / "signing.key"}
    for name in ("v3-private-secret.key", "v3-trusted-secret.key"):
        (folder / name).write_bytes((KEYS / name).read_bytes())
        found[name] = folder / name
    old = bytearray((KEYS / "v3-trusted-secret.key").read_bytes())
    old[8] = 1
    (folder / "v1").write_bytes(old)
    found["secret key of version 1"] = folder / "v1"
    (folder / "cut").write_bytes(old[:40])
    found["beginning of a secret key"] = folder / "cut"
    (folder / "ssh").write_bytes(b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")
    found["ssh"] = folder / "ssh"
    (folder / "pem").write_bytes(b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n")
    found["pem"] = folder / "pem"
    return found


@pytest.mark.parametrize("name", ["public.key", "topics.head.npz", "map"])
def test_no_secret_goes_in_whatever_its_name(tmp_path, name):
    for i, secret in enumerate(secrets(tmp_path).values()):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / name).write_bytes(secret.read_bytes())
        with pytest.raises(InputError, match="is a secret key, and no secret goes into") as caught:
            create_bundle(tmp_path / "x.bundle", [folder / name], key=signer())
        assert SEED.hex() not in str(caught.value)
    assert not (tmp_path / "x.bundle").exists()


@pytest.mark.parametrize("before", [0, 1, 1000, CHUNK - 13, CHUNK - 5, CHUNK - 1, CHUNK, 2 * CHUNK])
def test_no_secret_goes_in_within_another_file(tmp_path, before):
    """Find a secret in a model's graph, also across two reads."""
    secret = (KEYS / "v3-trusted-secret.key").read_bytes()
    folder = made_model(tmp_path)
    (folder / "model.onnx").write_bytes(b"L" * before + secret + b"x" * 9)
    from linalign_lite.extraction.model_card import load_card, seal_card

    (folder / "card.json").rename(tmp_path / "card")
    sound = made_model(tmp_path / "other")
    seal_card(folder, load_card(sound))
    with pytest.raises(FormatError, match="holds a secret key"):
        create_bundle(tmp_path / "x.bundle", [folder], key=signer())
    assert not (tmp_path / "x.bundle").exists()


def test_bytes_that_only_resemble_a_secret_are_accepted(tmp_path):
    public = (KEYS / "v3-trusted-public.key").read_bytes()
    with HashingCopy() as copying:
        for content in (b"LINALIGN", b"LINALIG" * 9, public, b"LINALIGN\x02\0\x01\x01", b""):
            (tmp_path / "x").write_bytes(content)
            with (tmp_path / "x").open("rb") as f:
                assert len(copying.run(f, len(content), "x")) == 64


def test_no_secret_goes_in_within_a_wheel(tmp_path, inputs):
    _, wheels = inputs
    wheel = wheels / "odd-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("odd/public.key", (KEYS / "v3-trusted-secret.key").read_bytes())
    with pytest.raises(InputError, match=r"odd-1\.0-py3-none-any\.whl holds a secret key"):
        made(tmp_path / "x.bundle", inputs)
    for content in (b"", b"PK\3\4", made_wheel()[:-30]):
        wheel.write_bytes(content)
        with pytest.raises(FormatError, match="is not a wheel"):
            made(tmp_path / "x.bundle", inputs)


def test_other_things_do_not_go_in(tmp_path, inputs):
    from linalign_lite.encrypt.budgets.budget import Budget

    for kind in ("query", "response"):
        (tmp_path / kind).write_bytes((KEYS / f"v3-private-two.{kind}").read_bytes())
    Budget(tmp_path / "budget", 5)
    made(tmp_path / "bundle", inputs)
    (tmp_path / "text").write_text("the patient said")
    (tmp_path / "x.whl").write_bytes(made_wheel())
    (tmp_path / "states").write_bytes((GOLDEN / "v1.states.npz").read_bytes())
    (tmp_path / "é.map.npz").write_bytes((GOLDEN / "v1.map.npz").read_bytes())
    (tmp_path / "con.map.npz").write_bytes((GOLDEN / "v1.map.npz").read_bytes())
    (tmp_path / "link").symlink_to(GOLDEN / "v1.map.npz")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    words = {
        "query": "got a query", "response": "got a response", "budget": "got a database",
        "bundle": "got a bundle", "text": "is not a file of linalign-lite",
        "x.whl": "as --wheelhouse", "states": "got hidden states", "é.map.npz": "rename the file",
        "con.map.npz": "not a Windows device", "link": "got a link", "gone": "cannot read",
        "folder": "not an exported model", "pipe": "got a folder, a pipe or a device",
    }  # fmt: skip
    for name, expected in words.items():
        with pytest.raises(InputError, match=expected):
            create_bundle(tmp_path / "x.bundle", [tmp_path / name], key=signer())
    with pytest.raises(InputError, match="nothing to put into"):
        create_bundle(tmp_path / "x.bundle", [], key=signer())
    assert not (tmp_path / "x.bundle").exists()


def test_a_model_folder_has_what_its_card_says_and_no_more(tmp_path):
    folder = made_model(tmp_path)
    (folder / "notes.txt").write_text("x")
    with pytest.raises(FormatError, match=r"notes\.txt does not belong to the model"):
        create_bundle(tmp_path / "x", [folder], key=signer())
    (folder / "notes.txt").unlink()
    (folder / "model.onnx").rename(tmp_path / "graph")
    (folder / "model.onnx").symlink_to(tmp_path / "graph")
    with pytest.raises(InputError, match="got a link"):
        create_bundle(tmp_path / "x", [folder], key=signer())


def test_two_things_of_one_name_are_named(tmp_path, inputs):
    things, _ = inputs
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / things[1].name
    other.write_bytes(things[1].read_bytes())
    with pytest.raises(InputError, match=r"would both be maps/a-to-b\.map\.npz"):
        create_bundle(tmp_path / "x", [things[1], other], key=signer())
    other = other.rename(tmp_path / "b" / "A-to-B.map.npz")
    with pytest.raises(InputError, match="differ only in case"):
        create_bundle(tmp_path / "x", [things[1], other], key=signer())


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path, inputs, monkeypatch):
    from linalign_lite.bundle import writing

    things, _ = inputs
    right = writing.detect_kind

    def growing(path):
        kind = right(path)
        with path.open("ab") as f:
            f.write(b"more")
        return kind

    monkeypatch.setattr(writing, "detect_kind", growing)
    with pytest.raises(InputError, match="changed while it was read"):
        create_bundle(tmp_path / "x", [things[1]], key=signer())


def test_kinds_are_detected_by_content(tmp_path, inputs):
    things, _ = inputs
    for thing, kind in zip(things[1:], ("map", "head", "public-key", "signer"), strict=True):
        (tmp_path / "nameless").write_bytes(thing.read_bytes())
        assert detect_kind(tmp_path / "nameless") == kind


def test_a_detector_goes_in(tmp_path, pair):
    from linalign_lite.heads.ood.detector_training import fit_detector

    save(tmp_path / "d.ood.npz", fit_detector(pair[0], method="knn"))
    create_bundle(tmp_path / "x", [tmp_path / "d.ood.npz"], key=signer())
    install_bundle(tmp_path / "x", tmp_path / "out", keys=[KEY])
    assert type(load(tmp_path / "out" / "detectors" / "d.ood.npz")).__name__ == "Detector"


# --- memory ---------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_files(tmp_path):
    import tracemalloc

    from linalign_lite.extraction.model_card import load_card, seal_card

    def peak(size: int) -> int:
        folder = made_model(tmp_path / str(size))
        card = load_card(folder)
        (folder / "model.onnx").write_bytes(os.urandom(size))
        (folder / "card.json").unlink()
        seal_card(folder, card)
        tracemalloc.start()
        try:
            create_bundle(tmp_path / f"{size}.bundle", [folder], key=signer())
            install_bundle(tmp_path / f"{size}.bundle", tmp_path / f"{size}.out", keys=[KEY])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(3 * CHUNK), peak(30 * CHUNK)
    assert large < small + CHUNK


# --- keys -----------------------------------------------------------------------------------------


def test_a_signing_key_is_private_and_never_overwritten(tmp_path):
    key = SigningKey.generate()
    path = tmp_path / "signing.key"
    key.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OutputExistsError, match="never overwritten"):
        key.save(path)
    for overwrite in (
        atomic.write_atomic,
        lambda p, _: create_bundle(p, [GOLDEN / "v1.map.npz"], key=None),
    ):
        with pytest.raises(OutputExistsError, match="is a secret key and is never overwritten"):
            overwrite(path, b"x")
    assert SigningKey.load(path).seed == key.seed
    assert key.seed.hex() not in repr(key)
    with pytest.raises(TypeError, match="is not pickled"):
        pickle.dumps(key)
    path.chmod(0o640)
    with pytest.raises(InputError, match="can be read or written by others"):
        SigningKey.load(path)


def test_key_files_are_checked(tmp_path):
    signer().save(tmp_path / "a.key")
    KEY.save(tmp_path / "a.pub")
    secret, public = (tmp_path / "a.key").read_bytes(), (tmp_path / "a.pub").read_bytes()
    assert (len(secret), len(public)) == (112, 80)
    with pytest.raises(FormatError, match="got signing key, expected public signing key"):
        VerifyingKey.load(tmp_path / "a.key")
    with pytest.raises(FormatError, match="got public signing key, expected signing key"):
        SigningKey.load(tmp_path / "a.pub")
    with pytest.raises(FormatError, match="is not a public signing key"):
        VerifyingKey.load(GOLDEN / "v1.map.npz")
    for data, load_key in ((secret, SigningKey.load), (public, VerifyingKey.load)):
        for place in range(len(data)):
            (tmp_path / "x").write_bytes(
                data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            )
            (tmp_path / "x").chmod(0o600)
            with pytest.raises(FormatError):
                load_key(tmp_path / "x")
        for other in (data[:-1], data + b"\0", b"", data[:8]):
            (tmp_path / "x").write_bytes(other)
            with pytest.raises(FormatError):
                load_key(tmp_path / "x")
    SigningKey(SEED, signer(OTHER).public).save(tmp_path / "torn.key")
    with pytest.raises(FormatError, match="two halves that do not belong together"):
        SigningKey.load(tmp_path / "torn.key")
    with pytest.raises(InputError, match="anybody can sign for"):
        VerifyingKey(bytes(32))


def test_a_signature_is_the_one_of_rfc_8032():
    """Reproduce test 2 of section 7.1."""
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    key = signer(seed)
    expected = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert key.sign(b"\x72").hex() == expected
    assert key.verifying.accepts(bytes.fromhex(expected), b"\x72")
    assert not key.verifying.accepts(bytes.fromhex(expected), b"\x73")


def test_without_the_extra_it_is_named(tmp_path, inputs, monkeypatch):
    path = made(tmp_path / "x.bundle", inputs)
    unsigned = made(tmp_path / "y.bundle", inputs, key=None)
    signer().save(tmp_path / "signing.key")
    for name in ["cryptography", *(m for m in sys.modules if m.startswith("cryptography."))]:
        monkeypatch.setitem(sys.modules, name, None)
    for call in (
        SigningKey.generate,
        lambda: SigningKey.load(tmp_path / "signing.key"),
        lambda: verify_bundle(path, keys=[KEY]),
        lambda: create_bundle(tmp_path / "z", [GOLDEN / "v1.map.npz"], key=signer()),
    ):
        with pytest.raises(MissingExtraError, match=r"'linalign-lite\[bundle\]'"):
            call()
    assert not (tmp_path / "z").exists()
    assert inspect_bundle(path)[1] == "not checked: that needs the extra 'bundle'"
    install_bundle(unsigned, tmp_path / "out", unsigned=True)  # needs none


# --- the command ----------------------------------------------------------------------------------


def test_the_command_from_keys_to_files(tmp_path, inputs, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    things, wheels = map(str, inputs[0]), str(inputs[1])

    def run(*args, code=0):
        assert main([*map(str, args)]) == code
        return capsys.readouterr()

    made_keys = json.loads(run("bundle", "keygen", "signing", "--json").out)
    assert "never overwritten" in run("bundle", "keygen", "signing", code=2).err
    place = ("--python", "3.11", "--platform", "manylinux_2_36_x86_64")
    done = run("bundle", "create", "x.bundle", *things, "--key", "signing", "--wheelhouse", wheels,
               *place, "--note", "for the ward", "--json")  # fmt: skip
    made_one = json.loads(done.out)
    assert made_one["signer"] == made_keys["fingerprint"]
    public = Path("signing/signing.pub").read_bytes()[16:48]  # after the header
    assert made_keys["account"] == public.hex()
    found = json.loads(
        run("bundle", "verify", "x.bundle", "--key", "signing/signing.pub", "--deep", "--json").out
    )
    assert found == {k: v for k, v in made_one.items() if k != "out"}
    assert found["platform"] == {"python": "3.11", "tag": "manylinux_2_36_x86_64"}
    shown = run("bundle", "install", "x.bundle", "out", "--key", "signing").out.splitlines()
    assert shown[-1] == (
        "pip install --no-index --find-links out/wheelhouse --require-hashes"
        " -r out/wheelhouse/requirements.txt"
    )
    assert "for the ward" in shown
    described = describe(Path("x.bundle"))
    assert described["files"] == [f["path"] for f in found["files"]]
    assert (described["kind"], described["note"]) == ("bundle", "for the ward")
    assert described["signature"] == "of the key in it, which may be anybody's"
    for half in ("signing.key", "signing.pub"):
        assert describe(Path("signing") / half)["fingerprint"] == made_keys["fingerprint"]
    assert "no signer, or two" in run("bundle", "create", "y", "x.bundle", code=2).err
    assert (
        "no signer, or two"
        in run("bundle", "create", "y", "--key", "signing", "--unsigned", code=2).err
    )
    assert (
        "--platform and --python need wheels"
        in run("bundle", "create", "y", "--unsigned", *place, code=2).err
    )
    assert "is a folder" in run("bundle", "create", "signing", "--unsigned", code=2).err
    assert not Path("y").exists()


def test_the_layout_of_a_bundle_is_as_documented(tmp_path, inputs):
    data = made(tmp_path / "x.bundle", inputs).read_bytes()
    assert data[:12] == b"LINALIGN\x01\0\x07\0"
    assert data[16:48] == KEY.public
    size = int.from_bytes(data[12:16], "little")
    signed, signature = data[: 48 + size], data[48 + size : 112 + size]
    assert KEY.accepts(signature, signed)
    manifest = file_format.parse_manifest(signed[48:], "x")
    assert sorted(json.loads(signed[48:])) == ["files", "format", "note", "platform", "version"]
    assert len(data) == 112 + size + manifest.size
    assert parse(data).contents[0] == data[112 + size :][: manifest.files[0].size]
