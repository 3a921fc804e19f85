"""The client: owns the states and the secret key, encrypts queries, decrypts scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.head import soft_capped
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.encrypt.keys import SecretKey, scheme_for
from linalign_lite.encrypt.messages import (
    Query,
    QueryInfo,
    Response,
    ResponseInfo,
    new_identity,
    require_size,
    response_size,
)
from linalign_lite.encrypt.packing import FloatArray, Layout, pack_states, score_positions
from linalign_lite.encrypt.planner import choose_layout
from linalign_lite.encrypt.precision import MAX_ERROR, decimals, norm_bits, query_scale, score_error
from linalign_lite.encrypt.response_encoding import decode_product, decrypt_product, product_size
from linalign_lite.encrypt.wire import DIGEST, Kind, Record, Writer, open_framed
from linalign_lite.errors import InputError, MismatchError, PrecisionError
from linalign_lite.heads.ood.detector import Detector
from linalign_lite.heads.ood.detectors import outlyingness
from linalign_lite.storage.atomic import PathLike, atomic

Progress = Callable[[int], None]
_BATCH = 256  # states mapped at once


@dataclass(frozen=True, eq=False)
class Scores:
    """What decryption gives: the head's scores, (n, n_outputs), rounded to ``decimals`` places.

    One unit of the last place is at least the bound on the error. Never send scores
    back to the provider: docs/SECURITY.md says why.
    """

    values: FloatArray = field(repr=False)  # shape: (n, n_outputs)
    labels: tuple[str, ...]
    decimals: int
    error: float  # bound on the error of a score before it was rounded

    def predictions(self) -> npt.NDArray[np.intp]:
        """Index of the highest score of each state, (n,)."""
        best: npt.NDArray[np.intp] = np.argmax(self.values, axis=1)
        return best

    def names(self) -> list[str]:
        """The label of the highest score of each state, or its index when there are none."""
        return [self.labels[i] if self.labels else str(i) for i in self.predictions().tolist()]

    def outlyingness(self, by: str | Detector = "energy", temperature: float = 1.0) -> FloatArray:
        """How unlike what the head was made for each state is, (n,); higher is more outlying.

        by: "energy", "msp" or "max-logit" (ood.scores) at ``temperature``; or a detector of these,
        with its own temperature. Raises InputError when it does not read scores or has other
        outputs, MismatchError when its labels are not these scores'.
        """
        if isinstance(by, str):
            return outlyingness(self.values, by, temperature)
        return by.of_scores(self.values, self.labels)


class Client:
    """Encrypts hidden states and decrypts scores with one secret key.

    Scores whose stated error is above ``max_error`` are refused.
    """

    def __init__(self, secret_key: SecretKey, *, max_error: float = MAX_ERROR) -> None:
        self._max_error = max_error
        self._key = secret_key
        self._scheme = scheme_for(secret_key.parameters)
        self._side = self._scheme.secret_side(secret_key.material)

    def encrypt(
        self,
        states: HiddenStates | Array,
        map: AffineMap | None = None,  # noqa: A002 (the field's word)
        *,
        norm_bound: float | None = None,
        n_outputs: int | None = None,
        layout: Layout | None = None,
        progress: Progress | None = None,
    ) -> Query:
        """Encrypt map(state), or the states as they are.

        states: (n, d). ``norm_bound`` is rounded up to a power of two and becomes public; without
        it the largest norm is, but never below 2. The layout is chosen by the planner, well when
        ``n_outputs`` is given, the number of scores that the provider's head has; ``layout``
        overrides it. ``progress`` is called with the number of states done since its last call.
        Raises MismatchError when the map does not read these states, InputError when a state's
        norm is above the bound.
        """
        mapped = _MappedStates(as_states(states), map)
        info = self._info(mapped, norm_bound, n_outputs, layout)
        return Query(info, tuple(self._payloads(info, mapped, progress)))

    def encrypt_to(
        self,
        path: PathLike,
        states: HiddenStates | Array,
        map: AffineMap | None = None,  # noqa: A002 (the field's word)
        *,
        norm_bound: float | None = None,
        n_outputs: int | None = None,
        layout: Layout | None = None,
        progress: Progress | None = None,
    ) -> QueryInfo:
        """As ``encrypt``, record by record into a `*.query` file, whole or not at all."""
        mapped = _MappedStates(as_states(states), map)
        info = self._info(mapped, norm_bound, n_outputs, layout)
        with atomic(path) as f:
            writer = Writer(f, info.header())
            for payload in self._payloads(info, mapped, progress):
                writer.write(payload)
            writer.finish()
        return info

    def decrypt(self, response: Response, query: Query | None = None) -> Scores:
        """Scores of a response; with ``query``, only if the response answers it, in its layout.

        Without ``query`` only the key is compared, and the response is believed about the rest.
        Raises MismatchError when the response belongs to another key or answers another query,
        FormatError when it is damaged.
        """
        asked = _ExpectedQuery(query.info, query.records()) if query else None
        return self._scores(response.info, iter(response.payloads), "this response", asked, None)

    def decrypt_from(
        self,
        path: PathLike,
        query_path: PathLike | None = None,
        *,
        progress: Progress | None = None,
    ) -> Scores:
        """As ``decrypt``, record by record from a `*.response` file (and its `*.query` file)."""
        asked = None
        if query_path is not None:
            with open_framed(query_path, Kind.QUERY) as reader:
                asked_info = QueryInfo.from_header(reader.header, reader.name)
                # digests only: a file of queries may be larger than memory
                asked = _ExpectedQuery(
                    asked_info, [Record(b"", record.digest) for record in reader]
                )
        with open_framed(path, Kind.RESPONSE) as reader:
            info = ResponseInfo.from_header(reader.header, reader.name)
            payloads = (record.payload for record in reader)
            return self._scores(info, payloads, reader.name, asked, progress)

    def _info(
        self,
        states: _MappedStates,
        norm_bound: float | None,
        n_outputs: int | None,
        layout: Layout | None,
    ) -> QueryInfo:
        space, parameters = states.space, self._key.parameters
        if layout is None:
            layout = choose_layout(parameters, space.dim, n_outputs, states.n).layout
        elif (layout.degree, layout.dim) != (parameters.degree, space.dim):
            raise InputError(
                "this layout is for other states",
                got=f"{layout.dim} dimensions at ring degree {layout.degree}",
                expected=f"{space.dim} at {parameters.degree}",
            )
        with np.errstate(over="ignore", invalid="ignore"):  # norm_bits refuses what overflows
            squares = [(z * z).sum(axis=1) for z in states.batches()]
            norms = np.sqrt(squares[0] if len(squares) == 1 else np.concatenate(squares))
        largest = float(norms.max())
        bound = norm_bits(largest if norm_bound is None else norm_bound)
        if not largest <= 2.0**bound:
            raise InputError(
                "a state's norm is above the bound",
                got=f"{int((norms > 2.0**bound).sum())} of {len(norms)} states above",
                expected=f"norms up to {2**bound}",
                hint="declare a larger bound, or leave it out",
            )
        info = QueryInfo(
            parameters=parameters,
            key=self._key.digest,
            record_size=layout.chunks * self._scheme.query_size,
            n=states.n,
            space=space,
            chunks=layout.chunks,
            batch=layout.batch,
            norm_bits=bound,
            identity=new_identity(),
        )
        info.require_readable()
        return info

    def _payloads(
        self, info: QueryInfo, states: _MappedStates, progress: Progress | None
    ) -> Iterator[bytes]:
        scale, layout = query_scale(info.parameters, info.norm_bits), info.layout
        for batch in states.batches(max(1, _BATCH // layout.batch) * layout.batch):
            for start in range(0, len(batch), layout.batch):
                block = batch[start : start + layout.batch]
                done, parts = 0, []
                for i, chunk in enumerate(pack_states(layout, block), 1):
                    parts.append(self._side.encrypt(chunk, scale))
                    if progress and (fresh := len(block) * i // layout.chunks - done):
                        progress(fresh)
                        done += fresh
                yield b"".join(parts)

    def _scores(
        self,
        info: ResponseInfo,
        payloads: Iterator[bytes],
        name: str,
        asked: _ExpectedQuery | None,
        progress: Progress | None,
    ) -> Scores:
        self._require_mine(info, name)
        if asked is not None:
            asked.require(info, name)
        error = _stated_error(info)
        if not error <= self._max_error:
            raise PrecisionError(
                f"the scores of {name} are too imprecise",
                got=f"errors up to {error:.1e}",
                expected=f"at most {self._max_error:.1e}",
                hint="the response may have been altered, or the provider accepts larger errors",
            )
        require_size(name, info.record_size, response_size(info.layout, info.n_outputs))
        # grown record by record, because what a header promises is not allocated on its word
        blocks: list[FloatArray] = []
        for i, payload in enumerate(payloads):
            if asked is not None and payload[:DIGEST] != asked.records[i].digest:
                raise MismatchError(f"{name}: record {i} answers another query")
            live = info.layout.live(info.n, i)
            blocks.append(self._decrypted(info, memoryview(payload)[DIGEST:], live))
            if progress:
                progress(live)
        return _rounded(info, blocks[0] if len(blocks) == 1 else np.concatenate(blocks), error)

    def _decrypted(self, info: ResponseInfo, view: memoryview, live: int) -> FloatArray:
        """Scores of one record: (live, n_outputs)."""
        layout, degree = info.layout, info.parameters.degree
        total = query_scale(info.parameters, info.norm_bits) + info.head_scale
        unit = 2.0 ** (info.parameters.data_bits - total)
        parts = []
        for start in range(0, info.n_outputs, layout.rows):
            positions = score_positions(layout, min(layout.rows, info.n_outputs - start))
            size = product_size(degree, positions.size)
            second, first = decode_product(view[:size], degree)
            view = view[size:]
            wanted, first = positions[:, :live], first.reshape(positions.shape)[:, :live]
            values = decrypt_product(self._side.secret, second, first.ravel(), wanted.ravel())
            parts.append(values.reshape(-1, live).T * unit)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _require_mine(self, info: ResponseInfo, name: str) -> None:
        if info.parameters != self._key.parameters or info.key != self._key.digest:
            raise MismatchError(
                f"{name} belongs to another key",
                got=f"{info.parameters.name} {info.key.hex()[:8]}",
                expected=f"{self._key.parameters.name} {self._key.digest.hex()[:8]}",
                hint="use the secret key that encrypted the query",
            )


@dataclass(frozen=True)
class _ExpectedQuery:
    """What a response must fit: the query's description, and its records' digests."""

    info: QueryInfo
    records: list[Record] = field(repr=False)

    def require(self, info: ResponseInfo, name: str) -> None:
        mine = self.info
        parts = [(i.parameters, i.n, i.layout, i.norm_bits) for i in (info, mine)]
        if info.query != mine.header().digest.hex() or parts[0] != parts[1]:
            raise MismatchError(f"{name} answers another query", hint="decrypt it with its own")


class _MappedStates:
    """The states to encrypt, in their space. Few enough for one batch are mapped once and kept.

    Raises MismatchError when the map does not read these states.
    """

    def __init__(
        self,
        states: HiddenStates,
        map: AffineMap | None,  # noqa: A002
    ) -> None:
        if map is not None:
            map.source.require(states.space, "this map does not read these states")
        self.space = states.space if map is None else map.target
        self.n = len(states)
        self._states, self._map = states.states, map
        self._kept: FloatArray | None = None

    def batches(self, size: int = _BATCH) -> Iterator[FloatArray]:
        """(m, d) float64 each, m at most ``size``, or all that there are when they are kept."""
        if self.n <= _BATCH:
            if self._kept is None:
                self._kept = self._mapped(self._states)
            yield self._kept
            return
        for start in range(0, self.n, size):
            yield self._mapped(self._states[start : start + size])

    def _mapped(self, batch: Array) -> FloatArray:
        return np.asarray(batch if self._map is None else self._map.apply(batch), dtype=np.float64)


def _rounded(info: ResponseInfo, scores: FloatArray, error: float) -> Scores:
    """Soft cap, then rounding to the places that the noise leaves."""
    places = decimals(error)
    capped = np.asarray(soft_capped(scores, info.softcap), dtype=np.float64)
    return Scores(np.round(capped, places), info.labels, places, error)


def _stated_error(info: ResponseInfo) -> float:
    """Bound on the error of a score, from what the response says."""
    fold = info.layout.fold(info.n_outputs)
    return score_error(info.parameters, info.norm_bits, info.head_scale, fold, info.flood_bits)
