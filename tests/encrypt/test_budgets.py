"""Budgets of both kinds, a file and PostgreSQL, keep their limits under crashes and concurrency."""

import contextlib
import os
import threading
import types

import budget_processes
import numpy as np
import pytest
from budget_processes import ASKED, KEY, OTHER, beside, crashed, fork, joined, name, used
from vectors.postgresql import Server

from linalign_lite.core.head import Head
from linalign_lite.encrypt.budgets import postgresql_store, sqlite_store
from linalign_lite.encrypt.budgets.budget import Budget, Usage
from linalign_lite.encrypt.budgets.ledger import Charge, Ledger
from linalign_lite.encrypt.scored_rows import HeadRows
from linalign_lite.errors import BudgetError, InputError


@pytest.fixture(scope="module")
def server():
    with Server() as found:
        yield found


@pytest.fixture(params=["file", "postgresql"])
def place(request, tmp_path, monkeypatch):
    if request.param == "file":
        yield tmp_path / "budget"
        sqlite_store.close_connections()
    else:
        server = request.getfixturevalue("server")
        monkeypatch.setattr(budget_processes, "ended", server.wait_for_end)
        yield server.budget(tmp_path.name)
        postgresql_store.close_connections()


@pytest.fixture
def budget(place):
    return Budget(place, 100)


def test_limit_is_kept_until_another_is_given(place, budget):
    budget.charge(KEY, ASKED, 50)
    assert Budget(place).limit == 100
    assert Budget(place, 60).remaining(KEY) == 10
    assert budget.limit == 60
    assert Budget(place, 40).remaining(KEY) == 0
    assert Budget(place, 1 << 53).remaining(OTHER) == 1 << 53


def test_accounts(budget):
    assert budget.usage() == ()
    budget.charge(KEY, ASKED, 30)
    assert budget.usage() == (Usage(KEY.hex(), 30, 30, 100),)
    budget.settle(KEY, ASKED, 30)
    assert budget.usage() == (Usage(KEY.hex(), 30, 0, 100),)
    with pytest.raises(BudgetError, match=r"answered before.*make the query again"):
        budget.charge(KEY, ASKED, 30)  # asked again
    budget.charge(KEY, name(1), 30)
    budget.charge(OTHER, ASKED, 100)
    assert budget.usage() == (Usage(KEY.hex(), 60, 30, 100), Usage(OTHER.hex(), 100, 100, 100))
    budget.refund(KEY, name(1), 30)
    budget.charge(KEY, name(1), 70)
    assert (budget.remaining(KEY), budget.remaining(bytes(32))) == (0, 100)
    budget.refund(OTHER, ASKED, 100)
    assert used(budget, OTHER) == (0, 0)


@pytest.mark.parametrize(
    "charge",
    [
        (b"", ASKED, 1),
        (KEY, KEY + b"x", 1),
        (KEY, ASKED, 0),
        (KEY, ASKED, -5),
        (KEY, ASKED, 1 << 70),
    ],
)
def test_arguments(budget, charge):
    for call in (budget.charge, budget.settle, budget.refund):
        with pytest.raises(InputError, match="cannot charge"):
            call(*charge)
    assert budget.usage() == ()


def test_a_charge_ends_once(budget):
    for end in (budget.refund, budget.settle):
        budget.charge(KEY, ASKED, 2)
        for other in [(OTHER, ASKED, 2), (KEY, name(3), 2), (KEY, ASKED, 1)]:
            with pytest.raises(InputError, match="no such charge"):
                end(*other)
        end(KEY, ASKED, 2)
        with pytest.raises(InputError, match="no such charge"):
            end(KEY, ASKED, 2)
    assert used(budget) == (2, 0)


def test_what_a_crash_interrupted_is_free_once(budget):
    crashed(lambda: budget.charge(KEY, ASKED, 60))
    assert used(budget) == (60, 60)
    with pytest.raises(BudgetError):
        budget.charge(KEY, ASKED, 59)  # another count, another query
    budget.charge(KEY, ASKED, 60)
    assert used(budget) == (60, 60)
    with pytest.raises(BudgetError):  # now this process is scoring it
        budget.charge(KEY, ASKED, 60)
    budget.settle(KEY, ASKED, 60)
    with pytest.raises(BudgetError):
        budget.charge(KEY, ASKED, 60)
    assert used(budget) == (60, 0)


