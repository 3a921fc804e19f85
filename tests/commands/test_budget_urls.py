"""Commands take the URL of a budget in PostgreSQL where they take a file, and show no password."""

import json

import pytest
from command_line import run
from vectors.postgresql import Server


@pytest.fixture(scope="module")
def server():
    with Server() as found:
        yield found


def test_a_budget_at_a_url(server, played, here):
    url = server.budget("commands")
    assert "there is no budget commands" in run("budget", url, code=2).stderr
    assert "300 states for each account" in run("budget", url, "--limit", "300").stdout
    account = "3f" * 32
    run("budget", url, "--account", account, "--limit", "7", "--bits", "90")
    run("budget", url, "--account", "3f", "--close")
    found = json.loads(run("budget", url, "--json").stdout)
    assert found["limit"] == 300
    (usage,) = found["accounts"]
    assert (usage["account"], usage["limit"], usage["bits_limit"]) == (account, 7, 90)
    assert usage["closed"]
    assert list(here.iterdir()) == []


def test_no_password_is_shown(here):
    url = "postgresql://me:pass-word@127.0.0.1:1/db?budget=x"
    for options in ((), ("--json",), ("--limit", "3")):
        done = run("budget", url, *options, code=1)
        assert "cannot use budget x of postgresql://127.0.0.1:1/db" in done.stderr
        assert "pass-word" not in done.stdout + done.stderr
