"""Files under URLs behave as on the disk: same bytes, same refusals, whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Fake

from linalign_lite import demo
from linalign_lite.alignment.moments_io import load_moments
from linalign_lite.alignment.streaming.measure import measure_shards
from linalign_lite.commands import main
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.serialization import load_map, load_states
from linalign_lite.core.shards.manifest import MANIFEST, UNFINISHED
from linalign_lite.core.shards.states_folder import open_folder, open_states, states_of
from linalign_lite.core.shards.writer import FolderWriter
from linalign_lite.errors import (
    FormatError,
    InputError,
    LinalignError,
    MismatchError,
    MissingExtraError,
    OutputExistsError,
)
from linalign_lite.extraction import pipeline
from linalign_lite.extraction.corpus import read_corpus
from linalign_lite.extraction.pipeline import extract_to
from linalign_lite.extraction.texts import Texts, read_texts
from linalign_lite.heads.serialization import save
from linalign_lite.storage.places import (
    delivered,
    fetched,
    listing,
    opened,
    place,
    require_writable,
    same_place,
)
from linalign_lite.storage.remote import Remote

fsspec = pytest.importorskip("fsspec")
TEXTS = Texts(("a", "bb", "ccc", "dddd", "e", "ff", "ggg"), tuple("xyzxyzx"))
OPTIONS = {"shard_texts": 2, "max_length": 3, "batch_tokens": 9}
STATES = HiddenStates(np.arange(12, dtype=np.float32).reshape(4, 3))
MODEL = str(demo.model_folder("ash"))
OTHER = str(demo.model_folder("birch"))


@pytest.fixture(autouse=True)
def _empty():
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def content(url: str) -> bytes:
    return fsspec.filesystem("memory").cat_file(url)


def put(url: str, data: bytes) -> None:
    fsspec.filesystem("memory").pipe_file(url, data)


def names(url: str) -> set[str]:
    return set(listing(Remote(url)))


def same_bytes(url: str, folder: Path) -> None:
    there = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert {name: content(f"{url}/{name}") for name in names(url)} == there


class Fails:
    """A method of the memory filesystem that fails after some calls."""

    def __init__(self, monkeypatch, name: str, after: int, error: BaseException) -> None:
        kind = type(fsspec.filesystem("memory"))
        real, self.calls = getattr(kind, name), 0

        def call(fs, *args, **kwargs):
            self.calls += 1
            if self.calls > after:
                raise error
            return real(fs, *args, **kwargs)

        monkeypatch.setattr(kind, name, call)


# places


def test_what_is_a_url_and_what_a_path():
    assert place("memory://a/b.npz") == Remote("memory://a/b.npz")
    assert place("S3://a") == Remote("S3://a")
    assert place("file:///a/b") == Path("/a/b")
    for path in ("a/b", "-", "memory:/a", "c:\\x", "//host/x", "://x"):
        assert place(path) == Path(path)
    with pytest.raises(InputError, match="a chain of URLs is not supported"):
        place("simplecache::s3://a/b")


def test_a_place_does_not_say_its_password_or_signature():
    secret = Remote("ftp://me:hunter2@host/x.npz?sig=abc&key=def")
    assert (secret.name, secret.suffix) == ("x.npz", ".npz")
    for url, folder in (("a://b/c", "a://b"), ("a://b", "a://"), ("a:///b", "a:///"),
                        ("a:///b/c/", "a:///b")):  # fmt: skip
        assert Remote(url).parent.url == folder
        assert (Remote(folder) / Remote(url).name).url == url.rstrip("/")
    shown = [str(secret), repr(secret), f"{secret / 'y'}", str(InputError(f"no {secret.url} (x)"))]
    for text in shown:
        assert not any(word in text for word in ("hunter2", "abc", "def"))
    assert str(secret) == "ftp://me:…@host/x.npz?…"
    for text in ("ftp://me:p/w@d@host/x", "ftp://me:p#w@host/x"):
        assert str(InputError(text)) == "ftp://me:…@host/x"
    assert str(InputError("postgresql:db?password=pw#t")) == "postgresql:db?…#t"
    assert pickle.loads(pickle.dumps(secret)) == secret
    assert str(InputError("is it there?", hint="see https://x/y for a?b")).endswith("for a?b)")


def test_without_fsspec_the_extra_is_named(monkeypatch, capsys, tmp_path):
    for name in [m for m in sys.modules if m.split(".")[0] == "fsspec"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'linalign-lite\[remote\]'"):
        open_states("memory://x")
    assert main(["extract", MODEL, "memory://t.txt", str(tmp_path / "o")]) == 1
    assert "linalign-lite[remote]" in capsys.readouterr().err
    assert place(f"file://{tmp_path}").is_dir()


@pytest.mark.parametrize(
    ("url", "said", "code"),
    [
        ("nosuch://a/b", "Protocol not known: nosuch", 2),
        ("dvc://a/b", "dvc://a/b needs the package 'dvc', which the base install leaves out", 1),
    ],
)
def test_a_scheme_that_is_unknown_or_lacks_its_package_is_named(url, said, code, capsys):
    assert main(["moments", url, "memory://b", "memory://c.moments.npz"]) == code
    error = capsys.readouterr().err
    assert url in error
    assert said in error
    assert "Traceback" not in error


# single files


@given(data=st.binary(max_size=3000), most=st.integers(0, 3000))
@settings(max_examples=60, deadline=None)
def test_a_file_comes_whole_or_is_refused(data, most):
    put("memory://x/f.bin", data)
    if len(data) <= most:
        with fetched(Remote("memory://x/f.bin"), most) as local:
            assert local.read_bytes() == data
            assert local.name == "f.bin"
        assert not local.exists()
    else:
        with (
            pytest.raises(FormatError, match=r"memory://x/f.bin is too large: expected at most"),
            fetched(Remote("memory://x/f.bin"), most),
        ):
            pass


def test_a_file_that_lies_about_its_size_is_cut_off(monkeypatch):
    put("memory://x", b"0" * (1 << 22))
    kind = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(kind, "info", lambda *_, **__: {"size": 3, "type": "file", "name": "/x"})
    with pytest.raises(FormatError, match="too large"), fetched(Remote("memory://x"), 1000):
        pass


def test_errors_name_the_url_and_not_the_copy():
    put("memory://x/bad.states.npz", b"PK no archive")
    with pytest.raises(FormatError, match=r"^memory://x/bad.states.npz ") as found:
        open_states("memory://x/bad.states.npz")
    assert "linalign-" not in str(found.value).partition("hint")[0].replace("linalign-lite", "")
    with pytest.raises(InputError, match=r"cannot read memory://x/none.npz: got nothing"):
        open_states("memory://x/none.npz")


def test_a_file_is_delivered_whole_or_not_at_all(monkeypatch):
    target = Remote("memory://o/x.states.npz")
    with delivered(target) as local:
        save(local, STATES)
    kept = content(target.url)
    assert np.array_equal(open_states(target).states, STATES.states)
    with pytest.raises(ZeroDivisionError), delivered(target) as local:
        local.write_bytes(b"half"[: 1 // 0])
    for name in ("put_file", "mv"):
        for error in (OSError("gone"), KeyboardInterrupt()):
            with monkeypatch.context() as m:
                Fails(m, name, 0, error)
                kind = LinalignError if isinstance(error, OSError) else KeyboardInterrupt
                with pytest.raises(kind), delivered(target) as local:
                    local.write_bytes(b"half")
        assert content(target.url) == kept
        assert names("memory://o") == {"x.states.npz"}


def test_an_upload_that_arrives_short_is_noticed(monkeypatch):
    kind = type(fsspec.filesystem("memory"))
    real = kind.put_file
    monkeypatch.setattr(
        kind,
        "put_file",
        lambda fs, local, there, **k: (real(fs, local, there, **k), fs.pipe_file(there, b"x"))[0],
    )
    with (
        pytest.raises(LinalignError, match="was written with another size"),
        delivered(Remote("memory://o/x")) as local,
    ):
        local.write_bytes(b"1234")


def test_what_may_not_be_written_is_refused_before_the_work(monkeypatch, capsys):
    put("memory://o/secret.key", b"LINALIGN\2\0\1\0rest")
    with pytest.raises(OutputExistsError, match="secret key"):
        require_writable(Remote("memory://o/secret.key"))
    with pytest.raises(InputError, match="is a folder"):
        require_writable(Remote("memory://o"))
    put("memory://a.npz", b"x")
    assert main(["fit", "memory://a.npz", "memory://b.npz", "memory://a.npz"]) == 2
    assert "is an input of this command" in capsys.readouterr().err
    Fails(monkeypatch, "put_file", 0, PermissionError("not yours"))
    with pytest.raises(InputError, match=r"cannot write into memory://o: .*not yours"):
        require_writable(Remote("memory://o/new.npz"))
    assert names("memory://o") == {"secret.key"}


def test_the_disk_under_a_url_of_fsspec(tmp_path):
    """The scheme local:// of fsspec stands for a remote filesystem that can rename files."""
    url = f"local://{tmp_path}/x.states.npz"
    with delivered(place(url)) as local:
        save(local, STATES)
    assert np.array_equal(load_states(tmp_path / "x.states.npz").states, STATES.states)
    assert [p.name for p in tmp_path.iterdir()] == ["x.states.npz"]
    assert same_place(place(url), place(url))
    assert not same_place(place(url), place("memory://x"))
    with pytest.raises(InputError, match="cannot write into"):
        require_writable(place(f"local://{tmp_path}/none/x.npz"))


