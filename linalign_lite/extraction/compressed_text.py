"""Text files as streams of lines, unpacked on the way; memory never holds more than a line.

A small compressed file can unpack to anything. So nothing is unpacked ahead of its being read, zstd
may ask for a window of 128 MiB at most, and a line has a largest size.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.places import opened

MAX_TEXT = 64 << 20  # bytes of a line, or of a text of several
PACKED = (".gz", ".zst")
_WINDOW = 1 << 27
_PIECE = 1 << 10  # bytes unpacked at a time: at most 32 MiB come out of them
_BOM = b"\xef\xbb\xbf"


@contextlib.contextmanager
def open_bytes(path: str) -> Iterator[IO[bytes]]:
    """The content of ``path``, of `.gz` and `.zst` what is packed in it.

    path: of a file; "-" is standard input, and a URL is read as it comes (see `remote`).

    Raises InputError when it cannot be opened, and while it is read FormatError when what is packed
    is damaged or cut short.
    """
    if path == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed", expected="texts, a line each")
        yield sys.stdin.buffer
        return
    with opened(path) as f:
        ending = Path(path).suffix.lower()
        if ending == ".gz":
            yield cast("IO[bytes]", _Unpacked(path, cast("IO[bytes]", gzip.GzipFile(fileobj=f))))
        elif ending == ".zst":
            yield cast("IO[bytes]", _Unpacked(path, _zstd(f)))
        else:
            yield f


@contextlib.contextmanager
def kept(path: str) -> Iterator[str]:
    """A path that can be read more than once: standard input goes to a temporary file."""
    if path != "-":
        yield path
        return
    with open_bytes(path) as f, tempfile.NamedTemporaryFile(prefix="linalign-") as copy:
        shutil.copyfileobj(f, copy)
        copy.flush()
        yield copy.name


def lines(path: str, f: IO[bytes]) -> Iterator[tuple[int, str]]:
    r"""Number and content of each line, its end (``\n`` or ``\r\n``) included.

    Raises InputError, naming the line, for more than MAX_TEXT bytes and for what is not UTF-8.
    """
    offset = 0
    for number in itertools.count(1):
        raw = f.readline(MAX_TEXT + 1)
        if not raw:
            return
        if len(raw) > MAX_TEXT:
            raise InputError(
                f"{path}, line {number} is too long", expected=f"at most {MAX_TEXT} bytes"
            )
        skip = len(_BOM) if number == 1 and raw.startswith(_BOM) else 0
        try:
            line = raw[skip:].decode("utf-8")
        except UnicodeDecodeError as e:
            at = skip + e.start
            raise InputError(
                f"{path}, line {number} is not UTF-8",
                got=f"byte 0x{raw[at]:02x} at offset {offset + at}",
                hint="convert the file, for instance with iconv -t utf-8",
            ) from e
        offset += len(raw)
        if line:
            yield number, line


def _zstd(f: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", io.BufferedReader(_Zstd(f), 1 << 16))


class _Zstd(io.RawIOBase):
    """What zstd frames hold. zstandard's own reader does not say when the last one is cut short."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._ready = memoryview(b"")
        self._packed = b""
        self._frame: Any = None  # the one that is being read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and self._more():
            pass
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _more(self) -> bool:
        import zstandard

        self._packed = self._packed or self._source.read(_PIECE)
        if not self._packed:
            if self._frame is not None:
                raise EOFError("it ends within a frame")
            return False
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
        self._ready = memoryview(self._frame.decompress(self._packed))
        self._packed = self._frame.unused_data
        if self._frame.eof:
            self._frame = None
        return True


class _Unpacked:
    """readline and read of a packed file, its errors named."""

    def __init__(self, path: str, inner: IO[bytes]) -> None:
        self._path, self._inner = path, inner

    def readline(self, size: int = -1) -> bytes:
        return self._named(self._inner.readline, size)

    def read(self, size: int = -1) -> bytes:
        return self._named(self._inner.read, size)

    def _named(self, call: Callable[[int], bytes], size: int) -> bytes:
        try:
            return call(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as e:
            raise _damaged(self._path, e) from e
        except Exception as e:
            if type(e).__module__.split(".")[0] != "zstandard":
                raise
            raise _damaged(self._path, e) from e


def _damaged(path: str, e: Exception) -> FormatError:
    return FormatError(
        f"{path} does not unpack",
        got=str(e)[:160] or type(e).__name__,
        hint="the file may be cut short, or of another kind than its ending says",
    )
