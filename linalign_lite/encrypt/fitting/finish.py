"""The client's last step: decrypt the cross-products, and solve."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from linalign_lite.alignment.least_squares import FitReport
from linalign_lite.alignment.moments import Float64, FoldedMoments, Moments
from linalign_lite.alignment.paired_moments import MomentsPart, PairedMoments, fit_paired
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.serialization import load_map, save_map
from linalign_lite.encrypt.fitting.descriptions import UNIT, WORD, AnswerInfo
from linalign_lite.encrypt.fitting.kept import KeptOffer, destroy_kept
from linalign_lite.encrypt.keys import SecretKey
from linalign_lite.encrypt.messages import Progress
from linalign_lite.encrypt.response_encoding import decode_products, decrypt_products
from linalign_lite.encrypt.ring import spectrum
from linalign_lite.encrypt.wire import Kind, open_framed
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.storage.atomic import PathLike

PRIVATE_MAP = "private"  # in the card of a map
_LARGEST = float(np.finfo(np.float32).max)
_LARGEST_R2 = 1.01  # errors of products change it by less
_NORM = 1.125  # of a provider's column, at most: its numbers are rounded
_ROOM = 0.05  # of a norm, for the errors of products


class _ImpossibleError(FormatError):
    """An answer whose numbers no states have."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            problem,
            hint="make a new offer, as this one's key was destroyed; keep the refusal to yourself, "
            "since it can tell the answer's maker of the key",
        )


def finish_fit(
    answer_path: PathLike,
    kept_path: PathLike,
    out_path: PathLike,
    *,
    method: str = "ridge",
    penalty: float | str = "auto",
    progress: Progress | None = None,
) -> tuple[AffineMap, FitReport]:
    """Fit the map that `fit` makes of both sides' states, from an answer and what was kept.

    The map is saved as ``out_path``; then the kept file is destroyed, and with it the key of the
    offer, so that this is done once. method: "ridge", its penalty chosen by cross-validation unless
    given, or "procrustes". progress: called with the number of the provider's dimensions done since
    its last call. Raises MismatchError when the answer is to another offer or key, FormatError when
    a file is damaged or has numbers that no states have: such an answer destroys the kept file,
    too. Never tell the answer's maker what comes of it, neither map nor R² nor refusal: made-up
    answers read the secret key of the offer from them (docs/PRIVATE_FIT.md).
    """
    options: dict[str, Any] = {"method": method, "penalty": penalty, "progress": progress}
    found, report = solve_fit(answer_path, kept_path, **options)
    save_map(out_path, found)
    destroy_kept(kept_path)
    return found, report


def solve_fit(
    answer_path: PathLike,
    kept_path: PathLike,
    *,
    method: str = "ridge",
    penalty: float | str = "auto",
    progress: Progress | None = None,
) -> tuple[AffineMap, FitReport]:
    """Fit the map as `finish_fit`, for a caller that saves it and then calls `destroy_kept`."""
    kept = KeptOffer.load(kept_path)
    try:
        moments = decrypt_moments(answer_path, kept, progress=progress)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                found, report = fit_paired(moments, method=method, penalty=penalty)
        except FormatError as e:
            raise _ImpossibleError(f"{answer_path}: {e}") from e
        if not report.held_out_r2 <= _LARGEST_R2:
            raise _ImpossibleError(f"{answer_path} has products that no states have")
    except _ImpossibleError:
        destroy_kept(kept_path)  # each refusal under one key would tell of it
        raise
    return dataclasses.replace(found, card={**found.card, PRIVATE_MAP: True}), report


def load_shown(path: PathLike) -> AffineMap:
    """Load a map that a provider applies. Raises InputError for one of `finish_fit`."""
    affine = load_map(path)
    if affine.card.get(PRIVATE_MAP):
        raise InputError(
            "this map was fitted privately: a provider could read the client's states with it",
            hint="the client maps its queries: encrypt --map",
        )
    return affine


