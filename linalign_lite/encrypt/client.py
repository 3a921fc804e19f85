"""The client: owns the states and the secret key, encrypts queries, decrypts scores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.head import soft_capped
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.core.signing import SigningKey
from linalign_lite.encrypt import messages
from linalign_lite.encrypt.keys import SecretKey
from linalign_lite.encrypt.messages import Progress, Query, QueryInfo, Response, ResponseInfo
from linalign_lite.encrypt.modular import add_encoded, pack_seeded, seeded_size
from linalign_lite.encrypt.packing import FloatArray, Layout, pack_states, score_positions
from linalign_lite.encrypt.planner import MBIT, bytes_per_second, choose_layout
from linalign_lite.encrypt.precision import (
    MAX_ERROR,
    largest_norm,
    least_norm_bits,
    query_scale,
    rounding_step,
)
from linalign_lite.encrypt.response_encoding import decode_products, decrypt_products, product_size
from linalign_lite.encrypt.ring import spectrum
from linalign_lite.encrypt.scores import RANKED, Scores
from linalign_lite.encrypt.wire import DIGEST, Kind, open_framed, write_framed
from linalign_lite.errors import InputError, MismatchError, PrecisionError
from linalign_lite.retrieval.index.card import IndexCard, card_digest
from linalign_lite.retrieval.index.clusters import NearestClusters, intervals
from linalign_lite.retrieval.search import highest
from linalign_lite.storage.arrays import unit_rows
from linalign_lite.storage.atomic import PathLike, atomic

FloatT = TypeVar("FloatT", bound=np.floating[Any])
_BATCH = 256  # states mapped at once
_PRODUCTS = 16  # decrypted at once


class Client:
    """Encrypts states and decrypts scores; refuses scores of an error above ``max_error``.

    Of an index that limits the noise over the largest score; rounding of rows is the card's.

    ``account``: signs queries, for keys that belong to an account. ``mbit``: speed of the link to
    the provider in Mbit/s, for the choice of layouts; ``math.inf`` for the least work. ``proven``:
    the provider has a proof of the public key, so that any number of states may share ciphertexts.
    """

    def __init__(
        self,
        secret_key: SecretKey,
        *,
        account: SigningKey | None = None,
        max_error: float = MAX_ERROR,
        mbit: float = MBIT,
        proven: bool = False,
    ) -> None:
        self._max_error, self._account = max_error, account
        self._bandwidth, self._proven = bytes_per_second(mbit), proven
        self._key = secret_key
        from linalign_lite.encrypt.seal.secret_side import SecretSide

        self._side = SecretSide(secret_key.parameters, secret_key.material)
        self._secret = spectrum(self._side.secret)

    def encrypt(
        self,
        states: HiddenStates | Array,
        map: AffineMap | None = None,  # noqa: A002 (the field's word)
        *,
        norm_bound: float | None = None,
        n_outputs: int | None = None,
        index: IndexCard | NearestClusters | None = None,
        layout: Layout | None = None,
        progress: Progress | None = None,
    ) -> Query:
        """Encrypt map(state), or the states as they are.

        states: (n, d). norm_bound: rounded up to a power of two and public; by default the largest
        norm, at least 1. n_outputs: scores of the provider's head, for the choice of a layout.
        index: of the provider, in place of a head; for cosines states are scaled to length 1. Of
        `NearestClusters` all states share those nearest to any, and the provider learns which.
        layout: overrides that choice. progress: called with the number of states done since its
        last call. Raises MismatchError when the map does not read these states, or the
        index is of another space, InputError when a state's norm is above the bound.
        """
        asked = norm_bound, n_outputs, index, layout
        info, values = self._prepared(as_states(states), map, *asked)
        query = Query(info, tuple(self._payloads(info, values, progress)))
        if self._account is None:
            return query
        return replace(query, signature=self._signature(query.fingerprint))

    def encrypt_to(
        self,
        path: PathLike,
        states: HiddenStates | Array,
        map: AffineMap | None = None,  # noqa: A002 (the field's word)
        *,
        norm_bound: float | None = None,
        n_outputs: int | None = None,
        index: IndexCard | NearestClusters | None = None,
        layout: Layout | None = None,
        progress: Progress | None = None,
    ) -> QueryInfo:
        """Encrypt as ``encrypt``, record by record into a `*.query` file, whole or not at all."""
        asked = norm_bound, n_outputs, index, layout
        info, values = self._prepared(as_states(states), map, *asked)
        with atomic(path) as f:
            sign = None if self._account is None else self._signature
            write_framed(f, info.header(), self._payloads(info, values, progress), sign)
        return info

    def decrypt(self, response: Response, query: Query | None = None) -> Scores:
        """Decrypt a response; with ``query``, only if the response answers it, in its layout.

        Without ``query`` only the key is compared; the rest of the header is not verified.
        Raises MismatchError when the response belongs to another key or answers another query,
        FormatError when it is damaged.
        """
        expected = None
        if query:
            expected = _ExpectedQuery(query.info, [record.digest for record in query.records()])
        return self._scores(response.info, iter(response.payloads), "this response", expected, None)

    def decrypt_from(
        self,
        path: PathLike,
        query_path: PathLike | None = None,
        *,
        progress: Progress | None = None,
    ) -> Scores:
        """Decrypt as ``decrypt``, record by record from a `*.response` (and its `*.query`) file."""
        expected = None
        if query_path is not None:
            with open_framed(query_path, Kind.QUERY) as reader:
                info = QueryInfo.from_header(reader.header, reader.name)
                # digests only: a file of queries may be larger than memory
                expected = _ExpectedQuery(info, [record.digest for record in reader])
        with open_framed(path, Kind.RESPONSE) as reader:
            answer = ResponseInfo.from_header(reader.header, reader.name)
            payloads = (record.payload for record in reader)
            return self._scores(answer, payloads, reader.name, expected, progress)

    def _prepared(
        self,
        states: HiddenStates,
        map: AffineMap | None,  # noqa: A002
        norm_bound: float | None,
        n_outputs: int | None,
        index: IndexCard | NearestClusters | None,
        layout: Layout | None,
    ) -> tuple[QueryInfo, Array]:
        """Map the states, once, and return the query's header and the mapped states, (n, d)."""
        space = states.space if map is None else map.target
        card = index.card if isinstance(index, NearestClusters) else index
        if card is not None:
            what = "these states do not belong in the index's space"
            card.space.require(space, what, any_prompt=True)
        unit = card is not None and card.metric == "cosine"
        values, norms = _mapped(states, map, unit=unit, any_prompt=card is not None)
        clusters = index.of(values) if isinstance(index, NearestClusters) else ()
        if card is not None:
            n_outputs = sum(stop - start for start, stop in intervals(card, clusters))
        n = len(values)
        parameters = self._key.parameters
        if layout is None:
            shape = parameters, space.dim, n_outputs, n
            layout = choose_layout(*shape, self._bandwidth, proven=self._proven).layout
        elif (layout.degree, layout.dim) != (parameters.degree, space.dim):
            raise InputError(
                "this layout is for other states",
                got=f"{layout.dim} dimensions at ring degree {layout.degree}",
                expected=f"{space.dim} at {parameters.degree}",
            )
        largest = float(norms.max())
        bound = least_norm_bits(largest if norm_bound is None else norm_bound)
        if not largest <= largest_norm(bound):
            raise InputError(
                "a state's norm is above the bound",
                got=f"{int((norms > largest_norm(bound)).sum())} of {n} states above",
                expected=f"norms up to {2**bound}",
                hint="declare a larger bound, or leave it out",
            )
        window = layout.window(n_outputs)
        info = QueryInfo(
            parameters=parameters,
            key=self._key.digest,
            record_size=layout.chunks * seeded_size(window[1], parameters.data_primes),
            n=n,
            n_outputs=None if window[1] == layout.degree else n_outputs,
            space=space,
            chunks=layout.chunks,
            batch=layout.batch,
            many=layout.many,
            norm_bits=bound,
            identity=os.urandom(messages.ID_BYTES).hex(),
            clusters=clusters,
            index=card_digest(card) if card is not None and clusters else "",
            signed=self._account is not None,
        )
        info.require_readable()
        return info, values

    def _signature(self, fingerprint: bytes) -> bytes:
        assert self._account is not None
        return self._account.sign(messages.signed_bytes(fingerprint))

    def _payloads(
        self, info: QueryInfo, values: Array, progress: Progress | None
    ) -> Iterator[bytes]:
        layout = info.layout
        for start in range(0, info.n, layout.batch):
            block = values[start : start + layout.batch]
            done, parts = 0, []
            for i, chunk in enumerate(pack_states(layout, block), 1):
                parts.append(self._encrypted(info, chunk))
                if progress and (fresh := len(block) * i // layout.chunks - done):
                    progress(fresh)
                    done += fresh
            yield b"".join(parts)

    def _encrypted(self, info: QueryInfo, coefficients: FloatArray) -> bytes:
        """Encrypt (N,) coefficients: a zero, to whose first component they are added."""
        (start, count), primes = info.window, info.parameters.data_primes
        scale = query_scale(info.parameters, info.norm_bits)
        zero, seed = self._side.encrypt_zero()
        degree, before = info.parameters.degree, -start  # negative ones count from the end
        coefficients = np.concatenate(
            [coefficients[degree - before :], coefficients[: count - before]]
        )
        zero = np.concatenate([zero[:, degree - before :], zero[:, : count - before]], axis=1)
        rows = add_encoded(zero, coefficients, scale, info.norm_bits, primes)
        return pack_seeded(rows, seed, primes)

    def _scores(
        self,
        info: ResponseInfo,
        payloads: Iterator[bytes],
        name: str,
        expected: _ExpectedQuery | None,
        progress: Progress | None,
    ) -> Scores:
        if info.parameters != self._key.parameters or info.key != self._key.digest:
            raise MismatchError(
                f"{name} belongs to another key",
                got=f"{info.parameters.name} {info.key.hex()[:8]}",
                expected=f"{self._key.parameters.name} {self._key.digest.hex()[:8]}",
                hint="use the secret key that encrypted the query",
            )
        if expected is not None:
            both = (info, expected.info)
            shapes = [(i.parameters, i.n, i.layout, i.norm_bits, i.clusters) for i in both]
            if info.query != expected.info.header().digest.hex() or shapes[0] != shapes[1]:
                raise MismatchError(f"{name} answers another query", hint="decrypt it with its own")
        error = info.error_bound
        if not info.imprecision <= self._max_error:
            raise PrecisionError(
                f"the scores of {name} are too imprecise",
                got=f"errors up to {info.imprecision:.1e}",
                expected=f"at most {self._max_error:.1e}",
                hint="the response may have been altered, or the provider accepts larger errors",
            )
        # grown record by record: nothing is allocated from sizes that only the header states
        blocks: list[FloatArray] = []
        for i, payload in enumerate(payloads):
            if expected is not None and payload[:DIGEST] != expected.digests[i]:
                raise MismatchError(f"{name}: record {i} answers another query")
            live = info.layout.live(info.n, i)
            blocks.append(self._decrypted(info, memoryview(payload)[DIGEST:], live))
            if progress:
                progress(live)
        step, places = rounding_step(error)
        scores = _concatenated(blocks)
        capped = soft_capped(scores, info.softcap)
        # of an index only the order is finer than what rounding of its rows may do to one score
        first = highest(capped, RANKED) if info.ids else None
        best = np.argmax(capped, axis=1)
        rounded = np.round(np.rint(capped / step) * step, places)  # rint alone leaves tails
        shown = info.ids, info.clusters, first
        return Scores(rounded, best, info.labels, places, error, *shown)

    def _decrypted(self, info: ResponseInfo, view: memoryview, live: int) -> FloatArray:
        """Scores of one record: (live, n_outputs)."""
        layout, degree = info.layout, info.parameters.degree
        total = query_scale(info.parameters, info.norm_bits) + info.head_scale
        unit = 2.0 ** (info.parameters.data_bits - total)
        parts, start = [], 0
        while start < info.n_outputs:  # a few products of one size at once
            rows = min(layout.rows, info.n_outputs - start)
            products = min(_PRODUCTS, (info.n_outputs - start) // rows)
            positions = score_positions(layout, rows)
            size = products * product_size(degree, positions.size, info.word_bits)
            second, first = decode_products(view[:size], products, degree, info.word_bits)
            view, start = view[size:], start + products * rows
            wanted, first = positions[:, :live], first.reshape(products, *positions.shape)
            values = decrypt_products(
                self._secret,
                second,
                first[..., :live].reshape(products, -1),
                wanted.ravel(),
                info.word_bits,
            )
            parts.append(values.reshape(-1, live).T * unit)
        return _concatenated(parts, axis=1)


@dataclass(frozen=True)
class _ExpectedQuery:
    """The query that a response must answer: its header, and the digests of its records."""

    info: QueryInfo
    digests: list[bytes] = field(repr=False)


def _mapped(
    states: HiddenStates, affine: AffineMap | None, *, unit: bool, any_prompt: bool
) -> tuple[Array, FloatArray]:
    """Map the states; unit: and scale them to length 1. Returns them and their norms.

    Raises MismatchError when the map reads others.
    """
    values = states.states
    batches = [values[start : start + _BATCH] for start in range(0, len(values), _BATCH)]
    if affine is not None:
        affine.require_readable(states.space, any_prompt=any_prompt)
        batches = [affine.apply(batch) for batch in batches]
    if unit:
        batches = [unit_rows(batch.astype(np.float64)) for batch in batches]
    if unit or affine is not None:
        values = _concatenated(batches)
    with np.errstate(over="ignore", invalid="ignore"):  # least_norm_bits refuses what overflows
        squares = [np.square(batch, dtype=np.float64).sum(axis=1) for batch in batches]
        return values, np.sqrt(_concatenated(squares))


def _concatenated(parts: list[npt.NDArray[FloatT]], axis: int = 0) -> npt.NDArray[FloatT]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)
