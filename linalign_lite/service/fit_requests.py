"""Requests of private fits: an offer arrives on the disk, and its answer leaves from there."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import IO

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from linalign_lite.encrypt.fitting.cost import FitCost, predict_fit
from linalign_lite.encrypt.fitting.descriptions import OfferInfo
from linalign_lite.encrypt.parameters import PRIVATE, Parameters
from linalign_lite.encrypt.wire import Kind, open_framed, stated_form
from linalign_lite.errors import LinalignError, MismatchError
from linalign_lite.service.admission import BusyError
from linalign_lite.service.refusals import RefusedError, stated_length, too_slow, unknown_key
from linalign_lite.service.state import ServedFit, Service

MOST_HELD = 4  # offers that arrive, wait or are answered: each takes most_offer of the disk
_HEADER = 2048  # bytes in which the header of an offer is
_PIECE = 1 << 20  # bytes written or read at once
_SLOWEST = 1 << 18  # bytes a second of a large offer, beyond request_seconds
_BUSY = 10  # seconds until an offer that finds no room is sent again
Account = Callable[[ServedFit, bytes, Parameters], Awaitable[bytes]]


class FitRequests:
    """Answers of one service. ``account``: who owns a key, and may ask."""

    def __init__(self, service: Service, account: Account) -> None:
        self._service, self._account = service, account
        self._held = 0

    async def cards(self, _: Request) -> Response:
        """Describe all fits."""
        most = self._service.configuration.most_offer
        cards = [{**fit.card(), "most_bytes": most} for fit in self._service.fits.values()]
        return JSONResponse({"fits": cards})

    async def answer(self, request: Request) -> Response:
        """Answer an offer. What it tells is charged before the work; sent again, it is free."""
        service = self._service
        if (served := service.fits.get(request.path_params["fit"])) is None:
            raise RefusedError(404, "UnknownFit", "this service has no fit of that name")
        service.admission.require_room()
        workers = service.workers
        name = workers.spool / os.urandom(8).hex()
        offer, out = name.with_suffix(".offer"), name.with_suffix(".answer")
        with contextlib.ExitStack() as held, _removed(offer):
            held.enter_context(self._room())
            await self._receive(request, offer, served)
            info = await asyncio.to_thread(_header, offer)
            cost = self._require_modest(served, info)
            account = await self._account(served, info.key, info.parameters)
            if (key := service.keys.path(info.key)) is None:
                raise unknown_key()
            ms = 1e3 * cost.answer_s
            async with service.admission.turn(account, ms):

                async def answered() -> tuple[int, IO[bytes]]:
                    with _removed(out):  # it stays as long as it is open
                        told = await workers.fit(served.entry.name, offer, out, key, ms)
                        return told, out.open("rb")

                # never cancelled: what was charged is answered, or kept for the next request
                told, file = await asyncio.shield(asyncio.ensure_future(answered()))
            who = {"account": account.hex(), "key": info.key.hex()}
            service.audit(fit=served.entry.name, **who, states=told, outputs=served.space.dim)
            return _Sent(file, held.pop_all())

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Hold one of the places for offers. Raises BusyError when all are taken."""
        if self._held >= MOST_HELD:
            raise BusyError(_BUSY)
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    async def _receive(self, request: Request, path: Path, served: ServedFit) -> None:
        """Write a request's body to a file. Its key must be known, once its header is there."""
        configuration = self._service.configuration
        length = stated_length(request.headers, configuration.most_offer)
        seconds = configuration.request_seconds + length / _SLOWEST
        known, held = False, bytearray()
        try:
            async with asyncio.timeout(seconds):
                with path.open("xb") as file:
                    async for part in request.stream():
                        held += part
                        if not known and len(held) >= min(_HEADER, length):
                            start = bytes(held[:_HEADER])
                            await self._account(served, stated_form(start, Kind.OFFER)[1], PRIVATE)
                            known = True
                        if known and len(held) >= _PIECE:
                            await asyncio.to_thread(file.write, bytes(held))
                            held.clear()
                    file.write(held)
        except TimeoutError:
            raise too_slow() from None
        except OSError as e:
            raise LinalignError("an offer cannot be written", got=e.strerror or str(e)) from e

    def _require_modest(self, served: ServedFit, info: OfferInfo) -> FitCost:
        """Raise MismatchError for other texts, and for what takes too long or is too large."""
        configuration = self._service.configuration
        if (info.text_digest, info.n) != (served.text_digest, served.n):
            raise MismatchError(
                "this offer is of other texts than the fit",
                got=f"text digest {info.text_digest[:8]} ({info.n} texts)",
                expected=f"{served.text_digest[:8]} ({served.n} texts)",
                hint="extract your states from the texts that the provider names",
            )
        cost, hint = predict_fit(info.shape, served.space.dim), "offer fewer columns or folds"
        if cost.answer_s > configuration.most_seconds:
            got, most = f"{cost.answer_s:.0f} s", f"{configuration.most_seconds:.0f} s"
            raise MismatchError("this offer takes too long", got=got, expected=most, hint=hint)
        if cost.answer_bytes > configuration.most_response:
            got, most = str(cost.answer_bytes), f"{configuration.most_response} bytes"
            what = "the answer to this offer is too large"
            raise MismatchError(what, got=got, expected=most, hint=hint)
        return cost


def _header(path: Path) -> OfferInfo:
    """Read the header of an offer, whose size it must fit. Raises FormatError."""
    try:
        with open_framed(path, Kind.OFFER) as reader:
            return OfferInfo.from_header(reader.header, "this offer")
    except LinalignError as e:
        if not path.exists():
            raise LinalignError("the processes that answer were replaced") from e
        e.rename(str(path), "this offer")
        raise


@contextlib.contextmanager
def _removed(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


class _Sent(StreamingResponse):
    """An answer from a file, in pieces; its room is free once it was sent."""

    def __init__(self, file: IO[bytes], held: contextlib.ExitStack) -> None:
        size = os.fstat(file.fileno()).st_size
        headers = {"content-length": str(size)}
        super().__init__(_pieces(file), headers=headers, media_type="application/octet-stream")
        held.callback(file.close)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._held:
            await super().__call__(scope, receive, send)


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, _PIECE):
        yield piece
