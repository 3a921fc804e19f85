"""Write an ONNX artefact: a valid graph, compared with NumPy, and a card with its digest.

docs/FORMAT.md, section 8. The same graph and card give the same bytes.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.choices import WeightDtype
from linalign_lite.errors import InputError, ParityError, import_extra
from linalign_lite.onnx import float16, graph_edit
from linalign_lite.onnx.graph_edit import AnyArray
from linalign_lite.onnx.metadata import FORMAT, KEY, VERSION, data_file, read_card
from linalign_lite.onnx.parity import TOLERANCE, open_session, require_shape
from linalign_lite.onnx.quantization import quantize_artefact
from linalign_lite.storage.atomic import require_replaceable, write_atomic
from linalign_lite.storage.hashing import hash_file
from linalign_lite.version import __version__

INT8_LIMIT = 0.2  # root mean square of the difference to fp32, relative to that of the values


@dataclass(frozen=True)
class Expected:
    """Expected outputs by name for each of several inputs, and the largest difference allowed.

    limit: on the largest difference of an output over all inputs, relative to its largest value;
    with ``mean_square``, root mean squares take the place of both.
    """

    feeds: Sequence[Mapping[str, AnyArray]]
    outputs: Sequence[Mapping[str, AnyArray]]
    limit: float = TOLERANCE
    mean_square: bool = False


@dataclass(frozen=True)
class Artefact:
    """An artefact on disk. ``differences``: of each output from NumPy, relative (see Expected)."""

    path: Path
    kind: str
    dtype: str
    opset: int
    size: int  # bytes, external data included
    differences: Mapping[str, float]
    card: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Values of the report for JSON."""
        return {
            "out": str(self.path),
            "kind": self.kind,
            "dtype": self.dtype,
            "opset": self.opset,
            "bytes": self.size,
            "differences": dict(self.differences),
        }

    def __str__(self) -> str:
        found = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        return (
            f"{self.path}: {self.kind}, {self.dtype}, opset {self.opset}, "
            f"{self.size / 1e6:.2f} MB; difference to NumPy: {found}"
        )


def check_options(dtype: str, limit: float | None, purpose: str) -> float:
    """Check the options of an artefact and return the limit on the differences of its outputs.

    Raises InputError for an unknown dtype or limit, MissingExtraError without `onnx`.
    """
    if dtype not in list(WeightDtype):
        raise InputError("the dtype is not known", got=repr(dtype), expected=", ".join(WeightDtype))
    if limit is not None and (dtype != "int8" or not 0 < limit <= 1):
        raise InputError("a limit is for int8 alone, above 0 and at most 1", got=f"{limit:g}")
    import_extra("onnx", extra="onnx", purpose=purpose)
    return limit or (INT8_LIMIT if dtype == "int8" else TOLERANCE)


def store_as(model: Any, dtype: str, one_file_limit: int) -> Any:
    """Return the model with its weights stored as ``dtype``; ``model`` itself is used up."""
    if dtype == "int8":
        return quantize_artefact(model, one_file_limit)
    if dtype == "fp16":
        float16.store_float16(model)
    return model


def write_artefact(
    out: Path,
    model: Any,
    card: Mapping[str, Any],
    expected: Expected,
    one_file_limit: int = graph_edit.ONE_FILE_LIMIT,
) -> Artefact:
    """Validate the graph, compare its outputs, and write it with its card.

    Weights above ``one_file_limit`` bytes go to ``out`` + "_data". Raises ParityError when the
    graph is not valid, does not load or gives other outputs. ``out`` is unchanged then.
    """
    require_replaceable(out)
    large = graph_edit.weight_bytes(model) > one_file_limit
    full_card = {
        **card,
        "format": FORMAT,
        "version": VERSION,
        "library": __version__,
        "opset": graph_edit.opset(model),
        "data": None,
    }
    model.producer_name, model.producer_version = "linalign-lite", __version__
    if large:
        differences = _write_large(out, model, full_card, expected, min(1024, one_file_limit))
    else:
        data = _seal(model, full_card)
        graph_edit.check(model, ParityError)
        differences = compare(open_session(data), expected)
        write_atomic(out, data)
    size = out.stat().st_size + (data_file(out).stat().st_size if large else 0)
    kind, dtype, opset = (full_card[name] for name in ("kind", "dtype", "opset"))
    return Artefact(out, kind, dtype, opset, size, differences, read_card(out))


def _write_large(
    out: Path, model: Any, card: dict[str, Any], expected: Expected, threshold: int
) -> Mapping[str, float]:
    """Write both files in a folder beside ``out``, then rename them, the graph last."""
    require_replaceable(data_file(out))
    with tempfile.TemporaryDirectory(prefix=".linalign-", suffix=".tmp", dir=out.parent) as folder:
        path = Path(folder) / out.name
        beside = data_file(path)
        graph_edit.save_external(model, path, beside.name, threshold)
        size = beside.stat().st_size
        card["data"] = {"file": beside.name, "sha256": hash_file(beside), "size": size}
        path.write_bytes(_seal(model, card))
        graph_edit.check(path, ParityError)
        differences = compare(open_session(str(path)), expected)
        beside.replace(data_file(out))
        path.replace(out)
    return differences


def _seal(model: Any, card: Mapping[str, Any]) -> bytes:
    """Put the card, with the digest of the graph, into the model; return the model's bytes."""
    graph = model.graph.SerializeToString(deterministic=True)
    sealed = {**card, "graph": hashlib.sha256(graph).hexdigest()}
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key = KEY
    entry.value = json.dumps(  # default: for mappings that are no dict
        sealed, sort_keys=True, separators=(",", ":"), allow_nan=False, default=dict
    )
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def compare(session: Any, expected: Expected) -> dict[str, float]:
    """The relative difference of each output. Raises ParityError when one is above the limit."""
    pairs: dict[str, list[tuple[AnyArray, AnyArray]]] = {}
    for feeds, outputs in zip(expected.feeds, expected.outputs, strict=True):
        names = list(outputs)
        for name, got in zip(names, session.run(names, dict(feeds)), strict=True):
            require_shape(f"the graph's {name}", got, outputs[name])
            pairs.setdefault(name, []).append((got.ravel(), outputs[name].ravel()))
    found = {name: _relative(parts, expected.mean_square) for name, parts in pairs.items()}
    for name, difference in found.items():
        if not difference <= expected.limit:  # NaN fails too
            raise ParityError(
                f"the graph's {name} differ too much from NumPy's",
                got=f"{difference:.3g} of their size",
                expected=f"at most {expected.limit:.3g}",
                hint="store it as fp16, or allow more with --limit" if expected.mean_square else "",
            )
    return found


def _relative(parts: Sequence[tuple[AnyArray, AnyArray]], mean_square: bool) -> float:
    got, want = (np.concatenate(p).astype(np.float64) for p in zip(*parts, strict=True))
    difference = got - want
    if mean_square:
        return float(np.linalg.norm(difference) / (np.linalg.norm(want) or 1.0))
    return float(np.abs(difference).max() / (np.abs(want).max() or 1.0))
