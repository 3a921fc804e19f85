"""Spaces: which model's hidden states, read in which way."""

from __future__ import annotations

from dataclasses import dataclass

from linalign_lite.errors import InputError, MismatchError

POOLINGS = ("mean", "last", "cls", "tokens")
MAX_DIM = 1 << 20
MAX_NAME = 256  # characters of a space's name or digest in a file


@dataclass(frozen=True)
class Space:
    """Where states live: the final hidden states of one model, read in one way.

    ``model`` is the digest of the exported model folder, or "" when it is not known (arrays that
    the caller brought). ``pooling`` says how a text became one state: mean, last, cls, tokens or
    "" (not known).
    """

    dim: int
    model: str = ""
    name: str = ""
    pooling: str = ""
    normalize: bool = False

    def agrees(self, other: Space) -> bool:
        """Whether states of one space may be used in the other. What is not known agrees."""
        named = [(self.model, other.model), (self.pooling, other.pooling)]
        if self.dim != other.dim or any(a != b for a, b in named if a and b):
            return False
        # arrays that a caller brought do not say whether they were normalised
        return self.normalize == other.normalize or not (self.model and other.model)

    @classmethod
    def parse(cls, raw: object) -> Space:
        """A space from a file's JSON. Raises InputError when a field is missing or not usable.

        Names stand in messages, so only printable characters are let in.
        """
        kinds = {"dim": int, "model": str, "name": str, "pooling": str, "normalize": bool}
        if not isinstance(raw, dict) or set(raw) != set(kinds):
            raise InputError("its space has unknown or missing fields")
        for key, kind in kinds.items():
            if type(raw[key]) is not kind:
                raise InputError(f"its space's {key!r} has the wrong type", expected=kind.__name__)
        if not 1 <= raw["dim"] <= MAX_DIM:
            raise InputError("its space's 'dim' is out of range", expected=f"1 to {MAX_DIM}")
        if raw["pooling"] not in ("", *POOLINGS):
            raise InputError("its space has an unknown pooling")
        for key in ("model", "name"):
            if len(raw[key]) > MAX_NAME or not raw[key].isprintable():
                raise InputError(
                    f"the {key} of its space is not usable",
                    expected=f"at most {MAX_NAME} printable characters",
                )
        return cls(**raw)

    def describe(self) -> str:
        """For messages: name, short digest, pooling, dimension."""
        name = self.name or "unnamed"
        digest = f" {self.model[:8]}" if self.model else ""
        how = f" {self.pooling}" if self.pooling else ""
        unit = " normalized" if self.normalize else ""
        return f"{name}{digest}{how}{unit} ({self.dim} dimensions)"

    def require(self, other: Space, what: str) -> None:
        """Raise MismatchError when states of ``other`` do not belong in this space."""
        if not self.agrees(other):
            raise MismatchError(
                what,
                got=other.describe(),
                expected=self.describe(),
                hint="use files made from the same exported model with the same pooling",
            )


def usable_label(label: str) -> bool:
    """Whether a label can be printed on one line."""
    return 0 < len(label) <= MAX_NAME and label.isprintable()


UNKNOWN = Space(0)  # stands for "not given": becomes Space(d) of the weight's own dimension
