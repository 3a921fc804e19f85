"""The HTTP interface of a scoring service: an ASGI application of Starlette.

Octet streams are files of section 3 of docs/FORMAT.md; everything else is JSON. An error is
{"error": kind, "message": text}; what it says is of the request alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from linalign_lite.core.signing import VerifyingKey
from linalign_lite.encrypt.key_proof import proof_size
from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.encrypt.parameters import PROFILES, Parameters
from linalign_lite.encrypt.wire import Kind, stated_form
from linalign_lite.errors import LinalignError, MismatchError, SignatureError
from linalign_lite.service import budget_requests
from linalign_lite.service.admission import BusyError
from linalign_lite.service.fit_requests import FitRequests
from linalign_lite.service.openapi import document
from linalign_lite.service.protocol import STATUS
from linalign_lite.service.published import Published
from linalign_lite.service.refusals import (
    RefusedError,
    stated_length,
    too_slow,
    unknown_account,
    unknown_key,
)
from linalign_lite.service.state import LOG, Expected, ServedFit, ServedHead, Service

_UPLOADS = 8  # requests of the largest size that may arrive at once
_MAX_KEY = 1 << 17
_SMALL = 1 << 20  # bytes of a small request
_REFUSAL = 1.0  # seconds until a request is refused because too many wait
_OCTETS = "application/octet-stream"
Handler = Callable[[Request], Awaitable[Response]]


class _Failure(JSONResponse):
    """An answer that is an error."""

    def __init__(
        self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__({"error": kind, "message": message}, status, headers)
        self.kind = kind


def application(service: Service) -> ASGIApp:
    """Return the application of a service that was started."""
    api = _Api(service)
    fits = FitRequests(service, api.account)
    routes = [
        Route(path, api.answering(path, handler), methods=[method])
        for method, path, handler in (
            ("GET", "/v1/heads", api.heads),
            ("GET", "/v1/heads/{head}", api.head),
            ("GET", "/v1/heads/{head}/index", api.published),
            ("GET", "/v1/heads/{head}/ids", api.published),
            ("GET", "/v1/heads/{head}/centroids", api.published),
            ("POST", "/v1/heads/{head}/score", api.score),
            ("GET", "/v1/heads/{head}/budget", api.budget),
            ("GET", "/v1/fits", fits.cards),
            ("POST", "/v1/fits/{fit}/answer", fits.answer),
            ("POST", "/v1/keys", api.register),
            ("PUT", "/v1/keys/{key}/proof", api.prove),
            ("GET", "/health", api.health),
            ("GET", "/ready", api.ready),
            ("GET", "/metrics", api.metrics),
            ("GET", "/openapi.json", api.openapi),
        )
    ]
    origins = list(service.configuration.origins)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT"],
        allow_headers=["content-type", *budget_requests.HEADERS],
        expose_headers=["retry-after"],
        max_age=600,
    )
    found = Starlette(
        routes=routes,
        middleware=[cors] if origins else [],
        exception_handlers={HTTPException: _no_route},
    )
    found.router.redirect_slashes = False  # it would redirect to whatever host a request names

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await found(scope, receive, send)
        except RuntimeError as e:  # uvloop's, of a connection that its client reset
            if "handler is closed" not in str(e):
                raise

    return answering


class _Api:
    """Answers of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def answering(self, route: str, handler: Handler) -> Handler:
        """Turn errors into answers, and count and log what was answered."""

        async def answer(request: Request) -> Response:
            began = time.perf_counter()
            response: Response
            try:
                response = await handler(request)
            except RefusedError as e:
                response = _Failure(e.status, e.kind, e.message, e.headers)
            except BusyError as e:
                # whoever asks too often waits: a flood of refusals would starve what was accepted
                await asyncio.sleep(_REFUSAL)
                response = _Failure(429, "BusyError", str(e), {"Retry-After": str(e.seconds)})
            except asyncio.CancelledError:  # the service ends
                response = _Failure(503, "LinalignError", "this service cannot answer now")
            except ClientDisconnect:
                response = _Failure(400, "Disconnected", "the request ended early")
            except LinalignError as e:
                status = next((s for kind, s in STATUS.items() if isinstance(e, kind)), 503)
                if status == 503:
                    LOG.error("cannot answer", extra={"fields": {"error": str(e)}})
                text = "this service cannot answer now" if status == 503 else str(e)
                response = _Failure(status, type(e).__name__, text)
            except Exception as e:  # noqa: BLE001 (a client gets an answer whatever happens)
                LOG.exception("failed", extra={"fields": {"error": type(e).__name__}})
                response = _Failure(500, "InternalError", "this service failed")
            ms = 1e3 * (time.perf_counter() - began)
            # once it is sent: a client does not wait for our books
            fields = {"route": route, "status": response.status_code, "ms": round(ms, 2)}
            for kind, known in (("head", self._service.heads), ("fit", self._service.fits)):
                if (name := request.path_params.get(kind)) in known:
                    fields[kind] = name
            if isinstance(response, _Failure):
                fields["error"] = response.kind
            response.background = BackgroundTask(self._note, fields)
            return response

        return answer

    async def _note(self, fields: dict[str, Any]) -> None:
        self._service.metrics.requests.labels(fields["route"], fields["status"]).inc()
        LOG.info("answered", extra={"fields": fields})

    async def heads(self, _: Request) -> Response:
        return JSONResponse({"heads": [h.card() for h in self._service.heads.values()]})

    async def head(self, request: Request) -> Response:
        return JSONResponse(self._head(request).card())

    async def published(self, request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        if (found := self._head(request).published.get(name)) is None:
            raise RefusedError(404, "NoIndex", "this is no index, or it has none of these")
        kinds = {"index": "application/json", "ids": "text/plain"}
        return Published(found, kinds.get(name, _OCTETS))

    async def score(self, request: Request) -> Response:
        served, service = self._head(request), self._service
        began = time.perf_counter()
        service.admission.require_room()  # before the body: being refused must cost little
        async with self._body(request, service.configuration.most_body) as body:
            form, key = stated_form(body, Kind.QUERY)
            if (expected := served.expected.get(form)) is None:
                expected = served.expect(form, body)
            self._require_modest(expected)
            account = await self.account(served, key, expected.parameters)
            path = service.keys.path(key)
            async with service.admission.turn(account, expected.ms):
                if (now := self._head(request)) is not served:  # reloaded while this one waited
                    served = now
                    await self.account(served, key, expected.parameters)
                # never cancelled: what was charged is answered, or kept for the next request
                scoring = service.workers.score(served.entry.name, body, path, expected.ms)
                answer = await asyncio.shield(scoring)
        seconds = time.perf_counter() - began
        service.metrics.states.labels(served.entry.name).inc(answer.states)
        service.metrics.seconds.labels(served.entry.name).observe(seconds)
        who = {"account": account.hex(), "key": key.hex()}
        service.audit(head=served.entry.name, **who, states=answer.states, outputs=expected.outputs)
        return Response(answer.body, media_type=_OCTETS)

    async def budget(self, request: Request) -> Response:
        served = self._head(request)
        if served.budget is None:
            raise RefusedError(404, "NoBudget", "this head has no budget")
        account, moment, signature = budget_requests.read(request.headers)
        signed = budget_requests.data(served.entry.name, moment)
        if not VerifyingKey(account).accepts(signature, signed):
            raise SignatureError("this request is not signed by the account that it names")
        budget_requests.require_recent(moment)
        try:
            usage = await asyncio.to_thread(served.budget.usage_of, account)
        except LinalignError as e:  # the service's fault, whatever its kind
            raise LinalignError(str(e)) from e
        return JSONResponse(asdict(usage))

    async def register(self, request: Request) -> Response:
        async with self._body(request, _MAX_KEY) as body:
            key = await asyncio.to_thread(PublicKey.load, body)
            if not self._may_register(key.account):
                raise unknown_account(key.account)
            new = await asyncio.to_thread(self._service.keys.register, key)
        return JSONResponse({"key": key.digest.hex()}, status_code=201 if new else 200)

    async def prove(self, request: Request) -> Response:
        service, digest = self._service, self._digest(request)
        if (path := await self._path(digest)) is None:
            raise unknown_key()
        size = max(map(proof_size, PROFILES.values())) + 4096
        async with self._body(request, size) as body, service.admission.turn(b"", 500.0):
            await service.workers.verify(path, body)
            await asyncio.to_thread(service.keys.keep_proof, digest, body)
        return JSONResponse({"key": digest.hex()})

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(self, _: Request) -> Response:
        ready = self._service.is_ready
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        host = request.client.host if request.client else ""
        if not self._service.configuration.allows_metrics(host):
            raise RefusedError(403, "Forbidden", "metrics are for this machine alone")
        return Response(self._service.page(), media_type="text/plain; version=0.0.4")

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(document())

    # -- parts ---------------------------------------------------------------------------------

    def _head(self, request: Request) -> ServedHead:
        found = self._service.heads.get(request.path_params["head"])
        if found is None:
            raise RefusedError(404, "UnknownHead", "this service has no head of that name")
        return found

    def _require_modest(self, expected: Expected) -> None:
        """Raise MismatchError for a query that takes too long, or whose response is too large."""
        configuration, hint = self._service.configuration, "send fewer states at once"
        if expected.ms > 1e3 * configuration.most_seconds:
            got, most = f"{expected.ms / 1e3:.0f} s", f"{configuration.most_seconds:.0f} s"
            raise MismatchError("this query takes too long", got=got, expected=most, hint=hint)
        if expected.response_bytes > configuration.most_response:
            got, most = str(expected.response_bytes), f"{configuration.most_response} bytes"
            what = "the response to this query is too large"
            raise MismatchError(what, got=got, expected=most, hint=hint)

    async def account(
        self, served: ServedHead | ServedFit, key: bytes, parameters: Parameters
    ) -> bytes:
        """Return the account that asks; empty if none. Raises RefusedError unless it may."""
        needed = parameters.private or served.budget or served.accounts is not None
        if needed:
            await self._path(key)
        account = self._service.keys.account(key)
        if account is None:
            if needed:
                raise unknown_key()
            return b""
        if served.accounts is not None and account not in served.accounts:
            raise unknown_account(account)
        return account

    async def _path(self, key: bytes) -> Path | None:
        """The file of a key, which another service may just have registered."""
        keys = self._service.keys
        if (path := keys.path(key)) is None:
            await asyncio.sleep(keys.until_next_look())
            await asyncio.to_thread(keys.look)
            path = keys.path(key)
        return path

    def _may_register(self, account: bytes) -> bool:
        service = self._service
        listed = [head.accounts for head in service.heads.values()]
        listed += [fit.accounts for fit in service.fits.values()]
        return any(found is None or account in found for found in listed)

    def _digest(self, request: Request) -> bytes:
        try:
            digest = bytes.fromhex(request.path_params["key"])
        except ValueError:
            digest = b""
        if len(digest) != 32:
            raise unknown_key()
        return digest

    @contextlib.asynccontextmanager
    async def _body(self, request: Request, most: int) -> AsyncIterator[bytes]:
        """The request's body, whose size counts as long as it is held."""
        length = stated_length(request.headers, most)
        service, body, size = self._service, io.BytesIO(), 0
        small = length <= _SMALL  # whose room large requests cannot take
        room = _UPLOADS * service.configuration.most_body // 2
        try:
            try:
                async with asyncio.timeout(service.configuration.request_seconds):
                    async for part in request.stream():  # what is only announced takes no room
                        if service.uploading[small] + len(part) > room:
                            raise BusyError(1)
                        service.uploading[small] += len(part)
                        size += body.write(part)
            except TimeoutError:
                raise too_slow() from None
            yield body.getvalue()
        finally:
            service.uploading[small] -= size


async def _no_route(_: Request, e: Any) -> Response:
    """Answer 404 and 405 in the form of all errors."""
    return _Failure(e.status_code, e.detail.replace(" ", ""), e.detail, e.headers)
