"""Spaces: the model and the pooling that hidden states come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from linalign_lite.core.choices import Pooling, values_of
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.storage.schema import LEFT_OUT, Choice, Range, Text, all_required

POOLINGS = values_of(Pooling)
MAX_DIM = 1 << 20
MAX_NAME = 256  # characters of a label, or of a space's name or digest
MAX_PROMPT = 512  # characters
Label = Annotated[str, Text(MAX_NAME, 1)]
Prompt = Annotated[str, Text(MAX_PROMPT, lines=True)]


@all_required
@dataclass(frozen=True)
class Space:
    """The space of the final hidden states of one model under one pooling and one prompt.

    ``model`` is the digest of the exported model folder, or "" when unknown (arrays that the caller
    brought). ``pooling`` turned a text into states (one of POOLINGS), or is "" (unknown).
    ``prompt`` stood before each text.
    """

    dim: Annotated[int, Range(1, MAX_DIM)]
    model: Annotated[str, Text(MAX_NAME)] = ""
    name: Annotated[str, Text(MAX_NAME)] = ""
    pooling: Annotated[str, Choice(("", *POOLINGS))] = ""
    normalize: bool = False
    prompt: Prompt = field(default="", metadata=LEFT_OUT)

    def agrees(self, other: Space, *, any_prompt: bool = False) -> bool:
        """Return True if states of one space may be used in the other. Unknown parts agree.

        any_prompt: prompts may differ, as those of a model's queries and documents often do.
        """
        named = [(self.model, other.model), (self.pooling, other.pooling)]
        if self.dim != other.dim or any(a != b for a, b in named if a and b):
            return False
        if not (self.model or other.model) and self.name and other.name:  # known by name alone
            return self.name == other.name
        # of arrays that a caller brought, normalisation and prompt are unknown
        prompts = any_prompt or self.prompt == other.prompt
        same = prompts and self.normalize == other.normalize
        return same or not (self.model and other.model)

    def known_as(self, other: Space) -> bool:
        """Return True if both name the same model: dimensions that agree prove nothing."""
        if self.model and other.model:
            return self.model == other.model
        return bool(self.name) and self.name == other.name

    def describe(self) -> str:
        """Return name, short digest, pooling, prompt and dimension, for messages."""
        unit = "normalized" if self.normalize else ""
        prompt = f"prompt {self.prompt!r}" if self.prompt else ""
        known = filter(None, (self.name or "unnamed", self.model[:8], self.pooling, unit, prompt))
        return f"{' '.join(known)} ({self.dim} dimensions)"

    def require(self, other: Space, what: str, hint: str = "", *, any_prompt: bool = False) -> None:
        """Raise MismatchError(what) unless states of ``other`` belong in this space."""
        if not self.agrees(other, any_prompt=any_prompt):
            same = "use files made from the same exported model with the same pooling"
            same = same if self.prompt == other.prompt else f"{same} and prompt (`--prompt`)"
            raise MismatchError(
                what,
                got=other.describe(),
                expected=self.describe(),
                hint=f"{same}, {hint}" if hint else same,
            )


def require_labels(labels: Sequence[str], owner: str) -> None:
    """Raise InputError unless labels are distinct, printable, of 1 to MAX_NAME characters."""
    if len(set(labels)) != len(labels) or not all(map(usable_label, labels)):
        raise InputError(
            f"the labels of {owner} are not usable",
            expected=f"distinct, printable, 1 to {MAX_NAME} characters each",
        )


def usable_label(label: str) -> bool:
    """Return True if the label is printable and fits on one line."""
    return 0 < len(label) <= MAX_NAME and label.isprintable()


UNKNOWN = Space(0)  # default of an argument: replaced by Space(d) of the weight's own dimension
