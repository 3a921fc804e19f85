"""Start-up time of the import, `--help` and the demo, each in a fresh process; size of an install.

    python benchmarks/start.py [--rounds 15]

Disk: bytes of the files of every distribution of a base install, compiled ones included, without
Python and pip.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import publish, side_by_side
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import linalign_lite

HERE = str(Path(sys.executable).parent)
COMMAND = shutil.which("linalign-lite", path=HERE) or shutil.which("linalign-lite") or ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    if not COMMAND:
        sys.exit("the command linalign-lite is not installed: pip install .")

    def process(*words: str) -> Any:
        return lambda: subprocess.run(words, check=True, capture_output=True)

    seconds = side_by_side({
        "python -c pass": process(sys.executable, "-c", "pass"),
        "import numpy": process(sys.executable, "-c", "import numpy"),
        "import linalign_lite": process(sys.executable, "-c", "import linalign_lite"),
        "linalign-lite --help": process(COMMAND, "--help"),
    }, args.rounds)  # fmt: skip
    base = statistics.median(seconds["python -c pass"])
    medians = {k: statistics.median(v) for k, v in seconds.items()}
    demo = side_by_side({"linalign-lite demo": process(COMMAND, "demo")}, 3)
    publish("start", {
        "rounds": args.rounds,
        "median_seconds": medians | {k: statistics.median(v) for k, v in demo.items()},
        "import_seconds_beyond_python": medians["import linalign_lite"] - base,
        "installed_bytes": installed(),
    })  # fmt: skip


def installed(name: str = "linalign-lite") -> dict[str, dict[str, int]]:
    """Bytes on the disk of a plain install: ours, and each dependency's with what it brings along.

    A distribution that several bring along counts for the first of them in our own order; one that
    we ask for ourselves counts for itself alone.
    """
    asked = _requires(name)
    seen, found = {name, *asked}, {name: {name: _size(name)}}
    for top in asked:
        found[top], waiting = {}, [top]
        while waiting:
            one = waiting.pop(0)
            found[top][one] = _size(one)
            fresh = [n for n in _requires(one) if n not in seen]
            seen.update(fresh)
            waiting += fresh
    return found


def _requires(name: str) -> list[str]:
    """Requirements of a distribution without extras, in its own order, each once."""
    texts = importlib.metadata.distribution(name).requires or ()
    wanted = [
        r for r in map(Requirement, texts) if not r.marker or r.marker.evaluate({"extra": ""})
    ]
    return list(dict.fromkeys(canonicalize_name(r.name) for r in wanted))


def _size(name: str) -> int:
    distribution = importlib.metadata.distribution(name)
    ours = name == "linalign-lite"  # may be a checkout, which lists no files
    files = _own() if ours else map(distribution.locate_file, distribution.files or ())
    return sum(p.stat().st_size for p in (Path(str(f)) for f in files) if p.is_file())


def _own() -> Iterator[Path]:
    package = Path(linalign_lite.__file__).parent
    return (p for p in package.rglob("*") if "__pycache__" not in p.parts)


if __name__ == "__main__":
    main()
