"""Compare an exported graph with its model on texts, through onnxruntime.

Largest absolute differences, over positions that are not padding:

- states: |graph - reference| <= TOLERANCE · max |reference|;
- logits: |head(states) - reference| <= TOLERANCE · max(1, max |reference|): absolute for logits
  up to 1 in size, relative beyond, because float32 itself is;
- decoding: all tokens at once with an empty cache, against all but the last and then the last
  token with the cache; the same limit as for states.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.head import Head
from linalign_lite.errors import ParityError
from linalign_lite.extraction.model_card import LAST_HIDDEN_STATE, PAST, PRESENT, PastTensor

TOLERANCE = 1e-4
MAX_TOKENS = 512  # of the longest input that is compared
Int64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Batch = tuple[Int64, Int64]  # ids and mask, shape: (batch, length)
_TYPES = {"tensor(int32)": np.int32, "tensor(float16)": np.float16}  # graphs of other exporters
# A batch gives states (b, l, d) or None, and logits (b, l, vocab) or None.
Reference = Callable[[Int64, Int64], tuple[Floats | None, Floats | None]]


@dataclass(frozen=True)
class Graph:
    """An onnxruntime session of a model's graph, with its cache if it has one."""

    session: Any
    past: tuple[PastTensor, ...] = ()

    def run(
        self, ids: Int64, mask: Int64, cache: dict[str, Floats] | None = None
    ) -> dict[str, Floats]:
        """Return all outputs by name. mask: (batch, cached length + length)."""
        before = mask.shape[1] - ids.shape[1]
        known: dict[str, npt.NDArray[Any]] = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
            "position_ids": np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, before:],
        }
        for p in self.past:
            empty = np.zeros((len(ids), p.heads, 0, p.head_dim), dtype=np.float32)
            known[p.name] = empty if cache is None else cache[p.name.replace(PAST, PRESENT, 1)]
        feeds = {
            i.name: known[i.name].astype(_TYPES.get(i.type, known[i.name].dtype), copy=False)
            for i in self.session.get_inputs()
            if i.name in known
        }
        names = [o.name for o in self.session.get_outputs()]
        try:
            return dict(zip(names, self.session.run(names, feeds), strict=True))
        except Exception as e:  # onnxruntime has no common error type
            raise ParityError(
                "the graph does not run",
                got=f"{type(e).__name__} on ids {ids.shape} after {before} cached: {str(e)[:200]}",
            ) from e


def open_graph(path: Path, past: tuple[PastTensor, ...] = ()) -> Graph:
    """Load a model's graph with onnxruntime. Raises ParityError when it does not load."""
    return Graph(open_session(str(path)), past)


def open_session(model: bytes | str, *, threads: int | None = None) -> Any:
    """Load a graph, or the file at a path, with onnxruntime on CPU and without its log.

    Raises ParityError when it does not load.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime has no common error type
        raise ParityError("the graph does not load", got=str(e)[:300]) from e


def batches(encoded: Sequence[Sequence[int]], max_length: int) -> list[Batch]:
    """Make inputs of several shapes: one text alone, groups padded on the right, one long text."""
    rows = sorted((list(e)[:max_length] for e in encoded if len(e) > 0), key=len)
    long = [t for row in rows for t in row]
    while len(long) < min(max_length, MAX_TOKENS):
        long = long + long
    groups = [rows[:1], rows[1:4], rows[4:], [long[: min(max_length, MAX_TOKENS)]]]
    return [pad(group) for group in groups if group]


def pad(rows: Sequence[Sequence[int]]) -> Batch:
    """Return ids and mask of rows, padded on the right with the last token of the row."""
    length = max(len(row) for row in rows)
    ids = np.array([[*row, *[row[-1]] * (length - len(row))] for row in rows], dtype=np.int64)
    mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows], dtype=np.int64)
    return ids, mask


def measure(
    graph: Graph, reference: Reference, data: Sequence[Batch], head: Head | None
) -> dict[str, Any]:
    """Return the largest differences over all batches.

    Raises ParityError beyond the tolerance.
    """
    worst = {"states": 0.0, "logits": 0.0, "decode": 0.0}
    seen = set()
    for ids, mask in data:
        got = graph.run(ids, mask)[LAST_HIDDEN_STATE]
        states, logits = reference(ids, mask)
        if states is not None:
            seen.add("states")
            limit = TOLERANCE * _largest(states[mask > 0])
            worst["states"] = max(worst["states"], _compare("states", got, states, mask, limit))
        if head is not None and logits is not None:
            seen.add("logits")
            scores = _scores(head, got)[:, -logits.shape[1] :]
            keep = mask[:, -logits.shape[1] :]
            limit = TOLERANCE * max(1.0, _largest(logits[keep > 0]))
            worst["logits"] = max(worst["logits"], _compare("logits", scores, logits, keep, limit))
    if graph.past:
        seen.add("decode")
        worst["decode"] = max(_decode(graph, ids[:1], mask[:1]) for ids, mask in data)
    result: dict[str, Any] = {f"{name}_max_abs": worst[name] for name in sorted(seen)}
    return {**result, "tolerance": TOLERANCE, "texts": sum(len(ids) for ids, _ in data)}


def _scores(head: Head, states: Floats) -> Floats:
    flat = head.apply(states.reshape(-1, states.shape[-1]))
    result: Floats = flat.reshape(*states.shape[:-1], -1)
    return result


def _decode(graph: Graph, ids: Int64, mask: Int64) -> float:
    ids = ids[:, : int(mask.sum())]
    ones, n = np.ones_like(ids), ids.shape[1]
    if n < 2:
        return 0.0
    whole = graph.run(ids, ones)
    first = graph.run(ids[:, :-1], ones[:, :-1])
    second = graph.run(
        ids[:, -1:], ones, {k: v for k, v in first.items() if k != LAST_HIDDEN_STATE}
    )
    got = np.concatenate([first[LAST_HIDDEN_STATE], second[LAST_HIDDEN_STATE]], axis=1)
    limit = TOLERANCE * _largest(whole[LAST_HIDDEN_STATE])
    worst = _compare("states decoded with the cache", got, whole[LAST_HIDDEN_STATE], ones, limit)
    for name in (p.name.replace(PAST, PRESENT, 1) for p in graph.past):
        if second[name].shape != whole[name].shape:
            raise ParityError(
                f"the cache {name} has another shape after two steps",
                got=str(second[name].shape),
                expected=str(whole[name].shape),
            )
    return worst


def _largest(values: npt.NDArray[Any]) -> float:
    return float(np.abs(values).max(initial=0.0))


def _compare(what: str, got: Floats, want: Floats, mask: Int64, limit: float) -> float:
    if got.shape != want.shape:
        raise ParityError(
            f"the exported graph's {what} have another shape",
            got=str(got.shape),
            expected=str(want.shape),
        )
    difference = _largest(got[mask > 0].astype(np.float64) - want[mask > 0])
    if not difference <= limit:
        raise ParityError(
            f"the exported graph's {what} differ from the model's",
            got=f"{difference:.3g} at most",
            expected=f"at most {limit:.3g}",
            hint="try another `--opset`; if the difference stays, this model cannot be exported",
        )
    return difference
