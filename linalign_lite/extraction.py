"""Text in, hidden states out: length-sorted batches under a token budget, results in input order.

Sorting by length leaves almost no padding, and a budget in tokens instead of rows keeps every
batch the same amount of work, small enough to stay in a processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import InputError
from linalign_lite.hidden import HiddenStates
from linalign_lite.linear import POOLINGS, Array, Space
from linalign_lite.runtime import Encoded, Int64, Model
from linalign_lite.texts import Texts

BATCH_TOKENS = 1024  # 512 to 2048 measured alike on two cores, more or less slower
WINDOW = 16384  # texts tokenised and sorted at a time

Progress = Callable[[int], None]


@dataclass(frozen=True)
class _Batch:
    rows: tuple[int, ...]  # indices into the window
    length: int  # tokens of the longest row


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
    if not isinstance(texts, Texts):
        if isinstance(texts, str):  # a sequence of one-character texts, to Python
            raise InputError("a single string is not a list of texts", hint="put it in a list")
        texts = Texts(tuple(texts))
    if not texts.texts:
        raise InputError("there are no texts")
    space = model.card.space(pooling, normalize)
    if space.pooling not in POOLINGS:
        raise InputError("unknown pooling", got=space.pooling, expected=", ".join(POOLINGS))
    if batch_tokens < 1:
        raise InputError("the token budget is not usable", got=str(batch_tokens), expected="1 up")
    read = _tokens if space.pooling == "tokens" else _pooled
    parts: list[Array] = []
    encoded: list[Encoded] = []
    for start in range(0, len(texts.texts), WINDOW):
        window = model.encode(texts.texts[start : start + WINDOW], max_length)
        _require_tokens(window, start)
        batches = _run(model, window, batch_tokens, progress or (lambda _: None))
        parts.append(read(window, batches, space))
        encoded += [_trim(e, keep=space.pooling == "tokens") for e in window]
    states = np.concatenate(parts)
    if space.normalize:
        states /= np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
    labels, label_ids = texts.label_ids()
    index, ends = _positions(encoded) if space.pooling == "tokens" else (None, None)
    if index is not None and label_ids is not None:
        label_ids = label_ids[index]
    return HiddenStates(
        states=states,
        space=space,
        text_digest=texts.digest,
        n_texts=len(texts.texts),
        n_cut=sum(e.cut for e in encoded),
        max_length=model.context(max_length),
        labels=labels,
        label_ids=label_ids,
        text_index=index,
        char_end=ends,
    )


def plan_batches(lengths: Sequence[int], budget: int) -> Iterator[_Batch]:
    """Rows sorted from long to short, cut so that rows × longest ≤ budget (one row at least).

    The longest come first: what does not fit in memory fails at once, not after an hour.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        longest = max(lengths[order[start]], 1)
        stop = start + max(1, budget // longest)
        yield _Batch(tuple(order[start:stop]), longest)
        start = stop


def pool(states: Array, lengths: Int64, pooling: str) -> Array:
    """One state a row. states: (batch, length, d), padded on the right; lengths: (batch,)."""
    if pooling == "cls":
        first: Array = states[:, 0]
        return first
    if pooling == "last":
        last: Array = states[np.arange(len(states)), lengths - 1]
        return last
    inside = np.arange(states.shape[1])[None, :] < lengths[:, None]
    weights = (inside / lengths[:, None]).astype(np.float32)
    mean: Array = np.matmul(weights[:, None, :], states)[:, 0]
    return mean


Ran = tuple[_Batch, Int64, Array]  # a batch, the lengths of its rows, their states


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
    out: list[Array] = [np.empty((0, space.dim), dtype=np.float32)] * len(window)
    for batch, _, states in batches:
        for rows, i in zip(states, batch.rows, strict=True):
            out[i] = rows[np.flatnonzero(np.asarray(window[i].special) == 0)]
    return np.concatenate(out)


def _require_tokens(window: list[Encoded], start: int) -> None:
    for i, encoded in enumerate(window, start + 1):
        if not encoded.ids:
            raise InputError(f"text {i} has no token left after the tokenizer's normalisation")


def _trim(encoded: Encoded, *, keep: bool) -> Encoded:
    """Without the tokens, when only the count of cut texts is wanted."""
    return encoded if keep else Encoded((), (), (), encoded.cut)


def _positions(
    encoded: list[Encoded],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """For each token row: its text, and the character at which it ends."""
    ends = [
        [end for end, special in zip(e.char_end, e.special, strict=True) if not special]
        for e in encoded
    ]
    index = np.repeat(np.arange(len(ends), dtype=np.int32), [len(e) for e in ends])
    return index, np.array([end for row in ends for end in row], dtype=np.int32)
