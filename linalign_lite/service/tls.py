"""Contexts for TLS, of a service and of its clients; an error names the file at fault."""

from __future__ import annotations

import ssl
from pathlib import Path

from linalign_lite.errors import InputError
from linalign_lite.storage.atomic import PathLike, open_regular

Pair = tuple[PathLike, PathLike]  # a certificate and its key, PEM


def server_context(pair: Pair, clients: PathLike | None = None) -> ssl.SSLContext:
    """Return the context of a service. clients: authorities that their certificates must have.

    Raises InputError for a file that cannot be used.
    """
    context = _trusting(clients, ssl.Purpose.CLIENT_AUTH)
    _load_pair(context, pair)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(authorities: PathLike | None, pair: Pair | None) -> ssl.SSLContext:
    """Return the context of a client. authorities: of the service, None for the system's own.

    Raises InputError for a file that cannot be used.
    """
    context = _trusting(authorities, ssl.Purpose.SERVER_AUTH)
    if pair is not None:
        _load_pair(context, pair)
    return context


def _trusting(authorities: PathLike | None, purpose: ssl.Purpose) -> ssl.SSLContext:
    if authorities is None:
        return ssl.create_default_context(purpose)
    with open_regular(authorities):
        pass
    try:
        return ssl.create_default_context(purpose, cafile=str(authorities))
    except (OSError, ssl.SSLError) as e:
        problem = f"the authorities {authorities} cannot be used"
        raise InputError(problem, got=str(e)[:100], expected="PEM") from e


def _load_pair(context: ssl.SSLContext, pair: Pair) -> None:
    for path in pair:
        with open_regular(path):
            pass
    try:
        context.load_cert_chain(Path(pair[0]), Path(pair[1]))
    except (OSError, ssl.SSLError) as e:
        problem = f"the certificate {pair[0]} and the key {pair[1]} cannot be used"
        raise InputError(problem, got=str(e)[:100], expected="PEM files of one pair") from e
