"""Maps and heads as ONNX: onnxruntime agrees with NumPy, and files are read back."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT

from linalign_lite import from_onnx, load_head, load_map, to_onnx
from linalign_lite.commands.describe_file import describe
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError, MismatchError, MissingExtraError, ParityError
from linalign_lite.onnx import export_linear
from linalign_lite.onnx.metadata import read_card

onnx = pytest.importorskip("onnx")
GOLDEN = ROOT / "tests" / "golden"
SOURCE = Space(24, "ab" * 32, "birch", "mean")
TARGET = Space(16, "cd" * 32, "ash", "mean", normalize=True)
LABELS = ("no", "yes", "vielleicht, möglich")


def made(rng, kind, dtype=np.float64):
    first = AffineMap(rng.normal(size=(16, 24)).astype(dtype), rng.normal(size=16).astype(dtype),
                      SOURCE, TARGET, {"method": "ridge", "n": 7})  # fmt: skip
    weight, bias = rng.normal(size=(3, 16)).astype(dtype), rng.normal(size=3).astype(dtype)
    head = Head(weight, bias, LABELS, TARGET, card={"method": "ridge"})
    capped = Head(weight, bias, LABELS, TARGET, 2.5)
    return {"map": first, "head": head, "softcap": capped, "folded": head @ first,
            "both": capped @ first}[kind]  # fmt: skip


KINDS = ("map", "head", "softcap", "folded", "both")


def run(path, states):
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["states"]
    assert [o.name for o in session.get_outputs()] in (["mapped"], ["scores"])
    return session.run(None, {"states": states})[0]


@pytest.mark.parametrize("n", [1, 5, 300])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "within"), [("fp32", 1e-5), ("fp16", 4e-3), ("int8", 0.2)])
def test_onnxruntime_agrees_with_numpy(tmp_path, rng, kind, dtype, within, n):
    thing = made(rng, kind)
    to_onnx(tmp_path / "x.onnx", thing, dtype=dtype)
    states = rng.normal(size=(n, 24 if kind in ("map", "folded", "both") else 16))
    want = thing.apply(states)
    got = run(tmp_path / "x.onnx", states.astype(np.float32))
    assert got.dtype == np.float32
    assert np.abs(got - want).max() <= within * np.abs(want).max()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_valid_onnx_of_the_stated_opset_and_one_gemm(tmp_path, rng, kind):
    made_here = to_onnx(tmp_path / "x.onnx", made(rng, kind))
    model = onnx.load(tmp_path / "x.onnx")
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", made_here.opset)]
    kinds = [n.op_type for n in model.graph.node]
    assert kinds == ["Gemm"] + ["Div", "Tanh", "Mul"] * (kind in ("softcap", "both"))
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_same_input_same_file(tmp_path, rng, kind, dtype):
    thing = made(rng, kind)
    for name in ("a.onnx", "b.onnx"):
        to_onnx(tmp_path / name, thing, dtype=dtype)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_card_travels(tmp_path, rng):
    to_onnx(tmp_path / "x.onnx", made(rng, "both"), dtype="fp16")
    model = onnx.load(tmp_path / "x.onnx")
    card = json.loads({p.key: p.value for p in model.metadata_props}["linalign"])
    assert card == read_card(tmp_path / "x.onnx")
    assert (card["kind"], card["dtype"], card["opset"]) == ("head", "fp16", 17)
    assert card["states"]["name"] == "birch"
    assert card["scores"] == {"n": 3, "labels": list(LABELS), "softcap": 2.5}
    assert card["info"]["of"][1] == {"method": "ridge", "n": 7}


def test_the_size_is_that_of_the_weights(tmp_path, rng):
    """The size is within 1 % for 384 dimensions and 150 outputs, without labels."""
    head = Head(rng.normal(size=(150, 384)), rng.normal(size=150), space=Space(384))
    for dtype, width in (("fp32", 4), ("fp16", 2)):
        size = to_onnx(tmp_path / "x.onnx", head, dtype=dtype).size
        weights = width * 150 * 384 + 4 * 150
        assert weights < size == (tmp_path / "x.onnx").stat().st_size < 1.01 * weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_and_back(tmp_path, rng, kind, dtype):
    """Weights and card are read back unchanged if float16 or float32 can hold the weights."""
    thing = made(rng, kind, np.float16 if kind in ("map", "head", "softcap") else np.float32)
    if dtype == "fp16":  # a product is not float16 without loss; then compare with what is
        thing = dataclasses.replace(thing, weight=thing.weight.astype(np.float16))
    to_onnx(tmp_path / "x.onnx", thing, dtype=dtype)
    back = from_onnx(tmp_path / "x.onnx")
    assert type(back) is type(thing)
    np.testing.assert_array_equal(back.weight, thing.weight)
    np.testing.assert_array_equal(back.bias, thing.bias)
    assert json.dumps(back.card) == json.dumps(thing.card)
    if isinstance(thing, Head):
        assert (back.labels, back.space, back.softcap) == (thing.labels, thing.space, thing.softcap)
    else:
        assert (back.source, back.target) == (SOURCE, TARGET)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 9), d=st.integers(1, 300), seed=st.integers(0, 99),
    cap=st.none() | st.floats(0.5, 100, width=32), half=st.booleans(),
)  # fmt: skip
def test_any_head_comes_back(tmp_path_factory, n, d, seed, cap, half):
    rng = np.random.default_rng(seed)
    dtype = np.float16 if half else np.float32
    head = Head(
        rng.normal(size=(n, d)).astype(dtype), rng.normal(size=n).astype(dtype), softcap=cap
    )
    path = tmp_path_factory.mktemp("any") / "x.onnx"
    to_onnx(path, head, dtype="fp16" if half else "fp32")
    back = from_onnx(path)
    np.testing.assert_array_equal(back.weight, head.weight)
    np.testing.assert_array_equal(back.bias, head.bias)
    assert back.softcap == cap


def test_weights_beside_the_graph(tmp_path, rng):
    """Weights above the limit, a low one here, go to a file of their own."""
    thing = made(rng, "map", np.float32)
    for dtype in ("fp32", "fp16", "int8"):
        made_here = to_onnx(tmp_path / "x.onnx", thing, dtype=dtype, one_file_limit=100)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["x.onnx", "x.onnx_data"]
        assert made_here.size == sum(p.stat().st_size for p in tmp_path.iterdir())
    to_onnx(tmp_path / "x.onnx", thing, one_file_limit=100)
    states = rng.normal(size=(3, 24)).astype(np.float32)
    want = thing.apply(states)
    np.testing.assert_allclose(run(tmp_path / "x.onnx", states), want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(from_onnx(tmp_path / "x.onnx").weight, thing.weight)
    assert describe(tmp_path / "x.onnx")["kind"] == "ONNX map"


# --- errors ---------------------------------------------------------------------------------------


def test_int8_beyond_the_limit_is_refused(tmp_path, rng):
    with pytest.raises(ParityError, match=r"scores differ too much .*got 0\.\d+ of their size, "
                       r"expected at most 0\.001 \(hint: store it as fp16"):  # fmt: skip
        to_onnx(tmp_path / "x.onnx", made(rng, "head"), dtype="int8", limit=0.001)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("one_file_limit", [10**9, 100])
def test_a_graph_with_other_outputs_is_not_left(tmp_path, rng, monkeypatch, one_file_limit):
    (tmp_path / "x.onnx").write_bytes(b"older")
    real = export_linear.add_linear

    def changed(build, layer, *rest):
        real(build, dataclasses.replace(layer, weight=layer.weight + 0.01), *rest)

    monkeypatch.setattr(export_linear, "add_linear", changed)
    with pytest.raises(ParityError, match="mapped differ too much from NumPy's"):
        to_onnx(tmp_path / "x.onnx", made(rng, "map"), one_file_limit=one_file_limit)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"older"]


def test_it_is_checked_on_the_states_given(tmp_path, rng):
    head = made(rng, "head")
    rows = rng.normal(size=(40, 16)).astype(np.float32)
    rows[0, 0] = 4000  # one dimension sets the scale of all in 8 bits
    with pytest.raises(ParityError, match="differ too much"):
        to_onnx(tmp_path / "x.onnx", head, dtype="int8", states=HiddenStates(rows), limit=0.003)
    to_onnx(tmp_path / "x.onnx", head, states=HiddenStates(rows))
    with pytest.raises(MismatchError, match="do not belong to it: got birch"):
        to_onnx(tmp_path / "x.onnx", head, states=HiddenStates(rng.normal(size=(4, 24)), SOURCE))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "fp8"}, "dtype is not known: got 'fp8', expected fp32, fp16, int8"),
        ({"limit": 0.1}, "a limit is for int8 alone"),
        ({"dtype": "int8", "limit": 2.0}, "above 0 and at most 1: got 2"),
        ({"dtype": "int8", "limit": float("nan")}, "got nan"),
    ],
)
def test_options_that_mean_nothing(tmp_path, rng, options, words):
    with pytest.raises(InputError, match=words):
        to_onnx(tmp_path / "x.onnx", made(rng, "map"), **options)


def test_without_the_extra_it_is_named(tmp_path, rng, monkeypatch):
    to_onnx(tmp_path / "there.onnx", made(rng, "map"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"'linalign-lite\[onnx\]'"):
        to_onnx(tmp_path / "x.onnx", made(rng, "map"))
    with pytest.raises(MissingExtraError, match=r"'linalign-lite\[onnx\]'"):
        from_onnx(tmp_path / "there.onnx")
    assert describe(tmp_path / "there.onnx")["kind"] == "ONNX map"  # needs no extra


# --- files of other exporters and of older versions -----------------------------------------------


@pytest.mark.parametrize("name", ["map", "head"])
def test_golden_files_stay_readable(name):
    back = from_onnx(GOLDEN / f"v1.{name}.onnx")
    want = (load_map if name == "map" else load_head)(GOLDEN / f"v1.{name}.npz")
    np.testing.assert_array_equal(back.weight, want.weight.astype(np.float32))
    np.testing.assert_array_equal(back.bias, want.bias.astype(np.float32))
    assert dict(back.card) == dict(want.card)


def theirs(path, kind, weight, bias):
    from onnx import TensorProto, helper, numpy_helper

    parts = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    if kind == "Gemm":
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    else:
        parts[0] = numpy_helper.from_array(np.ascontiguousarray(weight.T), "w")
        both = ["b", "z"] if kind == "b+z" else ["z", "b"]
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["z"]),
            helper.make_node("Add", both, ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, weight.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, weight.shape[0]])],
        parts,
    )
    onnx.save(helper.make_model(graph), path)


@pytest.mark.parametrize("kind", ["Gemm", "z+b", "b+z"])
def test_anybodys_gemm_or_matmul_and_add(tmp_path, rng, kind):
    weight, bias = (rng.normal(size=s).astype(np.float32) for s in ((3, 16), 3))
    theirs(tmp_path / "x.onnx", kind, weight, bias)
    with pytest.raises(InputError, match="has no card that states whether it is a map or a head"):
        from_onnx(tmp_path / "x.onnx")
    head = from_onnx(tmp_path / "x.onnx", "head")
    assert isinstance(head, Head)
    np.testing.assert_array_equal(head.weight, weight)
    np.testing.assert_array_equal(head.bias, bias)
    assert isinstance(from_onnx(tmp_path / "x.onnx", "map"), AffineMap)


@pytest.mark.export
def test_what_torch_exports_of_a_linear_layer(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 3)
    torch.onnx.export(layer, (torch.zeros(2, 16),), str(tmp_path / "x.onnx"), dynamo=False,
                      input_names=["x"], dynamic_axes={"x": {0: "batch"}})  # fmt: skip
    head = from_onnx(tmp_path / "x.onnx", "head")
    np.testing.assert_array_equal(head.weight, layer.weight.detach().numpy())
    np.testing.assert_array_equal(head.bias, layer.bias.detach().numpy())
