"""The account of a query: whose key is looked for, and whose is not."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED
from linalign_lite.service.application import _Api
from linalign_lite.service.refusals import RefusedError

KEY = b"k" * 32


class Keys:
    """Keys that are known after a number of looks."""

    def __init__(self, looks):
        self.missing, self.looks = looks, 0

    def path(self, _):
        return None if self.missing > self.looks else Path("key")

    def account(self, key):
        return self.path(key) and b"a" * 32

    def until_next_look(self):
        return 0.0

    def look(self):
        self.looks += 1


def account(keys, parameters, accounts=None, budget=None):
    served = SimpleNamespace(budget=budget, accounts=accounts)
    return asyncio.run(_Api(SimpleNamespace(keys=keys)).account(served, KEY, parameters))


@pytest.mark.parametrize("looks", [0, 1])
def test_a_key_that_another_service_just_registered_is_found(looks):
    keys = Keys(looks)
    assert account(keys, PRIVATE) == b"a" * 32
    assert keys.looks == looks


@pytest.mark.parametrize(
    ("parameters", "more"),
    [(PRIVATE, {}), (TRUSTED, {"budget": object()}), (TRUSTED, {"accounts": frozenset()})],
)
def test_a_key_that_is_needed_and_not_there_is_refused(parameters, more):
    keys = Keys(2)
    with pytest.raises(RefusedError, match="register the public key"):
        account(keys, parameters, **more)
    assert keys.looks == 1


def test_a_query_that_needs_no_key_waits_for_none():
    keys = Keys(1)
    assert account(keys, TRUSTED) == b""
    assert keys.looks == 0
