"""Requests for what is left of a budget: signed by its account, and soon stale."""

from __future__ import annotations

import time
from collections.abc import Mapping

from linalign_lite.core.signing import SigningKey
from linalign_lite.errors import SignatureError

_TOLERANCE = 300.0  # seconds by which two clocks may differ
HEADERS = tuple(f"linalign-{name}" for name in ("account", "time", "signature"))
_ACCOUNT, _MOMENT, _SIGNATURE = HEADERS


def data(head: str, moment: int) -> bytes:
    """Return what an account signs. moment: seconds since 1970."""
    return f"linalign-lite asks for the budget of {head} at {moment}".encode()


def headers(account: SigningKey, head: str) -> dict[str, str]:
    """Make the headers of a request of this moment."""
    moment = int(time.time())
    signature = account.sign(data(head, moment)).hex()
    return {_ACCOUNT: account.public.hex(), _MOMENT: str(moment), _SIGNATURE: signature}


def read(found: Mapping[str, str]) -> tuple[bytes, int, bytes]:
    """Return account, moment and signature. Raises SignatureError unless they are there."""
    try:
        account, signature = (bytes.fromhex(found[name]) for name in (_ACCOUNT, _SIGNATURE))
        moment = int(found[_MOMENT][:20])
    except (KeyError, ValueError):
        raise SignatureError("this request is not signed by an account") from None
    if len(account) != 32 or len(signature) != 64:
        raise SignatureError("this request is not signed by an account")
    return account, moment, signature


def require_recent(moment: int) -> None:
    """Raise SignatureError unless a request was signed in the last minutes, by the clock here."""
    if abs(time.time() - moment) > _TOLERANCE:
        raise SignatureError(
            "this request is too old, or the clocks of client and service differ by more than"
            f" {_TOLERANCE / 60:.0f} minutes",
            hint="set the clock",
        )
