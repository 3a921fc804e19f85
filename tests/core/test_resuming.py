"""Interrupted extraction continues: the same bytes in the end, and no altered file is kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT, Fake

from linalign_lite import demo
from linalign_lite.commands import main
from linalign_lite.commands.describe_file import describe
from linalign_lite.core.hidden_states import text_digest
from linalign_lite.core.shards import plan, writer
from linalign_lite.core.shards.manifest import UNFINISHED
from linalign_lite.core.shards.states_folder import open_folder, open_states, states_of
from linalign_lite.core.shards.writer import FolderWriter, is_unfinished
from linalign_lite.errors import FormatError, InputError, MismatchError, OutputExistsError
from linalign_lite.extraction.corpus import read_corpus
from linalign_lite.extraction.pipeline import extract_to
from linalign_lite.extraction.texts import Texts
from linalign_lite.storage.hashing import hash_file, seal_of

GOLDEN = ROOT / "tests" / "golden" / "v1.unfinished.jsonl"
WORDS = ["a", "bb", "ccc", "dddd", "e", "ff", "ggg", "hhhh", "i"]
TEXTS = Texts(tuple(WORDS), tuple("xyzxyzxyz"))
OPTIONS = {"shard_texts": 2, "max_length": 3, "batch_tokens": 9}


class Killed(BaseException):
    """An error that is no Exception, like that of a signal."""


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def cut_off(folder: Path, after: int, texts=TEXTS, model=None, **options) -> None:
    """Extract, interrupted after ``after`` shards."""
    real, done = FolderWriter.add, []

    def add(self, part):
        if len(done) == after:
            raise Killed
        real(self, part)
        done.append(1)

    FolderWriter.add = add
    try:
        with pytest.raises(Killed):
            extract_to(folder, model or Fake(), texts, **{**OPTIONS, **options})
    finally:
        FolderWriter.add = real


@pytest.fixture
def whole(tmp_path) -> dict[str, bytes]:
    extract_to(tmp_path / "whole", Fake(), TEXTS, **OPTIONS)
    return bytes_of(tmp_path / "whole")


@pytest.fixture
def half(tmp_path) -> Path:
    cut_off(tmp_path / "half", 3)
    return tmp_path / "half"


@pytest.mark.parametrize("pooling", ["mean", "tokens"])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_what_was_cut_off_goes_on_to_the_same_bytes(tmp_path, after, pooling):
    extract_to(tmp_path / "whole", Fake(), TEXTS, pooling=pooling, **OPTIONS)
    cut_off(tmp_path / "s", after, pooling=pooling)
    kept = {n: b for n, b in bytes_of(tmp_path / "s").items() if n.endswith(".npz")}
    stamps = {n: (tmp_path / "s" / n).stat().st_mtime_ns for n in kept}
    assert len(kept) == after
    seen: list[int] = []
    made = extract_to(
        tmp_path / "s", Fake(), TEXTS, pooling=pooling, progress=seen.append, **OPTIONS
    )
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "whole")
    assert {n: (tmp_path / "s" / n).stat().st_mtime_ns for n in kept} == stamps
    assert sum(seen) == len(WORDS)
    assert made == open_folder(tmp_path / "s")


@given(stops=st.lists(st.integers(0, 3), max_size=4), torn=st.integers(0, 60))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_cut_off_any_number_of_times(tmp_path_factory, stops, torn):
    tmp = tmp_path_factory.mktemp("any")
    extract_to(tmp / "whole", Fake(), TEXTS, **OPTIONS)
    for after in stops:
        left = 5
        if (tmp / "s" / UNFINISHED).exists():
            left -= (tmp / "s" / UNFINISHED).read_bytes().count(b"\n") - 1
        if after >= left:
            break
        cut_off(tmp / "s", after)
        if (tmp / "s" / UNFINISHED).exists() and after:
            with (tmp / "s" / UNFINISHED).open("ab") as f:  # a line that was cut off
                f.write(
                    b'{"file": "00009.states.npz", "first_text": 0, "n_cut": 0, "n_texts'[:torn]
                )
    extract_to(tmp / "s", Fake(), TEXTS, **OPTIONS)
    assert bytes_of(tmp / "s") == bytes_of(tmp / "whole")


@pytest.mark.parametrize("step", ["a shard without a line", "the manifest", "a leftover"])
def test_killed_between_two_steps(half, whole, monkeypatch, step):
    if step == "a shard without a line":
        (half / "00003.states.npz").write_bytes(whole["00003.states.npz"][:100])
    elif step == "a leftover":
        (half / ".linalign-0123456789ab.tmp").write_bytes(b"x")
    else:
        real = Path.unlink
        monkeypatch.setattr(Path, "unlink", lambda *_a, **_k: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            extract_to(half, Fake(), TEXTS, **OPTIONS)
        monkeypatch.setattr(Path, "unlink", real)
        assert (half / "manifest.json").exists()
    assert is_unfinished(half)
    extract_to(half, Fake(), TEXTS, **OPTIONS)
    assert bytes_of(half) == whole


def test_no_reader_takes_an_unfinished_folder_for_states(half, whole):
    (half / "manifest.json").write_bytes(whole["manifest.json"])
    for read in (open_folder, open_states, states_of, describe):
        with pytest.raises(
            InputError, match=r"is unfinished: .*run the same .*extract.* again to continue it"
        ):
            read(half)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shard_texts": 3}, "another shard texts: got 3, expected 2"),
        ({"max_length": 4}, "another max length: got 4, expected 3"),
        ({"batch_tokens": 8}, "another batch tokens: got 8, expected 9"),
        ({"dtype": "fp16"}, 'another dtype: got "float16", expected "float32"'),
        ({"pooling": "mean"}, "another model or pooling"),
        ({"normalize": True}, "another model or pooling"),
        ({"model": Fake(5)}, "another model or pooling"),
        ({"texts": Texts((*WORDS[:-1], "j"), TEXTS.labels)}, "another text set"),
        ({"texts": Texts((*WORDS, "j"), (*TEXTS.labels, "x"))}, "text set and number of texts"),
        ({"texts": Texts(TEXTS.texts)}, "another labels"),
    ],
)
def test_a_change_is_refused_by_name_and_nothing_lost(half, change, words):
    before = bytes_of(half)
    model, texts = change.pop("model", Fake()), change.pop("texts", TEXTS)
    with pytest.raises(MismatchError, match=words):
        extract_to(half, model, texts, **{**OPTIONS, **change})
    assert bytes_of(half) == before


def test_another_version_of_the_library_is_refused(half, monkeypatch):
    monkeypatch.setattr(plan, "__version__", "99")
    with pytest.raises(MismatchError, match='another library: got "99"'):
        extract_to(half, Fake(), TEXTS, **OPTIONS)


def relined(folder: Path, number: int, change) -> None:
    lines = (folder / UNFINISHED).read_bytes().splitlines()
    raw = json.loads(lines[number])
    change(raw)
    if number == 0:
        raw.pop("seal")
        raw["seal"] = seal_of(raw)
    lines[number] = json.dumps(raw, sort_keys=True).encode()
    (folder / UNFINISHED).write_bytes(b"\n".join(lines) + b"\n")


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def relink(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to("../elsewhere")


def vouch(folder: Path) -> None:
    """Replace a shard by another one, and write its digest into the line."""
    (folder / "00001.states.npz").write_bytes((folder / "00002.states.npz").read_bytes())
    digest = hash_file(folder / "00001.states.npz")
    relined(folder, 2, lambda raw: raw.__setitem__("sha256", digest))


LOG = {
    "a flipped byte in a shard": (
        lambda f: flip(f / "00001.states.npz"),
        "00001.* is not the file",
    ),
    "a missing shard": (lambda f: (f / "00001.states.npz").unlink(), "00001.* is missing"),
    "a shard that is a link": (lambda f: relink(f / "00001.states.npz"), "is a link"),
    "another shard": (vouch, "00001.*(not as planned|of other texts)"),
    "a log that is a link": (lambda f: relink(f / UNFINISHED), "is a link"),
    "a file that does not belong": (lambda f: (f / "x").touch(), "x does not belong"),
    "a shard too far on": (lambda f: (f / "00004.states.npz").touch(), "00004.* does not belong"),
    "an altered header": (
        lambda f: (f / UNFINISHED).write_bytes(
            (f / UNFINISHED).read_bytes().replace(b'"n_texts": 9', b'"n_texts": 8', 1)
        ),
        "its own digest",
    ),
    "no header": (lambda f: (f / UNFINISHED).write_bytes(b""), "is not a usable log"),
    "a list": (lambda f: (f / UNFINISHED).write_bytes(b"[]\n"), "is not a log of a folder"),
    "depth": (lambda f: (f / UNFINISHED).write_bytes(b"[" * 90_000), "is not a usable log"),
    "another format": (
        lambda f: relined(f, 0, lambda r: r.update(format="x")),
        "is not a log of a folder",
    ),
    "a newer version": (lambda f: relined(f, 0, lambda r: r.update(version=2)), "unknown version"),
    "a missing field": (
        lambda f: relined(f, 0, lambda r: r.pop("dtype")),
        "unknown or missing fields",
    ),
    "a line that leads out": (
        lambda f: relined(f, 2, lambda r: r.update(file="../x")),
        "line 3: it is not the entry of the next shard",
    ),
    "a line of another place": (
        lambda f: relined(f, 2, lambda r: r.update(first_text=3)),
        "line 3: it is not the entry of the next",
    ),
    "a line of other counts": (
        lambda f: relined(f, 2, lambda r: r.update(n_texts=1)),
        "line 3: it is not the entry of the next",
    ),
    "a line of another field": (
        lambda f: relined(f, 2, lambda r: r.update(x=1)),
        "line 3: shard has unknown fields: got x",
    ),
    "a line of no JSON": (
        lambda f: (f / UNFINISHED).write_bytes((f / UNFINISHED).read_bytes() + b"{\n"),
        "line 5 is not a usable entry of a shard",
    ),
    "a line without an end": (
        lambda f: (f / UNFINISHED).write_bytes((f / UNFINISHED).read_bytes() + b"x" * 600),
        "line 5 is not a usable entry of a shard",
    ),
    "a log of a gigabyte": (lambda f: (f / UNFINISHED).open("r+b").truncate(1 << 30), "too large"),
}


@pytest.mark.parametrize("name", sorted(LOG))
def test_an_altered_folder_is_refused_and_left(half, name):
    attack, words = LOG[name]
    attack(half)
    names = sorted(p.name for p in half.iterdir())
    with pytest.raises((FormatError, MismatchError), match=words):
        extract_to(half, Fake(), TEXTS, **OPTIONS)
    assert sorted(p.name for p in half.iterdir()) == names


def test_two_at_once_are_refused(half):
    with writer._locked(half), pytest.raises(InputError, match="another process is at work"):
        extract_to(half, Fake(), TEXTS, **OPTIONS)


def test_the_log_is_what_it_was(half):
    """The log of an earlier version has the lines that this version writes."""
    raw = json.loads(GOLDEN.read_bytes().splitlines()[0])
    assert seal_of(raw) == raw["seal"]
    mine = (half / UNFINISHED).read_bytes().splitlines()
    first = json.loads(mine[0])
    assert {**raw, "library": "", "seal": ""} == {**first, "library": "", "seal": ""}
    entries = [json.loads(x) for x in GOLDEN.read_bytes().splitlines()[1:]]
    theirs = [{**json.loads(x), "sha256": ""} for x in mine[1:]]
    assert [{**x, "sha256": ""} for x in entries] == theirs  # states name the library's version


def test_a_wrong_input_leaves_nothing_but_an_older_run_stays(tmp_path, half):
    texts = ["a", "b", "_", "__", "c"]
    with pytest.raises(InputError, match="texts 3 to 4"):
        extract_to(tmp_path / "s", Fake(), texts, shard_texts=2)
    assert not (tmp_path / "s").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="texts 3 to 4"):
        extract_to(tmp_path / "empty", Fake(), texts, shard_texts=2)
    assert not list((tmp_path / "empty").iterdir())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("keep")
    with pytest.raises(OutputExistsError):
        extract_to(tmp_path / "full", Fake(), texts, shard_texts=2)


def test_killed_before_the_first_shard_nothing_is_left(tmp_path):
    cut_off(tmp_path / "s", 0)
    assert not (tmp_path / "s").exists()


def test_labels_too_many_for_a_manifest_are_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "MAX_MANIFEST", 1000)
    with pytest.raises(InputError, match="too many for one folder"):
        extract_to(tmp_path / "s", Fake(), TEXTS, **OPTIONS)
    assert not (tmp_path / "s").exists()


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("a\nb\nc\n")
    corpus = read_corpus(str(path))
    path.write_text("a\nb\nd\n")
    with pytest.raises(MismatchError, match="texts changed"):
        extract_to(tmp_path / "s", Fake(), corpus, shard_texts=2)
    assert not (tmp_path / "s").exists()


# --- the command ----------------------------------------------------------------------------------

ASH = str(demo.model_folder("ash"))


def command(*args) -> subprocess.Popen:
    return subprocess.Popen(
        [Path(sys.executable).with_name("linalign-lite"), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.slow
def test_a_killed_command_goes_on(tmp_path, capsys, number):
    """The command is killed after three of forty shards, long before it ends."""
    (tmp_path / "t.txt").write_text("".join(f"the cat sat on mat {i}\n" for i in range(4000)))
    args = ("extract", ASH, tmp_path / "t.txt", tmp_path / "s", "--shard-texts", 100,
            "--batch-tokens", 128, "--threads", 1)  # fmt: skip
    process = command(*args)
    while process.poll() is None and not (tmp_path / "s" / "00002.states.npz").exists():
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == {2: 130, 15: 143, 9: -9}[number], said
    assert is_unfinished(tmp_path / "s")
    if number != signal.SIGKILL:
        assert said == f"interrupted; {tmp_path / 's'} is unfinished; the same command resumes\n"
    assert main(["inspect", str(tmp_path / "s")]) == 2
    assert "is unfinished" in capsys.readouterr().err
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("*.npz")}
    assert main([str(a) for a in args]) == 0
    assert "resuming " in capsys.readouterr().err
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("*.npz")}
    same = [name for name in before if kept[name] == before[name]]
    assert len(same) >= 2  # the last one may have no line yet
    assert main([str(a) for a in (*args[:3], tmp_path / "w", *args[4:])]) == 0
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "w")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s", "t.txt", "w"]


def test_another_option_is_refused_by_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("one\ntwo\nthree\n")
    cut_off(Path("s"), 1, texts=Texts(("one", "two", "three")))
    assert main(["extract", ASH, "t.txt", "s", "--shard-texts", "2"]) == 2
    assert "s was begun with another " in capsys.readouterr().err
    assert is_unfinished(Path("s"))


def test_standard_input_to_a_folder(tmp_path):
    piped = subprocess.Popen(
        [Path(sys.executable).with_name("linalign-lite"), "extract", ASH, "-", tmp_path / "p"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said, _ = piped.communicate("one\n\ntwo\n", timeout=120)
    assert said.startswith(f"{tmp_path / 'p'}: 2 states of ")
    assert states_of(tmp_path / "p").text_digest == text_digest(["one", "two"])
