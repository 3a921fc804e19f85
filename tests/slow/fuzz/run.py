"""The long run: every target in a process of its own, many inputs, every outcome counted.

python tests/slow/fuzz/run.py [--inputs 200000] [--target NAME] [--seed 0] [--engine atheris|random]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

SLOW = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(SLOW), str(SLOW.parent)]
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

STUCK = 60.0  # seconds without a sign of life after which a process is ended
RESTARTS = 20  # of one target, after crashes


# --- one target, in a process of its own ----------------------------------------------------------


class Worker:
    """Runs inputs of one target; counts, and keeps the smallest input of each finding."""

    def __init__(self, name: str, inputs: int, folder: Path) -> None:
        import resource

        from fuzz import contract, targets

        self._contract = contract
        self.target = targets.TARGETS[name]
        self.corpus = self.target.corpus
        self._inputs = inputs
        self._folder = folder
        self._files = folder / "files"
        self._files.mkdir(exist_ok=True)
        self._last = os.open(folder / "last", os.O_RDWR | os.O_CREAT)
        self._outcomes: Counter[str] = Counter()
        self._findings: dict[str, dict[str, Any]] = {}
        self._done = 0
        self._grown = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        for seed in self.corpus:  # loads what is loaded once, and makes sure that seeds are right
            contract.outcome(self.target, seed, self._files)
        self._start = self._grown()
        self._began = self._told = time.monotonic()

    def one(self, data: bytes) -> None:
        os.ftruncate(self._last, 0)
        os.pwrite(self._last, data, 0)
        try:
            self._outcomes[self._contract.outcome(self.target, data, self._files)] += 1
        except self._contract.Finding as finding:
            self._outcomes["finding"] += 1
            self._keep(finding.key, finding.detail, data)
        self._done += 1
        if self._done >= self._inputs or time.monotonic() - self._told > 1:
            self.tell()
        if self._done >= self._inputs:
            os._exit(0)  # libFuzzer would go on

    def _keep(self, key: str, detail: str, data: bytes) -> None:
        kept = self._findings.setdefault(key, {"count": 0, "size": 1 << 62})
        kept["count"] += 1
        if len(data) < kept["size"]:
            name = hashlib.sha256(key.encode()).hexdigest()[:12] + ".bin"
            (self._folder / name).write_bytes(data)
            kept |= {"size": len(data), "detail": detail, "file": name}

    def tell(self) -> None:
        self._told = time.monotonic()
        told = {
            "done": self._done,
            "outcomes": self._outcomes,
            "findings": self._findings,
            "seconds": self._told - self._began,
            "grown_mib": self._grown() - self._start,
        }
        fresh = self._folder / "told.new"
        fresh.write_text(json.dumps(told))
        fresh.replace(self._folder / "told")


def work(name: str, inputs: int, seed: int, engine: str, folder: Path) -> None:
    """In a child: never returns."""
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["linalign_lite"]):
            worker = Worker(name, inputs, folder)
        corpus = folder / "corpus"
        corpus.mkdir(exist_ok=True)
        for i, data in enumerate(worker.corpus):
            (corpus / str(i)).write_bytes(data)

        def mutated(data: bytes, most: int, number: int) -> bytes:
            r = Random(number)
            return worker.target.draw(r, None if r.random() < 0.5 else data)[:most]

        options = [
            "-runs=1000000000", f"-seed={seed + 1}", "-timeout=0", "-rss_limit_mb=0",
            "-max_len=4194304",
            "-handle_segv=0", "-handle_abrt=0", "-handle_bus=0", "-handle_fpe=0", "-handle_ill=0",
            "-verbosity=0", "-len_control=0", "-reload=0", "-mutate_depth=1",
        ]  # fmt: skip
        atheris.Setup(["fuzz", *options, str(corpus)], worker.one, custom_mutator=mutated)
        atheris.Fuzz()
    worker = Worker(name, inputs, folder)
    r = Random(seed)
    while True:
        worker.one(worker.target.draw(r))


# --- all of them ----------------------------------------------------------------------------------


class Job:
    """One target's process, and its successors after crashes."""

    def __init__(self, name: str, inputs: int, options: argparse.Namespace, folder: Path) -> None:
        self.name, self.inputs = name, inputs
        self.row: dict[str, Any] = {
            "target": name, "inputs": 0, "outcomes": Counter(), "seconds": 0.0, "grown_mib": 0.0,
            "findings": {},
        }  # fmt: skip
        self._options = options
        self._folder = folder / name
        self._round = 0
        self._seen: dict[str, Any] = {"done": 0}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._here = self._folder / str(self._round)
        self._here.mkdir(parents=True)
        left = self.inputs - self.row["inputs"]
        command = [
            sys.executable, __file__, "--child", str(self._here), "--target", self.name,
            "--inputs", str(left),
            "--seed", str(self._options.seed + self._round), "--engine", self._options.engine,
        ]  # fmt: skip
        with (self._here / "output").open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        self._alive = time.monotonic()
        self._seen: dict[str, Any] = {"done": 0}

    def poll(self) -> bool:
        """Return True when it has finished. Restarts a process that died."""
        if self._process is None:
            self.start()
        told = self._read()
        if told["done"] != self._seen["done"]:
            self._seen, self._alive = told, time.monotonic()
        code = self._process.poll() if self._process else None
        if code is None:
            if time.monotonic() - self._alive < STUCK:
                return False
            self._process.kill()
            self._process.wait()
            self._died(f"no sign of life for {STUCK:.0f} s")
        elif code != 0:
            self._died(f"signal {-code}" if code < 0 else f"exit code {code}")
        self._seen = self._read()
        self._add()
        self._round += 1
        if self.row["inputs"] >= self.inputs or self._round > RESTARTS:
            return True
        self.start()
        return False

    @property
    def done(self) -> int:
        return self.row["inputs"] + self._seen["done"] if self._process else 0

    @property
    def found(self) -> int:
        return len(set(self.row["findings"]) | set(self._seen.get("findings", {})))

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self._here / "told").read_text())
        return {"done": 0}

    def _died(self, how: str) -> None:
        last = self._here / "last"
        if not last.exists():
            raise SystemExit(
                f"{self.name} does not start:\n{(self._here / 'output').read_text()[-3000:]}"
            )
        tail = (self._here / "output").read_text(errors="replace")[-300:]
        self._found(f"the process died: {how}", {"count": 1, "detail": tail}, last)

    def _add(self) -> None:
        seen, row = self._seen, self.row
        row["inputs"] += seen["done"]
        row["outcomes"] += Counter(seen.get("outcomes", {}))
        row["seconds"] += seen.get("seconds", 0.0)
        row["grown_mib"] = max(row["grown_mib"], seen.get("grown_mib", 0.0))
        for key, kept in seen.get("findings", {}).items():
            self._found(key, kept, self._here / kept["file"])
        self._seen = {"done": 0}
        shutil.rmtree(self._here / "files", ignore_errors=True)

    def _found(self, key: str, kept: dict[str, Any], source: Path) -> None:
        name = f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.bin"
        self._options.out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self._options.out / name)
        count = self.row["findings"].get(key, {"count": 0})["count"] + kept["count"]
        self.row["findings"][key] = {"count": count, "detail": kept["detail"], "file": name}


