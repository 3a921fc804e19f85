"""The account of a query: whose key is waited for, and whose is not."""

import asyncio
from types import SimpleNamespace

import pytest

from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED
from linalign_lite.service.application import _Api, _RefusedError

KEY = b"k" * 32


class Keys:
    """Keys whose accounts are found look by look."""

    def __init__(self, *found):
        self.found, self.waited = list(found), 0

    def account(self, _):
        return self.found.pop(0)

    def until_next_look(self):
        self.waited += 1
        return 0.0


def account(keys, parameters, accounts=None, budget=None):
    served = SimpleNamespace(budget=budget, accounts=accounts)
    return asyncio.run(_Api(SimpleNamespace(keys=keys))._account(served, KEY, parameters))


def test_a_key_that_another_service_just_registered_is_waited_for():
    keys = Keys(None, b"a" * 32)
    assert account(keys, PRIVATE) == b"a" * 32
    assert keys.waited == 1


@pytest.mark.parametrize(
    ("parameters", "more"),
    [(PRIVATE, {}), (TRUSTED, {"budget": object()}), (TRUSTED, {"accounts": frozenset()})],
)
def test_a_key_that_is_needed_and_not_there_is_refused(parameters, more):
    keys = Keys(None, None)
    with pytest.raises(_RefusedError, match="register the public key"):
        account(keys, parameters, **more)
    assert keys.waited == 1


def test_a_query_that_needs_no_key_waits_for_none():
    keys = Keys(None)
    assert account(keys, TRUSTED) == b""
    assert keys.waited == 0
