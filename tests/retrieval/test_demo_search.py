"""`demo search`: what it prints and keeps, and what travels between its parties."""

import json
import stat

import pytest
from command_line import refused, run

from linalign_lite import demo, open_index


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The folder, and what is printed."""
    folder = tmp_path_factory.mktemp("demo") / "search"
    return folder, run("demo", "search", "--out", folder).stdout


def test_encrypted_search_finds_what_the_same_search_in_the_clear_does(found):
    folder, said = found
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["documents"] == 295
    assert figures["queries"] == 145
    assert figures["overlap"] > 0.97
    assert figures["largest_error"] < 0.01
    assert figures["encrypted"] == pytest.approx(figures["clear"], abs=0.03)
    assert figures["encrypted"] > 0.45  # of five topics
    assert figures["native"] > figures["clear"]
    assert figures["query_bytes"] == (folder / "exchange" / "one.query").stat().st_size
    assert "query: We had chicken and rice for dinner." in said
    assert "  We had pizza and salad for dinner.\n" in said


def test_the_command_that_it_prints_shows_the_best_documents(found):
    folder, said = found
    program, *words = said.splitlines()[-1].split()
    assert program == "linalign-lite"
    lines = run(*words).stdout.splitlines()
    assert len(lines) == 5
    assert lines[0].split()[2] == "We%20had%20pizza%20and%20salad%20for%20dinner."
    index = open_index(folder / "provider" / "documents.index")
    assert index.ids[0] == demo.labelled_texts(held_out=False).texts[0]


def test_what_travels_holds_no_secret_and_no_query(found):
    folder, _ = found
    key = folder / "client" / "keys" / "secret.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    secret, queries = key.read_bytes(), demo.labelled_texts(held_out=True).texts
    for file in (folder / "exchange").iterdir():
        content = file.read_bytes()
        assert secret[200:232] not in content
        assert not any(text.encode() in content for text in queries)


def test_what_is_no_demo_or_no_new_folder_is_refused(here, capsys):
    assert "classifier" in refused(capsys, "demo", "nothing")
    (here / "x").mkdir()
    (here / "x" / "mine").write_text("keep")
    said = refused(capsys, "demo", "search", "--out", "x")
    assert "is already there and is not an empty folder" in said
