"""Save and load moments. docs/FORMAT.md, section 1."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from linalign_lite.alignment.moments import FoldedMoments, Moments
from linalign_lite.alignment.paired_moments import MAX_PARTS, MAX_ROWS, MomentsPart, PairedMoments
from linalign_lite.core.space import Space
from linalign_lite.core.token_alignment import RULES
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.npz import DEFAULT_CAP, AnyArray, load_npz, save_npz
from linalign_lite.storage.schema import Choice, Range, Size, format_errors, parse, plain
from linalign_lite.version import __version__

FORMAT = "linalign-moments"
VERSION = 1
MAX_FOLDS = 1000
_MAX_SEED = (1 << 63) - 1
_F8 = ("<f8",)
_SCHEMA = {
    "n": (("<i8",), 1),
    "mean_x": (_F8, 2),
    "mean_y": (_F8, 2),
    "xx": (_F8, 2),  # of each fold the lower triangle, row by row
    "xy": (_F8, 3),
    "yy": (_F8, 2),
}
_RIDGE = 1e-9  # share of the trace that is added before the Cholesky factorisation
_SLACK = 1e-6  # relative excess over yy that rounding explains


def save_moments(path: PathLike, moments: PairedMoments, *, reveal: bool = False) -> None:
    """Write moments to ``path``, whole or not at all.

    Raises InputError when a fold has so few pairs that the moments reveal the states
    (`PairedMoments.telling`), unless ``reveal``: readers of the file may have the states.
    """
    if moments.telling and not reveal:
        raise InputError(
            "moments of so few pairs give the states themselves away",
            got=f"{moments.fewest} in a fold",
            expected=f"more than {max(moments.source.dim, moments.target.dim) + 1}",
            hint="more texts or fewer folds; or --reveal, if the reader may have the states",
        )
    folds, m = moments.moments.folds, moments
    lower = np.tri(m.source.dim, dtype=np.bool_)
    arrays: dict[str, AnyArray] = {"n": np.array([f.n for f in folds], dtype="<i8")}
    for name in ("mean_x", "mean_y", "xx", "xy", "yy"):
        arrays[name] = np.stack([f.xx[lower] if name == "xx" else getattr(f, name) for f in folds])
    card = _MomentsCard(m.source, m.target, "dealt", m.seed, m.pairing, m.parts, __version__)
    save_npz(path, FORMAT, VERSION, arrays, plain(card))


@dataclass(frozen=True)
class _MomentsCard:
    source: Space
    target: Space
    rule: Literal["dealt"]
    seed: Annotated[int, Range(0, _MAX_SEED)]
    pairing: Annotated[str, Choice(("", *RULES))]
    parts: Annotated[tuple[MomentsPart, ...], Size(MAX_PARTS, 1)]
    library: Any


def load_moments(path: PathLike, *, cap: int = DEFAULT_CAP) -> PairedMoments:
    """Read a `.moments.npz`. Raises FormatError, or InputError when it is not there."""
    path = Path(path)
    arrays, card = load_npz(path, FORMAT, VERSION, _SCHEMA, cap=cap, required=_SCHEMA)
    folds = _folds(path, arrays)
    with format_errors(path, "file of moments"):
        found = parse(_MomentsCard, card, "card")
        return PairedMoments(
            FoldedMoments(folds), found.source, found.target, found.seed, found.parts, found.pairing
        )


def _folds(path: Path, arrays: Mapping[str, AnyArray]) -> tuple[Moments, ...]:
    counts = arrays["n"]
    folds, d_source, d_target = arrays["xy"].shape
    packed = d_source * (d_source + 1) // 2
    shapes = {"n": (folds,), "mean_x": (folds, d_source), "mean_y": (folds, d_target),
              "xx": (folds, packed), "yy": (folds, d_target)}  # fmt: skip
    if not 2 <= folds <= MAX_FOLDS or not d_source or not d_target:
        raise FormatError(f"{path} has an unusable number of folds or dimensions")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise FormatError(
                f"{path}: member {name!r} does not fit the others",
                got=str(arrays[name].shape),
                expected=str(shape),
            )
    if counts.min() < 0 or counts.max() > MAX_ROWS or not counts.any():
        raise FormatError(f"{path} has counts of pairs that are not usable")
    found = []
    lower = np.tri(d_source, dtype=np.bool_)
    for k in range(folds):
        xx = np.zeros((d_source, d_source))
        xx[lower] = arrays["xx"][k]
        xx += np.tril(xx, -1).T
        mean_x, mean_y, xy, yy = (arrays[m][k] for m in ("mean_x", "mean_y", "xy", "yy"))
        fold = Moments(int(counts[k]), mean_x, mean_y, xx, xy, yy)
        if not is_possible(fold):
            raise FormatError(
                f"{path} holds moments that no states have",
                got=f"fold {k + 1} of {folds}",
                hint="the file may be damaged or made up; measure the states again",
            )
        found.append(fold)
    return tuple(found)


def is_possible(m: Moments) -> bool:
    """Return True if n pairs can have these moments: XᵀX ⪰ 0, and no R² above 1."""
    from scipy.linalg import solve_triangular

    if m.n < 2:
        empty = m.n or not (m.mean_x.any() or m.mean_y.any())
        return bool(empty) and not (m.xx.any() or m.xy.any() or m.yy.any())
    trace = float(np.trace(m.xx))
    if not np.isfinite(trace) or trace < 0 or m.yy.min() < 0:
        return False
    if trace == 0:
        return not (m.xx.any() or m.xy.any())
    scale = 1 / trace  # or squares of large numbers overflow
    with np.errstate(all="ignore"):
        try:
            lower = np.linalg.cholesky(m.xx * scale + _RIDGE * np.eye(len(m.xx)))
        except np.linalg.LinAlgError:
            return False
        explained = solve_triangular(lower, m.xy * np.sqrt(scale), lower=True, check_finite=False)
        most = m.yy * (1 + _SLACK)
        return bool(((explained**2).sum(axis=0) <= most).all())
