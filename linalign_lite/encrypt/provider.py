"""The provider: owns the head and scores queries that it cannot read. Takes no secret key."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from linalign_lite.core.head import Head
from linalign_lite.encrypt import messages
from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.encrypt.masks import Masks
from linalign_lite.encrypt.messages import Progress, Query, QueryInfo, Response, ResponseInfo
from linalign_lite.encrypt.parameters import PRIVATE, Parameters
from linalign_lite.encrypt.planner import require_reasonable
from linalign_lite.encrypt.precision import MAX_ERROR, Scales
from linalign_lite.encrypt.scoring import Scorer
from linalign_lite.encrypt.wire import Kind, Record, open_framed, write_framed
from linalign_lite.errors import FormatError, LinalignError, MismatchError, PrecisionError
from linalign_lite.storage.atomic import PathLike, atomic

if TYPE_CHECKING:
    from linalign_lite.encrypt.query_budget import Budget


_MAX_MASKS = 64  # keys whose masks are kept ready, 0.4 MB each


class Provider:
    """Scores encrypted states with one head.

    ``keys``: public keys of the clients; a query of the private profile needs its own.
    ``accept``: the profiles that queries may use; under ``trusted`` the holder of a key may learn
    the head. A query that the head cannot answer to within ``max_error`` is refused, and so is one
    whose layout wastes time. ``budget``: a limit on the states scored for each key.
    ``cache_bytes``: memory for encoded heads. Safe to share among threads.
    """

    def __init__(
        self,
        head: Head,
        *,
        keys: Iterable[PublicKey] = (),
        accept: Iterable[Parameters] = (PRIVATE,),
        max_error: float = MAX_ERROR,
        budget: Budget | None = None,
        cache_bytes: int = 1 << 30,
    ) -> None:
        self._head = head
        self._keys = {key.digest: key for key in keys}
        self._masks = functools.lru_cache(maxsize=_MAX_MASKS)(Masks)
        self._accept = tuple(accept)
        self._max_error = max_error
        self._budget = budget
        self._cache_bytes = cache_bytes
        self._scorers: dict[int, Scorer] = {}
        self._lock = threading.Lock()

    def score(self, query: Query) -> Response:
        """Score every state of ``query``; the scores are encrypted.

        Raises MismatchError when the query's states do not belong in the head's space, its profile
        is not accepted or its public key is not known; PrecisionError when scores could overflow,
        be too imprecise or not be hidden; BudgetError when the key's budget is used up;
        FormatError when the query is damaged.
        """
        records = query.records()
        info, scales = self._answer(query.info, query.digest)
        with self._charged(query.info, self._checked(query.info, records)):
            return Response(info, tuple(self._scored(query.info, scales, records)))

    def score_file(
        self,
        query_path: PathLike,
        out_path: PathLike,
        progress: Progress | None = None,
        *,
        workers: int = 1,
    ) -> ResponseInfo:
        """Score as ``score``, record by record from a `*.query` to a `*.response` file.

        The query is read twice: all of it is checked before anything is charged or scored.
        progress: called with the number of states done since its last call. workers: above 1, as
        many spawned processes, which import the main module again, score without the pool of zeros.
        """
        with open_framed(query_path, Kind.QUERY) as reader:
            asked = QueryInfo.from_header(reader.header, reader.name)
            info, scales = self._answer(asked, reader.digest.hex())
            with self._charged(asked, self._checked(asked, reader)), atomic(out_path) as f:
                payloads = self._scored(asked, scales, reader, progress, workers)
                write_framed(f, info.header(), payloads)
        return info

    def _answer(self, query: QueryInfo, digest: str) -> tuple[ResponseInfo, Scales]:
        """Check everything that precedes scoring. Returns the response's header and scales."""
        parameters, head, layout = query.parameters, self._head, query.layout
        if parameters not in self._accept:
            raise MismatchError(
                "this provider does not accept the query's profile",
                got=parameters.name,
                expected=" or ".join(p.name for p in self._accept),
            )
        head.space.require(query.space, "this query does not belong in the head's space")
        if parameters.private and not self._knows(query):
            raise MismatchError(
                "the public key of this query is not among the provider's",
                got=f"a query under key {query.key.hex()[:8]}",
                expected="its public key, which hides the head in the response",
                hint="ask the client for its public.key",
            )
        require_reasonable(parameters, layout, query.n, head.n_outputs)
        if query.n_outputs is not None and query.n_outputs < layout.fold(head.n_outputs):
            raise MismatchError(
                "this query serves fewer scores than the head has",
                got=f"a query for {query.n_outputs}",
                hint="encrypt it for the head's number of classes, or for any",
            )
        try:
            scales = self._scorer(parameters).scales(layout, query.norm_bits)
            if not scales.error <= self._max_error:
                raise PrecisionError("the error is above max_error", got=f"{scales.error:.1e}")
        except PrecisionError as e:  # its numbers are of the head, and a message may reach a client
            raise PrecisionError(
                "this query is refused: scores would be too imprecise, or not be hidden",
                hint="normalise the states, or fit the head with a larger penalty: a row of large"
                " norm is often due to a nearly constant dimension",
            ) from e
        info = ResponseInfo(
            parameters=parameters,
            key=query.key,
            record_size=messages.response_size(layout, head.n_outputs, scales.word_bits),
            query=digest,
            n=query.n,
            dim=query.space.dim,
            chunks=query.chunks,
            batch=query.batch,
            norm_bits=query.norm_bits,
            head_scale=scales.head,
            flood_bits=scales.flood_bits,
            word_bits=scales.word_bits,
            n_outputs=head.n_outputs,
            labels=head.labels,
            softcap=None if head.softcap is None else float(head.softcap),
        )
        info.require_readable()
        return info, scales

    def _knows(self, query: QueryInfo) -> bool:
        key = self._keys.get(query.key)
        return key is not None and key.parameters == query.parameters

    def _masks_for(self, query: QueryInfo) -> Masks | None:
        return self._masks(self._keys[query.key]) if query.parameters.private else None

    def _checked(self, query: QueryInfo, records: Iterable[Record]) -> Iterator[bytes]:
        """Yield the digest of each record once it is known that it can be scored."""
        scorer, masks = self._scorer(query.parameters), self._masks_for(query)
        for record in records:
            scorer.check(query, record, masks)
            yield record.digest

    @contextlib.contextmanager
    def _charged(self, query: QueryInfo, digests: Iterable[bytes]) -> Iterator[None]:
        """Charge the budget, on the disk, before the block scores; refund when the block fails."""
        sha = hashlib.sha256(query.header().digest)
        for digest in digests:  # reads and checks all of a query
            sha.update(digest)
        if self._budget is None:
            yield
            return
        charge = query.key, sha.digest(), query.n
        self._budget.charge(*charge)
        try:
            yield
        except FormatError:  # the file was altered after it was checked: scored, and charged
            self._budget.settle(*charge)
            raise
        except Exception:  # not Ctrl-C, which may come when the response is already written:
            # then the charge stays pending, and the same query takes it over
            with contextlib.suppress(LinalignError):
                self._budget.refund(*charge)
            raise
        self._budget.settle(*charge)

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
            job = ScoringJob(self._head, self._cache_bytes, self._max_error, key, query, scales)
            payloads = score_records(job, records, workers)
        else:
            scorer = self._scorer(query.parameters)
            payloads = (scorer.score(query, scales, i, r, masks) for i, r in enumerate(records))
        for index, payload in enumerate(payloads):
            yield payload
            if progress:
                progress(query.layout.live(query.n, index))

    def _scorer(self, parameters: Parameters) -> Scorer:
        with self._lock:
            if parameters.id not in self._scorers:
                made = Scorer(self._head, parameters, self._cache_bytes, self._max_error)
                self._scorers[parameters.id] = made
            return self._scorers[parameters.id]
