"""The provider: owns the head and scores queries that it cannot read. Takes no secret key."""

from __future__ import annotations

import functools
import math
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from linalign_lite.core.head import Head
from linalign_lite.core.signing import VerifyingKey
from linalign_lite.encrypt import messages, wire
from linalign_lite.encrypt.budgets.ledger import Charge, Ledger
from linalign_lite.encrypt.key_proof import is_proven
from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.encrypt.masks import Masks
from linalign_lite.encrypt.messages import Progress, Query, QueryInfo, Response, ResponseInfo
from linalign_lite.encrypt.packing import MAX_RETURNED
from linalign_lite.encrypt.parameters import PRIVATE, Parameters
from linalign_lite.encrypt.planner import require_memory, require_reasonable
from linalign_lite.encrypt.precision import MAX_ERROR, Scales
from linalign_lite.encrypt.scorers import Scorers
from linalign_lite.encrypt.wire import Kind, Record, open_framed, write_framed
from linalign_lite.errors import FormatError, MismatchError, PrecisionError, SignatureError
from linalign_lite.retrieval.index.reading import Index
from linalign_lite.storage.atomic import PathLike, atomic, require_replaceable

if TYPE_CHECKING:
    from linalign_lite.encrypt.budgets.budget import Budget


_SHORTER_WEIGHTS = (
    "normalise the states, or fit the head with a larger penalty: a row of large norm is often due"
    " to a nearly constant dimension"
)
_SHORTER_ROWS = "build the index for --metric cosine, or scale its vectors to norms of about 1"
_MAX_MASKS = 64  # keys whose masks are kept ready, some megabytes each


