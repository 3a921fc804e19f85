"""Packages of the extras `export` and `onnx`, which may be missing."""

from __future__ import annotations

import importlib

from linalign_lite.errors import MissingExtraError


def require(purpose: str, *modules: str, extra: str = "export") -> None:
    """Import modules; raise MissingExtraError naming the first package that is not installed."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as e:
            raise MissingExtraError(module.split(".")[0], extra, purpose) from e
