"""Texts to states, as the commands do it: with a bar, and with what the user should know."""

from __future__ import annotations

import os
from pathlib import Path

from linalign_lite.commands.console import Console
from linalign_lite.hidden import HiddenStates
from linalign_lite.texts import Texts


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
    from linalign_lite.extraction import BATCH_TOKENS, extract
    from linalign_lite.runtime import load_model

    if threads is not None:  # the tokenizer's own threads; read when it first works
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    loaded = load_model(model, threads=threads)
    with console.progress("extracting", len(texts.texts)) as tally:
        states = extract(
            loaded,
            texts,
            pooling=pooling,
            normalize=normalize,
            max_length=max_length,
            batch_tokens=BATCH_TOKENS if batch_tokens is None else batch_tokens,
            progress=tally,
        )
    if texts.n_blank:
        console.note(f"{texts.n_blank} blank line(s) skipped")
    if states.n_cut:
        console.note(f"{states.n_cut} text(s) cut to {states.max_length} tokens")
    return states
