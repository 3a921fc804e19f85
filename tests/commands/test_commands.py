"""The installed command: the whole exchange, its errors and its exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from command_line import COMMAND, GROUPS, refused, run
from support import ROOT

from linalign_lite import HiddenStates, demo, load_states, save
from linalign_lite.commands import COMMANDS, app, command_names

MODELS = {name: str(demo.model_folder(name)) for name in ("ash", "birch")}


# --- the demo -----------------------------------------------------------------------------------


def test_the_demo_reaches_its_figures(played):
    figures = json.loads((played / "figures.json").read_text())
    assert figures["native"] > 2.5 * figures["majority"]
    assert figures["mapped"] > 2 * figures["majority"]
    assert figures["encrypted"] == pytest.approx(figures["mapped"])
    assert figures["same_as_plain"] == figures["queries"]
    assert figures["largest_error"] < 1e-3
    assert figures["held_out_r2"] > 0.3
    assert figures["next_token_agreement"] > 0.43
    sample = figures["sample"]
    assert len(sample["hybrid"].split()) >= 8
    assert sample["hybrid"] != sample["provider"]
    key = played / "client" / "keys" / "secret.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_what_travels_holds_no_secret_and_no_text(played):
    secret = (played / "client" / "keys" / "secret.key").read_bytes()
    texts = (played / "client" / "test.jsonl").read_bytes().splitlines()
    sentences = [json.loads(t)["text"].encode() for t in texts]
    for file in (played / "exchange").iterdir():
        content = file.read_bytes()
        assert secret[200:232] not in content
        assert not any(s in content for s in sentences)


def test_the_demo_refuses_a_folder_in_use(here, capsys):
    (here / "x").mkdir()
    (here / "x" / "mine").write_text("keep")
    assert "is already there and is not an empty folder" in refused(capsys, "demo", "--out", "x")
    assert (here / "x" / "mine").read_text() == "keep"


def test_the_bundled_models_are_independent():
    cards = {
        name: json.loads((Path(path) / "card.json").read_text()) for name, path in MODELS.items()
    }
    for field in ("architecture", "vocab_size", "hidden_size", "digest"):
        assert cards["ash"][field] != cards["birch"][field]
    for path in MODELS.values():
        assert (Path(path) / "model.onnx").stat().st_size <= 3_000_000


# --- single commands ------------------------------------------------------------------------------


def test_the_provider_may_apply_the_map(played, tmp_path):
    """The client encrypts its own states; the provider folds the map into the head."""
    client, provider = played / "client", played / "provider"
    args = ("--key", client / "keys")
    run("encrypt", client / "test.states.npz", tmp_path / "q", *args)
    run("score", tmp_path / "q", tmp_path / "r", "--head", provider / "topics.head.npz",
        "--map", client / "client-to-provider.map.npz", "--public", client / "keys" / "public.key",
        )  # fmt: skip
    fused = run("decrypt", tmp_path / "r", *args).stdout
    plain = run("decrypt", played / "exchange" / "test.response", *args).stdout
    assert [x.split()[0] for x in fused.splitlines()] == [x.split()[0] for x in plain.splitlines()]


def test_texts_are_encrypted_from_a_pipe(played, tmp_path):
    client = played / "client"
    run("encrypt", "-", tmp_path / "q", "--model", MODELS["birch"], "--key", client / "keys",
        "--map", client / "client-to-provider.map.npz",
        stdin="The dog ran after the cat.\nShe ate the cake.\n")  # fmt: skip
    run("score", tmp_path / "q", tmp_path / "r", "--head", played / "provider" / "topics.head.npz",
        "--public", client / "keys")  # fmt: skip
    done = run("decrypt", tmp_path / "r", "--key", client / "keys", "--top", "2")
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(r"\w+ -?\d+\.\d{3,4}\t\w+ -?\d+\.\d{3,4}", line) for line in lines)


@pytest.mark.parametrize("fmt", ["txt", "jsonl", "csv"])
def test_extract_reads_each_format_alike(tmp_path, fmt):
    content = {
        "txt": "Tom ate.\n\nSue slept.\n",
        "jsonl": '{"text": "Tom ate."}\n{"text": "Sue slept."}\n',
        "csv": "text\nTom ate.\nSue slept.\n",
    }[fmt]
    out = tmp_path / "x.npz"
    done = run("extract", MODELS["ash"], "-", out, "--format", fmt, "--json", stdin=content)
    data = json.loads(done.stdout)
    assert (data["rows"], data["blank"], data["pooling"]) == (2, int(fmt == "txt"), "mean")
    assert ("1 blank line(s) skipped" in done.stderr) == (fmt == "txt")


def test_long_texts_are_cut_counted_and_noted(tmp_path):
    long = "the cat sat on the mat and " * 200
    done = run("extract", MODELS["ash"], "-", tmp_path / "x.npz", stdin=f"short\n{long}\n")
    assert "1 text(s) cut to 384 tokens" in done.stderr
    assert load_states(tmp_path / "x.npz").n_cut == 1
    done = run(
        "extract", MODELS["ash"], "-", tmp_path / "x.npz", "--max-length", 2, stdin="short\n"
    )
    assert "cut to 2 tokens" in done.stderr


# --- inspect, help, version -----------------------------------------------------------------------


def test_help_lists_every_command_once_with_one_short_line():
    """Each command stands in one group; its line fits a terminal of 80 columns unbroken."""
    root = typer.main.get_command(app)
    named = [name for title in COMMANDS for name in command_names(title)]
    assert sorted(named) == sorted(root.commands)
    assert len(named) == len(set(named))
    shown = run("--help").stdout
    for title in COMMANDS:
        section = shown.partition(f"\n{title}:\n")[2].partition("\n\n")[0].splitlines()
        lines = dict(line.split(maxsplit=1) for line in section)
        assert list(lines) == command_names(title)
        for name, line in lines.items():
            assert 20 <= len(line) <= 55, (name, line)
            assert line.endswith("."), (name, line)
    for group in GROUPS:
        assert "..." not in run(group, "--help").stdout.partition("Commands:")[2]


def test_version():
    from linalign_lite import __version__

    assert run("--version").stdout == f"linalign-lite {__version__}\n"


def test_the_root_cli_works_from_an_uninstalled_checkout(tmp_path):
    """Run a copy of the folder, which has another version than the installed package."""
    shutil.copy(ROOT / "cli.py", tmp_path)
    shutil.copytree(ROOT / "linalign_lite", tmp_path / "linalign_lite")
    (tmp_path / "linalign_lite" / "version.py").write_text('__version__ = "9.9.9"\n')
    done = subprocess.run(
        [sys.executable, str(tmp_path / "cli.py"), "--version"],
        capture_output=True, text=True, cwd="/", check=True,
    )  # fmt: skip
    assert done.stdout == "linalign-lite 9.9.9\n"


# --- wrong input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stdin", "words"),
    [
        (b"", "holds no text"),
        (b"\n \n", "holds no text"),
        (b"ok\n\xff\n", "line 2 is not UTF-8: got byte 0xff"),
    ],
)
def test_wrong_texts_exit_with_2_and_leave_nothing(tmp_path, stdin, words):
    done = subprocess.run([*COMMAND, "extract", MODELS["ash"], "-", tmp_path / "x.npz"],
                          input=stdin, capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert words in done.stderr.decode()
    assert not list(tmp_path.iterdir())


def test_wrong_options_exit_with_2(here, capsys, played):
    ash, states = MODELS["ash"], played / "client" / "test.states.npz"
    (here / "t.txt").write_text("a\n")
    (here / "t.jsonl").write_text('{"text": "a"}\n')
    cases = [
        (("extract", ash, "t.txt", "x", "--max-length", "9999"), "expected 2 to 384 tokens"),
        (("extract", ash, "t.txt", "x", "--batch-tokens", "0"), "token budget"),
        (("extract", ash, "t.txt", "x", "--threads", "0"), "number of threads"),
        (("extract", ash, "t.txt", "x", "--pooling", "median"), "median"),
        (("extract", ash, "t.txt", "gone/x"), "the folder gone is not there"),
        (("extract", ash, "t.txt", "."), "is a folder"),
        (("extract", "nowhere", "t.txt", "x"), "nowhere is not a folder"),
        (("extract", ".", "t.txt", "x"), "is not an exported model: no card.json"),
        (("extract", ash, "gone.txt", "x"), "cannot read gone.txt"),
        (("fit", states, states, "m", "--penalty", "x"), "penalty is not usable: got x"),
        (("fit", states, states, "m", "--folds", "1"), "expected 2 to 145"),
        (("fit", states, "gone.npz", "m"), "cannot read gone.npz"),
        (("encrypt", "t.txt", "q", "--key", "gone"), "gone is not there"),
        (("encrypt", "t.txt", "q", "--key", played / "client" / "keys"), "add --model FOLDER"),
        (
            ("encrypt", "t.jsonl", "q", "--key", played / "client" / "keys"),
            "for texts give --model",
        ),
        (("inspect", "t.txt"), "is not a file of linalign-lite"),
        (("inspect", "gone"), "cannot read gone"),
        (("keygen", "t.txt"), "t.txt"),
        (("nonsense",), "nonsense"),
        (("fit",), "Missing argument"),
    ]
    for args, words in cases:
        assert words in refused(capsys, *args), args


def test_files_that_do_not_belong_together_are_named(played, here, capsys):
    client, provider = played / "client", played / "provider"
    keys, query = client / "keys", played / "exchange" / "test.query"
    response = played / "exchange" / "test.response"
    head, affine = provider / "topics.head.npz", client / "client-to-provider.map.npz"
    run("keygen", here / "other")
    run("encrypt", client / "test.states.npz", here / "q2", "--key", keys, "--map", affine)
    run("encrypt", client / "test.states.npz", here / "unmapped", "--key", keys)
    cases = [
        # states of other texts
        (("fit", client / "public.states.npz", provider / "train.states.npz", "m"),
         "made from different texts"),
        # a map of another model
        (("evaluate", head, provider / "train.states.npz", "--map", affine),
         "this map does not read these states"),
        (("encrypt", provider / "train.states.npz", "q", "--key", keys, "--map", affine),
         "this map does not read these states"),
        # a head of another model
        (("evaluate", head, client / "test.states.npz"), "this head does not read these states"),
        (("score", here / "unmapped", "r", "--head", head), "does not belong in the head's space"),
        # what a provider needs, and what it refuses
        (("score", query, "r", "--head", head), "public key of this query is not among"),
        (("score", query, "r", "--head", head, "--public", provider), "no public key in"),
        (("score", query, "r", "--head", head, "--public", keys, "--profile", "trusted"),
         "does not accept the query's profile"),
        (("score", query, "r", "--head", head, "--public", keys, "--limit", "5"), "--budget"),
        (("score", query, "r", "--head", head, "--public", keys, "--max-error", "1e-12"),
         "too imprecise"),
        (("budget", here / "none.sqlite"), "is not there"),
        # another key, another query
        (("decrypt", response, "--key", here / "other"), "belongs to another key"),
        (("decrypt", response, "--key", keys, "--query", here / "q2"), "answers another query"),
        # one kind of file in place of another
        (("decrypt", response, "--key", keys / "public.key"), "expected secret key"),
        (("decrypt", query, "--key", keys), "got query, expected response"),
        (("score", response, "r", "--head", head), "got response, expected query"),
        (("score", query, "r", "--head", affine), "linalign-map, expected format linalign-head"),
        (("evaluate", affine, client / "test.states.npz"), "expected format linalign-head"),
        (("head", client / "public.states.npz", "h"), "no labels"),
        (("keygen", keys), "never overwritten"),
    ]  # fmt: skip
    for args, words in cases:
        assert words in refused(capsys, *args), args


def test_an_altered_model_folder_is_named(here, capsys):
    folder = here / "ash"
    shutil.copytree(MODELS["ash"], folder)
    (here / "t.txt").write_text("a\n")
    for name in ("model.onnx", "tokenizer.json", "token_head.head.npz", "card.json"):
        whole = (folder / name).read_bytes()
        for broken in (whole[:-9], whole[:-9] + b"7" + whole[-8:], None):
            if broken is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(broken)
            said = refused(capsys, "extract", folder, "t.txt", "x")
            assert name in said or "no card.json" in said
            (folder / name).write_bytes(whole)


def test_a_key_that_others_can_read_is_refused(played, here, capsys):
    copy = here / "secret.key"
    shutil.copy(played / "client" / "keys" / "secret.key", copy)
    copy.chmod(0o644)
    said = refused(capsys, "decrypt", played / "exchange" / "test.response", "--key", copy)
    assert "mode 0644" in said
    assert "chmod 600" in said


def test_files_of_the_user_are_not_overwritten(played, here, capsys):
    """An output may replace an older output, but no input, key, link or device."""
    client, provider = played / "client", played / "provider"
    shutil.copy(client / "public.states.npz", here / "b.npz")
    shutil.copy(provider / "public.states.npz", here / "a.npz")
    shutil.copy(played / "exchange" / "test.query", here / "q")
    (here / "t.txt").write_text("mine\n")
    (here / "link.npz").symlink_to("a.npz")
    os.mkfifo(here / "pipe")
    run("keygen", here / "keys")
    key = (here / "keys" / "secret.key").read_bytes()
    head = provider / "topics.head.npz"
    cases = [
        (("fit", "b.npz", "a.npz", "keys/secret.key"), "is a secret key and is never overwritten"),
        (("fit", "b.npz", "a.npz", "b.npz"), "is an input of this command"),
        (("extract", MODELS["ash"], "t.txt", "t.txt"), "is an input of this command"),
        (("score", "q", "q", "--head", head), "is an input of this command"),
        (("fit", "b.npz", "a.npz", "link.npz"), "a link or a device is there"),
        (("fit", "b.npz", "a.npz", "pipe"), "a link or a device is there"),
        (("fit", "b.npz", "a.npz", "/dev/null"), "a link or a device is there"),
        (("fit", "b.npz", "a.npz", "m", "--seed", "-1"), "'--seed'"),
        (("extract", MODELS["ash"], "t.txt", "x", "--threads", "100000"), "expected 1 to 256"),
    ]
    for args, words in cases:
        assert words in refused(capsys, *args), args
    assert (here / "keys" / "secret.key").read_bytes() == key
    assert (here / "t.txt").read_text() == "mine\n"


def test_a_full_disk_is_an_error_not_a_traceback(here, capsys, monkeypatch):
    def full(_fd):
        raise OSError(28, "No space left on device")

    (here / "t.txt").write_text("a\n")
    (here / "x.npz").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    said = refused(capsys, "extract", MODELS["ash"], "t.txt", "x.npz", code=1)
    assert said == "error: No space left on device\n"
    assert (here / "x.npz").read_text() == "old"


# --- interruption and pipes -----------------------------------------------------------------------


def nameless(pid, folder):
    """Return True if a process has a file without a name open in a folder."""
    with contextlib.suppress(OSError):
        links = [str(f.readlink()) for f in Path(f"/proc/{pid}/fd").iterdir()]
        return any(x.startswith(str(folder)) and x.endswith("(deleted)") for x in links)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_nothing_half_written(played, tmp_path, number):
    """Interrupt while the query file is written: it has no name yet, or a temporary one."""
    states = load_states(played / "client" / "test.states.npz")
    many = HiddenStates(np.tile(states.states, (100, 1)), states.space)
    save(tmp_path / "many.npz", many)
    process = subprocess.Popen(
        [*COMMAND, "encrypt", tmp_path / "many.npz", tmp_path / "q", "--key",
         played / "client" / "keys"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for _ in range(6000):
        if any(p.suffix == ".tmp" for p in tmp_path.iterdir()) or nameless(process.pid, tmp_path):
            break
        time.sleep(0.005)
    else:
        pytest.fail("no temporary file was seen")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert said == "interrupted; nothing half-written was left behind\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["many.npz"]


def test_a_closed_pipe_is_no_error(played):
    states = played / "exchange" / "test.response"
    script = f"{COMMAND[0]} decrypt {states} --key {played / 'client' / 'keys'} | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


# --- protection of a provider ---------------------------------------------------------------------


def test_a_budget_is_counted_and_refused(played, here, capsys):
    client, provider = played / "client", played / "provider"
    head, states = provider / "topics.head.npz", client / "test.states.npz"
    unsigned = played / "exchange" / "test.query"
    args = ("score", unsigned, "r", "--head", head, "--public", client / "keys", "--budget", "b.db")
    assert "limit" in refused(capsys, *args)
    run("budget", "b.db", "--limit", "200")
    assert "keygen --account" in refused(capsys, *args)

    shown = run("bundle", "keygen", "signing").stdout.splitlines()
    account = json.loads(run("keygen", "keys", "--account", "signing", "--json").stdout)["account"]
    assert shown[1] == f"account {account[:16]}"
    asking = (
        "encrypt",
        states,
        "q",
        "--map",
        client / "client-to-provider.map.npz",
        "--key",
        "keys",
    )
    run(*asking)
    args = ("score", "q", "r", "--head", head, "--public", "keys", "--budget", "b.db")
    assert "not signed by the account" in refused(capsys, *args)
    run(*asking, "--account", "signing")
    done = run(*args, "--json")
    assert json.loads(done.stdout)["profile"] == "private"
    first = (here / "r").read_bytes()
    run(*args)
    assert (here / "r").read_bytes() == first  # sent again: free, and the same
    run(*asking, "--account", "signing")
    said = refused(capsys, *args, code=1)
    assert "budget of account" in said
    found = json.loads(run("budget", "b.db", "--json").stdout)
    assert (found["limit"], found["accounts"][0]["used"]) == (200, 145)
    assert found["accounts"][0]["account"] == account
    assert found["accounts"][0]["bits"] == 145 * 5 * 24
    assert "145" in run("budget", "b.db").stdout
    run("budget", "b.db", "--account", account[:4], "--limit", "400")
    run(*args)
    assert "290" in run("inspect", "b.db").stdout
    run("budget", "b.db", "--account", account, "--close")
    assert "closed" in run("budget", "b.db").stdout
    assert "is closed" in refused(capsys, *args, code=1)
    run("budget", "b.db", "--account", account[:4], "--open")
    run(*args)
    for wrong in (
        ("--close",),
        ("--account", "zz"),
        ("--account", account[:4], "--close", "--open"),
    ):
        refused(capsys, "budget", "b.db", *wrong)


@pytest.mark.slow
def test_audit_attacks_a_head(played, capsys):
    head = played / "provider" / "topics.head.npz"
    text = run("audit", "--head", head).stdout
    assert "hides the head" in text
    assert "129 chosen queries" in text
    found = json.loads(run("audit", "--head", head, "--profile", "trusted", "--json").stdout)
    assert found["leaks"]
    assert found["bare_error"] < 1e-3


def test_plan_prints_the_choice_and_the_reason():
    text = run("plan", "--dim", "384", "--classes", "150", "--queries", "4500", "--proven").stdout
    assert text.startswith("columns, 2250 states per ciphertext, 384 chunk(s) per state")
    assert "lowest total time at 100 Mbit/s" in text
    plan = json.loads(run("plan", "--dim", "384", "--classes", "150", "--json").stdout)
    assert plan["chosen"]["packing"] == "inner"
    assert plan["chosen"]["states_per_ciphertext"] == 1
    assert plan["alternatives"]


def test_trusted_queries_need_a_provider_that_trusts(played, here):
    client, head = played / "client", played / "provider" / "topics.head.npz"
    run("keygen", "keys", "--profile", "trusted")
    run("encrypt", client / "test.states.npz", "q", "--key", "keys",
        "--map", client / "client-to-provider.map.npz", "--outputs", "5")  # fmt: skip
    run("score", "q", "r", "--head", head, "--profile", "trusted", "--threads", "2")
    mine = run("decrypt", "r", "--key", "keys", "--query", "q").stdout
    theirs = run("decrypt", played / "exchange" / "test.response", "--key", client / "keys").stdout
    best = [[line.split()[0] for line in text.splitlines()] for text in (mine, theirs)]
    assert best[0] == best[1]
    assert "trusted" in run("inspect", "r").stdout