# texts


@pytest.mark.parametrize("ending", ["txt", "txt.gz", "jsonl", "csv"])
def test_texts_are_read_as_from_the_disk(ending, tmp_path):
    body = {
        "txt": "one\n\ntwo\r\n",
        "csv": "text,label\none,a\ntwo,b\n",
        "jsonl": '{"text": "one", "label": "a"}\n{"text": "two", "label": "b"}\n',
    }[ending.partition(".")[0]].encode()
    data = gzip.compress(body) if ending.endswith("gz") else body
    (tmp_path / f"t.{ending}").write_bytes(data)
    put(f"memory://t.{ending}", data)
    here = read_texts(str(tmp_path / f"t.{ending}"))
    assert read_texts(f"memory://t.{ending}") == here
    assert read_texts(f"file://{tmp_path}/t.{ending}") == here
    corpus = read_corpus(f"memory://t.{ending}")
    assert (corpus.digest, corpus.n_texts) == (here.digest, 2)
    assert next(iter(corpus.chunks(5))).texts == ("one", "two")


def test_parquet_is_read_from_a_url(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "t.parquet")
    put("memory://t.parquet", (tmp_path / "t.parquet").read_bytes())
    assert read_texts("memory://t.parquet").texts == ("one", "two")
    put("memory://u.parquet", b"PAR1 nothing PAR1")
    with pytest.raises(FormatError, match="not usable Parquet"):
        read_texts("memory://u.parquet")


