"""Evaluate text generation across two models: source states, a map, the target's token head.

The hybrid, the target alone and the source alone predict the next token at the same positions of
the same texts: those where both tokenizations have read the same characters
(`token_alignment.pair_positions`, rule "exact") and both have a next token. Then the hybrid and the
target continue the beginnings of some of the texts.
"""

import math
from dataclasses import asdict, astuple, dataclass
from typing import Any

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.text_tables import column_lines, pair_lines
from linalign_lite.core.verdict import TOKEN_AGREEMENT, Verdict
from linalign_lite.errors import InputError, printable
from linalign_lite.extraction.inference import Progress
from linalign_lite.extraction.session import Model
from linalign_lite.extraction.texts import Texts
from linalign_lite.generation.evaluation import sampled_texts, teacher_forcing
from linalign_lite.generation.evaluation.sampled_texts import Sample, SampleQuality, Samples
from linalign_lite.generation.evaluation.teacher_forcing import Hybrid
from linalign_lite.generation.evaluation.token_metrics import TOP, Sums

PROBED = 16  # texts of which the longest shows whether the source reads ahead


@dataclass(frozen=True)
class Figures:
    """Metrics of one model's next-token predictions and samples.

    ``cross_entropy``: nats per token. ``bits_per_character``: the same nats over the characters
    that those tokens add to the text; None when they add none. ``repetition``: see `repetition`.
    ``perplexity``: the target's on this model's samples, per target token. None without samples.
    """

    cross_entropy: float
    bits_per_character: float | None
    repetition: float | None = None
    perplexity: float | None = None

    def cells(self) -> list[str]:
        """Values as text, with "-" for None."""
        values = zip(astuple(self), (4, 4, 3, 2), strict=True)  # and their decimals
        return ["-" if value is None else f"{value:.{n}f}" for value, n in values]


