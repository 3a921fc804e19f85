"""States of texts in order, read block by block: from memory, or from a folder of shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from linalign_lite.core.affine_map import Array
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.shards.states_folder import StatesFolder
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError

_ROWS = 4096  # of a block


@dataclass(frozen=True)
class TextStates:
    """One state a text, in order. Iterating yields blocks, (m, d). Raises InputError for others.

    Their text digest must be known: both sides compare it instead of the texts.
    """

    states: HiddenStates | StatesFolder

    def __post_init__(self) -> None:
        found = self.states
        rows = found.rows if isinstance(found, StatesFolder) else len(found)
        tokens = isinstance(found, HiddenStates) and found.text_index is not None
        if tokens or found.space.pooling == "tokens" or rows != found.n_texts:
            raise InputError(
                "a private fit takes one state of each text",
                got=f"{rows} rows of {found.n_texts} texts",
                hint="extract with --pooling mean, cls or last",
            )
        if not found.text_digest:
            raise InputError(
                "these states do not say which texts they are of",
                hint="extract them from the file of texts that both sides have",
            )

    @property
    def space(self) -> Space:
        return self.states.space

    @property
    def text_digest(self) -> str:
        return self.states.text_digest

    @property
    def n(self) -> int:
        """The number of texts."""
        return self.states.n_texts

    def __iter__(self) -> Iterator[Array]:
        parts = self.states if isinstance(self.states, StatesFolder) else (self.states,)
        for part in parts:
            for at in range(0, len(part), _ROWS):
                yield part.states[at : at + _ROWS]
