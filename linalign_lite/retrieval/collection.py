"""Test collections: documents, queries and judgements of which documents answer a query."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from linalign_lite.errors import InputError
from linalign_lite.extraction.compressed_text import lines, open_bytes
from linalign_lite.retrieval.measures import Judgements
from linalign_lite.storage.atomic import PathLike

Grades = Mapping[str, Mapping[str, int]]  # of documents, by query; ids of both

MAX_GRADE = 1000
PSEUDO_PER_DOCUMENT = 2  # a title or first sentence, and a sentence drawn
LEAST_WORDS, MOST_WORDS = 5, 40  # of a sentence that is drawn
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")


@dataclass(frozen=True)
class Judged:
    """Queries and documents by id; ``judgements[i]`` grades rows of documents for query i.

    ``unknown``: judgements of queries or documents that are not there, which are left out.
    """

    document_ids: tuple[str, ...]
    query_ids: tuple[str, ...]
    judgements: Judgements
    unknown: int

    def binary(self) -> Self:
        """The same with every grade above 0 counted as 1, and every other as 0."""
        grades = [{row: int(g > 0) for row, g in of.items()} for of in self.judgements]
        return replace(self, judgements=grades)


@dataclass(frozen=True)
class Collection(Judged):
    """A test collection: what is judged, and its texts."""

    documents: tuple[str, ...]  # title and text
    titles: tuple[str, ...]  # "" where there is none
    queries: tuple[str, ...]

    def pseudo_queries(
        self, per_document: int = PSEUDO_PER_DOCUMENT, seed: int = 0
    ) -> tuple[str, ...]:
        """Texts like queries, ``per_document`` from each document, in its order.

        The title, or the first sentence, and then other sentences drawn by the seed; a document
        with fewer gives some of them twice.
        """
        import numpy as np

        rng, found = np.random.default_rng(seed), []
        for title, text in zip(self.titles, self.documents, strict=True):
            first, *rest = _sentences(title, text)
            others = [rest[i] for i in rng.permutation(len(rest))] or [first]
            found += [first, *(others[i % len(others)] for i in range(per_document - 1))]
        return tuple(found)


def _sentences(title: str, text: str) -> list[str]:
    """The title, or first sentence, and the other sentences of 5 to 40 words."""
    pieces = [s.strip() for s in _SENTENCE_END.split(text) if s.strip()]
    first = title or " ".join(pieces[0].split()[:MOST_WORDS])
    fits = (s for s in pieces if LEAST_WORDS <= len(s.split()) <= MOST_WORDS)
    return [first, *(s for s in fits if s not in {first, title})]


def read_collection(path: PathLike, *, split: str = "test") -> Collection:
    """Read a collection in BEIR's layout, or files that share a prefix.

    ``path`` is a folder with `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`,
    `text`) and `qrels/SPLIT.tsv` (a header; query, document, grade); or a prefix P of
    `P_corpus.jsonl`, `P_queries.jsonl` and `P_qrels.jsonl` (`query`, `doc`, `relevance`). `id` does
    for `_id`; files may be packed (.gz, .zst). A title that the text does not begin with is put
    before it. Raises InputError for a file that is missing or a line that is not usable, naming it,
    and for ids that occur twice.
    """
    base = Path(path)
    if base.is_dir():
        names = [base / "corpus.jsonl", base / "queries.jsonl", base / "qrels" / f"{split}.tsv"]
    else:
        names = [base.with_name(f"{base.name}_{p}.jsonl") for p in ("corpus", "queries", "qrels")]
    return read_collection_files(*map(_existing, names))


def read_collection_files(corpus: PathLike, queries: PathLike, judgements: PathLike) -> Collection:
    """Read a collection from its three files, each as `read_collection` describes it."""
    corpus, queries = os.fspath(corpus), os.fspath(queries)
    documents = dict(_documents(corpus))
    asked = {key: _text(queries, n, row) for n, key, row in _rows(queries)}
    found = judged(read_judgements(judgements), tuple(asked), tuple(documents))
    return Collection(
        **vars(found),
        documents=tuple(text for _, text in documents.values()),
        titles=tuple(title for title, _ in documents.values()),
        queries=tuple(asked.values()),
    )


def read_judgements(path: PathLike) -> Grades:
    """Read grades of documents by query, ids of both, from a file of judgements.

    A `.tsv` has a header and the columns query, document, grade; a `.jsonl` the keys `query`,
    `doc`, `relevance`; packed or not (.gz, .zst). Raises InputError for a line that is not usable.
    """
    name, grades = os.fspath(path), dict[str, dict[str, int]]()
    for number, query, document, grade in _judgements(name):
        if grades.setdefault(query, {}).setdefault(document, grade) != grade:
            raise InputError(f"{name}, line {number}: a second grade for the same document")
    return grades


def judged(grades: Grades, query_ids: tuple[str, ...], document_ids: tuple[str, ...]) -> Judged:
    """Return grades by query as grades of rows; those of other ids are counted and left out."""
    row = {own: i for i, own in enumerate(document_ids)}
    rows = [{row[d]: g for d, g in grades.get(q, {}).items() if d in row} for q in query_ids]
    unknown = sum(map(len, grades.values())) - sum(map(len, rows))
    return Judged(document_ids, query_ids, rows, unknown)


def _existing(path: Path) -> str:
    for ending in ("", ".gz", ".zst"):
        if (found := Path(f"{path}{ending}")).is_file():
            return str(found)
    raise InputError(
        f"{path} is not there",
        expected="a folder in BEIR's layout, or the prefix of three .jsonl files",
    )


def _documents(path: str) -> Iterator[tuple[str, tuple[str, str]]]:
    for number, key, row in _rows(path):
        title = row.get("title") or ""
        if not isinstance(title, str):
            raise InputError(f"{path}, line {number}: the title is no string")
        text = _text(path, number, row, title)
        yield key, (title.strip(), text)


def _text(path: str, number: int, row: Mapping[str, Any], title: str = "") -> str:
    text = row.get("text")
    if not isinstance(text, str):
        raise InputError(f"{path}, line {number} has no usable text", expected="a string in `text`")
    whole = text if text.startswith(title) else f"{title} {text}"
    if not whole.strip():
        raise InputError(f"{path}, line {number} has no usable text", got="blank")
    return whole


def _rows(path: str) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Number, id and object of each line of a .jsonl; refuses ids that occur twice."""
    seen = set[str]()
    for number, row in _objects(path):
        key = _id(path, number, row.get("_id", row.get("id")))
        if key in seen:
            raise InputError(f"{path}, line {number}: this id occurs twice")
        seen.add(key)
        yield number, key, row
    if not seen:
        raise InputError(f"{path} is empty")