def test_texts_that_are_not_there_or_stop_coming_are_named(monkeypatch):
    with pytest.raises(InputError, match=r"cannot read memory://no.txt"):
        read_texts("memory://no.txt")
    put("memory://a/t.txt", b"one\ntwo\n")
    with pytest.raises(InputError, match=r"cannot read memory://a"), opened("memory://a"):
        pass
    put("memory://t.txt.gz", gzip.compress(b"one\n" * 9)[:-9])
    with pytest.raises(FormatError, match="does not unpack"):
        read_texts("memory://t.txt.gz")
    put("memory://t.txt", b"one\ntwo\n")

    def stop(*_):
        raise RuntimeError("the line is dead")

    real = fsspec.implementations.memory.MemoryFile
    monkeypatch.setattr(real, "read", stop, raising=False)
    with pytest.raises(LinalignError, match=r"cannot read memory://t.txt.*the line is dead"):
        read_texts("memory://t.txt")


# folders


def cut_off(out: str, after: int, monkeypatch) -> None:
    """Extract, interrupted after ``after`` shards."""
    real, done = FolderWriter.add, []

    def add(self, part):
        if len(done) == after:
            raise KeyboardInterrupt
        real(self, part)
        done.append(1)

    with monkeypatch.context() as m:
        m.setattr(FolderWriter, "add", add)
        with pytest.raises(KeyboardInterrupt):
            extract_to(out, Fake(), TEXTS, **OPTIONS)


