"""Cut the token heads off hand-made graphs, and import an exported folder without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linalign_lite.core.head import Head
from linalign_lite.core.serialization import load_head
from linalign_lite.errors import InputError, OutputExistsError
from linalign_lite.extraction.model_card import load_card
from linalign_lite.onnx import graph_edit
from linalign_lite.onnx.cut_token_head import cut_graph
from linalign_lite.onnx.import_exported import split_exported
from linalign_lite.onnx.torch_model import quiet

onnx = pytest.importorskip("onnx")
helper, TensorProto, numpy_helper = onnx.helper, onnx.TensorProto, onnx.numpy_helper

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.export

VOCAB, WIDTH = 263, 16
RNG = np.random.default_rng(5)
EMBED = RNG.normal(size=(VOCAB, WIDTH)).astype(np.float32)
WEIGHT = RNG.normal(size=(VOCAB, WIDTH)).astype(np.float32)
BIAS = RNG.normal(size=VOCAB).astype(np.float32)

Made = tuple[list[Any], dict[str, Any]]


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, [output], name=f"{kind} of {output}", **attributes)


def matmul(output: str = "logits") -> Made:
    return [node("MatMul", ["state", "head"], output)], {"head": np.ascontiguousarray(WEIGHT.T)}


def scaled(kind: str, value: float) -> Made:
    nodes, weights = matmul("raw")
    return [*nodes, node(kind, ["raw", "c"], "logits")], {**weights, "c": np.float32(value)}


def with_bias() -> Made:
    nodes, weights = matmul("raw")
    return [*nodes, node("Add", ["bias", "raw"], "logits")], {**weights, "bias": BIAS}


def tied() -> Made:
    nodes = [node("Transpose", ["embed"], "head", perm=[1, 0])]
    return [*nodes, node("MatMul", ["state", "head"], "logits")], {}


def gemm() -> Made:
    nodes = [
        node("Reshape", ["state", "flat_shape"], "flat"),
        node("Gemm", ["flat", "head", "bias"], "raw", transB=1, alpha=0.5, beta=2.0),
        node("Reshape", ["raw", "full_shape"], "logits"),
    ]
    shapes = {"flat_shape": np.array([-1, WIDTH]), "full_shape": np.array([1, -1, VOCAB])}
    return nodes, {"head": WEIGHT, "bias": BIAS, **shapes}


def softcap() -> Made:
    nodes, weights = matmul("raw")
    nodes += [
        node("Div", ["raw", "c"], "small"),
        node("Tanh", ["small"], "bent"),
        node("Mul", ["bent", "c"], "logits"),
    ]
    return nodes, {**weights, "c": np.float32(3)}


def odd_softcap() -> Made:
    """A cap with two different constants, after a bias: the scale goes into the head."""
    nodes, weights = matmul("raw")
    nodes += [
        node("Add", ["raw", "bias"], "moved"),
        node("Mul", ["moved", "a"], "small"),
        node("Tanh", ["small"], "bent"),
        node("Mul", ["bent", "b"], "logits"),
    ]
    return nodes, {**weights, "bias": BIAS, "a": np.float32(0.2), "b": np.float32(7)}


def casts() -> Made:
    nodes = [
        node("Cast", ["state"], "narrow", to=TensorProto.FLOAT16),
        node("MatMul", ["narrow", "head"], "raw"),
        node("Cast", ["raw"], "logits", to=TensorProto.FLOAT),
    ]
    return nodes, {"head": np.ascontiguousarray(WEIGHT.T.astype(np.float16))}


def last_position() -> Made:
    nodes = [
        node("Slice", ["state", "from", "to", "axes"], "end"),
        node("MatMul", ["end", "head"], "logits"),
    ]
    numbers = {"from": np.array([-1]), "to": np.array([2**40]), "axes": np.array([1])}
    return nodes, {"head": np.ascontiguousarray(WEIGHT.T), **numbers}


def subtracted() -> Made:
    nodes, weights = matmul("raw")
    return [*nodes, node("Sub", ["raw", "bias"], "logits")], {**weights, "bias": BIAS}


TAILS: dict[str, tuple[Made, float | None]] = {
    "MatMul": (matmul(), None),
    "MatMul+Add": (with_bias(), None),
    "Sub": (subtracted(), None),
    "Gemm": (gemm(), None),
    "Transpose": (tied(), None),
    "Mul": (scaled("Mul", 0.25), None),
    "Div": (scaled("Div", 8.0), None),
    "softcap": (softcap(), 3.0),
    "odd softcap": (odd_softcap(), 7.0),
    "Cast": (casts(), None),
    "last position": (last_position(), None),
}


def build(made: Made) -> Any:
    """Graph from ids to embedding, ×2 (the "final norm") and token head, with an unused weight."""
    nodes, weights = made
    body = [
        node("Gather", ["embed", "input_ids"], "embedded"),
        node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "last"], "mask3"),
        node("Mul", ["embedded", "mask3"], "masked"),
        node("Add", ["masked", "masked"], "state"),
        node("Relu", ["logits"], "not wanted"),
    ]
    half = np.asarray(weights.get("head")).dtype == np.float16
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    weights = {"embed": EMBED, "last": np.array([2]), **weights}
    graph = helper.make_graph(
        [*body[:-1], *nodes, body[-1]],
        "made by hand",
        [
            helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "l"])
            for n in graph_edit.ID_INPUTS[:2]
        ],
        [
            helper.make_tensor_value_info("not wanted", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()],
        value_info=[helper.make_tensor_value_info("raw", kind, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model: Any, ids: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize("tail", TAILS)
def test_tail_becomes_head(tail: str) -> None:
    made, cap = TAILS[tail]
    ids = np.array([[3, 1, 4, 1, 5]])
    model = build(made)
    want = run(model, ids)["logits"]
    cut = cut_graph(model, {})
    onnx.checker.check_model(model, full_check=True)

    assert [o.name for o in model.graph.output] == ["last_hidden_state"]
    assert [i.name for i in model.graph.input] == ["input_ids", "attention_mask"]
    assert {t.name for t in model.graph.initializer} == {"embed", "last"}
    assert len(model.graph.node) == 5 + (tail == "Cast")
    assert not model.graph.value_info
    states = run(model, ids)["last_hidden_state"]
    assert np.array_equal(states, 2 * EMBED[ids])

    assert cut.head is not None
    assert cut.hidden_size == WIDTH
    assert cut.head.weight.shape == (VOCAB, WIDTH)
    assert cut.head.softcap == (None if cap is None else pytest.approx(cap))
    scores = cut.head.apply(states[0])
    assert np.abs(scores[-want.shape[1] :] - want[0]).max() <= (0.05 if tail == "Cast" else 2e-5)


def test_exact_soft_cap_leaves_the_weight_alone() -> None:
    cut = cut_graph(build(softcap()), {})
    assert cut.head is not None
    assert np.array_equal(cut.head.weight, WEIGHT)
    assert cut.head.softcap == 3.0


def after_matmul(kind: str, *more: str, **attributes: Any) -> Made:
    nodes, weights = matmul("raw")
    return [*nodes, node(kind, ["raw", *more], "logits", **attributes)], {**weights, "c": BIAS}


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (after_matmul("Softmax"), "Softmax"),
        (after_matmul("Mul", "c"), "Mul"),
        (after_matmul("Mul", "raw"), "Mul"),
        (after_matmul("Gather", "one", axis=2), "Gather"),
        (([node("MatMul", ["state", "turned"], "logits"),
           node("Transpose", ["state"], "turned", perm=[0, 2, 1])][::-1], {}), "MatMul"),
        (([node("Identity", ["attention_mask"], "logits")], {}), "attention_mask"),
    ],
)  # fmt: skip
def test_unknown_operation_is_named(made: Made, named: str) -> None:
    nodes, weights = made
    with pytest.raises(InputError, match=named) as caught:
        cut_graph(build((nodes, {**weights, "one": np.array([1])})), {})
    assert "got" in str(caught.value)


def test_softcap_then_bias_is_refused() -> None:
    nodes, weights = softcap()
    nodes[-1].output[0] = "capped"
    with pytest.raises(InputError, match="Add"):
        cut_graph(build(([*nodes, node("Add", ["capped", "c"], "logits")], weights)), {})


def test_neither_states_nor_logits() -> None:
    model = build(matmul())
    del model.graph.output[1]
    with pytest.raises(InputError, match=r"got outputs not wanted, expected last_hidden_state"):
        cut_graph(model, {})


def test_unknown_input_is_named() -> None:
    model = build(matmul())
    graph_edit.rename(model.graph, "attention_mask", "pixels")
    model.graph.input[1].name = "pixels"
    with pytest.raises(InputError, match="pixels"):
        cut_graph(model, {})


def test_branches_are_followed() -> None:
    """Tensors that only a branch of an If reads are kept, and renamed there too."""
    nodes, weights = matmul()
    branches = {
        f"{side}_branch": helper.make_graph(
            [helper.make_node(kind, ["state", "extra"], ["branch"])],
            side,
            [],
            [helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)],
        )
        for side, kind in (("then", "Add"), ("else", "Sub"))
    }
    nodes = [helper.make_node("If", ["yes"], ["present.0.key"], **branches), *nodes]
    model = build((nodes, {**weights, "yes": np.array(True), "extra": np.float32(1)}))
    model.graph.output.append(
        helper.make_tensor_value_info("present.0.key", TensorProto.FLOAT, ["b", "l", WIDTH])
    )
    cut_graph(model, {})
    result = run(model, np.array([[3, 1]]))
    assert sorted(result) == ["last_hidden_state", "present.0.key"]
    assert np.array_equal(result["present.0.key"], result["last_hidden_state"] + 1)


def test_a_stored_tensor_is_renamed_with_its_readers() -> None:
    nodes, weights = matmul()
    model = build((nodes, weights))
    before = run(model, np.array([[3, 1]]))
    for tensor in list(model.graph.initializer):
        graph_edit.rename(model.graph, tensor.name, f"{tensor.name}__inner")
    assert all(t.name.endswith("__inner") for t in model.graph.initializer)
    after = run(model, np.array([[3, 1]]))
    assert all(np.array_equal(after[name], value) for name, value in before.items())


def test_int32_ids_and_half_states_become_standard() -> None:
    model = build(casts())
    for value in model.graph.input:
        value.type.tensor_type.elem_type = TensorProto.INT32
    del model.graph.output[:]
    model.graph.node.append(node("Identity", ["narrow"], "last_hidden_state"))
    model.graph.output.append(
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT16, ["b", "l", WIDTH])
    )
    cut = cut_graph(model, {})
    graph_edit.set_standard_types(model)
    assert cut.head is None
    ids = np.array([[7, 8]])
    states = run(model, ids)["last_hidden_state"]
    assert states.dtype == np.float32
    assert np.abs(states - 2 * EMBED[ids]).max() < 0.01


@pytest.fixture
def folder(tmp_path: Path, tiny_tokenizer: Callable[[Path], int]) -> Path:
    """An ONNX folder of another exporter: a biased head, a tokenizer, a config."""
    pytest.importorskip("transformers")
    folder = tmp_path / "theirs"
    (folder / "onnx").mkdir(parents=True)
    onnx.save(build(with_bias()), folder / "onnx" / "model.onnx")
    tiny_tokenizer(folder)
    config = {"model_type": "made", "vocab_size": VOCAB, "max_position_embeddings": 40}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def split_and_check(source: Path, out: Path, **settings: Any) -> Head:
    card = split_exported(source, out, **settings)
    assert load_card(out) == card
    assert card.parity["logits_max_abs"] <= 1e-4
    return load_head(out / "token_head.head.npz")


def test_split_exported(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    head = split_and_check(folder, tmp_path / "out", name="theirs-cut", progress=said.append)
    assert np.array_equal(head.weight, WEIGHT)
    assert np.array_equal(head.bias, BIAS)
    assert said == ["loading", "cutting off the token head", "checking 8 texts"]
    card = load_card(tmp_path / "out")
    assert (card.name, card.max_length, card.architecture) == ("theirs-cut", 40, "made")
    with pytest.raises(OutputExistsError):
        split_exported(folder, tmp_path / "out")


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_split_exported_half(folder: Path, tmp_path: Path, limit: int) -> None:
    head = split_and_check(folder, tmp_path / "out", dtype="fp16", one_file_limit=limit)
    assert np.array_equal(head.weight, WEIGHT.astype(np.float16))
    assert head.weight.dtype == np.float16
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    data = ["model.onnx_data"] if limit == 0 else []
    assert names == ["card.json", "model.onnx", *data, "token_head.head.npz", "tokenizer.json"]
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert model.graph.initializer[0].data_type == TensorProto.FLOAT16


def test_split_refuses_unreadable_folders(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    graph = folder / "onnx" / "model.onnx"
    graph.rename(folder / "onnx" / "decoder_model_merged.onnx")
    with pytest.raises(InputError, match=r"has no model\.onnx: got onnx/decoder_model_merged"):
        split_exported(folder, out)
    graph.write_bytes(b"not a graph")
    with pytest.raises(InputError, match="not a readable ONNX model"):
        split_exported(folder, out)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        split_exported(folder, out)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="is not a folder"):
        split_exported(folder, out)
    assert list(tmp_path.iterdir()) == []


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "optimum", "huggingface_hub"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
from pathlib import Path
from linalign_lite.onnx import model_export  # importing it needs nothing heavy either
from linalign_lite.onnx.import_exported import split_exported
assert "onnx" not in sys.modules and "onnxruntime" not in sys.modules
card = split_exported(Path(sys.argv[1]), Path(sys.argv[2]))
print(card.task, card.parity["logits_max_abs"] <= 1e-4, "torch" in sys.modules)
"""


def test_split_exported_without_torch(folder: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", BLOCKED, str(folder), str(tmp_path / "out")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["generate", "True", "False"]


def test_split_of_an_optimum_folder(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """The output of `optimum-cli export onnx` and its import agree with the direct export."""
    transformers = pytest.importorskip("transformers")
    optimum = pytest.importorskip("optimum.exporters.onnx")
    model = tiny(transformers.LlamaConfig, transformers.LlamaForCausalLM)
    theirs = tmp_path / "theirs"
    with quiet():
        optimum.main_export(
            str(model), theirs, task="text-generation-with-past", do_validation=False
        )
    card = split_exported(theirs, tmp_path / "out")
    assert card.architecture == "LlamaForCausalLM"
    assert len(card.past) == 4
    assert card.parity["decode_max_abs"] <= 1e-4
    again = tmp_path / "again"
    with pytest.raises(InputError, match="exported model already"):
        split_exported(tmp_path / "out", again)
