"""ood fit, score, evaluate, threshold: detectors of out-of-distribution texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from linalign_lite.commands.console import (
    Console,
    draw,
    load_optional_map,
    require_output,
    require_plot,
)
from linalign_lite.commands.options import AsJson, MapFile, Plot, Quiet, Strict
from linalign_lite.commands.reading import read_for
from linalign_lite.core.choices import DetectorMethod
from linalign_lite.core.text_tables import pair_lines

if TYPE_CHECKING:
    from linalign_lite.heads.ood.detector import Detector

app = typer.Typer(
    name="ood",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Detect texts unlike a classifier's training texts.",
)


DetectorFile = Annotated[Path, Argument(metavar="DETECTOR", help="A detector (.ood.npz).")]
Tpr = Annotated[float, Option(help="Share of in-distribution states that the threshold keeps.")]


@app.command()
def fit(
    states: Annotated[str, Argument(help="In-distribution states, preferably labelled.")],
    out: Annotated[Path, Argument(help="The detector to write (.ood.npz).")],
    method: Annotated[DetectorMethod, Option(help="Scoring method.")] = DetectorMethod.mahalanobis,
    head_file: Annotated[
        Path | None,
        Option("--head", help="For energy, msp, max-logit, vim; or to label the states."),
    ] = None,
    validation: Annotated[
        str | None, Option(help="Other in-distribution states, to set the threshold.")
    ] = None,
    tpr: Tpr = 0.95,
    temperature: Annotated[
        str, Option(help="energy, msp: a number, or auto (energy: calibrated).")
    ] = "auto",
    k: Annotated[int, Option("-k", help="knn: rank of the neighbour that counts.", min=1)] = 2,
    components: Annotated[
        int | None, Option(help="vim: principal directions (default: an eighth).", min=1)
    ] = None,
    bank: Annotated[int, Option(help="knn: keep at most this many states.", min=1)] = 20_000,
    shrinkage: Annotated[
        str, Option(help="Shrinkage of covariances: 0 to 1, or auto (Ledoit-Wolf).")
    ] = "auto",
    scores_only: Annotated[
        bool, Option("--scores-only", help="Leave the head out: for decrypted scores.")
    ] = False,
    seed: Annotated[int, Option(help="Seed of the states kept for knn.", min=0)] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit a detector on in-distribution states.

    energy, msp, max-logit and vim read a head's scores; the other methods read states. mahalanobis
    is the distance from the nearest label's mean, relative-mahalanobis subtracts the distance from
    all labels together, cosine compares directions only, knn is the distance from the nearest
    states. auto holds labels out and takes the method that separates them best. The threshold is
    set on the states of --validation. With --scores-only the file contains no head, so that a
    client can apply the detector to decrypted scores.

    \b
    Examples:
      linalign-lite ood fit train.states.npz intents.ood.npz --validation val.states.npz
      linalign-lite ood fit train.states.npz intents.ood.npz --method auto
      linalign-lite ood fit train.npz x.ood.npz --method energy --head h.npz --scores-only
    """
    from linalign_lite.core.serialization import load_head
    from linalign_lite.heads.ood.detector_training import fit_detector
    from linalign_lite.heads.ood.model_selection import compare_detectors
    from linalign_lite.heads.ood.serialization import save_detector
    from linalign_lite.vectors.reading import read_states

    console = Console(as_json, quiet)
    require_output(out, states, head_file, validation)
    fitted_on = read_states(states)
    held_out = read_states(validation) if validation else None
    chosen, tried = method.value, {}
    if method is DetectorMethod.auto:
        labelled = held_out if held_out is not None and held_out.label_ids is not None else None
        found = compare_detectors(fitted_on, validation=labelled, seed=seed, progress=console.note)
        chosen, tried = found.best, dict(found.auroc)
    detector = fit_detector(
        fitted_on,
        method=chosen,
        head=load_head(head_file) if head_file else None,
        validation=held_out,
        tpr=tpr,
        temperature=temperature,
        k=k,
        components=components,
        bank=bank,
        shrinkage=shrinkage,
        seed=seed,
    )
    if tried:
        detector = replace(detector, card={**detector.card, "tried": tried})
    if scores_only:
        detector = detector.without_head()
    if detector.threshold is None:
        console.note("no threshold: set one with --validation")
    save_detector(out, detector)
    _tell(console, out, detector, tried)


