"""A client with states at hand loads no model runtime, so it runs in little memory."""

import json
import subprocess
import sys

import numpy as np

from linalign_lite import Head, HiddenStates, save
from linalign_lite.commands import main

HEAVY = ("onnxruntime", "tokenizers", "scipy", "torch")
SAY = f"import sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"


def loaded(code, cwd):
    """Return the modules of HEAVY that a process has loaded after running ``code``."""
    command = [sys.executable, "-c", f"{code}\n{SAY}"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_what_is_looked_for_would_be_found(tmp_path):
    assert loaded("import tokenizers", tmp_path) == ["tokenizers"]


def test_in_python(tmp_path):
    (tmp_path / "again").mkdir()
    code = """
import numpy as np
from linalign_lite import Client, Head, Provider, Query, Response, SecretKey, keygen
secret, public = keygen()
secret.save("secret.key")
Client(secret).encrypt(np.ones((1, 3), dtype=np.float32)).save("x.query")
head = Head(np.eye(3), np.zeros(3))
Provider(head, keys=[public]).score(Query.load("x.query")).save("x.response")
client = Client(SecretKey.load("secret.key"))
scores = client.decrypt(Response.load("x.response"), Query.load("x.query"))
assert np.abs(scores.values - 1).max() < 1e-3
"""
    assert loaded(code, tmp_path) == []
    said = "print(json.dumps([m for m in ('typer', 'cryptography', 'click') if m in sys.modules]))"
    command = [sys.executable, "-c", f"import sys, json\n{code}\n{said}"]
    done = subprocess.run(
        command, cwd=tmp_path / "again", capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


def test_by_commands(tmp_path):
    save(tmp_path / "x.states.npz", HiddenStates(np.ones((1, 3), dtype=np.float32)))
    save(tmp_path / "head.npz", Head(np.eye(3), np.zeros(3)))

    def command(*words):
        return f"from linalign_lite.commands import main; assert not main({list(words)!r})"

    for words in (
        ("keygen", "keys", "-q"),
        ("encrypt", "x.states.npz", "x.query", "--key", "keys", "-q"),
    ):
        assert loaded(command(*words), tmp_path) == [], words
    query, response = tmp_path / "x.query", tmp_path / "x.response"
    public = tmp_path / "keys" / "public.key"
    head = tmp_path / "head.npz"
    scoring = ["score", query, response, "--head", head, "--public", public, "-q"]
    assert main([str(word) for word in scoring]) == 0
    words = ("decrypt", "x.response", "--key", "keys", "--query", "x.query", "-q")
    assert loaded(command(*words), tmp_path) == []
