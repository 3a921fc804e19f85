"""fit --unpaired and --no-pairs, and the same in scikit-learn's form."""

import json

import numpy as np
import pytest
from alignment.unpaired.two_models import partner_first, two_models

from linalign_lite import HiddenStates, load_map, save
from linalign_lite.commands import main
from linalign_lite.sklearn import AffineAligner


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, models = tmp_path_factory.mktemp("unpaired"), two_models(n=900, pairs=20)
    for side, own, few in zip(
        ("a", "b"), (models.source, models.target), models.pairs, strict=True
    ):
        np.save(folder / f"{side}.own.npy", own)
        save(folder / f"{side}.few.states.npz", HiddenStates(few))
        save(folder / f"{side}.three.states.npz", HiddenStates(few[:3]))
    noise = np.random.default_rng(0).normal(size=models.target.shape).astype(np.float32)
    np.save(folder / "noise.npy", noise)
    return folder, models


def ran(capsys, *args, code=0):
    assert main([str(a) for a in args]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, " ".join(captured.err.split())


def few(folder, name="few"):
    return [folder / f"{side}.{name}.states.npz" for side in ("a", "b")]


def test_a_map_from_a_few_pairs_and_unshared_texts(made, tmp_path, capsys):
    folder, models = made
    out = tmp_path / "a-to-b.map.npz"
    own = [folder / "a.own.npy", folder / "b.own.npy"]
    text, _ = ran(capsys, "fit", *few(folder), out, "--unpaired", *own, "--json")
    found = json.loads(text)
    assert (found["method"], found["n_pairs"], found["n_source"]) == ("unpaired", 20, 900)
    assert found["partner_first"] > 0.9
    affine = load_map(out)
    assert partner_first(affine, models.judged) > 0.95
    assert affine.card["n_pairs"] == 20
    text, _ = ran(capsys, "inspect", out)
    assert "unpaired" in text


def test_without_pairs_a_wrong_map_is_refused_and_no_file_is_left(made, tmp_path, capsys):
    folder, models = made
    out = tmp_path / "a-to-b.map.npz"
    text, _ = ran(capsys, "fit", folder / "a.own.npy", folder / "b.own.npy", out, "--no-pairs")
    assert "closeness" in text
    assert partner_first(load_map(out), models.judged) > 0.95
    out.unlink()
    _, errors = ran(
        capsys, "fit", folder / "a.own.npy", folder / "noise.npy", out, "--no-pairs", code=1
    )
    assert "no alignment was found: got closeness" in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--no-pairs", "--unpaired", "a", "b"], "do not go together"),
        (["--no-pairs", "--method", "procrustes"], "--no-pairs fits in its own way"),
        (["--unpaired", "a", "b", "--penalty", "0.1"], "--unpaired fits in its own way"),
        (["--unpaired", "a", "b", "--objective", "retrieval"], "--unpaired fits in its own way"),
        (["--unpaired", "a", "b", "--with-few", "a", "b"], "--unpaired fits in its own way"),
    ],
)
def test_options_that_do_not_go_together(made, tmp_path, capsys, options, message):
    out = tmp_path / "a-to-b.map.npz"
    _, errors = ran(capsys, "fit", *few(made[0]), out, *options, code=2)
    assert message in errors
    assert not out.exists()


def test_too_few_pairs_are_refused(made, tmp_path, capsys):
    folder, _ = made
    own = [folder / "a.own.npy", folder / "b.own.npy"]
    args = ["fit", *few(folder, "three"), tmp_path / "a-to-b.map.npz", "--unpaired", *own]
    _, errors = ran(capsys, *args, code=2)
    assert "the pairs are too few: got 3, expected 4 or more" in errors


def test_the_estimator_takes_rows_that_are_not_shared(made):
    _, models = made
    aligner = AffineAligner().fit(*models.pairs, X_unshared=models.source, Y_unshared=models.target)
    assert partner_first(aligner.transform, models.judged) > 0.95
    assert aligner.report_.n_pairs == 20
    with pytest.raises(ValueError, match="X_unshared and Y_unshared go together"):
        AffineAligner().fit(*models.pairs, X_unshared=models.source)
    with pytest.raises(ValueError, match="fitted without method and head"):
        AffineAligner(method="lstsq").fit(
            *models.pairs, X_unshared=models.source, Y_unshared=models.target
        )
