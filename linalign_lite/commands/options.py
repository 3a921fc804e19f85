"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from linalign_lite.core.choices import (
    MAP_FOLDS,
    SEARCH_FOLDS,
    FloatDtype,
    Objective,
    PairingRule,
    TextFormat,
)

CaCert = Annotated[Path | None, Option("--cacert", help="Authorities for TLS (PEM).")]
Cert = Annotated[Path | None, Option("--cert", help="This client's certificate (PEM).")]
CertKey = Annotated[Path | None, Option("--cert-key", help="Its private key (PEM).")]

AsJson = Annotated[bool, Option("--json", help="Print the result as one JSON object.")]
Strict = Annotated[
    bool, Option("--strict", help="Exit code 1 if the verdict is poor; files are written.")
]
Plot = Annotated[
    Path | None, Option("--plot", help="Write a page with pictures, too (.html); extra `report`.")
]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Print only errors on standard error.")]

TextsFile = Annotated[str, Argument(help="A .txt, .jsonl or .csv file, or - for stdin.")]
Format = Annotated[TextFormat, Option("--format", help="Format of TEXTS.")]
Limit = Annotated[int | None, Option(help="Read only the first N texts.", min=1)]
Separator = Annotated[str | None, Option(help="Line that separates the texts of a .txt.")]

TextField = Annotated[str, Option("--text-field", help="Field or column of the text.")]
LabelField = Annotated[
    str | None, Option("--label-field", help="Field or column of the label; default: label.")
]
NoLabels = Annotated[bool, Option("--no-labels", help="Leave the labels of TEXTS out.")]

ModelFolder = Annotated[Path, Argument(help="An exported model folder.")]
Threads = Annotated[int | None, Option(help="Number of threads; default: one per core.")]
Normalize = Annotated[bool | None, Option("--normalize/--no-normalize", help="Unit-length states.")]
StoredDtype = Annotated[FloatDtype, Option(help="Type of stored numbers; fp16 halves the size.")]

SourceStates = Annotated[
    str, Argument(metavar="source", help="The source's states or vectors: path or URL.")
]
TargetStates = Annotated[str, Argument(metavar="target", help="The target's states, same texts.")]
LabelledStates = Annotated[str, Argument(help="Labelled states, or vectors with `label`.")]
MapOut = Annotated[str, Argument(metavar="out", help="The map to write (.map.npz).")]
MapFile = Annotated[Path | None, Option("--map", help="Apply this map to the states first.")]
Folds = Annotated[int, Option(help="Folds of the cross-validation.")]
MapFolds = Annotated[
    int | None, Option(help=f"Folds; default: {MAP_FOLDS}, with retrieval {SEARCH_FOLDS}.")
]
Seed = Annotated[int, Option(help="Seed of the folds.", min=0)]
Pairing = Annotated[PairingRule, Option(help="Token states: rule that pairs positions.")]
Penalty = Annotated[str, Option(help="auto, or a number relative to the source's mean variance.")]
Scheduler = Annotated[
    str | None,
    Option(
        metavar="ADDRESS",
        help="A dask scheduler whose workers do the work, such as tcp://host:8786 (extra `dask`).",
    ),
]
Mbit = Annotated[
    float, Option(help="Speed of the link in Mbit/s; inf for the least work.", min=0.001)
]


def map_folds(folds: int | None, objective: Objective) -> int:
    """Return the folds of a fit, by default those of its objective."""
    if folds is not None:
        return folds
    return SEARCH_FOLDS if objective is Objective.retrieval else MAP_FOLDS
