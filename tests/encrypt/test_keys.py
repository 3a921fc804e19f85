"""Keys: two types, two kinds of file, and no way to mix or leak them."""

import copy
import os
import pickle
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tenseal.sealapi as api

from linalign_lite.core.head import Head
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.keys import PublicKey, SecretKey, keygen
from linalign_lite.encrypt.modular import pack_residues
from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED
from linalign_lite.encrypt.provider import Provider
from linalign_lite.encrypt.seal import serialization
from linalign_lite.encrypt.seal.context import SealContext
from linalign_lite.errors import FormatError, InputError, OutputExistsError

SETS = [PRIVATE, TRUSTED]


@pytest.fixture(params=SETS, ids=lambda p: p.name)
def pair(request):
    return keygen(request.param)


def test_round_trip(pair, tmp_path):
    secret, public = pair
    assert secret.digest == public.digest
    secret.save(tmp_path / "secret.key")
    public.save(tmp_path / "public.key")
    loaded = SecretKey.load(tmp_path / "secret.key")
    assert (loaded.parameters, loaded.digest, loaded.material) == (
        secret.parameters,
        secret.digest,
        secret.material,
    )
    assert PublicKey.load(tmp_path / "public.key") == public
    query = Client(secret).encrypt(np.eye(4))
    head = Head(np.eye(4), np.zeros(4))
    response = Provider(head, accept=SETS, keys=[public]).score(query)
    assert np.allclose(Client(loaded).decrypt(response, query).values, np.eye(4), atol=1e-3)


def test_sizes_are_kilobytes():
    pairs = {p.name: keygen(p) for p in SETS}
    sizes = {name: (len(s.material), len(p.payload)) for name, (s, p) in pairs.items()}
    assert sizes["private"] == (54272, 46144)
    assert sizes["trusted"] == (13056, 13120)


def test_secret_file_is_private_and_never_overwritten(pair, tmp_path):
    secret, _ = pair
    path = tmp_path / "secret.key"
    secret.save(path)
    before = path.read_bytes()
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OutputExistsError, match="never overwritten"):
        secret.save(path)
    link = tmp_path / "link.key"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputExistsError):
        secret.save(link)
    assert path.read_bytes() == before
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.name == "nt", reason="modes mean nothing on Windows")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_secret_file_that_others_can_read_is_refused(tmp_path, mode):
    secret, _ = keygen(TRUSTED)
    path = tmp_path / "secret.key"
    secret.save(path)
    path.chmod(mode)
    with pytest.raises(InputError, match=rf"got mode {mode:04o}, expected 0600 \(hint: chmod 600"):
        SecretKey.load(path)
    path.chmod(0o400)
    assert SecretKey.load(path).digest == secret.digest


def test_one_kind_in_the_place_of_the_other(pair, tmp_path):
    secret, public = pair
    secret.save(tmp_path / "secret.key")
    public.save(tmp_path / "public.key")
    with pytest.raises(FormatError, match="got secret key, expected public key"):
        PublicKey.load(tmp_path / "secret.key")
    with pytest.raises(FormatError, match="got public key, expected secret key"):
        SecretKey.load(tmp_path / "public.key")


def test_nothing_shows_the_secret(pair):
    secret, public = pair
    shown = repr(secret) + str(secret) + repr([secret]) + repr(public)
    assert len(shown) < 500
    for piece in (secret.material[:8].hex(), repr(secret.material[:8])[2:-1]):
        assert piece not in shown
    for make in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            make(secret)


def test_keys_differ():
    (first, one), (second, two) = keygen(TRUSTED), keygen(TRUSTED)
    assert first.material != second.material
    assert one.digest != two.digest


def test_missing_files(tmp_path):
    for load in (SecretKey.load, PublicKey.load):
        with pytest.raises(InputError, match="cannot read"):
            load(tmp_path / "none")
        with pytest.raises(InputError):
            load(tmp_path)