@pytest.mark.parametrize("pooling", ["mean", "tokens"])
def test_a_folder_there_is_the_folder_here(tmp_path, pooling):
    options = {**OPTIONS, "pooling": pooling}
    here = extract_to(tmp_path / "here", Fake(), TEXTS, **options)
    there = extract_to("memory://a/there", Fake(), TEXTS, **options)
    same_bytes("memory://a/there", tmp_path / "here")
    assert there.shards == here.shards
    assert open_folder("memory://a/there") == there
    assert np.array_equal(states_of("memory://a/there").states, here.load().states)
    on_disk = f"local://{tmp_path}/deep/there"
    assert extract_to(on_disk, Fake(), TEXTS, **options).shards == here.shards
    assert open_folder(tmp_path / "deep" / "there").shards == here.shards


@pytest.mark.parametrize("after", range(5))
def test_a_killed_run_goes_on(tmp_path, monkeypatch, after):
    extract_to(tmp_path / "here", Fake(), TEXTS, **OPTIONS)
    if after < 4:
        cut_off("memory://there", after, monkeypatch)
    else:  # all shards are there, and the manifest did not arrive
        with monkeypatch.context() as m:
            Fails(m, "mv", 5, OSError("gone"))
            with pytest.raises(LinalignError, match=r"cannot write memory://there/manifest.json"):
                extract_to("memory://there", Fake(), TEXTS, **OPTIONS)
    if after == 0:
        assert names("memory://there") == set()
    else:
        assert len(names("memory://there")) == 1 + after
        with pytest.raises(InputError, match="is unfinished"):
            open_folder("memory://there")
        put("memory://there/.linalign-0123.tmp", b"left by a killed process")
    made = []
    with monkeypatch.context() as m:
        real = FolderWriter.add
        m.setattr(FolderWriter, "add", lambda self, part: (made.append(1), real(self, part)))
        extract_to("memory://there", Fake(), TEXTS, **OPTIONS)
    assert len(made) == 4 - after
    same_bytes("memory://there", tmp_path / "here")


def test_a_network_that_fails_keeps_what_is_done_and_bad_input_does_not(monkeypatch):
    with monkeypatch.context() as m:
        Fails(m, "mv", 3, PermissionError("the token expired"))
        with pytest.raises(LinalignError, match="the token expired") as found:
            extract_to("memory://there", Fake(), TEXTS, **OPTIONS)
    assert not isinstance(found.value, InputError)
    assert names("memory://there") == {UNFINISHED, "00000.states.npz", "00001.states.npz"}
    with pytest.raises(MismatchError, match="was begun with another max length"):
        extract_to("memory://there", Fake(), TEXTS, **{**OPTIONS, "max_length": 2})
    with pytest.raises(MismatchError, match="was begun with another"):
        extract_to("memory://there", Fake(), TEXTS.texts[:-1], **OPTIONS)

    def refuse(*_):
        raise InputError("no")

    monkeypatch.setattr(pipeline, "narrow", refuse)
    with pytest.raises(InputError, match="no"):
        extract_to("memory://new", Fake(), TEXTS, **OPTIONS)
    assert names("memory://new") == set()
    assert len(names("memory://there")) == 3


