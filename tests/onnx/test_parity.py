"""A failed export leaves nothing behind."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linalign_lite.errors import (
    InputError,
    LinalignError,
    MissingExtraError,
    OutputExistsError,
    ParityError,
)
from linalign_lite.extraction.model_card import MODEL_FILE, load_card
from linalign_lite.onnx import export_pipeline, graph_edit, parity
from linalign_lite.onnx.model_config import ModelConfig
from linalign_lite.onnx.model_export import export_model
from linalign_lite.onnx.sentence_modules import SentenceModules

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")
pytest.importorskip("optimum.exporters.onnx")

pytestmark = pytest.mark.export
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def llama(tiny: Callable[..., Path]) -> Path:
    return tiny(transformers.LlamaConfig, transformers.LlamaForCausalLM)


@pytest.fixture
def bert(tiny: Callable[..., Path]) -> Path:
    return tiny(transformers.BertConfig, transformers.BertModel)


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Check that nothing but the model's folder is left after the test."""
    yield
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def corrupt(monkeypatch: pytest.MonkeyPatch, needle: str) -> None:
    """Change one weight, whose name contains ``needle``, just before saving."""
    save = graph_edit.save

    def save_wrong(model: Any, folder: Path, limit: int, weights: dict[str, Any]) -> Path:
        for tensor in model.graph.initializer:
            if needle in tensor.name:
                array = weights[tensor.name].copy()
                array.flat[0] += 0.5
                return save(model, folder, limit, {**weights, tensor.name: array})
        raise AssertionError(needle)

    monkeypatch.setattr(graph_edit, "save", save_wrong)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("needle", ["norm.weight", "v_proj.weight"])
def test_corrupted_graph(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needle: str
) -> None:
    corrupt(monkeypatch, needle)
    with pytest.raises(
        ParityError, match=r"states differ from the model's: got .* expected at most"
    ):
        export_model(str(llama), tmp_path / "out")


