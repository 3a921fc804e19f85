"""Compare an exported graph with its model on texts, through onnxruntime.

Largest absolute differences, over positions that are not padding:

- states: |graph - reference| <= TOLERANCE · max |reference|;
- logits: |head(states) - reference| <= TOLERANCE · max(1, max |reference|): absolute for logits
  up to 1 in size, relative beyond, because float32 itself is;
- decoding: all tokens at once with an empty cache, against all but the last and then the last
  token with the cache; the same limit as for states.

Of an int8 graph, root mean squares of differences and values take the place of the largest ones,
and the limit is that of INT8: each product adds an error of about 0.5 % (weights and inputs are
rounded to 1/127 of the largest of their block), independent of others: 7 % after 200 products.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.head import Head
from linalign_lite.errors import ParityError, quote_errors
from linalign_lite.extraction.model_card import LAST_HIDDEN_STATE, PAST, PRESENT, PastTensor

TOLERANCE = 1e-4
MIN_COSINE = 0.99999  # of embeddings to those of sentence-transformers
MAX_TOKENS = 512  # of the longest input that is compared
POSITIONS = 16  # whose logits are compared at once
Int64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Batch = tuple[Int64, Int64]  # ids and mask, shape: (batch, length)
_TYPES = {"tensor(int32)": np.int32, "tensor(float16)": np.float16}  # graphs of other exporters
# A batch gives states (b, l, d) or None, and logits (b, l, vocab) or None.
Reference = Callable[[Int64, Int64], tuple[Floats | None, Any]]
Embed = Callable[[Floats, Int64], Floats]  # states (b, l, d) and mask give (b, width)


@dataclass(frozen=True)
class Limits:
    """The largest relative difference, and the smallest cosine of embeddings."""

    difference: float = TOLERANCE
    cosine: float = MIN_COSINE
    mean_square: bool = False


EXACT, INT8 = Limits(), Limits(0.1, 0.99, mean_square=True)


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
        problem = f"the graph does not run on ids {ids.shape} after {before} cached"
        with quote_errors(problem, ParityError):
            return dict(zip(names, self.session.run(names, feeds), strict=True))


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
    with quote_errors("the graph does not load", ParityError):
        return ort.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])


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


@dataclass(frozen=True)
class _Stored:
    """An array in a file, which is mapped only while a part of it is read."""

    path: Path
    shape: tuple[int, ...]

    @classmethod
    def save(cls, path: Path, array: Floats) -> "_Stored":
        np.save(path, array)
        return cls(path, array.shape)

    def __getitem__(self, where: Any) -> Floats:
        return np.array(np.load(self.path, mmap_mode="r")[where])


def recorded(reference: Reference, data: Sequence[Batch], folder: Path) -> Reference:
    """Compute the outputs for all batches; return a function that returns these again.

    Logits are kept in files of ``folder``: there may be as many as weights.
    """
    found = []
    for i, (ids, mask) in enumerate(data):
        states, logits = reference(ids, mask)
        if logits is not None:
            logits = _Stored.save(folder / f"logits{i}.npy", logits)
        found.append((states if states is None else states.copy(), logits))
    outputs = {id(ids): pair for (ids, _), pair in zip(data, found, strict=True)}
    return lambda ids, _: outputs[id(ids)]


def measure(
    graph: Graph,
    reference: Reference,
    data: Sequence[Batch],
    head: Head | None,
    embeddings: Sequence[tuple[Embed, Embed]] = (),
    limits: Limits = EXACT,
) -> dict[str, Any]:
    """Return the largest differences over all batches.

    embeddings: pairs of functions; the first, of the graph's states, must give the embeddings that
    the second gives for the model's states. Raises ParityError beyond the tolerance.
    """
    found: dict[str, list[float]] = {"decode": [], "logits": [], "states": []}
    cosines: list[float] = []
    for ids, mask in data:
        got = graph.run(ids, mask)[LAST_HIDDEN_STATE]
        states, logits = reference(ids, mask)
        if states is not None:
            found["states"].append(_compare("states", got, states, mask, limits))
            cosines += [
                _cosine(ours(got, mask), theirs(states, mask), limits.cosine)
                for ours, theirs in embeddings
            ]
        if head is not None and logits is not None:
            found["logits"].append(_compare_logits(head, got, logits, mask, limits))
    if graph.past:
        found["decode"] = [_compare_decoded(graph, ids[:1], mask[:1], limits) for ids, mask in data]
    unit = "relative_rms" if limits.mean_square else "max_abs"
    result: dict[str, Any] = {f"{name}_{unit}": max(v) for name, v in found.items() if v}
    if cosines:
        result["embedding_cosine"] = min(cosines)
    texts = sum(len(ids) for ids, _ in data)
    return {**result, "tolerance": limits.difference, "texts": texts}


def _compare_logits(
    head: Head, states: Floats, logits: "Floats | _Stored", mask: Int64, limits: Limits
) -> float:
    """Compare the logits of `POSITIONS` positions at a time."""
    n = logits.shape[1]
    states, mask = states[:, -n:], mask[:, -n:]
    where = np.argwhere(mask > 0)
    parts = (tuple(where[i : i + POSITIONS].T) for i in range(0, len(where), POSITIONS))
    pairs = ((head.apply(states[p]), logits[p]) for p in parts)
    return _difference("logits", pairs, limits, least=1.0)


def _compare_decoded(graph: Graph, ids: Int64, mask: Int64, limits: Limits) -> float:
    ids = ids[:, : int(mask.sum())]
    ones, n = np.ones_like(ids), ids.shape[1]
    if n < 2:
        return 0.0
    whole = graph.run(ids, ones)
    first = graph.run(ids[:, :-1], ones[:, :-1])
    second = graph.run(ids[:, -1:], ones, first)
    states = np.concatenate([first[LAST_HIDDEN_STATE], second[LAST_HIDDEN_STATE]], axis=1)
    what = "states decoded with the cache"
    worst = _compare(what, states, whole[LAST_HIDDEN_STATE], ones, limits)
    for name in (p.name.replace(PAST, PRESENT, 1) for p in graph.past):
        require_shape(f"the tensors {name} after two steps", second[name], whole[name])
    return worst


def require_shape(what: str, got: npt.NDArray[Any], want: npt.NDArray[Any]) -> None:
    """Raise ParityError unless both arrays have the same shape."""
    if got.shape != want.shape:
        problem = f"{what} have another shape"
        raise ParityError(problem, got=str(got.shape), expected=str(want.shape))


def _cosine(got: Floats, want: Floats, least: float) -> float:
    """The smallest cosine of two rows. Raises ParityError below ``least``."""
    require_shape("the embeddings", got, want)
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    cosines = np.sum(got * want, axis=1, dtype=np.float64) / np.maximum(norms, 1e-12)
    cosines[~(got.any(axis=1) | want.any(axis=1))] = 1.0  # both zero, as after a ReLU
    found = float(cosines.min())
    if not found >= least:
        raise ParityError(
            "the embeddings differ from the model's",
            got=f"cosine {found:.6f}",
            expected=f"{least} or more",
        )
    return found


def _compare(what: str, got: Floats, want: Floats, mask: Int64, limits: Limits) -> float:
    require_shape(f"the exported graph's {what}", got, want)
    return _difference(what, [(got[mask > 0], want[mask > 0])], limits)


def _difference(
    what: str, pairs: Iterable[tuple[Floats, Floats]], limits: Limits, *, least: float = 0.0
) -> float:
    """The difference over all pairs of arrays. Raises ParityError beyond the limit.

    The largest one, whose limit is relative to the largest value, and at least to ``least``; with
    ``mean_square`` the root mean square, relative to that of the values.
    """
    size, difference, squares = least, 0.0, np.zeros(2)
    for got, want in pairs:
        require_shape(f"the exported graph's {what}", got, want)
        apart = got.astype(np.float64) - want
        if limits.mean_square:
            squares += np.square(apart).sum(), np.square(want, dtype=np.float64).sum()
        else:
            size = float(np.abs(want).max(initial=size))
            difference = float(np.abs(apart).max(initial=difference))
    if limits.mean_square:
        size, difference = 1.0, float(np.sqrt(squares[0] / (squares[1] or 1.0)))
    limit = limits.difference * size
    if not difference <= limit:
        raise ParityError(
            f"the exported graph's {what} differ from the model's",
            got=f"{difference:.3g}" + (" of their size" if limits.mean_square else " at most"),
            expected=f"at most {limit:.3g}",
            hint="this model is better kept as fp16"
            if limits.mean_square
            else "try another `--opset`; if the difference stays, this model cannot be exported",
        )
    return difference
