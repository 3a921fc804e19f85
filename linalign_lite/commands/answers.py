"""Answers of a head: labels of decrypted scores, outlier scores, and their accuracy."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from linalign_lite.commands.console import Console
from linalign_lite.commands.detectors import mark_outlying
from linalign_lite.errors import MismatchError

if TYPE_CHECKING:
    from linalign_lite.core.metrics import Interval
    from linalign_lite.core.verdict import Verdict
    from linalign_lite.encrypt.scores import Scores
    from linalign_lite.extraction.texts import Texts
    from linalign_lite.heads.ood.detector import Detector

Labelled = Annotated[
    str | None,
    Option("--texts", help="The texts of the queries, in order; labels give the accuracy."),
]


def load_answers(path: str | None) -> Texts | None:
    """Read the texts of --texts, if given."""
    from linalign_lite.extraction.texts import read_texts

    return None if path is None else read_texts(path)


def show_scores(
    console: Console,
    scores: Scores,
    by: str | Detector | None,
    top: int,
    out: Path | None,
    asked: Texts | None = None,
) -> None:
    """Print the best labels of each query, and outlier scores ``by`` a method; write all scores.

    asked: the texts of the queries, in order; their labels give the accuracy.
    """
    from linalign_lite.storage.atomic import atomic

    names = scores.labels or tuple(str(i) for i in range(scores.values.shape[1]))
    order_all, rows = scores.ranking().tolist(), scores.values.tolist()
    order = [row[:top] for row in order_all]
    best = [[(names[i], row[i]) for i in ids] for row, ids in zip(rows, order, strict=True)]
    measured = None if asked is None else _accuracy(asked, names, [row[0] for row in order_all])
    if out is not None:
        # private: scores are not for the provider
        with console.replacing(out), atomic(out, private=True) as f:
            for i, row in enumerate(rows):
                line = _described(asked, i) | {"scores": dict(zip(names, row, strict=True))}
                f.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    digits = scores.decimals
    data: dict[str, Any] = {"queries": len(best), "decimals": digits, "error": scores.error}
    data["best"] = [[{"label": n, "score": s} for n, s in row] for row in best]
    lines = ["\t".join(f"{n} {value:.{min(digits, 4)}f}" for n, value in row) for row in best]
    if by is not None:
        values = scores.outlyingness(by)
        data["outlyingness"] = values.tolist()
        name = by if isinstance(by, str) else by.method
        ends = [f"{name} {value:.4f}" for value in values]
        if not isinstance(by, str) and by.threshold is not None:
            data["outlying"] = by.above(values).tolist()
            ends = mark_outlying(ends, data["outlying"])
        lines = [f"{line}\t{end}" for line, end in zip(lines, ends, strict=True)]
    terminal = sys.stdout is not None and sys.stdout.isatty()
    if out is not None and by is None and terminal:  # a pipe gets the labels all the same
        lines = [f"{out}: scores of {len(best)} queries"]
    if measured is None:
        console.result(data, lines)
        return
    value, verdict = measured
    shown = f"accuracy {value.value:.4f} ({value.low:.4f} to {value.high:.4f}, 95% bootstrap)"
    data["accuracy"] = asdict(value)
    if terminal or console.as_json:
        console.judged(data, [*lines, "", shown], verdict, strict=False)
    else:  # a file gets the labels alone
        console.result(data, lines)
        console.note(f"{shown}\n\n{verdict}")


def _described(asked: Texts | None, i: int) -> dict[str, str]:
    if asked is None:
        return {}
    label = {"label": asked.labels[i]} if asked.labels else {}
    return {"text": asked.texts[i], **label}


def _accuracy(
    asked: Texts, names: Sequence[str], best: Sequence[int]
) -> tuple[Interval, Verdict] | None:
    """Accuracy of the best labels, and its verdict; None without labels. Names are the head's.

    Raises MismatchError when there are not as many texts as queries, or no label is the head's.
    """
    import numpy as np

    from linalign_lite.core.metrics import bootstrap_accuracy, majority
    from linalign_lite.core.verdict import of_accuracy
    from linalign_lite.heads.evaluation import no_common_label

    if len(asked.texts) != len(best):
        raise MismatchError(
            "these are not the texts of the queries",
            got=f"{len(asked.texts)} texts",
            expected=str(len(best)),
            hint="give those that were encrypted, with the same --limit",
        )
    if not asked.labels:
        return None
    output = {name: i for i, name in enumerate(names)}
    truth = np.array([output.get(label, -1) for label in asked.labels])
    if (truth < 0).all():
        raise no_common_label(asked.labels, names)
    found = bootstrap_accuracy(truth, np.asarray(best))
    step = (
        "first see that these are the texts of the queries, in their order; then a better map, or"
        " another head, which `evaluate` tells in the clear"
    )
    return found, of_accuracy(found.value, found.low, majority(truth), advice=step)


def load_scorer(ood: str | None) -> str | Detector | None:
    """The method or the detector that --ood names; loaded before anything is decrypted."""
    from linalign_lite.heads.ood.detectors import SCORE_METHODS
    from linalign_lite.heads.ood.serialization import load_detector

    if ood is None or ood in SCORE_METHODS:
        return ood
    detector = load_detector(ood)
    detector.require_scores()
    return detector