def _objects(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with open_bytes(path) as f:
        for number, line in lines(path, f):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as e:
                raise InputError(f"{path}, line {number} is not JSON") from e
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {number} is no object", got=type(row).__name__)
            yield number, row


def _id(path: str, number: int, value: object) -> str:
    key = str(value) if type(value) is int else value
    if not isinstance(key, str) or not key:
        raise InputError(
            f"{path}, line {number} has no usable id", expected="a string or a whole number"
        )
    return key


def _judgements(path: str) -> Iterator[tuple[int, str, str, int]]:
    """Line, query, document and grade of each judgement."""
    if path.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        for number, row in _objects(path):
            query, document = (_id(path, number, row.get(name)) for name in ("query", "doc"))
            yield number, query, document, _grade(path, number, row.get("relevance"))
        return
    with open_bytes(path) as f:
        for number, line in lines(path, f):
            cells = next(csv.reader([line.rstrip("\r\n")], delimiter="\t", quoting=csv.QUOTE_NONE))
            if number == 1 or not cells:
                continue  # the header
            if len(cells) != 3:
                got = f"{len(cells)} columns"
                raise InputError(
                    f"{path}, line {number}", got=got, expected="query, document and grade"
                )
            yield number, cells[0], cells[1], _grade(path, number, cells[2])


def _grade(path: str, number: int, value: object) -> int:
    try:
        grade = int(value) if isinstance(value, str) else value
    except ValueError:
        grade = None
    if type(grade) is not int or abs(grade) > MAX_GRADE:
        raise InputError(
            f"{path}, line {number}: the grade is not usable",
            expected=f"a whole number, at most {MAX_GRADE}",
        )
    return grade
