"""Teacher-forced metrics: two models' token states of the same texts, at shared positions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import NO_TOKEN, HiddenStates
from linalign_lite.core.token_alignment import pair_positions
from linalign_lite.errors import InputError
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
    """Check that models, map and head belong together, and load the heads.

    Raises InputError when something is missing, MismatchError when the parts do not belong
    together.
    """
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
    # positions at which both tokenizations have read the same characters
    rows, partners = pair_positions(positions(x), positions(y))
    both = (next_tokens(x)[rows] != NO_TOKEN) & (next_tokens(y)[partners] != NO_TOKEN)
    rows, partners = rows[both], partners[both]
    mapped = x.states[rows]
    if hybrid.affine is not None and len(rows):
        mapped = hybrid.affine(mapped)
    sums = compare(hybrid.head, y.states[partners], mapped, next_tokens(y)[partners])
    cut = sum(shortened for _, shortened in found)
    sums += Sums(cut=cut, target_characters=int(_added_characters(y)[partners].sum()))
    if hybrid.source_head is not None:
        nats = negative_log_likelihood(hybrid.source_head, x.states[rows], next_tokens(x)[rows])
        sums += Sums(source_nats=nats, source_characters=int(_added_characters(x)[rows].sum()))
    return sums


def token_states(model: Model, texts: list[str], progress: Progress | None = None) -> HiddenStates:
    """States of every token that is not special, as a token head reads them."""
    return extract(model, Texts(tuple(texts)), pooling="tokens", normalize=False, progress=progress)


def _present(rows: Ints | None) -> Ints:
    if rows is None:  # never: token states have all three
        raise InputError("these states have no token positions", expected="pooling tokens")
    return rows


def positions(states: HiddenStates) -> tuple[Ints, Ints]:
    """Text and end of each row, (n,) each."""
    return _present(states.text_index), _present(states.char_end)


def next_tokens(states: HiddenStates) -> Ints:
    """The next token of each row, (n,)."""
    return _present(states.next_token)


def _added_characters(states: HiddenStates) -> Ints:
    """Count the characters that each row's next token adds, (n,); meaningless without one."""
    return np.maximum(np.diff(_present(states.char_end), append=0), 0)


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
