"""Dimensions of a graph, computed once: the same outputs from fewer nodes."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from linalign_lite.onnx.dimensions import share_dimensions

DIM = 8


def layered(layers: int, opset: int = 17) -> onnx.ModelProto:
    """x (batch, length, 8), each layer reshaped to heads and back, by shapes read from its input.

    As exporters write it; the last dimension is read too, and is a constant.
    """
    nodes, weights, name = [], [], "x"
    for i in range(layers):
        weight = np.random.default_rng(i).normal(size=(DIM, DIM)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [name, f"w{i}"], [f"p{i}"]))
        for axis in range(3):
            nodes += [
                helper.make_node("Shape", [f"p{i}"], [f"s{i}{axis}"]),
                helper.make_node("Gather", [f"s{i}{axis}", f"axis{axis}"], [f"d{i}{axis}"]),
                helper.make_node("Unsqueeze", [f"d{i}{axis}", "zero"], [f"u{i}{axis}"]),
            ]
        nodes += [
            helper.make_node("Concat", [f"u{i}0", f"u{i}1", "two", "four"], [f"to{i}"], axis=0),
            helper.make_node("Reshape", [f"p{i}", f"to{i}"], [f"h{i}"]),
            helper.make_node("Relu", [f"h{i}"], [f"r{i}"]),
            helper.make_node("Concat", [f"u{i}0", f"u{i}1", f"u{i}2"], [f"back{i}"], axis=0),
            helper.make_node("Reshape", [f"r{i}", f"back{i}"], [f"y{i}"]),
        ]
        name = f"y{i}"
    numbers = {"axis0": 0, "axis1": 1, "axis2": 2, "zero": [0], "two": [2], "four": [4]}
    weights += [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in numbers.items()]
    value = helper.make_tensor_value_info
    x = value("x", TensorProto.FLOAT, ["batch", "length", DIM])
    y = value(name, TensorProto.FLOAT, ["batch", "length", DIM])
    graph = helper.make_graph(nodes, "layers", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), None, ["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def kinds(model: onnx.ModelProto) -> Counter:
    return Counter(node.op_type for node in model.graph.node)


def test_the_outputs_stay_and_the_shapes_go():
    model = layered(5)
    x = np.random.default_rng(7).normal(size=(2, 3, DIM)).astype(np.float32)
    before = run(model, x)
    assert share_dimensions(model) == 15
    onnx.checker.check_model(model)
    assert np.array_equal(run(model, x), before)
    assert kinds(model)["Shape"] == kinds(model)["Gather"] == 2  # batch and length, once
    assert run(model, x[:1, :1]).shape == (1, 1, DIM)
    assert share_dimensions(model) == 0  # once is enough, as for an export that is imported again


def test_weights_that_are_only_declared_are_no_obstacle():
    model = layered(2)
    weight = next(t for t in model.graph.initializer if t.name == "w0")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    assert share_dimensions(model) == 6


def test_a_dimension_that_is_not_an_inputs_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = layered(1)
    squeezed = helper.make_node("NonZero", ["x"], ["found"])  # as many columns as the data say
    shape = helper.make_node("Shape", ["found"], ["found shape"])
    count = helper.make_node("Gather", ["found shape", "axis1"], ["count"])
    model.graph.node.extend([squeezed, shape, count])
    model.graph.output.append(helper.make_tensor_value_info("count", TensorProto.INT64, []))
    share_dimensions(model)
    assert any(node.output[0] == "count" for node in model.graph.node)
    assert not list(tmp_path.iterdir())  # onnxruntime's inference is prone to leave a file


def test_a_graph_that_is_not_understood_stays(monkeypatch: pytest.MonkeyPatch):
    from onnxruntime.tools import symbolic_shape_infer

    def fail(*_: object) -> None:
        raise RuntimeError("an operator without a rule")

    monkeypatch.setattr(symbolic_shape_infer.SymbolicShapeInference, "_infer_impl", fail)
    model = layered(2)
    before = model.SerializeToString(deterministic=True)
    assert share_dimensions(model) == 0
    assert model.SerializeToString(deterministic=True) == before


def test_an_output_of_the_graph_keeps_its_name():
    model = layered(1)
    model.graph.output.append(helper.make_tensor_value_info("d00", TensorProto.INT64, []))
    share_dimensions(model)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), None, ["CPUExecutionProvider"]
    )
    assert session.run(["d00"], {"x": np.zeros((4, 2, DIM), np.float32)})[0] == 4
