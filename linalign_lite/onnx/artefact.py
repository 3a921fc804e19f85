"""Leaving an ONNX artefact on disk: valid, sealed, and saying what NumPy says. Or nothing.

docs/FORMAT.md, section 8. Same graph, same card: same bytes.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.choices import WeightDtype, values_of
from linalign_lite.errors import FormatError, InputError, ParityError, import_extra
from linalign_lite.onnx import graph_edit
from linalign_lite.onnx.graph_edit import AnyArray
from linalign_lite.onnx.metadata import FORMAT, KEY, VERSION, data_file, read_card
from linalign_lite.onnx.parity import TOLERANCE
from linalign_lite.storage.atomic import require_replaceable, write_atomic
from linalign_lite.storage.hashing import hash_file
from linalign_lite.version import __version__

DTYPES = values_of(WeightDtype)
INT8_LIMIT = 0.2  # root mean square of the difference to fp32 over that of the values
Feeds = Mapping[str, AnyArray]


@dataclass(frozen=True)
class Check:
    """What the artefact must say: outputs by name for each of several inputs.

    ``limit``: on the difference of an output over all inputs, relative to its values: the largest
    over the largest, or, with ``mean_square``, the root mean square of both.
    """

    feeds: Sequence[Feeds]
    wanted: Sequence[Mapping[str, AnyArray]]
    limit: float = TOLERANCE
    mean_square: bool = False


@dataclass(frozen=True)
class Artefact:
    """What was written. ``differences``: of each output, relative, see Check."""

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
        apart = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        megabytes = f"{self.size / 1e6:.2f} MB"
        return (
            f"{self.path}: {self.kind}, {self.dtype}, opset {self.opset}, {megabytes}; "
            f"apart from NumPy by {apart}"
        )


def begin(dtype: str, limit: float | None, purpose: str) -> float:
    """What is asked of any artefact before work starts; the limit that it is held to.

    Raises InputError for an unknown dtype or limit, MissingExtraError without `onnx`.
    """
    if dtype not in DTYPES:
        raise InputError("the dtype is not known", got=repr(dtype), expected=", ".join(DTYPES))
    if limit is not None and (dtype != "int8" or not 0 < limit <= 1):
        raise InputError("a limit is for int8 alone, above 0 and at most 1", got=f"{limit:g}")
    import_extra("onnx", extra="onnx", purpose=purpose)
    if dtype != "int8":
        return TOLERANCE
    return INT8_LIMIT if limit is None else limit


def write(
    out: Path,
    model: Any,
    card: Mapping[str, Any],
    check: Check,
    one_file_limit: int = graph_edit.ONE_FILE_LIMIT,
) -> Artefact:
    """Check the graph, compare what it says, and write it with its card.

    Weights above ``one_file_limit`` bytes go to ``out`` + "_data". Raises ParityError, and leaves
    what was there before, when the graph does not load or says something else.
    """
    out = Path(out)
    require_replaceable(out)
    large = graph_edit.weight_bytes(model) > one_file_limit
    whole = {
        **card,
        "format": FORMAT,
        "version": VERSION,
        "library": __version__,
        "opset": graph_edit.opset(model),
        "data": None,
    }
    model.producer_name, model.producer_version = "linalign-lite", __version__
    if large:
        differences = _write_large(out, model, whole, check, min(1024, one_file_limit))
    else:
        differences = _write_small(out, model, whole, check)
    size = out.stat().st_size + (data_file(out).stat().st_size if large else 0)
    return Artefact(
        out, whole["kind"], whole["dtype"], whole["opset"], size, differences, read_card(out)
    )


def _write_small(out: Path, model: Any, card: dict[str, Any], check: Check) -> Mapping[str, float]:
    data = _seal(model, card)
    _validate(model)
    differences = compare(open_session(data), check)
    write_atomic(out, data)
    return differences


def _write_large(
    out: Path, model: Any, card: dict[str, Any], check: Check, threshold: int
) -> Mapping[str, float]:
    """As small, in a folder beside ``out``; then both files get their names, the graph last."""
    import onnx

    require_replaceable(data_file(out))
    with tempfile.TemporaryDirectory(prefix=".linalign-", suffix=".tmp", dir=out.parent) as folder:
        path = Path(folder) / out.name
        beside = data_file(path)
        onnx.save_model(model, str(path), save_as_external_data=True, size_threshold=threshold,
                        all_tensors_to_one_file=True, location=beside.name)  # fmt: skip
        card["data"] = {
            "file": beside.name,
            "sha256": hash_file(beside),
            "size": beside.stat().st_size,
        }
        path.write_bytes(_seal(model, card))
        _validate(str(path))
        differences = compare(open_session(str(path)), check)
        beside.replace(data_file(out))
        path.replace(out)
    return differences


def _seal(model: Any, card: Mapping[str, Any]) -> bytes:
    """Put the card into the model, with the digest of its graph; the bytes of the whole."""
    graph = model.graph.SerializeToString(deterministic=True)
    sealed = {**card, "graph": hashlib.sha256(graph).hexdigest()}
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key = KEY
    entry.value = json.dumps(sealed, sort_keys=True, separators=(",", ":"), allow_nan=False)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _validate(model: Any) -> None:
    """The checker and strict shape inference; of a file's name or a model."""
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise ParityError("the graph made is not valid ONNX", got=str(e)[:300]) from e


def open_session(model: bytes | str, *, threads: int | None = None) -> Any:
    """Load a graph with onnxruntime on the CPU, quietly. Raises FormatError if it does not load."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime has no common error type
        raise FormatError("the graph does not load", got=str(e)[:200]) from e


def compare(session: Any, check: Check) -> dict[str, float]:
    """Relative difference of each output. Raises ParityError when one is above the limit."""
    pairs: dict[str, list[tuple[AnyArray, AnyArray]]] = {}
    for feeds, wanted in zip(check.feeds, check.wanted, strict=True):
        names = list(wanted)
        for name, got in zip(names, session.run(names, dict(feeds)), strict=True):
            want = wanted[name]
            if got.shape != want.shape:
                raise ParityError(
                    f"the graph's {name} have another shape than NumPy's",
                    got=str(got.shape),
                    expected=str(want.shape),
                )
            pairs.setdefault(name, []).append((got.ravel(), want.ravel()))
    found = {name: _relative(parts, check.mean_square) for name, parts in pairs.items()}
    for name, difference in found.items():
        if not difference <= check.limit:  # nor when it is no number
            raise ParityError(
                f"the graph's {name} differ too much from what NumPy gives",
                got=f"{difference:.3g} of their size",
                expected=f"at most {check.limit:.3g}",
                hint="store it as fp16, or allow more with --limit" if check.mean_square else "",
            )
    return found


def _relative(parts: Sequence[tuple[AnyArray, AnyArray]], mean_square: bool) -> float:
    got, want = (np.concatenate(p).astype(np.float64) for p in zip(*parts, strict=True))
    apart = got - want
    if mean_square:
        return float(np.linalg.norm(apart) / (np.linalg.norm(want) or 1.0))
    return float(np.abs(apart).max() / (np.abs(want).max() or 1.0))
