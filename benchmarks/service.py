"""The scoring service under load, beside the library in process: (384, 10), single queries.

    python benchmarks/service.py [--seconds 15] [--workers 1] [--overload 60]

Client load and service share the machine. The load comes from a process of its own over kept
connections on loopback, with queries made before. Capacity: 1, 8 and 64 clients, each asking again
as soon as it is answered, beside as many processes that call the library on the same bytes, in
turn. Latency: requests at fixed times, at 80 % of the capacity that 64 clients had just before.
Overload: requests at ten times the capacity, each of which must get its answer or 429.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from common import publish

from linalign_lite import Client, Head, Provider, PublicKey, Query, Space, keygen
from linalign_lite.encrypt.messages import Response
from linalign_lite.heads.serialization import save
from linalign_lite.service.remote_provider import RemoteProvider

DIM, CLASSES, QUERIES = 384, 10, 200
ROUNDS, MOST = 5, 64
SIZES = (384, 2), (384, 150), (768, 20), (2048, 20), (4096, 20)  # dimensions, classes
CHECKED = 50  # answers of the overload that are decrypted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--overload", type=float, default=60.0, help="seconds of it")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), args.seconds, args.overload, args.workers)
    publish("service", found)


def measure(folder: Path, seconds: float, overload: float, workers: int) -> dict[str, Any]:
    secret, public = keygen()
    client = Client(secret)
    head, states, made = work(client, DIM, CLASSES, QUERIES)
    queries = [q.to_bytes() for q in made]
    save(folder / "head.npz", head)
    public.save(folder / "public.key")
    lines = ['keys = "keys"', "port = 0", f"workers = {workers}"]
    lines += ["[[heads]]", 'name = "h"', 'file = "head.npz"']
    sizes: dict[str, list[bytes]] = {}
    for dim, classes in SIZES:
        name = f"{dim}-{classes}"
        one, _, asked = work(client, dim, classes, 20)
        sizes[name] = [q.to_bytes() for q in asked]
        save(folder / f"{name}.npz", one)
        lines += ["[[heads]]", f'name = "{name}"', f'file = "{name}.npz"']
    (folder / "service.toml").write_text("\n".join(lines))
    with Served(folder / "service.toml") as served:
        with RemoteProvider(served.url, "h") as provider:
            provider.register(public)
        found: dict[str, Any] = {"workers": workers, "ready_s": served.seconds, "capacity": {}}
        found["idle_mb"] = served.memory()
        load = Load(served.url, queries)
        load.closed(8, 2.0)  # warm
        part, steady = seconds / ROUNDS, []
        for clients in (1, 8, 64):
            rounds = []
            for _ in range(ROUNDS):
                library = in_process(folder, queries, workers, part)
                answers = load.closed(clients, part)
                rate = len(answers.ms) / answers.seconds
                rounds.append(
                    {"library": library, "service": rate, "share": rate / library}
                    | answers.summary()
                )
                if clients == MOST:  # at once: the machine's clock changes
                    steady.append(load.open(0.8 * rate, clients, part).summary())
            found["capacity"][clients] = medians(rounds)
        found["at_80_percent"] = medians(steady)
        found["sizes"] = {}
        for name, some in sizes.items():
            answers = Load(served.url, some, name).closed(8, part)
            rate = len(answers.ms) / answers.seconds
            found["sizes"][name] = {"service": rate, "query": len(some[0])} | {
                "response": len(answers.kept[0][1])
            }
        capacity = found["capacity"][MOST]["service"]
        before = served.memory()
        flood = load.open(10 * capacity, 1024, overload)
        found["overload"] = {
            **{k: v for k, v in flood.summary().items() if "ms" not in k and "median" not in k},
            "asked_per_s": 10 * capacity,
            "mb_before": before,
            "mb_after": served.memory(),
            "mb_most": served.most(),
            "wrong": wrong(client, flood, made, states, head),
        }
    return found


def work(client: Client, dim: int, classes: int, n: int) -> tuple[Head, Any, list[Query]]:
    """Make a head, states, and a query of each state."""
    rng = np.random.default_rng(0)
    space = Space(dim, "ab" * 32, "benchmark", "mean")
    head = Head(rng.normal(size=(classes, dim)), rng.normal(size=classes), space=space)
    states = rng.normal(size=(n, dim))
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    return head, states, [client.encrypt(s[None], n_outputs=classes) for s in states]


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of every number over rounds; ratios of each round, too."""
    numbers = [k for k, v in rounds[0].items() if isinstance(v, float)]
    found: dict[str, Any] = {k: statistics.median(r[k] for r in rounds) for k in numbers}
    every = {k: [r[k] for r in rounds] for k in ("share", "p99_over_median") if k in numbers}
    return found | {"answered": sum(r["answered"] for r in rounds), "rounds": every}


def wrong(client: Client, flood: Answers, made: list[Query], states: Any, head: Head) -> int:
    """Answers, of those looked at, that are not the head's scores."""
    count = 0
    for index, body in flood.kept[:CHECKED]:
        scores = client.decrypt(Response.load(body), made[index]).values[0]
        exact = head.weight @ states[index] + head.bias
        count += int(np.abs(scores - exact).max() > 2e-2)
    return count


