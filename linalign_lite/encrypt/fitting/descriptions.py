"""Headers of offers and answers, and the checks on them. docs/FORMAT.md, section 3."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

from linalign_lite.core.space import Space
from linalign_lite.encrypt.fitting.shape import MAX_FOLDS, FitShape
from linalign_lite.encrypt.messages import ID_BYTES, MAX_DEGREE
from linalign_lite.encrypt.modular import require_size, seeded_size
from linalign_lite.encrypt.noise_flooding import flood_bits, most_flood_bits
from linalign_lite.encrypt.parameters import PRIVATE, Parameters
from linalign_lite.encrypt.precision import head_scale, query_scale, score_error
from linalign_lite.encrypt.response_encoding import WORD_BITS, product_size
from linalign_lite.encrypt.wire import Header, Kind
from linalign_lite.errors import InputError
from linalign_lite.storage.schema import Range, Sha256, Text, format_errors, parse, plain

MAX_TEXTS = 1 << 32
WORD = min(WORD_BITS)
MOMENT = 16  # bytes of a mean and a sum of squares


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """Fields of both descriptions."""

    n: Annotated[int, Range(2, MAX_TEXTS)]
    folds: Annotated[int, Range(2, MAX_FOLDS)]
    seed: Annotated[int, Range(0, (1 << 63) - 1)]
    columns: Annotated[int, Range(1, MAX_DEGREE)]


@dataclass(frozen=True, kw_only=True)
class OfferDescription(_Shape):
    """JSON fields of an offer's header. The client's space is not among them."""

    text_digest: Sha256
    identity: Annotated[str, Text(2 * ID_BYTES, 2 * ID_BYTES, "[0-9a-f]*")]


@dataclass(frozen=True, kw_only=True)
class AnswerDescription(_Shape):
    """JSON fields of an answer's header. ``offer``: fingerprint of the offer."""

    offer: Sha256
    space: Space
    flood_bits: Annotated[int, Range(0, 128)]


@dataclass(frozen=True, kw_only=True)
class _Info(_Shape):
    KIND: ClassVar[Kind]
    DESCRIPTION: ClassVar[type]
    parameters: Parameters
    key: bytes
    signed: bool = False

    @cached_property
    def shape(self) -> FitShape:
        return FitShape(self.n, self.folds, self.seed, self.columns, self.parameters.degree)

    @property
    def records(self) -> int:
        raise NotImplementedError

    @property
    def record_size(self) -> int:
        raise NotImplementedError

    @cached_property
    def _header(self) -> Header:
        meta = {f.name: getattr(self, f.name) for f in fields(self.DESCRIPTION)}
        meta = {name: plain(v) if isinstance(v, Space) else v for name, v in meta.items()}
        shape = self.records, self.record_size
        return Header(self.KIND, self.parameters, self.key, *shape, meta, self.signed)

    def header(self) -> Header:
        return self._header

    @property
    def size(self) -> int:
        """Bytes of the file without header and signature."""
        return self.records * (self.record_size + 32)

    @classmethod
    def from_header(cls, header: Header, name: str) -> Self:
        """Parse the description of the file ``name``. Raises FormatError for an unusable field."""
        with format_errors(name, cls.KIND.title):
            described: dict[str, Any] = vars(parse(cls.DESCRIPTION, header.meta, "its description"))
            space = described.get("space")
            if space is not None and plain(space) != header.meta["space"]:
                raise InputError("its space has an empty field that is left out when it is empty")
            if not header.parameters.private:
                raise InputError("its profile does not hide states", got=header.parameters.name)
            if described["columns"] > header.parameters.degree:
                raise InputError("it has more columns than a ciphertext holds")
            common = {k: getattr(header, k) for k in ("parameters", "key", "signed")}
            info = cls(**common, **described)
            if info.records != header.n_records:
                raise InputError("its texts do not fit its records", got=str(header.n_records))
            require_size("a record of it", header.record_size, info.record_size)
            info._require_consistent()
        return info

    def _require_consistent(self) -> None:
        """Raise InputError when fields do not agree with one another."""


@dataclass(frozen=True, kw_only=True)
class OfferInfo(OfferDescription, _Info):
    """Header of an offer (`*.offer`): a record for each chunk of texts."""

    KIND = Kind.OFFER
    DESCRIPTION = OfferDescription

    @property
    def records(self) -> int:
        return self.shape.chunks

    @property
    def record_size(self) -> int:
        return seeded_size(self.shape.sent, self.parameters.data_primes)


@dataclass(frozen=True, kw_only=True)
class AnswerInfo(AnswerDescription, _Info):
    """Header of an answer (`*.answer`): a record for each dimension of the provider's states.

    A record has, of each fold, the words of a product; then of each fold, as little-endian float64,
    the mean of the dimension and its sum of squares about that mean.
    """

    KIND = Kind.ANSWER
    DESCRIPTION = AnswerDescription

    @property
    def records(self) -> int:
        return self.space.dim

    @property
    def product(self) -> int:
        """Bytes of the words of one product."""
        return product_size(self.parameters.degree, self.columns, WORD)

    @property
    def record_size(self) -> int:
        return self.folds * (self.product + MOMENT)

    @property
    def error(self) -> float:
        """Bound on the error of ⟨u, y⟩ for columns u and y of norm 1 in a fold."""
        return score_error(self.parameters, 0, SCALE, 0, 1, self.flood_bits, WORD)

    def _require_consistent(self) -> None:
        if not 1 <= self.flood_bits <= most_flood_bits(self.parameters):
            raise InputError("its flooding is not usable")


# Both sides' columns have norm 1 at most in every fold: nothing of a scale depends on states
SCALE = head_scale(PRIVATE, 0, 1.0, 0.0)
UNIT = 2.0 ** (query_scale(PRIVATE, 0) + SCALE - PRIVATE.data_bits)  # of 1, in fractions of q


def flooding(texts: int) -> int:
    """Bits of the flooding for folds of up to ``texts`` texts, under a proven key."""
    return flood_bits(PRIVATE, SCALE, 1.0, texts, proven=True)


def told_states(info: OfferInfo | AnswerInfo) -> int:
    """Numbers that are told of each of the provider's dimensions: a budget's states.

    Of each fold m products, a mean and a sum of squares.
    """
    return info.folds * (info.columns + 2)


def told_bits(info: AnswerInfo) -> int:
    """Bits that an answer tells of the provider's states at most.

    Of each product what flooding leaves of a word; and a mean and a sum of squares in full.
    """
    told = min(WORD, math.ceil(info.parameters.data_bits) - info.flood_bits)
    products = info.folds * info.columns * info.space.dim * told
    return products + info.folds * info.space.dim * 8 * MOMENT
