"""Files and folders of states as vectors, with their space and labels; and vectors as states."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.hidden_states import POSITIONS, HiddenStates, TextDigest
from linalign_lite.core.serialization import save_states
from linalign_lite.core.shards.manifest import MANIFEST
from linalign_lite.core.shards.states_folder import StatesFolder, open_states
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import require_replaceable
from linalign_lite.storage.npz import DEFAULT_CAP
from linalign_lite.vectors.files.common import file_version, row_cursor
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import (
    ROWS,
    Batch,
    Payload,
    VectorInfo,
    VectorSink,
    VectorSource,
    row_ids,
)


class Source(VectorSource):
    """Rows of a `.states.npz`, or of a folder of which one shard is in memory at a time."""

    def __init__(self, location: Location) -> None:
        if location.part:
            raise InputError(f"{location}: states have no parts", got=f"#{location.part}")
        self.path = Path(location.path)
        self.states = open_states(self.path)
        folder = isinstance(self.states, StatesFolder)
        self.count = self.states.rows if isinstance(self.states, StatesFolder) else len(self.states)
        self._file = self.path / MANIFEST if folder else self.path
        self.info = self._info()

    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:
        skip = at = row_cursor(after, self.count)
        folder = self.states
        for part in folder if isinstance(folder, StatesFolder) else (folder,):
            first = min(skip, len(part))
            skip -= first
            for start in range(first, len(part), rows):
                piece = slice(start, start + rows)
                vectors = part.states[piece].astype(np.float32, copy=False)
                at += len(vectors)
                yield Batch(
                    row_ids(at - len(vectors), len(vectors)),
                    vectors,
                    _payload(part, piece),
                    str(at),
                )

    def current(self) -> VectorInfo:
        return self._info()

    def _info(self) -> VectorInfo:
        try:
            version = file_version(self._file)
        except OSError as e:
            raise InputError(f"cannot read {self.path}", got=e.strerror or str(e)) from e
        return VectorInfo(self.states.space, self.count, ids="rows", version=version)


class Sink(VectorSink):
    """A `.states.npz`; held in memory until it is written. Ids are left out."""

    def __init__(self, location: Location, info: VectorInfo, *, resume: bool = False) -> None:  # noqa: ARG002 (starts again)
        self.location, self.info = location, info
        self._batches: list[Batch] = []
        require_replaceable(Path(location.path))

    def write(self, batch: Batch) -> None:
        self._batches.append(batch)

    def finish(self) -> None:
        if not self._batches:
            raise InputError(f"there are no vectors to write to {self.location}")
        save_states(self.location.path, gather(self._batches, self.info))
        self._batches = []

    def abort(self) -> None:
        self._batches = []


def gather(batches: Iterable[Batch], info: VectorInfo) -> HiddenStates:
    """Put batches together as states in memory.

    Payload `label` of every row becomes the labels, `text` the text digest. Raises FormatError when
    they would take more than DEFAULT_CAP bytes.
    """
    vectors, extras = [], _Extras()
    size = 0
    for batch in batches:
        vectors.append(batch.vectors)
        size += batch.vectors.nbytes
        if size > DEFAULT_CAP:
            raise FormatError("these are more vectors than may be read at once", hint="import them")
        extras.add(batch)
    states = np.concatenate(vectors)
    return HiddenStates(
        states,
        space=info.space,
        text_digest=extras.text_digest(or_ids=False),
        labels=extras.names(),
    )


def in_parts(source: VectorSource, rows: int) -> tuple[Iterator[HiddenStates], str]:
    """Return states of ``rows`` vectors each, for a folder of states, and the text digest of all.

    Without texts it is the digest of the ids. Everything is read twice: each shard states all
    labels.
    """
    extras = _Extras()
    for batch in source.batches(rows):
        extras.add(batch)
    names = tuple(sorted(set(extras.names())))
    number = {name: i for i, name in enumerate(names)}

    def parts() -> Iterator[HiddenStates]:
        for batch in source.batches(rows):
            mine = _Extras()
            mine.add(batch)
            ids = np.array([number[name] for name in mine.names()], np.int32) if names else None
            yield HiddenStates(
                batch.vectors,
                space=source.info.space,
                text_digest=mine.text_digest(or_ids=True),
                labels=names,
                label_ids=ids,
            )

    return parts(), extras.text_digest(or_ids=True)


class _Extras:
    """Labels, if every row has one, and the digest of the texts, or else of the ids."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self._rows = 0
        self._texts, self._ids = TextDigest(), TextDigest()
        self._all_texts = True

    def add(self, batch: Batch) -> None:
        labels = _column(batch.payload, "label", (str, int))
        texts = _column(batch.payload, "text", (str,))
        self._rows += len(batch.vectors)
        self._all_texts &= len(texts) == len(batch.vectors)
        self.labels += map(str, labels)
        for text in texts:
            self._texts.add(text)
        for own in batch.ids:
            self._ids.add(own)

    def names(self) -> tuple[str, ...]:
        """Return the label of every row, or none; warns where only some rows have one."""
        missing = self._rows - len(self.labels)
        if self.labels and missing:
            text = f"{missing} of {self._rows} rows have no label, so no row is given one"
            warnings.warn(text, stacklevel=2)
        return () if missing else tuple(self.labels)

    def text_digest(self, *, or_ids: bool) -> str:
        """Return the digest of the texts; without them that of the ids, or ""."""
        digest = self._texts if self._all_texts else self._ids
        return digest.hexdigest() if self._all_texts or or_ids else ""


def _column(payload: Payload | None, name: str, kinds: tuple[type, ...]) -> list[Any]:
    """Return the values of the rows that have one."""
    values = [row.get(name) for row in payload or ()]
    return [v for v in values if type(v) in kinds]


def _payload(part: HiddenStates, piece: slice) -> Payload | None:
    """Return label and token positions of some rows."""
    columns: dict[str, list[Any]] = {}
    if part.label_ids is not None:
        columns["label"] = [part.labels[i] for i in part.label_ids[piece]]
    for name in POSITIONS:
        if (values := getattr(part, name)) is not None:
            columns[name] = values[piece].tolist()
    if not columns:
        return None
    return tuple(
        dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
    )
