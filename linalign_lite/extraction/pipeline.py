"""Text in, hidden states out: length-sorted batches under a token budget, results in input order.

Sorting by length leaves almost no padding, and a budget in tokens instead of rows keeps every
batch the same amount of work, small enough to stay in a processor's cache.

What is too large for memory comes a shard at a time. A shard's states are those that `extract`
gives for its texts alone; other neighbours in a batch may change a state's last bit. `shard_states`
makes one of them, from nothing but its texts and how it is to be done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from linalign_lite.core.affine_map import Array
from linalign_lite.core.executor import IN_FLIGHT, map_in_order
from linalign_lite.core.hidden_states import HiddenStates, text_digest
from linalign_lite.core.shards.manifest import MAX_SHARDS
from linalign_lite.core.shards.resuming import Plan, Work, unfinished
from linalign_lite.core.shards.states_folder import StatesFolder
from linalign_lite.core.shards.uploading import Uploads, uploads
from linalign_lite.core.space import POOLINGS
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.extraction import inference
from linalign_lite.extraction.corpus import Chunk, Corpus, corpus_of, texts_of
from linalign_lite.extraction.inference import Progress, Way
from linalign_lite.extraction.session import Model, load_model
from linalign_lite.extraction.texts import Texts
from linalign_lite.storage.arrays import not_finite
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.remote import Remote, place

BATCH_TOKENS = 1024  # 512 to 2048 measured alike on two cores, more or less slower
WINDOW = 4096  # texts tokenised and sorted at a time
SHARD_TEXTS = 4096
DTYPES = {"fp32": "float32", "fp16": "float16"}  # of stored states


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
    held = texts_of(texts)
    way = _way(model, len(held.texts), pooling, normalize, max_length, batch_tokens)
    n = len(held.texts)
    windows = ((start, held.texts[start : start + WINDOW]) for start in range(0, n, WINDOW))
    parts = list(inference.parts(model, windows, way, progress))
    return _hidden(Chunk(0, held.texts, *held.label_ids()), way, inference.join(parts))


def extract_shards(
    model: Model,
    texts: Corpus | Texts | Sequence[str],
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
    corpus = corpus_of(texts)
    how = _shard_way(
        model, corpus, shard_texts, pooling, normalize, max_length, batch_tokens, dtype
    )
    return _shards(model, corpus.chunks(shard_texts), how, progress)


@dataclass(frozen=True)
class ShardWay:
    """How the texts of a shard become its states."""

    way: Way
    dtype: str  # "fp32" or "fp16"


def shard_states(
    model: Model, chunk: Chunk, how: ShardWay, progress: Progress | None = None
) -> HiddenStates:
    """The states of one shard's texts, as they are to be stored. Depends on nothing else.

    Raises InputError for a chunk without any row (a file of states cannot be empty), a text without
    tokens, and values that float16 cannot hold.
    """
    return _stored(chunk, how, inference.part(model, chunk.texts, chunk.start, how.way, progress))


def extract_to(
    out: PathLike | Remote,
    model: Model,
    texts: Corpus | Texts | Sequence[str],
    *,
    shard_texts: int = SHARD_TEXTS,
    pooling: str | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    dtype: str = "fp32",
    executor: Executor | None = None,
    in_flight: int = IN_FLIGHT,
    threads: int | None = None,
    progress: Progress | None = None,
) -> StatesFolder:
    """Write what `extract_shards` gives to the folder ``out``, or go on where that was cut off.

    out: a path, or a URL that fsspec knows ("s3://bucket/states"; extra `remote`, see `uploading`).
    A run that is killed leaves ``out`` unfinished (see `resuming`): no states for any reader. The
    same call again keeps the shards that are there, each checked, and makes the others; the folder
    is then what an uninterrupted run would have made, byte for byte.

    executor: makes the shards, any `concurrent.futures.Executor`; its workers load the model from
    the same path, with so many ``threads``, and no more than ``in_flight`` shards wait to be
    written. The states are those of one process, bit for bit where onnxruntime's are the same.

    Raises what `extract_shards` does, OutputExistsError when ``out`` is not empty, MismatchError
    when what is unfinished there was begun with another model, other texts or other options,
    FormatError when it was altered. InputErrors leave nothing of a run that was begun here.
    """
    corpus = corpus_of(texts)
    how = _shard_way(
        model, corpus, shard_texts, pooling, normalize, max_length, batch_tokens, dtype
    )
    plan = Plan(
        space=how.way.space,
        dtype=DTYPES[dtype],
        text_digest=corpus.digest,
        n_texts=corpus.n_texts,
        max_length=how.way.max_length,
        labels=corpus.labels,
        shard_texts=shard_texts,
        batch_tokens=batch_tokens,
    )
    out = place(out)
    begun = uploads(out, plan) if isinstance(out, Remote) else unfinished(out, plan)
    with begun as work:
        todo = _left(work, corpus.chunks(shard_texts), progress)
        if executor is None:
            parts = _shards(model, todo, how, progress)
        else:
            maker = _Maker(model.folder, model.card.digest, how, threads)
            parts = map_in_order(executor, maker, todo, in_flight=in_flight)
        for states in parts:
            work.add(states)
            if executor is not None and progress:
                progress(states.n_texts)
            del states  # or the next one is made beside it
        return work.finish()


@dataclass(frozen=True)
class _Maker:
    """Makes one shard's states elsewhere. Picklable: the model is loaded where it is called."""

    folder: Path
    digest: str
    how: ShardWay
    threads: int | None

    def __call__(self, chunk: Chunk) -> HiddenStates:
        model = load_model(self.folder, threads=self.threads)
        if model.card.digest != self.digest:
            raise MismatchError(
                f"a worker has another model at {self.folder}",
                got=model.card.digest[:8],
                expected=self.digest[:8],
            )
        return shard_states(model, chunk, self.how)


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


