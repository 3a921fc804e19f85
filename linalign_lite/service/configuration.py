"""The configuration of a scoring service: a TOML file, checked before anything starts."""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, Self

from linalign_lite.core.head import Head
from linalign_lite.core.serialization import load_head
from linalign_lite.core.shards.states_folder import open_states
from linalign_lite.core.signing import account_of
from linalign_lite.encrypt.budgets.budget import Budget
from linalign_lite.encrypt.budgets.location import local_file
from linalign_lite.encrypt.fitting.finish import load_shown
from linalign_lite.encrypt.fitting.shape import require_fine
from linalign_lite.encrypt.fitting.sources import TextStates
from linalign_lite.errors import InputError
from linalign_lite.retrieval.index.reading import Index, open_index
from linalign_lite.service.protocol import HEAD_NAME
from linalign_lite.service.tls import server_context
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.schema import Range, Size, Text, format_errors, parse
from linalign_lite.storage.toml_file import read_toml

MAX_FILE = 1 << 20
MAX_HEADS = 256
IN_THE_CLEAR = "anybody on the network may read and alter what is sent"
_ORIGIN = re.compile(r"https?://[^/\s?#@]{1,200}")  # as browsers send it


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Files (PEM) for HTTPS. ``clients``: authorities; then clients must have certificates."""

    certificate: Path
    key: Path
    clients: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context of these files. Raises InputError for one that cannot be used."""
        return server_context((self.certificate, self.key), self.clients)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A name that is served, and who may ask it for what.

    ``accounts``: signing.pub files; without them anybody may ask. ``budget``: its file, or the URL
    of a budget in PostgreSQL; ``limit`` and ``bits`` are limits of each account. With a budget
    every key must belong to an account.
    """

    name: Annotated[str, HEAD_NAME]
    accounts: Annotated[tuple[Path, ...], Size(10_000)] | None = None
    # no part of what is printed: a URL may have a password
    budget: Annotated[str, Text(2048, 1)] | None = field(default=None, repr=False)
    limit: Annotated[int, Range(1, 1 << 53)] | None = None
    bits: Annotated[int, Range(1, 1 << 53)] | None = None

    def in_folder(self, folder: Path) -> Self:
        """The entry with its paths in ``folder``, those of a subclass left out."""
        accounts = None if self.accounts is None else tuple(folder / p for p in self.accounts)
        budget = self.budget and _beside(folder, self.budget)
        return replace(self, accounts=accounts, budget=budget)

    def open_budget(self) -> Budget | None:
        """Open the budget, if there is one, with the limits given here."""
        if self.budget is None:
            return None
        return Budget(self.budget, self.limit, bits=self.bits)

    def known_accounts(self) -> frozenset[bytes] | None:
        """The accounts that may ask; None for any. InputError for a file that is no signing.pub."""
        if self.accounts is None:
            return None
        return frozenset(map(account_of, self.accounts))


@dataclass(frozen=True, kw_only=True)
class HeadEntry(Entry):
    """One head, or the folder of an index as ``file``."""

    file: Path
    map: Path | None = None
    profile: Literal["private", "trusted"] = "private"
    max_error: Annotated[float, Range(0.0, 1e6)] = 5e-3

    def load_head(self, *, mapped: bool | None = None, verify: bool = True) -> Head | Index:
        """Read the head, with its map folded in, or open the index.

        mapped: as `serialization.load_head`; verify: as `open_index`.
        """
        if self.file.is_dir():
            if self.map is not None:
                hint = "clients map their queries"
                raise InputError(f"a map cannot be folded into {self.file}", hint=hint)
            return open_index(self.file, verify=verify)
        head = load_head(self.file, mapped=mapped)
        return head if self.map is None else head @ load_shown(self.map)


@dataclass(frozen=True, kw_only=True)
class FitEntry(Entry):
    """States that private fits are answered with, as a file or a folder. Needs accounts, a budget.

    Whoever makes an account of its own gets a budget of its own, and five of them tell every state.
    """

    states: Path

    def load_states(self, *, verify: bool = True) -> TextStates:
        """Open the states. Raises InputError unless they are one of each text, and not coarse."""
        found = TextStates(open_states(self.states))
        if verify:
            require_fine(found, found.n)
        return found


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A scoring service. Paths are relative to the file's folder."""

    keys: Path  # folder of registered public keys
    heads: Annotated[tuple[HeadEntry, ...], Size(MAX_HEADS)] = ()
    fits: Annotated[tuple[FitEntry, ...], Size(MAX_HEADS)] = ()
    host: str = "127.0.0.1"
    port: Annotated[int, Range(0, 65535)] = 8765
    tls: Tls | None = None
    without_tls: Annotated[str, Text()] = ""  # IN_THE_CLEAR, to leave loopback without TLS
    workers: Annotated[int, Range(1, 256)] | None = None  # processes that score; one per core
    waiting: Annotated[int, Range(1, 100_000)] = 256  # requests that wait, at most
    most_seconds: Annotated[float, Range(0.1, 1e5)] = 60.0  # predicted, of one query
    most_response: Annotated[int, Range(1 << 12, 1 << 30)] = 256 << 20  # bytes
    most_body: Annotated[int, Range(1 << 12, 1 << 32)] = 64 << 20  # bytes of a request
    most_offer: Annotated[int, Range(1 << 12, 1 << 36)] = 256 << 20  # bytes, on the disk
    most_keys: Annotated[int, Range(1, 1_000_000)] = 10_000  # registered
    request_seconds: Annotated[float, Range(0.1, 3600.0)] = 30.0  # for a request to arrive
    origins: Annotated[tuple[str, ...], Size(100)] = ()  # of pages that may ask (CORS)
    audit_log: Path | None = None  # who asked how much of which head
    metrics: Literal["loopback", "anybody"] = "loopback"  # who may read them

    @classmethod
    def load(cls, path: PathLike) -> Configuration:
        """Read and check a TOML file. Raises FormatError, or InputError for what it cannot mean."""
        raw = read_toml(path, "configuration", MAX_FILE)
        with format_errors(path, "configuration"):
            for name in ("heads", "fits"):
                if isinstance(raw.get(name), dict):
                    hint = f"write [[{name}]] with two brackets"
                    raise InputError(f"{name} is not a list of tables", got=f"[{name}]", hint=hint)
            found: Configuration = parse(cls, raw, "configuration")
        return found._in_folder(Path(path).absolute().parent)

    def allows_metrics(self, host: str) -> bool:
        """Return whether a client at this address may read the metrics."""
        return self.metrics == "anybody" or _is_loopback(host)

    def _in_folder(self, folder: Path) -> Configuration:
        def at(path: Path | None) -> Path | None:
            return None if path is None else folder / path

        heads = tuple(
            replace(h.in_folder(folder), file=folder / h.file, map=at(h.map)) for h in self.heads
        )
        fits = tuple(replace(f.in_folder(folder), states=folder / f.states) for f in self.fits)
        tls = self.tls and Tls(
            certificate=folder / self.tls.certificate,
            key=folder / self.tls.key,
            clients=at(self.tls.clients),
        )
        placed = replace(
            self,
            heads=heads,
            fits=fits,
            tls=tls,
            keys=folder / self.keys,
            audit_log=at(self.audit_log),
        )
        placed._require_usable()
        return placed

    def _require_usable(self) -> None:
        """Raise InputError for names used twice, limits without a budget, plain HTTP abroad."""
        if not self.heads and not self.fits:
            raise InputError("this serves nothing", expected="[[heads]] or [[fits]]")
        for what, entries in (("head", self.heads), ("fit", self.fits)):
            names = [e.name for e in entries]
            if len(set(names)) < len(names):
                raise InputError(f"two {what}s have one name", got=", ".join(sorted(names))[:80])
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                problem, expected = "an origin is not usable", "as http://127.0.0.1:8000"
                hint = "scheme, host and port of the page, and nothing after them"
                raise InputError(problem, got=origin[:80], expected=expected, hint=hint)
        for head in self.heads:
            if head.budget is None and (head.limit, head.bits) != (None, None):
                raise InputError(f"head {head.name} has limits but no budget", hint="name a file")
        for fit in self.fits:
            if fit.budget is None or not fit.accounts:
                raise InputError(
                    f"fit {fit.name} would give all its states away",
                    got="no accounts" if fit.budget else "no budget",
                    expected="accounts that may ask, and a budget",
                )
        if self.tls is None and not _is_loopback(self.host) and self.without_tls != IN_THE_CLEAR:
            raise InputError(
                "without TLS this service answers its own machine only",
                got=f"host {self.host}",
                expected="a table [tls], or host 127.0.0.1",
                hint=f'behind a proxy that has TLS: without_tls = "{IN_THE_CLEAR}"',
            )


def _beside(folder: Path, budget: str) -> str:
    path = local_file(budget)
    return budget if path is None else str(folder / path)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
