"""The location of a budget: a path, or the URL of one in PostgreSQL."""

from __future__ import annotations

import os
from pathlib import Path

from linalign_lite.encrypt.budgets.sqlite_store import SqliteStore
from linalign_lite.encrypt.budgets.store import Store
from linalign_lite.errors import InputError
from linalign_lite.storage.atomic import PathLike

_SCHEMES = ("postgresql:", "postgres:", "postgresql+psycopg:")


def local_file(location: PathLike) -> Path | None:
    """Return the path of a budget in a file, or None for a URL."""
    return None if os.fspath(location).startswith(_SCHEMES) else Path(location)


def open_store(location: PathLike) -> Store:
    """Return the store at a path or a URL. MissingExtraError without the extra `postgresql`."""
    if (path := local_file(location)) is not None:
        return SqliteStore(path.absolute())
    if "://" not in (text := os.fspath(location)):
        raise InputError("a URL of a budget is text, not a path", expected="postgresql://…")
    from linalign_lite.encrypt.budgets.postgresql_store import PostgresqlStore

    return PostgresqlStore(text)
