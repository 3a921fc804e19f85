"""Maps as Dense modules and LinearTransforms, against sentence-transformers and FAISS."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linalign_lite import from_dense, from_faiss, load_map, save, to_dense, to_faiss
from linalign_lite.commands import main
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.space import Space
from linalign_lite.errors import FormatError, InputError, OutputExistsError


def made(d_out=5, d_in=3, dtype="f4", seed=0):
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(d_out, d_in)), rng.normal(size=d_out)
    spaces = Space(d_in, "ab" * 32, "birch", "mean"), Space(d_out, "cd" * 32, "ash", "mean", True)
    return AffineMap(weight.astype(dtype), bias.astype(dtype), *spaces, {"method": "ridge"})


def same(a, b):
    return np.array_equal(a.weight, b.weight) and np.array_equal(a.bias, b.bias)


def in_float32(affine):
    return AffineMap(affine.weight.astype("f4"), affine.bias.astype("f4"))


MAPS = st.builds(
    made,
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(["f2", "f4", "f8"]),
    st.integers(0, 99),
)
COMMON = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(MAPS)
@COMMON
def test_a_linear_transform_keeps_the_map(tmp_path, affine):
    to_faiss(tmp_path / "x.faiss", affine)
    back = from_faiss(tmp_path / "x.faiss")
    assert same(back, in_float32(affine))
    assert back.source == Space(affine.source.dim)
    to_faiss(tmp_path / "y.faiss", back)
    assert (tmp_path / "x.faiss").read_bytes() == (tmp_path / "y.faiss").read_bytes()


@given(MAPS)
@COMMON
def test_a_dense_module_keeps_the_map_its_spaces_and_its_card(tmp_path_factory, affine):
    pytest.importorskip("safetensors")
    folder = tmp_path_factory.mktemp("dense")
    to_dense(folder, affine)
    back = from_dense(folder)
    assert same(back, in_float32(affine))
    assert (back.source, back.target) == (affine.source, affine.target)
    assert back.card["method"] == "ridge"


def test_faiss_reads_what_is_written(tmp_path):
    faiss = pytest.importorskip("faiss")
    affine, path = made(7, 4), str(tmp_path / "x.faiss")
    to_faiss(path, affine)
    transform = faiss.read_VectorTransform(path)
    assert (transform.d_in, transform.d_out, transform.is_trained) == (4, 7, True)
    states = np.random.default_rng(1).normal(size=(50, 4)).astype("f4")
    np.testing.assert_allclose(transform.apply(states), affine(states), atol=1e-5)
    faiss.write_VectorTransform(transform, str(tmp_path / "y.faiss"))
    assert (tmp_path / "y.faiss").read_bytes() == (tmp_path / "x.faiss").read_bytes()
    index = faiss.IndexPreTransform(transform, faiss.IndexFlatIP(7))
    target = np.random.default_rng(2).normal(size=(30, 7)).astype("f4")
    index.index.add(target)
    index.ntotal = index.index.ntotal
    best = (affine(states) @ target.T).argmax(axis=1)
    assert np.array_equal(index.search(states, 1)[1][:, 0], best)


@pytest.mark.parametrize("bias", [True, False])
def test_transforms_that_faiss_writes_are_read(tmp_path, bias):
    faiss = pytest.importorskip("faiss")
    affine, path = made(6, 3), str(tmp_path / "x.faiss")
    transform = faiss.LinearTransform(3, 6, bias)
    faiss.copy_array_to_vector(affine.weight.ravel(), transform.A)
    if bias:
        faiss.copy_array_to_vector(affine.bias, transform.b)
    transform.is_trained = True
    faiss.write_VectorTransform(transform, path)
    assert same(from_faiss(path), affine if bias else AffineMap(affine.weight, np.zeros(6, "f4")))
    transform.is_trained = False
    faiss.write_VectorTransform(transform, path)
    with pytest.raises(FormatError, match="not trained"):
        from_faiss(path)
    for other in (faiss.RandomRotationMatrix(4, 3), faiss.PCAMatrix(4, 3)):
        faiss.write_VectorTransform(other, path)
        with pytest.raises(FormatError, match="not a LinearTransform of FAISS"):
            from_faiss(path)


def test_altered_transforms_are_refused(tmp_path):
    path = tmp_path / "x.faiss"
    to_faiss(path, made(2, 3))
    raw = path.read_bytes()
    count = struct.Struct("<Q")
    altered = [raw[:n] for n in range(len(raw))] + [raw + b"\1", raw + raw]
    altered += [raw[:4] + b"\0" + raw[5:], raw[:4] + b"\2" + raw[5:], raw[:-1] + b"\0"]
    altered += [raw[:5] + count.pack(n) + raw[13:] for n in (0, 5, 7, 1 << 40, (1 << 64) - 1)]
    altered += [raw[:37] + count.pack(n) + raw[45:] for n in (0, 1, 3, 1 << 62)]
    sizes = ((3, 1), (-3, -2), (2, 3), (0, 2), (6, 1), (1 << 30, 2))
    altered += [raw[:-9] + struct.pack("<ii", *s) + raw[-1:] for s in sizes]
    altered += [raw[:13] + struct.pack("<f", x) + raw[17:] for x in (np.nan, np.inf)]
    for data in altered:
        path.write_bytes(data)
        with pytest.raises(FormatError):
            from_faiss(path)
    with pytest.raises(InputError, match="cannot read"):
        from_faiss(tmp_path / "none.faiss")


@pytest.fixture
def modules():
    return pytest.importorskip("sentence_transformers.sentence_transformer.modules")


def saved(module, folder):
    folder.mkdir()
    module.save(str(folder))


def test_sentence_transformers_loads_what_is_written(tmp_path, modules):
    import torch

    affine = made(7, 4, "f8")
    to_dense(tmp_path / "dense", affine)
    dense = modules.Dense.load(str(tmp_path / "dense"))
    states = np.random.default_rng(1).normal(size=(50, 4)).astype("f4")
    with torch.no_grad():
        out = dense({"sentence_embedding": torch.from_numpy(states)})["sentence_embedding"]
    np.testing.assert_allclose(out.numpy(), affine(states), atol=1e-5)
    saved(dense, tmp_path / "again")
    assert same(from_dense(tmp_path / "again"), in_float32(affine))


def test_a_model_with_the_module_gives_mapped_vectors(tmp_path, modules):
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "dog": 1, "ran": 2, "?": 3}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    static = modules.StaticEmbedding(tokenizer, embedding_dim=4)
    affine, texts = made(7, 4), ["a dog", "ran", "a dog ran ?"]
    to_dense(tmp_path / "dense", affine)
    plain = SentenceTransformer(modules=[static], device="cpu").encode(texts)
    dense = modules.Dense.load(str(tmp_path / "dense"))
    SentenceTransformer(modules=[static, dense], device="cpu").save(str(tmp_path / "model"))
    mapped = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(texts)
    np.testing.assert_allclose(mapped, affine(plain), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bias", [True, False])
def test_modules_of_others_are_read(tmp_path, modules, bias, dtype):
    import torch

    dense = modules.Dense(4, 7, bias, torch.nn.Identity()).to(getattr(torch, dtype))
    saved(dense, tmp_path / "x")
    affine = from_dense(tmp_path / "x")
    assert np.array_equal(affine.weight, dense.linear.weight.detach().float().numpy())
    expected = dense.linear.bias.detach().float().numpy() if bias else np.zeros(7, "f4")
    assert np.array_equal(affine.bias, expected)
    saved(modules.Dense(4, 7), tmp_path / "tanh")
    with pytest.raises(FormatError, match="no affine map: got tanh"):
        from_dense(tmp_path / "tanh")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def with_card(folder, **changes):
    """Write the weights anew, with fields of the card changed."""
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    with safe_open(path, framework="numpy") as f:
        card = json.loads(f.metadata()["linalign"]) | changes
    save_file(load_file(path), path, metadata={"linalign": json.dumps(card)})


def with_weights(folder, **arrays):
    from safetensors.numpy import save_file

    save_file(arrays, folder / "model.safetensors")


W, B = np.ones((5, 3), "f4"), np.ones(5, "f4")
ALTERED = {
    "no object": (lambda f: (f / "config.json").write_text("[]"), "is not an object"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "not a usable Dense module"),
    "deep": (lambda f: (f / "config.json").write_text("[" * 99999), "not a usable Dense module"),
    "long": (
        lambda f: (f / "config.json").write_text(" " * (1 << 20) + "{}"),
        "not a usable Dense module",
    ),
    "another shape": (lambda f: edit_config(f, in_features=4), "does not fit its config.json"),
    "no number": (lambda f: edit_config(f, in_features="3"), "does not fit its config.json"),
    "somebody's activation": (
        lambda f: edit_config(f, activation_function="os.system"),
        "the activation of x cannot be exported: got os.system",
    ),
    "another feature": (
        lambda f: edit_config(f, module_input_name="token_embeddings"),
        "does not work on the embedding alone",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "weights of the module x are"),
    "no tensors": (
        lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 99),
        "not a readable file of weights",
    ),
    "cut": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-1]
        ),
        "not a readable file of weights",
    ),
    "no bias": (lambda f: with_weights(f, **{"linear.weight": W}), "lacks the weight linear.bias"),
    "NaN": (
        lambda f: with_weights(f, **{"linear.weight": W * np.nan, "linear.bias": B}),
        "linear.weight of x is not finite",
    ),
    "beyond float32": (
        lambda f: with_weights(
            f, **{"linear.weight": W * 1.0, "linear.bias": B * np.float64(1e300)}
        ),
        "linear.bias of x is not finite",
    ),
    "a space of another size": (
        lambda f: with_card(f, source={**vars(Space(4)), "dim": 4}),
        "space does not fit",
    ),
    "a newer card": (lambda f: with_card(f, version=2), "unknown version"),
    "another card": (lambda f: with_card(f, format="linalign-head"), "is not a map"),
    "no space": (lambda f: with_card(f, source=None), "source"),
}


@pytest.mark.parametrize("case", ALTERED)
def test_altered_modules_are_refused(tmp_path, case):
    pytest.importorskip("safetensors")
    folder = tmp_path / "x"
    to_dense(folder, made())
    change, problem = ALTERED[case]
    change(folder)
    with pytest.raises(FormatError, match=problem):
        from_dense(folder)


def test_nothing_is_left_or_overwritten(tmp_path):
    pytest.importorskip("safetensors")
    large = AffineMap(np.full((2, 2), 1e300), np.zeros(2))
    for write in (to_dense, to_faiss):
        with pytest.raises(InputError, match="beyond float32"):
            write(tmp_path / "x", large)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("")
    with pytest.raises(OutputExistsError):
        to_dense(tmp_path / "x", made())
    assert [p.name for p in tmp_path.rglob("*")] == ["x", "mine"]


def test_torch_is_not_needed(tmp_path):
    pytest.importorskip("safetensors")
    to_dense(tmp_path / "x", made())
    code = f"""import sys
