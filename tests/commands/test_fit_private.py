"""fit-private by the installed command: the whole exchange, its errors, kills."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from command_line import COMMAND, refused, run

from linalign_lite import Head, HiddenStates, InputError, load_map, load_states, save
from linalign_lite.core.hidden_states import text_digest
from linalign_lite.service.configuration import HeadEntry


def made(n, dim, causes, rng, texts="text"):
    rows = causes @ rng.normal(size=(causes.shape[1], dim)) + 0.3 * rng.normal(size=(n, dim)) + 1
    digest = text_digest(f"{texts} {i}" for i in range(n))
    return HiddenStates(rows.astype(np.float32), text_digest=digest)


@pytest.fixture(scope="module")
def parties(tmp_path_factory):
    """Two parties with states of the same texts, an offer, and what the provider has of it."""
    folder = tmp_path_factory.mktemp("parties")
    rng = np.random.default_rng(5)
    causes = rng.normal(size=(300, 6))
    save(folder / "a.states.npz", made(300, 12, causes, rng))
    save(folder / "b.states.npz", made(300, 9, causes, rng))
    save(folder / "other.states.npz", made(300, 9, causes, rng, "another"))
    run("bundle", "keygen", folder / "signing")
    run("bundle", "keygen", folder / "stranger")
    run("keygen", folder / "unproven")
    words = "fit-private", "offer", folder / "a.states.npz", folder / "m.offer"
    done = run(*words, "--account", folder / "signing", "--json", "--target-dim", 9)
    (folder / "offer.json").write_text(done.stdout)
    (folder / "provider").mkdir()
    for name in ("m.offer", "m.public.key", "m.public.proof"):
        (folder / "provider" / name).write_bytes((folder / name).read_bytes())
    return folder


def test_the_whole_exchange(parties, tmp_path):
    told = json.loads((parties / "offer.json").read_text())
    assert (told["texts"], told["columns"], told["folds"]) == (300, 12, 5)
    assert told["bytes"] == (parties / "m.offer").stat().st_size
    assert abs(told["predicted"]["offer_bytes"] - told["bytes"]) < 3000
    answer, budget = tmp_path / "m.answer", tmp_path / "clients.sqlite"
    words = "fit-private", "answer", parties / "provider" / "m.offer", parties / "b.states.npz"
    accounts = "--accounts", parties / "signing" / "signing.pub"
    done = run(*words, answer, *accounts, "--budget", budget, "--limit", 100, "--json")
    answered = json.loads(done.stdout)
    assert answered["states_counted"] == 70
    assert abs(told["predicted"]["answer_bytes"] - answer.stat().st_size) < 3000
    used = json.loads(run("budget", budget, "--json").stdout)["accounts"][0]
    assert used["used"] == 70
    kept, out = tmp_path / "m.kept.npz", tmp_path / "a-to-b.map.npz"
    shutil.copy(parties / "m.kept.npz", kept)  # others use it, too
    for file, kind in ((parties / "m.offer", "offer"), (answer, "answer"), (kept, "maker keeps")):
        facts = json.loads(run("inspect", file, "--json").stdout)
        assert kind in facts["kind"]
        assert (facts["texts"], facts["columns"]) == (300, 12)
    again = tmp_path / "again.kept.npz"
    shutil.copy(kept, again)
    done = run("fit-private", "finish", answer, out, "--kept", kept, "--json")
    assert not kept.exists()
    shown = run("fit-private", "finish", answer, out, "--kept", again).stdout
    assert f"held-out R²  {json.loads(done.stdout)['held_out_r2']:.4f} (5 folds)" in shown
    assert f"destroyed, with {again}" in shown
    report = json.loads(done.stdout)
    clear = tmp_path / "clear.map.npz"
    states = parties / "a.states.npz", parties / "b.states.npz"
    expected = json.loads(run("fit", *states, clear, "--json").stdout)
    assert report["held_out_r2"] == pytest.approx(expected["held_out_r2"], abs=1e-3)
    assert report["penalty"] == expected["penalty"]
    x = load_states(states[0]).states
    private, plain = (load_map(m).apply(x) for m in (out, clear))
    assert np.abs(private - plain).max() < 1e-2 * np.abs(plain).max()


def test_a_provider_refuses_a_map_that_was_fitted_privately(parties, here, capsys):
    run("fit-private", "answer", parties / "provider" / "m.offer", parties / "b.states.npz",
        here / "p.answer")  # fmt: skip
    shutil.copy(parties / "m.kept.npz", here / "p.kept.npz")
    run("fit-private", "finish", here / "p.answer", here / "p.map.npz", "--kept", "p.kept.npz",
        cwd=here)  # fmt: skip
    assert load_map(here / "p.map.npz").card["private"] is True
    save(here / "x.head.npz", Head(np.eye(9), np.zeros(9)))
    words = "score", "x.query", "x.response", "--head", "x.head.npz", "--map", "p.map.npz"
    run("keygen", here / "keys")
    run("encrypt", parties / "a.states.npz", "x.query", "--key", "keys", cwd=here)
    said = refused(capsys, *words, "--public", "keys")
    assert "this map was fitted privately" in said
    assert not (here / "x.response").exists()
    with pytest.raises(InputError, match="fitted privately"):
        HeadEntry(name="x", file=here / "x.head.npz", map=here / "p.map.npz").load_head()


def test_a_dry_run_predicts_and_writes_nothing(parties, tmp_path):
    out = tmp_path / "m.offer"
    words = "fit-private", "offer", parties / "a.states.npz", out
    told = json.loads(run(*words, "--dry-run", "--target-dim", 640, "--json").stdout)
    assert told["target_dim"] == 640
    assert told["answer_bytes"] > 5 * 640 * 12288
    assert "memory" in run(*words, "--dry-run").stdout
    offer = parties / "m.offer"
    words = "fit-private", "answer", offer, parties / "b.states.npz", out
    told = json.loads(run(*words, "--public", parties / "provider", "--dry-run", "--json").stdout)
    assert told["target_dim"] == 9
    assert not list(tmp_path.iterdir())


def test_errors_have_one_line_and_leave_nothing(parties, here, capsys):
    a, b, offer = (parties / n for n in ("a.states.npz", "b.states.npz", "m.offer"))
    cases = [
        (("offer", a, "x.offer", "--columns", 40), "so many columns"),
        (("offer", a, "x.offer", "--folds", 6), "so few texts"),
        (("offer", a, "x.offer", "--key", "keys"), "--key"),  # a key serves one offer
        (("offer", a, offer, "--kept", "x.kept.npz"), "never overwritten"),
        (("offer", "missing.npz", "x.offer"), "missing.npz"),
        (("offer", a, a), "is an input"),
        (("answer", a, b, "x.answer", "--public", parties / "provider"), "key, query or response"),
        (("answer", offer, b, "x.answer", "--public", parties / "unproven"), "not among"),
        (("answer", offer, b, "x.answer", "--accounts", parties / "stranger" / "signing.pub"),
         "may not ask"),
        (("answer", offer, parties / "other.states.npz", "x.answer", "--public",
          parties / "provider"), "not of the offer's texts"),
        (("answer", offer, b, "x.answer", "--public", parties / "provider", "--limit", 3),
         "--limit needs a budget"),
        (("finish", offer, "x.map.npz", "--kept", parties / "m.kept.npz"), "another kind"),
        (("finish", offer, "x.map.npz"), "--kept"),
    ]  # fmt: skip
    for words, said in cases:
        assert said in refused(capsys, "fit-private", *words), words


def test_a_kept_file_stays_and_has_the_whole_name_of_its_offer(parties, here, capsys):
    words = "offer", parties / "a.states.npz", "m.v1"
    run("fit-private", *words)
    assert (here / "m.v1.kept.npz").exists()
    for name in ("m.v1", "m.v1.public.key", "m.v1.public.proof"):
        (here / name).unlink()
    assert "never overwritten" in refused(capsys, "fit-private", *words)


def test_coarse_states_are_refused_unless_allowed(parties, tmp_path, capsys):
    coarse, out = tmp_path / "coarse.states.npz", tmp_path / "m.answer"
    whole = load_states(parties / "b.states.npz")
    save(coarse, dataclasses.replace(whole, states=np.rint(whole.states)))
    words = "fit-private", "answer", parties / "m.offer", coarse, out
    public = "--public", parties / "provider"
    assert "few different values" in refused(capsys, *words, *public)
    run(*words, *public, "--coarse")
    assert out.exists()


@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_answer_leaves_nothing_and_is_made_again(parties, tmp_path, which):
    out, budget = tmp_path / "m.answer", tmp_path / "b" / "clients.sqlite"
    budget.parent.mkdir()
    words = ["fit-private", "answer", parties / "m.offer", parties / "b.states.npz", out]
    words += ["--public", parties / "provider", "--budget", budget, "--limit", 70]
    running = subprocess.Popen(
        [*COMMAND, *map(str, words)], stderr=subprocess.DEVNULL, env=dict(os.environ)
    )
    deadline = time.monotonic() + 60
    while not budget.exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)  # about where it multiplies; at any moment it must hold
    running.send_signal(which)
    running.wait(60)
    left = [p for p in tmp_path.iterdir() if p.is_file()]
    assert left in ([], [out])
    run(*words)  # taken over at no cost, or kept: 70 states are all that the budget has
    assert json.loads(run("budget", budget, "--json").stdout)["accounts"][0]["used"] == 70
