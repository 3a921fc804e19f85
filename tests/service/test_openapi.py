"""The description of the interface against the service that it describes."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from served import CLASSES, serving, some_states, write_heads

from linalign_lite.core.signing import SigningKey
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.key_proof import proof_bytes, proven
from linalign_lite.encrypt.keys import keygen
from linalign_lite.service import budget_requests
from linalign_lite.service.openapi import document


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = write_heads(tmp_path_factory.mktemp("one"), 1, budget="budget.sqlite", limit=1000)
    with serving(path) as found:
        yield found
        assert found.stop() == 0


@pytest.mark.parametrize("head", ["", 'parameters = { head = "head0" }'])
def test_drawn_requests_are_answered_as_described(served, tmp_path, head):
    """Every answer has a status, a type, headers and a form that the description has."""
    (tmp_path / "schemathesis.toml").write_text(head)
    command = [
        Path(sys.executable).with_name("st"), "run", "--seed", "1", "--max-examples", "20",
        "--exclude-checks", "positive_data_acceptance",  # octets that are drawn are no query
        "--no-color", f"{served.url}/openapi.json",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Tested: {len(document()['paths']) - 1}\n" in done.stdout  # all but the description


def test_answers_to_right_requests_are_as_described(served):
    import schemathesis

    described = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    signer = SigningKey.generate()
    secret, public = keygen(account=signer)
    query = Client(secret, account=signer).encrypt(some_states(2), n_outputs=CLASSES)
    signed = budget_requests.headers(signer, "head0")
    proof = proof_bytes(proven(secret, public))
    octets = {"content-type": "application/octet-stream"}
    asked = (
        ("POST", "/v1/keys", "/v1/keys", public.to_bytes(), octets, 201),
        ("POST", "/v1/keys", "/v1/keys", public.to_bytes(), octets, 200),
        (
            "PUT", "/v1/keys/{key}/proof", f"/v1/keys/{public.digest.hex()}/proof", proof,
            octets, 200,
        ),
        ("POST", "/v1/heads/{head}/score", "/v1/heads/head0/score", query.to_bytes(), octets, 200),
        ("GET", "/v1/heads/{head}/budget", "/v1/heads/head0/budget", b"", signed, 200),
        ("GET", "/v1/heads/{head}", "/v1/heads/head0", b"", {}, 200),
        ("GET", "/v1/heads", "/v1/heads", b"", {}, 200),
        ("GET", "/v1/fits", "/v1/fits", b"", {}, 200),
        ("POST", "/v1/fits/{fit}/answer", "/v1/fits/fit0/answer", b"", octets, 404),
        ("GET", "/metrics", "/metrics", b"", {}, 200),
        ("GET", "/ready", "/ready", b"", {}, 200),
    )  # fmt: skip
    with httpx.Client(base_url=served.url, timeout=60) as client:
        for method, route, path, body, headers, status in asked:
            answer = client.request(method, path, content=body, headers=headers)
            assert answer.status_code == status, answer.text
            described[route][method].validate_response(answer)


def test_paths_and_methods_that_are_not_described_are_refused_in_json(served):
    with httpx.Client(base_url=served.url, timeout=60) as client:
        for path in ("/", "/v1", "/v1/heads/", "/v1/heads/head0/", "/docs", "/v1/heads/a%2Fb"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["error"]) == (404, "NotFound"), path
        for path, found in document()["paths"].items():
            for method in {"get", "put", "post", "delete", "patch", "options"} - set(found):
                answer = client.request(
                    method, path.format(head="head0", key="00" * 32, fit="fit0")
                )
                assert (answer.status_code, answer.json()["error"]) == (405, "MethodNotAllowed")
                assert set(found) == {m.lower() for m in answer.headers["allow"].split(", ")} - {
                    "head"
                }
