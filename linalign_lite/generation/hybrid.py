"""Text generation across two models: one reads, a map carries its state over, the other speaks.

The source reads the text so far with its own tokenizer; its last final hidden state goes through
the map; the target's token head says which of the target's tokens comes next; its text is appended.

The source reads text, so what a token says must be known before the next one is chosen:

- A token may end within a character (byte-level vocabularies, byte fallback). Then the source has
  nothing new to read. The token is kept, and the next is chosen from the same scores among those
  that go on with the character as valid UTF-8. A token after which no character could be completed
  is never chosen. What is not complete when the generation ends is not said.
- A token without text (special, but for the end of text) is never chosen: the source's state, and
  so the choice, would stay the same for ever. For the same reason a token that leaves the source's
  tokens as they were (a tokenizer that ignores line ends) is not chosen twice in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.head import Head
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.extraction.session import Model
from linalign_lite.generation.decoding.detokenizer import Letters, Voice
from linalign_lite.generation.decoding.incremental_tokenizer import Tail
from linalign_lite.generation.decoding.kv_cache import Reader
from linalign_lite.generation.decoding.sampling import Chooser, Stops, chooser

Scorer = Callable[[Array], Array]
Steps = Generator[tuple[int | None, str], None, str]
FOLD = 1 << 30  # multiplications that folding a map into a head may take


@dataclass(frozen=True)
class Piece:
    """What one step adds: its token, and text that is certain since (often of this token).

    ``token`` is None for text that was held back and is certain because the generation ended.
    """

    text: str
    token: int | None


@dataclass(frozen=True)
class Summary:
    """How a generation ended: "eos", "length", "stop" or "context" (no room to read more)."""

    reason: str
    tokens: int  # of the target, the end of text not counted
    tokens_read: int  # that went through the source's graph, the prompt's included
    crops: int  # how often the source's cache was cut


class Generation(Iterator[Piece]):
    """Pieces as they come; ``summary`` is there after the last one."""

    def __init__(self, steps: Steps, reader: Reader, stops: Stops) -> None:
        self.summary: Summary | None = None
        self._reader = reader
        self._pieces = self._run(steps, stops)

    def __next__(self) -> Piece:
        return next(self._pieces)

    def _run(self, steps: Steps, stops: Stops) -> Iterator[Piece]:
        tokens, reason = 0, "stop"
        while not stops.met:
            try:
                token, text = next(steps)
            except StopIteration as end:
                reason = end.value
                break
            tokens += token is not None
            yield Piece(stops.push(text), token)
        if rest := stops.close():
            yield Piece(rest, None)
        self.summary = Summary(reason, tokens, self._reader.tokens_run, self._reader.crops)


def generate(
    source: Model,
    target: Model,
    prompt: str,
    *,
    affine: AffineMap | None = None,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    head: Head | None = None,
) -> Generation:
    """Go on with ``prompt``: ``source`` reads, ``affine`` maps, ``target``'s token head speaks.

    Without a map, source and target must be the same model, which then generates by itself, its
    tokens never tokenised again. ``head`` stands in for the target's own token head. Greedy with
    temperature 0; else drawn, and the same seed draws the same text. ``stop``: strings before the
    first of which the text ends. Raises InputError when something is not usable, MismatchError when
    map, head and models do not belong together; the iteration raises LinalignError when the
    source's graph fails.
    """
    if max_tokens < 1:
        raise InputError("no so few tokens", got=str(max_tokens), expected="1 or more")
    choose, stops = chooser(temperature, top_p, seed), Stops(stop)
    if affine is None and source is not target and source.card.digest != target.card.digest:
        raise InputError(
            "two models need a map between them",
            got=f"{source.card.name} and {target.card.name} without a map",
            hint="fit one on states extracted with --pooling tokens",
        )
    if affine is not None:
        _require_map(affine, source, target)
    head = _token_head(target, head)
    reader, tail, letters = Reader(source), Tail(source.tokenizer), Letters(target.tokenizer)
    ids = _prompt_ids(tail, prompt, reader.context)
    score, eos = _scorer(head, affine), target.card.special.get("eos")
    if affine is None:
        voice = Voice(letters, begun=True)
        steps = _native(reader, voice, score, choose, ids, eos, max_tokens)
    else:
        letters.require_streaming(target.card.name)
        steps = _hybrid(reader, tail, letters, score, choose, prompt, eos, max_tokens)
    return Generation(steps, reader, stops)


def _native(
    reader: Reader, voice: Voice, score: Scorer, choose: Chooser, ids: list[int],
    eos: int | None, max_tokens: int,
) -> Steps:  # fmt: skip
    """One model by itself: every token is read as it was chosen."""
    reason = "length"
    for _ in range(max_tokens):
        if len(ids) > reader.context:
            reason = "context"
            break
        token = choose(score(reader.read(ids)))
        if token == eos:
            reason = "eos"
            break
        ids.append(token)
        yield token, voice.push(token)
    if rest := voice.close():
        yield None, rest
    return reason


def _hybrid(
    reader: Reader, tail: Tail, letters: Letters, score: Scorer, choose: Chooser, text: str,
    eos: int | None, max_tokens: int,
) -> Steps:  # fmt: skip
    """Two models: every token's text is read by the source with its own tokens."""
    read, pending, said, token = tail.encode(text), b"", "", -1
    scores = score(reader.read(read))
    for _ in range(max_tokens):
        if said:
            ids = tail.encode(text)
            if len(ids) > reader.context:
                return "context"
            if ids == read:
                scores[token] = -np.inf
            else:
                scores, read = score(reader.read(ids)), ids
        pool = letters.going_on(scores) if pending else scores
        while True:
            token = choose(pool)
            if token == eos:
                return "eos"
            found = letters.step(pending, token)
            if found is not None:
                break
            pool[token] = -np.inf
        said, pending = found
        text += said
        yield token, said
    return "length"


