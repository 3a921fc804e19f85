"""All benchmarks, one after the other; then the tables. One that fails does not stop the others.

    python benchmarks/all.py [--quick] [--only extract,fit]

Each runs in a process of its own and writes what it says to a log in the cache. With --quick each
does little, its results go to a temporary folder, and the tables are compared with the results that
are there, not written; scripts that have no small size are left out and named. `encrypt.py` takes
LINALIGN_PEERS, `fit.py` writes 20 GB to LINALIGN_FOLDER (default: the temporary folder).
Exit code 1 when anything failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import CACHE

HERE = Path(__file__).resolve().parent
FOLDER = os.environ.get("LINALIGN_FOLDER", tempfile.gettempdir())
EMPTY = "{empty}"  # stands for a new temporary folder


@dataclass(frozen=True)
class Job:
    """A script and its options; ``quick``: those for a look, None when it has no small size."""

    script: str
    options: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = ("--quick",)

    def words(self, folder: Path, *, quick: bool, empty: str) -> list[str]:
        options = (self.quick or ()) if quick else self.options
        return [sys.executable, str(folder / self.script),
                *(empty if o == EMPTY else o for o in options)]  # fmt: skip


JOBS = (
    Job("start.py", quick=("--rounds", "1")),
    Job("extract.py"),
    Job("fit.py", ("--folder", FOLDER)),
    Job("points.py"),
    Job("vectors.py", ("--folder", FOLDER)),
    Job("stores.py"),
    Job("scale.py", quick=None),  # makes a page of what the three before have found
    Job("clinc150.py", quick=None),
    Job("ood.py"),
    Job("similarity.py"),
    Job("encrypt.py"),
    Job("search.py", ("--cranfield",)),
    Job("private_fit.py"),
    Job("service.py", quick=("--seconds", "1", "--overload", "2")),
    Job("kl.py"),
    Job("generate.py", quick=("--tokens", "8", "--prompts", "1", "--rounds", "1")),
    Job("published.py"),
    Job("speak.py"),
    Job("kl_steps.py", quick=None),
    Job("public_only.py", quick=None),
    Job("few_pairs.py", quick=None),
    Job("retrieval.py", quick=None),
    Job("few.py"),
    Job("few_tried.py", quick=None),
    Job("survey.py", (EMPTY,), (EMPTY, "--quick")),
    Job("artefacts.py"),
    Job("bundle.py"),
    Job("small.py"),
)
LEFT_OUT = {
    "all.py": "this one",
    "costs.py": "writes no results: for the planner's table of costs",
    "tables.py": "runs last, whatever is asked for",
}


@dataclass(frozen=True)
class Done:
    """Result of a script: its exit code, None when it was left out."""

    script: str
    code: int | None
    seconds: float
    log: Path | None = None

    def __str__(self) -> str:
        end = (
            "left out: it has no small size"
            if self.code is None
            else (f"{'done' if not self.code else 'FAILED'}, {self.seconds:.0f} s")
        )
        return f"{self.script}: {end}{f', see {self.log}' if self.code else ''}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little of everything; not published")
    parser.add_argument("--only", help="names of scripts, with commas between them")
    args = parser.parse_args()
    jobs = chosen(JOBS, args.only)
    logs = CACHE / "logs"
    if not args.quick:
        return run(jobs, HERE, logs, quick=False)
    with tempfile.TemporaryDirectory() as results:
        return run(jobs, HERE, logs, quick=True, environment={"LINALIGN_RESULTS": results})


def chosen(jobs: Sequence[Job], only: str | None) -> list[Job]:
    """The jobs that were asked for, in their own order. Stops with a word for one unknown."""
    if only is None:
        return list(jobs)
    wanted = {f"{name.strip().removesuffix('.py')}.py" for name in only.split(",")}
    unknown = wanted - {job.script for job in jobs}
    if unknown:
        names = ", ".join(job.script.removesuffix(".py") for job in jobs)
        sys.exit(f"no such benchmark: {', '.join(sorted(unknown))}; there are {names}")
    return [job for job in jobs if job.script in wanted]


def run(
    jobs: Sequence[Job], folder: Path, logs: Path, *, quick: bool,
    environment: Mapping[str, str] | None = None,
) -> int:  # fmt: skip
    """Run the jobs, then the tables; say how each ended, and all of it again at the end."""
    logs.mkdir(parents=True, exist_ok=True)
    done: list[Done] = []
    try:
        for job in jobs:
            done.append(one(job, folder, logs, quick=quick, environment=environment or {}))
            print(done[-1], flush=True)
        tables = Job("tables.py", quick=("--check",))
        done.append(one(tables, folder, logs, quick=quick, environment={}))
        print(done[-1], flush=True)
    finally:
        failed = [d for d in done if d.code]
        total = sum(d.seconds for d in done)
        print(f"\n{len(done)} scripts, {total / 60:.1f} min, {len(failed)} failed", flush=True)
        for end in failed:
            print(end, flush=True)
    return int(bool(failed))


def one(job: Job, folder: Path, logs: Path, *, quick: bool, environment: Mapping[str, str]) -> Done:
    if quick and job.quick is None:
        return Done(job.script, None, 0.0)
    log, begun = logs / f"{job.script.removesuffix('.py')}.log", time.perf_counter()
    with tempfile.TemporaryDirectory() as empty, log.open("wb") as out:
        code = subprocess.run(
            job.words(folder, quick=quick, empty=empty), stdout=out, stderr=subprocess.STDOUT,
            env={**os.environ, **environment}, check=False,
        ).returncode  # fmt: skip
    return Done(job.script, code, time.perf_counter() - begun, log)


if __name__ == "__main__":
    sys.exit(main())
