"""Create, verify and install a bundle of 200 MB, beside a plain SHA-256 and a plain copy of it.

python benchmarks/bundle.py [--megabytes 200] [--rounds 7] [--folder DIR] [--quick]

The bundle holds one exported model whose graph is random bytes. All is in the page cache; what is
written is forced to the disk, by the copy too. Peak memory is of processes of their own, above
that of one that only imports the library. Figures are of the machine's disk as much as of the code:
compare them with the copy.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import publish, side_by_side

from linalign_lite.bundle.reading import install_bundle, verify_bundle
from linalign_lite.bundle.writing import create_bundle
from linalign_lite.core.signing import SigningKey
from linalign_lite.extraction.model_card import ModelCard, seal_card

CHUNK = 1 << 20


def model(folder: Path, size: int) -> Path:
    """A folder with a sound card and a graph of ``size`` random bytes."""
    folder.mkdir()
    with (folder / "model.onnx").open("wb") as f:
        for start in range(0, size, CHUNK):
            f.write(os.urandom(min(CHUNK, size - start)))
    (folder / "tokenizer.json").write_text("{}")
    seal_card(folder, ModelCard("random", "None", "embed", 8, 8, 8, "mean", True, "fp32", 17))
    return folder


def copy(source: Path, target: Path) -> None:
    """`cp`, and on the disk when it returns."""
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    with target.open("r+b") as f:
        os.fsync(f.fileno())


def plain_hash(path: Path) -> None:
    with path.open("rb") as f:
        hashlib.file_digest(f, "sha256").hexdigest()


def fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    return path


def peak_mb(what: str, *words: str) -> float:
    """Peak resident memory of this file's --only WHAT in a process of its own, in MB."""
    code = f"import bundle, sys; bundle.only({what!r}, *sys.argv[1:])"
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return float(done.stdout.split()[-1])


def only(what: str, *words: str) -> None:
    """One call, and then what memory this process took at most."""
    if what != "nothing":
        source, out, keys = words
        key = SigningKey.load(Path(keys) / "signing.key")
        match what:
            case "create":
                create_bundle(out, [source], key=key)
            case "verify":
                verify_bundle(source, keys=[key.verifying])
            case _:
                install_bundle(source, out, keys=[key.verifying])
    # not getrusage, whose peak is inherited from the process that started this one
    status = Path("/proc/self/status").read_text()
    print(int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024 / 1e6)


def memory(place: Path, source: Path, made: Path) -> dict[str, float]:
    base = peak_mb("nothing")
    calls = {
        "create": (source, place / "m.bundle", place),
        "verify": (made, made, place),
        "install": (made, fresh(place / "m.out"), place),
    }
    return {what: peak_mb(what, *map(str, words)) - base for what, words in calls.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", help="where to write: what its disk does, counts")
    parser.add_argument("--quick", action="store_true", help="8 MB, once, and nothing published")
    args = parser.parse_args()
    size = (8 if args.quick else args.megabytes) * 1_000_000
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        figures = measured(Path(folder), size, 1 if args.quick else args.rounds)
    if args.quick:
        print(figures)
    else:
        publish("bundle", figures)


def measured(place: Path, size: int, rounds: int) -> dict[str, Any]:
    key = SigningKey.generate()
    key.save(place / "signing.key")
    source, made, out = model(place / "model", size), place / "x.bundle", place / "out"
    create_bundle(made, [source], key=key)
    seconds = side_by_side({
        "create": lambda: create_bundle(made, [source], key=key),
        "verify": lambda: verify_bundle(made, keys=[key.verifying]),
        "install": lambda: install_bundle(made, fresh(out), keys=[key.verifying]),
        "sha256": lambda: plain_hash(made),
        "copy": lambda: copy(made, place / "copy"),
    }, rounds)  # fmt: skip
    rates = {name: [size / s / 1e6 for s in found] for name, found in seconds.items()}
    return {
        "bytes": size,
        "rounds": rounds,
        "mb_per_second": {
            name: {"median": statistics.median(r), "min": min(r), "max": max(r)}
            for name, r in rates.items()
        },
        "memory_mb_above_import": memory(place, source, made),
    }


if __name__ == "__main__":
    main()
