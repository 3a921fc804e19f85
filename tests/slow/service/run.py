"""Hostile requests to a running service, many of them, while others are answered right.

python tests/slow/service/run.py [--requests 200000] [--seed 0] [--threads 8]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:1] = [str(HERE.parent), str(HERE.parent.parent), str(HERE.parent.parent / "service")]

from served import CLASSES, Served, a_head, serving, some_states, write_heads

from linalign_lite.core.signing import SigningKey
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.key_proof import proof_bytes, proven
from linalign_lite.encrypt.keys import keygen
from linalign_lite.errors import LinalignError
from linalign_lite.service.remote_provider import RemoteProvider
from service.attempts import Attempt, Corpus, draw

STUCK = 30.0  # seconds without an answer that are a finding
SLOW, FLOOD = 8, 1000  # senders of a byte a second; connections at once
REQUEST_SECONDS = 5


@dataclass
class Found:
    """Outcomes, of all threads. ``findings``: what went wrong: its count, and one example."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    findings: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    right: int = 0  # queries that were answered right meanwhile

    def wrong(self, problem: str, data: bytes = b"") -> None:
        with self.lock:
            count, kept = self.findings.get(problem, (0, data))
            self.findings[problem] = count + 1, min(kept, data, key=len)


class Connection:
    """A connection that is kept while it can be."""

    def __init__(self, address: tuple[str, int], found: Found) -> None:
        self._address, self._found = address, found
        self._socket: socket.socket | None = None
        self._left = b""

    def close(self) -> None:
        if self._socket:
            self._socket.close()
        self._socket, self._left = None, b""

    def attempt(self, kind: str, attempt: Attempt) -> None:
        """Send, read answers and judge them."""
        kept = not (attempt.ends or attempt.leaves or attempt.dropped)
        if not kept:
            self.close()
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=STUCK)
        statuses: list[str] = []
        closed = self._talk(attempt, statuses, kind)
        expected = attempt.answers if attempt.answers is not None else 0 if closed else 1
        if not (attempt.dropped or attempt.leaves) and len(statuses) < expected:
            self._found.wrong(f"{kind}: {len(statuses)} answers of {expected}", attempt.data)
        if closed or not kept or attempt.data.startswith(b"HEAD"):
            self.close()
        with self._found.lock:
            self._found.kinds[kind] += 1
            self._found.statuses.update(statuses or ["none"])

    def _talk(self, attempt: Attempt, statuses: list[str], kind: str) -> bool:
        """Return True if the service closed the connection."""
        assert self._socket
        try:
            self._socket.sendall(attempt.data)
            if attempt.leaves:
                return True
            if attempt.ends:
                self._socket.shutdown(socket.SHUT_WR)
            while attempt.ends or len(statuses) < (attempt.answers or 1):
                status = self._answer(attempt, kind)
                if status is None:
                    return True
                if status != 100:
                    statuses.append(str(status))
                if attempt.data.startswith(b"HEAD"):
                    return True
        except TimeoutError:
            self._found.wrong(f"{kind}: no answer in {STUCK:.0f} s", attempt.data)
            return True
        except OSError:
            return True
        return False

    def _answer(self, attempt: Attempt, kind: str) -> int | None:
        """Read one answer; None when there is no more."""
        while b"\r\n\r\n" not in self._left:
            if not self._more():
                return None
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        size = int(lines.get(b"content-length", b"0"))
        while len(self._left) < size and not attempt.data.startswith(b"HEAD"):
            if not self._more():
                return None
        body, self._left = self._left[:size], self._left[size:]
        if status not in attempt.statuses:
            self._found.wrong(f"{kind}: status {status}", attempt.data)
        if status >= 400 and not attempt.data.startswith(b"HEAD"):
            with contextlib.suppress(ValueError):
                if lines.get(b"content-type") == b"text/plain; charset=utf-8" and status == 400:
                    return status
                if json.loads(body).keys() == {"error", "message"}:
                    return status
            self._found.wrong(f"{kind}: an error of another form", attempt.data)
        return status

    def _more(self) -> bool:
        assert self._socket
        data = self._socket.recv(1 << 16)
        self._left += data
        return bool(data)


class Log:
    """The service's log: events are counted, and lines that are no JSON are kept."""

    def __init__(self, served: Served) -> None:
        self._lines = served._lines
        self.events: Counter[str] = Counter()
        self.strange: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(queue.Empty):
            while (line := self._lines.get(timeout=600)) is not None:
                try:
                    self.events[json.loads(line)["event"]] += 1
                except (ValueError, KeyError, TypeError):
                    self.strange.append(line)


