"""Texts that need not fit in memory: counted and hashed once, then read again in chunks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from linalign_lite.core.hidden_states import TextDigest
from linalign_lite.core.labels import Ints
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.extraction.texts import DEFAULT, Fields, Texts, read_rows

MAX_LABELS = 16 << 20  # bytes of all distinct labels: the manifest of a folder holds no more
Row = tuple[str, str | None]  # text, label


@dataclass(frozen=True)
class Chunk:
    """Consecutive texts of a corpus, the first of them text ``start``."""

    start: int
    texts: tuple[str, ...]
    digest: str = ""  # of these texts; see `hidden_states.text_digest`
    labels: tuple[str, ...] = ()  # of the whole corpus, sorted
    label_ids: Ints | None = None  # shape: (texts,), indices into labels


@dataclass(frozen=True)
class Corpus:
    """Count, digest and labels of texts; ``rows`` reads the texts again."""

    rows: Callable[[], Iterator[Row]]
    digest: str
    n_texts: int
    labels: tuple[str, ...] = ()  # distinct, sorted; empty when the texts have none
    n_blank: int = 0

    def chunks(self, size: int) -> Iterator[Chunk]:
        """All texts, ``size`` at a time. MismatchError when they changed since the count."""
        changed = MismatchError(
            "the texts changed while they were read", hint="extract again when the file is complete"
        )
        whole, start = TextDigest(), 0
        index = {label: i for i, label in enumerate(self.labels)}
        rows = self.rows()
        while part := list(islice(rows, size)):
            digest = TextDigest()
            for text, _ in part:
                digest.add(text)
                whole.add(text)
            ids = None
            if self.labels:
                if any(label not in index for _, label in part):
                    raise changed
                ids = np.array([index[label or ""] for _, label in part], dtype=np.int32)
            texts = tuple(text for text, _ in part)
            yield Chunk(start, texts, digest.hexdigest(), self.labels, ids)
            start += len(part)
        if (whole.hexdigest(), start) != (self.digest, self.n_texts):
            raise changed


def corpus_of(texts: Corpus | Texts | Sequence[str]) -> Corpus:
    """Return texts in memory as a corpus. Raises InputError for a single string."""
    if isinstance(texts, Corpus):
        return texts
    held = texts_of(texts)
    n, names = len(held.texts), tuple(sorted(set(held.labels)))
    labels = held.labels or (None,) * n
    return Corpus(lambda: zip(held.texts, labels, strict=True), held.digest, n, names, held.n_blank)


def texts_of(texts: Texts | Sequence[str]) -> Texts:
    """Return any sequence of texts as `Texts`. Raises InputError for a single string."""
    if isinstance(texts, Texts):
        return texts
    if isinstance(texts, str):  # in Python a sequence of one-character strings
        raise InputError("a single string is not a list of texts", hint="put it in a list")
    return Texts(tuple(texts))


def read_corpus(
    path: str,
    *,
    fmt: str = "auto",
    limit: int | None = None,
    separator: str | None = None,
    fields: Fields = DEFAULT,
) -> Corpus:
    """Read ``path`` once, keeping only the distinct labels; options and errors of `read_texts`.

    The file is read again when the texts are used, so ``path`` cannot be standard input ("-"); see
    `compressed_text.kept`. Raises InputError for more than MAX_LABELS bytes of labels.
    """
    if path == "-":
        raise InputError("standard input cannot be read twice", hint="write it to a file first")

    read = partial(read_rows, path, fmt=fmt, limit=limit, separator=separator, fields=fields)
    digest, labels = TextDigest(), set[str]()
    count = blank = size = 0
    for text, label in read():
        if text is None:
            blank += 1
            continue
        digest.add(text)
        count += 1
        if label is not None and label not in labels:
            labels.add(label)
            size += len(label.encode())
            if size > MAX_LABELS:
                raise InputError(
                    f"{path} has too many different labels", expected=f"at most {MAX_LABELS} bytes"
                )

    def rows() -> Iterator[Row]:
        return ((text, label) for text, label in read() if text is not None)

    return Corpus(rows, digest.hexdigest(), count, tuple(sorted(labels)), blank)