def decrypt_moments(
    answer_path: PathLike, kept: KeptOffer, *, progress: Progress | None = None
) -> PairedMoments:
    """Decrypt an answer to the moments of both sides' states, in folds. Raises as `finish_fit`.

    XᵀY = Q diag(1/a) UᵀY; an entry has an error of AnswerInfo.error times both columns' norms.
    """
    key = kept.secret
    with open_framed(answer_path, Kind.ANSWER) as reader:
        info = AnswerInfo.from_header(reader.header, reader.name)
        if (info.offer, info.shape) != (kept.offer, kept.shape):
            raise MismatchError(
                f"{reader.name} answers another offer", hint="finish it with its own"
            )
        if info.key != key.digest:
            raise MismatchError(
                f"{reader.name} belongs to another key",
                got=info.key.hex()[:8],
                expected=key.digest.hex()[:8],
            )
        payloads = (record.payload for record in reader)
        products, means, squares = _decrypted(info, payloads, key, reader.name, progress)
    folds = []
    up = kept.columns.basis / kept.columns.scale
    down = kept.columns.basis * kept.columns.scale
    for k, mine in enumerate(kept.columns.projected):
        if explained(down.T @ mine.xx @ down, products[:, k], info.error) > _NORM + _ROOM:
            raise _ImpossibleError(f"{reader.name} has products that no states have")
        xy = up @ (products[:, k].T * np.sqrt(squares[:, k]))
        folds.append(Moments(mine.n, mine.mean_x, means[:, k], mine.xx, xy, squares[:, k]))
    part = MomentsPart(kept.text_digest, info.n)
    spaces = kept.source, info.space
    return PairedMoments(FoldedMoments(tuple(folds)), *spaces, info.seed, (part,))


def _decrypted(
    info: AnswerInfo,
    payloads: Iterator[bytes],
    key: SecretKey,
    name: str,
    progress: Progress | None,
) -> tuple[Float64, Float64, Float64]:
    """Products of unit columns, (d_target, folds, m), and means and sums of squares."""
    from linalign_lite.encrypt.seal.secret_side import SecretSide

    secret = spectrum(SecretSide(key.parameters, key.material).secret)
    degree, positions = info.parameters.degree, np.arange(info.columns)
    size = info.folds * info.product
    products, numbers = [], []
    for payload in payloads:  # grown record by record: nothing is allocated from a header alone
        second, first = decode_products(payload[:size], info.folds, degree, WORD)
        products.append(decrypt_products(secret, second, first, positions, WORD) / UNIT)
        numbers.append(np.frombuffer(payload, "<f8", offset=size).reshape(info.folds, 2))
        if progress:
            progress(1)
    found, moments = np.stack(products), np.stack(numbers)
    means, squares = moments[..., 0], moments[..., 1]
    # NaN is neither; a state is a float32 at most
    possible = (np.abs(means) <= _LARGEST) & (squares >= 0) & (squares <= 4 * info.n * _LARGEST**2)
    if not possible.all():
        raise _ImpossibleError(f"{name} has moments that no states have")
    if np.abs(found).max() > _NORM + info.error:  # Cauchy–Schwarz
        raise _ImpossibleError(f"{name} has products that no states have")
    return found, means, squares


def explained(gram: Float64, products: Float64, error: float) -> float:
    """Compute the largest norm of what the columns explain of a dimension of the provider.

    √(pᵀ(UᵀU + εI)⁻¹p), p = Uᵀy: at most ‖y‖ (Bessel). gram: UᵀU, (m, m); products: (d_target, m).
    ε is so large that errors of ``error`` in each product add no more than `_ROOM`.
    """
    m = len(gram)
    ridge = max(m * (error / _ROOM) ** 2, 1e-9)  # above rounding, whatever a header says
    solved = np.linalg.solve(gram + ridge * np.eye(m), products.T)
    return math.sqrt(max(0.0, float((products.T * solved).sum(axis=0).max())))
