"""Extract hidden states: length-sorted batches under a token budget, results in input order.

Sorting by length leaves almost no padding; a budget in tokens keeps every batch small enough for a
processor's cache. Texts too many for memory are extracted one shard at a time. A shard's states are
those that `extract` gives for its texts alone; other neighbours in a batch may change the last bit.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from itertools import starmap
from pathlib import Path

import numpy as np

from linalign_lite.core.affine_map import Array
from linalign_lite.core.executor import IN_FLIGHT, map_in_order
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.shards.manifest import MAX_SHARDS
from linalign_lite.core.shards.plan import FolderPlan
from linalign_lite.core.shards.states_folder import StatesFolder
from linalign_lite.core.shards.writer import FolderWriter, unfinished
from linalign_lite.core.space import POOLINGS
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.extraction import inference
from linalign_lite.extraction.corpus import Chunk, Corpus, corpus_of, texts_of
from linalign_lite.extraction.inference import ExtractionOptions, Progress
from linalign_lite.extraction.session import Model, load_model
from linalign_lite.extraction.texts import Texts
from linalign_lite.storage.arrays import count_nonfinite
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.places import place
from linalign_lite.storage.remote import Remote

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
    prompt: str | None = None,
    max_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> HiddenStates:
    """Hidden states of texts, float32, row i being text i.

    pooling: of a text's tokens (see `batching.pool`), or "tokens" (one row per token, special
    tokens left out). prompt: the name of one of the model's prompts, or a text, that stands before
    each text; "" for none. pooling, normalize (each row to length 1) and prompt default to those of
    the model's card. progress is called with the number of texts done since the last call.
    Raises InputError for an empty list, an unknown pooling or prompt, a max_length above the
    context, and a batch_tokens below 1.
    """
    held = texts_of(texts)
    n = len(held.texts)
    space, length = model.card.space(pooling, normalize, prompt), model.context(max_length)
    options = ExtractionOptions(space, length, batch_tokens, "fp32", shard_texts=n)
    _check(options, n)
    windows = (Chunk(start, held.texts[start : start + WINDOW]) for start in range(0, n, WINDOW))
    parts = [part for _, part in inference.parts(model, windows, options, progress)]
    whole = Chunk(0, held.texts, held.digest, *held.label_ids())
    return _hidden(options, whole, inference.join(parts))


def extract_shards(
    model: Model,
    texts: Corpus | Texts | Sequence[str],
    *,
    shard_texts: int = SHARD_TEXTS,
    pooling: str | None = None,
    normalize: bool | None = None,
    prompt: str | None = None,
    max_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    dtype: str = "fp32",
    progress: Progress | None = None,
) -> Iterator[HiddenStates]:
    """Hidden states of texts, ``shard_texts`` texts at a time; the other options as `extract`.

    Each shard is computed when the iterator is advanced, and the one before is not kept. Its
    n_texts and text_digest are of its own texts; its text_index counts from the first text of all,
    and its label_ids index the labels of all. dtype: "fp32", or "fp16" for half the size.
    Raises InputError as `extract` does, and for shard_texts below 1, more than MAX_SHARDS shards,
    an unknown dtype, values that float16 cannot hold, and a shard without any row.
    """
    corpus = corpus_of(texts)
    space, length = model.card.space(pooling, normalize, prompt), model.context(max_length)
    options = ExtractionOptions(space, length, batch_tokens, dtype, shard_texts)
    _check(options, corpus.n_texts)
    return _shards(model, corpus.chunks(options.shard_texts), options, progress)


def extract_to(
    out: PathLike | Remote,
    model: Model,
    texts: Corpus | Texts | Sequence[str],
    *,
    shard_texts: int = SHARD_TEXTS,
    pooling: str | None = None,
    normalize: bool | None = None,
    prompt: str | None = None,
    max_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    dtype: str = "fp32",
    executor: Executor | None = None,
    in_flight: int = IN_FLIGHT,
    threads: int | None = None,
    progress: Progress | None = None,
) -> StatesFolder:
    """Write the shards of `extract_shards` to the folder ``out``, or resume an interrupted run.

    out: a path, or a URL that fsspec knows ("s3://bucket/states"; extra `remote`).
    A run that is killed leaves ``out`` unfinished (see `core.shards`), and no reader opens it. The
    same call again keeps the finished shards, each checked, and computes the others; the folder
    is then byte for byte that of an uninterrupted run.

    executor: computes the shards, any `concurrent.futures.Executor`; each worker loads the model
    once, from the same path, with so many ``threads``, and at most ``in_flight`` shards wait to be
    written. The states are those of one process, bit for bit where onnxruntime's are the same.
    Raises what `extract_shards` does, OutputExistsError when ``out`` is not empty, MismatchError
    when the unfinished folder was begun with another model, other texts or other options,
    FormatError when it was altered. An InputError removes a folder that this run began.
    """
    corpus = corpus_of(texts)
    space, length = model.card.space(pooling, normalize, prompt), model.context(max_length)
    options = ExtractionOptions(space, length, batch_tokens, dtype, shard_texts)
    _check(options, corpus.n_texts)
    fields = vars(options) | {"dtype": DTYPES[options.dtype]}
    plan = FolderPlan(
        text_digest=corpus.digest, n_texts=corpus.n_texts, labels=corpus.labels, **fields
    )
    with unfinished(place(out), plan) as work:
        todo = _missing(work, corpus.chunks(options.shard_texts), progress)
        if executor is None:
            shards = _shards(model, todo, options, progress)
        else:
            worker = _Worker(model.folder, model.card.digest, options, threads)
            shards = map_in_order(executor, worker, todo, in_flight=in_flight)
        for states in shards:
            work.add(states)
            if executor is not None and progress:
                progress(states.n_texts)
            del states  # free it before the next one is computed
        return work.finish()


_loaded = threading.local()  # the model of each worker thread, with what it was loaded for


@dataclass(frozen=True)
class _Worker:
    """Computes a shard's states in a worker. Picklable: each worker loads the model once."""

    folder: Path
    digest: str
    options: ExtractionOptions
    threads: int | None

    def __call__(self, chunk: Chunk) -> HiddenStates:
        key = (self.folder, self.digest, self.threads)
        if getattr(_loaded, "key", None) != key:
            model = load_model(self.folder, threads=self.threads)
            if model.card.digest != self.digest:
                raise MismatchError(
                    f"a worker has another model at {self.folder}",
                    got=model.card.digest[:8],
                    expected=self.digest[:8],
                )
            _loaded.model, _loaded.key = model, key
        (states,) = _shards(_loaded.model, [chunk], self.options)
        return states


