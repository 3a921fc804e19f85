"""Encryptions of zero under a client's public key, made ahead of its queries.

They are most of what the private profile adds to the cost of a score, and depend on nothing but the
key. Each masks one product and must never mask two: the difference of two replies under one mask
gives the head away. So they live in memory only, each is handed out once, and a process that forks
does not take them along.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Any

from linalign_lite.encrypt.keys import PublicKey, scheme_for


class Zeros:
    """A stock of encryptions of zero under ``key``; made on demand when it is empty.

    Safe to share among threads.
    """

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
        """How many are ready."""
        return len(self._stock) if self._process == os.getpid() else 0

    def fill(self, count: int) -> None:
        """Make more until there are ``count``. 128 KiB each."""
        while self.stock < count:
            zero = self._side.encrypt_zero(self._public_key)
            with self._lock:
                self._own()
                self._stock.append(zero)

    def take(self) -> Any:
        """One that nobody else has or had."""
        with self._lock:
            self._own()
            if self._stock:
                return self._stock.popleft()
        return self._side.encrypt_zero(self._public_key)

    def _own(self) -> None:
        if self._process != os.getpid():  # the parent hands these out
            self._stock.clear()
            self._process = os.getpid()
