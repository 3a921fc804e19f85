"""Answers that may be large and are the same for all: sent in pieces, to some readers at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from linalign_lite.service.admission import BusyError

_PIECE = 1 << 16  # bytes: the next is sent when the last is taken, so none is copied whole
READERS = 64  # at once


class Published(StreamingResponse):
    """An answer of content that stays in memory, whoever reads it and however slowly.

    Raises BusyError when too many are read.
    """

    _open: ClassVar[int] = 0

    def __init__(self, content: bytes, kind: str) -> None:
        if Published._open >= READERS:
            raise BusyError(1)
        super().__init__(
            _pieces(content), media_type=kind, headers={"content-length": str(len(content))}
        )
        Published._open += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            Published._open -= 1


async def _pieces(content: bytes) -> AsyncIterator[memoryview]:
    view = memoryview(content)
    for start in range(0, len(view), _PIECE):
        yield view[start : start + _PIECE]