def _way(
    model: Model,
    n_texts: int,
    pooling: str | None,
    normalize: bool | None,
    max_length: int | None,
    batch_tokens: int,
) -> Way:
    if not n_texts:
        raise InputError("there are no texts")
    space = model.card.space(pooling, normalize)
    if space.pooling not in POOLINGS:
        raise InputError("unknown pooling", got=space.pooling, expected=", ".join(POOLINGS))
    if batch_tokens < 1:
        raise InputError("the token budget is not usable", got=str(batch_tokens), expected="1 up")
    return Way(space, model.context(max_length), batch_tokens)


def _shard_way(
    model: Model,
    corpus: Corpus,
    shard_texts: int,
    pooling: str | None,
    normalize: bool | None,
    max_length: int | None,
    batch_tokens: int,
    dtype: str,
) -> ShardWay:
    way = _way(model, corpus.n_texts, pooling, normalize, max_length, batch_tokens)
    _require_shards(corpus.n_texts, shard_texts)
    _require_dtype(dtype)
    return ShardWay(way, dtype)


def _shards(
    model: Model, chunks: Iterable[Chunk], how: ShardWay, progress: Progress | None
) -> Iterator[HiddenStates]:
    """`shard_states` of each chunk, the next one's tokens made meanwhile."""
    waiting: deque[Chunk] = deque()

    def windows() -> Iterator[tuple[int, Sequence[str]]]:
        for chunk in chunks:
            waiting.append(chunk)
            yield chunk.start, chunk.texts

    # no name holds a part or a shard: it can go before the next one is made
    yield from map(  # noqa: C417 (a generator would hold the part)
        lambda made: _stored(waiting.popleft(), how, made),
        inference.parts(model, windows(), how.way, progress),
    )


def _left(
    work: Work | Uploads, chunks: Iterable[Chunk], progress: Progress | None
) -> Iterator[Chunk]:
    """The chunks whose shards are not there yet. Those that are come first."""
    for chunk in chunks:
        if not work.has(chunk.start, text_digest(chunk.texts)):
            yield chunk
        elif progress:
            progress(len(chunk.texts))


def _stored(chunk: Chunk, how: ShardWay, made: inference.Part) -> HiddenStates:
    if not len(made.states):
        raise InputError(
            f"texts {chunk.start + 1} to {chunk.stop} have no token that is not special",
            hint="leave them out, or put more texts in a shard",
        )
    return _hidden(chunk, how.way, replace(made, states=narrow(made.states, how.dtype)))


def _hidden(chunk: Chunk, way: Way, made: inference.Part) -> HiddenStates:
    """The states of a chunk's texts, with their provenance."""
    ids, index = chunk.label_ids, made.places.get("text_index")
    if ids is not None and index is not None:
        ids = ids[index - chunk.start]
    return HiddenStates(
        states=made.states,
        space=way.space,
        text_digest=text_digest(chunk.texts),
        n_texts=len(chunk.texts),
        n_cut=made.n_cut,
        max_length=way.max_length,
        labels=chunk.labels,
        label_ids=ids,
        **made.places,
    )
