"""Requests that are answered with an error of their own, beside those of the library."""

from __future__ import annotations

from collections.abc import Mapping


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, kind: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, headers


def stated_length(headers: Mapping[str, str], most: int) -> int:
    """Return the bytes of a request's body. Raises RefusedError if unstated or above ``most``."""
    length = headers.get("content-length", "")
    if not length.isascii() or not length.isdigit():
        raise RefusedError(411, "NoLength", "a request must state its length")
    if int(length) > most:
        raise RefusedError(413, "TooLarge", f"a request of at most {most} bytes is expected")
    return int(length)


def too_slow() -> RefusedError:
    what = "the request did not arrive in time"
    return RefusedError(408, "TooSlow", what, Connection="close")


def unknown_key() -> RefusedError:
    return RefusedError(403, "UnknownKey", "register the public key of this query first")


def unknown_account(account: bytes) -> RefusedError:
    if account:
        what = f"account {account.hex()[:16]} is not among those that are answered"
        return RefusedError(403, "UnknownAccount", f"{what} (hint: ask the provider)")
    what = "the key of this query belongs to no account (hint: make keys with keygen --account)"
    return RefusedError(403, "UnknownAccount", what)