@pytest.mark.usefixtures("nothing_left")
def test_wrong_head(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_graph = export_pipeline.cut_graph

    def cut_wrong(*arguments: Any) -> Any:
        cut = cut_graph(*arguments)
        assert cut.head is not None
        head = type(cut.head)(cut.head.weight, cut.head.bias + np.float32(0.01))
        return type(cut)(head, cut.past, cut.hidden_size)

    monkeypatch.setattr(export_pipeline, "cut_graph", cut_wrong)
    with pytest.raises(ParityError, match="logits differ"):
        export_model(str(llama), tmp_path / "out")


@pytest.mark.usefixtures("nothing_left")
def test_another_tokenizer(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = export_pipeline.write_tokenizer

    def write_wrong(text: str, folder: Path) -> Any:
        raw = json.loads(text)
        raw["post_processor"] = None
        return write(json.dumps(raw), folder)

    monkeypatch.setattr(export_pipeline, "write_tokenizer", write_wrong)
    with pytest.raises(ParityError, match="splits sample text 0 in another way"):
        export_model(str(bert), tmp_path / "out")


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("step", ["loading", "exporting", "checking 8 texts"])
def test_interrupted(bert: Path, tmp_path: Path, step: str) -> None:
    def progress(said: str) -> None:
        if said == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_model(str(bert), tmp_path / "out", progress=progress)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("package", ["torch", "transformers", "onnx", "optimum"])
def test_missing_extra(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    module = "optimum.exporters.onnx" if package == "optimum" else package
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"needs the package '{package}'.*\[export\]"):
        export_model(str(bert), tmp_path / "out")


def test_out_is_never_overwritten(bert: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export_model(str(bert), out)  # an empty folder is replaced
    before = (out / "card.json").read_bytes()
    with pytest.raises(OutputExistsError, match="hint: choose another folder"):
        export_model(str(bert), out)
    assert (out / "card.json").read_bytes() == before
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(OutputExistsError):
        export_model(str(bert), file)


def test_same_model_same_digest(bert: Path, tmp_path: Path) -> None:
    first = export_model(str(bert), tmp_path / "first")
    assert export_model(str(bert), tmp_path / "second").digest == first.digest


def test_external_data(llama: Path, tmp_path: Path) -> None:
    whole = export_model(str(llama), tmp_path / "whole")
    card = export_model(str(llama), tmp_path / "split", one_file_limit=0)
    assert set(card.files) == {*whole.files, "model.onnx_data"}
    assert load_card(tmp_path / "split") == card
    assert card.parity == pytest.approx(whole.parity, abs=1e-6)
    ids = np.array([[0, 9, 8, 7]])
    runs = [
        parity.open_graph(tmp_path / name / MODEL_FILE, card.past).run(ids, np.ones_like(ids))
        for name in ("whole", "split")
    ]
    states = [outputs["last_hidden_state"] for outputs in runs]
    assert states[0] == pytest.approx(states[1], rel=1e-6, abs=1e-6)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
SHORT = OSError("43395 requested and 7136 written")  # NumPy's, without a number


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("torch.onnx.export", FULL),
        ("linalign_lite.onnx.graph_edit.row_blocks", FULL),
        ("pathlib.Path.write_text", FULL),  # the tokenizer
        ("numpy.save", SHORT),
        ("linalign_lite.onnx.export_pipeline.save_head", FULL),
        ("linalign_lite.onnx.export_pipeline.copy_chat_template", FULL),
        ("linalign_lite.onnx.export_pipeline.seal_card", FULL),
    ],
)
def test_full_disk(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: OSError
) -> None:
    """Wherever it fills up: what was not written is named, and nothing is left."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(place, fail)
    with pytest.raises(LinalignError, match=r"cannot write .*out: the disk is full") as caught:
        export_model(str(llama), tmp_path / "out", one_file_limit=0)
    assert not isinstance(caught.value, InputError)


@pytest.mark.usefixtures("nothing_left")
def test_a_tokenizer_with_more_tokens_than_the_model(tiny: Callable[..., Path], tmp_path: Path):
    folder = tiny(transformers.LlamaConfig, transformers.LlamaForCausalLM)
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    raw["model"]["vocab"]["never seen"] = 263  # the model has 263 tokens
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"does not belong to this model: got token id 263.*263"):
        export_model(str(folder), tmp_path / "out")


def test_weights_are_stored_once_and_as_they_are_read(llama: Path, tmp_path: Path) -> None:
    export_model(str(llama), tmp_path / "out", one_file_limit=0)
    graph = onnx.load(tmp_path / "out" / MODEL_FILE).graph
    source = transformers.AutoModelForCausalLM.from_pretrained(llama).state_dict()
    found = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    for name, array in found.items():
        original = source[name.removesuffix(".transposed")].numpy()
        turned = name.endswith(".transposed")
        assert np.array_equal(array, original.T if turned else original)
    assert any(name.endswith("q_proj.weight.transposed") for name in found)
    assert not {"lm_head.weight", "lm_head.weight.transposed"} & set(found)
    assert (tmp_path / "out" / "model.onnx_data").stat().st_size < 2e5


def test_half_weights(llama: Path, tmp_path: Path) -> None:
    """Half the size at the same speed: onnxruntime folds the casts when it loads the graph."""
    ort = pytest.importorskip("onnxruntime")
    cards, kinds = [], []
    for dtype in ("fp32", "fp16"):
        cards.append(export_model(str(llama), tmp_path / dtype, dtype=dtype))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / f"{dtype}.onnx")
        path = str(tmp_path / dtype / MODEL_FILE)
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(tmp_path / f"{dtype}.onnx").graph
        kinds.append(sorted(node.op_type for node in graph.node))
    assert kinds[0] == kinds[1]

    whole, half = cards
    assert (whole.dtype, half.dtype) == ("fp32", "fp16")
    assert max(half.parity["states_max_abs"], half.parity["logits_max_abs"]) <= 1e-4
    head = "token_head.head.npz"
    assert half.files[head]["size"] < 0.6 * whole.files[head]["size"]
    stored = onnx.load(tmp_path / "fp16" / MODEL_FILE).graph.initializer
    wide = [t for t in stored if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) >= 256]
    assert wide == []


def test_quiet(
    bert: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    with caplog.at_level(logging.DEBUG, logger="linalign_lite.export"):
        export_model(str(bert), tmp_path / "out", progress=said.append)
    assert said == ["loading", "exporting", "checking 8 texts"]
    assert capfd.readouterr() == ("", "")
    assert {r.levelno for r in caplog.records} == {logging.DEBUG}


@pytest.mark.usefixtures("nothing_left")
def test_paths_that_are_no_model(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    for name in ("./nowhere", "a/b/c", str(tmp_path / "nowhere")):
        with pytest.raises(InputError, match=r"is not a folder.*hint: give a folder"):
            export_model(name, out)
    with pytest.raises(InputError, match="is a file"):
        export_model(str(bert / "config.json"), out)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="cannot be downloaded from the model hub"):
        export_model("nobody/no-such-model", out)
    with pytest.raises(InputError, match="got 'int4', expected fp32, fp16, int8"):
        export_model(str(bert), out, dtype="int4")
    with pytest.raises(InputError, match="the task is not known"):
        export_model(str(bert), out, task="speak")
    with pytest.raises(InputError, match="does the folder above it exist"):
        export_model(str(bert), tmp_path / "no" / "out")


@pytest.mark.usefixtures("nothing_left")
def test_weights_of_another_model(llama: Path, tmp_path: Path) -> None:
    path = llama / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "num_hidden_layers": 3}))
    with pytest.raises(InputError, match="the weights of model are not those of"):
        export_model(str(llama), tmp_path / "out")
    path.write_text(json.dumps({**raw, "intermediate_size": 50}))
    with pytest.raises(InputError, match="6 missing or of another shape"):
        export_model(str(llama), tmp_path / "out")
    path.write_text(json.dumps({**raw, "is_encoder_decoder": True}))
    with pytest.raises(InputError, match="encoder-decoder"):
        export_model(str(llama), tmp_path / "out")
    path.write_text(json.dumps({**raw, "model_type": "no-such-type"}))
    with pytest.raises(InputError, match="does not load"):
        export_model(str(llama), tmp_path / "out")


@pytest.mark.usefixtures("nothing_left")
def test_no_fast_tokenizer(bert: Path, tmp_path: Path) -> None:
    for file in bert.glob("*token*"):
        file.unlink()
    with pytest.raises(InputError, match="tokenizer"):
        export_model(str(bert), tmp_path / "out")


@pytest.mark.parametrize(
    ("flags", "modules", "want"),
    [
        ({"pooling_mode_cls_token": True}, ["Pooling", "Normalize"], ("cls", True)),
        ({"pooling_mode_mean_tokens": True}, ["Pooling"], ("mean", False)),
        ({"pooling_mode_lasttoken": True}, ["Pooling"], ("last", False)),
        ({"pooling_mode": "cls"}, ["Pooling", "Dropout"], ("cls", False)),
        ({"pooling_mode_max_tokens": False}, ["Pooling"], ("mean", False)),
        ({"pooling_mode_weightedmean_tokens": True}, ["Pooling"], ("weighted-mean", False)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ["Pooling"], ("mean-sqrt", False)),
        (
            {"pooling_mode_max_tokens": True, "pooling_mode_cls_token": True},
            ["Pooling", "Normalize"],
            ("embedding", True),
        ),
    ],
)
def test_pooling_of_sentence_transformers(
    tmp_path: Path, flags: dict[str, Any], modules: list[str], want: tuple[str, bool]
) -> None:
    entries = [{"type": f"sentence_transformers.models.{m}", "path": f"1_{m}"} for m in modules]
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    config = ModelConfig("model", tmp_path, {"architectures": ["Qwen3ForCausalLM"]})
    found = config.modules
    assert (found.pooling, found.normalize) == want
    assert (found.embedder is None) == (want[0] != "embedding")
    if found.embedder:
        assert found.embedder.poolings == ("cls", "max")  # the order of sentence-transformers
    assert config.task == "embed"
    (tmp_path / "modules.json").unlink()
    assert config.task == "generate"
    assert config.modules == SentenceModules("mean", normalize=False)


@pytest.mark.parametrize(
    ("config", "limit", "sentence", "want"),
    [
        ({"max_position_embeddings": 512, "model_type": "bert"}, 512, 256, 256),
        ({"max_position_embeddings": 514, "model_type": "roberta"}, None, 0, 512),
        ({"max_position_embeddings": 515, "model_type": "mpnet", "pad_token_id": 2}, None, 0, 512),
        ({"max_position_embeddings": 514, "model_type": "mpnet"}, None, 384, 384),
        ({"n_positions": 1024, "model_type": "gpt2"}, None, None, 1024),
        ({"max_position_embeddings": 4096, "model_type": "llama"}, 512, None, 512),
        ({"model_type": "bloom"}, 10**30, None, 2048),
    ],
)
def test_max_length(
    tmp_path: Path, config: dict[str, Any], limit: int | None, sentence: int | None, want: int
) -> None:
    if limit:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    if sentence:
        path = tmp_path / "sentence_bert_config.json"
        path.write_text(json.dumps({"max_seq_length": sentence}))
    assert ModelConfig("model", tmp_path, config).max_length == want


def test_import_is_light() -> None:
    heavy = ("torch", "transformers", "optimum", "onnx", "onnxruntime", "huggingface_hub")
    code = (
        "import sys, linalign_lite.onnx.model_export, linalign_lite.onnx.import_exported;"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    arguments = [sys.executable, "-c", code]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
