"""Steps of every export: cut off the token head, store weights, compare, quantise and seal.

They are the same for a graph that Optimum makes from a torch model (`model_export`) and for one
that somebody else exported (`import_exported`). Nothing is left on disk when one of them fails.
"""

import contextlib
import dataclasses
import gc
import importlib.metadata
import shutil
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.choices import WeightDtype
from linalign_lite.core.head import Head
from linalign_lite.core.serialization import save_head
from linalign_lite.errors import InputError, LinalignError, is_disk_full
from linalign_lite.extraction.embedder import Embedder, save_embedder
from linalign_lite.extraction.model_card import (
    DIGESTED,
    EMBEDDER_FILE,
    HEAD_FILE,
    MODEL_FILE,
    ModelCard,
    folder_digest,
    seal_card,
)
from linalign_lite.onnx import float16, graph_edit, parity, sentence_parity
from linalign_lite.onnx.block_quantization import BLOCK, store_int8
from linalign_lite.onnx.cut_token_head import LOGITS, cut_graph, final_output
from linalign_lite.onnx.dimensions import share_dimensions
from linalign_lite.onnx.model_config import ModelConfig
from linalign_lite.onnx.quantization import quantize_folder
from linalign_lite.onnx.tokenizer_file import (
    TEXTS,
    Encode,
    check_tokenizer,
    copy_chat_template,
    write_tokenizer,
)
from linalign_lite.storage.atomic import whole_folder
from linalign_lite.storage.hashing import hash_file

EXPORT_FILE_LIMIT = 128 << 20  # bytes of weights; one larger file would be built in memory
_PACKAGES = (
    "linalign-lite",
    "optimum",
    "optimum-onnx",
    "transformers",
    "tokenizers",
    "torch",
    "onnx",
    "onnxruntime",
)


@dataclass(frozen=True)
class Settings:
    """Options that `export_model` and `split_exported` have in common."""

    dtype: str
    one_file_limit: int
    quantize: Sequence[str] | None
    progress: Callable[[str], None] | None

    def __post_init__(self) -> None:
        if self.quantize is not None and self.dtype != "fp32":
            hint = "leave the dtype out, or do not quantise"
            raise InputError("quantising is of fp32 weights", got=f"dtype {self.dtype}", hint=hint)
        if self.dtype not in list(WeightDtype):
            expected = ", ".join(WeightDtype)
            raise InputError("the dtype is not known", got=repr(self.dtype), expected=expected)

    def say(self, step: str) -> None:
        if self.progress:
            self.progress(step)


@dataclass(frozen=True)
class Source:
    """A graph with its token head, and what the export of it must reproduce."""

    graph: Any  # ModelProto
    tokenizer: str  # content of tokenizer.json
    encode: Encode
    reference: parity.Reference
    weights: MutableMapping[str, graph_edit.AnyArray] = field(default_factory=dict)  # not in it


