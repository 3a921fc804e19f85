"""Folders of states made for tests: two views of the same causes, cut into shards at will."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from linalign_lite.core.hidden_states import HiddenStates, text_digest
from linalign_lite.core.shards.states_folder import StatesFolder, write_shards
from linalign_lite.core.space import Space

SPACES = {"x": Space(7, "ab" * 32, "reader", "mean"), "y": Space(5, "cd" * 32, "speaker", "mean")}


def rows(name: str, start: int, stop: int, *, dims: dict[str, int] | None = None) -> np.ndarray:
    """Rows start to stop of one of the two views; a row is the same whatever is asked for."""
    dim = (dims or {}).get(name, SPACES[name].dim)
    mix = np.random.default_rng([1, ord(name)])
    loading, mean = mix.normal(size=(4, dim)), mix.normal(size=dim) * 5
    causes = np.stack([np.random.default_rng([2, i]).normal(size=4) for i in range(start, stop)])
    noise = np.stack(
        [np.random.default_rng([3, ord(name), i]).normal(size=dim) for i in range(start, stop)]
    )
    return (causes @ loading + mean + 0.3 * noise).astype(np.float32)


def digest(start: int, stop: int) -> str:
    return text_digest(map(str, range(start, stop)))


def pooled(name: str, n: int, first: int = 0) -> HiddenStates:
    return HiddenStates(
        rows(name, first, first + n), SPACES[name], digest(first, first + n), n_texts=n
    )


def folder(
    path: Path, name: str, sizes: Sequence[int], *, first: int = 0, dtype: type = np.float32
) -> StatesFolder:
    """A folder whose shards have these sizes; its first text has the number ``first``."""

    def parts():
        start = first
        for size in sizes:
            yield HiddenStates(
                rows(name, start, start + size).astype(dtype),
                SPACES[name],
                digest(start, start + size),
                n_texts=size,
            )
            start += size

    return write_shards(path, parts(), text_digest=digest(first, first + sum(sizes)))


def token_folder(path: Path, name: str, sizes: Sequence[int], cuts: Sequence[int]) -> StatesFolder:
    """Token states: text i has i % 4 + 1 words, each of them cut at the characters ``cuts``."""
    space = Space(SPACES[name].dim, SPACES[name].model, name, "tokens")

    def parts():
        start = 0
        for size in sizes:
            index, ends, states = [], [], []
            for text in range(start, start + size):
                for word in range(text % 4 + 1):
                    for cut in cuts:
                        end = word * 10 + cut
                        index.append(text)
                        ends.append(end)
                        states.append(rows(name, text * 50 + end, text * 50 + end + 1)[0])
            yield HiddenStates(
                np.stack(states), space, digest(start, start + size), n_texts=size,
                text_index=np.array(index, np.int32), char_end=np.array(ends, np.int32),
                next_token=np.zeros(len(index), np.int32),
            )  # fmt: skip
            start += size

    return write_shards(path, parts(), text_digest=digest(0, sum(sizes)))