sys.modules["torch"] = None
import linalign_lite as la
la.to_dense({str(tmp_path / "y")!r}, la.from_dense({str(tmp_path / "x")!r}))
sys.modules["safetensors"] = sys.modules["safetensors.numpy"] = None
try:
    la.from_dense({str(tmp_path / "x")!r})
except la.MissingExtraError as e:
    print(e)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'linalign-lite[safetensors]'" in done.stdout
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


def test_the_commands_write_and_read_both_forms(tmp_path, capsys):
    pytest.importorskip("safetensors")
    affine, at = made(), {n: str(tmp_path / n) for n in ("a.map.npz", "dense", "x.faiss", "b.npz")}
    save(at["a.map.npz"], affine)
    for name in ("dense", "x.faiss"):
        form = name.removeprefix("x.")
        assert main(["onnx", at["a.map.npz"], at[name], "--form", form, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["dim"], found["outputs"]) == (3, 5)
        assert main(["from-onnx", at[name], at["b.npz"]]) == 0
        assert "affine map, 3 dimensions to 5, float32" in capsys.readouterr().out
        back = load_map(at["b.npz"])
        assert same(back, affine)
        assert (back.target == affine.target) == (form == "dense")


def test_wrong_use_of_the_commands_is_named(tmp_path, capsys):
    pytest.importorskip("safetensors")
    save(tmp_path / "a.map.npz", made())
    save(tmp_path / "a.head.npz", Head(np.eye(3), np.zeros(3)))
    to_faiss(tmp_path / "a.faiss", made())
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    before = sorted(tmp_path.rglob("*"))
    for words, said in (
        ("onnx a.head.npz x --form dense", "expected format linalign-map"),
        ("onnx a.map.npz x --form faiss --dtype fp16", "take no other options"),
        ("onnx a.map.npz x --form dense --map a.map.npz", "take no other options"),
        ("onnx a.map.npz full --form dense", "not an empty folder"),
        ("onnx a.map.npz a.map.npz --form faiss", "is an input of this command"),
        ("onnx a.map.npz none/x --form dense", "the folder .*none is not there"),
        ("from-onnx a.faiss x --kind head", "of another kind: got map"),
        ("from-onnx empty x", "cannot read .*config.json"),
    ):
        command, *rest = words.split()
        paths = [w if w.startswith("-") or w in ("dense", "faiss", "fp16", "head") else
                 str(tmp_path / w) for w in rest]  # fmt: skip
        assert main([command, *paths]) == 2
        err = capsys.readouterr().err
        assert re.search(said, err), err
    assert sorted(tmp_path.rglob("*")) == before
