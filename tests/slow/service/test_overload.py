"""Ten times as many clients as a service has places for."""

import http.client
import threading
import time
from collections import Counter

import numpy as np
from served import CLASSES, a_head, serving, some_states, write_heads

from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.keys import keygen
from linalign_lite.encrypt.messages import Response
from linalign_lite.service.remote_provider import RemoteProvider
from service.run import memory

SECONDS = 6
WAITING, SLOTS = 8, 4  # that wait, and in the hands of one process
MOST_GROWN = 150  # MB


def test_who_is_refused_is_told_when_to_come_back(tmp_path):
    path = write_heads(tmp_path)
    path.write_text(f"waiting = {WAITING}\n" + path.read_text())
    secret, public = keygen()
    states, client = some_states(20), Client(secret)
    queries = [client.encrypt(states, n_outputs=CLASSES) for _ in range(10)]
    exact = states.states @ a_head().weight.T + a_head().bias
    found, wrong, answers = Counter(), [], []
    with serving(path) as served:
        with RemoteProvider(served.url, "head0") as provider:
            provider.register(public)
            provider.score(queries[0])
        host = served.url.removeprefix("http://")
        end, before = time.monotonic() + SECONDS, memory(served)

        def ask(number):
            connection = http.client.HTTPConnection(host, timeout=60)
            query = queries[number % len(queries)]
            body = query.to_bytes()
            while time.monotonic() < end:
                connection.request("POST", "/v1/heads/head0/score", body)
                answer = connection.getresponse()
                said, again = answer.read(), answer.headers["Retry-After"]
                found[answer.status] += 1
                if answer.status == 200:
                    answers.append((query, said))
                elif answer.status != 429 or not 1 <= int(again) <= 60:
                    wrong.append((answer.status, again))
            connection.close()

        clients = 10 * (WAITING + SLOTS)
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(clients)]
        for thread in threads:
            thread.start()
        peak = before
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, memory(served))
            time.sleep(0.2)
        assert served.stop() == 0
    assert wrong == []
    assert found[200] > SLOTS + WAITING
    assert found[429] > clients
    for query, said in answers[:: max(1, len(answers) // 100)]:
        values = client.decrypt(Response.load(said), query).values
        assert np.abs(values - exact).max() < 2e-2
    assert peak < before + MOST_GROWN
