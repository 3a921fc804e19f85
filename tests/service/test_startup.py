"""Messages of a service before it starts, when it changes and ends, and those of `ask`."""

import json
import signal
import socket
from pathlib import Path

import pytest
from command_line import run
from served import ask, serving, some_states, write_heads

from linalign_lite.errors import InputError
from linalign_lite.heads.serialization import save
from linalign_lite.service.configuration import HeadEntry


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('file = "0.head.npz"', 'file = "no.npz"', "no.npz: got No such file"),
        ('keys = "keys"', 'keys = "0.head.npz"', "0.head.npz is no folder for keys"),
        ('keys = "keys"', 'keys = "k"\naudit_log = "no/log"', "the audit log cannot be written"),
        ("workers = 1", 'tls = {certificate = "c.pem", key = "k.pem"}', "c.pem: got No such"),
        ("port = 0", "port = {busy}", "the service cannot listen on 127.0.0.1:{busy}"),
    ],
)
def test_what_cannot_be_served_is_named_before_a_query_comes(tmp_path, old, new, said):
    path = write_heads(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        path.write_text(path.read_text().replace(old, new.replace("{busy}", port)))
        done = run("serve", path, code=2)
        assert said.replace("{busy}", port) in done.stderr
        assert '"level": "error"' not in done.stderr
        if "listen" not in said:
            assert said in run("serve", path, "--check", code=2).stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"budget": "b.sqlite"}, "b.sqlite"),
        ({"budget": "no/b.sqlite", "limit": 3}, "the folder of budget"),
        ({"budget": ".", "limit": 3}, "got a folder"),
        ({"map": "0.head.npz"}, "is not a linalign-map file"),
        ({"accounts": ["nobody.pub"]}, "nobody.pub: got No such file"),
    ],
)
def test_check_looks_at_all_that_is_named_and_makes_nothing(tmp_path, more, said):
    path = write_heads(tmp_path, 1, **more)
    before = sorted(tmp_path.iterdir())
    assert said in run("serve", path, "--check", code=2).stderr
    assert sorted(tmp_path.iterdir()) == before
    good = tmp_path / "good"
    good.mkdir()
    path = write_heads(good, 1, budget="new.sqlite", limit=3)
    assert "is usable: heads head0" in run("serve", path, "--check").stdout
    assert sorted(f.name for f in good.iterdir()) == ["0.head.npz", "service.toml"]


def test_a_reload_says_what_needs_a_restart_and_an_end_is_logged(tmp_path):
    path = write_heads(tmp_path)
    with serving(path) as served:
        path.write_text("waiting = 7\n" + path.read_text())
        served.process.send_signal(signal.SIGHUP)
        assert served.wait_for("needs a restart")["changed"] == ["waiting"]
        status, body = ask(served, "GET", "/v1/heads/none")
        assert (status, json.loads(body)["error"]) == (404, "UnknownHead")
        assert served.wait_for("answered")["error"] == "UnknownHead"
        assert served.stop() == 0
        served.wait_for("stopping")
        served.wait_for("stopped")


def test_a_port_of_the_command_line_goes_first(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    path = write_heads(tmp_path)
    path.write_text(path.read_text().replace("port = 0", "port = 1"))
    with serving(path, "--port", port) as served:
        assert served.url.endswith(f":{port}")


def test_ask_says_what_it_did(tmp_path):
    run("bundle", "keygen", tmp_path / "signing")
    run("keygen", tmp_path / "keys", "--account", tmp_path / "signing")
    save(tmp_path / "mine.states.npz", some_states(3))
    words = ("ask", "--key", tmp_path / "keys", "--account", tmp_path / "signing")
    with serving(write_heads(tmp_path, 1, budget="b.sqlite", limit=10)) as served:
        said = run(*words, served.url, tmp_path / "mine.states.npz").stderr
        assert "registered the public key" in said
        assert "3 states scored by head head0" in said
        assert "account: 3 of 10 states used" in said
        https = served.url.replace("http:", "https:")
        said = run(*words, https, tmp_path / "mine.states.npz", code=1).stderr
        assert "does it speak http?" in said
        assert "waiting" not in said


def test_a_secret_signing_key_is_no_account(tmp_path):
    run("bundle", "keygen", tmp_path / "signing")
    path = write_heads(tmp_path, 1, accounts=["signing/signing.key"])
    assert "secret half" in run("serve", path, "--check", code=2).stderr
    with pytest.raises(InputError, match="secret half"):
        HeadEntry(
            name="h", file=Path("x"), accounts=(tmp_path / "signing" / "signing.key",)
        ).known_accounts()