ATTACKS = {
    "another name": lambda: put("memory://there/notes.txt", b"x"),
    "a folder in it": lambda: put("memory://there/00003.states.npz/x", b"x"),
    "a header of another kind": lambda: put(f"memory://there/{UNFINISHED}", b'{"format": "x"}\n'),
    "a header too large": lambda: put(f"memory://there/{UNFINISHED}", b" " * ((16 << 20) + 1)),
    "no header": lambda: put(f"memory://there/{UNFINISHED}", b""),
    "a shard cut short": lambda: put(
        "memory://there/00001.states.npz", content("memory://there/00001.states.npz")[:-7]
    ),
    "a shard far too large": lambda: put("memory://there/00001.states.npz", b"0" * (17 << 20)),
    "shards that change places": lambda: put(
        "memory://there/00001.states.npz", content("memory://there/00000.states.npz")
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_unfinished_folder_that_was_altered_is_refused(name, monkeypatch):
    cut_off("memory://there", 2, monkeypatch)
    ATTACKS[name]()
    before = names("memory://there")
    with pytest.raises((FormatError, MismatchError), match="memory://there"):
        extract_to("memory://there", Fake(), TEXTS, **OPTIONS)
    assert names("memory://there") == before


FINISHED = {
    "a shard missing": (lambda: fsspec.filesystem("memory").rm("/f/00001.states.npz"), "missing"),
    "a file more": (lambda: put("memory://f/x", b""), "x does not belong"),
    "a shard that is a folder": (
        lambda: (
            fsspec.filesystem("memory").rm("/f/00001.states.npz"),
            put("memory://f/00001.states.npz/x", b""),
        ),
        "does not have the size",
    ),
    "a shard that is empty": (lambda: put("memory://f/00001.states.npz", b""), "the size"),
    "a manifest too large": (
        lambda: put(f"memory://f/{MANIFEST}", b" " * ((16 << 20) + 1)),
        "manifest.json is too large",
    ),
    "no manifest": (
        lambda: fsspec.filesystem("memory").rm(f"/f/{MANIFEST}"),
        "is not a folder of states",
    ),
}


@pytest.mark.parametrize("name", FINISHED)
def test_a_folder_that_was_altered_is_refused_before_a_shard_is_fetched(name):
    extract_to("memory://f", Fake(), TEXTS, **OPTIONS)
    attack, said = FINISHED[name]
    attack()
    with pytest.raises(InputError, match=said):
        open_folder("memory://f")


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_any_bit_of_a_shard_that_changed_is_noticed(where, bit):
    fsspec.filesystem("memory").store.clear()
    found = extract_to("memory://f", Fake(), TEXTS, **OPTIONS)
    data = bytearray(content("memory://f/00002.states.npz"))
    data[int(where * len(data))] ^= 1 << bit
    put("memory://f/00002.states.npz", bytes(data))
    with pytest.raises(FormatError, match=r"memory://f/00002.states.npz does not have the digest"):
        list(found)


def test_one_shard_is_on_the_disk_at_a_time(tmp_path, monkeypatch):
    found = extract_to("memory://f", Fake(), TEXTS, **OPTIONS)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for _ in found:
        assert list(tmp_path.iterdir()) == []


def test_a_store_of_objects_is_asked_for_no_names_and_no_folders(tmp_path, capsys):
    """Objects appear once complete: they are put, not renamed, and there are no folders."""
    memory = type(fsspec.filesystem("memory"))

    def refuse(*_args, **_options):
        raise NotImplementedError("there is no such thing here")

    class Objects(memory):
        protocol = ("r2", "r3")
        store: ClassVar = {}
        mv = rmdir = refuse

        @classmethod
        def _strip_protocol(cls, path):
            return memory._strip_protocol(path.replace("r2://", "memory://"))

        def ls(self, path, detail=True, **_):
            marker = {"name": f"{path}/", "size": 0, "type": "file"}
            return [marker, *super().ls(path, detail=True)]

    fsspec.register_implementation("r2", Objects, clobber=True)
    extract_to(tmp_path / "here", Fake(), TEXTS, **OPTIONS)
    found = extract_to("r2://bucket/a/there", Fake(), TEXTS, **OPTIONS)
    assert [s.sha256 for s in found.shards] == [
        s.sha256 for s in open_folder(tmp_path / "here").shards
    ]
    assert open_folder("r2://bucket/a/there") == found
    (tmp_path / "t.txt").write_text("One cat.\nTwo cats.\n")
    run(capsys, "extract", MODEL, str(tmp_path / "t.txt"), "r2://bucket/a/x.states.npz")
    shards = {f"/bucket/a/there/{p.name}" for p in (tmp_path / "here").iterdir()}
    assert set(Objects.store) == {"/bucket/a/x.states.npz", *shards}


def test_what_is_there_is_never_overwritten():
    extract_to("memory://f", Fake(), TEXTS, **OPTIONS)
    put("memory://file", b"x")
    for out in ("memory://f", "memory://file"):
        with pytest.raises(OutputExistsError, match="already there"):
            extract_to(out, Fake(), TEXTS, **OPTIONS)


# commands


@pytest.fixture
def corpus() -> str:
    lines = [json.dumps({"text": f"The cat number {i} ran to house {i % 7}."}) for i in range(90)]
    put("memory://in/t.jsonl", "\n".join(lines).encode())
    return "memory://in/t.jsonl"


def run(capsys, *args: str) -> dict:
    assert main([*args, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_every_step_from_texts_to_a_map_under_urls(corpus, tmp_path, capsys):
    (tmp_path / "t.jsonl").write_bytes(content(corpus))
    sharded, one = ["--shard-texts", "40", "--threads", "1"], ["--threads", "1"]
    for model, name in ((MODEL, "a"), (OTHER, "b")):
        said = run(capsys, "extract", model, corpus, f"memory://s/{name}", *sharded)
        assert (said["out"], said["shards"]) == (f"memory://s/{name}", 3)
        run(capsys, "extract", model, str(tmp_path / "t.jsonl"), str(tmp_path / name), *sharded)
        run(capsys, "extract", model, corpus, f"memory://s/{name}.states.npz", *one)
        same_bytes(f"memory://s/{name}", tmp_path / name)
    pairs = [(f"memory://s/{x}", str(tmp_path / x)) for x in "ab"]
    there, here = zip(*pairs, strict=True)
    said = run(capsys, "moments", *there, "memory://m/x.moments.npz", "--folds", "2", "--reveal")
    run(capsys, "moments", *here, str(tmp_path / "x.moments.npz"), "--folds", "2", "--reveal")
    made = content("memory://m/x.moments.npz")
    assert made == (tmp_path / "x.moments.npz").read_bytes()
    assert said["bytes"] == len(made)
    run(capsys, "fit-moments", "memory://m/x.moments.npz", "memory://m/one.map.npz")
    run(capsys, "fit", *there, "memory://m/two.map.npz", "--folds", "2")
    run(capsys, "fit", "memory://s/a.states.npz", here[1], str(tmp_path / "three.map.npz"))
    for name in ("one", "two"):
        (tmp_path / "o.map.npz").write_bytes(content(f"memory://m/{name}.map.npz"))
        found = load_map(tmp_path / "o.map.npz")
        assert found.weight.shape == load_map(tmp_path / "three.map.npz").weight.shape
    assert names("memory://m") == {"x.moments.npz", "one.map.npz", "two.map.npz"}


def test_a_command_that_fails_leaves_nothing_there(corpus, capsys, monkeypatch):
    assert main(["extract", MODEL, corpus, corpus]) == 2
    assert "is an input of this command" in capsys.readouterr().err
    assert main(["extract", MODEL, corpus, "memory://s/x.npz", "--max-length", "1"]) == 2
    assert main(["extract", MODEL, corpus, "memory://s/x", "--max-length", "1"]) == 2
    assert names("memory://s") == set()
    Fails(monkeypatch, "put_file", 1, OSError("gone"))  # the trial works
    assert main(["extract", MODEL, corpus, "memory://s/x.npz"]) == 1
    assert "cannot write memory://s/x.npz" in capsys.readouterr().err
    assert names("memory://s") == set()


def test_workers_fetch_their_own_shards(tmp_path):
    """Processes share no memory filesystem, so the folders are under local:// URLs."""
    sides = []
    for name, dim in (("x", 3), ("y", 5)):
        url = f"local://{tmp_path}/{name}"
        sides.append(extract_to(url, Fake(dim) if name == "y" else Fake(), TEXTS, **OPTIONS))
    alone = measure_shards(*sides, folds=2, leaf_rows=1)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        found = measure_shards(*sides, folds=2, leaf_rows=1, executor=executor)
    for a, b in zip(alone.moments.folds, found.moments.folds, strict=True):
        assert np.array_equal(a.xy, b.xy)


def test_moments_of_a_url_are_bounded(tmp_path):
    path = tmp_path / "no.moments.npz"
    path.write_bytes(os.urandom(2000))
    put("memory://no.moments.npz", path.read_bytes())
    with pytest.raises(FormatError):
        load_moments(path)
    assert main(["fit-moments", "memory://no.moments.npz", "memory://o.map.npz"]) == 2
    assert names("memory://") == {"no.moments.npz"}
