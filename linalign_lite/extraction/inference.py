"""Run a model over texts: tokens, batches, pooled or token states.

`parts` takes chunks of texts one after the other, and tokenises the next one in a thread while the
model runs. The states of a chunk depend on its texts and the options alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array, row_blocks
from linalign_lite.core.executor import map_in_order
from linalign_lite.core.hidden_states import NO_TOKEN
from linalign_lite.core.labels import Ints
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError
from linalign_lite.extraction.batching import Batch, Int64, plan_batches, pool
from linalign_lite.extraction.corpus import Chunk
from linalign_lite.extraction.session import Encoded, Model

Progress = Callable[[int], None]
BatchStates = tuple[Batch, Int64, Array]  # a batch, the lengths of its rows, their states


@dataclass(frozen=True)
class ExtractionOptions:
    """All options that the stored states depend on, checked against a model."""

    space: Space  # of the states, with pooling and normalisation
    max_length: int  # tokens
    batch_tokens: int
    dtype: str  # of stored states: "fp32" or "fp16"
    shard_texts: int


@dataclass(frozen=True, eq=False)
class Part:
    """States of consecutive texts."""

    states: Array  # shape: (n, d)
    n_cut: int
    positions: Mapping[str, Ints]  # of token rows: text_index, char_end, next_token; (n,) each


def parts(
    model: Model,
    chunks: Iterable[Chunk],
    options: ExtractionOptions,
    progress: Progress | None = None,
) -> Iterator[tuple[Chunk, Part]]:
    """Each chunk with its states, in order.

    The tokenizer releases the interpreter lock, so it tokenises the next chunk in a thread.
    Raises InputError for a text without tokens, LinalignError when the model fails.
    """
    with ThreadPoolExecutor(1, "tokens") as thread:
        encoded = map_in_order(
            thread, lambda chunk: (chunk, encode(model, chunk, options)), chunks, in_flight=2
        )
        for chunk, texts in encoded:
            yield chunk, states_of(model, texts, chunk.start, options, progress)


def encode(model: Model, chunk: Chunk, options: ExtractionOptions) -> list[Encoded]:
    """Tokens of each text. Raises InputError for a text without tokens."""
    positions, prompt = options.space.pooling == "tokens", options.space.prompt
    texts = model.encode(
        [prompt + text for text in chunk.texts], options.max_length, places=positions
    )
    for i, encoded in enumerate(texts, chunk.start + 1):
        if not encoded.ids:
            raise InputError(f"text {i} has no token left after the tokenizer's normalisation")
    return texts


def states_of(
    model: Model,
    texts: list[Encoded],
    start: int,
    options: ExtractionOptions,
    progress: Progress | None = None,
) -> Part:
    """States of tokenised texts, the first of which is text ``start`` of all."""
    tokens = options.space.pooling == "tokens"
    batches = _run(model, texts, options.batch_tokens, progress or (lambda _: None))
    if tokens:
        states = _tokens(texts, batches, options.space)
    else:
        states = _pooled(texts, batches, options.space, _pooling(model, options.space))
    if options.space.normalize:
        for rows in row_blocks(states):
            norms = np.linalg.norm(states[rows], axis=1, keepdims=True)
            states[rows] /= np.maximum(norms, 1e-12)
    positions = _positions(texts, start) if tokens else {}
    return Part(states, sum(e.cut for e in texts), positions)


def join(parts: Sequence[Part]) -> Part:
    """Consecutive parts as one."""
    if len(parts) == 1:
        return parts[0]
    return Part(
        np.concatenate([p.states for p in parts]),
        sum(p.n_cut for p in parts),
        {name: np.concatenate([p.positions[name] for p in parts]) for name in parts[0].positions},
    )


def _run(
    model: Model, texts: list[Encoded], batch_tokens: int, progress: Progress
) -> Iterator[BatchStates]:
    plan = list(plan_batches([len(e.ids) for e in texts], batch_tokens))
    run, threads = model.runner(len(plan))

    def run_batch(batch: Batch) -> tuple[Int64, Array]:
        ids = np.zeros((len(batch.rows), batch.length), dtype=np.int64)
        lengths = np.array([len(texts[i].ids) for i in batch.rows], dtype=np.int64)
        for row, i in zip(ids, batch.rows, strict=True):
            row[: len(texts[i].ids)] = texts[i].ids
        mask = (np.arange(batch.length)[None, :] < lengths[:, None]).astype(np.int64)
        return lengths, run(ids, mask)

    for batch, (lengths, states) in zip(plan, _ordered(run_batch, plan, threads), strict=True):
        yield batch, lengths, states
        del states  # free it before waiting for the next one
        progress(len(batch.rows))


def _ordered(
    function: Callable[[Batch], tuple[Int64, Array]], plan: Sequence[Batch], threads: int
) -> Iterator[tuple[Int64, Array]]:
    """function(batch) of each batch, in order, computed by ``threads`` threads."""
    if threads == 1:
        yield from map(function, plan)
        return
    with ThreadPoolExecutor(threads, "batches") as executor:
        yield from map_in_order(executor, function, plan, in_flight=threads + 2)


def _pooling(model: Model, space: Space) -> Callable[[Array, Int64], Array]:
    """The function of token states and lengths that makes one state per text."""
    if space.pooling == "embedding":
        return partial(model.embed, prompt_tokens=model.prompt_tokens(space.prompt))
    return partial(pool, pooling=space.pooling)


def _pooled(
    texts: list[Encoded],
    batches: Iterable[BatchStates],
    space: Space,
    pooled: Callable[[Array, Int64], Array],
) -> Array:
    """One row per text, in input order, (texts, d)."""
    out: Array = np.empty((len(texts), space.dim), dtype=np.float32)
    for batch, lengths, states in batches:
        out[list(batch.rows)] = pooled(states, lengths)
    return out


def _tokens(texts: list[Encoded], batches: Iterable[BatchStates], space: Space) -> Array:
    """One row per token that is not special, in input order, (tokens, d)."""
    kept = _kept(texts)
    stops = np.cumsum([len(k) for k in kept])
    out: Array = np.empty((int(stops[-1]), space.dim), dtype=np.float32)
    for batch, _, states in batches:
        for rows, i in zip(states, batch.rows, strict=True):
            out[stops[i] - len(kept[i]) : stops[i]] = rows[kept[i]]
    return out


def _kept(texts: list[Encoded]) -> list[npt.NDArray[np.intp]]:
    return [np.flatnonzero(np.asarray(e.special) == 0) for e in texts]


def _positions(texts: list[Encoded], start: int) -> dict[str, Ints]:
    """Text (counted from ``start``), end and next token of each token row, (tokens,) each."""
    kept = _kept(texts)
    sizes = [len(rows) for rows in kept]
    ids = [np.asarray(e.ids, dtype=np.int32)[rows] for e, rows in zip(texts, kept, strict=True)]
    ends = [np.asarray(e.char_end, np.int32)[rows] for e, rows in zip(texts, kept, strict=True)]
    following = np.roll(np.concatenate(ids), -1)
    following[np.cumsum(sizes)[np.flatnonzero(sizes)] - 1] = NO_TOKEN  # at each text's end
    return {
        "text_index": np.repeat(np.arange(start, start + len(texts), dtype=np.int32), sizes),
        "char_end": np.concatenate(ends),
        "next_token": following,
    }
