"""The provider's step: multiply an offer by its own states, and return masked products."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from linalign_lite.alignment.moments import FoldAccumulator
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.shards.states_folder import StatesFolder
from linalign_lite.core.signing import VerifyingKey
from linalign_lite.encrypt import wire
from linalign_lite.encrypt.budgets.ledger import Charge, Ledger
from linalign_lite.encrypt.fitting.checkpoint import SumsCheckpoint
from linalign_lite.encrypt.fitting.descriptions import (
    WORD,
    AnswerInfo,
    OfferInfo,
    flooding,
    told_bits,
    told_states,
)
from linalign_lite.encrypt.fitting.offer import public_of, signed_bytes
from linalign_lite.encrypt.fitting.products import FoldSums, TargetMoments, block_dims, limit_held
from linalign_lite.encrypt.fitting.shape import FitShape, count_distinct, require_fine
from linalign_lite.encrypt.fitting.sources import TextStates
from linalign_lite.encrypt.key_proof import is_proven
from linalign_lite.encrypt.keys import PublicKey, seal_context
from linalign_lite.encrypt.masks import Masks
from linalign_lite.encrypt.messages import Progress
from linalign_lite.encrypt.modular import add_mod, modulus_fractions, switch_modulus, unpack_seeded
from linalign_lite.encrypt.response_encoding import encode_words
from linalign_lite.encrypt.ring import Ring, limb_bits
from linalign_lite.encrypt.scoring import flood, in_words
from linalign_lite.encrypt.wire import Kind, Reader, Record, open_framed
from linalign_lite.errors import FormatError, MismatchError, SignatureError
from linalign_lite.storage.atomic import PathLike, atomic, require_replaceable

if TYPE_CHECKING:
    from linalign_lite.encrypt.budgets.budget import Budget


def answer_fit(
    offer_path: PathLike,
    out_path: PathLike,
    states: HiddenStates | StatesFolder,
    keys: Iterable[PublicKey] | None = None,
    *,
    accounts: Collection[bytes] | None = None,
    budget: Budget | None = None,
    checkpoint: PathLike | None = None,
    coarse: bool = False,
    progress: Progress | None = None,
) -> AnswerInfo:
    """Answer an offer: UᵀY of each fold, encrypted under the client's key, masked and flooded.

    U: the client's encrypted columns, (n, m). Y: ``states``, (n, d_target), about the mean of their
    fold, each column over its norm. In the clear the answer has means and sums of squares of the
    columns in each fold. The client learns m·d_target linear functions of each fold's states, of
    its choice if it is dishonest (docs/PRIVATE_FIT.md). keys: public keys, of which the offer's
    must have a proof; by default the one beside the offer (`key_files`). accounts: those that may
    ask, as `VerifyingKey.public`; None is anybody. budget: limits for each account; an offer of m
    columns in k folds counts as (m + 2)·k states. coarse: allow dimensions of few different values,
    which a dishonest client can read of all texts. progress: called with the number of texts done
    since its last call, once for each block of dimensions. A folder of states is read shard by
    shard. checkpoint: files of this name and a number keep the sums, each minute, and an answer
    that was interrupted resumes with them; they are removed at the end.

    Raises MismatchError when the states are not of the offer's texts, or its key is not known or
    not proven; InputError when a fold has too few different texts, a dimension is coarse, or a
    checkpoint is of another answer or damaged; SignatureError when the account of its key did not
    sign it; BudgetError when a limit is reached; FormatError when it is damaged.
    """
    target = TextStates(states)
    with open_framed(offer_path, Kind.OFFER) as reader:
        offer = OfferInfo.from_header(reader.header, reader.name)
        key = _known(offer, [public_of(offer_path)] if keys is None else keys)
        _require_account(key, accounts)
        _require_same_texts(offer, target)
        offer.shape.require_enough()
        moments = measure_target(target, offer.shape)
        offer.shape.require_enough(moments.distinct)
        if not coarse:
            require_fine(target, target.n)
        digests = _checked(reader, offer, key)
        fingerprint = wire.fingerprint(reader.digest, digests)
        _require_signed(offer, key, fingerprint, reader.signature, budget)
        info = AnswerInfo(
            parameters=offer.parameters,
            key=offer.key,
            n=offer.n,
            folds=offer.folds,
            seed=offer.seed,
            columns=offer.columns,
            offer=fingerprint.hex(),
            space=target.space,
            flood_bits=flooding(max(offer.shape.sizes)),
        )

        name = _name(target, moments)
        job = hashlib.sha256(fingerprint + name).hexdigest()
        saved = SumsCheckpoint(checkpoint, job, len(_blocks(info)))

        def write(file: IO[bytes]) -> None:
            work = _Work(info, target, moments, key, saved)
            wire.write_framed(file, info.header(), work.payloads(reader, digests, progress))

        if budget is None:
            with atomic(out_path) as f:
                write(f)
            saved.close()
            return info
        require_replaceable(Path(out_path))  # before anything is charged
        ledger = Ledger(budget, name)
        ledger.require_room(len(info.header().encoded) + info.size)
        charge = Charge(key.account, fingerprint, told_states(info), told_bits(info))
        with ledger.answered(charge, write) as kept, atomic(out_path) as f:
            answer = Reader(kept, Kind.ANSWER, "the answer that was kept")
            for _ in answer:  # whole, before a byte of it is sent
                pass
            kept.seek(0)
            shutil.copyfileobj(kept, f)
        saved.close()
        return AnswerInfo.from_header(answer.header, answer.name)


def measure_target(states: TextStates, shape: FitShape) -> TargetMoments:
    """Compute means and squares of the provider's columns, and count its different texts."""
    totals = FoldAccumulator(shape.folds, 1, states.space.dim)
    for folds, block in shape.dealt(states):
        totals.add(block[:, :1], block, folds)
    found, distinct = totals.moments().folds, count_distinct(shape.dealt(states), shape.folds)
    return TargetMoments(
        np.stack([f.mean_y for f in found]), np.stack([f.yy for f in found]), distinct
    )


