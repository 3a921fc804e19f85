"""How long it takes to start: the import, `--help`, and the demo, each in a fresh process.

python benchmarks/start.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import publish, side_by_side

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
    })  # fmt: skip


if __name__ == "__main__":
    main()
