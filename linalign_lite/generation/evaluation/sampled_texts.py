"""Sample continuations from the hybrid and the target alone, and measure their quality."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.hidden_states import NO_TOKEN
from linalign_lite.extraction.inference import Progress
from linalign_lite.generation.evaluation.teacher_forcing import Hybrid, columns, token_states
from linalign_lite.generation.evaluation.token_metrics import negative_log_likelihood
from linalign_lite.generation.hybrid import generate

GRAM = 4  # consecutive words that count as repeated
FEWEST_WORDS = 2 * GRAM  # in shorter texts tokens are compared instead of words
SHOWN = 20  # samples that are reported
TOGETHER = 256  # samples whose token states are held at once
MOST_NATS = 700.0  # exp of more overflows


@dataclass(frozen=True)
class Sample:
    """A prompt, and its continuations by the hybrid and by the target alone."""

    prompt: str
    hybrid: str
    target: str


@dataclass(frozen=True)
class SampleQuality:
    """Mean repetition and perplexity of one side's samples; None without samples."""

    repetition: float | None = None
    perplexity: float | None = None


@dataclass(frozen=True)
class Samples:
    """Quality of all samples, and a few of them."""

    count: int
    examples: tuple[Sample, ...]
    hybrid: SampleQuality
    target: SampleQuality


Continuation = tuple[str, list[int]]  # text and the target's tokens


def draw_prompts(texts: Sequence[str], count: int, characters: int, seed: int) -> list[str]:
    """Beginnings of ``count`` texts, in their order; fewer when fewer are long enough."""
    long = [t for t in (text.strip() for text in texts) if len(t) > characters]
    drawn = np.random.default_rng(seed).permutation(len(long))[:count]
    return [first_words(long[i], characters) for i in sorted(drawn)]


def first_words(text: str, characters: int) -> str:
    """Cut ``text`` at the last end of a word within ``characters``, or there if there is none."""
    for end in range(characters, 0, -1):
        if text[end : end + 1].isspace() and not text[end - 1].isspace():
            return text[:end]
    return text[:characters]


def repetition(items: Sequence[object], gram: int = GRAM) -> float | None:
    """The share of runs of ``gram`` items that occurred before; None when there is no run."""
    runs = Counter(tuple(items[i : i + gram]) for i in range(len(items) - gram + 1))
    total = runs.total()
    return (total - len(runs)) / total if total else None


def sample(
    hybrid: Hybrid, prompts: list[str], tokens: int, penalty: float, progress: Progress
) -> Samples:
    """Continue every prompt greedily, with a repetition penalty; calls progress(1) after each."""
    made: list[Continuation] = []
    alone: list[Continuation] = []
    for prompt in prompts:
        alone.append(_continue(hybrid, prompt, tokens, penalty, None))
        through_map = hybrid.affine is not None
        made.append(
            _continue(hybrid, prompt, tokens, penalty, hybrid.affine) if through_map else alone[-1]
        )
        progress(1)
    rows = zip(prompts[:SHOWN], made[:SHOWN], alone[:SHOWN], strict=True)
    examples = tuple(Sample(prompt, ours[0], theirs[0]) for prompt, ours, theirs in rows)
    quality = (
        SampleQuality(_mean_repetition(texts), _perplexity(hybrid, prompts, texts))
        for texts in (made, alone)
    )
    return Samples(len(prompts), examples, *quality)


def _continue(
    hybrid: Hybrid, prompt: str, tokens: int, penalty: float, affine: AffineMap | None
) -> Continuation:
    source = hybrid.target if affine is None else hybrid.source
    pieces = list(
        generate(
            source,
            hybrid.target,
            prompt,
            affine=affine,
            max_tokens=tokens,
            repetition_penalty=penalty,
            head=hybrid.head,
        )
    )
    chosen = [piece.token for piece in pieces if piece.token is not None]
    return "".join(piece.text for piece in pieces), chosen


def _mean_repetition(continuations: list[Continuation]) -> float | None:
    split = [(text.split(), tokens) for text, tokens in continuations]
    shares = [repetition(w if len(w) >= FEWEST_WORDS else tokens) for w, tokens in split]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def _perplexity(
    hybrid: Hybrid, prompts: list[str], continuations: list[Continuation]
) -> float | None:
    """The target's perplexity on all continuations together, given their prompts."""
    nats, count = 0.0, 0
    pairs = zip(prompts, continuations, strict=True)
    texts = [(len(prompt), prompt + text) for prompt, (text, _) in pairs if text]
    for start in range(0, len(texts), TOGETHER):
        part = texts[start : start + TOGETHER]
        states = token_states(hybrid.target, [text for _, text in part])
        index, ends, following = columns(states)
        after = np.roll(ends, -1) > np.array([length for length, _ in part])[index]
        rows = np.flatnonzero((following != NO_TOKEN) & after)
        nats += negative_log_likelihood(hybrid.head, states.states[rows], following[rows])
        count += len(rows)
    return math.exp(min(nats / count, MOST_NATS)) if count else None