def _known(offer: OfferInfo, keys: Iterable[PublicKey]) -> PublicKey:
    found = [key for key in keys if (key.digest, key.parameters) == (offer.key, offer.parameters)]
    if not found:
        raise MismatchError(
            "the public key of this offer is not among the provider's",
            got=f"an offer under key {offer.key.hex()[:8]}",
            hint="ask the client for the public key and the proof beside its offer",
        )
    for key in found:
        if is_proven(key):
            return key
    raise MismatchError(
        "this offer is refused: its key has no proof",
        got=f"key {offer.key.hex()[:8]}",
        expected="a proof that it is well formed, which hides the provider's states",
        hint="ask the client for the proof beside its offer",
    )


def _require_account(key: PublicKey, accounts: Collection[bytes] | None) -> None:
    if accounts is not None and key.account not in accounts:
        got = f"account {key.account.hex()[:16]}" if key.account else "an offer of no account"
        raise SignatureError("the account of this offer may not ask", got=got)


def _require_same_texts(offer: OfferInfo, target: TextStates) -> None:
    if (offer.text_digest, offer.n) != (target.text_digest, target.n):
        raise MismatchError(
            "the provider's states are not of the offer's texts, in its order",
            got=f"text digest {offer.text_digest[:8]} ({offer.n} texts)",
            expected=f"{target.text_digest[:8]} ({target.n} texts)",
            hint="extract both models on the same file",
        )


def _require_signed(
    offer: OfferInfo, key: PublicKey, fingerprint: bytes, signature: bytes, budget: Budget | None
) -> None:
    if budget is not None and not key.account:
        raise MismatchError(
            "the key of this offer belongs to no account, so nobody's budget pays for it",
            got=f"key {offer.key.hex()[:8]}",
            hint="the client makes its offer with --account",
        )
    signed = bool(key.account) and VerifyingKey(key.account).accepts(
        signature, signed_bytes(fingerprint)
    )
    if bool(key.account) != offer.signed or bool(key.account) != signed:
        raise SignatureError(
            "this offer is not signed by the account of its key",
            hint="the client makes its offer again, with --account",
        )