def test_interrupted_again_and_again_is_charged_once(place, budget):
    for _ in range(5):
        crashed(lambda: budget.charge(KEY, ASKED, 60))
    Budget(place, 10)  # a lower limit does not take back what was granted
    budget.charge(KEY, ASKED, 60)
    assert used(budget) == (60, 60)


def test_each_of_several_interrupted_charges_is_free_once(budget):
    def twice():
        budget.charge(KEY, ASKED, 20)
        budget.charge(KEY, ASKED, 20)

    crashed(twice)
    for expected in (40, 40, 60):
        budget.charge(KEY, ASKED, 20)
        assert used(budget) == (expected, expected)


def test_what_lives_is_charged_again(place, budget):
    with beside(lambda: Budget(place).charge(KEY, ASKED, 10)):
        budget.charge(KEY, ASKED, 10)
        assert used(budget) == (20, 20)
        budget.refund(KEY, ASKED, 10)
        with pytest.raises(InputError, match="no such charge"):  # the other's is not ours to end
            budget.settle(KEY, ASKED, 10)
    budget.charge(KEY, ASKED, 10)
    assert used(budget) == (10, 10)


def test_threads_and_instances_live(place, budget):
    budget.charge(KEY, ASKED, 10)
    thread = threading.Thread(target=budget.charge, args=(KEY, ASKED, 10))
    thread.start()
    thread.join()
    again = Budget(place)
    again.charge(KEY, ASKED, 10)
    del budget
    again.charge(KEY, ASKED, 10)
    assert used(again) == (40, 40)


def test_one_of_many_at_once_resumes(place, budget):
    crashed(lambda: budget.charge(KEY, ASKED, 10))
    with contextlib.ExitStack() as all_alive:
        for _ in range(4):
            all_alive.enter_context(beside(lambda: Budget(place).charge(KEY, ASKED, 10)))
        assert used(budget) == (40, 40)
    (hold, let_go), (told, tell), (stay, leave) = os.pipe(), os.pipe(), os.pipe()

    def race():
        os.close(let_go)
        os.close(leave)
        os.read(hold, 1)
        budget.charge(KEY, ASKED, 10)
        os.write(tell, b"!")
        os.close(tell)
        os.read(stay, 1)  # alive until all of them have charged

    children = [fork(race) for _ in range(6)]
    os.close(let_go)
    os.close(tell)
    for _ in children:
        assert os.read(told, 1) == b"!"
    os.close(leave)
    for child in children:
        joined(child)
    for descriptor in (hold, told, stay):
        os.close(descriptor)
    assert used(budget) == (60, 60)  # four of the six were free


def test_a_child_keeps_nothing_of_its_parent_alive(budget):
    """A parent charges, forks a worker and is killed; the worker lives."""
    listen, end = os.pipe()

    def parent():
        budget.charge(KEY, ASKED, 10)
        told, tell = os.pipe()
        if not os.fork():
            os.close(end)
            with pytest.raises(InputError, match="no such charge"):
                budget.settle(KEY, ASKED, 10)  # its parent's
            budget.charge(KEY, ASKED, 10)  # its parent lives
            os.write(tell, b"!")
            os.read(listen, 1)
            os._exit(0)
        os.close(tell)
        assert os.read(told, 1) == b"!"

    crashed(parent)
    budget.charge(KEY, ASKED, 10)
    assert used(budget) == (20, 20)  # the parent's was taken over
    budget.charge(KEY, ASKED, 10)
    assert used(budget) == (30, 30)  # the worker's was not
    os.close(end)
    os.close(listen)


def test_processes_in_parallel(place):
    budget = Budget(place, 120)
    told, tell = os.pipe()

    def work(i):
        for j in range(50):
            with contextlib.suppress(BudgetError):
                budget.charge(KEY, name(1000 * i + j), 1)
                os.write(tell, b".")
                if j % 2:
                    budget.settle(KEY, name(1000 * i + j), 1)

    children = [fork(lambda i=i: work(i)) for i in range(4)]
    for child in children:
        joined(child)
    os.close(tell)
    with os.fdopen(told, "rb") as f:
        assert len(f.read()) == 120
    assert used(budget)[0] == 120
    assert budget.remaining(KEY) == 0


