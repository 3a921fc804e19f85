"""Who is scored next, and who is sent away."""

import asyncio

import pytest

from linalign_lite.service.admission import Admission, BusyError

A, B, C = b"a", b"b", b"c"


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 10))


async def hold(admission, account, order, name, go=None, ms=1.0):
    async with admission.turn(account, ms):
        order.append(name)
        if go is not None:
            await go.wait()


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


def test_accounts_take_turns():
    async def scenario():
        admission, order, go = Admission(1, 100), [], asyncio.Event()
        first = asyncio.ensure_future(hold(admission, A, order, "running", go))
        await settled()
        many = [asyncio.ensure_future(hold(admission, A, order, f"a{i}")) for i in range(3)]
        await settled()
        few = [asyncio.ensure_future(hold(admission, x, order, x.decode())) for x in (B, C)]
        await settled()
        assert (admission.running, admission.waiting) == (1, 5)
        go.set()
        await asyncio.gather(first, *many, *few)
        assert (admission.running, admission.waiting) == (0, 0)
        return order

    assert run(scenario()) == ["running", "a0", "b", "c", "a1", "a2"]


def test_who_is_one_too_many_is_sent_away_at_once():
    async def scenario():
        admission, order, go = Admission(2, 4), [], asyncio.Event()
        turns = [
            asyncio.ensure_future(hold(admission, x, order, "", go, ms=3000.0))
            for x in (A, A, A, A, B)
        ]
        await settled()
        with pytest.raises(BusyError):  # half of the places are taken by this account
            await hold(admission, A, order, "")
        turns.append(asyncio.ensure_future(hold(admission, C, order, "", go)))
        await settled()
        with pytest.raises(BusyError) as refused:
            await hold(admission, b"d", order, "")
        assert refused.value.seconds == 8  # 15 s of work and 1 ms, by two
        go.set()
        await asyncio.gather(*turns)
        assert (admission.running, admission.waiting, admission._queues) == (0, 0, {})
        await hold(admission, A, order, "")

    run(scenario())


def test_who_leaves_the_queue_takes_nothing_along():
    async def scenario():
        admission, order, go = Admission(1, 10), [], asyncio.Event()
        first = asyncio.ensure_future(hold(admission, A, order, "first", go))
        await settled()
        gone, stays = (
            asyncio.ensure_future(hold(admission, x, order, n)) for x, n in ((A, "gone"), (B, "b"))
        )
        await settled()
        gone.cancel()
        await settled()
        assert (admission.running, admission.waiting) == (1, 1)
        go.set()
        await asyncio.gather(first, stays)
        # cancelled in the very moment when its turn has come
        go.clear()
        first = asyncio.ensure_future(hold(admission, A, order, "again", go))
        await settled()
        late = asyncio.ensure_future(hold(admission, B, order, "late"))
        await settled()
        go.set()
        await asyncio.sleep(0)
        late.cancel()
        await asyncio.gather(first, late, return_exceptions=True)
        assert (admission.running, admission.waiting, admission._queues) == (0, 0, {})
        return order

    assert run(scenario())[:3] == ["first", "b", "again"]
