"""Columns of the tables that the page and the Markdown file share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from linalign_lite.survey.report.analysis import texts_label


@dataclass(frozen=True)
class Column:
    """A field of rows. ``digits``: decimals of a number, None for text and pairs of models."""

    title: str
    digits: int | None = None
    field: str = ""  # the column's own name unless given
    convert: Callable[[Any], Any] = lambda value: value


def _or_none(value: float) -> float | None:
    return value or None


# with their own names
_TEXTS = "pair architecture task data objective measure detector verdict collection mapped"
_NUMBERS = "accuracy low high value p paired agreement"
COLUMNS = {
    **{name: Column(name) for name in _TEXTS.split()},
    **{name: Column(name, 3) for name in _NUMBERS.split()},
    "model": Column("model", field="name"),
    "dim": Column("dimensions", 0),
    "vocab_size": Column("vocabulary", 0),
    "context": Column("context", 0),
    "data_set": Column("data", field="name"),
    "train": Column("training texts", 0),
    "test": Column("test texts", 0),
    "outside": Column("outside texts", 0, convert=_or_none),
    "labels": Column("labels", 0),
    "majority": Column("commonest label", 3),
    "texts": Column("map fitted on", convert=texts_label),
    "n_public": Column("public texts", 0, convert=_or_none),
    "n_few": Column("own texts", 0, convert=_or_none),
    "retention": Column("retention", 2),
    "n_texts": Column("texts", 0, "n"),
    "observed": Column("to compare", 3),
    "null": Column("shuffled", 3),
    "null_n": Column("texts compared", 0),
    "auroc": Column("AUROC", 3),
    "aupr_in": Column("AUPR in", 3),
    "aupr_out": Column("AUPR out", 3),
    "fpr95": Column("FPR95", 3),
    "penalty": Column("penalty", 4, "x"),
    "size": Column("public texts", 0, "x"),
    "pairs": Column("pairs", 0, "x"),
    "r2": Column("held-out R²", 3),
    "exact": Column("exact match", 3),
    "jaccard": Column("Jaccard", 3),
    "fertility": Column("fertility ratio", 2),
    "top5": Column("top 5", 3),
    "cross_entropy": Column("cross-entropy", 2),
    "target_cross_entropy": Column("target's own", 2),
    "positions": Column("positions", 0, "n"),
    "ndcg": Column("nDCG@10", 3),
    "native": Column("target's own", 3),
    "recall": Column("recall@10", 3),
    "overlap": Column("overlap@10", 3),
    "queries": Column("queries", 0),
    "documents": Column("documents", 0),
}
MODELS = "model architecture task dim vocab_size context"
DATA = "data_set train test outside labels majority"
TOKENIZERS = "pair exact paired jaccard fertility verdict"
GENERATION = "pair objective agreement top5 cross_entropy target_cross_entropy positions"
RETRIEVAL = (
    "collection pair texts objective mapped ndcg low high native recall overlap queries documents"
)


def titles(names: str) -> list[str]:
    """Titles of the columns ``names``, separated by spaces."""
    return [COLUMNS[name].title for name in names.split()]


def values(names: str, row: Any) -> list[tuple[Any, int | None]]:
    """(value, digits) of each column of a row."""
    columns = [(name, COLUMNS[name]) for name in names.split()]
    return [(c.convert(getattr(row, c.field or name)), c.digits) for name, c in columns]
