"""Checks of everything that a configuration names, for a start and for `serve --check`."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from linalign_lite.encrypt.budgets.budget import Budget
from linalign_lite.encrypt.budgets.location import local_file
from linalign_lite.errors import InputError, import_extra
from linalign_lite.service.configuration import Configuration, Entry


def require_extra() -> None:
    """Raise MissingExtraError without the extra `serve`."""
    for package in ("starlette", "uvicorn", "prometheus_client"):
        import_extra(package, extra="serve", purpose="a service")


def require_usable(configuration: Configuration) -> None:
    """Raise what serving this would raise. Makes and changes nothing."""
    require_places(configuration)
    for entry in configuration.heads:
        entry.load_head(mapped=True)
        entry.known_accounts()
        if entry.budget is not None:
            _require_budget(entry, entry.budget)
    for fit in configuration.fits:
        fit.load_states()
        fit.known_accounts()
        assert fit.budget is not None
        _require_budget(fit, fit.budget)
    if configuration.tls:
        configuration.tls.context()


def require_places(configuration: Configuration) -> None:
    """Raise InputError unless keys and the audit log can be written."""
    keys, log = configuration.keys, configuration.audit_log
    if keys.exists() and not keys.is_dir():
        raise InputError(f"{keys} is no folder for keys", hint="keys = names a folder")
    _require_writable(keys if keys.exists() else _existing(keys), "the folder of keys")
    if log is not None:
        if log.is_dir():
            raise InputError(f"{log} is no file for an audit log", got="a folder")
        _require_writable(log if log.exists() else log.parent, "the audit log")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises InputError, which names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as e:
        got = getattr(e, "strerror", None) or str(e)
        hint = "does another program use this port? port = 0 takes a free one"
        raise InputError(f"the service cannot listen on {host}:{port}", got=got, hint=hint) from e


def _require_budget(entry: Entry, location: str) -> None:
    path = local_file(location)
    if path is not None and not path.exists() and entry.limit is not None:
        _require_writable(path.parent, f"the folder of budget {path}")
        return
    try:
        Budget(location)
    except InputError:
        if path is not None or entry.limit is None:  # in a database it is made by serving
            raise


def _existing(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.exists())


def _require_writable(path: Path, what: str) -> None:
    if not path.exists() or not os.access(path, os.W_OK):
        got = "no right to write" if path.exists() else "nothing"
        raise InputError(f"{what} cannot be written", got=f"{got} at {path}")
