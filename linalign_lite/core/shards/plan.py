"""The plan of a folder of states, and the log of an unfinished one. docs/FORMAT.md, section 5.

The first line of the log is the plan; each other line is the entry of a finished shard.
"""

import json
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from linalign_lite.core.hidden_states import ROWS, HiddenStates
from linalign_lite.core.shards.manifest import MAX_MANIFEST, UNFINISHED, Shard, shard_name
from linalign_lite.core.shards.states_folder import FRAME, new_shard, shared_fields
from linalign_lite.core.space import Space
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.storage.hashing import seal_of
from linalign_lite.storage.npz import MAX_CARD
from linalign_lite.storage.places import Place
from linalign_lite.storage.schema import format_errors, parse, plain, read_document, strict_json
from linalign_lite.version import __version__

FORMAT = "linalign-unfinished-states"
VERSION = 1
MAX_LINE = 512  # bytes of the entry of a shard
HINT = "remove the folder, and extract again"
_NAMES = {"text_digest": "text set", "n_texts": "number of texts", "space": "model or pooling"}


@dataclass(frozen=True)
class FolderPlan:
    """Everything that the bytes of the finished folder depend on."""

    space: Space
    dtype: str  # "float32" or "float16"
    text_digest: str  # of all texts
    n_texts: int
    max_length: int
    labels: tuple[str, ...]
    shard_texts: int
    batch_tokens: int

    @property
    def n_shards(self) -> int:
        return -(-self.n_texts // self.shard_texts)

    def size_of(self, i: int) -> int:
        """Return the number of texts in shard ``i``."""
        return min(self.shard_texts, self.n_texts - i * self.shard_texts)

    def most_bytes(self, i: int) -> int:
        """Return an upper bound of the size of shard ``i``: max_length rows per text of tokens."""
        rows = self.size_of(i) * (self.max_length if self.space.pooling == "tokens" else 1)
        row = self.space.dim * np.dtype(self.dtype).itemsize + 4 * len(ROWS)
        return rows * row + MAX_CARD + FRAME

    def entry(self, i: int, part: HiddenStates) -> Shard:
        """Return the entry of shard ``i``, its digest zeros. MismatchError when part misfits."""
        if part.n_texts != self.size_of(i):
            raise MismatchError(f"shard {i} does not have the planned number of texts")
        return new_shard(shared_fields(self), i, i * self.shard_texts, part)

    def header(self) -> bytes:
        """Return the log's first line. InputError when the manifest would become too large."""
        raw = {"format": FORMAT, "version": VERSION, **self._fields()}
        line = json.dumps({**raw, "seal": seal_of(raw)}, sort_keys=True).encode() + b"\n"
        if len(line) + self.n_shards * MAX_LINE // 2 > MAX_MANIFEST:
            raise InputError(
                "the labels and shards are too many for one folder's manifest",
                hint="put more texts in a shard",
            )
        return line

    def require_same(self, folder: Place, header: bytes) -> None:
        """Raise MismatchError unless ``header`` is of this plan, FormatError when it is none."""
        path, mine = folder / UNFINISHED, self._fields()
        found = read_document(
            header, path, "log of a folder of states", kind=FORMAT, version=VERSION, sealed=True
        )
        if found.keys() != mine.keys():
            raise FormatError(f"{path} has unknown or missing fields", hint=HINT)
        other = [name for name in mine if found[name] != mine[name]]
        if other:
            names = (_NAMES.get(name, name).replace("_", " ") for name in other)
            raise MismatchError(
                f"{folder} was begun with another {' and '.join(names)}",
                got=json.dumps(mine[other[0]])[:200],
                expected=json.dumps(found[other[0]])[:200],
                hint="extract to another folder, or remove this one",
            )

    def read_entries(self, path: Place, log: IO[bytes]) -> tuple[list[Shard], int]:
        """Read the finished shards that follow the header, and where the last whole line ends."""
        found, end = list[Shard](), log.tell()
        for line in iter(lambda: log.readline(MAX_LINE), b""):
            if not line.endswith(b"\n") and log.tell() - end < MAX_LINE:
                break  # the run was killed while it wrote this line
            i = len(found)
            with format_errors(f"{path}, line {i + 2}", "entry of a shard", hint=HINT):
                shard = parse(Shard, strict_json(line), "shard")
                wanted = (shard_name(i), i * self.shard_texts, self.size_of(i))
                if (shard.file, shard.first_text, shard.n_texts) != wanted:
                    raise InputError("it is not the entry of the next shard")
            found.append(shard)
            end = log.tell()
        return found, end

    def _fields(self) -> dict[str, Any]:
        labels = list(self.labels)
        return {**plain(self), "labels": labels, "library": __version__}
