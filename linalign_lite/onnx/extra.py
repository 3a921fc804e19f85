"""Packages of the extra `export`, which may be missing."""

from __future__ import annotations

import importlib

from linalign_lite.errors import MissingExtraError


def require(purpose: str, *modules: str) -> None:
    """Import modules; raise MissingExtraError naming the first package that is not installed."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as e:
            raise MissingExtraError(module.split(".")[0], "export", purpose) from e
