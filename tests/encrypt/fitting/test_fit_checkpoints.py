"""Checkpoints of an answer beside a budget: an unusable one costs nothing, and none is lost."""

from __future__ import annotations

import pytest
from made_fit import Exchange, two_models

from linalign_lite import Budget, InputError, SigningKey, keygen
from linalign_lite.encrypt import key_proof
from linalign_lite.encrypt.fitting import checkpoint


class StoppedError(Exception):
    """Raised in place of a kill."""


def stop(_count):
    raise StoppedError


@pytest.mark.parametrize("fault", ["of another offer", "damaged", "cut"])
def test_an_unusable_checkpoint_costs_nothing(tmp_path, monkeypatch, fault):
    """The charge is taken back, and without the file the same offer is answered."""
    signer = SigningKey.generate()
    secret, public = keygen(account=signer)
    public = key_proof.proven(secret, public)
    x, y = two_models(n=200, d_target=2)
    work, sums = Exchange(tmp_path), tmp_path / "sums"
    monkeypatch.setattr(checkpoint, "SECONDS", 0)
    work.offer(x, secret, account=signer)
    with pytest.raises(StoppedError):
        work.answer(y, keys=[public], checkpoint=sums, progress=stop)
    saved = tmp_path / "sums.0"
    raw = saved.read_bytes()
    if fault == "of another offer":
        work.offer(x, secret, account=signer)
    elif fault == "damaged":
        half = len(raw) // 2
        saved.write_bytes(raw[:half] + bytes([raw[half] ^ 1]) + raw[half + 1 :])
    else:
        saved.write_bytes(raw[:-1000])
    budget = Budget(tmp_path / "clients.sqlite", 1000)
    with pytest.raises(InputError, match=r"sums\.0"):
        work.answer(y, keys=[public], budget=budget, checkpoint=sums)
    assert sum(u.used + u.pending for u in budget.usage()) == 0
    assert not work.answer_at.exists()
    saved.unlink()
    work.answer(y, keys=[public], budget=budget, checkpoint=sums)
    assert work.answer_at.exists()
    assert budget.usage()[0].used > 0


def test_names_are_checked_first_and_files_of_others_stay(tmp_path, monkeypatch):
    from linalign_lite.encrypt.fitting import products

    x, y = two_models(n=200, d_target=2)
    work, sums = Exchange(tmp_path), tmp_path / "sums"
    work.offer(x)
    monkeypatch.setattr(products, "MAX_BYTES", 1)  # a block for each dimension
    (tmp_path / "sums.1").symlink_to(tmp_path / "m.offer")
    seen = []
    with pytest.raises(InputError, match="cannot write"):
        work.answer(y, checkpoint=sums, progress=seen.append)
    assert not seen
    (tmp_path / "sums.1").unlink()
    (tmp_path / "sums.2").write_text("of somebody else")
    work.answer(y, checkpoint=sums)
    # a file that appeared at a block's name after its sums were made is not of this answer
    saved = checkpoint.SumsCheckpoint(sums, "job", 3)
    saved.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "m.answer", "m.kept.npz", "m.offer", "sums.2",
    ]  # fmt: skip
