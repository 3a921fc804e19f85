"""Public keys that clients registered: a folder for each account, with keys and proofs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.errors import InputError, LinalignError, OutputExistsError
from linalign_lite.storage.atomic import write_atomic

PER_ACCOUNT = 64  # keys of one account
NOBODY = "nobody"  # folder of keys without an account; only the total limits them
_RESCAN = 1.0  # seconds between two looks at what other processes registered


class TooManyKeysError(InputError):
    """The service keeps no more keys, or no more of this account."""


class KeyStore:
    """Keys in ``folder``, at most ``most``. Safe to share among threads and processes."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._found: dict[str, Path] = {}
        self._looked = 0.0
        self._look()

    @property
    def count(self) -> int:
        """Keys that this process knows of."""
        return len(self._found)

    def path(self, digest: bytes) -> Path | None:
        """The file of a key, or None."""
        name = digest.hex()
        if name not in self._found and not self.until_next_look():
            self._look()
        return self._found.get(name)

    def until_next_look(self) -> float:
        """Return the seconds until keys that other processes registered are looked for."""
        return max(0.0, self._looked + _RESCAN - time.monotonic())

    def account(self, digest: bytes) -> bytes | None:
        """The account of a key, empty if it has none, or None if the key is not here."""
        if (path := self.path(digest)) is None:
            return None
        owner = path.parent.name
        return b"" if owner == NOBODY else bytes.fromhex(owner)

    def register(self, key: PublicKey) -> bool:
        """Keep a key. Returns False if it was there.

        Raises TooManyKeysError, or LinalignError when the folder cannot be written.
        """
        if self.path(key.digest) is not None:
            return False
        owner = self._folder / (key.account.hex() or NOBODY)
        with self._lock:
            mine = sum(p.parent == owner for p in self._found.values())
            few = mine < PER_ACCOUNT or owner.name == NOBODY
            if len(self._found) >= self._most or not few:
                raise TooManyKeysError("this service takes no more keys", hint="ask its operator")
            path = owner / f"{key.digest.hex()}.key"
            new = True
            with _written():
                owner.mkdir(mode=0o700, exist_ok=True)
                try:
                    key.save(path)
                except OutputExistsError:  # another process was faster
                    new = False
            self._found[key.digest.hex()] = path
        return new

    def keep_proof(self, digest: bytes, proof: bytes) -> None:
        """Keep the proof of a registered key, which the caller verified.

        Raises LinalignError when the folder cannot be written.
        """
        if (path := self.path(digest)) is not None:
            with _written():
                write_atomic(path.with_suffix(".proof"), proof)

    def _look(self) -> None:
        with self._lock:
            self._looked = time.monotonic()
            self._found = {p.stem: p for p in self._folder.glob("*/*.key")}


@contextlib.contextmanager
def _written() -> Iterator[None]:
    """Errors of the folder are the service's, not of a request."""
    try:
        yield
    except (OSError, InputError) as e:
        got, hint = str(e), "is the disk full, or the folder gone or read-only?"
        raise LinalignError("the folder of keys cannot be written", got=got, hint=hint) from e


def load_key(path: Path) -> PublicKey:
    """Read a registered key and its proof, if it has one. Raises LinalignError if it cannot."""
    from linalign_lite.encrypt.key_proof import load_proof

    proof = path.with_suffix(".proof")
    try:
        key = PublicKey.load(path)
        return load_proof(proof, key) if proof.exists() else key
    except (OSError, InputError) as e:
        raise LinalignError("a registered key cannot be read", got=str(e)) from e
