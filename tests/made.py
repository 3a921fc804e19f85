"""Synthetic results of a survey: three models, four data sets, every section filled."""

from __future__ import annotations

import math

import numpy as np

from linalign_lite.survey import results as rows

PALE, TINY, SMALL = "all-MiniLM-L6-v2", "TinyStories-656K", "stories260K"
STRENGTH = {PALE: 0.95, TINY: 0.78, SMALL: 0.71}
HARDNESS = {"agnews": 0.93, "sst2": 0.88, "trec": 0.90, "clinc150": 0.97}
COVERED = {"agnews": 0.93, "sst2": 0.97, "trec": 0.72, "clinc150": 0.55}  # by the public texts
LABELS = {"agnews": 4, "sst2": 2, "trec": 6, "clinc150": 150}
RECIPES = ("public", "few", "public+few", "all")
DETECTORS = ("mahalanobis", "knn", "energy", "msp")


def made_results(seed: int = 3) -> rows.Results:
    """Deterministic for a seed."""
    rng = np.random.default_rng(seed)
    models = (
        rows.ModelRow(PALE, "1f" * 32, "BertModel", "embed", 384, 30522, 256),
        rows.ModelRow(TINY, "2e" * 32, "LlamaForCausalLM", "generate", 128, 2048, 512),
        rows.ModelRow(SMALL, "3d" * 32, "LlamaForCausalLM", "generate", 64, 512, 512),
    )
    data = tuple(
        rows.DataRow(name, 5600, 2000, 1000 if name in {"agnews", "clinc150"} else 0, n,
                     round(max(1 / n, 0.02) * 1.1, 4))
        for name, n in LABELS.items()
    )  # fmt: skip
    pairs = [(a.name, b.name) for a in models for b in models if a is not b]
    native = tuple(_native(rng, m.name, d.name) for d in data for m in models)
    return rows.Results(
        title="Three small models on four data sets",
        library="0.1.0",
        seed=seed,
        pooling="mean",
        public=20000,
        models=models,
        data=data,
        native=native,
        similarity=tuple(_similarities(rng, pairs)),
        classification=tuple(_classes(rng, pairs, native)),
        ood=tuple(_ood(rng, pairs, [m.name for m in models])),
        curves=tuple(_curves(rng, pairs, native)),
        tokenizers=tuple(_tokenizers(pairs)),
        generation=tuple(_generation()),
        retrieval=tuple(_retrieval(pairs)),
        projections=tuple(_projections(rng, pairs)),
        times=(
            rows.TimeRow("extract all-MiniLM-L6-v2", 41.2, True),
            rows.TimeRow("extract TinyStories-656K", 12.9, True),
            rows.TimeRow("fit", 88.1, False),
            rows.TimeRow("judge", 20.4, False),
        ),
    )


def _retrieval(pairs):
    for i, (source, target) in enumerate(pairs):
        for texts, objective in (("public", "ridge"), ("documents", "retrieval")):
            for mapped in ("queries", "documents"):
                gain = round(0.2 + 0.04 * i + 0.1 * (texts == "documents"), 3)
                yield rows.RetrievalRow(
                    source, target, "cranfield", texts, objective, mapped,
                    gain, gain - 0.05, gain + 0.05, 0.55, 0.4, 0.35, 225, 1398,
                )  # fmt: skip


def _native(rng, model, data):
    accuracy = STRENGTH[model] * HARDNESS[data] + rng.normal() * 0.01
    return rows.NativeRow(model, data, *_interval(accuracy))


def _interval(accuracy, n=2000):
    accuracy = round(float(np.clip(accuracy, 0.01, 0.995)), 4)
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / n)
    return accuracy, round(max(accuracy - half, 0), 4), round(min(accuracy + half, 1), 4)


def _classes(rng, pairs, native):
    own = {(r.model, r.data): r.accuracy for r in native}
    worth = {"public": 0.0, "few": 0.35, "public+few": 0.6, "all": 0.9}
    for source, target in pairs:
        for data in LABELS:
            bound = min(own[source, data], own[target, data])
            gap = 1 - COVERED[data] * (0.8 if target == PALE else 1.0)
            for texts in RECIPES:
                for objective in ("ridge", "kl"):
                    kept = 1 - gap * (1 - worth[texts]) * (0.6 if objective == "kl" else 1.1)
                    kept += rng.normal() * 0.012
                    accuracy, low, high = _interval(bound * kept)
                    yield rows.ClassRow(
                        source, target, data, texts, objective,
                        20000 if "public" in texts else 0,
                        {"public": 0, "all": 5600}.get(texts, 256),
                        accuracy, low, high, round(accuracy / bound, 4),
                    )  # fmt: skip


def _similarities(rng, pairs):
    for source, target in pairs:
        near = 0.55 if PALE in {source, target} else 0.8
        for texts in ("public", "agnews"):
            for measure, factor, null in (
                ("cka", 1.0, 0.05), ("cka_debiased", 0.95, 0.0), ("mutual_knn", 0.3, 0.01),
                ("svcca", 0.9, 0.2), ("r2", 0.6, -0.02), ("cosine", 1.05, 0.3),
                ("cycle", 0.6, 0.97),
            ):  # fmt: skip
                value = round(near * factor + rng.normal() * 0.02, 4)
                yield rows.SimilarityRow(
                    source, target, texts, measure, value, 4000, value, null, 0.01, 1000
                )