def narrow(states: Array, dtype: str) -> Array:
    """Convert states to "fp32" or "fp16". InputError for values that float16 cannot hold."""
    with np.errstate(over="ignore"):
        stored: Array = states.astype(DTYPES[dtype], copy=False)
    if dtype == "fp16" and count_nonfinite(stored):
        raise InputError(
            "some states are beyond float16", expected="65504 at most", hint="store them as fp32"
        )
    return stored


def _check(options: ExtractionOptions, n_texts: int) -> None:
    """Raise InputError unless the options can be used for so many texts."""
    if not n_texts:
        raise InputError("there are no texts")
    for name, value, known in (
        ("pooling", options.space.pooling, POOLINGS),
        ("dtype", options.dtype, tuple(DTYPES)),
    ):
        if value not in known:
            raise InputError(f"unknown {name}", got=value[:20], expected=", ".join(known))
    for name, number, least in (
        ("token budget", options.batch_tokens, 1),
        ("number of texts per shard", options.shard_texts, max(1, -(-n_texts // MAX_SHARDS))),
    ):
        if number < least:
            got, expected = str(number), f"{least} or more"
            raise InputError(f"the {name} is not usable", got=got, expected=expected)


def _shards(
    model: Model,
    chunks: Iterable[Chunk],
    options: ExtractionOptions,
    progress: Progress | None = None,
) -> Iterator[HiddenStates]:
    """States of each chunk's texts as they are stored; they depend on nothing else.

    Raises InputError for a chunk without any row (a file of states cannot be empty), a text without
    tokens, and values that float16 cannot hold.
    """
    # no variable refers to a part or a shard, so that it is freed before the next one is computed
    yield from starmap(partial(_stored, options), inference.parts(model, chunks, options, progress))


def _missing(
    work: FolderWriter, chunks: Iterable[Chunk], progress: Progress | None
) -> Iterator[Chunk]:
    """The chunks without a finished shard; those with one come first."""
    for chunk in chunks:
        if not work.has(chunk.start, chunk.digest):
            yield chunk
        elif progress:
            progress(len(chunk.texts))


def _stored(options: ExtractionOptions, chunk: Chunk, part: inference.Part) -> HiddenStates:
    first = chunk.start
    if not len(part.states):
        raise InputError(
            f"texts {first + 1} to {first + len(chunk.texts)} have no token that is not special",
            hint="leave them out, or put more texts in a shard",
        )
    return _hidden(options, chunk, replace(part, states=narrow(part.states, options.dtype)))


def _hidden(options: ExtractionOptions, chunk: Chunk, part: inference.Part) -> HiddenStates:
    """States of a chunk's texts, with their provenance."""
    ids, index = chunk.label_ids, part.positions.get("text_index")
    if ids is not None and index is not None:
        ids = ids[index - chunk.start]
    return HiddenStates(
        states=part.states,
        space=options.space,
        text_digest=chunk.digest,
        n_texts=len(chunk.texts),
        n_cut=part.n_cut,
        max_length=options.max_length,
        labels=chunk.labels,
        label_ids=ids,
        **part.positions,
    )
