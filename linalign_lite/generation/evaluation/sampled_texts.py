"""Continuations of some texts, by the hybrid and by the target alone, and how good they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.hidden_states import NO_TOKEN
from linalign_lite.extraction.inference import Progress
from linalign_lite.generation.evaluation.negative_log_likelihood import surprise
from linalign_lite.generation.evaluation.teacher_forcing import (
    Job,
    following,
    positions,
    token_states,
)
from linalign_lite.generation.hybrid import generate

GRAM = 4  # words in a row that count as repeated
FEWEST_WORDS = 2 * GRAM  # a text of fewer is looked at token by token
SHOWN = 3  # samples kept for reading
TOGETHER = 256  # samples whose token states are held at once
MOST_NATS = 700.0  # exp of more is no float


@dataclass(frozen=True)
class Sample:
    """A prompt, and what the hybrid and the target by itself said after it."""

    prompt: str
    hybrid: str
    target: str


@dataclass(frozen=True)
class Said:
    """What came of the samples of one speaker."""

    repetition: float | None = None
    perplexity: float | None = None


@dataclass(frozen=True)
class Spoken:
    """What came of all samples."""

    count: int
    examples: tuple[Sample, ...]
    hybrid: Said
    target: Said


Continuation = tuple[str, list[int]]  # text and the target's tokens


def draw_prompts(texts: Sequence[str], count: int, characters: int, seed: int) -> list[str]:
    """Beginnings of ``count`` texts, in their order; fewer when fewer are long enough."""
    long = [t for t in (text.strip() for text in texts) if len(t) > characters]
    drawn = np.random.default_rng(seed).permutation(len(long))[:count]
    return [first_words(long[i], characters) for i in sorted(drawn)]


def first_words(text: str, characters: int) -> str:
    """``text`` up to the last end of a word within ``characters``, or cut there without one."""
    for end in range(characters, 0, -1):
        if text[end : end + 1].isspace() and not text[end - 1].isspace():
            return text[:end]
    return text[:characters]


def repetition(items: Sequence[object], gram: int = GRAM) -> float | None:
    """The share of runs of ``gram`` items that occurred before; None when there is no run."""
    runs = Counter(tuple(items[i : i + gram]) for i in range(len(items) - gram + 1))
    total = runs.total()
    return (total - len(runs)) / total if total else None


def speak(job: Job, prompts: list[str], tokens: int, tally: Progress) -> Spoken:
    """Go on with every prompt, greedily; tally(1) after each."""
    made: tuple[list[Continuation], list[Continuation]] = [], []
    for prompt in prompts:
        alone = _go_on(job, prompt, tokens, None)
        made[0].append(alone if job.affine is None else _go_on(job, prompt, tokens, job.affine))
        made[1].append(alone)
        tally(1)
    examples = tuple(
        Sample(prompt, hybrid[0], alone[0])
        for prompt, hybrid, alone in zip(prompts[:SHOWN], *(m[:SHOWN] for m in made), strict=True)
    )
    said = (Said(_mean_repetition(m), _perplexity(job, prompts, m)) for m in made)
    return Spoken(len(prompts), examples, *said)


def _go_on(job: Job, prompt: str, tokens: int, affine: AffineMap | None) -> Continuation:
    reads = job.target if affine is None else job.source
    going = list(
        generate(reads, job.target, prompt, affine=affine, max_tokens=tokens, head=job.head)
    )
    said = [piece.token for piece in going if piece.token is not None]
    return "".join(piece.text for piece in going), said


def _mean_repetition(said: list[Continuation]) -> float | None:
    found = []
    for text, tokens in said:
        words: Sequence[object] = text.split()
        found.append(repetition(words if len(words) >= FEWEST_WORDS else tokens))
    known = [share for share in found if share is not None]
    return sum(known) / len(known) if known else None


def _perplexity(job: Job, prompts: list[str], said: list[Continuation]) -> float | None:
    """The target's, on continuations given their prompts, over all of them together."""
    nats, count = 0.0, 0
    begun = [(prompt, text) for prompt, (text, _) in zip(prompts, said, strict=True) if text]
    for start in range(0, len(begun), TOGETHER):
        part = begun[start : start + TOGETHER]
        states = token_states(job.target, [prompt + text for prompt, text in part])
        index, ends = positions(states)
        after = np.roll(ends, -1) > np.array([len(prompt) for prompt, _ in part])[index]
        rows = np.flatnonzero((following(states) != NO_TOKEN) & after)
        nats += surprise(job.head, states.states[rows], following(states)[rows])
        count += len(rows)
    return math.exp(min(nats / count, MOST_NATS)) if count else None
