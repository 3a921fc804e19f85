"""Texts through a model: what `extract` does to one window of them.

`part` is the one function that makes states of texts; who calls it decides which texts stand
together, and where. `parts` does the same to window after window, and splits the next one into
tokens while the model runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from linalign_lite.core.affine_map import Array, row_blocks
from linalign_lite.core.hidden_states import NO_TOKEN, Ints
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError
from linalign_lite.extraction.batching import Batch, plan_batches, pool
from linalign_lite.extraction.session import Encoded, Int64, Model

Progress = Callable[[int], None]
Ran = tuple[Batch, Int64, Array]  # a batch, the lengths of its rows, their states


@dataclass(frozen=True)
class Way:
    """How texts become states: the space that the states are in, and what else they depend on."""

    space: Space
    max_length: int  # tokens
    batch_tokens: int


@dataclass(frozen=True, eq=False)
class Part:
    """What some of the texts give."""

    states: Array  # shape: (n, d)
    n_cut: int
    places: Mapping[str, Ints]  # of tokens: text_index (from the first of all texts), and so on


def part(
    model: Model, texts: Sequence[str], start: int, way: Way, tally: Progress | None = None
) -> Part:
    """States of ``texts``, the first of them being text ``start`` of all.

    Raises InputError for a text without tokens, LinalignError when the model fails.
    """
    return states_of(model, encode(model, texts, start, way), start, way, tally)


def parts(
    model: Model,
    windows: Iterable[tuple[int, Sequence[str]]],
    way: Way,
    tally: Progress | None = None,
) -> Iterator[Part]:
    """`part` of each window (its first text's number, its texts), in order.

    The tokenizer lets go of the interpreter, so it works on the next window in a thread.
    """
    with ThreadPoolExecutor(1, "tokens") as reader:
        waiting: deque[tuple[int, Future[list[Encoded]]]] = deque()
        for start, texts in windows:
            waiting.append((start, reader.submit(encode, model, texts, start, way)))
            if len(waiting) > 1:
                first, window = waiting.popleft()
                yield states_of(model, window.result(), first, way, tally)
        for first, window in waiting:
            yield states_of(model, window.result(), first, way, tally)


def encode(model: Model, texts: Sequence[str], start: int, way: Way) -> list[Encoded]:
    """The texts as tokens. Raises InputError for one that has none."""
    window = model.encode(texts, way.max_length, places=way.space.pooling == "tokens")
    for i, encoded in enumerate(window, start + 1):
        if not encoded.ids:
            raise InputError(f"text {i} has no token left after the tokenizer's normalisation")
    return window


def states_of(
    model: Model, window: list[Encoded], start: int, way: Way, tally: Progress | None = None
) -> Part:
    """The rest of `part`, after `encode`."""
    tokens = way.space.pooling == "tokens"
    batches = _run(model, window, way.batch_tokens, tally or (lambda _: None))
    states = (_tokens if tokens else _pooled)(window, batches, way.space)
    if way.space.normalize:
        for rows in row_blocks(states):
            norms = np.linalg.norm(states[rows], axis=1, keepdims=True)
            states[rows] /= np.maximum(norms, 1e-12)
    places = _places(window, start) if tokens else {}
    return Part(states, sum(e.cut for e in window), places)


def join(parts: Sequence[Part]) -> Part:
    """Parts that follow one another as one."""
    if len(parts) == 1:
        return parts[0]
    return Part(
        np.concatenate([p.states for p in parts]),
        sum(p.n_cut for p in parts),
        {name: np.concatenate([p.places[name] for p in parts]) for name in parts[0].places},
    )


def _run(model: Model, window: list[Encoded], budget: int, tally: Progress) -> Iterator[Ran]:
    plan = list(plan_batches([len(e.ids) for e in window], budget))
    run, callers = model.runner(len(plan))

    def one(batch: Batch) -> tuple[Int64, Array]:
        ids = np.zeros((len(batch.rows), batch.length), dtype=np.int64)
        lengths = np.array([len(window[i].ids) for i in batch.rows], dtype=np.int64)
        for row, i in zip(ids, batch.rows, strict=True):
            row[: len(window[i].ids)] = window[i].ids
        mask = (np.arange(batch.length)[None, :] < lengths[:, None]).astype(np.int64)
        return lengths, run(ids, mask)

    for batch, (lengths, states) in zip(plan, _ordered(one, plan, callers), strict=True):
        yield batch, lengths, states
        del states  # or it is held while the next one is waited for
        tally(len(batch.rows))


def _ordered(
    call: Callable[[Batch], tuple[Int64, Array]], plan: Sequence[Batch], callers: int
) -> Iterator[tuple[Int64, Array]]:
    """Results in order, from ``callers`` threads, few of them made before they are asked for."""
    if callers == 1:
        yield from map(call, plan)
        return
    with ThreadPoolExecutor(callers, "batches") as crew:
        waiting: deque[Future[tuple[Int64, Array]]] = deque()
        try:
            for batch in plan:
                waiting.append(crew.submit(call, batch))
                if len(waiting) > callers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            crew.shutdown(wait=True, cancel_futures=True)


def _pooled(window: list[Encoded], batches: Iterable[Ran], space: Space) -> Array:
    """A row a text, in input order, (texts, d)."""
    out: Array = np.empty((len(window), space.dim), dtype=np.float32)
    for batch, lengths, states in batches:
        out[list(batch.rows)] = pool(states, lengths, space.pooling)
    return out


def _tokens(window: list[Encoded], batches: Iterable[Ran], space: Space) -> Array:
    """A row a token that is not special, in input order, (tokens, d)."""
    kept = [np.flatnonzero(np.asarray(e.special) == 0) for e in window]
    stops = np.cumsum([len(k) for k in kept])
    out: Array = np.empty((int(stops[-1]), space.dim), dtype=np.float32)
    for batch, _, states in batches:
        for rows, i in zip(states, batch.rows, strict=True):
            out[stops[i] - len(kept[i]) : stops[i]] = rows[kept[i]]
    return out


def _places(window: list[Encoded], start: int) -> dict[str, Ints]:
    """Of each token row: its text, the window's first being ``start``, its end, the next token."""
    kept = [np.flatnonzero(np.asarray(e.special) == 0) for e in window]
    sizes = [len(rows) for rows in kept]
    ids = [np.asarray(e.ids, dtype=np.int32)[rows] for e, rows in zip(window, kept, strict=True)]
    ends = [np.asarray(e.char_end, np.int32)[rows] for e, rows in zip(window, kept, strict=True)]
    return {
        "text_index": np.repeat(np.arange(start, start + len(window), dtype=np.int32), sizes),
        "char_end": np.concatenate(ends),
        "next_token": np.concatenate([_following(row) for row in ids]),
    }


def _following(ids: Ints) -> Ints:
    after = np.full_like(ids, NO_TOKEN)
    after[:-1] = ids[1:]
    return after
