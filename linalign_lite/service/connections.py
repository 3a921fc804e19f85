"""Connections of a service: uvicorn's, with limits on the time and memory that one may take."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any

KEEP_ALIVE = 30  # seconds that a connection may wait for its next request
_MOST_HEAD = 1 << 16  # bytes of a request before its body
_MOST_QUEUED = 100  # requests of one connection that arrived before the answer to an earlier one
_MOST_FILES = 1 << 16  # that are asked for; most systems give fewer unless they are asked
_OTHER_FILES = 200  # of heads, keys, budgets, processes and their pipes


def most_connections(most: int = 4096) -> int:
    """Return how many connections may wait, as many be answered and as many come at once.

    Raises this process's limit of open files as far as it may.
    """
    if sys.platform == "win32":
        return most
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return most
    return max(1, min(most, (soft - _OTHER_FILES) // 3))


class Limit:
    """Seconds after which something is done, unless it is stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
        self._loop, self._act = loop, act
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Count from now."""
        self.stop()
        self._timer = self._loop.call_later(seconds, self._act)

    def stop(self) -> None:
        """Do nothing, whatever time passes."""
        if self._timer is not None:
            self._timer.cancel()


def protocol(seconds: float, most: int) -> Any:
    """Return the class of a connection. ``seconds``: for the head of a request to arrive.

    ``most``: connections that wait for a request or a part of one; of more, the oldest is closed.
    So whoever sends whole requests is heard, however many others send none.

    A connection is closed when a head takes longer or is too large, when it waits for nothing but
    the rest of a request that was answered, when its answer is not read, and when too many requests
    wait for the answer to an earlier one. A client that ends its side still gets its answer.
    """
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    idle: dict[Any, None] = {}  # connections that wait, the oldest first

    class Connection(HttpToolsProtocol):
        _in_head = True
        _arriving, _head = 0, 0  # bytes of this piece, and of a head in those after its first

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._request = Limit(self.loop, self._drop)
            self._unread = Limit(self.loop, self._drop)
            self._request.start(seconds)
            self._wait()

        def _wait(self) -> None:
            """Wait for a request, last of those that do."""
            idle.pop(self, None)
            idle[self] = None
            if len(idle) > most:
                oldest = next(iter(idle))
                del idle[oldest]
                oldest._drop()

        def _drop(self) -> None:
            """Close at once; an answer on its way goes nowhere."""
            if self.cycle:
                self.cycle.disconnected = True
            self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            idle.pop(self, None)
            self._request.stop()
            self._unread.stop()
            super().connection_lost(exc)

        # -- what arrives --------------------------------------------------------------------------

        def data_received(self, data: bytes) -> None:
            self._arriving = len(data)
            super().data_received(data)
            self._head += self._arriving
            if self._in_head and self._head > _MOST_HEAD and not self.transport.is_closing():
                self.send_400_response("The head of this request is too large.")

        def eof_received(self) -> bool:  # type: ignore[override]
            """Keep the connection open, where that is possible, while a whole request waits."""
            waits = self.cycle and not (self.cycle.response_complete or self.cycle.more_body)
            if waits:
                self.cycle.keep_alive = False
            return bool(waits) and self.scheme == "http"

        def on_message_begin(self) -> None:
            self._in_head, self._head = True, -self._arriving
            self._request.start(seconds)
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._request.stop()  # the application times the body
            super().on_headers_complete()
            if len(self.pipeline) > _MOST_QUEUED:
                raise ValueError("too many requests wait")  # the parser closes the connection
            if any(name == b"transfer-encoding" for name, _ in self.headers):
                self.cycle.keep_alive = False  # refused; its chunks and trailers have no limit

        def _unsupported_upgrade_warning(self) -> None:
            """Log nothing: the request is answered as if it asked for no other protocol."""

        def on_message_complete(self) -> None:
            idle.pop(self, None)
            super().on_message_complete()

        # -- what is answered ----------------------------------------------------------------------

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.cycle.response_complete:  # none is queued
                self._request.start(max(seconds, KEEP_ALIVE))
                self._wait()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread.start(max(seconds, KEEP_ALIVE))

        def resume_writing(self) -> None:
            self._unread.stop()
            super().resume_writing()

    return Connection
