"""Shared by the demonstrations: steps with their times, a client's keys, sizes of messages."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linalign_lite.encrypt.keys import PublicKey, SecretKey, keygen
from linalign_lite.storage.atomic import write_atomic

Say = Callable[[str], None]


class Steps:
    """Print steps, numbered, and keep their seconds."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[list[str]]:
        """Print the name of a step when it is over, then the lines that the block added."""
        lines: list[str] = []
        started = time.perf_counter()
        yield lines
        self.seconds[name] = time.perf_counter() - started
        self.say(f"{len(self.seconds)}. {name}  [{self.seconds[name]:.1f} s]")
        for line in lines:
            self.say(f"     {line}")

    def rounded(self) -> dict[str, float]:
        """Seconds by step, for the figures."""
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}


def make_folders(out: Path) -> tuple[Path, Path, Path]:
    """Make the folders of the provider, of the client, and of what passes between them."""
    provider, client, exchange = (out / name for name in ("provider", "client", "exchange"))
    for folder in (provider, client, exchange):
        folder.mkdir(parents=True, exist_ok=True)
    return provider, client, exchange


def write_figures(out: Path, figures: dict[str, Any]) -> None:
    """Write out/figures.json."""
    write_atomic(out / "figures.json", (json.dumps(figures, indent=2) + "\n").encode())


def new_keys(folder: Path) -> tuple[SecretKey, PublicKey]:
    """Make a key pair, and the folder for it."""
    folder.mkdir(mode=0o700)
    secret, public = keygen()
    secret.save(folder / "secret.key")
    public.save(folder / "public.key")
    return secret, public


def size_line(path: Path, count: int) -> str:
    """Say how large a message of ``count`` queries is."""
    size = path.stat().st_size
    each = f", {size / count / 1e3:.0f} kB each" if count > 1 else ""
    queries = f"{count} queries" if count > 1 else "1 query"
    return f"{path.name}: {queries}, {size / 1e6:.1f} MB{each}"
