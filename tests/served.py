"""A real service in a process of its own, and heads to serve."""

import contextlib
import http.client
import json
import queue
import signal
import subprocess
import threading
from pathlib import Path

import numpy as np
from command_line import COMMAND

from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.space import Space
from linalign_lite.heads.serialization import save

DIM, CLASSES = 16, 4
SPACE = Space(DIM, "ab" * 32, "tests", "mean")


def a_head(seed=0, classes=CLASSES, space=SPACE):
    rng = np.random.default_rng(seed)
    labels = tuple(f"label {i}" for i in range(classes))
    return Head(rng.normal(size=(classes, DIM)), rng.normal(size=classes), labels, space)


def some_states(n, seed=1):
    values = np.random.default_rng(seed).normal(size=(n, DIM))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return HiddenStates(values.astype(np.float32), space=SPACE)


def close(scores, head, states):
    """Say whether scores are the head's, within the default error and their rounding."""
    exact = states.states @ head.weight.T + head.bias
    return np.abs(scores.values - exact).max() < 5e-3 + 10.0**-scores.decimals


def ask(served, method, path, body=b"", headers=None):
    """Send one request; return status and body of its answer."""
    address = served.url.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def write_heads(folder, count=1, *, workers=1, **more):
    """Heads head0, head1, …, and a configuration of them with ``more`` in each entry."""
    lines = ['keys = "keys"', "port = 0", f"workers = {workers}"]
    for i in range(count):
        save(folder / f"{i}.head.npz", a_head(i))
        lines += ["[[heads]]", f'name = "head{i}"', f'file = "{i}.head.npz"']
        lines += [f"{name} = {json.dumps(value)}" for name, value in more.items()]
    path = folder / "service.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


class Served:
    """A running `linalign-lite serve`: its process, address and log."""

    def __init__(self, configuration, *words):
        command = [*COMMAND, "serve", str(configuration), *map(str, words)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log, self._lines = [], queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.url = self.wait_for("ready")["url"]

    def _read(self):
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, event, seconds=60):
        while True:
            line = self._lines.get(timeout=seconds)
            if line is None:
                raise AssertionError(f"the service ended: {self.log}")
            self.log.append(line)
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if found["event"].startswith(event):
                    return found

    def children(self):
        """Process numbers of those that score."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                    spawned = "spawn_main" in (folder / "cmdline").read_text()
                    if int(parent) == self.process.pid and spawned:
                        found.append(int(folder.name))
        return found

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(configuration, *words):
    served = Served(configuration, *words)
    try:
        yield served
    finally:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait(60)
