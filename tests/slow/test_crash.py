"""kill -9 at any point of `keygen`, `encrypt` and `score`: nothing half-written, no count lost."""

import os
import random
import signal
import time

import numpy as np
import pytest

from linalign_lite.core.head import Head
from linalign_lite.core.signing import SigningKey
from linalign_lite.encrypt.budgets.budget import Budget
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.keys import PublicKey, SecretKey, keygen
from linalign_lite.encrypt.messages import Query
from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.parameters import PRIVATE
from linalign_lite.encrypt.provider import Provider

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
N, DIM, KILLS, SCORED = 3, 16, 60, 100
HEAD = Head(np.random.default_rng(0).normal(size=(4, DIM)), np.zeros(4))
STATES = np.random.default_rng(1).normal(size=(N, DIM)) / 4
LAYOUT = Layout(4096, DIM, 1)  # one state to a record: more places to die at


def killed(work, after):
    """Run ``work`` in a child and kill it after so many seconds. Whether it was done before."""
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return os.WIFEXITED(os.waitpid(child, 0)[1])


def lasting(work):
    """Seconds that ``work`` takes in a child left alone: how busy the machine is."""
    began = time.perf_counter()
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return time.perf_counter() - began


def test_killed_while_encrypting(tmp_path):
    client = Client(keygen(PRIVATE)[0])
    path = tmp_path / "a.query"

    def work():
        client.encrypt_to(path, STATES, layout=LAYOUT)

    alive = 0
    rng = random.Random(7)
    for _ in range(KILLS):
        path.unlink(missing_ok=True)
        span = 2 * lasting(work)  # now, as busy as the machine is
        path.unlink()
        killed(work, rng.uniform(0, span))
        for left in tmp_path.iterdir():  # whole under its name, or whole and not yet named
            assert len(Query.load(left)) == N
            left.unlink()
            alive += 1
    assert 0 < alive < KILLS


def test_killed_while_a_key_is_made(tmp_path):
    """A key is whole and of its account, or not there."""
    account, rng = SigningKey.generate(), random.Random(5)
    secret_file, public_file = tmp_path / "secret.key", tmp_path / "public.key"

    def work():
        secret, public = keygen(PRIVATE, account)
        secret.save(secret_file)
        public.save(public_file)

    made = 0
    for _ in range(KILLS):
        span = 2 * lasting(work)
        for path in tmp_path.iterdir():
            path.unlink()
        killed(work, rng.uniform(0, span))
        if public_file.exists():
            made += 1
            assert PublicKey.load(public_file).account == account.public
            assert SecretKey.load(secret_file).digest == PublicKey.load(public_file).digest
        elif secret_file.exists():
            assert SecretKey.load(secret_file)
        for path in tmp_path.iterdir():
            path.unlink()
    assert 0 < made < KILLS


def test_killed_while_scoring(tmp_path):
    """Each query is charged once: not lost by a crash, and not charged again when sent again.

    Sent again, it gets what was kept, or is scored; then once more, killed again: the same bytes.
    """
    account = SigningKey.generate()
    secret, public = keygen(PRIVATE, account)
    client = Client(secret, account=account)
    query, response, ledger = (tmp_path / name for name in ("a.query", "a.response", "b.sqlite"))
    Budget(ledger, 1000)
    public.save(tmp_path / "public.key")
    exact = HEAD(STATES)
    rng, served, replayed = random.Random(9), 0, 0

    def work():
        keys = [PublicKey.load(tmp_path / "public.key")]
        Provider(HEAD, keys=keys, budget=Budget(ledger)).score_file(query, response)

    def once():
        keys = [PublicKey.load(tmp_path / "public.key")]
        Provider(HEAD, keys=keys).score_file(query, tmp_path / "b.response")

    client.encrypt_to(query, STATES, layout=LAYOUT)
    span = 3 * max(lasting(once) for _ in range(3))
    for asked in range(1, SCORED + 1):
        client.encrypt_to(query, STATES, layout=LAYOUT)
        killed(work, rng.uniform(0, span))
        used = Budget(ledger).usage()[0].used if Budget(ledger).usage() else 0
        for left in tmp_path.glob(".linalign-*"):  # whole and not yet named
            assert client.decrypt_from(left, query).values.shape == (N, 4)
            left.unlink()
        if response.exists():
            served += 1
            assert used == asked * N
        else:
            assert used in ((asked - 1) * N, asked * N)
            work()
        first = response.read_bytes()
        response.unlink()
        killed(work, rng.uniform(0, span))  # while its kept response is sent
        replayed += response.exists()
        work()
        assert response.read_bytes() == first
        (usage,) = Budget(ledger).usage()
        assert (usage.used, usage.pending) == (asked * N, 0)
        assert np.abs(client.decrypt_from(response, query).values - exact).max() < 1e-2
        response.unlink()
    assert 0 < served < SCORED
    assert replayed > 0
