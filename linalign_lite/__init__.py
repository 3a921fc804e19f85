"""linalign-lite: affine maps between language models' hidden states, and encrypted scoring."""

from linalign_lite.version import __version__

__all__ = ["__version__"]
