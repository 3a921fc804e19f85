"""Clients that ask a service without pause, and check each answer and each charge."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from served import a_head, some_states

from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.signing import SigningKey
from linalign_lite.encrypt.budgets.budget import Budget
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.keys import keygen
from linalign_lite.encrypt.messages import Query
from linalign_lite.errors import LinalignError
from linalign_lite.service.remote_provider import RemoteProvider

PATIENCE = 120.0  # seconds without an answer


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Load:
    """Clients of one account; each asks a new query once the one before is answered right."""

    def __init__(self, url: str, *, clients: int = 3, tries: int = 30, seed: int = 0) -> None:
        self.url, self._tries, self._seed = url, tries, seed
        self.account = SigningKey.generate()
        self.secret, self.public = keygen(account=self.account)
        self.answered: list[tuple[Query, int]] = []  # and its states
        self.failed: Counter[str] = Counter()  # tries, by what was answered
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]

    @property
    def states(self) -> int:
        """States of all queries that were answered."""
        return sum(n for _, n in self.answered)

    def register(self) -> None:
        with RemoteProvider(self.url) as provider:
            provider.register(self.public)

    def _ask(self, number: int) -> None:
        r, client = Random(f"{self._seed} {number}"), Client(self.secret, account=self.account)
        with RemoteProvider(self.url, "head0", tries=self._tries) as provider:
            while not self._stop.is_set():
                states = some_states(n := r.randrange(1, 4), r.randrange(1 << 30))
                query, limit = client.encrypt(states), time.monotonic() + PATIENCE
                while time.monotonic() < limit and not self._answers(
                    provider, client, query, states
                ):
                    time.sleep(0.05)
                with self._lock:
                    self.answered.append((query, n))

    def _answers(
        self, provider: RemoteProvider, client: Client, query: Query, states: HiddenStates
    ) -> bool:
        try:
            values = client.decrypt(provider.score(query), query).values
        except LinalignError as e:
            text = re.sub(r" at http\S+", "", str(e))
            self.failed[f"{type(e).__name__}: {text}"] += 1
            return False
        exact = states.states @ a_head().weight.T + a_head().bias
        right = bool(np.abs(values - exact).max() < 2e-2)
        self.failed["a wrong score"] += not right
        return right

    def check_charges(self, place: Path) -> None:
        """Every query was charged once, and is free when it is asked again."""
        (usage,) = Budget(place).usage()
        assert (usage.used, usage.pending) == (self.states, 0)
        with RemoteProvider(self.url, "head0") as provider:
            for query, _ in self.answered[-5:]:
                provider.score(query)
            assert provider.budget(self.account)["used"] == self.states

    def wait_for(self, more: int) -> None:
        """Return after so many more answers. Raises AssertionError when they do not come."""
        goal, limit = len(self.answered) + more, time.monotonic() + PATIENCE
        while len(self.answered) < goal:
            assert time.monotonic() < limit, f"no answer in {PATIENCE:.0f} s: {self.failed}"
            time.sleep(0.01)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Ask while the block runs; then wait for the last answers."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(2 * PATIENCE)
        assert not any(thread.is_alive() for thread in self._threads)
