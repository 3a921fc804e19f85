"""The client's first step: encrypt columns of its states as an offer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.shards.states_folder import StatesFolder
from linalign_lite.core.signing import SigningKey
from linalign_lite.encrypt import wire
from linalign_lite.encrypt.fitting.descriptions import OfferInfo
from linalign_lite.encrypt.fitting.kept import Columns, KeptOffer, choose_columns, measure_source
from linalign_lite.encrypt.fitting.shape import FitShape, choose_folds, count_distinct
from linalign_lite.encrypt.fitting.sources import TextStates
from linalign_lite.encrypt.key_proof import load_proof, proven, save_proof
from linalign_lite.encrypt.keys import PublicKey, SecretKey, keygen
from linalign_lite.encrypt.messages import ID_BYTES, Progress
from linalign_lite.encrypt.modular import add_encoded, pack_seeded
from linalign_lite.encrypt.parameters import PRIVATE, Parameters
from linalign_lite.encrypt.precision import query_scale
from linalign_lite.errors import InputError
from linalign_lite.storage.atomic import PathLike, already_there, atomic

_SIGNS = b"linalign-lite offers a private fit "


def signed_bytes(fingerprint: bytes) -> bytes:
    """Return the bytes that an account signs for an offer."""
    return _SIGNS + fingerprint


def plan_shape(
    states: TextStates,
    degree: int,
    *,
    folds: int | None = None,
    seed: int = 0,
    columns: int | None = None,
) -> FitShape:
    """Choose the shape of an offer: folds, and as many columns as the states have dimensions.

    folds: by default the most, up to 5, that have enough texts. columns: fewer than dimensions.
    Raises InputError for options that do not fit, and where a fold would have too few texts.
    """
    most = min(states.space.dim, degree)
    if columns is not None and not 1 <= columns <= most:
        raise InputError(
            "so many columns cannot be offered", got=str(columns), expected=f"1 to {most}"
        )
    if columns is None and states.space.dim > degree:
        raise InputError(
            "the states have more dimensions than a ciphertext holds",
            got=str(states.space.dim),
            expected=f"at most {degree}",
            hint=f"offer fewer columns: --columns {degree}",
        )
    chosen = columns or most
    if folds is None:
        folds = choose_folds(states.n, chosen)
    shape = FitShape(states.n, folds, seed, chosen, degree)
    _ = shape.fold_of_text  # InputError for folds and seeds that nothing can be dealt with
    shape.require_enough()
    return shape


def offer_fit(
    path: PathLike,
    kept_path: PathLike,
    states: HiddenStates | StatesFolder,
    *,
    folds: int | None = None,
    seed: int = 0,
    columns: int | None = None,
    account: SigningKey | None = None,
    progress: Progress | None = None,
) -> OfferInfo:
    """Encrypt columns of ``states`` into an offer; keep what `finish_fit` needs in ``kept_path``.

    Objective of the fit: that of `fit`, ridge on states about their means. states: (n, d), one of
    each text, with a text digest; a folder is read shard by shard, three times. folds: of the
    cross-validation, by default 5, fewer where texts are few, each of at least 4·(columns + 1)
    texts. columns: directions of largest variance that are offered, by default all d. account:
    signs the offer and its key. The key is made here, for this offer alone: its secret half is in
    the kept file, its public half and the proof that it is well formed (made in some seconds) are
    written beside the offer (`key_files`), for the provider. All files are written whole or not at
    all; the kept one, mode 0600, also holds moments of the states.

    Raises InputError for states that are not of texts, for too few different texts and for options
    that do not fit; OutputExistsError when ``kept_path`` or a key is there, maybe of an offer
    already sent.
    """
    public_at, proof_at = key_files(path)
    for file in (kept_path, public_at, proof_at):  # before any work
        _require_absent(file)
    options = {"folds": folds, "seed": seed, "columns": columns}
    plan = _planned(TextStates(states), PRIVATE, **options)
    secret, public = keygen(PRIVATE, account)
    public = proven(secret, public)
    with contextlib.ExitStack() as undo:
        public.save(public_at)
        undo.callback(public_at.unlink, missing_ok=True)
        save_proof(proof_at, public)
        undo.callback(proof_at.unlink, missing_ok=True)
        info = _write(path, kept_path, plan, secret, account, progress)
        undo.pop_all()
    return info


def write_offer(
    path: PathLike,
    kept_path: PathLike,
    states: HiddenStates | StatesFolder,
    secret: SecretKey,
    *,
    account: SigningKey | None = None,
    progress: Progress | None = None,
    **options: int | None,
) -> OfferInfo:
    """Make an offer as `offer_fit`, under a key that was made for it and for nothing else."""
    _require_absent(kept_path)
    if not secret.parameters.private:
        name = secret.parameters.name
        raise InputError("a private fit needs a key of the profile private", got=name)
    plan = _planned(TextStates(states), secret.parameters, **options)
    return _write(path, kept_path, plan, secret, account, progress)


def key_files(offer: PathLike) -> tuple[Path, Path]:
    """Return where the public key of an offer and its proof are: `m.public.key` of `m.offer`."""
    return beside(offer, ".public.key"), beside(offer, ".public.proof")


def beside(offer: PathLike, ending: str) -> Path:
    """Return the name of a file of an offer: `m` and the ending, of `m.offer`."""
    path = Path(offer)
    return path.with_name((path.stem if path.suffix == ".offer" else path.name) + ending)


def public_of(offer: PathLike) -> PublicKey:
    """Load the public key beside an offer, with its proof. Raises FormatError or InputError."""
    public_at, proof_at = key_files(offer)
    return load_proof(proof_at, PublicKey.load(public_at))


def _require_absent(path: PathLike) -> None:
    if os.path.lexists(path):
        raise already_there(path)


@dataclass(frozen=True)
class _Plan:
    """Columns of ``source`` to offer, and their shape."""

    source: TextStates
    columns: Columns
    shape: FitShape
    parameters: Parameters


def _planned(source: TextStates, parameters: Parameters, **options: Any) -> _Plan:
    shape = plan_shape(source, parameters.degree, **options)
    shape.require_enough(count_distinct(shape.dealt(source), shape.folds))
    chosen = choose_columns(measure_source(source, shape), shape.columns)
    full = replace(shape, columns=len(chosen.scale))  # of full rank
    return _Plan(source, chosen, full, parameters)


def _write(
    path: PathLike,
    kept_path: PathLike,
    plan: _Plan,
    secret: SecretKey,
    account: SigningKey | None,
    progress: Progress | None,
) -> OfferInfo:
    source, shape = plan.source, plan.shape
    info = OfferInfo(
        parameters=plan.parameters,
        key=secret.digest,
        signed=account is not None,
        n=shape.n,
        folds=shape.folds,
        seed=shape.seed,
        columns=shape.columns,
        text_digest=source.text_digest,
        identity=os.urandom(ID_BYTES).hex(),
    )
    tape = _Tape(info)
    with contextlib.ExitStack() as undo:
        with atomic(path) as f:
            payloads = tape.recorded(_payloads(info, plan, secret, progress))
            sign = None if account is None else lambda name: account.sign(signed_bytes(name))
            wire.write_framed(f, info.header(), payloads, sign)
            names = source.text_digest, tape.fingerprint
            kept = KeptOffer(plan.columns, source.space, shape, *names, secret)
            kept.save(kept_path)  # named before the offer is
            undo.callback(Path(kept_path).unlink, missing_ok=True)
        undo.pop_all()
    return info


@dataclass
class _Tape:
    """Digests of the records that went by."""

    info: OfferInfo

    def __post_init__(self) -> None:
        self._digests: list[bytes] = []

    def recorded(self, payloads: Iterator[bytes]) -> Iterator[bytes]:
        digest = self.info.header().digest
        for i, payload in enumerate(payloads):
            self._digests.append(wire.digest_record(digest, i, payload).digest)
            yield payload

    @property
    def fingerprint(self) -> str:
        return wire.fingerprint(self.info.header().digest, self._digests).hex()


def _payloads(
    info: OfferInfo, plan: _Plan, secret: SecretKey, progress: Progress | None
) -> Iterator[bytes]:
    from linalign_lite.encrypt.seal.secret_side import SecretSide

    side = SecretSide(info.parameters, secret.material)
    primes, shape = info.parameters.data_primes, info.shape
    scale = query_scale(info.parameters, 0)
    dealt = shape.dealt(plan.source)
    for _, rows in shape.chunked(plan.columns(folds, block) for folds, block in dealt):
        values = np.zeros(shape.sent)
        values[: rows.size] = rows.ravel()
        zero, seed = side.encrypt_zero()
        yield pack_seeded(
            add_encoded(zero[:, : shape.sent], values, scale, 0, primes), seed, primes
        )
        if progress:
            progress(len(rows))
