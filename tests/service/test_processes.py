"""The processes of a service: one that is killed, a service that is, and what processes share."""

import os
import signal
import threading
import time
from pathlib import Path

from served import CLASSES, a_head, ask, close, serving, some_states, write_heads

from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.keys import keygen
from linalign_lite.heads.serialization import save
from linalign_lite.service.remote_provider import RemoteProvider


def shared_folders(served):
    """Find the folders of encoded heads of this service, in memory."""
    return list(Path("/dev/shm").glob(f"linalign-heads-{served.process.pid}-*"))


def test_a_killed_process_loses_no_query(tmp_path):
    """Under load, its queries are scored by the next one, and every answer is right."""
    secret, public = keygen()
    states, client = some_states(2), Client(secret)
    with serving(write_heads(tmp_path)) as served:
        with RemoteProvider(served.url) as provider:
            provider.register(public)
        stop, wrong, right = threading.Event(), [], []

        def load():
            with RemoteProvider(served.url) as provider:
                while not stop.is_set():
                    query = client.encrypt(states)
                    answer = client.decrypt(provider.score(query), query)
                    (right if close(answer, a_head(), states) else wrong).append(1)

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            before = len(right)
            for child in served.children():
                os.kill(child, signal.SIGKILL)
            limit = time.monotonic() + 60
            while len(right) < before + 8 and time.monotonic() < limit:
                time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join(60)
        assert not wrong
        assert len(right) >= 24
        assert "linalign_processes_lost 3.0" in ask(served, "GET", "/metrics")[1].decode()
        assert served.stop() == 0


def test_a_killed_service_leaves_nothing(tmp_path):
    with serving(write_heads(tmp_path)) as served:
        children = served.children()
        assert children
        assert shared_folders(served)
        served.process.kill()
        limit = time.monotonic() + 30
        while any(map(alive, children)) and time.monotonic() < limit:
            time.sleep(0.05)
        assert not any(map(alive, children))
        assert not shared_folders(served)


def alive(process):
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_hold_a_large_encoded_head_once(tmp_path):
    """One of 4,096 outputs has 1 MiB. A small one is in no file."""
    path, large = write_heads(tmp_path, 2, workers=2), a_head(1, classes=4096)
    (tmp_path / "1.head.npz").unlink()
    save(tmp_path / "1.head.npz", large)
    secret, public = keygen()
    states, client = some_states(1), Client(secret)
    with serving(path) as served:
        with RemoteProvider(served.url, "head0") as provider:
            provider.register(public)
            query = client.encrypt(states, n_outputs=CLASSES)
            assert close(client.decrypt(provider.score(query), query), a_head(0), states)
        query, right = client.encrypt(states), []

        def asks():
            with RemoteProvider(served.url, "head1") as provider:
                right.append(close(client.decrypt(provider.score(query), query), large, states))

        mapped, limit = set(), time.monotonic() + 60
        while len(mapped) < 2 and time.monotonic() < limit:
            asking = [threading.Thread(target=asks) for _ in range(4)]
            for thread in asking:
                thread.start()
            for thread in asking:
                thread.join(60)
            mapped |= {c for c in served.children() if ".spectra" in maps(c)}
        assert len(mapped) == 2
        assert all(right)
        [folder] = shared_folders(served)
        assert [f.relative_to(folder).parts[:2] for f in folder.rglob("*.spectra")] == [
            ("1", "private")
        ]
        assert served.stop() == 0
        assert not shared_folders(served)


def maps(process):
    return Path(f"/proc/{process}/maps").read_text()
