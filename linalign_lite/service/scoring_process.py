"""A process that scores: it holds every head, encoded once, and answers one request at a time.

It gets public keys and queries, gives responses, and holds no secret. Offers of private fits and
their answers are files in a folder of the service, because of their size. Requests and answers go
through one socket, in order, so that the next request is there when an answer is done. When the
service ends, even killed, the socket ends, and with it the process.
"""

from __future__ import annotations

import contextlib
import gc
import json
import shutil
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from linalign_lite import errors
from linalign_lite.errors import LinalignError

if TYPE_CHECKING:
    from linalign_lite.encrypt.budgets.budget import Budget
    from linalign_lite.encrypt.provider import Provider
    from linalign_lite.service.configuration import FitEntry, HeadEntry

# a request: number of a head, then of a fit, or PROOF; bytes of the key's path; bytes of a query,
# of a proof, or of the names of two files, an offer and the answer to write
REQUEST = struct.Struct("<IHQ")
ANSWER = struct.Struct("<?QQ")  # whether it is one, or an error; states scored; its bytes
PROOF = 0xFFFFFFFF
_CACHE = 1 << 28  # bytes of encoded heads of each head; large ones are held once
_KEYS = 1024  # public keys in the memory of one process, each head: 46 kB each


@dataclass(frozen=True)
class Loaded:
    """Entries that a process loads, and folders that go with it.

    ``indexes``: digests of the cards of heads that are indexes, as the service read them.
    ``shared``: where processes hold large encoded heads once for all; ``spool``: offers, answers.
    """

    heads: tuple[HeadEntry, ...]
    fits: tuple[FitEntry, ...]
    indexes: dict[str, str]
    shared: Path
    spool: Path


def serve(connection: socket.socket, loaded: Loaded) -> None:
    """Answer requests until the connection ends. The first answer says that all is loaded."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service ends its processes itself
    with contextlib.suppress(ConnectionError), connection:
        try:
            scoring = _Scoring(loaded)
        except LinalignError as e:
            connection.sendall(_failed(e))
            return
        gc.freeze()  # collections need not look at what stays, 15 ms, while a query waits
        connection.sendall(ANSWER.pack(True, 0, 0))
        incoming = connection.makefile("rb", buffering=1 << 16)
        while len(start := incoming.read(REQUEST.size)) == REQUEST.size:
            number, path_size, size = REQUEST.unpack(start)
            path = Path(incoming.read(path_size).decode()) if path_size else None
            body = incoming.read(size)
            if len(body) < size:
                break
            connection.sendall(scoring.answer(number, path, body))
    for folder in (loaded.shared, loaded.spool):  # a service that was killed does not
        shutil.rmtree(folder, ignore_errors=True)


def raise_failure(raw: bytes) -> NoReturn:
    """Raise the error that a process answered with."""
    kind, text = json.loads(raw)
    found = getattr(errors, kind, LinalignError)
    raise (LinalignError if found is errors.MissingExtraError else found)(text)


class _Scoring:
    """Providers of all heads, and the fits."""

    def __init__(self, loaded: Loaded) -> None:
        budgets = [entry.open_budget() for entry in loaded.heads]
        self._providers = [
            _provider(entry, budget, loaded.indexes.get(entry.name), loaded.shared / str(i))
            for i, (entry, budget) in enumerate(zip(loaded.heads, budgets, strict=True))
        ]
        self._fits = [_Fit(entry) for entry in loaded.fits]
        budgets += [fit.budget for fit in self._fits]
        # no client hears of them
        self._secret = {budget.name for budget in budgets if budget}
        self._secret |= {str(entry.states) for entry in loaded.fits} | {str(loaded.spool)}

    def answer(self, number: int, path: Path | None, body: bytes) -> bytes:
        """Return the bytes of an answer."""
        try:
            return self._done(number, path, body)
        except OSError as e:
            return _failed(LinalignError("a file of the service cannot be used", got=str(e)))
        except LinalignError as e:
            if any(name in str(e) for name in self._secret):  # not the query's fault
                return _failed(LinalignError(str(e)))
            return _failed(e)
        except Exception as e:  # noqa: BLE001 (a process that ended would be asked again)
            return _failed(e)

    def _done(self, number: int, path: Path | None, body: bytes) -> bytes:
        if number == PROOF:
            return self._verify(path, body)
        if number >= len(self._providers):
            return self._fits[number - len(self._providers)].answer(path, body)
        return self._score(number, path, body)

    def _score(self, number: int, path: Path | None, query: bytes) -> bytes:
        from linalign_lite.encrypt.messages import Query
        from linalign_lite.service.key_store import load_key

        provider, asked = self._providers[number], Query.load(query)
        # the proof of a key may come after its first query
        knows = provider.is_proven if asked.info.needs_proof else provider.has_key
        if path is not None and not knows(asked.info.key):
            provider.add_key(load_key(path), most=_KEYS)
        response = provider.score(asked).to_bytes()
        return ANSWER.pack(True, len(asked), len(response)) + response

    def _verify(self, path: Path | None, proof: bytes) -> bytes:
        from linalign_lite.encrypt.key_proof import load_proof
        from linalign_lite.service.key_store import load_key

        assert path is not None
        load_proof(proof, load_key(path))
        return ANSWER.pack(True, 0, 0)


class _Fit:
    """States that offers are answered with."""

    def __init__(self, entry: FitEntry) -> None:
        self.budget, self._accounts = entry.open_budget(), entry.known_accounts()
        self._states = entry.load_states(verify=False).states

    def answer(self, path: Path | None, names: bytes) -> bytes:
        """Answer an offer; the answer's bytes are in its file."""
        from linalign_lite.encrypt.fitting.answer import answer_fit
        from linalign_lite.encrypt.fitting.descriptions import told_states
        from linalign_lite.service.key_store import load_key

        assert path is not None
        offer, out = json.loads(names)
        options: dict[str, Any] = {"accounts": self._accounts, "budget": self.budget}
        try:
            info = answer_fit(offer, out, self._states, [load_key(path)], **options)
        except LinalignError as e:
            e.rename(offer, "this offer")
            raise
        return ANSWER.pack(True, told_states(info), 0)


def _provider(
    entry: HeadEntry, budget: Budget | None, digest: str | None, shared: Path
) -> Provider:
    from linalign_lite.encrypt.parameters import by_name
    from linalign_lite.encrypt.provider import Provider
    from linalign_lite.retrieval.index.card import card_digest
    from linalign_lite.retrieval.index.reading import Index

    head = entry.load_head(verify=False)  # the service did
    if digest != (card_digest(head.card) if isinstance(head, Index) else None):
        raise LinalignError(f"{entry.file} changed while it is served", hint="reload the service")
    return Provider(
        head,
        accept=[by_name(entry.profile)],
        max_error=entry.max_error,
        budget=budget,
        cache_bytes=_CACHE,
        shared=shared,
    )


def _failed(error: Exception) -> bytes:
    """Return an answer that is an error: its class and its text."""
    text = str(error) if isinstance(error, LinalignError) else "a process that scores failed"
    raw = json.dumps([type(error).__name__, text]).encode()
    return ANSWER.pack(False, 0, len(raw)) + raw