@dataclass(frozen=True)
class Judgement:
    """Report of `judge`.

    The target's and the hybrid's figures are over the same tokens, the target's. Those of
    ``source`` are over its own tokens: compare only bits per character, and these roughly, where
    one model predicts whole words and the other their first letters. It is None for a source
    without a token head.

    ``agreement``: the share of positions where the hybrid's first choice is the target's.
    ``top_overlap``: the mean share of the target's ``top`` first choices that are among the
    hybrid's. ``divergence``: mean KL(target ‖ hybrid) in nats.
    """

    texts: int
    cut: int  # texts longer than a model's context
    positions: int
    target: Figures
    hybrid: Figures
    source: Figures | None
    agreement: float
    top: int
    top_overlap: float
    divergence: float
    samples: int
    examples: tuple[Sample, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Grade of the agreement of next tokens."""
        step = "a map for this token head: fit --objective kl --head, on more texts of this kind"
        return TOKEN_AGREEMENT.judge(self.agreement, step)

    def as_dict(self) -> dict[str, Any]:
        """Values of the report for JSON."""
        return asdict(self)

    def lines(self, source: str, target: str) -> list[str]:
        """Tables of the figures for printing; source and target: names of the models."""
        rows = [
            ["", "nats/token", "bits/character", "repetition", "perplexity"],
            [printable(f"target, {target}"), *self.target.cells()],
            ["hybrid", *self.hybrid.cells()],
        ]
        if self.source is not None:
            rows.append([printable(f"source, {source}"), *self.source.cells()])
        figures = [
            ("texts", f"{self.texts}, {self.positions} positions, {self.samples} samples"),
            ("next-token agreement", f"{self.agreement:.4f}"),
            (f"top-{self.top} overlap", f"{self.top_overlap:.4f}"),
            ("KL(target, hybrid)", f"{self.divergence:.4f} nats"),
        ]
        sample = []
        for e in self.examples[:1]:  # as_dict has all of them, and their line breaks
            texts = {"a prompt": e.prompt, "the hybrid": e.hybrid, "the target": e.target}
            sample = ["", *pair_lines([(k, " ".join(v.split())) for k, v in texts.items()])]
        return [*column_lines(rows), "", *pair_lines(figures), *sample]


def judge(
    source: Model,
    target: Model,
    affine: AffineMap | None,
    texts: Texts,
    *,
    head: Head | None = None,
    samples: int = 16,
    sample_tokens: int = 64,
    prompt_characters: int = 80,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Judgement:
    """Teacher-forced figures over all texts, and ``samples`` continuations of some of them.

    Without a map, source and target must be the same model. ``head`` replaces the target's token
    head. A sample begins with the first words of a text, about ``prompt_characters``; shorter texts
    are left out, and ``seed`` draws among the others. Both models continue greedily, with
    ``repetition_penalty`` (see `generate`), by at most ``sample_tokens`` of the target's tokens.
    progress is called with the number of texts and of samples done since the last call,
    len(texts.texts) + samples in all.

    The states of a bidirectional source (an encoder) depend on later tokens: it gets a warning, and
    only its samples are meaningful.
    Raises InputError for a target without a token head, numbers that are not usable, and texts of
    which none gives a position; MismatchError when models, map and head do not belong together.
    """
    for name, number, least in (
        ("samples", samples, 0),
        ("tokens of a sample", sample_tokens, 1),
        ("characters of a prompt", prompt_characters, 1),
        ("seed", seed, 0),
    ):
        if number < least:
            raise InputError(f"{name}: no usable number", got=str(number), expected=f"{least} up")
    progress = progress or (lambda _: None)
    hybrid = teacher_forcing.make_hybrid(source, target, affine, head)
    # samples first: a generation that fails then fails at once, not after an hour
    prompts = sampled_texts.draw_prompts(texts.texts, samples, prompt_characters, seed)
    sampled = sampled_texts.sample(hybrid, prompts, sample_tokens, repetition_penalty, progress)
    progress(samples - len(prompts))
    warnings: tuple[str, ...] = ()
    longest = max(texts.texts[:PROBED], key=len, default="")
    if longest and teacher_forcing.reads_ahead(source, longest):
        warnings += (
            f"{source.card.name} reads a text whole: its states depend on later tokens, and only "
            "the samples are meaningful",
        )
    if samples and not prompts:
        warnings += (f"no text is longer than {prompt_characters} characters: no samples",)
    sums = Sums()
    for window in teacher_forcing.windows(hybrid, texts.texts):
        sums += teacher_forcing.teacher_forced(hybrid, window, progress)
    if not sums.positions:
        raise InputError(
            "these texts have no position to evaluate",
            got=f"{len(texts.texts)} texts",
            expected="a character at which tokens of both models end, and one after it",
        )
    if not all(map(math.isfinite, astuple(sums))):
        raise InputError(
            "the scores are too far apart to be compared",
            hint="do the map and the head belong to these models?",
        )
    return _judgement(hybrid, texts, sums, sampled, warnings)


def _judgement(
    hybrid: Hybrid, texts: Texts, sums: Sums, sampled: Samples, warnings: tuple[str, ...]
) -> Judgement:
    n, k = sums.positions, min(TOP, hybrid.head.n_outputs)

    def figures(nats: float, characters: int, quality: SampleQuality) -> Figures:
        bits = nats / characters / math.log(2) if characters else None
        return Figures(nats / n, bits, quality.repetition, quality.perplexity)

    source = None
    if hybrid.source_head:
        source = figures(sums.source_nats, sums.source_characters, SampleQuality())

    return Judgement(
        texts=len(texts.texts),
        cut=sums.cut,
        positions=n,
        target=figures(sums.target_nats, sums.target_characters, sampled.target),
        hybrid=figures(sums.hybrid_nats, sums.target_characters, sampled.hybrid),
        source=source,
        agreement=sums.agreeing / n,
        top=k,
        top_overlap=sums.overlapping / (n * k),
        divergence=sums.divergence / n,
        samples=sampled.count,
        examples=sampled.examples,
        warnings=warnings,
    )
