"""The client's last step: decrypt the cross-products, and solve."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from linalign_lite.alignment.least_squares import FitReport
from linalign_lite.alignment.moments import Float64, FoldedMoments, Moments
from linalign_lite.alignment.paired_moments import MomentsPart, PairedMoments, fit_paired
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.encrypt.fitting.descriptions import UNIT, WORD, AnswerInfo
from linalign_lite.encrypt.fitting.kept import KeptOffer
from linalign_lite.encrypt.keys import SecretKey
from linalign_lite.encrypt.messages import Progress
from linalign_lite.encrypt.response_encoding import decode_products, decrypt_products
from linalign_lite.encrypt.ring import spectrum
from linalign_lite.encrypt.wire import Kind, open_framed
from linalign_lite.errors import FormatError, MismatchError
from linalign_lite.storage.atomic import PathLike

_LARGEST = float(np.finfo(np.float32).max)


def finish_fit(
    answer_path: PathLike,
    kept_path: PathLike,
    key: SecretKey,
    *,
    method: str = "ridge",
    penalty: float | str = "auto",
    progress: Progress | None = None,
) -> tuple[AffineMap, FitReport]:
    """Fit the map that `fit` makes of both sides' states, from an answer and what was kept.

    method: "ridge", its penalty chosen by cross-validation unless given, or "procrustes". progress:
    called with the number of the provider's dimensions done since its last call. Raises
    MismatchError when the answer is to another offer or key, FormatError when a file is damaged.
    """
    moments = decrypt_moments(answer_path, kept_path, key, progress=progress)
    return fit_paired(moments, method=method, penalty=penalty)


def decrypt_moments(
    answer_path: PathLike, kept_path: PathLike, key: SecretKey, *, progress: Progress | None = None
) -> PairedMoments:
    """Decrypt an answer to the moments of both sides' states, in folds. Raises as `finish_fit`.

    XᵀY = Q diag(1/a) UᵀY; an entry has an error of AnswerInfo.error times both columns' norms.
    """
    kept = KeptOffer.load(kept_path)
    with open_framed(answer_path, Kind.ANSWER) as reader:
        info = AnswerInfo.from_header(reader.header, reader.name)
        if (info.offer, info.shape) != (kept.offer, kept.shape):
            raise MismatchError(
                f"{reader.name} answers another offer", hint="finish it with its own"
            )
        if not (info.key == key.digest == bytes.fromhex(kept.key)):
            raise MismatchError(
                f"{reader.name} belongs to another key",
                got=info.key.hex()[:8],
                expected=key.digest.hex()[:8],
                hint="use the secret key that made the offer",
            )
        payloads = (record.payload for record in reader)
        products, means, squares = _decrypted(info, payloads, key, reader.name, progress)
    folds = []
    up = kept.columns.basis / kept.columns.scale
    for k, mine in enumerate(kept.columns.projected):
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
        raise FormatError(f"{name} has moments that no states have")
    if np.abs(found).max() > 1.125 + info.error:  # Cauchy–Schwarz
        raise FormatError(
            f"{name} has products that no states have",
            hint="the provider may have answered with other states, or dishonestly",
        )
    return found, means, squares
