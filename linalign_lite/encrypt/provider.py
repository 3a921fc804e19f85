"""The provider: owns the head, scores queries that it cannot read. Takes no secret key."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from linalign_lite.encrypt.keys import scheme_for
from linalign_lite.encrypt.messages import Query, QueryInfo, Response, ResponseInfo, require_size
from linalign_lite.encrypt.packing import Layout, pack_bias, pack_rows
from linalign_lite.encrypt.parameters import (
    DEFAULT,
    MAX_ERROR,
    SMALL,
    Parameters,
    head_scale,
    query_scale,
    score_error,
)
from linalign_lite.encrypt.scheme import Scheme, ServerSide
from linalign_lite.encrypt.wire import DIGEST, Kind, Record, Writer, reading
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.files import PathLike, atomic
from linalign_lite.linear import Head

Progress = Callable[[int], None]
Plains = tuple[list[Any], Any]  # of one product: the head's rows by chunk, and the bias


class Provider:
    """Scores encrypted states with one head.

    ``accept`` are the parameter sets that queries may use. A query that the head cannot answer to
    within ``max_error`` is refused. Encoded forms of the head (one for each layout and scale that
    queries have) are kept, the oldest dropped first, in ``cache_bytes`` all together; a form that
    is larger than that is encoded again for each state. Safe to share among threads.
    """

    def __init__(
        self,
        head: Head,
        *,
        accept: Iterable[Parameters] = (DEFAULT, SMALL),
        max_error: float = MAX_ERROR,
        cache_bytes: int = 1 << 30,
    ) -> None:
        self._head = head
        self._weight = head.weight.astype(np.float64)
        self._bias = head.bias.astype(np.float64)
        self._row_norm = float(np.linalg.norm(self._weight, axis=1).max())
        self._largest_bias = float(np.abs(self._bias).max())
        self._accept = tuple(accept)
        self._max_error = max_error
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[tuple[int, ...], tuple[int, list[Plains]]] = OrderedDict()
        self._sides: dict[int, tuple[Scheme, ServerSide]] = {}
        self._lock = threading.Lock()

    def score(self, query: Query) -> Response:
        """Encrypted scores of every state of ``query``.

        Raises MismatchError when the query's states do not belong in the head's space or its
        parameter set is not accepted, InputError when scores could overflow or be too imprecise,
        FormatError when the query is damaged.
        """
        info = self._answer(query.info, query.digest, "this query")
        payloads = (self._record(query.info, info, record) for record in query.records())
        return Response(info, tuple(payloads))

    def score_file(
        self, query_path: PathLike, out_path: PathLike, progress: Progress | None = None
    ) -> ResponseInfo:
        """As ``score``, record by record from a `*.query` to a `*.response` file.

        ``progress`` is called with the number of states done since its last call.
        """
        with reading(query_path, Kind.QUERY) as reader:
            asked = QueryInfo.from_header(reader.header, reader.name)
            info = self._answer(asked, reader.digest.hex(), reader.name)
            with atomic(out_path) as f:
                writer = Writer(f, info.header())
                for record in reader:
                    writer.write(self._record(asked, info, record))
                    if progress:
                        progress(1)
                writer.finish()
        return info

    def _answer(self, query: QueryInfo, digest: str, name: str) -> ResponseInfo:
        """The header of the response, once everything that can be checked in advance was."""
        parameters, head = query.parameters, self._head
        if parameters not in self._accept:
            raise MismatchError(
                "this provider does not accept the query's parameter set",
                got=parameters.name,
                expected=" or ".join(p.name for p in self._accept),
            )
        head.space.require(query.space, "this query does not belong in the head's space")
        scheme, _ = self._side(parameters)
        require_size(name, query.record_size, query.chunks * scheme.query_size)
        layout = query.layout
        scale = head_scale(parameters, query.norm_bits, self._row_norm, self._largest_bias)
        self._require_precise(query, layout, scale)
        info = ResponseInfo(
            parameters,
            query.key,
            query.n,
            DIGEST + layout.products(head.n_outputs) * scheme.response_size,
            digest,
            query.space.dim,
            query.chunks,
            query.norm_bits,
            scale,
            head.n_outputs,
            head.labels,
            None if head.softcap is None else float(head.softcap),
        )
        # what cannot be read back is not written
        return ResponseInfo.from_header(info.header(), "this response")

    def _require_precise(self, query: QueryInfo, layout: Layout, scale: int) -> None:
        fold = layout.fold(self._head.n_outputs)
        error = score_error(query.parameters, query.norm_bits, scale, fold)
        if error > self._max_error:
            raise InputError(
                "scores of this head on these states would be too imprecise",
                got=f"errors up to {error:.1e} at state norms up to 2^{query.norm_bits}",
                expected=f"at most {self._max_error:.1e}",
                hint="use the default parameter set, normalise the states, or fit the head with a"
                " larger penalty: a row of large norm is often due to a nearly constant dimension",
            )

    def _record(self, query: QueryInfo, answer: ResponseInfo, record: Record) -> bytes:
        """One response record: the digest of what it answers, then a ciphertext per product."""
        scheme, side = self._side(query.parameters)
        size, scale = scheme.query_size, query_scale(query.parameters, query.norm_bits)
        view = memoryview(record.payload)
        chunks = [side.load(view[i * size : (i + 1) * size], scale) for i in range(query.chunks)]
        products = [
            side.inner(chunks, rows, bias) for rows, bias in self._plains(query, answer.head_scale)
        ]
        return record.digest + b"".join(products)

    def _side(self, parameters: Parameters) -> tuple[Scheme, ServerSide]:
        with self._lock:
            if parameters.id not in self._sides:
                scheme = scheme_for(parameters)
                self._sides[parameters.id] = scheme, scheme.server_side()
            return self._sides[parameters.id]

    def _plains(self, query: QueryInfo, scale: int) -> Iterable[Plains]:
        """The head encoded for a query's layout and scales, from the cache if it fits there."""
        scheme, side = self._side(query.parameters)
        layout = query.layout
        total = query_scale(query.parameters, query.norm_bits) + scale
        plains = layout.products(self._head.n_outputs) * (query.chunks + 1)
        size = plains * scheme.plain_size
        if size > self._cache_bytes:
            return self._encoded(side, layout, scale, total)
        key = (query.parameters.id, query.chunks, scale, total)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = size, list(self._encoded(side, layout, scale, total))
            self._cache.move_to_end(key)
            while sum(used for used, _ in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
            return self._cache[key][1]

    def _encoded(
        self, side: ServerSide, layout: Layout, scale: int, total: int
    ) -> Iterator[Plains]:
        rows = pack_rows(layout, self._weight)
        for chunks, bias in zip(rows, pack_bias(layout, self._bias), strict=True):
            yield [side.encode(c, scale) for c in chunks], side.encode_bias(bias, total)