def _checked(reader: Reader, offer: OfferInfo, key: PublicKey) -> list[bytes]:
    """Check every record, before anything is charged; return their digests.

    No seed may occur twice, nor be the key's: products under one second component are related.
    """
    seeds, digests = {key.seed}, []
    for record in reader:
        _, seed = unpack_seeded(record.payload, offer.shape.sent, offer.parameters.data_primes)
        if seed in seeds:
            raise FormatError("an offer uses a seed twice", hint="make the offer again")
        seeds.add(seed)
        digests.append(record.digest)
    return digests


def _blocks(info: AnswerInfo) -> list[slice]:
    """Cut the provider's dimensions into blocks whose sums are held at once."""
    dim = info.space.dim
    step = block_dims(info.shape, len(info.parameters.data_primes), dim)
    return [slice(start, min(start + step, dim)) for start in range(0, dim, step)]


@dataclass(frozen=True)
class _Work:
    """One answer in the making."""

    info: AnswerInfo
    states: TextStates
    moments: TargetMoments
    key: PublicKey
    saved: SumsCheckpoint

    def payloads(
        self, records: Iterable[Record], digests: list[bytes], progress: Progress | None
    ) -> Iterator[bytes]:
        """Make the records of an answer; for each block of dimensions the offer is read again."""
        primes, degree = self.info.parameters.data_primes, self.info.parameters.degree
        masks = Masks(self.key)
        ring = Ring(degree, primes, limb_bits(degree, math.sqrt(degree), 1))
        for block, dims in enumerate(_blocks(self.info)):
            sums = self._sums(block, dims, records, digests, progress)
            for j, at in enumerate(range(dims.start, dims.stop)):
                parts = [_product(s.first[j], s.second[j], self.info, masks, ring) for s in sums]
                numbers = [self.moments.mean[:, at], self.moments.squares[:, at]]
                yield b"".join([*parts, np.stack(numbers, axis=1).astype("<f8").tobytes()])

    def _sums(
        self,
        block: int,
        dims: slice,
        records: Iterable[Record],
        digests: list[bytes],
        progress: Progress | None,
    ) -> list[FoldSums]:
        """Add up the products of one block of dimensions, from where a checkpoint has them."""
        primes, shape = self.info.parameters.data_primes, self.info.shape
        seal = seal_context(self.info.parameters)
        sums = [FoldSums(shape, primes, dims.stop - dims.start) for _ in range(shape.folds)]
        done = self.saved.resume(block, sums)
        every = zip(records, digests, shape.chunked(self.states), strict=True)
        for i, (record, digest, (fold, rows)) in enumerate(every):
            if record.digest != digest:
                raise FormatError("this offer was altered while it was read")
            if i >= done:
                first, seed = unpack_seeded(record.payload, shape.sent, primes)
                weights = self.moments.encoded(fold, rows, dims)
                sums[fold].add((first, seal.grown(seed)), weights)
                limit_held(sums)
                self.saved.save(block, i + 1, sums, now=False)
            if progress:
                progress(len(rows))
        for one in sums:
            one.flush()
        self.saved.save(block, len(digests), sums, now=done < len(digests))
        return sums


def _product(
    first: np.ndarray[tuple[int, ...], np.dtype[np.uint64]],
    second: np.ndarray[tuple[int, ...], np.dtype[np.uint64]],
    info: AnswerInfo,
    masks: Masks,
    ring: Ring,
) -> bytes:
    """Mask a product with a fresh encryption of zero, flood what is returned, and make words."""
    moduli = np.array(ring.primes, dtype=np.uint64)[:, None]
    mask = ring.residues(masks.draw(ring))
    returned = add_mod(first, mask[0, :, : info.columns], moduli)
    flood(returned, info.flood_bits, ring.primes)
    words = switch_modulus(modulus_fractions(returned, ring.primes), WORD)
    hidden = add_mod(second, mask[1], moduli)
    return in_words(hidden, ring, WORD) + encode_words(words, WORD)


def _name(states: TextStates, moments: TargetMoments) -> bytes:
    """Name the states whose answers a budget keeps: another model's are others."""
    sha = hashlib.sha256(repr((states.space, states.text_digest)).encode())
    sha.update(moments.mean.tobytes())
    sha.update(moments.squares.tobytes())
    return sha.digest()
