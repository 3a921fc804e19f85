"""Read text files, packed or not, as streams of lines; memory holds one line at a time.

A small compressed file can unpack to any size. So a file is unpacked only as it is read, a zstd
window has at most 128 MiB, and the length of a line is limited.
"""

import contextlib
import gzip
import io
import itertools
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.places import opened

MAX_TEXT = 64 << 20  # bytes of a line, or of a text of several
PACKED = (".gz", ".zst")
_WINDOW = 1 << 27
_PIECE = 1 << 10  # packed bytes read at a time: they unpack to 32 MiB at most
_BOM = b"\xef\xbb\xbf"


@contextlib.contextmanager
def open_bytes(path: str) -> Iterator[IO[bytes]]:
    """Open ``path`` as a stream of bytes; `.gz` and `.zst` are unpacked.

    path: of a file, "-" for standard input, or a URL (see `remote`).
    Raises InputError when it cannot be opened, and, while it is read, FormatError when a packed
    file is damaged or cut short.
    """
    if path == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed", expected="one text per line")
        yield sys.stdin.buffer
        return
    with opened(path) as f:
        ending = Path(path).suffix.lower()
        if ending == ".gz":
            pieces = iter(partial(gzip.GzipFile(fileobj=f).read, 1 << 13), b"")
            errors = (EOFError, gzip.BadGzipFile, zlib.error)
            yield io.BufferedReader(_Unpacked(path, pieces, errors))
        elif ending == ".zst":
            yield _zstd(path, f)
        else:
            yield f


@contextlib.contextmanager
def kept(path: str) -> Iterator[str]:
    """Yield a path that can be read more than once: standard input is copied to a file."""
    if path != "-":
        yield path
        return
    with open_bytes(path) as f, tempfile.NamedTemporaryFile(prefix="linalign-") as copy:
        shutil.copyfileobj(f, copy)
        copy.flush()
        yield copy.name


def lines(path: str, f: IO[bytes]) -> Iterator[tuple[int, str]]:
    r"""Number and content of each line, its end (``\n`` or ``\r\n``) included.

    Raises InputError, naming the line, for more than MAX_TEXT bytes and for bytes that are not
    UTF-8.
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


class _Unpacked(io.RawIOBase):
    """Stream of unpacked pieces; the errors of the decompressor name the path."""

    def __init__(
        self, path: str, pieces: Iterator[bytes], errors: tuple[type[Exception], ...]
    ) -> None:
        self._path, self._pieces, self._errors = path, pieces, errors
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(b"")  # free the last piece before the next is unpacked
        try:
            while not self._rest and (piece := next(self._pieces, None)) is not None:
                self._rest = memoryview(piece)
        except self._errors as e:
            raise FormatError(
                f"{self._path} does not unpack",
                got=str(e)[:160] or type(e).__name__,
                hint="the file may be cut short, or of another kind than its ending says",
            ) from e
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _zstd(path: str, f: IO[bytes]) -> IO[bytes]:
    """Unpack frame by frame: zstandard's own reader takes a frame that is cut short for whole."""
    import zstandard

    def pieces() -> Iterator[bytes]:
        frame, packed = None, b""
        while packed := packed or f.read(_PIECE):
            if frame is None:
                frame = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
            yield frame.decompress(packed)
            packed = frame.unused_data
            if frame.eof:
                frame = None
        if frame is not None:
            raise EOFError("it ends within a frame")

    return io.BufferedReader(_Unpacked(path, pieces(), (EOFError, zstandard.ZstdError)))
