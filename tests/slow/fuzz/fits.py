"""Files of an encrypted fit: the golden ones, which each step reads as it would anybody's."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
from support import ROOT

from fuzz.contract import Broken, working_folder
from linalign_lite import HiddenStates, PublicKey, SecretKey, answer_fit, finish_fit
from linalign_lite.core.hidden_states import text_digest
from linalign_lite.encrypt.key_proof import proven

_GOLDEN = ROOT / "tests" / "encrypt" / "fitting" / "golden"
_KEYS = ROOT / "tests" / "encrypt" / "golden"
_OFFER, _ANSWER, _KEPT = (
    _GOLDEN / name for name in ("v3-private.offer", "v3-private.answer", "v2.kept.npz")
)


@functools.cache
def _keys() -> tuple[SecretKey, PublicKey]:
    with working_folder() as folder:
        at = folder / "secret.key"
        shutil.copy(_KEYS / "v3-private-secret.key", at)
        at.chmod(0o600)
        secret = SecretKey.load(at)
    return secret, proven(secret, PublicKey.load(_KEYS / "v3-private-public.key"))


@functools.cache
def _states() -> HiddenStates:
    rows = np.sin(np.arange(24.0))[:, None].astype(np.float32)
    return HiddenStates(rows, text_digest=text_digest(map(str, range(24))))


def offer_seeds() -> list[bytes]:
    _keys()  # the proof takes seconds, which no single input has
    return [_OFFER.read_bytes()]


def answer_seeds() -> list[bytes]:
    return [_ANSWER.read_bytes()]


def kept_seeds() -> list[bytes]:
    return [_KEPT.read_bytes()]


def run_offer(data: bytes, folder: Path) -> None:
    at, out = folder / "x.offer", folder / "x.answer"
    at.write_bytes(data)
    out.unlink(missing_ok=True)
    answer_fit(at, out, _states(), [_keys()[1]])
    if not out.exists():
        raise Broken("answered without an answer")


def run_answer(data: bytes, folder: Path) -> None:
    at = folder / "x.answer"
    at.write_bytes(data)
    _finished(at, _private(folder, _KEPT.read_bytes()))


def run_kept(data: bytes, folder: Path) -> None:
    at = folder / "x.answer"
    shutil.copy(_ANSWER, at)
    _finished(at, _private(folder, data))


def _private(folder: Path, data: bytes) -> Path:
    at = folder / "x.kept.npz"
    at.write_bytes(data)
    at.chmod(0o600)
    return at


def _finished(answer: Path, kept: Path) -> None:
    found, _ = finish_fit(answer, kept, answer.parent / "x.map.npz")
    if not (np.isfinite(found.weight).all() and np.isfinite(found.bias).all()):
        raise Broken("a map that is not finite")
