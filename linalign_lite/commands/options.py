"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from linalign_lite.core.choices import FloatDtype, PairingRule, TextFormat

AsJson = Annotated[bool, Option("--json", help="Print the result as one JSON object.")]
Quiet = Annotated[
    bool, Option("--quiet", "-q", help="Print nothing on standard error except errors.")
]

TextsFile = Annotated[str, Argument(help="A .txt, .jsonl or .csv file, or - for stdin.")]
Format = Annotated[TextFormat, Option("--format", help="Format of TEXTS.")]
Limit = Annotated[int | None, Option(help="Read only the first N texts.", min=1)]
Separator = Annotated[
    str | None, Option(help="In a .txt, texts are separated by lines equal to this.")
]

ModelFolder = Annotated[Path, Argument(help="An exported model folder.")]
Threads = Annotated[int | None, Option(help="Number of threads; default: one per core.")]
Normalize = Annotated[
    bool | None, Option("--normalize/--no-normalize", help="Scale states to length 1.")
]
StoredDtype = Annotated[
    FloatDtype, Option(help="Type of the stored numbers; fp16 takes half the disk.")
]

SourceStates = Annotated[
    str, Argument(metavar="source", help="States of the source model: a path or a URL.")
]
TargetStates = Annotated[
    str, Argument(metavar="target", help="States of the target model, same texts.")
]
LabelledStates = Annotated[Path, Argument(help="Labelled states.")]
MapOut = Annotated[str, Argument(metavar="out", help="The map to write (.map.npz).")]
MapFile = Annotated[Path | None, Option("--map", help="Apply this map to the states first.")]
Folds = Annotated[int, Option(help="Folds of the cross-validation.")]
Seed = Annotated[int, Option(help="Seed of the folds.", min=0)]
Pairing = Annotated[PairingRule, Option(help="Token states: rule that pairs positions.")]
Penalty = Annotated[
    str, Option(help="auto, or a number relative to the mean variance of the source.")
]
Scheduler = Annotated[
    str | None,
    Option(
        metavar="ADDRESS",
        help="A dask scheduler whose workers do the work, such as tcp://host:8786 (extra `dask`).",
    ),
]