def _prompt_ids(tail: Tail, prompt: str, context: int) -> list[int]:
    try:
        prompt.encode()
    except UnicodeEncodeError as e:
        raise InputError("the prompt is no Unicode text", got=f"a surrogate at {e.start}") from e
    ids = tail.encode(prompt) if prompt.strip() else []
    if len(ids) <= tail.lead:
        raise InputError("the prompt is empty", expected="a text to go on with")
    if len(ids) > context:
        raise InputError(
            "the prompt is longer than the context of the model that reads it",
            got=f"{len(ids)} tokens",
            expected=f"at most {context}",
        )
    return ids


def _require_map(affine: AffineMap, source: Model, target: Model) -> None:
    for space, model, end in ((affine.source, source, "source"), (affine.target, target, "target")):
        if space.pooling not in ("", "tokens"):
            raise MismatchError(
                f"this map's {end} states are those of whole texts",
                got=f"pooling {space.pooling}",
                expected="tokens",
                hint="fit the map on states extracted with --pooling tokens",
            )
        what = f"this map does not belong to the {end} model"
        model.card.space("tokens", normalize=False).require(space, what)


def _token_head(target: Model, head: Head | None) -> Head:
    if head is None:
        return target.token_head()
    space: Space = target.card.space("tokens", normalize=False)
    space.require(head.space, "this head does not belong to the target model")
    if head.labels or head.n_outputs != target.card.vocab_size:
        raise MismatchError(
            "this head does not say the target's tokens",
            got=f"{head.n_outputs} outputs" + (", with labels" if head.labels else ""),
            expected=f"{target.card.vocab_size} outputs, one a token",
        )
    return head


def _scorer(head: Head, affine: AffineMap | None) -> Scorer:
    """From a source state to scores. Folds the map into the head where that is less work a token.

    The fold is one product in float32, as exact as the two that it stands for: it is made for each
    text, and in float64 took as long as a dozen tokens.
    """
    weight, bias = _float32(head.weight), _float32(head.bias)
    if affine is None:
        return lambda state: head.finish(np.dot(weight, state) + bias)
    inside, shift = _float32(affine.weight), _float32(affine.bias)
    outputs, (inner, outer) = len(weight), inside.shape
    less = outputs * outer <= outputs * inner + inner * outer
    if less and outputs * inner * outer <= FOLD:
        with np.errstate(over="ignore", invalid="ignore"):  # refused with the scores
            folded, moved = weight @ inside, weight @ shift + bias
        return lambda state: head.finish(np.dot(folded, state) + moved)
    return lambda state: head.finish(np.dot(weight, np.dot(inside, state) + shift) + bias)


def _float32(array: Array) -> Array:
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused with the scores
        found: Array = np.require(array, np.float32, ["C", "A"])
    return found
