"""Teacher-forced metrics: two models' token states of the same texts, at shared positions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import NO_TOKEN, POSITIONS, HiddenStates
from linalign_lite.core.token_alignment import pair_positions
from linalign_lite.extraction.inference import Progress
from linalign_lite.extraction.model_card import HEAD_FILE
from linalign_lite.extraction.pipeline import extract
from linalign_lite.extraction.session import Model
from linalign_lite.extraction.texts import Texts
from linalign_lite.generation.evaluation.token_metrics import (
    Ints,
    Sums,
    compare,
    negative_log_likelihood,
)
from linalign_lite.generation.hybrid import require_map, require_token_head

WINDOW = 256  # texts whose token states are held at once
STATES = 256 << 20  # bytes of token states held at once, by estimate
AHEAD = 1e-2  # relative difference by which a state may depend on later tokens


@dataclass(frozen=True, eq=False)
class Hybrid:
    """Models, map and heads that belong together; see `make_hybrid`."""

    source: Model
    target: Model
    affine: AffineMap | None
    head: Head  # the target's
    source_head: Head | None


def make_hybrid(
    source: Model, target: Model, affine: AffineMap | None, head: Head | None
) -> Hybrid:
    """Load the heads. InputError when a part is missing, MismatchError when one does not fit."""
    require_map(affine, source, target)
    head = require_token_head(target, target.token_head() if head is None else head)
    source_head = None
    if HEAD_FILE in source.card.files:
        source_head = require_token_head(source, source.token_head())
    return Hybrid(source, target, affine, head, source_head)


def windows(hybrid: Hybrid, texts: Sequence[str]) -> Iterator[list[str]]:
    """Lists of texts to run together, by count and estimated size: a character has one token."""
    room = STATES // (4 * (hybrid.source.card.hidden_size + hybrid.target.card.hidden_size))
    window: list[str] = []
    held = 0
    for text in texts:
        if window and (len(window) == WINDOW or held + len(text) > room):
            yield window
            window, held = [], 0
        window.append(text)
        held += len(text)
    if window:
        yield window


def teacher_forced(hybrid: Hybrid, texts: list[str], progress: Progress) -> Sums:
    """Sums over the shared positions of some texts, those without a token of text left out."""
    source, target = hybrid.source, hybrid.target
    encoded = zip(texts, source.encode(texts), target.encode(texts), strict=True)
    found = [(text, x.cut or y.cut) for text, x, y in encoded if 0 in x.special and 0 in y.special]
    progress(len(texts) - len(found))
    if not found:
        return Sums()
    kept = [text for text, _ in found]
    x = token_states(source, kept, progress)
    y = x if source.card.digest == target.card.digest else token_states(target, kept)
    x_text, x_end, x_next = columns(x)
    y_text, y_end, y_next = columns(y)
    # positions at which both tokenizations have read the same characters
    rows, partners = pair_positions((x_text, x_end), (y_text, y_end))
    both = (x_next[rows] != NO_TOKEN) & (y_next[partners] != NO_TOKEN)
    rows, partners = rows[both], partners[both]
    mapped = x.states[rows]
    if hybrid.affine is not None and len(rows):
        mapped = hybrid.affine(mapped)
    sums = compare(hybrid.head, y.states[partners], mapped, y_next[partners])
    cut = sum(shortened for _, shortened in found)
    sums += Sums(cut=cut, target_characters=int(_added_characters(y_end)[partners].sum()))
    if hybrid.source_head is not None:
        nats = negative_log_likelihood(hybrid.source_head, x.states[rows], x_next[rows])
        sums += Sums(source_nats=nats, source_characters=int(_added_characters(x_end)[rows].sum()))
    return sums


def token_states(model: Model, texts: list[str], progress: Progress | None = None) -> HiddenStates:
    """States of every token that is not special, as a token head reads them."""
    return extract(model, Texts(tuple(texts)), pooling="tokens", normalize=False, progress=progress)


def columns(token_states: HiddenStates) -> tuple[Ints, Ints, Ints]:
    """Return the text, the end and the next token of each row, (n,) each."""
    index, end, following = (getattr(token_states, name) for name in POSITIONS)
    return index, end, following


def _added_characters(end: Ints) -> Ints:
    """Count the characters that each row's next token adds, (n,); meaningless without one."""
    return np.maximum(np.diff(end, append=0), 0)


def reads_ahead(model: Model, text: str) -> bool:
    """Return True if a state depends on later tokens: compare half of a text with the whole."""
    ids = np.array([model.encode([text])[0].ids], dtype=np.int64)
    half = ids.shape[1] // 2
    if not half:
        return False
    whole, alone = (
        model.run(part, np.ones_like(part))[0, half - 1] for part in (ids, ids[:, :half])
    )
    return bool(np.abs(whole - alone).max() > AHEAD * np.abs(whole).max())