def export(
    out: Path, config: ModelConfig, settings: Settings, load: Callable[[Path], Source]
) -> ModelCard:
    """Write an exported model folder (docs/FORMAT.md, section 2) and return its card.

    load: makes the source; it may leave files in the folder that it is given until the graphs are
    compared. Raises InputError when the graph is of another kind, ParityError when the exported
    graph or tokenizer gives other outputs.
    """
    # before a model is loaded: these refuse what cannot be exported
    modules, prompts, default_prompt = config.modules, config.prompts, config.default_prompt
    embedder = modules.embedder
    with _disk_errors(out), whole_folder(out) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        settings.say("loading")
        source = load(scratch)
        graph = source.graph
        if final_output(graph.graph) == LOGITS:
            settings.say("cutting off the token head")
        cut = cut_graph(graph, config.raw, source.weights)
        graph_edit.fold_transposes(graph, source.weights)
        share_dimensions(graph)
        graph_edit.set_standard_types(graph)
        weights = _store_as(settings.dtype, graph, source.weights)
        graph_edit.check(graph_edit.save(graph, folder, settings.one_file_limit, weights))
        tokenizer = write_tokenizer(source.tokenizer, folder)
        vocab_size = _vocab_size(cut.head, config)
        check_tokenizer(tokenizer, source.encode, vocab_size)
        settings.say(f"checking {len(TEXTS)} texts")
        batches = parity.batches([tokenizer.encode(t).ids for t in TEXTS], config.max_length)
        reference = parity.recorded(source.reference, batches, scratch)
        head = _moved(cut.head, scratch / "head.npy", settings.dtype) if cut.head else None
        cut = dataclasses.replace(cut, head=None)
        del source, weights  # with the torch model, before its graph is loaded a second time
        gc.collect()
        cut = dataclasses.replace(cut, head=head() if head else None)
        exported = parity.open_graph(folder / MODEL_FILE, cut.past)
        embedding_size = embedder.width(cut.hidden_size) if embedder else 0
        compared = sentence_parity.embeddings(config, modules, settings.say)
        limits = parity.EXACT
        if settings.dtype == "int8":
            limits, compared = parity.INT8, compared or sentence_parity.own(modules)
        differences = parity.measure(exported, reference, batches, cut.head, compared, limits)
        del exported, reference
        if embedder is not None:
            save_embedder(folder / EMBEDDER_FILE, embedder)
        special = config.special_tokens(tokenizer.token_to_id)
        ends = config.eos_token_ids(special["eos"], vocab_size) if cut.head else ()
        card = ModelCard(
            name=config.name,
            architecture=config.architecture,
            task="generate" if cut.head else "embed",
            hidden_size=cut.hidden_size,
            max_length=config.max_length,
            vocab_size=vocab_size,
            pooling=modules.pooling,
            normalize=modules.normalize,
            embedding_size=embedding_size,
            prompts=prompts,
            default_prompt=default_prompt,
            dtype=settings.dtype,
            block_size=BLOCK if settings.dtype == "int8" else 0,
            opset=graph_edit.opset(graph),
            past=cut.past,
            special=special,
            eos_token_ids=ends,
            parity=differences,
            versions=_versions(),
        )
        if settings.quantize is not None:
            card = _quantize(folder, card, tokenizer, settings, embedder)
        if cut.head:
            _save_head(folder, cut.head, card)
            copy_chat_template(config.folder, folder)
        del cut, head
        shutil.rmtree(scratch)
        return seal_card(folder, card)


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Raise LinalignError for a disk that is full."""
    try:
        yield
    except OSError as e:
        if not is_disk_full(e):
            raise
        hint = "nothing was written; an export needs about three times the size of the weights"
        raise LinalignError(
            f"cannot write {out}: the disk is full", got=e.strerror or str(e), hint=hint
        ) from e


def _store_as(
    dtype: str, graph: Any, weights: MutableMapping[str, graph_edit.AnyArray]
) -> graph_edit.Weights:
    """Change how the graph stores its weights; return the values of those that it only declares."""
    if dtype == "int8":
        return store_int8(graph, weights)
    if dtype == "fp16":
        float16.store_float16(graph, weights)
    return weights


def _moved(head: Head, path: Path, dtype: str) -> Callable[[], Head]:
    """Save the head's weight, which is the model's, and return a function that maps it again.

    For int8 it is rounded to float16, whose error is a sixteenth of that of 8 bits.
    """
    kind = head.weight.dtype
    if dtype == "int8" and float16.in_range(head.weight) and float16.in_range(head.bias):
        kind = np.dtype(np.float16)
    np.save(path, head.weight.astype(kind, copy=False))
    bias, softcap, card = head.bias.astype(kind), head.softcap, head.card
    return lambda: Head(np.load(path, mmap_mode="r"), bias, softcap=softcap, card=card)


def _vocab_size(head: Head | None, config: ModelConfig) -> int:
    size = head.n_outputs if head else config.raw.get("vocab_size")
    if type(size) is not int or size < 1:
        raise InputError("config.json states no vocabulary size", got=repr(size))
    return size


def _quantize(
    folder: Path, card: ModelCard, tokenizer: Any, settings: Settings, embedder: Embedder | None
) -> ModelCard:
    """Make the graph in ``folder`` int8, and add the cosines of its states to the card."""
    texts = settings.quantize or ()
    settings.say(f"quantising, and comparing {len(texts)} texts")
    kept = [ids for text in texts if (ids := tokenizer.encode(text).ids[: card.max_length])]
    found = quantize_folder(
        folder, card.past, kept, embedder or card.pooling, settings.one_file_limit
    )
    settings.say(
        f"cosine to float32 states: min {found['min']}, 1 % below {found['p01']}, "
        f"median {found['median']}"
    )
    return dataclasses.replace(card, dtype="int8", parity={**card.parity, "int8_cosine": found})


def _save_head(folder: Path, head: Head, card: ModelCard) -> None:
    """Save the token head as float16 when the export is and nothing is lost, else as float32."""
    files = {n: {"sha256": hash_file(folder / n)} for n in DIGESTED if (folder / n).exists()}
    weight, bias = head.weight, head.bias
    if card.dtype == "fp16" and float16.fits_float16(weight) and float16.fits_float16(bias):
        weight, bias = weight.astype(np.float16), bias.astype(np.float16)
    digested = dataclasses.replace(card, digest=folder_digest(files))
    space = digested.space("tokens", normalize=False)
    save_head(folder / HEAD_FILE, Head(weight, bias, (), space, head.softcap, head.card))


def _versions() -> dict[str, str]:
    """Installed versions of the packages that an export depends on."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
