"""Find, rename, remove and save parts of ONNX graphs. Needs only `onnx` and NumPy.

Models and nodes are the protobuf objects of the `onnx` package and are changed in place.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import InputError, LinalignError, quote_errors
from linalign_lite.extraction.model_card import DATA_FILE, MODEL_FILE, PAST

AnyArray = npt.NDArray[Any]
Weights = Mapping[str, AnyArray]  # values that a graph declares but does not hold
ID_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
ONE_FILE_LIMIT = 2_000_000_000  # bytes of weights; one protobuf holds 2 GiB in all
_EMBEDDED = 1024  # bytes; smaller weights stay in the graph
_PAGE = 4096  # bytes; weights begin at multiples, so that they can be mapped
_BLOCK = 1 << 22  # elements of a weight that are written at once


class GraphIndex:
    """Nodes by the tensors that they compute, and constants by name. Edits make it outdated."""

    def __init__(self, graph: Any, weights: Weights | None = None) -> None:
        self.weights = weights or {}
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}

    def constant(self, name: str) -> AnyArray | None:
        """The value of a tensor that does not depend on any input, or None.

        Looks through Constant, Identity, Cast and Transpose nodes, which is how exporters store
        tied, transposed or float16 weights.
        """
        from onnx import helper, numpy_helper

        if name in self.weights:
            return self.weights[name]
        if name in self.initializers:
            array: AnyArray = numpy_helper.to_array(self.initializers[name])
            return array
        node = self.producers.get(name)
        if node is None or node.op_type == "Constant":
            return _constant_value(node) if node else None
        passes = node.op_type in ("Identity", "Cast", "Transpose")
        inner = self.constant(node.input[0]) if passes else None
        if inner is not None and node.op_type == "Cast":
            return inner.astype(helper.tensor_dtype_to_np_dtype(attribute(node, "to")))
        if inner is not None and node.op_type == "Transpose":
            return inner.transpose(attribute(node, "perm"))
        return inner


def _constant_value(node: Any) -> AnyArray | None:
    from onnx import numpy_helper

    tensor = attribute(node, "value")
    if tensor is not None:
        array: AnyArray = numpy_helper.to_array(tensor)
        return array
    numbers = (attribute(node, f"value_{kind}") for kind in ("float", "int", "floats", "ints"))
    return next((np.asarray(n) for n in numbers if n is not None), None)


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, or ``default``."""
    from onnx import helper

    for a in node.attribute:
        if a.name == name:
            return helper.get_attribute_value(a)
    return default


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs inside a node: branches of If, bodies of Loop and Scan."""
    for a in node.attribute:
        if a.HasField("g"):
            yield a.g
        yield from a.graphs


def reads(node: Any) -> Iterator[str]:
    """Names of the tensors that a node and its subgraphs read."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from reads(inner)


def rename(graph: Any, old: str, new: str) -> None:
    """Rename a tensor wherever it is stored, computed or read; inputs of the graph keep theirs."""
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
        for inner in subgraphs(node):
            rename(inner, old, new)
    for named in (*graph.initializer, *graph.output):
        if named.name == old:
            named.name = new


