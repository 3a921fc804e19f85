"""`demo fit-private`: the whole exchange on the bundled models, on fewer texts."""

from __future__ import annotations

import json

import pytest
from made_fit import PROVEN, PUBLIC, SECRET

from linalign_lite.commands import main
from linalign_lite.demo import private_fit
from linalign_lite.encrypt.fitting import offer


def test_the_demo_fits_the_map_of_the_clear(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(offer, "keygen", lambda *_: (SECRET, PUBLIC))  # a proof takes seconds
    monkeypatch.setattr(offer, "proven", lambda *_: PROVEN)
    monkeypatch.setattr(private_fit, "TEXTS", 1200)
    out = tmp_path / "out"
    assert main(["demo", "fit-private", "--json", "--out", str(out)]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found == json.loads((out / "figures.json").read_text())
    assert (found["texts"], found["folds"], found["target_dim"]) == (1200, 2, 128)
    assert found["held_out_r2"] == pytest.approx(found["held_out_r2_in_the_clear"], abs=1e-3)
    assert found["held_out_r2"] > 0.3
    assert found["distance"] < 1e-2
    exchange = {path.name: path.stat().st_size for path in (out / "exchange").iterdir()}
    assert exchange["client.offer"] == found["offer_bytes"]
    assert exchange["provider.answer"] == found["answer_bytes"]
    assert set(exchange) == {
        "client.offer", "client.public.key", "client.public.proof", "provider.answer",
    }  # fmt: skip
    assert not list((out / "client").glob("*kept*"))  # the key was destroyed
    for text in (f"R² {found['held_out_r2']:.5f}", "MB of key and proof", "In the clear"):
        assert text.lower() in said.err.lower()
