"""Decrypted scores beside the texts they are of."""

from __future__ import annotations

import json

from command_line import refused

from linalign_lite.commands import main


def decrypt(played, *more):
    client = played / "client"
    response = played / "exchange" / "test.response"
    return ("decrypt", response, "--key", client / "keys", *more)


def test_texts_give_the_accuracy(played, here, capsys):
    texts = played / "client" / "test.jsonl"
    figures = json.loads((played / "figures.json").read_text())
    args = map(str, decrypt(played, "--texts", texts, "--out", "scores.jsonl", "--json"))
    assert main([*args]) == 0
    found = json.loads(capsys.readouterr().out)
    assert abs(found["accuracy"]["value"] - figures["encrypted"]) < 1e-9
    assert found["verdict"]["grade"] in {"usable", "good"}
    asked = [json.loads(line) for line in texts.read_text().splitlines()]
    kept = [json.loads(line) for line in (here / "scores.jsonl").read_text().splitlines()]
    assert [(r["text"], r["label"]) for r in kept] == [(r["text"], r["label"]) for r in asked]
    best = [max(r["scores"], key=r["scores"].get) for r in kept]
    hits = sum(r["label"] == b for r, b in zip(kept, best, strict=True))
    assert hits / len(kept) == found["accuracy"]["value"]


def test_a_file_gets_the_labels_alone(played, here, capsys):
    texts = played / "client" / "test.jsonl"
    assert main([*map(str, decrypt(played, "--texts", texts))]) == 0
    got = capsys.readouterr()
    assert len(got.out.splitlines()) == len(texts.read_text().splitlines())
    assert "accuracy" not in got.out
    accuracy, blank, verdict = got.err.splitlines()
    assert (accuracy[:9], blank, "the commonest label" in verdict) == ("accuracy ", "", True)


def test_other_texts_are_refused(played, here, capsys):
    (here / "few.txt").write_text("one\ntwo\n")
    said = refused(capsys, *decrypt(played, "--texts", "few.txt", "--out", "x.jsonl"))
    assert "not the texts of the queries: got 2 texts, expected" in said


def test_unlabelled_texts_go_along(played, here, capsys):
    rows = (played / "client" / "test.jsonl").read_text().splitlines()
    (here / "bare.txt").write_text("\n".join(json.loads(r)["text"] for r in rows))
    assert main([*map(str, decrypt(played, "--texts", "bare.txt", "--out", "x.jsonl"))]) == 0
    assert "accuracy" not in capsys.readouterr().out
    assert list(json.loads((here / "x.jsonl").read_text().splitlines()[0])) == ["text", "scores"]


def test_a_terminal_is_spared_the_labels_that_a_file_gets(played, here, capsys, monkeypatch):
    args = [*map(str, decrypt(played, "--out", "x.jsonl"))]
    assert main(args) == 0
    assert len(capsys.readouterr().out.splitlines()) == 145
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(args) == 0
    assert capsys.readouterr().out == "x.jsonl: scores of 145 queries\n"