@app.command()
def score(
    detector_file: DetectorFile,
    states: Annotated[str, Argument(help="The states to score.")],
    map_file: MapFile = None,
    as_json: AsJson = False,
) -> None:
    """Print one score per state; higher means more outlying.

    If the detector has a threshold, each line ends with "out" (above it) or "in".

    \b
    Examples:
      linalign-lite ood score intents.ood.npz test.states.npz
      linalign-lite ood score intents.ood.npz client.states.npz --map client-to-provider.map.npz
    """
    from linalign_lite.heads.ood.serialization import load_detector

    console, detector = Console(as_json), load_detector(detector_file)
    affine = load_optional_map(map_file)
    read = read_for(console, states, affine, detector.space, "the detector")
    scores = detector.scores(read, affine)
    values = scores.tolist()
    data: dict[str, Any] = {"method": detector.method, "n": len(values), "scores": values}
    data["threshold"] = detector.threshold
    lines = [f"{value:.6g}" for value in values]
    if detector.threshold is not None:
        data["outlying"] = detector.above(scores).tolist()
        lines = mark_outlying(lines, data["outlying"])
    console.result(data, lines)


@app.command()
def evaluate(
    detector_file: DetectorFile,
    inlying: Annotated[str, Argument(metavar="IN_STATES", help="In-distribution states.")],
    outlying: Annotated[str, Argument(metavar="OUT_STATES", help="Outlying states.")],
    map_file: MapFile = None,
    plot: Plot = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Measure how well a detector finds outlying states.

    AUROC: probability that an outlying state scores higher than an in-distribution one. FPR at
    95 %: share of outlying states accepted when 95 % of the others are. --json adds the ROC curve.

    \b
    Examples:
      linalign-lite ood evaluate intents.ood.npz test.states.npz oos.states.npz
      linalign-lite ood evaluate intents.ood.npz b.test.npz b.oos.npz --map b-to-a.map.npz --json
    """
    from linalign_lite.heads.ood.report import evaluate_detector
    from linalign_lite.heads.ood.serialization import load_detector

    require_plot(plot, detector_file, inlying, outlying, map_file)
    console, detector = Console(as_json), load_detector(detector_file)
    affine = load_optional_map(map_file)
    inner, outer = (
        read_for(console, states, affine, detector.space, "the detector")
        for states in (inlying, outlying)
    )
    found = evaluate_detector(detector, inner, outer, affine)
    draw(plot, f"Detection by {detector_file.name}", found, found.rows())
    console.judged(found.as_card(), pair_lines(found.rows()), found.verdict, strict=strict)


@app.command()
def threshold(
    detector_file: DetectorFile,
    states: Annotated[str, Argument(help="In-distribution states, not those of the fit.")],
    out: Annotated[Path, Argument(help="The detector to write (.ood.npz).")],
    map_file: MapFile = None,
    tpr: Tpr = 0.95,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Set a detector's threshold for other states.

    Use it for mapped states: a map moves in-distribution states too, so that a threshold set
    without it does not keep the share of them that --tpr asks for.

    \b
    Example:
      linalign-lite ood threshold a.ood.npz b.val.npz b-to-a.ood.npz --map b-to-a.map.npz
    """
    from linalign_lite.heads.ood.serialization import load_detector, save_detector

    console = Console(as_json, quiet)
    require_output(out, detector_file, states, map_file)
    detector, affine = load_detector(detector_file), load_optional_map(map_file)
    read = read_for(console, states, affine, detector.space, "the detector")
    scores = detector.scores(read, affine)
    detector = detector.with_threshold(scores, tpr)
    save_detector(out, detector)
    _tell(console, out, detector, {})


def mark_outlying(lines: list[str], outlying: list[bool]) -> list[str]:
    """Append "out" or "in" to each line."""
    return [f"{text}\t{'out' if x else 'in'}" for text, x in zip(lines, outlying, strict=True)]


def _tell(console: Console, out: Path, detector: Detector, tried: Mapping[str, float]) -> None:
    from linalign_lite.commands.describe_file import describe

    facts = describe(out)
    rows: list[tuple[str, object]] = [("detector", out), ("method", detector.method)]
    rows += [
        (name, f"{value:.4g}" if isinstance(value, float) else value)
        for name, value in facts.items()
        if name not in {"kind", "method"} and value is not None
    ]
    if tried:
        facts["tried"] = tried
        shown = ", ".join(f"{name} {area:.3f}" for name, area in tried.items())
        rows.append(("AUROC of labels left out", shown))
    console.result({"out": str(out), **facts}, pair_lines(rows))