def in_process(folder: Path, queries: list[bytes], workers: int, seconds: float) -> float:
    """Queries a second of ``workers`` processes that call the library."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as pool:
        arguments = [(folder, queries, seconds)] * workers
        return sum(pool.starmap(_score_for, arguments, chunksize=1))


def _score_for(folder: Path, queries: list[bytes], seconds: float) -> float:
    from linalign_lite import load_head

    key = PublicKey.load(folder / "public.key")
    provider = Provider(load_head(folder / "head.npz"), keys=[key])
    provider.score(Query.load(queries[0]))
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        provider.score(Query.load(queries[count % len(queries)])).to_bytes()
        count += 1
    return count / (time.perf_counter() - began)


class Served:
    """The service in a process of its own."""

    def __init__(self, configuration: Path) -> None:
        began = time.perf_counter()
        command = [Path(sys.executable).with_name("linalign-lite"), "serve", configuration]
        log = (configuration.parent / "log").open("w")
        self.process = subprocess.Popen(command, stderr=log)
        self.url = ""
        while not self.url:
            text = (configuration.parent / "log").read_text()
            if address := re.search(r'"ready", "url": "([^"]*)"', text):
                self.url = address[1]
            elif self.process.poll() is not None:
                raise SystemExit(text)
            time.sleep(0.02)
        self.seconds = time.perf_counter() - began

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def _processes(self) -> list[str]:
        found = [str(self.process.pid)]
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                except OSError:
                    continue
                if parent == str(self.process.pid):
                    found.append(folder.name)
        return found

    def _megabytes(self, name: str) -> float:
        total = 0
        for process in self._processes():
            text = Path(f"/proc/{process}/status").read_text()
            total += int(re.search(rf"{name}:\s+(\d+)", text)[1])  # type: ignore[index]
        return round(total / 1024, 1)

    def memory(self) -> float:
        """Megabytes of the service and its processes now."""
        return self._megabytes("VmRSS")

    def most(self) -> float:
        """The most megabytes that they had, each at its own time."""
        return self._megabytes("VmHWM")


@dataclass
class Answers:
    """Answers to requests. ``kept``: some bodies, with the number of their query."""

    ms: list[float] = field(default_factory=list)
    status: Counter[int] = field(default_factory=Counter)
    kept: list[tuple[int, bytes]] = field(default_factory=list)
    lost: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        ms = np.array(self.ms) if self.ms else np.array([np.nan])
        p50, p99 = np.percentile(ms, [50, 99]).tolist()
        return {
            "answered": len(self.ms),
            "status": {str(k): v for k, v in sorted(self.status.items())},
            "lost": self.lost,
            "median_ms": p50,
            "p99_ms": p99,
            "p99_over_median": p99 / p50,
        }


class Load:
    """Requests from a process of its own."""

    def __init__(self, url: str, queries: list[bytes], head: str = "h") -> None:
        self.address, self.queries = url.removeprefix("http://").split(":"), queries
        self.head = head

    def closed(self, clients: int, seconds: float) -> Answers:
        return self._run(clients, seconds, None)

    def open(self, rate: float, connections: int, seconds: float) -> Answers:
        return self._run(connections, seconds, rate)

    def _run(self, clients: int, seconds: float, rate: float | None) -> Answers:
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            arguments = (self.address, self.head, self.queries, clients, seconds, rate)
            found: Answers = pool.apply(_asking, arguments)
        return found


def _asking(
    address: list[str],
    head: str,
    queries: list[bytes],
    clients: int,
    seconds: float,
    rate: float | None,
) -> Answers:
    gc.disable()  # no pauses that are not the service's
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Asking(head, queries, seconds, rate).run(address, clients))


class _Asking:
    """Asks over some connections; ``idle`` holds those that wait for a request."""

    def __init__(self, head: str, queries: list[bytes], seconds: float, rate: float | None) -> None:
        start = f"POST /v1/heads/{head}/score HTTP/1.1\r\nHost: x\r\nContent-Length: "
        self.requests = [start.encode() + b"%d\r\n\r\n" % len(q) + q for q in queries]
        self.seconds, self.rate = seconds, rate
        self.found, self.idle = Answers(), asyncio.Queue[_Connection]()

    async def run(self, address: list[str], clients: int) -> Answers:
        loop = asyncio.get_running_loop()
        for _ in range(clients):
            await loop.create_connection(lambda: _Connection(self), address[0], int(address[1]))
        began, made = time.perf_counter(), 0
        while (now := time.perf_counter()) - began < self.seconds:
            due = began + made / self.rate if self.rate else now
            if due > now:
                await asyncio.sleep(due - now)
            # a request that is late counts from the time at which it was due
            connection = await self.idle.get()
            connection.ask(made % len(self.requests), due if self.rate else time.perf_counter())
            made += 1
        for _ in range(clients - self.found.lost):
            (await self.idle.get()).transport.close()
        self.found.seconds = time.perf_counter() - began
        return self.found


class _Connection(asyncio.Protocol):
    """One connection that is kept, with one request at a time."""

    def __init__(self, asking: _Asking) -> None:
        self.asking, self.buffer = asking, b""
        self.index, self.started, self.busy = 0, 0.0, False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.asking.idle.put_nowait(self)

    def ask(self, index: int, started: float) -> None:
        self.index, self.started, self.busy = index, started, True
        self.transport.write(self.asking.requests[index])

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, _, body = self.buffer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length is None or len(body) < int(length[1]):
            return
        self.busy = False
        found, status, self.buffer = self.asking.found, int(head.split(b" ", 2)[1]), b""
        found.status[status] += 1
        if status == 200:
            found.ms.append(1e3 * (time.perf_counter() - self.started))
            if len(found.kept) < CHECKED:
                found.kept.append((self.index, body))
        self.asking.idle.put_nowait(self)

    def connection_lost(self, _: Exception | None) -> None:
        if self.busy:
            self.asking.found.lost += 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
