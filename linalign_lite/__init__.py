"""linalign-lite: affine maps between language models' hidden states, and encrypted scoring.

The names below are the public API. Importing this loads NumPy only:
onnxruntime, tokenizers, SciPy and TenSEAL are loaded by the first call that needs them.
"""

from linalign_lite.encrypt.client import Client, Scores
from linalign_lite.encrypt.keys import PublicKey, SecretKey, keygen
from linalign_lite.encrypt.messages import Query, Response
from linalign_lite.encrypt.provider import Provider
from linalign_lite.errors import (
    FormatError,
    InputError,
    LinalignError,
    MismatchError,
    MissingExtraError,
    OutputExistsError,
    ParityError,
)
from linalign_lite.evaluate import Evaluation, evaluate
from linalign_lite.extract import extract
from linalign_lite.fit import FitReport, fit
from linalign_lite.heads import HeadReport, train_head
from linalign_lite.hidden import HiddenStates
from linalign_lite.linear import AffineMap, Head, Space
from linalign_lite.runtime import Model, load_model
from linalign_lite.store import load, load_head, load_map, load_states, save
from linalign_lite.texts import Texts, read_texts
from linalign_lite.version import __version__

__all__ = [
    "AffineMap",
    "Client",
    "Evaluation",
    "FitReport",
    "FormatError",
    "Head",
    "HeadReport",
    "HiddenStates",
    "InputError",
    "LinalignError",
    "MismatchError",
    "MissingExtraError",
    "Model",
    "OutputExistsError",
    "ParityError",
    "Provider",
    "PublicKey",
    "Query",
    "Response",
    "Scores",
    "SecretKey",
    "Space",
    "Texts",
    "__version__",
    "evaluate",
    "extract",
    "fit",
    "keygen",
    "load",
    "load_head",
    "load_map",
    "load_model",
    "load_states",
    "read_texts",
    "save",
    "train_head",
]