def test_forks_while_threads_charge(place):
    budget = Budget(place, 1000)
    done = []

    def charge(i):
        own = Budget(place)
        for j in range(40):
            (own if j % 2 else budget).charge(KEY, name(1000 * i + j), 1)
            done.append(1)

    threads = [threading.Thread(target=charge, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for i in range(20):
        crashed(lambda i=i: budget.charge(KEY, name(10**6 + i), 1))
    for thread in threads:
        thread.join()
    assert len(done) == 120
    assert used(budget) == (140, 140)


def test_accounts_have_limits_of_their_own(place, budget):
    budget.change(KEY, limit=7, bits=50)
    budget.charge(KEY, ASKED, 5, 40)
    with pytest.raises(BudgetError, match="at most 2, the rest of 7"):
        budget.charge(KEY, name(1), 3)
    with pytest.raises(BudgetError, match="more bits of scores"):
        budget.charge(KEY, name(1), 2, 11)
    budget.charge(KEY, name(1), 2, 10)
    budget.charge(OTHER, ASKED, 100, 1 << 40)
    mine, other = budget.usage()
    assert (mine.limit, mine.bits, mine.bits_limit) == (7, 50, 50)
    assert (other.limit, other.bits, other.bits_limit) == (100, 1 << 40, None)
    assert (budget.remaining(KEY), budget.remaining(name(9))) == (0, 100)
    budget.settle(KEY, ASKED, 5)
    budget.refund(KEY, name(1), 2)
    assert budget.usage()[0].bits == 40
    assert Budget(place, bits=45).bits == 45
    with pytest.raises(BudgetError, match="more bits"):
        budget.charge(name(9), ASKED, 1, 46)


def test_a_closed_account(budget):
    budget.change(KEY, closed=True)
    for call in (budget.require_open, lambda k: budget.charge(k, ASKED, 1)):
        with pytest.raises(BudgetError, match="is closed"):
            call(KEY)
    budget.require_open(OTHER)
    assert budget.usage() == (Usage(KEY.hex(), 0, 0, 100, closed=True),)
    budget.change(KEY, limit=5)
    assert budget.usage()[0].closed
    budget.change(KEY, closed=False)
    budget.charge(KEY, ASKED, 5)


def test_what_the_dead_left_is_settled_when_its_response_was_kept(budget):
    crashed(lambda: budget.charge(KEY, ASKED, 60, 600))
    budget.settle_abandoned(KEY, name(1), 60)
    assert used(budget) == (60, 60)
    budget.settle_abandoned(KEY, ASKED, 60)
    assert used(budget) == (60, 0)
    assert budget.usage()[0].bits == 600
    budget.charge(KEY, name(2), 10)
    budget.settle_abandoned(KEY, name(2), 10)  # its process lives
    assert used(budget) == (70, 10)


def test_two_that_answered_the_same_query_pay_once(place, budget):
    """One was killed before it could take its charge back."""
    with beside(lambda: Budget(place).charge(KEY, ASKED, 10)):
        budget.charge(KEY, ASKED, 10)
        budget.settle(KEY, ASKED, 10)
        assert used(budget) == (20, 10)
    budget.settle_abandoned(KEY, ASKED, 10)
    assert used(budget) == (10, 0)


@pytest.mark.parametrize("bits", [-1, (1 << 53) + 1, 1 << 64])
def test_bits_out_of_range(budget, bits):
    with pytest.raises(InputError, match="cannot charge"):
        budget.charge(KEY, ASKED, 1, bits)
    assert budget.usage() == ()
    budget.charge(KEY, ASKED, 1, 1 << 53)
    with pytest.raises(BudgetError, match="more bits"):
        budget.charge(KEY, name(1), 1, 1)
    assert budget.usage()[0].bits == 1 << 53


def test_a_query_that_is_answered_while_its_copy_is_looked_for(budget, monkeypatch):
    """The copy was not there yet, and cannot be charged any more: it gets the same response."""
    head, charge = Head(np.eye(2), np.zeros(2)), Charge(KEY, ASKED, 5, 50)
    one, other = Ledger(budget, HeadRows(head).digest()), Ledger(budget, HeadRows(head).digest())
    look, looked = one._kept.open, []

    def late(name):
        looked.append(name)
        if len(looked) > 1:
            return look(name)
        other.answered(charge, lambda f: f.write(b"scores")).close()
        return None

    monkeypatch.setattr(one, "_kept", types.SimpleNamespace(open=late))
    with one.answered(charge, None) as kept:
        assert kept.read() == b"scores"
    assert used(budget) == (5, 0)
    monkeypatch.setattr(one, "_kept", types.SimpleNamespace(open=lambda _: None))
    with pytest.raises(BudgetError, match="answered before"):
        one.answered(charge, None)
