"""The errors that linalign-lite raises on purpose.

Every message says what is wrong, what was got, what was expected, and a hint. It never repeats a
state, a query, a text or a key: names, shapes, types and digests only.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

_PASSWORD = re.compile(r"(://[^/:@\s]*):[^/@\s]*@")
_SIGNED = re.compile(r"(://[^?\s]*)\?[^\s)]*")


def without_secrets(text: str) -> str:
    """``text`` with the passwords and the signatures (all after a ?) taken out of its URLs."""
    return _SIGNED.sub(r"\1?…", _PASSWORD.sub(r"\1:…@", text))


def printable(text: str) -> str:
    """``text`` with what is not printable replaced, line ends and terminal escapes among it."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


class LinalignError(Exception):
    """Something went wrong that the caller can understand. Exit code 1 on the command line."""

    exit_code = 1

    def __init__(self, problem: str, *, got: str = "", expected: str = "", hint: str = "") -> None:
        self.problem = problem
        self.got = got
        self.expected = expected
        self.hint = hint
        super().__init__(self._text())

    def rename(self, old: str, new: str) -> None:
        """Name ``new`` where the message names ``old``: a temporary file, say."""
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
        # text from a file, or a URL, may stand in here
        return printable(without_secrets(text))


class InputError(LinalignError):
    """An argument, an option or a text file is not usable. Exit code 2."""

    exit_code = 2


class FormatError(InputError):
    """A file is not what its name or its place says: truncated, altered, or of another kind."""


class SignatureError(FormatError):
    """A bundle that is not signed, or not by whom it should be."""


class MismatchError(InputError):
    """Things that do not belong together: a map of another model, a response to another key."""


class PrecisionError(InputError):
    """Parameters cannot hold what is asked: scores could overflow, be too imprecise, or leak."""


class OutputExistsError(InputError):
    """A file that is never overwritten is already there."""


class BudgetError(LinalignError):
    """A provider's query budget for a key is used up."""


class ParityError(LinalignError):
    """An exported graph does not agree with the model that it was made from."""


class MissingExtraError(LinalignError):
    """A package outside the base install is needed. The message names it and its extra, if any."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which the base install leaves out",
            hint=f"pip install 'linalign-lite[{extra}]'" if extra else f"pip install {package}",
        )


def import_extra(module: str, *, extra: str, purpose: str) -> Any:
    """Import a module of a package that only the optional dependency group ``extra`` installs.

    Raises MissingExtraError, which names the package, the extra and the ``purpose`` of the import.
    """
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise MissingExtraError(module.partition(".")[0], extra, purpose) from e
