"""Generate text across two models: source states, an affine map, the target's token head.

The source reads the text so far with its own tokenizer; its last final hidden state is mapped; the
target's token head scores the target's tokens; the text of the chosen token is appended.

- After a token that ends within a character (bytes), the next is chosen from the same scores among
  those that continue the character as valid UTF-8; one after which no character could be completed
  is never chosen. Bytes that are incomplete at the end are dropped.
- A token without text (special, except the end of text) is never chosen, and one that leaves the
  source's tokens as they were not twice in a row: the source's state would never change.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.head import Head
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.extraction.session import Model
from linalign_lite.generation.decoding.detokenizer import StreamingDetokenizer, TokenBytes
from linalign_lite.generation.decoding.incremental_tokenizer import IncrementalTokenizer
from linalign_lite.generation.decoding.kv_cache import CachedModel
from linalign_lite.generation.decoding.sampling import (
    RepetitionPenalty,
    Sampler,
    StopStrings,
    make_sampler,
)
from linalign_lite.generation.decoding.token_scores import TokenScores

_TABLES: WeakKeyDictionary[Model, TokenBytes] = WeakKeyDictionary()


@dataclass(frozen=True)
class Piece:
    """Text and token of one step; the text is what became final, often that of this token.

    ``token`` is None for text that was held until the generation ended.
    """

    text: str
    token: int | None


@dataclass(frozen=True)
class Summary:
    """End of a generation: "eos", "length", "stop" or "context" (the source's context is full)."""

    reason: str
    tokens: int  # of the target, the end of text not counted
    tokens_read: int  # run through the source's graph, with the prompt's
    crops: int  # times that the source's cache was cut


@dataclass(frozen=True)
class _Step:
    """Text and token of one step. The last step has a ``reason``, and no token."""

    text: str
    token: int | None = None
    reason: str = ""


class Generation(Iterator[Piece]):
    """Iterator of pieces; ``summary`` is set after the last one."""

    def __init__(self, steps: Iterator[_Step], source: CachedModel, stops: StopStrings) -> None:
        self.summary: Summary | None = None
        self._source = source
        self._pieces = self._run(steps, stops)

    def __next__(self) -> Piece:
        return next(self._pieces)

    def _run(self, steps: Iterator[_Step], stops: StopStrings) -> Iterator[Piece]:
        tokens, reason = 0, "stop"
        for step in steps:
            tokens += step.token is not None
            if step.text or step.token is not None:
                yield Piece(stops.push(step.text), step.token)
            if stops.met:
                break
            reason = step.reason or reason
        if rest := stops.close():
            yield Piece(rest, None)
        self.summary = Summary(reason, tokens, self._source.tokens_run, self._source.crops)


@dataclass(frozen=True, eq=False)
class _Decoder:
    """Models and options of one generation."""

    source: CachedModel
    tokenizer: IncrementalTokenizer  # the source's
    token_bytes: TokenBytes  # the target's
    score: TokenScores  # of the target's tokens, in a state of the source
    sample: Sampler
    penalty: RepetitionPenalty
    end: frozenset[int]  # tokens that end the text
    max_tokens: int

    def alone(self, ids: list[int]) -> Iterator[_Step]:
        """Generate with one model, which reads every token as it was chosen."""
        detokenizer, reason = StreamingDetokenizer(self.token_bytes, follows_text=True), "length"
        for _ in range(self.max_tokens):
            if len(ids) > self.source.context:
                reason = "context"
                break
            token, _ = self._choose(self.source.last_state(ids), None)
            if token in self.end:
                reason = "eos"
                break
            ids.append(token)
            self.penalty.add(token)
            yield _Step(detokenizer.push(token), token)
        yield _Step(detokenizer.close(), reason=reason)

    def hybrid(self, text: str) -> Iterator[_Step]:
        """Generate with two models: the source reads every token's text with its own tokens."""
        read, pending, added, token = self.tokenizer.encode(text), b"", "", -1
        state, scores = self.source.last_state(read), None
        for _ in range(self.max_tokens):
            if added:
                ids = self.tokenizer.encode(text)
                if len(ids) > self.source.context:
                    yield _Step("", reason="context")
                    return
                if ids == read:
                    scores = self.score(state) if scores is None else scores
                    scores[token] = -np.inf
                else:
                    state, read, scores = self.source.last_state(ids), ids, None
            token, appended, scores = self._next(state, pending, scores)
            if appended is None:
                yield _Step("", reason="eos")
                return
            self.penalty.add(token)
            added, pending = appended
            text += added
            yield _Step(added, token)
        yield _Step("", reason="length")

    def _choose(self, state: Array, scores: Array | None) -> tuple[int, Array | None]:
        """A token, by ``scores`` or, where they are None, those of the state; and the scores.

        Scores of all tokens are computed only where the choice needs them.
        """
        if scores is None:
            token = self.score.best(state)
            if token is not None and not self.penalty.lowers(token):
                return token, None
            scores = self.score(state)
        return self.sample(self.penalty(scores)), scores

    def _next(
        self, state: Array, pending: bytes, scores: Array | None
    ) -> tuple[int, tuple[str, bytes] | None, Array | None]:
        """A token, what it appends (None: it ends the text), and the scores of the state.

        scores: of the state, if they are known. A token that can follow no text is excluded in
        them; with ``pending`` bytes, in a copy.
        """
        allowed = scores
        if pending:
            scores = self.score(state) if scores is None else scores
            allowed = self.token_bytes.mask_to_continuations(scores)
        while True:
            token, allowed = self._choose(state, allowed)
            appended = None if token in self.end else self.token_bytes.append(pending, token)
            if appended is not None or token in self.end:
                return token, appended, scores if pending else allowed
            allowed = self.score(state) if allowed is None else allowed
            allowed[token] = -np.inf


def generate(
    source: Model,
    target: Model,
    prompt: str,
    *,
    affine: AffineMap | None = None,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    end: Collection[int] = (),
    head: Head | None = None,
) -> Generation:
    """Continue ``prompt``: ``source`` reads, ``affine`` maps, ``target``'s token head chooses.

    Without a map, source and target must be the same model, which then generates alone, its tokens
    never tokenised again. ``head`` replaces the target's own token head. Greedy with temperature 0;
    otherwise sampled, and the same seed gives the same text. ``repetition_penalty``: see
    `RepetitionPenalty`; of the target's tokens, the prompt's too. ``stop``: the text ends before
    the first of these strings. ``end``: tokens of the target that end it too, beside its card's.
    Raises InputError when an option is not usable, MismatchError when map, head and models do not
    belong together; the iteration raises LinalignError when the source's graph fails.
    """
    if max_tokens < 1:
        raise InputError("max_tokens must be at least 1", got=str(max_tokens))
    sample, stops = make_sampler(temperature, top_p, seed), StopStrings(stop)
    penalty = RepetitionPenalty(repetition_penalty)
    require_map(affine, source, target)
    head = target.token_head() if head is None else require_token_head(target, head)
    decoder = _Decoder(
        source=CachedModel(source),
        tokenizer=IncrementalTokenizer(source.tokenizer),
        token_bytes=_token_bytes(target),
        score=TokenScores(head, affine, greedy=temperature == 0, threads=source.threads),
        sample=sample,
        penalty=penalty,
        end=target.card.ends.union(end),
        max_tokens=max_tokens,
    )
    ids = _prompt_ids(decoder.tokenizer, prompt, decoder.source.context)
    if repetition_penalty > 1:
        for token in ids if affine is None else target.encode([prompt], places=False)[0].ids:
            penalty.add(token)
    if affine is not None:
        decoder.token_bytes.require_streaming(target.card.name)
    steps = decoder.alone(ids) if affine is None else decoder.hybrid(prompt)
    return Generation(steps, decoder.source, stops)


def _token_bytes(model: Model) -> TokenBytes:
    """The table of a model, made once: with 262,144 tokens it takes a tenth of a second."""
    if model not in _TABLES:
        _TABLES[model] = TokenBytes(model.tokenizer)
    return _TABLES[model]


def _prompt_ids(tokenizer: IncrementalTokenizer, prompt: str, context: int) -> list[int]:
    try:
        prompt.encode()
    except UnicodeEncodeError as e:
        raise InputError("the prompt is no Unicode text", got=f"a surrogate at {e.start}") from e
    ids = tokenizer.encode(prompt) if prompt.strip() else []
    if len(ids) <= tokenizer.prefix_length:
        raise InputError("the prompt is empty", expected="a text to continue")
    if len(ids) > context:
        raise InputError(
            "the prompt is longer than the context of the model that reads it",
            got=f"{len(ids)} tokens",
            expected=f"at most {context}",
        )
    return ids


def require_map(affine: AffineMap | None, source: Model, target: Model) -> None:
    """Raise MismatchError unless the map leads from source to target; None: they are one model."""
    if affine is None:
        if source is not target and source.card.digest != target.card.digest:
            raise InputError(
                "two models need a map between them",
                got=f"{source.card.name} and {target.card.name} without a map",
                hint="fit one on states extracted with --pooling tokens",
            )
        return
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


def require_token_head(model: Model, head: Head) -> Head:
    """Return the head, or raise MismatchError unless it scores the model's tokens."""
    space = model.card.space("tokens", normalize=False)
    space.require(head.space, f"this head does not belong to {model.card.name}")
    if head.labels or head.n_outputs != model.card.vocab_size:
        raise MismatchError(
            f"this head does not score the tokens of {model.card.name}",
            got=f"{head.n_outputs} outputs" + (", with labels" if head.labels else ""),
            expected=f"{model.card.vocab_size} outputs, one per token",
        )
    return head
