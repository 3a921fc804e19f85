"""Who reads and who speaks, and the token states of texts that both have read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import NO_TOKEN, HiddenStates
from linalign_lite.core.token_alignment import pair_ends
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.extraction.inference import Progress
from linalign_lite.extraction.model_card import HEAD_FILE
from linalign_lite.extraction.pipeline import extract
from linalign_lite.extraction.session import Model
from linalign_lite.extraction.texts import Texts
from linalign_lite.generation.evaluation.negative_log_likelihood import (
    Ints,
    Sums,
    compare,
    surprise,
)

WINDOW = 256  # texts whose token states are held at once
STATES = 256 << 20  # bytes of token states held at once, by estimate
AHEAD = 1e-2  # share of the largest value by which a state may differ for what comes after it


@dataclass(frozen=True, eq=False)
class Job:
    """Models, map and heads that go together; see `make_job`."""

    source: Model
    target: Model
    affine: AffineMap | None
    head: Head  # the target's
    own: Head | None  # the source's


def make_job(source: Model, target: Model, affine: AffineMap | None, head: Head | None) -> Job:
    """Raises InputError when something is missing, MismatchError when it does not go together."""
    here, there = (m.card.space("tokens", normalize=False) for m in (source, target))
    if affine is not None:
        here.require(affine.source, "this map does not read the source's token states")
        there.require(affine.target, "this map does not lead to the target's token states")
    elif source.card.digest != target.card.digest:
        raise InputError(
            "two models need a map between them",
            got=f"{source.card.name} and {target.card.name} without a map",
            hint="fit one on states extracted with --pooling tokens",
        )
    own = source.token_head() if HEAD_FILE in source.card.files else None
    head = target.token_head() if head is None else head
    there.require(head.space, "this head does not belong to the target model")
    for model, speaks in ((target, head), (source, own)):
        if speaks and (speaks.labels or speaks.n_outputs != model.card.vocab_size):
            raise MismatchError(
                f"this head does not say the tokens of {model.card.name}",
                got=f"{speaks.n_outputs} outputs" + (", with labels" if speaks.labels else ""),
                expected=f"{model.card.vocab_size} outputs, one a token",
            )
    return Job(source, target, affine, head, own)


def windows(job: Job, texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts to read together; a token has at least a character, nearly always."""
    room = STATES // (4 * (job.source.card.hidden_size + job.target.card.hidden_size))
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


def teach(job: Job, window: list[str], tally: Progress) -> Sums:
    """The sums over some texts. Those of which a model has nothing to read are left out."""
    read = zip(window, job.source.encode(window), job.target.encode(window), strict=True)
    found = [(text, x.cut or y.cut) for text, x, y in read if 0 in x.special and 0 in y.special]
    tally(len(window) - len(found))
    if not found:
        return Sums()
    kept = [text for text, _ in found]
    theirs = token_states(job.source, kept, tally)
    same = job.source.card.digest == job.target.card.digest
    mine = theirs if same else token_states(job.target, kept)
    # a position of one is the same as one of the other where both have read the same characters
    here, there = pair_ends(positions(theirs), positions(mine))
    both = (following(theirs)[here] != NO_TOKEN) & (following(mine)[there] != NO_TOKEN)
    here, there = here[both], there[both]
    mapped = theirs.states[here]
    if job.affine is not None and len(here):
        mapped = job.affine(mapped)
    sums = compare(job.head, mine.states[there], mapped, following(mine)[there])
    cut = sum(shortened for _, shortened in found)
    sums += Sums(cut=cut, target_characters=int(_added(mine)[there].sum()))
    if job.own is not None:
        nats = surprise(job.own, theirs.states[here], following(theirs)[here])
        sums += Sums(source_nats=nats, source_characters=int(_added(theirs)[here].sum()))
    return sums


def token_states(model: Model, texts: list[str], tally: Progress | None = None) -> HiddenStates:
    """Of every token that is not special, as a token head reads them."""
    return extract(model, Texts(tuple(texts)), pooling="tokens", normalize=False, progress=tally)


def _rows(found: Ints | None) -> Ints:
    if found is None:  # never: token states have all three
        raise InputError("these states have no token positions", expected="pooling tokens")
    return found


def positions(states: HiddenStates) -> tuple[Ints, Ints]:
    """Text and end of each row, (n,) each."""
    return _rows(states.text_index), _rows(states.char_end)


def following(states: HiddenStates) -> Ints:
    """The next token of each row, (n,)."""
    return _rows(states.next_token)


def _added(states: HiddenStates) -> Ints:
    """How many characters each row's next token adds, (n,); without meaning where it has none."""
    ends = _rows(states.char_end)
    return np.maximum(np.diff(ends, append=0), 0)


def reads_ahead(model: Model, text: str) -> bool:
    """Whether a state depends on what comes after it: half of a text against the whole of it."""
    ids = np.array([model.encode([text])[0].ids], dtype=np.int64)
    half = ids.shape[1] // 2
    if not half:
        return False
    whole, alone = (
        model.run(part, np.ones_like(part))[0, half - 1] for part in (ids, ids[:, :half])
    )
    return bool(np.abs(whole - alone).max() > AHEAD * np.abs(whole).max())
