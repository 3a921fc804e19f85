"""The executor: results in order, prefetching, and the count of cores."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from linalign_lite.core import executor as executors
from linalign_lite.core.executor import cores, map_in_order, prefetch
from linalign_lite.errors import FormatError, InputError


def test_a_tasks_error_is_its_own_and_cancels_the_rest():
    ran = []

    def task(i):
        if i == 2:
            raise InputError("no", got=str(i))
        ran.append(i)
        time.sleep(0.01)
        return i

    with ThreadPoolExecutor(1) as executor, pytest.raises(InputError, match="no: got 2"):
        list(map_in_order(executor, task, range(100), in_flight=50))
    assert len(ran) < 10


def test_results_wait_no_further_than_in_flight():
    begun = []
    with ThreadPoolExecutor(8) as executor:
        results = map_in_order(executor, begun.append, range(100), in_flight=4)
        next(results)
        time.sleep(0.05)
        assert len(begun) <= 5
        results.close()


def test_an_error_ahead_comes_where_it_belongs():
    def items():
        yield 1
        yield 2
        raise FormatError("broken")

    found = []
    with pytest.raises(FormatError, match="broken"):
        found.extend(prefetch(items()))
    assert found == [1, 2]
    threads = threading.active_count()
    next(prefetch(iter(range(100))))  # closed early: its thread ends
    for _ in range(100):
        if threading.active_count() <= threads:
            break
        time.sleep(0.01)
    assert threading.active_count() <= threads


def test_cores_are_at_least_one(monkeypatch):
    assert 1 <= cores(physical=True) <= cores()
    monkeypatch.setattr(
        executors.os, "sched_getaffinity", lambda _: {10_000, 10_001}, raising=False
    )
    assert cores(physical=True) == cores() == 2  # nothing is known of them
