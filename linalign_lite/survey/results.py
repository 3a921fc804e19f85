"""Results of a survey: the rows of `results.json`. docs/FORMAT.md, section 6."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

from linalign_lite.storage.schema import LEFT_OUT, Range, Text

LARGEST = 1e30
Number = Annotated[float, Range(-LARGEST, LARGEST)]
NotNegative = Annotated[float, Range(0, LARGEST)]
Share = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(0, LARGEST)]
Point = tuple[float, float]


@dataclass(frozen=True)
class MapSettings:
    """Training texts and objective of a map."""

    texts: str  # "public", "few", "public+few" or "all"
    objective: str  # "ridge" or "kl"
    n_few: Count = 0  # in-distribution texts of a few-shot map

    @property
    def label(self) -> str:
        few = f" ({self.n_few})" if self.n_few else ""
        return f"{self.objective}, {self.texts}{few}"


@dataclass(frozen=True)
class ModelRow:
    """A model. ``task``: "embed" or "generate"."""

    name: str
    digest: str
    architecture: str
    task: str
    dim: Count
    vocab_size: Count
    context: Count
    prompt: Annotated[str, Text()] = field(default="", metadata=LEFT_OUT)


@dataclass(frozen=True)
class DataRow:
    """A labelled data set. ``majority``: accuracy of always predicting the commonest label."""

    name: str
    train: Count  # texts
    test: Count
    outside: Count  # out-of-distribution test texts; 0: none
    labels: Count
    majority: Share


@dataclass(frozen=True)
class NativeRow:
    """Accuracy of a model's own head on its own states, with its bootstrap interval (95 %)."""

    model: str
    data: str
    accuracy: Share
    low: Share
    high: Share


@dataclass(frozen=True)
class PairRow:
    """A row about an ordered pair of models."""

    source: str
    target: str

    @property
    def pair(self) -> tuple[str, str]:
        return self.source, self.target


@dataclass(frozen=True)
class SimilarityRow(PairRow):
    """One measure of one ordered pair: ``value`` on ``n`` rows.

    The null comes from ``null_n`` rows, on which the measure is ``observed``. Compare these two:
    some measures depend on the number of rows.
    """

    texts: str  # "public" or the name of a data set
    measure: str  # cka, cka_debiased, mutual_knn, svcca, r2, cosine, cycle
    value: Number
    n: Count
    observed: Number
    null: Number  # mean over permutations
    p: Share
    null_n: Count


@dataclass(frozen=True)
class ClassRow(PairRow):
    """Accuracy of the target's head on the source's mapped states.

    ``retention`` is accuracy / min(target's native, source's native accuracy).
    """

    data: str
    texts: str  # of the fit: "public", "few", "public+few" or "all"
    objective: str  # "ridge" or "kl"
    n_public: Count
    n_few: Count  # in-distribution texts
    accuracy: Share
    low: Share
    high: Share
    retention: NotNegative


@dataclass(frozen=True)
class OodRow(PairRow):
    """Separation of a data set's test texts from out-of-distribution texts by a detector.

    source = target: native states; ``objective`` and ``texts`` are then "native".
    """

    data: str
    texts: str
    objective: str
    detector: str
    auroc: Share
    aupr_in: Share
    aupr_out: Share
    fpr95: Share
    roc: tuple[Point, ...] = ()  # (false positive rate, true positive rate)


@dataclass(frozen=True)
class CurveRow(PairRow):
    """A point of a curve: held-out R² over ``kind``.

    "penalty"; "size", the number of public texts; "pairs" of them, and "pairs+unshared", where the
    others were split between the sides. ``accuracy``, of the target's head on the data set, is
    given for all but penalties.
    """

    data: str  # "" for the penalty
    kind: str
    x: NotNegative
    r2: Number
    accuracy: Share | None = None


@dataclass(frozen=True)
class TokenizerRow(PairRow):
    """Agreement of two tokenizers on the same texts (`Compatibility`)."""

    paired: Share
    exact: Share
    jaccard: Share
    fertility: NotNegative
    verdict: str


@dataclass(frozen=True)
class GenerationRow(PairRow):
    """Teacher-forced metrics of the hybrid of ``source`` and ``target``; nats per token."""

    objective: str  # "ridge" or "kl"
    agreement: Share
    top5: Share
    cross_entropy: NotNegative
    target_cross_entropy: NotNegative
    n: Count


@dataclass(frozen=True)
class RetrievalRow(PairRow):
    """Search of a collection across two models, first 10 documents (`evaluate_retrieval`)."""

    collection: str
    texts: str  # of the fit: "public", or "documents" of the collection with pseudo-queries
    objective: str  # "ridge" or "retrieval"
    mapped: str  # "queries" or "documents"
    ndcg: Share
    low: Share
    high: Share
    native: Share  # nDCG of the target's own search
    recall: Share
    overlap: Share  # with the target's own ranking
    queries: Count
    documents: Count


@dataclass(frozen=True)
class Projection(PairRow):
    """Native and mapped states of the same texts on two principal axes of the native states."""

    data: str
    objective: str
    explained: Point  # share of the native states' variance on each axis
    native: tuple[Point, ...]
    mapped: tuple[Point, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class TimeRow:
    """Seconds of one step; ``cached``: those of the earlier run that computed the result."""

    step: str
    seconds: NotNegative
    cached: bool


@dataclass(frozen=True)
class Results:
    """All results of a survey."""

    title: str
    library: str
    seed: Count
    pooling: str
    public: Count  # public texts
    models: tuple[ModelRow, ...]
    data: tuple[DataRow, ...] = ()
    native: tuple[NativeRow, ...] = ()
    similarity: tuple[SimilarityRow, ...] = ()
    classification: tuple[ClassRow, ...] = ()
    ood: tuple[OodRow, ...] = ()
    curves: tuple[CurveRow, ...] = ()
    tokenizers: tuple[TokenizerRow, ...] = ()
    generation: tuple[GenerationRow, ...] = ()
    projections: tuple[Projection, ...] = ()
    times: tuple[TimeRow, ...] = ()
    retrieval: tuple[RetrievalRow, ...] = field(default=(), metadata=LEFT_OUT)

    def pairs(self) -> list[tuple[str, str]]:
        """Every ordered pair of models."""
        names = [m.name for m in self.models]
        return [(a, b) for a in names for b in names if a != b]


def names(rows: Iterable[Any], attribute: str) -> list[str]:
    """Distinct values of an attribute in the order of the rows."""
    return list(dict.fromkeys(getattr(row, attribute) for row in rows))