def shares(names: list[str], inputs: int) -> dict[str, int]:
    from fuzz.targets import TARGETS

    total = sum(TARGETS[name].share for name in names)
    return {name: -(-inputs * TARGETS[name].share // total) for name in names}


def run_all(options: argparse.Namespace, names: list[str]) -> list[dict[str, Any]]:
    from fuzz.contract import working_folder

    began = said = time.monotonic()
    with working_folder() as folder:
        jobs = [
            Job(name, count, options, folder)
            for name, count in shares(names, options.inputs).items()
        ]
        waiting, running = list(jobs), []
        try:
            while waiting or running:
                while waiting and len(running) < options.jobs:
                    running.append(waiting.pop(0))
                running = [job for job in running if not job.poll()]
                time.sleep(0.2)
                if time.monotonic() - said > 5 or not (waiting or running):
                    said = time.monotonic()
                    done, found = sum(j.done for j in jobs), sum(j.found for j in jobs)
                    now = ", ".join(j.name for j in running)
                    sys.stderr.write(
                        f"{said - began:5.0f} s  {done:,} inputs, {found} findings  {now}\n"
                    )
        finally:
            for job in running:
                if job._process and job._process.poll() is None:
                    job._process.kill()
    return [job.row for job in jobs]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: the targets, what became of their inputs, and what they cost."""
    from fuzz.targets import TARGETS

    lines = [
        "| target | inputs | accepted | refused | findings | ms an input | grown by MiB | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        outcomes = row["outcomes"]
        refused = ", ".join(
            f"{name} {count:,}"
            for name, count in sorted(outcomes.items(), key=lambda x: -x[1])
            if name not in {"accepted", "finding"}
        )
        lines.append(
            f"| {row['target']} | {row['inputs']:,} | {outcomes['accepted']:,} | {refused} | "
            f"{len(row['findings'])} | {1e3 * row['seconds'] / max(1, row['inputs']):.1f} | "
            f"{row['grown_mib']:.0f} | {TARGETS[row['target']].note} |"
        )
    total = sum(row["inputs"] for row in rows)
    accepted = sum(row["outcomes"]["accepted"] for row in rows)
    found = sum(len(row["findings"]) for row in rows)
    lines.append(f"| all | {total:,} | {accepted:,} | | {found} | | | |")
    return "\n".join(lines)


def replay(name: str, path: Path) -> int:
    from fuzz.contract import Finding, outcome, working_folder
    from fuzz.targets import TARGETS

    with working_folder() as folder:
        try:
            sys.stdout.write(outcome(TARGETS[name], path.read_bytes(), folder) + "\n")
        except Finding as e:
            sys.stdout.write(f"{e}\n")
            return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--inputs", type=int, default=200_000, help="of all targets together")
    parser.add_argument("--target", action="append", help="only this one; may be given again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["atheris", "random"], help="default: atheris if there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="where findings go (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--replay", type=Path, help="run one input of one --target")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work(options.target[0], options.inputs, options.seed, options.engine, options.child)
    from fuzz.targets import TARGETS

    names = options.target or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if options.replay:
        return replay(names[0], options.replay)
    if options.engine is None:
        there = importlib.util.find_spec("atheris") is not None
        options.engine = "atheris" if there else "random"
        if not there:
            sys.stderr.write(
                "atheris is not installed: inputs are drawn without looking at coverage\n"
            )
    options.out = options.out or Path(tempfile.mkdtemp(prefix="linalign-fuzz-"))
    began = time.monotonic()
    rows = run_all(options, names)
    seconds = time.monotonic() - began
    found = [(row["target"], key, kept) for row in rows for key, kept in row["findings"].items()]
    if options.json:
        told = {
            "engine": options.engine,
            "seed": options.seed,
            "seconds": round(seconds, 1),
            "targets": rows,
        }
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
    else:
        sys.stdout.write(
            table(rows) + f"\n\n{options.engine}, {seconds:.0f} s, {options.jobs} processes\n"
        )
        for name, key, kept in found:
            sys.stdout.write(
                f"\n{name}: {key}\n  {kept['count']} inputs, the smallest: "
                f"{options.out / kept['file']}\n  {kept['detail']}\n"
            )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
