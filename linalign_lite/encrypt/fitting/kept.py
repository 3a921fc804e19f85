"""The client's side of an encrypted fit: the columns that it offers, and the file that it keeps.

**The key.** Whoever has the map of a made-up answer can read the secret key of its offer
(docs/PRIVATE_FIT.md). So each offer has a key of its own, which is nowhere but in the kept file:
no query and no other offer can be made with it, and `destroy_kept` ends it.

**Columns.** With X the client's states, about the mean of their fold, and XᵀX = Q diag(s) Qᵀ over
all folds, the offered columns are U = X Q diag(a), a_i so that the largest norm of column i in a
fold is 1. Every direction is then as exact as every other, whatever the condition of XᵀX, the
norms say nothing of the states, and XᵀY = Q diag(1/a) UᵀY. Directions whose s is rounding noise are
left out, and those beyond the m largest where fewer columns are asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import Float64, FoldAccumulator, FoldedMoments, Moments
from linalign_lite.alignment.moments_io import is_possible
from linalign_lite.alignment.ridge import spectrum
from linalign_lite.core.affine_map import Array
from linalign_lite.core.space import Space
from linalign_lite.encrypt.fitting.shape import MAX_FOLDS, FitShape
from linalign_lite.encrypt.fitting.sources import TextStates
from linalign_lite.encrypt.keys import SecretKey
from linalign_lite.errors import FormatError, InputError, LinalignError
from linalign_lite.storage.atomic import PathLike, require_private
from linalign_lite.storage.npz import load_npz, save_npz
from linalign_lite.storage.schema import Range, Sha256, format_errors, parse, plain

FORMAT, VERSION = "linalign-offer", 2  # 1 had no key; it was not released
_F8 = ("<f8",)
_ROUNDING, _TINY = 1e-6, 1e-10  # of a number, and of the sum of all squares
_SCHEMA = {
    "mean": (_F8, 2),
    "xx": (_F8, 2),
    "basis": (_F8, 2),
    "scale": (_F8, 1),
    "secret": (("|u1",), 1),
}


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns u = diag(a) Qᵀ (x − the mean of x's fold) of a client's states x.

    moments: of the states, in folds, with no target.
    """

    moments: FoldedMoments
    basis: Float64  # shape: (d, m)  Q
    scale: Float64  # shape: (m,)  a

    def __call__(self, folds: npt.NDArray[np.int64], rows: Array) -> Float64:
        """Compute the columns of texts of these folds, (w,): (w, d) → (w, m), each at most 1."""
        means = np.stack([f.mean_x for f in self.moments.folds])
        columns: Float64 = (rows - means[folds]) @ self.basis * self.scale
        return columns

    @property
    def consistent(self) -> bool:
        """True if Q is orthonormal and a fits the moments, up to rounding."""
        with np.errstate(all="ignore"):
            gap = self.basis.T @ self.basis - np.eye(self.basis.shape[1])
            stated, found = 1 / self.scale**2, _largest(self.moments, self.basis)
            total = sum(float(np.trace(f.xx)) for f in self.moments.folds)
            fits = np.abs(found - stated) <= _ROUNDING * stated + _TINY * total
        return bool(np.abs(gap).max() < _ROUNDING and fits.all())

    @cached_property
    def projected(self) -> tuple[Moments, ...]:
        """Moments of the states' projections onto the basis, through their mean: of the offer."""
        d, m = self.basis.shape
        if d == m:
            return self.moments.folds
        project = self.basis @ self.basis.T
        folds = self.moments.folds
        mean = sum((f.n * f.mean_x for f in folds), np.zeros(d)) / self.moments.n

        def projected(f: Moments) -> Moments:
            near = mean + project @ (f.mean_x - mean)
            return replace(f, mean_x=near, xx=project @ f.xx @ project)

        return tuple(map(projected, folds))


def measure_source(states: TextStates, shape: FitShape) -> FoldedMoments:
    """Compute moments of the states in folds; a target of one dimension stands in, unused."""
    totals = FoldAccumulator(shape.folds, states.space.dim, 1)
    for folds, block in shape.dealt(states):
        totals.add(block, block[:, :1], folds)
    return totals.moments()


def choose_columns(moments: FoldedMoments, most: int | None = None) -> Columns:
    """Choose the columns: all directions, or the ``most`` of largest variance.

    Raises InputError when the states do not vary.
    """
    within = sum((f.xx for f in moments.folds[1:]), moments.folds[0].xx)
    zeros = np.zeros(len(within))
    found = spectrum(Moments(moments.n, zeros, zeros[:1], within, zeros[:, None], zeros[:1]))
    kept = np.flatnonzero(found.values > found.cutoff)[::-1][:most]
    if not len(kept):
        raise InputError("the source states are all the same, so no map can be fitted")
    basis = np.ascontiguousarray(found.vectors[:, kept])
    return Columns(moments, basis, 1 / np.sqrt(_largest(moments, basis)))