def _ood(rng, pairs, names):
    best = {"mahalanobis": 0.93, "knn": 0.91, "energy": 0.86, "msp": 0.82}
    for data in ("agnews", "clinc150"):
        for source, target in [(n, n) for n in names] + pairs:
            recipes = (
                [("native", "native")]
                if source == target
                else [(t, o) for t in ("public", "all") for o in ("ridge", "kl")]
            )
            for texts, objective in recipes:
                for detector in DETECTORS:
                    area = best[detector] * (0.9 + 0.1 * STRENGTH[target])
                    area -= {"native": 0, "public": 0.11, "all": 0.03}[texts]
                    area = float(np.clip(area + rng.normal() * 0.01, 0.5, 0.99))
                    power = 1 / area - 1
                    false = np.linspace(0, 1, 41)
                    roc = [(round(float(x), 4), round(float(x**power), 4)) for x in false]
                    yield rows.OodRow(
                        source, target, data, texts, objective, detector,
                        round(area, 4), round(area - 0.02, 4), round(area - 0.05, 4),
                        round(0.95 ** (1 / power), 4), tuple(roc),
                    )  # fmt: skip


def _curves(rng, pairs, native):
    own = {(r.model, r.data): r.accuracy for r in native}
    for source, target in pairs:
        top = 0.33 if PALE in {source, target} else 0.48
        for x in np.logspace(-5, 3, 17):
            fall = 0.05 * (math.log10(x) + 1) ** 2 * 0.35
            yield rows.CurveRow(
                source, target, "", "penalty", float(f"{x:.4g}"), round(top - fall, 4)
            )
        for data in LABELS:
            bound = min(own[source, data], own[target, data]) * COVERED[data]
            for n in (250, 500, 1000, 2500, 5000, 10000, 20000):
                share = 1 - 0.6 * (250 / n) ** 0.45
                yield rows.CurveRow(
                    source, target, data, "size", float(n), round(top * (1.35 * share - 0.35), 4),
                    round(bound * (0.4 + 0.6 * share) + rng.normal() * 0.006, 4),
                )  # fmt: skip


def _tokenizers(pairs):
    exact = {PALE: 0.31, TINY: 0.62, SMALL: 0.44}
    for source, target in pairs:
        match = round((exact[source] + exact[target]) / 2, 3)
        verdict = "poor for generation: exact-token match is below 0.67."
        yield rows.TokenizerRow(source, target, match + 0.2, match, match / 3, 1.21, verdict)


def _generation():
    for source, target, figures in (
        (TINY, SMALL, ((0.442, 0.71, 2.26), (0.627, 0.83, 1.56), 1.24)),
        (SMALL, TINY, ((0.165, 0.41, 4.20), (0.331, 0.58, 3.26), 2.16)),
    ):
        for objective, (agreement, top5, nats) in zip(("ridge", "kl"), figures[:2], strict=True):
            yield rows.GenerationRow(
                source, target, objective, agreement, top5, nats, figures[2], 18211
            )


def _projections(rng, pairs):
    centres = rng.normal(size=(4, 2)) * 3
    for source, target in pairs:
        for objective, noise in (("ridge", 0.9), ("kl", 0.6)):
            which = rng.integers(4, size=120)
            native = centres[which] + rng.normal(size=(120, 2))
            mapped = native * 0.8 + rng.normal(size=(120, 2)) * noise
            yield rows.Projection(
                source, target, "agnews", objective, (0.31, 0.14), _points(native), _points(mapped),
                tuple(("World", "Sports", "Business", "Sci/Tech")[i] for i in which),
            )  # fmt: skip


def _points(array):
    return tuple((round(float(x), 3), round(float(y), 3)) for x, y in array)


def small_results() -> rows.Results:
    """One row of each kind, all numbers different; the golden file holds these."""
    a, b = "ash", "birch é"
    return rows.Results(
        title="Two | <models>",
        library="0.1.0",
        seed=7,
        pooling="mean",
        public=4000,
        models=(
            rows.ModelRow(a, "ab" * 32, "LlamaForCausalLM", "generate", 128, 1024, 384),
            rows.ModelRow(b, "cd" * 32, "GPT2LMHeadModel", "generate", 144, 2048, 384),
        ),
        data=(rows.DataRow("topics", 295, 145, 40, 5, 0.2),),
        native=(rows.NativeRow(a, "topics", 0.738, 0.66, 0.807),),
        similarity=(
            rows.SimilarityRow(b, a, "public", "cka", 0.5625, 4000, 0.59375, 0.03125, 0.01, 1000),
        ),
        classification=(
            rows.ClassRow(b, a, "topics", "public", "kl", 4000, 0, 0.731, 0.655, 0.8, 0.9905),
        ),
        ood=(
            rows.OodRow(a, a, "topics", "native", "native", "knn", 0.9, 0.89, 0.88, 0.4),
            rows.OodRow(b, a, "topics", "public", "kl", "knn", 0.8, 0.79, 0.78, 0.5,
                        ((0.0, 0.0), (0.25, 0.75), (1.0, 1.0))),
        ),
        curves=(
            rows.CurveRow(b, a, "", "penalty", 0.046, 0.507),
            rows.CurveRow(b, a, "topics", "size", 1000.0, 0.41, 0.7),
        ),
        tokenizers=(rows.TokenizerRow(b, a, 0.81, 0.62, 0.3, 0.9, "poor for generation"),),
        generation=(rows.GenerationRow(b, a, "kl", 0.493, 0.75, 2.5, 1.75, 2285),),
        projections=(
            rows.Projection(b, a, "topics", "kl", (0.5, 0.25), ((0.0, 1.0), (2.0, -3.0)),
                            ((0.5, 1.0), (1.5, -2.0)), ("food", "weather")),
        ),
        times=(rows.TimeRow("fit", 2.4, False),),
    )  # fmt: skip
