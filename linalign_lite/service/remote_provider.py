"""The client of a scoring service: lists heads, registers a key, sends queries.

What leaves the process is what files would carry: public keys, encrypted queries. A query that is
sent twice is charged once, so whatever interrupts a request, it is sent again.
"""

from __future__ import annotations

import io
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

from linalign_lite.core.signing import SigningKey
from linalign_lite.core.space import MAX_DIM, Space
from linalign_lite.encrypt.fitting.descriptions import AnswerInfo
from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.encrypt.messages import MAX_OUTPUTS, Query, Response
from linalign_lite.encrypt.wire import Kind, Reader
from linalign_lite.errors import (
    FormatError,
    InputError,
    LinalignError,
    MismatchError,
    import_extra,
    printable,
)
from linalign_lite.retrieval.index.card import (
    MAX_CARD,
    MAX_ID,
    IndexCard,
    RowIds,
    RowNumbers,
    checked_ids,
    parse_card,
)
from linalign_lite.retrieval.index.clusters import Centroids, checked_centroids, require_clusters
from linalign_lite.service import budget_requests
from linalign_lite.service.protocol import HEAD_NAME, STATUS
from linalign_lite.service.remote_fit import RemoteFit
from linalign_lite.storage.atomic import PathLike, atomic, open_regular, require_replaceable
from linalign_lite.storage.schema import Range, Size, parse_known, strict_json

MAX_RESPONSE = 1 << 30
_MAX_ANSWER = 1 << 34  # bytes, on the disk
_CONNECT = 60.0  # seconds
_MAX_JSON = 64 << 20
_AGAIN = {429, 502, 503, 504}
_LONGEST_WAIT = 60.0  # seconds between two tries
_HOPELESS = {  # parts of errors that another try does not change
    "CERTIFICATE_VERIFY_FAILED": "give the authorities of its certificate: --cacert",
    "WRONG_VERSION_NUMBER": "it speaks no https there; does it speak http?",
}
_ERRORS = {kind.__name__: kind for kind in STATUS}


class UnknownKeyError(MismatchError):
    """The service does not know the public key of a query."""


@dataclass(frozen=True, kw_only=True)
class RemoteHead:
    """One head of a service, as it describes it."""

    name: str
    space: Space
    n_outputs: Annotated[int, Range(1, MAX_OUTPUTS)]
    labels: Annotated[tuple[str, ...], Size(MAX_OUTPUTS)]
    profile: str
    max_error: float
    needs_account: bool
    has_budget: bool
    dim: Annotated[int, Range(1, MAX_DIM)]
    index: bool = False


