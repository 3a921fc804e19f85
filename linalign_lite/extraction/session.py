"""Load and run an exported model folder: onnxruntime and a tokenizer, nothing else."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.core.executor import cores, memory
from linalign_lite.core.head import Head
from linalign_lite.core.serialization import load_head
from linalign_lite.errors import FormatError, InputError, LinalignError
from linalign_lite.extraction import model_card
from linalign_lite.extraction.batching import Int64
from linalign_lite.extraction.embedder import Embedder, load_embedder
from linalign_lite.extraction.model_card import LAST_HIDDEN_STATE, MODEL_FILE, ModelCard, load_card
from linalign_lite.extraction.tokenizer import encode_batch, load_tokenizer, read_ends
from linalign_lite.storage.schema import format_errors

PROVIDERS = ("CPUExecutionProvider",)
MAX_THREADS = 256
BATCHES_PER_THREAD = 4  # from so many on, each batch runs on one thread
SPIN = "20"  # microseconds: longer than between two nodes, shorter than between two runs
DOUBLED = 512 << 20  # bytes of a graph that may always be in memory twice
SHARE_DOUBLED = 16  # a larger graph may be if it takes at most this part of the memory


@dataclass(frozen=True)
class Encoded:
    """Tokens of one text. ``char_end`` and ``special`` are empty without places."""

    ids: Sequence[int]
    char_end: Sequence[int]  # characters read whole at each token; see `read_ends`
    special: Sequence[int]  # 1 for a special token, else 0
    cut: bool  # the text was longer than the maximum length


@dataclass(frozen=True, eq=False)
class Model:
    """A model that turns token ids into final hidden states. Make one with `load_model`.

    Threads may share a Model.
    """

    card: ModelCard
    folder: Path
    session: Any
    tokenizer: Any
    inputs: frozenset[str]
    threads: int = 1
    embedder: Embedder | None = None  # for pooling "embedding"

    def encode(
        self, texts: Sequence[str], max_length: int | None = None, *, places: bool = True
    ) -> list[Encoded]:
        """Tokens of each text, special tokens added, cut to ``max_length`` (default: the card's).

        places: fill in ``char_end`` and ``special``.
        Raises InputError when max_length is more than the model's context.
        """
        length = self.context(max_length)
        pairs = zip(texts, encode_batch(self.tokenizer, texts, self.folder), strict=True)
        return [_encoded(text, encoding, length, places=places) for text, encoding in pairs]

    def context(self, max_length: int | None) -> int:
        """Check ``max_length`` against the model's context; default: the card's."""
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

        Rows are padded on the right; states of padding have no meaning. Raises LinalignError when
        the graph fails on this input.
        """
        return self._run(self.session, ids, mask)

    def runner(self, n_batches: int) -> tuple[Callable[[Int64, Int64], Array], int]:
        """A function that runs a batch as `run` does, and the number of threads to call it from.

        Of many batches, each runs on one thread: two threads on two batches do not wait for each
        other, two threads on one batch wait at every node. This needs a second session, so it is
        not done when the weights take much of the memory.
        """
        few = n_batches < BATCHES_PER_THREAD * self.threads
        if self.threads == 1 or few or self._graph_size() > max(DOUBLED, memory() // SHARE_DOUBLED):
            return self.run, 1
        return partial(self._run, self._single_threaded), self.threads

    def _graph_size(self) -> int:
        files = self.card.files
        return sum(int(files[name]["size"]) for name in model_card.DIGESTED[:2] if name in files)

    @cached_property
    def _single_threaded(self) -> Any:
        """A session of one thread per call, from the file checked again."""
        load_card(self.folder)
        return _session(self.folder, 1)

    def prompt_tokens(self, prompt: str) -> int:
        """Number of tokens of a prompt, a special token at its end left out."""
        if not prompt:
            return 0
        (found,) = self.encode([prompt])
        return len(found.ids) - sum(found.special[-1:])

    def embed(self, states: Array, lengths: Int64, prompt_tokens: int = 0) -> Array:
        """Embeddings of token states; see `Embedder.apply`. InputError without an embedder."""
        if self.embedder is None:
            raise InputError(f"{self.folder} has no {model_card.EMBEDDER_FILE}")
        return self.embedder.apply(states, lengths, prompt_tokens)

    def _run(self, session: Any, ids: Int64, mask: Int64) -> Array:
        try:
            states: Array = session.run([LAST_HIDDEN_STATE], self._feeds(ids, mask))[0]
        except Exception as e:  # onnxruntime's errors have no other common base
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
            feeds[past.name] = np.zeros((len(ids), past.heads, 0, past.head_dim), dtype=np.float32)
        return feeds

    def token_head(self) -> Head:
        """Load the token head of a causal LM. Raises InputError when the model has none."""
        if model_card.HEAD_FILE not in self.card.files:
            raise InputError(f"{self.folder} has no token head", expected="a causal LM")
        return load_head(self.folder / model_card.HEAD_FILE)


def _encoded(text: str, encoding: Any, length: int, *, places: bool) -> Encoded:
    """Cut a tokenizers.Encoding to ``length`` tokens, its special tokens kept."""
    ids, cut = encoding.ids, len(encoding) > length
    ends = read_ends(text, encoding) if places else ()
    special = encoding.special_tokens_mask if places else ()
    if cut:
        added = np.asarray(encoding.special_tokens_mask, dtype=np.bool_)
        kept = np.flatnonzero(added | (np.cumsum(~added) <= length - int(added.sum())))
        ids, ends, special = ([row[i] for i in kept] if row else () for row in (ids, ends, special))
    return Encoded(ids, ends, special, cut)


def load_model(
    folder: str | os.PathLike[str],
    *,
    threads: int | None = None,
    verify: bool = True,
    tokenizer: Any = None,
) -> Model:
    """Load an exported model folder; never touches the network.

    threads: number of threads (default: one per physical core). verify: hash the files against the
    card. tokenizer: the folder's, if it is loaded already. Raises InputError when the folder is not
    an exported model, FormatError when it was altered or does not load.
    """
    folder = Path(folder)
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise InputError(
            "the number of threads is not usable", got=str(threads), expected=f"1 to {MAX_THREADS}"
        )
    card = load_card(folder, verify=verify)
    try:
        session = _session(folder, threads)
        tokenizer = tokenizer or load_tokenizer(folder / model_card.TOKENIZER_FILE)
    except Exception as e:  # both libraries raise plain Exception
        raise FormatError(
            f"{folder} does not load", got=f"{type(e).__name__}: {str(e)[:160]}"
        ) from e
    inputs = frozenset(i.name for i in session.get_inputs())
    _check_graph(folder, card, inputs, {o.name: o.shape for o in session.get_outputs()})
    threads = threads or min(cores(physical=True), MAX_THREADS)
    embedder = _embedder(folder, card) if card.embedding_size else None
    return Model(card, folder, session, tokenizer, inputs, threads, embedder)


def _embedder(folder: Path, card: ModelCard) -> Embedder:
    path = folder / model_card.EMBEDDER_FILE
    embedder = load_embedder(path)
    with format_errors(path, "embedder"):
        width = embedder.width(card.hidden_size)
    if width != card.embedding_size:
        problem = f"{path} does not have the width of its card"
        raise FormatError(problem, got=str(width), expected=str(card.embedding_size))
    return embedder


def _session(folder: Path, threads: int | None) -> Any:
    import onnxruntime as ort

    return ort.InferenceSession(
        str(folder / MODEL_FILE), sess_options=session_options(threads), providers=list(PROVIDERS)
    )


def session_options(threads: int | None) -> Any:
    """Options of a session that computes in turn with others: its threads soon stop spinning.

    Threads that spin on after a run take the cores from whatever computes next, such as a head.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised as exceptions
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN)
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _check_graph(
    folder: Path, card: ModelCard, inputs: frozenset[str], outputs: Mapping[str, Any]
) -> None:
    needed = {"input_ids", "attention_mask"}
    known = needed | {"token_type_ids", "position_ids"} | {p.name for p in card.past}
    if LAST_HIDDEN_STATE not in outputs or not needed <= inputs <= known:
        raise FormatError(
            f"{folder / MODEL_FILE} does not have the inputs and outputs of an exported model",
            got=f"inputs {', '.join(sorted(inputs))[:200]}",
            expected=f"input_ids, attention_mask and an output {LAST_HIDDEN_STATE}",
        )
    width = outputs[LAST_HIDDEN_STATE][-1]
    if isinstance(width, int) and width != card.hidden_size:
        problem = f"{folder / MODEL_FILE} does not have the width of its card"
        raise FormatError(problem, got=str(width), expected=str(card.hidden_size))
