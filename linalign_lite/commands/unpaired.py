"""fit --unpaired and --no-pairs: maps from texts that only one side has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from linalign_lite.commands.console import Console
from linalign_lite.errors import InputError

if TYPE_CHECKING:
    from linalign_lite.alignment.unpaired.report import UnpairedReport
    from linalign_lite.core.affine_map import AffineMap


@dataclass(frozen=True)
class UnpairedOptions:
    """``unshared``: states of texts of one side each, the pairs being SOURCE and TARGET."""

    unshared: tuple[str, str] | None
    no_pairs: bool

    @property
    def wanted(self) -> bool:
        return self.no_pairs or self.unshared is not None

    def check(self, *, plain: bool, penalty: str) -> None:
        """Raise InputError unless all fit; plain: other ways of fitting are left out."""
        if self.no_pairs and self.unshared is not None:
            hint = "SOURCE and TARGET are the pairs of --unpaired, and the texts of --no-pairs"
            raise InputError("--unpaired and --no-pairs do not go together", hint=hint)
        if self.wanted and not (plain and penalty == "auto"):
            name = "--no-pairs" if self.no_pairs else "--unpaired"
            hint = "leave --objective, --method, --penalty, --with-few and --scheduler out"
            raise InputError(f"{name} fits in its own way", hint=hint)


def fit_unshared(
    console: Console, source: str, target: str, options: UnpairedOptions, pairing: str, seed: int
) -> tuple[AffineMap, UnpairedReport]:
    """Fit on unshared texts, and on pairs if there are some."""
    from linalign_lite.alignment.unpaired.unpaired_fit import fit_unpaired, rounds
    from linalign_lite.vectors.reading import read_pair, read_states

    pairs = None if options.no_pairs else read_pair(source, target, pairing)
    x, y = map(read_states, options.unshared or (source, target))
    with console.progress("aligning", rounds(len(pairs[0]) if pairs else 0)) as tally:
        return fit_unpaired(x, y, pairs, seed=seed, watch=tally)
