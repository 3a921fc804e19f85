"""export: models of Hugging Face as folders that onnxruntime runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from linalign_lite.commands.console import Console
from linalign_lite.commands.options import AsJson, Quiet, StoredDtype
from linalign_lite.core.choices import ExportTask, FloatDtype
from linalign_lite.errors import InputError


def export(
    model: Annotated[str, Argument(help="A Hugging Face model: a folder or a hub id.")],
    out: Annotated[Path, Argument(help="The folder to make.")],
    task: Annotated[
        ExportTask, Option(help="Purpose of the model; auto reads its config.")
    ] = ExportTask.auto,
    dtype: StoredDtype = FloatDtype.fp32,
    opset: Annotated[int | None, Option(help="ONNX opset; default: Optimum's own.")] = None,
    from_onnx: Annotated[
        bool,
        Option("--from-onnx", help="MODEL is a folder already exported to ONNX; needs no torch."),
    ] = False,
    quantize: Annotated[
        bool,
        Option(
            "--quantize", help="8-bit weights and products: faster, smaller, a little less exact."
        ),
    ] = False,
    texts: Annotated[
        Path | None, Option(help="Texts to compare int8 with float32 on; default: bundled ones.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Convert a Hugging Face model to an ONNX model folder.

    The folder needs only onnxruntime to run. Its graph returns the final hidden states; the token
    head of a causal LM is a file of its own. Computation is always in float32. The export is
    compared with the torch model on the same inputs, and nothing is written when the two differ.
    Needs the extra `export`.

    \b
    Examples:
      linalign-lite export sentence-transformers/all-MiniLM-L6-v2 minilm
      linalign-lite export ./my-llama my-llama-onnx --dtype fp16
      linalign-lite export ./somebodys-onnx mine --from-onnx
      linalign-lite export ./minilm minilm-int8 --quantize --texts questions.jsonl
    """
    console = Console(as_json, quiet)
    compared = _compared(texts) if quantize else None
    if texts is not None and not quantize:
        raise InputError("--texts needs --quantize", hint="give both, or neither")
    if from_onnx:
        from linalign_lite.onnx.import_exported import split_exported

        if task is not ExportTask.auto or opset is not None:
            raise InputError("--from-onnx takes the graph as it is: no --task, no --opset")
        card = split_exported(
            Path(model), out, dtype=dtype.value, progress=console.note, quantize=compared
        )
    else:
        from linalign_lite.onnx.model_export import export_model

        card = export_model(
            model,
            out,
            task=task.value,
            dtype=dtype.value,
            opset=opset,
            progress=console.note,
            quantize=compared,
        )
    size = sum(int(f["size"]) for f in card.files.values())
    console.result(
        {"out": str(out), "digest": card.digest, "task": card.task, "parity": dict(card.parity),
         "hidden_size": card.hidden_size, "bytes": size},
        [f"{out}: {card.architecture}, {card.task}, {card.hidden_size} dimensions, "
         f"{size / 1e6:.1f} MB"],
    )  # fmt: skip


def _compared(texts: Path | None) -> list[str]:
    """The texts on which int8 is compared with float32, at most 300."""
    from linalign_lite.demo import public_texts
    from linalign_lite.extraction.texts import read_texts

    read = public_texts() if texts is None else read_texts(str(texts), limit=300)
    return list(read.texts[:300])
