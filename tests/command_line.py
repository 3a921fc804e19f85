"""Run the installed command, or its `main` in this process, and list its commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from linalign_lite.commands import main
from linalign_lite.encrypt.budgets import sqlite_store

COMMAND = [str(Path(sys.executable).with_name("linalign-lite"))]
GROUPS = {
    "bundle",
    "fit-private",
    "index",
    "ood",
    "migrate",
    "retrieval",
    "vectors",
}  # commands that have commands of their own


def run(*args, stdin=None, code=0, cwd=None, env=None):
    """Run the installed command in a process of its own, expecting an exit code."""
    done = subprocess.run(
        [*COMMAND, *map(str, args)],
        input=stdin, capture_output=True, text=True, cwd=cwd, check=False,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def refused(capsys, *args, code=2):
    """Run in this process, expecting an exit code and no new file; returns standard error."""
    before = sorted(Path.cwd().rglob("*"))
    assert main([str(a) for a in args]) == code
    sqlite_store.close_connections()  # as the end of a process does
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert sorted(Path.cwd().rglob("*")) == before, "something was left behind"
    return captured.err


def command_names(*group):
    """Names of all commands; those of a group with both words, such as "ood fit"."""
    done = run(*group, "--help")
    found = re.findall(r"^  ([a-z][a-z-]*)  ", done.stdout.split("Commands:")[-1], re.MULTILINE)
    named = [" ".join([*group, name]) for name in found]
    return [x for name in named for x in (command_names(name) if name in GROUPS else [name])]