def prune(model: Any) -> None:
    """Remove nodes, weights, shapes and unknown inputs that no output depends on."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    stored = {tensor.name for tensor in graph.initializer}
    for i in range(len(graph.node) - 1, -1, -1):
        node = graph.node[i]
        if needed.isdisjoint(node.output):
            del graph.node[i]
        else:
            needed.update(reads(node))
    alive = needed | {name for node in graph.node for name in node.output}
    known = {v.name for v in graph.input if v.name in ID_INPUTS or v.name.startswith(PAST)}
    for fields, keep in (
        (graph.initializer, needed),
        (graph.sparse_initializer, needed),
        (graph.value_info, alive),
        (graph.quantization_annotation, alive),
        (graph.input, (needed | known) - stored),
    ):
        for i in range(len(fields) - 1, -1, -1):
            name = getattr(fields[i], "name", None) or getattr(fields[i], "tensor_name", "")
            if name not in keep:
                del fields[i]
    model.ir_version = max(model.ir_version, 4)  # older ones require every weight to be an input


def shape(value: Any) -> list[int | None]:
    """The dimensions of a graph input or output; None where they are not fixed."""
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims]


def set_standard_types(model: Any) -> None:
    """Add Casts so that ids are int64, and all other inputs and outputs float32.

    Graphs of other exporters may compute in float16 or read int32 ids (docs/FORMAT.md, 2).
    """
    from onnx import TensorProto, helper

    graph = model.graph
    before, after = [], []
    for value in [*graph.input, *graph.output]:
        name, inner = value.name, f"{value.name}__as_found"
        found = value.type.tensor_type.elem_type
        wanted = TensorProto.INT64 if name in ID_INPUTS else TensorProto.FLOAT
        if found == wanted:
            continue
        rename(graph, name, inner)
        if value.name == name:  # an input; outputs are renamed too
            before.append(helper.make_node("Cast", [name], [inner], to=found))
        else:
            value.name = name
            after.append(helper.make_node("Cast", [inner], [name], to=wanted))
        value.type.tensor_type.elem_type = wanted
    for node in reversed(before):
        graph.node.insert(0, node)
    graph.node.extend(after)


def has_other_floats(model: Any) -> bool:
    """Return True if the graph may compute in float16, bfloat16 or float64."""
    from onnx import TensorProto

    other = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    graph = model.graph
    return any(t.data_type in other for t in graph.initializer) or any(
        attribute(n, "to") in other for n in graph.node if n.op_type == "Cast"
    )


def require_known_inputs(model: Any) -> None:
    """Raise InputError unless all inputs are ones that `extraction.session` feeds."""
    names = [value.name for value in model.graph.input]
    stored = {tensor.name for tensor in model.graph.initializer}
    unknown = [n for n in names if n not in (*ID_INPUTS, *stored) and not n.startswith(PAST)]
    if unknown or not {"input_ids", "attention_mask"} <= set(names):
        raise InputError(
            "the graph's inputs are not those of a language model",
            got=", ".join(names)[:200],
            expected=f"input_ids, attention_mask; optional: {', '.join(ID_INPUTS[2:])}, {PAST}*",
            hint="export it again with Optimum: `linalign-lite export MODEL OUT`",
        )


def opset(model: Any) -> int:
    """The version of the standard operator set that the graph uses."""
    versions = (int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return max(versions, default=0)


def weight_bytes(model: Any) -> int:
    """Bytes of all stored weights, computed without serialising them."""
    from onnx import helper

    return sum(
        int(np.prod(t.dims, dtype=np.int64)) * helper.tensor_dtype_to_np_dtype(t.data_type).itemsize
        for t in model.graph.initializer
    )


def declare_weights(model: Any, weights: Weights) -> dict[str, AnyArray]:
    """Turn graph inputs that are weights into initializers without values; return those found."""
    graph = model.graph
    found = {v.name: weights[v.name] for v in graph.input if v.name in weights}
    for name, array in found.items():
        declare_weight(graph, name, array.shape, array.dtype)
    return found


def declare_weight(graph: Any, name: str, dims: Sequence[int], dtype: npt.DTypeLike) -> None:
    """Add an initializer without a value."""
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph.initializer.append(_declared(name, dims, kind))


def _declared(name: str, dims: Sequence[int], kind: int) -> Any:
    from onnx import TensorProto

    external = TensorProto.EXTERNAL
    return TensorProto(name=name, dims=dims, data_type=kind, data_location=external)


def fold_transposes(model: Any, weights: MutableMapping[str, AnyArray]) -> None:
    """Store a declared weight transposed where all that reads it transposes it.

    onnxruntime would do so each time that it loads the graph, in memory.
    """
    graph = model.graph
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in reads(node):
            readers.setdefault(name, []).append(node)
    for name in [n for n in weights if n in readers]:
        first, *others = readers[name]
        if others or first.op_type != "Transpose":
            continue
        turned = f"{name}.transposed"
        weights[turned] = weights[name].transpose(attribute(first, "perm"))
        declare_weight(graph, turned, weights[turned].shape, weights[turned].dtype)
        rename(graph, first.output[0], turned)
        graph.node.remove(first)
    prune(model)


def save(
    model: Any, folder: Path, one_file_limit: int = ONE_FILE_LIMIT, weights: Weights | None = None
) -> Path:
    """Write `model.onnx`, with `model.onnx_data` when the weights exceed the limit.

    In the second case the weights leave ``model``, one by one. weights: values of those that the
    graph only declares; they are converted to the declared type.
    """
    import onnx
    from onnx import helper, numpy_helper

    path, weights = folder / MODEL_FILE, weights or {}
    if weight_bytes(model) > one_file_limit:
        _write_weights(model, folder / DATA_FILE, weights)
    else:
        for tensor in model.graph.initializer:
            if tensor.name in weights:
                kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
                array = weights[tensor.name].astype(kind, copy=False)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save_model(model, str(path))
    return path


def _write_weights(model: Any, path: Path, weights: Weights) -> None:
    """Write all but the smallest weights to ``path``, and refer to them in the graph."""
    from onnx import helper, numpy_helper

    with path.open("xb") as f:
        for tensor in model.graph.initializer:
            kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            found = weights.get(tensor.name)
            array = numpy_helper.to_array(tensor) if found is None else found
            if array.size * kind.itemsize < _EMBEDDED:
                tensor.CopyFrom(numpy_helper.from_array(array.astype(kind), tensor.name))
                continue
            f.write(bytes(-f.tell() % _PAGE))
            offset = f.tell()
            for rows in row_blocks(array):
                f.write(np.ascontiguousarray(rows, dtype=kind.newbyteorder("<")).data)
            stored = {"location": path.name, "offset": offset, "length": f.tell() - offset}
            name, dims, number = tensor.name, array.shape, tensor.data_type
            tensor.Clear()
            tensor.MergeFrom(_declared(name, dims, number))
            for key, value in stored.items():
                tensor.external_data.add(key=key, value=str(value))


def row_blocks(array: AnyArray) -> Iterator[AnyArray]:
    """Parts of an array along its first axis, each of about 4 million elements at most."""
    step = max(1, _BLOCK * len(array) // array.size) if array.ndim and array.size else 1
    yield from (array[i : i + step] for i in range(0, len(array), step))


def save_external(model: Any, path: Path, location: str, threshold: int) -> None:
    """Write ``model`` with weights above ``threshold`` bytes in the file ``location`` beside it."""
    import onnx

    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=location,
        size_threshold=threshold,
    )


def check(model: Any, error: type[LinalignError] = InputError) -> None:
    """Raise ``error`` unless the graph is valid ONNX and its shapes can be inferred.

    model: a ModelProto, or the path of one.
    """
    import onnx

    with quote_errors("the graph is not valid ONNX", error):
        onnx.checker.check_model(model, full_check=True)
