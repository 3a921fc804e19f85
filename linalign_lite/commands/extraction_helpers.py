"""Texts to states, as the commands do it: with a bar, and with what the user should know."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from linalign_lite.commands.console import Console
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.extraction.texts import Texts

if TYPE_CHECKING:
    from linalign_lite.core.shards.states_folder import StatesFolder
    from linalign_lite.extraction.session import Model


def states_of(
    console: Console,
    model: Path,
    texts: Texts,
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    threads: int | None = None,
) -> HiddenStates:
    """Load the model and extract; None is the model's, or the library's, default."""
    from linalign_lite.extraction.pipeline import BATCH_TOKENS, extract

    with extracting(console, model, len(texts.texts), threads) as (loaded, tally):
        states = extract(
            loaded,
            texts,
            pooling=pooling,
            normalize=normalize,
            max_length=max_length,
            batch_tokens=BATCH_TOKENS if batch_tokens is None else batch_tokens,
            progress=tally,
        )
    note_losses(console, texts.n_blank, states)
    return states


@contextlib.contextmanager
def extracting(
    console: Console, model: Path, n_texts: int, threads: int | None
) -> Iterator[tuple[Model, Callable[[int], None]]]:
    """The model, loaded, and what moves the bar."""
    from linalign_lite.extraction.session import load_model

    if threads is not None:  # the tokenizer's own threads; read when it first works
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    loaded = load_model(model, threads=threads)
    with console.progress("extracting", n_texts) as tally:
        yield loaded, tally


def note_losses(console: Console, n_blank: int, states: HiddenStates | StatesFolder) -> None:
    """What of the texts is not in the states."""
    if n_blank:
        console.note(f"{n_blank} blank line(s) skipped")
    if states.n_cut:
        console.note(f"{states.n_cut} text(s) cut to {states.max_length} tokens")
