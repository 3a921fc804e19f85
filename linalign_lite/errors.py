"""The errors that linalign-lite raises deliberately.

A message states the problem, the value found, the value expected and a hint. It never contains a
state, a query, a text or a key: names, shapes, types and digests only.
"""

import contextlib
import errno
import importlib
import re
from collections.abc import Iterator
from typing import Any

_PASSWORD = re.compile(r"(://[^/:@\s]*):[^\s]*@")  # up to the last @: a password may hold / and @
_SIGNED = re.compile(r"((?:://|\bpostgres(?:ql)?:)[^?\s]*)\?[^\s)#]*")


def without_secrets(text: str) -> str:
    """Remove passwords and signatures (what stands after a ?) from the URLs in ``text``."""
    return _SIGNED.sub(r"\1?…", _PASSWORD.sub(r"\1:…@", text))


def printable(text: str) -> str:
    """Replace all characters that are not printable, including line ends and terminal escapes."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


class LinalignError(Exception):
    """Base of all deliberate errors. Exit code 1 on the command line."""

    exit_code = 1

    def __init__(self, problem: str, *, got: str = "", expected: str = "", hint: str = "") -> None:
        self.problem = problem
        self.got = got
        self.expected = expected
        self.hint = hint
        super().__init__(self._text())

    def rename(self, old: str, new: str) -> None:
        """Replace ``old``, such as the name of a temporary file, by ``new`` in the message."""
        for part in ("problem", "got", "expected", "hint"):
            setattr(self, part, getattr(self, part).replace(old, new))
        self.args = (self._text(),)

    def _text(self) -> str:
        text = self.problem
        if self.got:
            text += f": got {self.got}"
        if self.expected:
            text += f"{',' if self.got else ':'} expected {self.expected}"
        if self.hint:
            text += f" (hint: {self.hint})"
        # it may contain text from a file, or a URL
        return printable(without_secrets(text))


class InputError(LinalignError):
    """An argument, an option or a text file is not usable. Exit code 2."""

    exit_code = 2


class FormatError(InputError):
    """A file is truncated, altered, or not of the expected kind."""


class SignatureError(FormatError):
    """A bundle is not signed, or not by an accepted key."""


class MismatchError(InputError):
    """Inputs do not belong together: a map of another model, a response to another key."""


class PrecisionError(InputError):
    """The parameters do not suffice: scores could overflow, be too imprecise, or leak."""


class OutputExistsError(InputError):
    """An output exists already and is never overwritten."""


class BudgetError(LinalignError):
    """A provider's query budget for a key is used up."""


class ParityError(LinalignError):
    """The outputs of an exported graph differ from those of its model."""


class AlignmentError(LinalignError):
    """No alignment of two spaces was found in texts that they do not share."""


class MissingExtraError(LinalignError):
    """A package outside the base install is needed. The message names it and its extra, if any."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which the base install leaves out",
            hint=f"pip install 'linalign-lite[{extra}]'" if extra else f"pip install {package}",
        )


def is_disk_full(error: BaseException) -> bool:
    """Return True for the error of a write to a disk, or a quota, that is full."""
    if not isinstance(error, OSError):
        return False
    short = error.errno is None and "requested and" in str(error)  # NumPy's, of a short write
    return short or error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def quote_errors(
    problem: str, kind: type[LinalignError] = InputError, *, hint: str = ""
) -> Iterator[None]:
    """Turn errors of the block, of a library without an error type of its own, into a ``kind``.

    Those of a full disk pass.
    """
    try:
        yield
    except Exception as e:
        if is_disk_full(e):
            raise
        text = " ".join(str(e).split())[:300]
        raise kind(problem, got=f"{type(e).__name__}: {text}", hint=hint) from e


def import_extra(module: str, *, extra: str, purpose: str) -> Any:
    """Import a module of a package that only the optional dependency group ``extra`` installs.

    Raises MissingExtraError, which names the package, the extra and the ``purpose`` of the import.
    """
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise MissingExtraError(module.partition(".")[0], extra, purpose) from e
