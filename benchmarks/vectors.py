"""Measure `apply`: vectors mapped from Parquet to Parquet, beside the disk and the product alone.

    python benchmarks/vectors.py [--quick] [--rows N] [--folder DIR]

A million vectors of 768 dimensions are mapped to 384, by the command in a process of its own, which
gives its peak memory. disk: read the input, dropped from the cache before, then write and sync as
many bytes as the output has. product: the product alone, in memory. A round measures each once, one
after the other; share is the slower of disk and product over the command. killed: the command is
killed when half is done, and run again. Needs the extra `parquet`.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import evict, publish, timed

import linalign_lite as la

ROWS, ROUNDS = 1_000_000, 3
SOURCE, TARGET = 768, 384
BLOCK = 8 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 vectors, one round")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--folder", type=Path, help="where to write the files; default: temporary")
    args = parser.parse_args()
    rows, rounds = (20_000, 1) if args.quick else (args.rows, ROUNDS)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        figures = measure(Path(name), rows, rounds)
    if args.quick or rows != ROWS:
        print(figures)
    else:
        publish("vectors", figures)


def measure(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    source, out, map_file = folder / "x.parquet", folder / "y.parquet", folder / "m.map.npz"
    make_vectors(source, rows)
    weight = np.random.default_rng(1).standard_normal((TARGET, SOURCE), dtype=np.float32)
    la.save(map_file, la.AffineMap(weight, np.zeros(TARGET, np.float32)))
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        evict(source)
        took, memory = run_apply(map_file, source, out)
        size = out.stat().st_size
        disk = read_and_write(source, folder / "copy", size)
        product = multiply(weight, rows)
        share = max(disk, product) / took
        found.append({"apply": took, "disk": disk, "product": product, "share": share,
                      "memory_mb": memory / 1024})  # fmt: skip
        print(found[-1], file=sys.stderr)
    return {
        "rows": rows,
        "dimensions": [SOURCE, TARGET],
        "bytes": [source.stat().st_size, out.stat().st_size],
        "rounds": found,
        "median": {key: statistics.median(r[key] for r in found) for key in found[0]},
        "killed": kill_and_resume(map_file, source, out, size),
    }


def make_vectors(path: Path, rows: int) -> None:
    """Write vectors as pyarrow users do: a list column, an id, a text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, step = np.random.default_rng(0), 20_000
    kind = pa.list_(pa.float32())
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("embedding", kind)])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for first in range(0, rows, step):
            n = min(step, rows - first)
            flat = pa.array(rng.standard_normal(n * SOURCE, dtype=np.float32))
            ends = pa.array(np.arange(0, n * SOURCE + 1, SOURCE, dtype=np.int32))
            ids = [f"doc-{i}" for i in range(first, first + n)]
            texts = [f"The text of document {i}." for i in range(first, first + n)]
            lists = pa.ListArray.from_arrays(ends, flat)
            writer.write_table(pa.table([pa.array(ids), pa.array(texts), lists], schema=schema))


def command(map_file: Path, source: Path, out: Path) -> list[str]:
    program = "import sys; from linalign_lite.commands import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", program, "apply", *map(str, (map_file, source, out)), "-q"]


def run_apply(map_file: Path, source: Path, out: Path) -> tuple[float, int]:
    """Seconds, and the most memory of the process in kB."""
    out.unlink(missing_ok=True)
    began = time.perf_counter()
    process = subprocess.Popen(command(map_file, source, out), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"apply failed: {status}")
    return time.perf_counter() - began, usage.ru_maxrss


def read_and_write(source: Path, copy: Path, size: int) -> float:
    """Seconds to read a file, and to write and sync ``size`` bytes."""
    evict(source)
    began = time.perf_counter()
    with source.open("rb", buffering=0) as f:
        while f.read(BLOCK):
            pass
    block = np.random.default_rng(2).bytes(BLOCK)
    with copy.open("wb", buffering=0) as f:
        for at in range(0, size, BLOCK):
            f.write(block[: size - at])
        os.fsync(f.fileno())
    took = time.perf_counter() - began
    copy.unlink()
    return took


def multiply(weight: Any, rows: int) -> float:
    """Seconds of the products alone, of blocks in memory."""
    block = np.random.default_rng(3).standard_normal((8192, SOURCE), dtype=np.float32)
    count = rows / len(block)
    return timed(lambda: block @ weight.T, max(3, round(count))) * count


def kill_and_resume(map_file: Path, source: Path, out: Path, size: int) -> dict[str, float]:
    """Kill the command when half of the output is there; seconds until then, and of the rest."""
    out.unlink()
    data = out.with_name(out.name + ".unfinished") / "data"
    began = time.perf_counter()
    process = subprocess.Popen(command(map_file, source, out), stdout=subprocess.DEVNULL)
    while process.poll() is None and not (data.exists() and data.stat().st_size > size / 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.perf_counter() - began
    evict(source)
    process_began = time.perf_counter()
    subprocess.run(command(map_file, source, out), check=True, stdout=subprocess.DEVNULL)
    return {"until_killed": until, "resumed": time.perf_counter() - process_began}


if __name__ == "__main__":
    main()
