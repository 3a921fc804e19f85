"""Colours and marks of models and texts, the same on the whole page; names made to fit."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from linalign_lite.survey.report.content import Inline, Marker, ModelName, Pair
from linalign_lite.survey.report.theme import MARKS, N_MODELS

OF_TEXTS = {"public": "o", "few": "^", "public+few": "D", "all": "s"}
_BREAKS = re.compile(r"(?<=[-_./ ])")
POLYGONS = {
    "s": "-4,-4 4,-4 4,4 -4,4", "^": "0,-5 5,4 -5,4", "v": "0,5 5,-4 -5,-4",
    "D": "0,-5.2 5.2,0 0,5.2 -5.2,0", "p": "0,-5 4.8,-1.5 2.9,4 -2.9,4 -4.8,-1.5",
    "P": "-1.7,-5 1.7,-5 1.7,-1.7 5,-1.7 5,1.7 1.7,1.7 1.7,5 -1.7,5 -1.7,1.7 -5,1.7 -5,-1.7 "
         "-1.7,-1.7",
    "X": "-5,-2.6 -2.6,-5 0,-2.4 2.6,-5 5,-2.6 2.4,0 5,2.6 2.6,5 0,2.4 -2.6,5 -5,2.6 -2.4,0",
}  # fmt: skip


@dataclass(frozen=True)
class ModelStyles:
    """Colours and marks of the models ``names``, by their place."""

    names: tuple[str, ...]

    def colour(self, name: str) -> str:
        """The name of a custom property of the page."""
        return f"m{self.names.index(name) % N_MODELS}"

    def mark(self, name: str) -> str:
        place = self.names.index(name)
        # the ninth model shares the first's colour, not its mark
        return MARKS[(place + place // N_MODELS) % N_MODELS]

    def model(self, name: str) -> ModelName:
        return ModelName(Marker(self.mark(name), self.colour(name)), name)

    def pair(self, pair: tuple[str, str]) -> Pair:
        return Pair(self.model(pair[0]), self.model(pair[1]))

    def legend(self, *more: Inline) -> list[Inline]:
        """All models, then ``more``."""
        return [*map(self.model, self.names), *more]


def shorten(name: str, length: int = 20) -> str:
    """``name``, or its beginning and end with an ellipsis between."""
    if len(name) <= length:
        return name
    tail = length // 3
    return f"{name[: length - tail - 1]}…{name[-tail:]}"


def wrapped(name: str, length: int = 12, lines: int = 3) -> str:
    """Break a name after - _ . / or space into as few lines as possible, evenly filled."""
    pieces = [
        part[i : i + length]
        for part in _BREAKS.split(shorten(name, length * lines - 6))
        for i in range(0, len(part), length)
    ]
    found = _filled(pieces, length)
    for narrower in range(length - 1, 3, -1):
        other = _filled(pieces, narrower)
        if len(other) > len(found) or max(map(len, other), default=0) > narrower:
            break
        found = other
    if len(found) > lines:
        found = [*found[: lines - 1], shorten("".join(found[lines - 1 :]), length)]
    return "\n".join(found)


def _filled(pieces: Sequence[str], length: int) -> list[str]:
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1]) + len(piece) > length:
            lines.append("")
        lines[-1] += piece
    return lines
