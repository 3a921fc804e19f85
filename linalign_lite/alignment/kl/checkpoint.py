"""Save the progress of a long fit in a file, so that an interrupted fit resumes there."""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.alignment.kl.optimizer import ReducedMap
from linalign_lite.core.affine_map import Array
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import PathLike, require_replaceable
from linalign_lite.storage.npz import load_npz, save_npz

KIND, VERSION = "linalign-fit", 1
_SCHEMA = {"weights": (("<f8",), 3), "biases": (("<f8",), 2), "numbers": (("<f8",), 2)}
_SAMPLE = 64 << 20  # bytes of a side's states that are hashed, or a little more


@dataclass(frozen=True, eq=False)
class PenaltyTrial:
    """A penalty, the map it gave on a sample of the rows, and that map's held-out divergence."""

    penalty: float
    divergence: float
    iterations: int
    affine: ReducedMap


class Checkpoint:
    """Intermediate maps by penalty and by number of rows; not saved when ``path`` is None."""

    def __init__(self, path: PathLike | None) -> None:
        self._path = None if path is None else Path(path)
        self._key = ""
        # by (0, penalty) or (1, number of rows, in place of the penalty)
        self._saved: dict[tuple[float, float], PenaltyTrial] = {}

    def open(self, key: str, shape: tuple[int, int]) -> None:
        """Load the progress of a fit with the same inputs. shape: that of a map's weight, (r, d).

        Raises FormatError for a file of another fit, InputError where none can be written.
        """
        self._key, self._saved = key, {}
        if self._path is None:
            return
        require_replaceable(self._path)
        if not self._path.parent.is_dir():
            raise InputError(f"the folder {self._path.parent} is not there", hint="make it first")
        if not self._path.exists():
            return
        arrays, card = load_npz(self._path, KIND, VERSION, _SCHEMA)
        if card.get("job") != key:
            raise FormatError(
                f"{self._path} belongs to another fit", hint="remove it, or name another file"
            )
        count = len(arrays.get("numbers", ()))
        expected = {"weights": (count, *shape), "biases": (count, shape[0]), "numbers": (count, 4)}
        if {name: array.shape for name, array in arrays.items()} != expected:
            raise FormatError(f"{self._path} does not hold what it should", hint="remove it")
        rows = zip(arrays["numbers"].tolist(), arrays["weights"], arrays["biases"], strict=True)
        for (kind, value, divergence, iterations), weight, bias in rows:
            trial = PenaltyTrial(value, divergence, int(iterations), ReducedMap(weight, bias))
            self._saved.setdefault((kind, value), trial)

    def trial(self, penalty: float) -> PenaltyTrial | None:
        """Return the trial of this penalty, None when it was not tried."""
        return self._saved.get((0, penalty))

    def subset(self, size: int) -> tuple[ReducedMap, int] | None:
        """Return the map of the first ``size`` rows and its number of iterations, if saved."""
        found = self._saved.get((1, size))
        return None if found is None else (found.affine, found.iterations)

    def remember(self, trial: PenaltyTrial) -> None:
        """Save the trial of a penalty."""
        self._save(0, trial)

    def remember_subset(self, size: int, affine: ReducedMap, count: int) -> None:
        """Save the map of the first ``size`` rows."""
        self._save(1, PenaltyTrial(size, 0.0, count, affine))

    def close(self) -> None:
        """Remove the file after the fit is complete."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _save(self, kind: int, trial: PenaltyTrial) -> None:
        self._saved[kind, trial.penalty] = trial
        if self._path is None:
            return
        trials = self._saved.values()
        numbers = [(*key, t.divergence, t.iterations) for key, t in self._saved.items()]
        arrays: dict[str, Any] = {
            "numbers": np.array(numbers, dtype="<f8"),
            "weights": np.stack([t.affine.weight for t in trials]).astype("<f8"),
            "biases": np.stack([t.affine.bias for t in trials]).astype("<f8"),
        }
        try:
            save_npz(self._path, KIND, VERSION, arrays, {"job": self._key})
        except InputError as e:
            raise InputError(f"the checkpoint cannot be written: {e}") from e


def fingerprint(x: HiddenStates, y: HiddenStates, head: Head, mass: Array, settings: str) -> str:
    """Compute the digest of a fit's states, head, weights and settings."""
    sha = hashlib.sha256(settings.encode())
    for states in (x, y):
        values = states.states
        sha.update(f"{states.text_digest} {states.space} {values.shape} {values.dtype}".encode())
        sha.update(np.ascontiguousarray(values[:: 1 + values.nbytes // _SAMPLE]).tobytes())
        for rows in (states.text_index, states.next_token):
            sha.update(b"" if rows is None else rows.tobytes())
    sha.update(mass.tobytes())
    sha.update(digest_of(head).encode())
    return sha.hexdigest()


def digest_of(head: Head) -> str:
    """Compute the SHA-256 of a head's weight and bias as float32, and its soft cap."""
    sha = hashlib.sha256(repr((head.weight.shape, head.softcap)).encode())
    for array in (head.weight, head.bias):
        for start in range(0, len(array), 8192):
            sha.update(np.asarray(array[start : start + 8192], dtype="<f4").tobytes())
    return sha.hexdigest()
