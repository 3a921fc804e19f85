"""An exported model folder, running: onnxruntime and a tokenizer, nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import FormatError, InputError, LinalignError
from linalign_lite.linear import Array, Head
from linalign_lite.modelcard import HEAD_FILE, MODEL_FILE, TOKENIZER_FILE, ModelCard, load_card
from linalign_lite.store import load_head
from linalign_lite.tokens import load_tokenizer, read_ends

Int64 = npt.NDArray[np.int64]
PROVIDERS = ("CPUExecutionProvider",)
OUTPUT = "last_hidden_state"
MAX_THREADS = 256


@dataclass(frozen=True)
class Encoded:
    """One text as tokens. ``char_end``: how much of it is read whole at each; special: 1."""

    ids: Sequence[int]
    char_end: Sequence[int]
    special: Sequence[int]
    cut: bool  # the text was longer than the context


@dataclass(frozen=True, eq=False)
class Model:
    """A model that turns token ids into final hidden states. Make one with `load_model`.

    The tokenizer holds the length to cut to, so threads share a Model only with one max_length.
    """

    card: ModelCard
    folder: Path
    session: Any
    tokenizer: Any
    inputs: frozenset[str]

    def encode(self, texts: Sequence[str], max_length: int | None = None) -> list[Encoded]:
        """Tokens of each text, special tokens added, cut to ``max_length`` (default: the card's).

        Raises InputError when max_length is more than the model's context.
        """
        length = self.context(max_length)
        try:
            self.tokenizer.enable_truncation(max_length=length)
            found = self.tokenizer.encode_batch(list(texts))
        except Exception as e:  # all that the tokenizers library raises
            raise FormatError(
                f"{self.folder}: its tokenizer fails on these texts", got=str(e)[:160]
            ) from e
        return [
            Encoded(
                ids=e.ids,
                char_end=read_ends(text, e),
                special=e.special_tokens_mask,
                cut=bool(e.overflowing),
            )
            for text, e in zip(texts, found, strict=True)
        ]

    def context(self, max_length: int | None) -> int:
        """``max_length`` checked against the model's context."""
        if max_length is None:
            return self.card.max_length
        if not 2 <= max_length <= self.card.max_length:
            raise InputError(
                "the maximum length does not fit the model",
                got=str(max_length),
                expected=f"2 to {self.card.max_length} tokens",
            )
        return max_length

    def run(self, ids: Int64, mask: Int64) -> Array:
        """Final hidden states. ids, mask: (batch, length); returns (batch, length, d) float32.

        Rows are padded on the right; what a padded position gives has no meaning. Raises
        LinalignError when the graph cannot be run on this input.
        """
        try:
            states: Array = self.session.run([OUTPUT], self._feeds(ids, mask))[0]
        except Exception as e:  # onnxruntime's errors share no other base
            raise LinalignError(
                f"{self.folder} fails on a batch of {ids.shape[0]} texts of {ids.shape[1]} tokens",
                got=f"{type(e).__name__}: {str(e)[:160]}",
                hint="does this tokenizer belong to this graph? Or less memory: --batch-tokens",
            ) from e
        return states

    def _feeds(self, ids: Int64, mask: Int64) -> dict[str, npt.NDArray[Any]]:
        feeds: dict[str, npt.NDArray[Any]] = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self.inputs:
            feeds["token_type_ids"] = np.zeros_like(ids)
        if "position_ids" in self.inputs:
            feeds["position_ids"] = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        for past in self.card.past:
            shape = (len(ids), past.heads, 0, past.head_dim)
            feeds[past.name] = np.zeros(shape, dtype=np.float32)
        return feeds

    def token_head(self) -> Head:
        """The token head of a causal LM. Raises InputError when the model has none."""
        if HEAD_FILE not in self.card.files:
            raise InputError(f"{self.folder} has no token head", expected="a causal LM")
        return load_head(self.folder / HEAD_FILE)


def load_model(
    folder: str | os.PathLike[str], *, threads: int | None = None, verify: bool = True
) -> Model:
    """Load an exported model folder; never touches the network.

    threads: how many onnxruntime uses within one call (default: one a core). verify: hash the
    files against the card. Raises InputError when the folder is not an exported model, FormatError
    when it was altered or does not load.
    """
    import onnxruntime as ort

    folder = Path(folder)
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise InputError(
            "the number of threads is not usable", got=str(threads), expected=f"1 to {MAX_THREADS}"
        )
    card = load_card(folder, verify=verify)
    options = ort.SessionOptions()
    options.log_severity_level = 4  # its errors come to us as exceptions
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = ort.InferenceSession(
            str(folder / MODEL_FILE), sess_options=options, providers=list(PROVIDERS)
        )
        tokenizer = load_tokenizer(folder / TOKENIZER_FILE)
    except Exception as e:  # both libraries raise plain Exception
        raise FormatError(
            f"{folder} does not load", got=f"{type(e).__name__}: {str(e)[:160]}"
        ) from e
    inputs = frozenset(i.name for i in session.get_inputs())
    _check_graph(folder, card, inputs, {o.name: o.shape for o in session.get_outputs()})
    return Model(card, folder, session, tokenizer, inputs)


def _check_graph(
    folder: Path, card: ModelCard, inputs: frozenset[str], outputs: Mapping[str, Any]
) -> None:
    known = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
    known |= {p.name for p in card.past}
    if OUTPUT not in outputs or not {"input_ids", "attention_mask"} <= inputs <= known:
        raise FormatError(
            f"{folder / MODEL_FILE} does not have the inputs and outputs of an exported model",
            got=f"inputs {', '.join(sorted(inputs))[:200]}",
            expected=f"input_ids, attention_mask and an output {OUTPUT}",
        )
    if outputs[OUTPUT][-1] != card.hidden_size and isinstance(outputs[OUTPUT][-1], int):
        raise FormatError(
            f"{folder / MODEL_FILE} does not have the width that its card says",
            got=str(outputs[OUTPUT][-1]),
            expected=str(card.hidden_size),
        )
