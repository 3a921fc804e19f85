"""The service's clock is set, under load: forward and back by a day, and by some minutes.

By libfaketime where it is installed (Debian's package faketime); otherwise Python's clock is moved.
"""

import socket
import time
from pathlib import Path

import pytest
from served import serving, write_heads

from linalign_lite.encrypt.keys import keygen
from linalign_lite.errors import SignatureError
from linalign_lite.service.key_store import KeyStore
from linalign_lite.service.remote_provider import RemoteProvider
from service.load import Load

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
MOVED = """
import os, time
_time = time.time
time.time = lambda: _time() + float(open(os.environ["MOVED"]).read() or 0)
"""
DAY = 86_400


@pytest.fixture(params=["all", "Python's"])
def clock(request, tmp_path, monkeypatch):
    """A function that moves the wall clock of services started from now on by so many seconds."""
    path = tmp_path / "moved"
    path.write_text("+0")
    if request.param == "all" and LIBRARIES:
        monkeypatch.setenv("LD_PRELOAD", str(LIBRARIES[0]))
        monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(path))
        monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
        monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    else:
        (tmp_path / "sitecustomize.py").write_text(MOVED)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
        monkeypatch.setenv("MOVED", str(path))

    def move(seconds):
        fresh = tmp_path / "moved.new"
        fresh.write_text(f"{seconds:+d}")
        fresh.replace(path)

    return move


def is_dropped(served):
    """Return True if a connection that sends nothing is closed, in the time that it has."""
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"GET /hea")
        return connection.recv(100) == b""


def test_a_clock_that_is_moved(clock, tmp_path):
    path = write_heads(tmp_path, 1, budget="budget.sqlite", limit=1 << 40)
    path.write_text("request_seconds = 1\n" + path.read_text())
    with serving(path) as served:
        load = Load(served.url, tries=1)
        load.register()
        with load.running(), RemoteProvider(served.url, "head0") as provider:
            for seconds in (DAY, -DAY, 0):
                clock(seconds)
                load.wait_for(5)
                assert is_dropped(served)
                _, other = keygen(account=load.account)
                KeyStore(tmp_path / "keys", 100).register(other)  # by another service
                time.sleep(1.1)
                status = provider._client.put(f"/v1/keys/{other.digest.hex()}/proof", content=b"x")
                assert status.json()["error"] == "FormatError"  # of the proof: the key is known
                load.wait_for(5)
            for seconds in (240, -240):
                clock(seconds)
                assert provider.budget(load.account)["limit"] == 1 << 40
            for seconds in (360, -360, DAY, -DAY):
                clock(seconds)
                with pytest.raises(SignatureError, match="differ by more than 5 minutes"):
                    provider.budget(load.account)
                load.wait_for(2)
            clock(0)
        assert not +load.failed
        load.check_charges(tmp_path / "budget.sqlite")
        assert served.stop() == 0
