"""export, onnx, fuse, from-onnx: models, maps and heads as ONNX, maps for other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from linalign_lite.commands.console import (
    Console,
    load_optional_map,
    require_elsewhere,
    require_output,
)
from linalign_lite.commands.options import AsJson, ModelFolder, Normalize, Quiet
from linalign_lite.core.choices import ArtefactKind, ExportTask, MapForm, TextPooling, WeightDtype
from linalign_lite.errors import FormatError, InputError

if TYPE_CHECKING:
    from linalign_lite.core.affine_map import AffineMap
    from linalign_lite.core.head import Head

Stored = Annotated[WeightDtype, Option(help="Type of stored weights; fp16 is computed in float32.")]
ExportDtype = Annotated[
    WeightDtype, Option(help="Type of stored weights; int8: 8-bit blocks with a scale each.")
]
ErrorLimit = Annotated[float | None, Option(help="Largest relative error with int8; default 0.2.")]


def export(
    model: Annotated[str, Argument(help="A Hugging Face model: a folder or a hub id.")],
    out: Annotated[Path, Argument(help="The folder to make.")],
    task: Annotated[ExportTask, Option(help="Purpose; auto reads the config.")] = ExportTask.auto,
    dtype: ExportDtype = WeightDtype.fp32,
    opset: Annotated[int | None, Option(help="ONNX opset; default: Optimum's own.")] = None,
    from_onnx: Annotated[
        bool,
        Option("--from-onnx", help="MODEL is a folder already exported to ONNX; needs no torch."),
    ] = False,
    quantize: Annotated[
        bool, Option("--quantize", help="A faster int8, for small encoders of texts; less exact.")
    ] = False,
    texts: Annotated[
        Path | None, Option(help="Texts to compare int8 with float32 on; default: bundled ones.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Convert a Hugging Face model to an ONNX model folder.

    The folder needs only onnxruntime to run. Its graph returns the final hidden states; the token
    head of a causal LM is a file of its own. Computation is in float32, but with int8. The export
    is compared with the torch model on the same inputs, and nothing is written when the two differ.
    With int8, choose --dtype int8 for causal models, which write a token faster by it, and
    --quantize for small encoders such as MiniLM. Needs the extra `export`.

    \b
    Examples:
      linalign-lite export sentence-transformers/all-MiniLM-L6-v2 minilm
      linalign-lite export ./my-llama my-llama-onnx --dtype fp16
      linalign-lite export ./my-llama my-llama-int8 --dtype int8
      linalign-lite export ./somebodys-onnx mine --from-onnx
      linalign-lite export ./minilm minilm-int8 --quantize --texts questions.jsonl
    """
    console, compared = Console(as_json, quiet), None
    if quantize:
        from linalign_lite.demo import public_texts
        from linalign_lite.extraction.texts import read_texts

        read = public_texts() if texts is None else read_texts(str(texts), limit=300)
        compared = list(read.texts[:300])
    elif texts is not None:
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
    dim, task_name = card.hidden_size, card.task
    data = {"out": str(out), "digest": card.digest, "task": task_name, "parity": dict(card.parity)}
    console.result(
        {**data, "hidden_size": dim, "bytes": size},
        [f"{out}: {card.architecture}, {task_name}, {dim} dimensions, {size / 1e6:.1f} MB"],
    )


def onnx(
    file: Annotated[Path, Argument(help="A map or a head (.npz).")],
    out: Annotated[Path, Argument(help="The file to write; with --form dense, the folder.")],
    form: Annotated[
        MapForm, Option(help="dense: a module of sentence-transformers; faiss: a LinearTransform.")
    ] = MapForm.onnx,
    map_file: Annotated[Path | None, Option("--map", help="A map to fold into the head.")] = None,
    dtype: Stored = WeightDtype.fp32,
    states_file: Annotated[
        str | None, Option("--states", help="States to check it on; default: random ones.")
    ] = None,
    limit: ErrorLimit = None,
    as_json: AsJson = False,
) -> None:
    """Write a map or a head as an ONNX file.

    The graph is one matrix product, also for a head after a map. Its input is `states`; its output
    is `mapped` (map) or `scores` (head). It is run with onnxruntime and compared with NumPy before
    it is saved. Needs the extra `onnx`.

    A map also becomes a Dense module, which sentence-transformers appends to a model (extra
    `safetensors`), or a LinearTransform, which FAISS puts before an index. Both are float32.

    \b
    Examples:
      linalign-lite onnx b-to-a.map.npz b-to-a.onnx
      linalign-lite onnx b-to-a.map.npz b-to-a.dense --form dense
      linalign-lite onnx b-to-a.map.npz b-to-a.faiss --form faiss
      linalign-lite onnx topics.head.npz topics.onnx --map b-to-a.map.npz
      linalign-lite onnx topics.head.npz small.onnx --dtype int8 --states test.states.npz
    """
    from linalign_lite.core.affine_map import AffineMap
    from linalign_lite.core.head import Head
    from linalign_lite.core.serialization import load_map
    from linalign_lite.heads.serialization import load
    from linalign_lite.onnx.export_linear import to_onnx
    from linalign_lite.vectors.reading import read_states

    if form is not MapForm.onnx:
        if dtype is not WeightDtype.fp32 or (map_file, states_file, limit) != (None,) * 3:
            raise InputError("--form dense and --form faiss take no other options but --json")
        _write_map(file, out, form, Console(as_json))
        return
    require_output(out, file, map_file, states_file)
    thing = load(file)
    if not isinstance(thing, AffineMap | Head):
        raise FormatError(f"{file} is something else", expected="a map or a head")
    if map_file is not None:
        if isinstance(thing, AffineMap):
            raise InputError(f"{file} is a map", expected="a head, for a map to be folded into")
        thing = thing @ load_map(map_file)
    states = None if states_file is None else read_states(states_file)
    made = to_onnx(out, thing, dtype=dtype.value, states=states, limit=limit)
    Console(as_json).result(made.as_dict(), [str(made)])


