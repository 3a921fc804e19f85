"""The mistakes that people make: each message names the file or option at fault, and what to do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import refused

from linalign_lite import Space, demo, extract, load_map, load_model, save
from linalign_lite.commands import main
from linalign_lite.commands.remarks import doubts
from linalign_lite.encrypt.budgets.budget import Budget

ASH, BIRCH = (str(demo.model_folder(name)) for name in ("ash", "birch"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A working folder: the provider's model is ash, the client's is birch."""
    folder = tmp_path_factory.mktemp("made")
    ash, birch = load_model(ASH), load_model(BIRCH)
    public = demo.public_texts().texts[:200]
    train, test = (demo.labelled_texts(held_out=held_out) for held_out in (False, True))
    for name, model, texts in (
        ("a", ash, public), ("b", birch, public), ("a.train", ash, train), ("b.test", birch, test),
    ):  # fmt: skip
        save(folder / f"{name}.states.npz", extract(model, texts))
    tokens = extract(birch, public, pooling="tokens")
    save(folder / "b.tokens.states.npz", tokens)
    rng = np.random.default_rng(0)
    for name, n, d in (("x", 90, 144), ("y", 90, 128), ("short", 89, 128)):
        np.save(folder / f"{name}.npy", rng.normal(size=(n, d)).astype(np.float32))
    np.save(folder / "nan.npy", np.full((90, 144), np.nan, np.float32))
    (folder / "texts.txt").write_text("\n".join(public[:9]) + "\n")
    (folder / "empty.txt").write_text("\n\n")
    (folder / "unlike.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    (folder / "cut.states.npz").write_bytes((folder / "b.states.npz").read_bytes()[:3000])
    (folder / "folder").mkdir()
    os.chdir(folder)
    for line in (
        "fit b.states.npz a.states.npz b-to-a.map.npz",
        "head a.train.states.npz topics.head.npz",
        "keygen keys",
        "keygen others",
        "encrypt b.test.states.npz b.query --map b-to-a.map.npz --key keys",
        "encrypt b.test.states.npz others.query --map b-to-a.map.npz --key others",
        "score b.query b.response --head topics.head.npz --public keys",
        "index build a.states.npz a.index",
        "ood fit a.train.states.npz a.ood.npz",
    ):
        assert main([*line.split(), "--quiet"]) == 0
    with np.load("b-to-a.map.npz") as arrays:
        parts = dict(arrays)
    card = json.loads(parts["card"].tobytes())
    parts["card"] = np.frombuffer(json.dumps({**card, "version": 9}).encode(), np.uint8)
    np.savez("newer.map.npz", **parts)
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy of the working folder, in which the command runs."""
    shutil.copytree(made, tmp_path / "work", symlinks=True)
    monkeypatch.chdir(tmp_path / "work")


SAME_MODEL = "use files made from the same exported model"
MISTAKES = {
    # maps
    "sides swapped, for a head": (
        "fit a.states.npz b.states.npz m.npz --objective kl --head topics.head.npz",
        "this head does not read the target's states", "got birch", "expected ash",
        "are the sides swapped?",
    ),
    "a map used backwards": (
        "evaluate topics.head.npz a.train.states.npz --map b-to-a.map.npz",
        "this map does not read these states", "got ash", "expected birch", SAME_MODEL,
        "are the map's sides swapped?",
    ),
    "states of other texts": (
        "fit b.test.states.npz a.train.states.npz m.npz",
        "different texts", "a.train.states.npz: text digest", "b.test.states.npz: ",
        "extract both models on the same file",
    ),
    "one row too few": (
        "fit x.npy short.npy m.npz",
        "do not have the same number of rows", "short.npy: 89", "x.npy: 90",
    ),
    "rows that are no numbers": ("fit nan.npy y.npy m.npz", "nan.npy", "not finite", "remove"),
    "token states with those of texts": (
        "fit b.tokens.states.npz a.states.npz m.npz", "--pooling",
    ),
    "texts in place of states": (
        "fit texts.txt a.states.npz m.npz", "texts.txt holds texts", "linalign-lite extract MODEL",
    ),
    "lines of texts in place of states": (
        "fit unlike.jsonl a.states.npz m.npz",
        "unlike.jsonl", "a line without `embedding`", "extract` makes states of texts",
    ),
    "a map in place of states": (
        "fit b.states.npz b-to-a.map.npz m.npz",
        "b-to-a.map.npz is not a linalign-states file", "got linalign-map",
    ),
    "a file that is cut short": (
        "fit b.states.npz cut.states.npz m.npz",
        "cut.states.npz", "the file may be truncated or altered; make or copy it again",
    ),
    "a folder that is not there": (
        "fit b.states.npz a.states.npz nowhere/m.npz", "the folder nowhere is not there", "make it",
    ),
    "a folder as the file to write": (
        "fit b.states.npz a.states.npz folder", "folder is a folder", "the name of a file to write",
    ),
    "a folder in place of a file": (
        "fit folder a.states.npz m.npz", "folder is not a folder of states", "extract MODEL",
    ),
    "a name mistyped": ("fit b.states.npz a.state.npz m.npz", "cannot read a.state.npz"),
    "an option mistyped": ("fit b.states.npz a.states.npz m.npz --objectiv kl", "--objective"),
    "a value that no option has": (
        "fit b.states.npz a.states.npz m.npz --method magic", "magic", "ridge",
    ),
    "no head for kl": (
        "fit b.states.npz a.states.npz m.npz --objective kl", "--objective kl needs --head",
    ),
    "the output is an input": (
        "apply b-to-a.map.npz x.npy x.npy", "x.npy is an input", "write to another file",
    ),
    "vectors of another dimension": (
        "apply b-to-a.map.npz y.npy z.npy", "the map does not fit", "128", "144", SAME_MODEL,
    ),
    "a file of a newer version": (
        "evaluate topics.head.npz b.test.states.npz --map newer.map.npz",
        "newer.map.npz", "got 9", "version",
    ),
    # extraction
    "no text in the file": ("extract {ash} empty.txt t.npz", "empty.txt holds no text"),
    "a line without a text": (
        "extract {ash} unlike.jsonl t.npz", "unlike.jsonl, line 2", "--text-field",
    ),
    "a folder in place of texts": (
        "extract {ash} folder t.npz", "folder is a folder", "a file of texts",
    ),
    "no exported model": (
        "extract folder texts.txt t.npz", "folder is not an exported model", "linalign-lite export",
    ),
    "a prompt that the model has not": (
        "extract {ash} texts.txt t.npz --prompt query", "ash has no prompt", "no prompts",
    ),
    "a file of another kind to write": (
        "extract {ash} texts.txt t.npy", "states are not written to .npy", "vectors export",
    ),
    "a URL without its package": (
        "extract {ash} s3://bucket/t.txt t.npz", "needs the package 's3fs'", "pip install",
    ),
    "a model that is none": ("export folder out", "folder has no config.json", "model's folder"),
    # heads
    "a head of states without labels": (
        "head a.states.npz h.npz", "no labels", ".jsonl or .csv file with `label`",
    ),
    "states without labels measured": (
        "evaluate topics.head.npz b.states.npz --map b-to-a.map.npz", "no labels", "payload",
    ),
    "a forgotten map": (
        "evaluate topics.head.npz b.test.states.npz",
        "this head does not read these states", "is --map missing?",
    ),
    "a map in place of a head": (
        "evaluate b-to-a.map.npz b.test.states.npz",
        "b-to-a.map.npz is not a linalign-head file", "got linalign-map",
    ),
    "detector and states swapped": (
        "ood score b.test.states.npz a.ood.npz", "b.test.states.npz is not a linalign-ood file",
    ),
    # private scoring
    "keys that are not there": (
        "encrypt b.test.states.npz q --map b-to-a.map.npz --key nokeys",
        "nokeys is not there", "keygen",
    ),
    "the public key in place of the secret one": (
        "encrypt b.test.states.npz q --map b-to-a.map.npz --key keys/public.key",
        "keys/public.key", "got public key", "expected secret key",
    ),
    "the secret key given to the provider": (
        "score b.query r --head topics.head.npz --public keys/secret.key",
        "keys/secret.key", "got secret key", "expected public key",
    ),
    "texts encrypted without a model": (
        "encrypt texts.txt q --map b-to-a.map.npz --key keys", "texts.txt", "--model FOLDER",
    ),
    "texts encrypted by the wrong model": (
        "encrypt texts.txt q --map b-to-a.map.npz --key keys --model {ash}",
        "got ash", "expected birch",
    ),
    "another client's public key": (
        "score b.query r --head topics.head.npz --public others",
        "a query under key", "and the public key", "ask the client for its public.key",
    ),
    "a response scored": (
        "score b.response r --head topics.head.npz --public keys",
        "b.response is another kind of file", "got response", "expected query",
    ),
    "a response decrypted by another key": (
        "decrypt b.response --key others",
        "b.response belongs to another key", "the secret key that encrypted the query",
    ),
    "a response decrypted with another query": (
        "decrypt b.response --key keys --query others.query",
        "b.response answers another query", "with its own",
    ),
    "texts of other queries": (
        "decrypt b.response --key keys --texts texts.txt",
        "not the texts of the queries", "got 9 texts",
    ),
    "a query without a map": ("score plain.query r --head topics.head.npz --public keys",
                              "does not belong in the head's space", "got birch", "expected ash",
                              "was it encrypted without --map?"),
    "a model for what is states already": (
        "encrypt b.test.states.npz q --map b-to-a.map.npz --key keys --model {ash}",
        "b.test.states.npz holds states already", "leave --model out",
    ),
    "keys made twice": ("keygen keys", "keys/secret.key is already there", "another folder"),
    # search and service
    "a map in place of an index": (
        "index search x.npy --index b-to-a.map.npz", "b-to-a.map.npz is not an index", "build",
    ),
    "an index of another model": (
        "index search b.test.states.npz --index a.index", "got birch", "expected ash",
    ),
    "no address": ("ask ftp://host texts.txt --key keys --head h", "no address of a service"),
    "a configuration that is none": ("serve texts.txt", "texts.txt is not TOML"),
    "a bundle that is none": ("bundle verify folder --unsigned", "folder"),
    # other
    "nothing that is known": ("inspect texts.txt", "texts.txt is not a file of linalign-lite"),
    "no such command": ("frobnicate", "No such command 'frobnicate'"),
    "a word forgotten": ("fit b.states.npz a.states.npz", "Missing argument 'out'"),
}  # fmt: skip


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_what_to_do(name, capsys):
    line, *said = MISTAKES[name]
    if "plain.query" in line:
        assert main(["encrypt", "b.test.states.npz", "plain.query", "--key", "keys", "-q"]) == 0
        capsys.readouterr()
    code = 1 if "s3://" in line else 2  # nothing is wrong with what was typed
    text = refused(capsys, *line.format(ash=ASH).split(), code=code)
    for part in said:
        assert part in text
    assert len(text.strip().splitlines()) <= 4


@pytest.mark.usefixtures("place")
def test_a_folder_in_which_one_may_not_write_is_named_before_any_work(capsys, monkeypatch):
    plain = os.access
    monkeypatch.setattr(
        os, "access", lambda path, *mode, **_: Path(path).name != "folder" and plain(path, *mode)
    )
    for line in (
        "fit b.states.npz a.states.npz folder/m.npz",
        f"extract {ASH} texts.txt folder/t.npz",
    ):
        said = refused(capsys, *line.split())
        assert "cannot write folder/" in said
        assert "no permission to write in folder" in said
        assert "warning" not in said


def test_there_are_forty():
    assert len(MISTAKES) >= 40


# --- no error, but nothing shows that it is right -------------------------------------------------


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("line", "reader"),
    [
        ("evaluate topics.head.npz labelled.jsonl", "the head, of ash,"),
        ("encrypt x.npy q --map b-to-a.map.npz --key keys", "the map, of birch,"),
        ("encrypt y.npy q --key keys --index a.index/index.json", "the index, of ash,"),
        ("index search y.npy --index a.index", "the index, of ash,"),
        ("ood score a.ood.npz y.npy", "the detector, of ash,"),
        ("ood evaluate a.ood.npz y.npy y.npy", "the detector, of ash,"),
        ("apply b-to-a.map.npz x.npy mapped.npy", "the map, of birch,"),
    ],
)
def test_vectors_that_name_no_model_are_remarked(line, reader, capsys):
    rows = np.load("y.npy")
    lines = [f'{{"embedding": {row.tolist()}, "label": "food"}}\n' for row in rows]
    Path("labelled.jsonl").write_text("".join(lines))
    assert main(line.split()) == 0
    said = capsys.readouterr().err
    assert "names no model, so nothing shows that " + reader in said
    assert "`vectors import --model`" in said


@pytest.mark.usefixtures("place")
def test_vectors_of_another_name_are_remarked(capsys):
    assert main(["vectors", "import", "x.npy", "x.states.npz", "--model", "oak", "-q"]) == 0
    line = "encrypt x.states.npz q --map b-to-a.map.npz --key keys"
    assert main(line.split()) == 0
    assert "x.states.npz is named oak, so nothing shows" in capsys.readouterr().err
    assert main(["vectors", "import", "x.npy", "x.states.npz", "--model", "birch", "-q"]) == 0
    assert main([*line.split(), "-q"]) == 0
    assert "nothing shows" not in capsys.readouterr().err


@pytest.mark.usefixtures("place")
def test_a_remark_tells_no_password_and_none_precedes_an_error(capsys):
    secret = "postgresql://me:hunter2@host/db#docs"
    said = doubts(secret, Space(144), load_map("b-to-a.map.npz"))
    assert "hunter2" not in said[0]
    assert "host" in said[0]
    text = refused(capsys, "evaluate", "topics.head.npz", "b.test.states.npz")
    assert "warning" not in text


@pytest.mark.usefixtures("place")
def test_a_map_of_vectors_that_name_no_model_is_remarked(capsys):
    assert main(["fit", "x.npy", "y.npy", "m.npz"]) == 0
    assert "these vectors name no model" in capsys.readouterr().err


@pytest.mark.usefixtures("place")
def test_what_was_replaced_is_said_once_it_is(capsys):
    assert main(["fit", "b.states.npz", "a.states.npz", "b-to-a.map.npz"]) == 0
    assert "replaced b-to-a.map.npz, which was there" in capsys.readouterr().err
    assert main(["fit", "b.states.npz", "a.state.npz", "b-to-a.map.npz"]) == 2
    assert "replaced" not in capsys.readouterr().err


# --- verdicts of what is planned ------------------------------------------------------------------


@pytest.mark.usefixtures("place")
def test_a_plan_an_index_and_a_budget_have_verdicts(capsys):
    def verdict(line, code=0):
        assert main([*line.split(), "--json", "--strict"]) == code
        return json.loads(capsys.readouterr().out)["verdict"]

    assert verdict("plan --dim 384 --classes 20")["grade"] == "good"
    assert verdict("plan --index a.index/index.json")["grade"] == "good"
    found = verdict("index build a.states.npz b.index --bits 9")
    assert "first ten rows that rounding keeps" in found["reason"]
    assert verdict("budget b.sqlite --limit 100") is None
    budget = Budget("b.sqlite")
    accounts = [bytes([i]) * 32 for i in (1, 2)]
    for account, used, grade in ((0, 60, "good"), (0, 30, "usable"), (1, 98, "poor")):
        budget.charge(accounts[account], bytes([used]) * 32, used)
        found = verdict("budget b.sqlite", code=int(grade == "poor"))
        assert found["grade"] == grade
        assert (accounts[account].hex()[:16] in found["advice"]) is (grade != "good")
    worst = bytes([3]) * 32
    budget.charge(worst, worst, 100)  # as poor, but with less left
    assert worst.hex()[:16] in verdict("budget b.sqlite", code=1)["advice"]
    for account in (accounts[1], worst):
        budget.change(account, closed=True)
    assert verdict("budget b.sqlite")["grade"] == "usable"


def test_files_that_do_not_belong_together_are_named(here, played, capsys):
    """The files that the command was given follow a message that tells of spaces alone."""
    head = played / "provider" / "topics.head.npz"
    states = played / "client" / "test.states.npz"
    said = refused(capsys, "evaluate", head, states)
    assert said.rstrip().endswith(f"; of {head}, {states}")
