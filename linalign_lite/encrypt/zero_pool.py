"""Encryptions of zero under a client's public key, made ahead of its queries.

They are most of the private profile's cost. Each must mask one product only: the difference of two
under one mask reveals the head. So they stay in memory, and a forked process starts without.
"""

import os
import threading
from collections import deque
from typing import Any

from linalign_lite.encrypt.keys import PublicKey, scheme_for


class Zeros:
    """A stock of encryptions of zero under ``key``, more on demand. Safe to share among threads."""

    def __init__(self, key: PublicKey, count: int = 0) -> None:
        self.key = key
        self._side = scheme_for(key.parameters).server_side()
        self._public_key = self._side.load_public_key(key.payload)
        self._stock: deque[Any] = deque()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self.fill(count)

    @property
    def stock(self) -> int:
        """Number of encryptions of zero that are ready."""
        return len(self._stock) if self._process == os.getpid() else 0

    def fill(self, count: int) -> None:
        """Make more until ``count`` are ready. 128 KiB each."""
        while self.stock < count:
            zero = self._side.encrypt_zero(self._public_key)
            with self._lock:
                self._drop_inherited()
                self._stock.append(zero)

    def take(self) -> Any:
        """Return one, for a single use."""
        with self._lock:
            self._drop_inherited()
            if self._stock:
                return self._stock.popleft()
        return self._side.encrypt_zero(self._public_key)

    def _drop_inherited(self) -> None:
        if self._process != os.getpid():  # the parent uses these
            self._stock.clear()
            self._process = os.getpid()
