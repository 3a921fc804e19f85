"""Longer scenarios of the installed command: the demo by hand, terminals, interrupts, all files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command_line import COMMAND, refused, run
from command_line import command_names as listed_names

from linalign_lite import demo, load_head, load_states

MODELS = {name: str(demo.model_folder(name)) for name in ("ash", "birch")}


def test_generate_writes_the_same_text_as_the_demo(played):
    """The command, with the demo's map, gives the same text and agreement on the same texts."""
    figures = json.loads((played / "figures.json").read_text())
    lines = (played / "public.txt").read_text().splitlines()
    args = ("--source", MODELS["birch"], "--target", MODELS["ash"],
            "--map", played / "provider" / "client-to-provider.tokens.map.npz")  # fmt: skip
    sample = figures["sample"]
    done = run("generate", sample["prompt"], *args, "--max-tokens", "20")
    assert done.stdout == sample["hybrid"] + "\n"
    held_out = "\n".join(lines[::20])
    done = run("evaluate-generation", "-", *args, "--samples", "0", "--json", stdin=held_out)
    found = json.loads(done.stdout)
    assert found["agreement"] == pytest.approx(figures["next_token_agreement"], abs=0.002)
    assert found["hybrid"]["cross_entropy"] < found["target"]["cross_entropy"] + 0.3


def test_single_commands_give_the_figures_of_the_demo(played, tmp_path):
    """Run README's longer example: two parties, one command at a time, in an empty folder."""
    for name in ("public.txt", "provider/train.jsonl", "client/test.jsonl"):
        shutil.copy(played / name, tmp_path)
    steps = [
        f"extract {MODELS['ash']} public.txt a.public.npz",
        f"extract {MODELS['birch']} public.txt b.public.npz",
        "fit b.public.npz a.public.npz b-to-a.map.npz",
        f"extract {MODELS['ash']} train.jsonl a.train.npz",
        "head a.train.npz topics.head.npz",
        f"extract {MODELS['birch']} test.jsonl b.test.npz",
        "keygen keys",
        "encrypt b.test.npz mine.query --key keys --map b-to-a.map.npz --outputs 5",
        "score mine.query mine.response --head topics.head.npz --public keys",
    ]
    for step in steps:
        done = run(*step.split(), cwd=tmp_path)
        assert "\x1b" not in done.stdout + done.stderr, "colours on a pipe"
    figures = json.loads((played / "figures.json").read_text())
    judged = run("evaluate", "topics.head.npz", "b.test.npz", "--map", "b-to-a.map.npz", "--json",
                 "--per-class", cwd=tmp_path)  # fmt: skip
    found = json.loads(judged.stdout)
    assert found["accuracy"] == pytest.approx(figures["mapped"])
    assert found["low"] <= found["accuracy"] <= found["high"]
    assert sorted(found["per_class"]) == sorted(load_head(tmp_path / "topics.head.npz").labels)
    lines = run("decrypt", "mine.response", "--key", "keys/secret.key", "--query", "mine.query",
                "--out", "scores.jsonl", cwd=tmp_path).stdout.splitlines()  # fmt: skip
    states = load_states(tmp_path / "b.test.npz")
    truth = [states.labels[i] for i in states.label_ids]
    hits = [line.split()[0] == label for line, label in zip(lines, truth, strict=True)]
    assert np.mean(hits) == pytest.approx(figures["encrypted"])
    assert stat.S_IMODE((tmp_path / "scores.jsonl").stat().st_mode) == 0o600
    first = json.loads((tmp_path / "scores.jsonl").read_text().splitlines()[0])["scores"]
    assert max(first, key=first.get) == lines[0].split()[0]


def test_inspect_knows_every_file(played):
    kinds = {}
    for file in [*played.rglob("*"), *map(Path, MODELS.values())]:
        if file.suffix in {".npz", ".key", ".query", ".response"} or str(file) in MODELS.values():
            found = json.loads(run("inspect", file, "--json").stdout)
            kinds.setdefault(found["kind"], []).append(file)
            secret = (played / "client/keys/secret.key").read_bytes()[200:].hex()
            assert secret[:64] not in json.dumps(found)
    assert set(kinds) == {"hidden states", "affine map", "head", "secret key", "public key",
                          "query", "response", "exported model"}  # fmt: skip
    shown = run("inspect", played / "client" / "client-to-provider.map.npz").stdout
    long = json.loads(run("inspect", played / "provider" / "topics.head.npz", "--json").stdout)
    assert long["labels"] == ["animals", "bedtime", "food", "vehicles", "weather"]
    assert re.search(r"^held_out_r2 +0\.\d+$", shown, re.MULTILINE)


