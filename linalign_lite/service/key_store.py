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
_PAUSE, _LONGEST = 0.02, 1.0  # seconds between two looks at what other processes registered
_SHARE = 30  # times that a look took, between two


class KeyStore:
    """Keys in ``folder``, at most ``most``; a client whose key went registers it again.

    Safe to share among threads and processes.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._found: dict[str, Path] = {}
        self._looked, self._pause = 0.0, 0.0
        self.look()

    @property
    def count(self) -> int:
        """Keys that this process knows of."""
        return len(self._found)

    def path(self, digest: bytes) -> Path | None:
        """The file of a key, or None if this process knows of none."""
        return self._found.get(digest.hex())

    def until_next_look(self) -> float:
        """Return the seconds until keys that other processes registered may be looked for."""
        return max(0.0, self._looked + self._pause - time.monotonic())

    def look(self) -> None:
        """Look for keys that other processes registered, unless that was done just now."""
        with self._lock:
            if self.until_next_look() > _PAUSE:
                return
            began = time.monotonic()
            self._found = {p.stem: p for p in self._folder.glob("*/*.key")}
            self._looked = time.monotonic()
            self._pause = min(_LONGEST, max(_PAUSE, _SHARE * (self._looked - began)))

    def account(self, digest: bytes) -> bytes | None:
        """The account of a key, empty if it has none, or None if the key is not here."""
        if (path := self.path(digest)) is None:
            return None
        owner = path.parent.name
        return b"" if owner == NOBODY else bytes.fromhex(owner)

    def register(self, key: PublicKey) -> bool:
        """Keep a key, and forget the oldest of too many. Returns False if it was there.

        Raises LinalignError when the folder cannot be written.
        """
        if self.path(key.digest) is not None:
            return False
        owner = self._folder / (key.account.hex() or NOBODY)
        path, new = owner / f"{key.digest.hex()}.key", True
        with _written():
            self._make_room(owner)
            owner.mkdir(mode=0o700, exist_ok=True)
            try:
                key.save(path)
            except OutputExistsError:  # another process was faster
                new = False
        with self._lock:
            self._found[key.digest.hex()] = path
        return new

    def _make_room(self, owner: Path) -> None:
        """Forget the oldest key of an account that has its share, or of all, first of nobody's."""
        found = list(self._found.values())
        mine = [path for path in found if path.parent == owner]
        if owner.name != NOBODY and len(mine) >= PER_ACCOUNT:
            candidates = mine
        elif len(found) >= self._most:
            candidates = [path for path in found if path.parent.name == NOBODY] or found
        else:
            return
        oldest = min(candidates, key=_age)
        oldest.unlink(missing_ok=True)
        oldest.with_suffix(".proof").unlink(missing_ok=True)
        with self._lock:
            self._found.pop(oldest.stem, None)

    def keep_proof(self, digest: bytes, proof: bytes) -> None:
        """Keep the proof of a registered key, which the caller verified.

        Raises LinalignError when the folder cannot be written.
        """
        if (path := self.path(digest)) is not None:
            with _written():
                write_atomic(path.with_suffix(".proof"), proof)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it went
        return 0.0


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
