"""Hostile requests to a running service. `run.py` sends many more."""

import pytest

from service.run import run

REQUESTS = 4000
MOST_GROWN = 300  # MB: what requests of all threads and the floods may hold


@pytest.mark.parametrize("seed", [1])
def test_hostile_requests_are_refused_and_others_answered(tmp_path, seed):
    told = run(tmp_path, REQUESTS, seed, threads=4)
    assert told["findings"] == {}
    assert told["requests"] == REQUESTS
    assert told["right"] > 5
    assert told["megabytes"]["peak"] < told["megabytes"]["before"] + MOST_GROWN