def _largest(moments: FoldedMoments, basis: Float64) -> Float64:
    """The largest sum of squares in a fold of each column of X Q: (m,)."""
    squares = [np.einsum("di,di->i", basis, f.xx @ basis) for f in moments.folds]
    largest: Float64 = np.max(squares, axis=0)
    return largest


@dataclass(frozen=True)
class _KeptCard:
    source: Space
    n: Annotated[int, Range(2, 1 << 32)]
    folds: Annotated[int, Range(2, MAX_FOLDS)]
    seed: Annotated[int, Range(0, (1 << 63) - 1)]
    text_digest: Sha256
    offer: Sha256


@dataclass(frozen=True, eq=False)
class KeptOffer:
    """Columns, fingerprint and secret key of an offer, which `finish_fit` needs."""

    columns: Columns
    source: Space
    shape: FitShape
    text_digest: str
    offer: str  # fingerprint
    secret: SecretKey = field(repr=False)  # of this offer alone

    def save(self, path: PathLike) -> None:
        """Write ``path`` (`*.kept.npz`), whole or not at all, mode 0600.

        Raises OutputExistsError when it is there: an offer that was sent is of no use without it.
        """
        folds, s = self.columns.moments.folds, self.shape
        lower = np.tri(self.source.dim, dtype=np.bool_)
        arrays: dict[str, Any] = {
            "mean": np.stack([f.mean_x for f in folds]),
            "xx": np.stack([f.xx[lower] for f in folds]),
            "basis": self.columns.basis,
            "scale": self.columns.scale,
            "secret": np.frombuffer(self.secret.to_bytes(), dtype=np.uint8),
        }
        card = _KeptCard(self.source, s.n, s.folds, s.seed, self.text_digest, self.offer)
        save_npz(path, FORMAT, VERSION, arrays, plain(card), private=True, new=True)

    @classmethod
    def load(cls, path: PathLike) -> KeptOffer:
        """Read a `*.kept.npz`.

        Raises FormatError, or InputError when it is not there or when others may read or write it.
        """
        arrays, raw = load_npz(Path(path), FORMAT, VERSION, _SCHEMA, required=_SCHEMA)
        require_private(Path(path))
        with format_errors(path, "kept offer"):
            card = parse(_KeptCard, raw, "card")
        try:
            secret = SecretKey.from_bytes(arrays["secret"].tobytes())
        except FormatError as e:
            raise FormatError(f"{path}: {e}") from e
        if not secret.parameters.private:
            raise FormatError(f"{path}: its key is not of the profile private")
        degree = secret.parameters.degree
        (d, m), folds = arrays["basis"].shape, card.folds
        shapes = {"mean": (folds, d), "xx": (folds, d * (d + 1) // 2), "scale": (m,)}
        fits = all(arrays[name].shape == shape for name, shape in shapes.items())
        if not fits or d != card.source.dim or not 1 <= m <= min(d, degree):
            raise FormatError(f"{path}: its parts do not fit together")
        if (arrays["scale"] <= 0).any():
            raise FormatError(f"{path}: it has a scale that is not above 0")
        shape = FitShape(card.n, folds, card.seed, m, degree)
        lower, zero = np.tri(d, dtype=np.bool_), np.zeros(1)
        parts = []
        for size, mean, packed in zip(shape.sizes, arrays["mean"], arrays["xx"], strict=True):
            xx = np.zeros((d, d))
            xx[lower] = packed
            xx += np.tril(xx, -1).T
            parts.append(Moments(size, mean, zero, xx, np.zeros((d, 1)), zero))
        columns = Columns(FoldedMoments(tuple(parts)), arrays["basis"], arrays["scale"])
        if not all(map(is_possible, parts)) or not columns.consistent:
            raise FormatError(f"{path} holds moments or columns that no states have")
        return cls(columns, card.source, shape, card.text_digest, card.offer, secret)


def destroy_kept(path: PathLike) -> None:
    """Overwrite a kept file and remove it, and with it the key of its offer.

    What a disk, a snapshot or a backup holds of it is not reached. Raises LinalignError when it is
    still there.
    """
    try:
        with Path(path).open("r+b") as f:
            f.write(bytes(os.fstat(f.fileno()).st_size))
            f.flush()
            os.fsync(f.fileno())
        Path(path).unlink()
    except FileNotFoundError:
        return
    except OSError as e:
        raise LinalignError(
            f"{path} holds the secret key of an offer that is done, and cannot be removed",
            got=e.strerror or str(e),
            hint="remove it yourself",
        ) from e
