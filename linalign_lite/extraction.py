"""Text in, hidden states out: length-sorted batches under a token budget, results in input order.

Sorting by length leaves almost no padding, and a budget in tokens instead of rows keeps every
batch the same amount of work, small enough to stay in a processor's cache.

What is too large for memory comes a shard at a time. A shard's states are those that `extract`
gives for its texts alone; other neighbours in a batch may change a state's last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from linalign_lite.arrays import not_finite
from linalign_lite.batching import Batch, plan_batches, pool
from linalign_lite.errors import InputError
from linalign_lite.files import PathLike
from linalign_lite.hidden import NO_TOKEN, HiddenStates, Ints, text_digest
from linalign_lite.linear import POOLINGS, Array, Space, row_blocks
from linalign_lite.runtime import Encoded, Int64, Model
from linalign_lite.shards import MAX_SHARDS, StatesFolder, write_shards
from linalign_lite.texts import Texts

BATCH_TOKENS = 1024  # 512 to 2048 measured alike on two cores, more or less slower
WINDOW = 16384  # texts tokenised and sorted at a time
SHARD_TEXTS = 4096
DTYPES = {"fp32": "float32", "fp16": "float16"}

Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class _Job:
    """What is to be extracted, its options checked."""

    model: Model
    texts: Texts
    space: Space
    max_length: int | None
    batch_tokens: int
    tally: Progress
    labels: tuple[str, ...]
    label_ids: Ints | None  # shape: (texts,)


@dataclass(frozen=True, eq=False)
class _Part:
    """What some of the texts give."""

    states: Array  # shape: (n, d)
    n_cut: int
    places: Mapping[str, Ints]  # of tokens: text_index (from the first of all texts), and so on


def extract(
    model: Model,
    texts: Texts | Sequence[str],
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> HiddenStates:
    """Hidden states of texts, float32, row i being text i.

    pooling: "mean" over the text's tokens, the "last" token, the first ("cls"), or "tokens" (a row
    a token, special tokens left out). pooling and normalize (each row to length 1) default to the
    model's card. progress is called with the number of texts done since the last call.

    Raises InputError for an empty list, an unknown pooling, a max_length above the context, and a
    batch_tokens below 1.
    """
    job = _job(model, texts, pooling, normalize, max_length, batch_tokens, progress)
    n = len(job.texts.texts)
    whole = _join([_part(job, start, min(start + WINDOW, n)) for start in range(0, n, WINDOW)])
    return _hidden(job, 0, n, whole)


def extract_shards(
    model: Model,
    texts: Texts | Sequence[str],
    *,
    shard_texts: int = SHARD_TEXTS,
    pooling: str | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    dtype: str = "fp32",
    progress: Progress | None = None,
) -> Iterator[HiddenStates]:
    """Hidden states of texts, ``shard_texts`` texts at a time; the other options as `extract`.

    Each shard is made when it is asked for, and nothing here keeps the one before. Its n_texts and
    text_digest are of its own texts; its text_index counts from the first text of all, and its
    label_ids index the labels of all. dtype: "fp32", or "fp16" for half the size.

    Raises InputError as `extract` does, and for shard_texts below 1, shards more than a folder may
    have, an unknown dtype, values that float16 cannot hold, and a shard without any row.
    """
    job = _job(model, texts, pooling, normalize, max_length, batch_tokens, progress)
    _require_shards(len(job.texts.texts), shard_texts)
    _require_dtype(dtype)
    return _shards(job, shard_texts, dtype)


def extract_to(
    out: PathLike,
    model: Model,
    texts: Texts | Sequence[str],
    *,
    shard_texts: int = SHARD_TEXTS,
    pooling: str | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    dtype: str = "fp32",
    progress: Progress | None = None,
) -> StatesFolder:
    """Write what `extract_shards` gives to the folder ``out``, whole or not at all.

    Raises what `extract_shards` does, and OutputExistsError when ``out`` is not empty.
    """
    texts = _texts(texts)
    parts = extract_shards(
        model,
        texts,
        shard_texts=shard_texts,
        pooling=pooling,
        normalize=normalize,
        max_length=max_length,
        batch_tokens=batch_tokens,
        dtype=dtype,
        progress=progress,
    )
    return write_shards(out, parts, text_digest=texts.digest)


def narrow(states: Array, dtype: str) -> Array:
    """States as they are to be stored: "fp32" or "fp16".

    Raises InputError for another dtype, and for values that float16 cannot hold.
    """
    _require_dtype(dtype)
    with np.errstate(over="ignore"):
        stored: Array = states.astype(DTYPES[dtype], copy=False)
    if dtype == "fp16" and not_finite(stored):
        raise InputError(
            "some states are beyond float16", expected="65504 at most", hint="store them as fp32"
        )
    return stored


def _require_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise InputError("unknown dtype", got=dtype[:20], expected=" or ".join(DTYPES))


def _require_shards(n_texts: int, shard_texts: int) -> None:
    least = max(1, -(-n_texts // MAX_SHARDS))  # a folder has no more than MAX_SHARDS
    if shard_texts < least:
        raise InputError(
            "the number of texts a shard is not usable",
            got=str(shard_texts),
            expected=f"{least} or more",
        )


def _texts(texts: Texts | Sequence[str]) -> Texts:
    if isinstance(texts, Texts):
        return texts
    if isinstance(texts, str):  # a sequence of one-character texts, to Python
        raise InputError("a single string is not a list of texts", hint="put it in a list")
    return Texts(tuple(texts))


def _job(
    model: Model,
    texts: Texts | Sequence[str],
    pooling: str | None,
    normalize: bool | None,
    max_length: int | None,
    batch_tokens: int,
    progress: Progress | None,
) -> _Job:
    texts = _texts(texts)
    if not texts.texts:
        raise InputError("there are no texts")
    space = model.card.space(pooling, normalize)
    if space.pooling not in POOLINGS:
        raise InputError("unknown pooling", got=space.pooling, expected=", ".join(POOLINGS))
    if batch_tokens < 1:
        raise InputError("the token budget is not usable", got=str(batch_tokens), expected="1 up")
    model.context(max_length)
    tally = progress or (lambda _: None)
    return _Job(model, texts, space, max_length, batch_tokens, tally, *texts.label_ids())


def _shards(job: _Job, shard_texts: int, dtype: str) -> Iterator[HiddenStates]:
    n = len(job.texts.texts)
    for start in range(0, n, shard_texts):
        stop = min(start + shard_texts, n)
        # no name holds a shard: it can go before the next one is made
        yield _hidden(job, start, stop, _stored(job, start, stop, dtype))


def _stored(job: _Job, start: int, stop: int, dtype: str) -> _Part:
    """The part as it is to be stored; a file of states cannot be empty."""
    part = _part(job, start, stop)
    if not len(part.states):
        raise InputError(
            f"texts {start + 1} to {stop} have no token that is not special",
            hint="leave them out, or put more texts in a shard",
        )
    return replace(part, states=narrow(part.states, dtype))


def _hidden(job: _Job, start: int, stop: int, part: _Part) -> HiddenStates:
    """The states of the texts from ``start`` to ``stop``, with their provenance."""
    ids, index = job.label_ids, part.places.get("text_index")
    if ids is not None:
        ids = ids[start:stop] if index is None else ids[index]
    return HiddenStates(
        states=part.states,
        space=job.space,
        text_digest=text_digest(job.texts.texts[start:stop]),
        n_texts=stop - start,
        n_cut=part.n_cut,
        max_length=job.model.context(job.max_length),
        labels=job.labels,
        label_ids=ids,
        **part.places,
    )


def _part(job: _Job, start: int, stop: int) -> _Part:
    window = job.model.encode(job.texts.texts[start:stop], job.max_length)
    _require_tokens(window, start)
    tokens = job.space.pooling == "tokens"
    batches = _run(job.model, window, job.batch_tokens, job.tally)
    states = (_tokens if tokens else _pooled)(window, batches, job.space)
    if job.space.normalize:
        for rows in row_blocks(states):
            norms = np.linalg.norm(states[rows], axis=1, keepdims=True)
            states[rows] /= np.maximum(norms, 1e-12)
    places = _places(window, start) if tokens else {}
    return _Part(states, sum(e.cut for e in window), places)


def _join(parts: Sequence[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    return _Part(
        np.concatenate([p.states for p in parts]),
        sum(p.n_cut for p in parts),
        {name: np.concatenate([p.places[name] for p in parts]) for name in parts[0].places},
    )


Ran = tuple[Batch, Int64, Array]  # a batch, the lengths of its rows, their states


def _run(model: Model, window: list[Encoded], budget: int, tally: Progress) -> Iterator[Ran]:
    for batch in plan_batches([len(e.ids) for e in window], budget):
        ids = np.zeros((len(batch.rows), batch.length), dtype=np.int64)
        lengths = np.array([len(window[i].ids) for i in batch.rows], dtype=np.int64)
        for row, i in zip(ids, batch.rows, strict=True):
            row[: len(window[i].ids)] = window[i].ids
        mask = (np.arange(batch.length)[None, :] < lengths[:, None]).astype(np.int64)
        yield batch, lengths, model.run(ids, mask)
        tally(len(batch.rows))


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


def _require_tokens(window: list[Encoded], start: int) -> None:
    for i, encoded in enumerate(window, start + 1):
        if not encoded.ids:
            raise InputError(f"text {i} has no token left after the tokenizer's normalisation")


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