def test_every_command_has_help_with_an_example():
    names = listed_names()
    assert {"export", "extract", "fit", "head", "evaluate", "keygen", "encrypt", "score",
            "decrypt", "inspect", "demo"} <= set(names)  # fmt: skip
    for name in names:
        shown = run(*name.split(), "--help").stdout
        assert re.search(rf"Examples?:\n +(echo .*\| )?linalign-lite {name}", shown), name


def test_altered_and_truncated_files_of_every_kind_are_named(played, here, capsys):
    client, provider = played / "client", played / "provider"
    head, affine = provider / "topics.head.npz", client / "client-to-provider.map.npz"
    keys, query = client / "keys", played / "exchange" / "test.query"
    response, states = played / "exchange" / "test.response", client / "test.states.npz"
    uses = {
        states: lambda f: ("head", f, "h"),
        affine: lambda f: ("evaluate", head, states, "--map", f),
        head: lambda f: ("score", query, "r", "--head", f),
        query: lambda f: ("score", f, "r", "--head", head, "--public", keys),
        response: lambda f: ("decrypt", f, "--key", keys),
        keys / "secret.key": lambda f: ("decrypt", response, "--key", f),
        keys / "public.key": lambda f: ("inspect", f),
    }
    for file, command in uses.items():
        whole = file.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        for broken in (flipped, whole[:middle], whole[:-1], whole[:5], b"", whole + b"x"):
            copy = here / f"broken{file.suffix}"
            copy.write_bytes(broken)
            copy.chmod(0o600)
            for args in (command(copy), ("inspect", copy)):
                assert "broken" in refused(capsys, *args), (file.name, len(broken))


def test_closed_streams_and_narrow_terminals(played, tmp_path):
    client, provider = played / "client", played / "provider"
    fit = f"fit {client}/public.states.npz {provider}/public.states.npz {tmp_path}/m.npz"

    def shell(line, code=0):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    ascii_only = shell(f"PYTHONIOENCODING=ascii {COMMAND[0]} {fit}")
    assert "held-out R\\xb2" in ascii_only.stdout
    as_json = shell(f"PYTHONIOENCODING=ascii {COMMAND[0]} {fit} --json").stdout
    assert as_json.isascii()
    assert "R²" in json.loads(as_json)["verdict"]["reason"]
    shell(f"{COMMAND[0]} {fit} >&-")
    shell(f"{COMMAND[0]} {fit} 2>&-")
    closed = shell(f"{COMMAND[0]} extract {MODELS['ash']} - {tmp_path}/x.npz <&-", code=2)
    assert "standard input is closed" in closed.stderr
    assert shell(f"{COMMAND[0]} inspect {tmp_path}/m.npz --json | true").stderr == ""


def test_an_interrupted_demo_leaves_no_folder(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "demo", "--out", tmp_path / "story"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("1. ")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not list(tmp_path.iterdir())


def test_a_terminal_sees_progress_and_a_pipe_does_not(tmp_path):
    """Progress is shown on standard error if that is a terminal and --quiet is not given."""
    import pty

    texts = tmp_path / "t.txt"
    texts.write_text("the cat sat on the mat\n" * 20_000)
    for flags, shown in (((), True), (("--quiet",), False)):
        parent, child = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, "extract", MODELS["ash"], texts, tmp_path / "x.npz", *flags],
            stdout=subprocess.PIPE, stderr=child, text=True, env={**os.environ, "TERM": "xterm"},
        )  # fmt: skip
        os.close(child)
        seen = b""
        while True:
            try:
                seen += os.read(parent, 4096)
            except OSError:
                break
        out, _ = process.communicate(timeout=60)
        os.close(parent)
        assert (b"extracting" in seen) == shown
        assert "20000 states" in out
        assert "extracting" not in out
