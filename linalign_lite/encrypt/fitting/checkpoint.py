"""Save the sums of an answer while they are made, so that an interrupted one resumes there.

Sums are not masked yet: the file is the provider's own, mode 0600, and never sent. Masks are drawn
when an answer is written, so that two answers of the same sums share none.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from linalign_lite.encrypt.fitting.products import FoldSums
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import PathLike, require_replaceable
from linalign_lite.storage.npz import load_npz, save_npz

FORMAT, VERSION = "linalign-sums", 1
SECONDS = 60.0  # between two savings
_SCHEMA = {"first": (("<u8",), 4), "second": (("<u8",), 4)}


class SumsCheckpoint:
    """Sums of each block of dimensions, in ``path``.0, ``path``.1 and so on; none without a path.

    job: digest of the offer and the provider's states. A block's file stays until the answer is
    complete. Raises InputError where no file can be written, of any of the ``blocks``.
    """

    def __init__(self, path: PathLike | None, job: str, blocks: int = 1) -> None:
        self._path = None if path is None else Path(path)
        self._job, self._saved = job, time.monotonic()
        self._mine: set[Path] = set()  # loaded or saved here
        if self._path is not None:
            for block in range(blocks):
                require_replaceable(self._file(block))
            if not self._path.parent.is_dir():
                raise InputError(
                    f"the folder {self._path.parent} is not there", hint="make it first"
                )

    def resume(self, block: int, sums: Sequence[FoldSums]) -> int:
        """Load what was saved of a block into ``sums``; return the number of records in it.

        Raises InputError for a file of another offer or other states, and a damaged one. It is no
        FormatError: that is the offer's, and a budget keeps what an altered offer was charged.
        """
        if self._path is None or not self._file(block).exists():
            return 0
        path = self._file(block)
        try:
            arrays, card = load_npz(path, FORMAT, VERSION, _SCHEMA, required=_SCHEMA)
        except FormatError as e:
            raise _refused(f"{path} is damaged, or no checkpoint") from e
        if card.get("job") != self._job:
            raise _refused(f"{path} belongs to another answer")
        done, primes = card.get("records"), np.array(sums[0].primes, dtype=np.uint64)[:, None]
        shapes = {n: (len(sums), *getattr(sums[0], n).shape) for n in _SCHEMA}
        fits = type(done) is int and 0 < done <= sums[0].shape.chunks
        if not fits or any(arrays[n].shape != shapes[n] for n in _SCHEMA):
            raise _refused(f"{path} does not hold what it should")
        if any((arrays[n] >= primes).any() for n in _SCHEMA):
            raise _refused(f"{path} holds values that are not below their primes")
        for k, one in enumerate(sums):
            one.first[:], one.second[:] = arrays["first"][k], arrays["second"][k]
        self._mine.add(path)
        assert isinstance(done, int)
        return done

    def save(self, block: int, records: int, sums: Sequence[FoldSums], *, now: bool) -> None:
        """Save the sums of so many records, if ``now``, or after a while."""
        if self._path is None or not (now or time.monotonic() - self._saved >= SECONDS):
            return
        for one in sums:
            one.flush()
        arrays = {n: np.stack([getattr(one, n) for one in sums]) for n in _SCHEMA}
        card = {"job": self._job, "records": records}
        save_npz(self._file(block), FORMAT, VERSION, arrays, card, private=True)
        self._mine.add(self._file(block))
        self._saved = time.monotonic()

    def close(self) -> None:
        """Remove the files of a complete answer, and none that is not of it."""
        for path in self._mine:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _file(self, block: int) -> Path:
        assert self._path is not None
        return self._path.with_name(f"{self._path.name}.{block}")


def _refused(what: str) -> InputError:
    return InputError(what, hint="remove it, or name another file")