def test_public_key_must_agree_with_its_digest():
    _, public = keygen(TRUSTED)
    from linalign_lite.encrypt.keys import _to_file
    from linalign_lite.encrypt.wire import Kind

    forged = _to_file(Kind.PUBLIC_KEY, TRUSTED, bytes(32), public.payload)
    with pytest.raises(FormatError, match="digest of its key"):
        PublicKey.load(forged)


def test_secret_key_with_values_that_are_not_residues():
    secret, _ = keygen(TRUSTED)
    for bad in (b"\xff" * len(secret.material), secret.material[:-1], b""):
        with pytest.raises(FormatError) as caught:
            Client(SecretKey(TRUSTED, secret.digest, bad))
        assert secret.material[:8].hex() not in str(caught.value)


def test_keys_are_seals_own():
    """By the keys that keygen packs, SEAL decrypts its own message, and the public key to zero."""
    secret, public = keygen(PRIVATE)
    seal = SealContext(PRIVATE)
    key, _ = seal.secret_key(secret.material)
    first, second = public.components()
    message, cipher = api.Plaintext("7x^2 + 1"), api.Ciphertext()
    api.Encryptor(seal.context, key).encrypt_symmetric(message, cipher)
    decryptor, out = api.Decryptor(seal.context, key), api.Plaintext()
    for asked, answer in ((cipher, "7x^2 + 1"), (seal.load([*first, *second]), "0")):
        decryptor.decrypt(asked, out)
        assert out.to_string() == answer


def test_a_secret_key_that_is_not_ternary_is_refused():
    """Well-formed residues of a polynomial that is no key."""
    secret, _ = keygen(TRUSTED)
    prime = TRUSTED.primes[0]
    words = np.random.default_rng(0).integers(0, prime, TRUSTED.degree, dtype=np.uint64)
    with pytest.raises(FormatError, match="not ternary"):
        Client(SecretKey(TRUSTED, secret.digest, pack_residues(words, prime)))


def test_without_anonymous_memory_nothing_is_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(serialization, "_HAS_ANONYMOUS_MEMORY", False)
    monkeypatch.setattr(serialization, "_MEMORY_FOLDER", str(tmp_path / "none"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = []
    real = os.open

    def watched(path, *args, **kwargs):
        if str(path).startswith(str(tmp_path)) and str(path).endswith("object"):
            made.append(stat.S_IMODE(Path(path).parent.stat().st_mode))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", watched)
    secret, public = keygen(TRUSTED)
    query = Client(secret).encrypt(np.eye(2))
    response = Provider(Head(np.eye(2), np.zeros(2)), accept=[TRUSTED]).score(query)
    assert np.allclose(Client(secret).decrypt(response).values, np.eye(2), atol=1e-3)
    assert PublicKey.load(public.to_bytes()) == public
    assert list(tmp_path.iterdir()) == []
    assert made
    assert os.name == "nt" or set(made) == {0o700}


def test_reads_and_writes_may_come_in_pieces(monkeypatch):
    """The system may read or write fewer bytes than requested."""
    read, write = os.read, os.write
    monkeypatch.setattr(os, "read", lambda handle, size: read(handle, min(size, 1000)))
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:1000]))
    monkeypatch.setattr(os, "writev", lambda handle, parts: write(handle, parts[0]), raising=False)
    secret, public = keygen(TRUSTED)
    query = Client(secret).encrypt(np.eye(2))
    response = Provider(Head(np.eye(2), np.zeros(2)), accept=[TRUSTED]).score(query)
    assert np.allclose(Client(secret).decrypt(response, query).values, np.eye(2), atol=1e-3)
    assert PublicKey.load(public.to_bytes()) == public


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs anonymous memory")
def test_with_anonymous_memory_no_file_is_opened_for_writing(monkeypatch):
    """The secret key never touches a disk outside `secret.key`."""

    def refuse(*args, **kwargs):
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    secret, _ = keygen(TRUSTED)
    Client(secret).encrypt(np.eye(2))