def slow_sender(address: tuple[str, int], stop: threading.Event, number: int) -> None:
    """Send one byte a second of a request that announces the most, again and again."""
    head = b"POST /v1/heads/head0/score HTTP/1.1\r\nContent-Length: 67108864\r\n\r\n"
    data = head + bytes(1000) if number % 2 else head
    while not stop.is_set():
        with (
            contextlib.suppress(OSError),
            socket.create_connection(address, timeout=STUCK) as sender,
        ):
            if number % 2:
                sender.sendall(head)
            for byte in data:
                if stop.wait(1):
                    return
                sender.sendall(bytes([byte]))


def flood(address: tuple[str, int]) -> None:
    """Open many connections at once, each with half of a request."""
    with contextlib.ExitStack() as opened:
        for _ in range(FLOOD):
            with contextlib.suppress(OSError):
                one = opened.enter_context(socket.create_connection(address, timeout=STUCK))
                one.sendall(b"GET /hea")
        time.sleep(0.5)


def memory(served: Served) -> float:
    """MB of the service and its processes."""
    total = 0
    for process in (served.process.pid, *served.children()):
        status = Path(f"/proc/{process}/status").read_text()
        total += int(status.partition("VmRSS:")[2].split()[0])
    return total / 1e3


def run(folder: Path, requests: int, seed: int, threads: int) -> dict[str, Any]:
    """Start a service, send as many requests, and return what was found."""
    path = write_heads(folder, 1, budget="budget.sqlite", limit=1 << 40)
    path.write_text(f"request_seconds = {REQUEST_SECONDS}\n" + path.read_text())
    signer, found = SigningKey.generate(), Found()
    made = [keygen(account=signer) for _ in range(3)]
    client = Client(made[0][0], account=signer)
    corpus = Corpus(
        [client.encrypt(some_states(n), n_outputs=CLASSES).to_bytes() for n in (1, 3)],
        [public.to_bytes() for _, public in made],
        [proof_bytes(proven(*made[0]))],
        [made[0][1].digest.hex()],
    )
    with serving(path) as served:
        log, stop = Log(served), threading.Event()
        host, port = served.url.removeprefix("http://").split(":")
        address, left = (host, int(port)), iter(range(requests))

        def send(number: int) -> None:
            connection = Connection(address, found)
            for i in left_safely():
                connection.attempt(*draw(Random(f"{seed} {i}"), corpus))
            connection.close()

        def left_safely():
            while True:
                with found.lock:
                    i = next(left, None)
                if i is None:
                    return
                yield i

        def ask_right() -> None:
            with RemoteProvider(served.url, "head0", tries=3) as provider:
                while not stop.wait(0.1):
                    check(provider)

        def check(provider: RemoteProvider) -> None:
            states = some_states(2, found.right)
            exact = states.states @ a_head().weight.T + a_head().bias
            query = client.encrypt(states)
            try:
                scores = client.decrypt(provider.score(query), query)
            except (LinalignError, OSError) as e:
                found.wrong(f"a right query: {type(e).__name__} {e}")
                return
            if abs(scores.values - exact).max() > 1e-2:
                found.wrong("a wrong score")
            found.right += 1

        with RemoteProvider(served.url, "head0") as provider:
            provider.register(made[0][1])
            check(provider)
        before, began = memory(served), time.monotonic()
        senders = [threading.Thread(target=send, args=(i,)) for i in range(threads)]
        others = [threading.Thread(target=ask_right)]
        others += [
            threading.Thread(target=slow_sender, args=(address, stop, i)) for i in range(SLOW)
        ]
        for thread in senders + others:
            thread.start()
        peak = before
        while any(thread.is_alive() for thread in senders):
            flood(address)
            for _ in range(20):
                peak = max(peak, memory(served))
                senders[0].join(0.5)
        stop.set()
        for thread in senders + others:
            thread.join(2 * STUCK)
        seconds = time.monotonic() - began
        with RemoteProvider(served.url, "head0", tries=1) as provider:
            check(provider)
            lost = "linalign_processes_lost 0.0" in provider._send("GET", "/metrics", b"").decode()
        if not lost:
            found.wrong("a process was lost")
        after = memory(served)
        if served.stop() != 0:
            found.wrong(f"the service ended with {served.process.returncode}")
    for line in log.strange[:5]:
        found.wrong(f"the log: {line[:300]}")
    bad = ("failed", "cannot answer", "Exception")
    if count := sum(n for event, n in log.events.items() if event.startswith(bad)):
        found.wrong(f"the log: {count} failures")
    return {
        "seconds": round(seconds),
        "requests": sum(found.kinds.values()),
        "kinds": dict(found.kinds.most_common()),
        "statuses": dict(found.statuses.most_common()),
        "right": found.right,
        "log": dict(log.events.most_common()),
        "megabytes": {"before": before, "peak": peak, "after": after},
        "findings": {
            k: (n, data[:200].decode("latin-1")) for k, (n, data) in found.findings.items()
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = run(Path(folder), options.requests, options.seed, options.threads)
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    return 1 if told["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