def _write_map(file: Path, out: Path, form: MapForm, console: Console) -> None:
    """Write a map for another library."""
    from linalign_lite.core.dense_module import to_dense
    from linalign_lite.core.faiss_transform import to_faiss
    from linalign_lite.core.serialization import load_map

    affine = load_map(file)
    if form is MapForm.dense:
        require_elsewhere(out, file)
        to_dense(out, affine)
    else:
        require_output(out, file)
        to_faiss(out, affine)
    kind = "Dense module" if form is MapForm.dense else "LinearTransform"
    _print_linear(out, affine, kind, console)


def fuse(
    model: ModelFolder,
    out: Annotated[Path, Argument(help="The ONNX file to write.")],
    map_file: Annotated[Path | None, Option("--map", help="A map of the model's states.")] = None,
    head_file: Annotated[Path | None, Option("--head", help="A head of (mapped) states.")] = None,
    pooling: Annotated[
        TextPooling | None, Option(help="Default: that of the map or head, or the model's.")
    ] = None,
    normalize: Normalize = None,
    prompt: Annotated[
        str | None, Option(help="Prompt that stands before each text, as in `extract`.")
    ] = None,
    dtype: Stored = WeightDtype.fp32,
    fold: Annotated[
        bool, Option("--fold", help="Merge map and head: smaller, and the map is not in the file.")
    ] = False,
    limit: ErrorLimit = None,
    with_tokenizer: Annotated[
        bool, Option("--with-tokenizer", help="Copy tokenizer.json beside OUT.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Join a model, a map and a head in one ONNX file.

    The graph includes the model's pooling. Its inputs are token ids and mask; its outputs are
    `states`, `mapped` (with --map) and `scores` (with --head). It is compared with the model
    folder and NumPy on texts before it is saved. Needs the extra `onnx`; running it needs only
    onnxruntime, in any language.

    \b
    Examples:
      linalign-lite fuse minilm minilm.onnx --dtype int8
      linalign-lite fuse birch topics.onnx --map b-to-a.map.npz --head topics.head.npz
      linalign-lite fuse birch app/topics.onnx --head fused.head.npz --with-tokenizer
    """
    from linalign_lite.core.serialization import load_head
    from linalign_lite.extraction.model_card import TOKENIZER_FILE
    from linalign_lite.onnx.fuse_model import fuse as write
    from linalign_lite.onnx.fuse_model import tokenizer_beside
    from linalign_lite.storage.atomic import write_atomic

    console = Console(as_json, quiet)
    require_output(out, map_file, head_file, model / "model.onnx")
    tokenizer = tokenizer_beside(out, model) if with_tokenizer else None
    made = write(
        out,
        model,
        map=load_optional_map(map_file),
        head=None if head_file is None else load_head(head_file),
        pooling=pooling.value if pooling else None,
        normalize=normalize,
        prompt=prompt,
        dtype=dtype.value,
        fold=fold,
        limit=limit,
        progress=console.note,
    )
    if tokenizer is not None:
        write_atomic(tokenizer, (model / TOKENIZER_FILE).read_bytes())
    console.result(made.as_dict(), [str(made)])


def from_onnx(
    file: Annotated[
        Path, Argument(help="An ONNX file, the folder of a Dense module, or a LinearTransform.")
    ],
    out: Annotated[Path, Argument(help="The .npz file to write.")],
    kind: Annotated[ArtefactKind | None, Option(help="Kind of FILE if not made by `onnx`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read a map or a head back from an ONNX file.

    Reads files of `onnx`, other ONNX files with a single Gemm, or MatMul and Add (extra `onnx`),
    Dense modules of sentence-transformers with identity activation (extra `safetensors`), and
    LinearTransforms of FAISS.

    \b
    Examples:
      linalign-lite from-onnx topics.onnx topics.head.npz
      linalign-lite from-onnx torch-linear.onnx theirs.head.npz --kind head
      linalign-lite from-onnx b-to-a.dense b-to-a.map.npz
      linalign-lite from-onnx b-to-a.faiss b-to-a.map.npz
    """
    from linalign_lite.core.affine_map import AffineMap
    from linalign_lite.core.dense_module import from_dense
    from linalign_lite.core.faiss_transform import from_faiss, is_faiss
    from linalign_lite.heads.serialization import save
    from linalign_lite.onnx.import_linear import from_onnx as read

    require_output(out, file)
    other = from_dense if file.is_dir() else from_faiss if is_faiss(file) else None
    if other is not None and kind is ArtefactKind.head:
        raise InputError(f"{file} is of another kind", got="map", expected="head")
    thing = other(file) if other else read(file, None if kind is None else kind.value)
    save(out, thing)
    kind_name = "affine map" if isinstance(thing, AffineMap) else "head"
    _print_linear(out, thing, kind_name, Console(as_json))


def _print_linear(out: Path, thing: AffineMap | Head, kind: str, console: Console) -> None:
    (outputs, dim), dtype = thing.weight.shape, str(thing.weight.dtype)
    console.result(
        {"out": str(out), "kind": kind, "dim": dim, "outputs": outputs, "dtype": dtype},
        [f"{out}: {kind}, {dim} dimensions to {outputs}, {dtype}"],
    )