class RemoteProvider:
    """A scoring service at ``url``; ``head`` names the one that `score` asks.

    ``tries``: of one request, with growing pauses. ``seconds``: for one answer. ``progress``: is
    called with what is waited for. ``verify``: a file
    of authorities for TLS, or True for the system's. ``certificate``: of this client, (certificate,
    key). Proxies are those of the environment (HTTPS_PROXY). Use it as a context, or close it.
    """

    def __init__(
        self,
        url: str,
        head: str | None = None,
        *,
        tries: int = 5,
        seconds: float = 60.0,
        verify: str | bool = True,
        certificate: tuple[str, str] | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        library: Any = import_extra("httpx", extra="serve", purpose="asking a service")
        self._library, self._tries, self.head = library, tries, head
        self._url, self._progress = url, progress
        context: Any = verify
        if isinstance(verify, str) or certificate:
            from linalign_lite.service.tls import client_context

            context = client_context(verify if isinstance(verify, str) else None, certificate)
        try:
            self._client = library.Client(
                base_url=url,
                timeout=library.Timeout(seconds, connect=min(seconds, _CONNECT)),
                verify=context,
                headers={"accept-encoding": "identity"},
            )
            if self._client.base_url.scheme not in ("http", "https"):
                raise ValueError
        except (ValueError, library.InvalidURL) as e:
            raise InputError("this is no address of a service", expected="https://…") from e

    def __enter__(self) -> RemoteProvider:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def heads(self) -> tuple[RemoteHead, ...]:
        """Ask which heads there are."""
        found = self._json("GET", "/v1/heads")
        try:
            return tuple(parse_known(RemoteHead, h, "a head") for h in found["heads"])
        except (InputError, KeyError, TypeError) as e:
            raise FormatError("the service describes its heads in an unknown form") from e

    def chosen(self) -> RemoteHead:
        """Describe the head that `score` asks: the named one, or the only one."""
        heads = self.heads()
        named = [h for h in heads if self.head in (None, h.name)]
        if len(named) != 1:
            names = ", ".join(h.name for h in heads)
            what = "the service has no such head" if self.head else "the service has several heads"
            raise InputError(what, got=self.head or "no name", expected=f"one of {names[:200]}")
        self.head = named[0].name
        return named[0]

    def register(self, key: PublicKey) -> None:
        """Give the service a public key, and its proof if it has one."""
        self._json("POST", "/v1/keys", key.to_bytes())
        if key.proof:
            from linalign_lite.encrypt.key_proof import proof_bytes

            self._json("PUT", f"/v1/keys/{key.digest.hex()}/proof", proof_bytes(key))

    def score(self, query: Query) -> Response:
        """Have a query scored.

        Raises UnknownKeyError when its key is not registered, BudgetError, MismatchError,
        PrecisionError, SignatureError or FormatError as `Provider.score`, LinalignError when the
        service cannot be reached or stays busy. Sent again, a query is charged once.
        """
        path, body = f"/v1/heads/{self._name()}/score", query.to_bytes()
        return Response.load(self._send("POST", path, body, most=MAX_RESPONSE))

    def fits(self) -> tuple[RemoteFit, ...]:
        """Ask which states there are for private fits."""
        found = self._json("GET", "/v1/fits")
        try:
            return tuple(parse_known(RemoteFit, f, "a fit") for f in found["fits"])
        except (InputError, KeyError, TypeError) as e:
            raise FormatError("the service describes its fits in an unknown form") from e

    def answer_fit(self, fit: str, offer: PathLike, out: PathLike) -> None:
        """Have the offer of `offer_fit` answered by the states ``fit``, as the file ``out``.

        The key beside the offer is registered first. Offer and answer are streamed, and ``out`` is
        written whole or not at all. Sent again, an offer is charged once. Raises as `answer_fit`
        does at the provider, FormatError when what comes is no answer, LinalignError as `score`.
        """
        from linalign_lite.encrypt.fitting.offer import public_of

        if not HEAD_NAME.allows(fit):
            raise InputError("this cannot be the name of a fit", got=fit[:40])
        require_replaceable(Path(out))
        self.register(public_of(offer))
        with open_regular(offer) as sent, tempfile.TemporaryFile(dir=Path(out).parent) as answer:
            self._send("POST", f"/v1/fits/{fit}/answer", sent, most=_MAX_ANSWER, into=answer)
            reader = Reader(answer, Kind.ANSWER, "the service's answer")
            AnswerInfo.from_header(reader.header, reader.name)
            for _ in reader:  # whole
                pass
            answer.seek(0)
            with atomic(out) as f:
                shutil.copyfileobj(answer, f)

    def index(self) -> tuple[IndexCard, RowIds]:
        """Ask for the card and the ids of the index that `score` asks. LinalignError for a head.

        FormatError when they do not agree with `chosen`, or are larger than `MAX_RESPONSE`.
        """
        chosen = self.chosen()
        path = f"/v1/heads/{chosen.name}"
        name = f"the index of {self._url}"
        card = parse_card(name, self._send("GET", f"{path}/index", b"", most=MAX_CARD))
        if card.rows != chosen.n_outputs:
            raise FormatError(
                f"{name} has other rows than the service says",
                got=str(card.rows),
                expected=str(chosen.n_outputs),
            )
        if card.ids is None:
            return card, RowNumbers(card.rows)
        most = min(card.rows * (MAX_ID + 1), MAX_RESPONSE)
        return card, checked_ids(name, self._send("GET", f"{path}/ids", b"", most=most), card)

    def centroids(self, card: IndexCard) -> Centroids:
        """Ask for the centroids of the index of `index`. InputError for an index without clusters.

        FormatError when they are not those of this card.
        """
        size = 2 * card.space.dim * len(require_clusters(card).sizes)
        path = f"/v1/heads/{self._name()}/centroids"
        content = self._send("GET", path, b"", most=min(size, MAX_RESPONSE))
        return checked_centroids(f"the centroids of {self._url}", content, card)

    def budget(self, account: SigningKey) -> dict[str, Any]:
        """Ask what this account has used of the head, and its limits."""
        name = self._name()
        signed = budget_requests.headers(account, name)
        return self._json("GET", f"/v1/heads/{name}/budget", headers=signed)

    def _name(self) -> str:
        name = self.head or self.chosen().name
        if not HEAD_NAME.allows(name):
            raise InputError("this cannot be the name of a head", got=name[:40])
        return name

    def _json(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        raw = self._send(method, path, body, headers=headers)
        try:
            found = strict_json(raw)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise FormatError("the service answers in an unknown form", hint="is the URL right?")
        return found

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | IO[bytes],
        *,
        most: int = _MAX_JSON,
        headers: Mapping[str, str] | None = None,
        into: IO[bytes] | None = None,
    ) -> bytes:
        """Send until it is answered, at most ``tries`` times; ``into``: a file for the answer."""
        pause, last = 0.25, ""
        for left in reversed(range(self._tries)):
            wait = pause * (1 + random.random())  # noqa: S311 (not a secret)
            for file in (body, into):
                if file is not None and not isinstance(file, bytes):
                    file.seek(0)
            try:
                with self._client.stream(method, path, content=body, headers=headers) as answer:
                    if into is not None and answer.status_code < 300:
                        into.truncate()
                        _copy(answer, most, into)
                        return b""
                    found = _read(answer, most)
                    if answer.status_code < 300:
                        return found
                    if answer.status_code not in _AGAIN:
                        raise _refusal(answer.status_code, found)
                    last = f"status {answer.status_code}"
                    asked = answer.headers.get("retry-after", "")
                    if asked.isdigit():
                        wait = max(wait, min(float(asked[:9]), _LONGEST_WAIT))
            except self._library.TransportError as e:
                last = f"{type(e).__name__}: {printable(str(e))[:120]}"
                for known, hint in _HOPELESS.items():
                    if known in last:
                        raise self._silence(last, hint) from e
            if left:
                self._progress(f"waiting {wait:.1f} s for the service ({last})")
                time.sleep(wait)
            pause = min(2 * pause, _LONGEST_WAIT)
        asked = last.startswith("status")
        hint = "is it running there, and does it speak http or https?"
        raise self._silence(last, "ask again later" if asked else hint)

    def _silence(self, got: str, hint: str) -> LinalignError:
        return LinalignError(f"the service at {self._url} does not answer", got=got, hint=hint)


def _read(answer: Any, most: int) -> bytes:
    with io.BytesIO() as found:
        _copy(answer, most, found)
        return found.getvalue()


def _copy(answer: Any, most: int, into: IO[bytes]) -> None:
    size = 0
    for part in answer.iter_raw():  # nothing is unpacked: a small answer could become a large one
        size += len(part)
        if size > most:
            raise FormatError("the service's answer is too large", expected=f"at most {most} bytes")
        into.write(part)


def _refusal(status: int, raw: bytes) -> LinalignError:
    """The error that a service answered with."""
    try:
        found = strict_json(raw[:10_000])
        kind, message = str(found["error"]), str(found["message"])[:500]
    except (ValueError, KeyError, TypeError, RecursionError):
        return LinalignError("the service refuses", got=f"status {status}")
    if kind == "UnknownKey":
        return UnknownKeyError(message)
    return _ERRORS.get(kind, LinalignError)(f"the service refuses: {message}")
