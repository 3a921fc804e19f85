"""kill -9 of processes that score, and of whole services, under load and with a budget.

LINALIGN_KILLS=100 kills as many of each.
"""

import contextlib
import os
import signal
import time
from random import Random

import pytest
from served import Served, serving, write_heads

from service.load import Load, free_port

KILLS = int(os.environ.get("LINALIGN_KILLS", "5"))


@pytest.fixture
def place(tmp_path):
    """A configuration with a budget, two processes and a port that stays."""
    path = write_heads(tmp_path, 1, workers=2, budget="budget.sqlite", limit=1 << 40)
    path.write_text(path.read_text().replace("port = 0", f"port = {free_port()}"))
    return path


def struck(place, served, r, strike):
    """Strike under load, KILLS times. Every query is answered right, and charged once."""
    load = Load(served.url)
    load.register()
    with load.running():
        for _ in range(KILLS):
            load.wait_for(r.randrange(1, 6))
            time.sleep(r.uniform(0, 0.1))
            strike()
        load.wait_for(5)
    assert not +load.failed
    load.check_charges(place.with_name("budget.sqlite"))


def test_processes_that_score_are_killed(place):
    r = Random(1)
    with serving(place) as served:

        def strike():
            while not (children := served.children()):
                time.sleep(0.01)
            with contextlib.suppress(ProcessLookupError):
                os.kill(r.choice(children), signal.SIGKILL)

        struck(place, served, r, strike)
        assert served.stop() == 0


def test_whole_services_are_killed(place):
    served = Served(place)

    def strike():
        nonlocal served
        served.process.kill()
        served.process.wait(60)
        served = Served(place)

    try:
        struck(place, served, Random(2), strike)
        assert served.stop() == 0
    finally:
        served.process.kill()
