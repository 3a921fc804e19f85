"""Out-of-distribution detection on CLINC150: every detector, native and through maps.

    python benchmarks/ood.py [--quick]

Detectors are fitted on clinc150_train, thresholds set from clinc150_val, figures taken on
clinc150_test (in) and clinc150_oos_test (out). Through a map: the detector is the target's own, the
source's states are mapped (map fitted on clinc150_train without its labels), and the threshold is
set once from the target's own validation states and once from the source's mapped ones.
chosen: how defaults were chosen, on labels of clinc150_train left out, without outlying texts.
Needs the real models and data (LINALIGN_SHARED) and the extra `export`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from common import publish
from kl import intents

from linalign_lite import (
    AffineMap,
    DetectionReport,
    Detector,
    Head,
    HiddenStates,
    compare_detectors,
    fit,
    fit_detector,
    fit_kl,
    report_scores,
    train_head,
)
from linalign_lite.heads.ood.detectors import METHODS, NEEDS_HEAD

MODELS = ("minilm", "656k", "260k")
PAIRS = (("minilm", "656k"), ("minilm", "260k"), ("656k", "minilm"), ("656k", "260k"),
         ("260k", "minilm"), ("260k", "656k"))  # fmt: skip
ON_SCORES = ("mahalanobis", "relative-mahalanobis", "cosine", "knn", "whitened-knn")
PARTS = {"in": "test", "out": "oos_test", "validation": "val"}
See = Callable[[HiddenStates], HiddenStates]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="MiniLM and TinyStories-656K alone")
    args = parser.parse_args()
    models = MODELS[:2] if args.quick else MODELS
    heads = {name: train_head(intents(name, "train"), method="logistic")[0] for name in models}
    detectors = {name: dict(fitted(name, heads[name])) for name in models}
    native = [row for name in models for row in judged(name, name, detectors[name], heads[name])]
    mapped = []
    for source, target in PAIRS[:1] if args.quick else PAIRS:
        for kind, affine in maps(source, target, heads[target]).items():
            rows = judged(source, target, detectors[target], heads[target], affine)
            mapped += [{**row, "map": kind} for row in rows]
    publish("ood", {"native": native, "mapped": mapped, "chosen": chosen(models, heads)})


def fitted(name: str, head: Head) -> Iterator[tuple[str, Detector]]:
    """Every detector of one model, its threshold set; those on the head's scores after the rest."""
    train, held = intents(name, "train"), intents(name, "val")
    for method in METHODS:
        yield method, fit_detector(train, method=method, head=head, validation=held)
    read, held = scored(train, head), scored(held, head)
    for method in ON_SCORES:
        yield f"{method} on scores", fit_detector(read, method=method, validation=held)


def scored(states: HiddenStates, head: Head) -> HiddenStates:
    """The head's scores as states: what a client has after decryption."""
    return HiddenStates(head(states.states), labels=states.labels, label_ids=states.label_ids)


def judged(
    source: str,
    target: str,
    detectors: dict[str, Detector],
    head: Head,
    affine: AffineMap | None = None,
) -> Iterator[dict[str, Any]]:
    states = {part: intents(source, split) for part, split in PARTS.items()}
    if affine is not None:
        states = {
            part: replace(s, states=affine(s.states), space=affine.target)
            for part, s in states.items()
        }
    for method, detector in detectors.items():
        seen = states
        if method.endswith("on scores"):
            seen = {part: scored(s, head) for part, s in states.items()}
        scores = {part: detector.scores(s) for part, s in seen.items()}
        own = report_scores(scores["in"], scores["out"], threshold=detector.threshold)
        anew = detector.with_threshold(scores["validation"])
        reset = report_scores(scores["in"], scores["out"], threshold=anew.threshold)
        row = {"source": source, "target": target, "method": method, **figures(own)}
        row |= {"kept_reset": reset.kept, "caught_reset": reset.caught}
        row |= {"setting": setting(detector)}
        print(row, file=sys.stderr)
        yield row


def figures(found: DetectionReport) -> dict[str, Any]:
    card = found.as_card()
    area = card.pop("auroc")
    names = ("fpr_at_95", "aupr_in", "aupr_out", "kept", "caught")
    return {"auroc": area["value"], "low": area["low"], "high": area["high"],
            **{name: card[name] for name in names}}  # fmt: skip


def setting(detector: Detector) -> dict[str, Any]:
    names = ("temperature", "k", "alpha")
    found = {n: getattr(detector.rule, n) for n in names if hasattr(detector.rule, n)}
    return found | {n: detector.card[n] for n in ("shrinkage", "components") if n in detector.card}


def maps(source: str, target: str, head: Head) -> dict[str, AffineMap]:
    """Least squares and head-aware, from unlabelled training texts."""
    x, y = (replace(intents(name, "train"), labels=(), label_ids=None) for name in (source, target))
    return {"ridge": fit(x, y)[0], "kl": fit_kl(x, y, head)[0]}


def chosen(models: tuple[str, ...], heads: dict[str, Head]) -> list[dict[str, Any]]:
    """Settings compared on labels left out. A head has seen those: compare within a method only."""
    tried: dict[str, dict[str, Any]] = {m: {"method": m} for m in METHODS}
    for k in (1, 2, 5, 10, 50):
        tried |= {f"{m}, k={k}": {"method": m, "k": k} for m in ("knn", "whitened-knn")}
    for t in (0.1, 0.5, 1.0, 2.0):
        tried |= {f"{m}, T={t}": {"method": m, "temperature": t} for m in ("energy", "msp")}
    for share in (8, 4, 2):
        for name in models:
            count = intents(name, "train").space.dim // share
            tried[f"vim, d/{share}, {name}"] = {"method": "vim", "components": count}
    rows = []
    for name in models:
        mine = {k: v for k, v in tried.items() if "d/" not in k or k.endswith(f", {name}")}
        found = compare_detectors(
            intents(name, "train"), mine, validation=intents(name, "val"), head=heads[name]
        )
        plain = [m for m in METHODS if m not in NEEDS_HEAD]
        rows.append({
            "model": name, "best": max(plain, key=lambda m: found.auroc[m]),
            "auroc": {k.removesuffix(f", {name}"): v for k, v in found.auroc.items()},
        })  # fmt: skip
        print(rows[-1], file=sys.stderr)
    return rows


if __name__ == "__main__":
    main()