class Provider:
    """Scores encrypted states with one head, or with the rows of one index.

    ``keys``: public keys of the clients; a query of the private profile needs its own, and one that
    asks for more than 128 coefficients of a product a key with a proof (`key_proof.load_proof`).
    ``accept``: the profiles that queries may use; under ``trusted`` the holder of a key may learn
    the head. A query that the head cannot answer to within ``max_error``, of an index the noise
    over the largest score, is refused, and so is one whose layout wastes time or memory.
    ``budget``: limits for each account; then every key must belong to one, and a query that is sent
    again gets its response again, free, or none. ``cache_bytes``: memory for encoded heads;
    ``shared``: a folder of this head alone, best in memory, where processes hold large ones once
    for all of them. It is made, mode 0700, in a folder of your own; where it cannot be, each
    process holds them. Safe to share among threads.
    """

    def __init__(
        self,
        scored: Head | Index,
        *,
        keys: Iterable[PublicKey] = (),
        accept: Iterable[Parameters] = (PRIVATE,),
        max_error: float = MAX_ERROR,
        budget: Budget | None = None,
        cache_bytes: int = 1 << 30,
        shared: Path | None = None,
    ) -> None:
        self._scorers = Scorers(scored, max_error, cache_bytes, shared)
        # of two copies of a key, the one with a proof
        self._keys = {key.digest: key for key in sorted(keys, key=lambda key: bool(key.proof))}
        self._proven = frozenset(d for d, key in self._keys.items() if is_proven(key))
        self._masks = functools.lru_cache(maxsize=_MAX_MASKS)(Masks)
        self._accept = tuple(accept)
        self._max_error = max_error
        self._ledger = None if budget is None else Ledger(budget, self._scorers.rows.digest())
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()

    @property
    def n_outputs(self) -> int:
        """Outputs of the head, or rows of the index."""
        return self._scorers.rows.n_outputs

    def has_key(self, digest: bytes) -> bool:
        """Return whether a public key is known."""
        return digest in self._keys

    def is_proven(self, digest: bytes) -> bool:
        """Return whether a public key is known with a proof: `add_key` adds one that came later."""
        return digest in self._proven

    def add_key(self, key: PublicKey, *, most: int | None = None) -> None:
        """Know one more public key. Verifies its proof, if it has one.

        most: of as many keys, the oldest is forgotten; no query of it may be scored meanwhile.
        """
        proven = is_proven(key)
        with self._lock:
            kept = {**self._keys, key.digest: key}
            for digest in list(kept)[:-most] if most else ():
                del kept[digest]
            known = self._proven | ({key.digest} if proven else set())
            self._keys, self._proven = kept, known & kept.keys()

    def score(self, query: Query) -> Response:
        """Score every state of ``query``; the scores are encrypted.

        Raises MismatchError when the query's states do not belong in the head's space, its profile
        is not accepted, its public key is not known, its clusters are not this index's or its
        layout wastes time; SignatureError when its key's account did not sign it; PrecisionError
        when scores could overflow, be too imprecise or not be hidden; BudgetError when a limit is
        reached; FormatError when the query is damaged. With a budget MismatchError, too, when the
        response is too large to be kept.
        """
        asked, records = query.info, query.records()
        if len(records) != asked.layout.blocks(asked.n):
            raise FormatError("this query does not have the records that its header states")
        info, scales = self._answer(asked, query.digest)
        digests = [record.digest for record in records]
        fingerprint = wire.fingerprint(asked.header().digest, digests)
        self._check(asked, fingerprint, query.signature, records, digests)
        if self._ledger is None:
            return Response(info, tuple(self._scored(asked, scales, records)))

        def write(file: IO[bytes]) -> None:
            write_framed(file, info.header(), self._scored(asked, scales, records))

        with self._ledger.answered(self._charge(asked, scales, fingerprint), write) as kept:
            return Response.load(kept.read())

    def score_file(
        self,
        query_path: PathLike,
        out_path: PathLike,
        progress: Progress | None = None,
        *,
        workers: int = 1,
    ) -> ResponseInfo:
        """Score as ``score``, record by record from a `*.query` to a `*.response` file.

        The query is read three times: its signature is verified, then all of it is checked, before
        anything is charged or scored. progress: called with the number of states done since its
        last call. workers: above 1, as many spawned processes, which import the main module again;
        for one record as many threads.
        """
        with open_framed(query_path, Kind.QUERY) as reader:
            asked = QueryInfo.from_header(reader.header, reader.name)
            info, scales = self._answer(asked, reader.digest.hex())
            digests = [record.digest for record in reader]
            fingerprint = wire.fingerprint(reader.digest, digests)
            self._check(asked, fingerprint, reader.signature, reader, digests)

            def write(file: IO[bytes]) -> None:
                records = _unaltered(reader, digests)
                payloads = self._scored(asked, scales, records, progress, workers)
                write_framed(file, info.header(), payloads)

            if self._ledger is None:
                with atomic(out_path) as f:
                    write(f)
                return info
            require_replaceable(Path(out_path))  # before anything is charged
            charge = self._charge(asked, scales, fingerprint)
            with self._ledger.answered(charge, write) as kept, atomic(out_path) as f:
                answer = wire.Reader(kept, Kind.RESPONSE, "the response that was kept")
                for _ in answer:  # whole, before a byte of it is sent
                    pass
                kept.seek(0)
                shutil.copyfileobj(kept, f)
            return ResponseInfo.from_header(answer.header, answer.name)

    def _answer(self, query: QueryInfo, digest: str) -> tuple[ResponseInfo, Scales]:
        """Check everything that precedes scoring. Returns the response's header and scales."""
        parameters, layout = query.parameters, query.layout
        if parameters not in self._accept:
            raise MismatchError(
                "this provider does not accept the query's profile",
                got=parameters.name,
                expected=" or ".join(p.name for p in self._accept),
            )
        scorer = self._scorers.of(query)
        head = scorer.rows
        what, is_index = "this query does not belong in the head's space", bool(head.ids)
        forgotten = "was it encrypted without --map?"
        head.space.require(query.space, what, hint=forgotten, any_prompt=is_index)
        if parameters.private and not self._knows(query):
            given = [key.hex()[:8] for key in self._keys]
            also = f", and the public key {given[0]}" if len(given) == 1 else ""
            raise MismatchError(
                "the public key of this query is not among the provider's",
                got=f"a query under key {query.key.hex()[:8]}{also}",
                expected="its public key, which hides the head in the response",
                hint="ask the client for its public.key",
            )
        proven = query.key in self._proven
        if query.needs_proof and not proven:
            raise MismatchError(
                "this query is refused: a product returns so many scores only under a proven key",
                got=f"{layout.rows * layout.batch} scores",
                expected=f"at most {MAX_RETURNED}",
                hint="make a key with keygen --prove, and send its proof with it",
            )
        require_reasonable(parameters, layout, query.n, head.n_outputs, proven)
        if query.n_outputs is not None and query.n_outputs < layout.fold(head.n_outputs):
            raise MismatchError(
                "this query serves fewer scores than the head has",
                got=f"a query for {query.n_outputs}",
                hint="encrypt it for the head's number of classes, or for any",
            )
        try:
            scales = scorer.scales(layout, query.norm_bits, proven)
            if not scales.imprecision <= self._max_error:
                got = f"{scales.imprecision:.1e}"
                raise PrecisionError("the error is above max_error", got=got)
        except PrecisionError as e:  # its numbers are of the head, and a message may reach a client
            raise PrecisionError(
                "this query is refused: scores would be too imprecise, or not be hidden",
                hint=_SHORTER_ROWS if head.ids else _SHORTER_WEIGHTS,
            ) from e
        require_memory(parameters, layout, scorer.ring(layout, scales).limbs)
        info = ResponseInfo(
            parameters=parameters,
            key=query.key,
            record_size=messages.response_size(layout, head.n_outputs, scales.word_bits),
            query=digest,
            n=query.n,
            dim=query.space.dim,
            chunks=query.chunks,
            batch=query.batch,
            many=query.many,
            clusters=query.clusters,
            norm_bits=query.norm_bits,
            head_scale=scales.head,
            rounding_bits=scales.rounding_bits,
            flood_bits=scales.flood_bits,
            word_bits=scales.word_bits,
            n_outputs=head.n_outputs,
            labels=head.labels,
            softcap=head.softcap,
            ids=head.ids,
        )
        info.require_readable()
        if self._ledger is not None:
            header = info.header()
            records = header.n_records * (header.record_size + wire.DIGEST)
            self._ledger.require_room(len(header.encoded) + records)
        return info, scales

    def _knows(self, query: QueryInfo) -> bool:
        key = self._keys.get(query.key)
        return key is not None and key.parameters == query.parameters

    def _masks_for(self, query: QueryInfo) -> Masks | None:
        return self._masks(self._keys[query.key]) if query.parameters.private else None

    def _check(
        self,
        query: QueryInfo,
        fingerprint: bytes,
        signature: bytes,
        records: Iterable[Record],
        digests: list[bytes],
    ) -> None:
        """Verify the signature, then check every record: nothing is scored before."""
        self._require_signed(query, fingerprint, signature)
        scorer, masks = self._scorers.of(query), self._masks_for(query)
        for record in _unaltered(records, digests):
            scorer.check(query, record, masks)

    def _require_signed(self, query: QueryInfo, fingerprint: bytes, signature: bytes) -> None:
        """Raise SignatureError unless the account of the query's key signed it, if it has one."""
        account = self._keys[query.key].account if self._knows(query) else b""
        if self._ledger is not None and not account:
            raise MismatchError(
                "the key of this query belongs to no account, so nobody's budget pays for it",
                got=f"key {query.key.hex()[:8]}",
                hint="make the client's keys with keygen --account",
            )
        signed = messages.signed_bytes(fingerprint)
        if bool(account) != query.signed or (
            account and not VerifyingKey(account).accepts(signature, signed)
        ):
            raise SignatureError(
                "this query is not signed by the account of its key",
                hint="sign it with the signing key that the key was made with: --account",
            )

    def _charge(self, query: QueryInfo, scales: Scales, fingerprint: bytes) -> Charge:
        """Return the cost of a query: its states, and the bits that their scores can tell."""
        told = min(scales.word_bits, math.ceil(query.parameters.data_bits) - scales.flood_bits)
        bits = query.n * self._scorers.of(query).rows.n_outputs * told
        return Charge(self._keys[query.key].account, fingerprint, query.n, bits)

    def _scored(
        self,
        query: QueryInfo,
        scales: Scales,
        records: Iterable[Record],
        progress: Progress | None = None,
        workers: int = 1,
    ) -> Iterator[bytes]:
        masks = self._masks_for(query)
        if workers > 1 and query.layout.blocks(query.n) > 1:
            from linalign_lite.encrypt.process_pool import ScoringJob, score_records

            key = None if masks is None else self._keys[query.key]
            scored, most = self._scorers.scored, self._cache_bytes
            job = ScoringJob(scored, most, self._max_error, key, query, scales)
            payloads = score_records(job, records, workers)
        else:
            scorer = self._scorers.of(query)
            payloads = (
                scorer.score(query, scales, i, r, masks, workers) for i, r in enumerate(records)
            )
        for index, payload in enumerate(payloads):
            yield payload
            if progress:
                progress(query.layout.live(query.n, index))


def _unaltered(records: Iterable[Record], digests: list[bytes]) -> Iterator[Record]:
    """Yield records whose digests are these. Raises FormatError where a file was altered since."""
    for record, digest in zip(records, digests, strict=True):
        if record.digest != digest:
            raise FormatError("this query was altered while it was read")
        yield record
