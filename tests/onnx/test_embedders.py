"""Whole sentence-transformers models: poolings, layers and prompts, against the library itself."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from linalign_lite import AffineMap, extract, fuse, load_model, to_dense
from linalign_lite.errors import FormatError, InputError
from linalign_lite.extraction.embedder import (
    ACTIVATIONS,
    MAX_LAYERS,
    Embedder,
    Layer,
    LayerKind,
    load_embedder,
    save_embedder,
)
from linalign_lite.extraction.model_card import load_card, seal_card
from linalign_lite.onnx.model_config import ModelConfig
from linalign_lite.onnx.model_export import export_model

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
library = pytest.importorskip("sentence_transformers")
parts = pytest.importorskip("sentence_transformers.sentence_transformer.modules")

REAL = Path(os.environ.get("LINALIGN_REAL") or "real")
TEXTS = ["a", "Hello, world!", "The dog ran to the house.", "é ü 猫 " * 9, "ABC " * 30]
PROMPTS = {"query": "Q: find ", "document": "", "long": "a: " * 5}
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
WIDTH = 32


@pytest.fixture(scope="module")
def bert(tmp_path_factory, tiny_tokenizer):
    """A BERT of two layers with random weights."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    size = tiny_tokenizer(folder)
    config = BertConfig(size, WIDTH, 2, 2, 64, max_position_embeddings=96, pad_token_id=1)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def made(bert, folder, *layers, pooling="mean", include_prompt=True, default=None):
    """Save a sentence-transformers model of these modules, and load it again."""
    torch.manual_seed(1)
    transformer = parts.Transformer(str(bert), max_seq_length=64)
    pooled = parts.Pooling(WIDTH, pooling, include_prompt)
    found = [layer() for layer in layers]
    for norm in (m for m in found if isinstance(m, parts.LayerNorm)):
        torch.nn.init.normal_(norm.norm.weight)
        torch.nn.init.normal_(norm.norm.bias)
    model = library.SentenceTransformer(modules=[transformer, pooled, *found], device="cpu",
                                prompts=PROMPTS, default_prompt_name=default)  # fmt: skip
    model.save(str(folder))
    return library.SentenceTransformer(str(folder), device="cpu")


def dense(width, outputs, activation=None, bias=True):
    return lambda: parts.Dense(width, outputs, bias, activation or torch.nn.Tanh())


def agree(folder, model, **options):
    """Smallest cosine of the vectors of an exported folder to those of the library."""
    name = options.get("prompt")
    given = {} if name is None else {"prompt_name": name} if name else {"prompt": ""}
    want = model.encode(TEXTS, **given)
    got = extract(load_model(folder), TEXTS, **options).states
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


CASES = {
    **{pooling: ((), {"pooling": pooling}) for pooling in POOLINGS},
    "concatenated": ((parts.Normalize,), {"pooling": POOLINGS}),
    "dense": ((dense(WIDTH, 48), dense(48, 24, torch.nn.Identity(), bias=False)), {}),
    "all": (
        (dense(2 * WIDTH, 40, torch.nn.GELU()), lambda: parts.LayerNorm(40), parts.Normalize,
         lambda: parts.Dropout(0.3), dense(40, 20, torch.nn.ReLU()), parts.Normalize),
        {"pooling": ("lasttoken", "max"), "default": "query"},
    ),
    **{f"no prompt, {p}": ((), {"pooling": p, "include_prompt": False}) for p in POOLINGS},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_those_of_the_library(tmp_path, bert, case):
    layers, options = CASES[case]
    model = made(bert, tmp_path / "st", *layers, **options)
    card = export_model(str(tmp_path / "st"), tmp_path / "out")
    assert card.parity["embedding_cosine"] > 0.99999
    assert card.prompts == PROMPTS
    for prompt in (None, "query", "long", "document", ""):
        agree(tmp_path / "out", model, prompt=prompt)
    whole = card.pooling == "embedding"
    assert whole == (case in ("concatenated", "dense", "all") or "no prompt" in case)
    assert (tmp_path / "out" / "embedder.npz").exists() == whole


@pytest.mark.parametrize("case", ["all", "concatenated", "no prompt, cls", "no prompt, max"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_fused_graphs_carry_modules_and_prompt(tmp_path, bert, case, dtype):
    layers, options = CASES[case]
    made(bert, tmp_path / "st", *layers, **options)
    export_model(str(tmp_path / "st"), tmp_path / "out")
    model = load_model(tmp_path / "out")
    found = fuse(tmp_path / "x.onnx", model, prompt="long", dtype=dtype)
    assert max(found.differences.values()) < 1e-4
    assert found.card["states"]["prompt"] == PROMPTS["long"]
    ids = np.array([model.encode([PROMPTS["long"] + TEXTS[2]])[0].ids])
    import onnxruntime as ort

    session = ort.InferenceSession(str(tmp_path / "x.onnx"))
    (got,) = session.run(["states"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    want = extract(model, TEXTS[2:3], prompt="long").states
    np.testing.assert_allclose(got, want, atol=(1e-5 if dtype == "fp32" else 1e-2))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_torch(name):
    z = np.linspace(-4, 4, 99, dtype=np.float32)
    kind = {"identity": "Identity", "tanh": "Tanh", "relu": "ReLU", "sigmoid": "Sigmoid",
            "silu": "SiLU", "gelu": "GELU"}[name]  # fmt: skip
    want = getattr(torch.nn, kind)()(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(ACTIVATIONS[name](z), want, atol=1e-6)


def edited(folder, file, **changes):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_module(folder, **changes):
    """Change the third module."""
    path = folder / "modules.json"
    entries = json.loads(path.read_text())
    entries[2] |= changes
    path.write_text(json.dumps(entries))


def add_module(folder, kind):
    path = folder / "modules.json"
    entries = json.loads(path.read_text())
    entries.insert(2, {"idx": 2, "name": "2", "path": "2_Dense", "type": kind})
    path.write_text(json.dumps(entries))


BROKEN = {
    "an unknown module": (
        lambda f: add_module(f, "sentence_transformers.models.CNN"),
        "a module of st cannot be exported: got CNN as number 3",
    ),
    "somebody's own module": (lambda f: add_module(f, "mine.Dense"), "got mine.Dense as number 3"),
    "no weights": (
        lambda f: (f / "2_Dense" / "model.safetensors").unlink(),
        "the weights of the module 2_Dense are missing: expected model.safetensors or",
    ),
    "cut weights": (
        lambda f: (f / "2_Dense" / "model.safetensors").write_bytes(b"\xff" * 30),
        "is not a readable file of weights",
    ),
    "another shape": (
        lambda f: edited(f, "2_Dense/config.json", out_features=9),
        "does not fit its config.json: got (24,), expected (9,)",
    ),
    "no such weight": (
        lambda f: edit_module(f, type="sentence_transformers.models.LayerNorm"),
        "2_Dense lacks the weight norm.weight",
    ),
    "an activation": (
        lambda f: edited(f, "2_Dense/config.json", activation_function="mine.Swish"),
        "the activation of 2_Dense cannot be exported: got mine.Swish",
    ),
    "another feature": (
        lambda f: edited(f, "2_Dense/config.json", module_input_name="token_embeddings"),
        "does not work on the embedding alone: got module_input_name token_embeddings",
    ),
    "a pooling": (
        lambda f: edited(f, "1_Pooling/config.json", pooling_mode="attention"),
        "a pooling of the model cannot be exported: got attention",
    ),
    "a layer of another width": (
        lambda f: edited(f, "1_Pooling/config.json", pooling_mode=["mean", "max"]),
        "a dense layer does not fit what it reads: got 32 inputs, expected 64",
    ),
    "a default prompt": (
        lambda f: edited(f, "config_sentence_transformers.json", default_prompt_name="none"),
        "the default prompt is not there: got none, expected document, long, query",
    ),
    "a path elsewhere": (
        lambda f: edit_module(f, path="../2_Dense"),
        "modules.json: module 3 is not usable",
    ),
}


@pytest.fixture(scope="module")
def with_dense(bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense") / "st"
    made(bert, folder, dense(WIDTH, 24))
    return folder


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_carried_over_is_named(tmp_path, with_dense, case):
    shutil.copytree(with_dense, tmp_path / "st")
    change, problem = BROKEN[case]
    change(tmp_path / "st")
    with pytest.raises(InputError) as e:
        export_model(str(tmp_path / "st"), tmp_path / "out")
    assert problem in str(e.value)
    assert not (tmp_path / "out").exists()


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_weights_of_torch_are_read_without_running_them(tmp_path, with_dense, capsys):
    from safetensors.torch import load_file

    folder = tmp_path / "st"
    shutil.copytree(with_dense, folder)
    weights = load_file(folder / "2_Dense" / "model.safetensors")
    want = ModelConfig.read(folder).modules.embedder.layers[0]
    (folder / "2_Dense" / "model.safetensors").unlink()
    torch.save(weights, folder / "2_Dense" / "pytorch_model.bin")
    got = ModelConfig.read(folder).modules.embedder.layers[0]
    np.testing.assert_array_equal(got.weight, want.weight)
    np.testing.assert_array_equal(got.bias, want.bias)
    torch.save({"linear.weight": Evil()}, folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(InputError, match="is not a readable file of weights"):
        _ = ModelConfig.read(folder).modules
    assert capsys.readouterr().out == ""


def test_an_int8_export_compares_embeddings(tmp_path, with_dense):
    texts = [f"{text} {i}" for text in TEXTS[:3] for i in range(10)]
    card = export_model(str(with_dense), tmp_path / "out", quantize=texts)
    assert card.parity["int8_cosine"]["median"] > 0.98
    assert extract(load_model(tmp_path / "out"), TEXTS).states.shape == (len(TEXTS), 24)


def embedder(rng, n=3):
    layers = [
        Layer(LayerKind("dense", "tanh"), rng.normal(size=(5, 8)).astype("f4")),
        Layer(LayerKind("layer-norm"), *rng.normal(size=(2, 5)).astype("f4")),
        Layer(LayerKind("normalize")),
    ]
    return Embedder(("mean", "max"), tuple(layers[:n]), include_prompt=False)


def test_a_file_gives_the_same_embedder_and_the_same_bytes(tmp_path, rng):
    before, path = embedder(rng), tmp_path / "embedder.npz"
    save_embedder(path, before)
    after = load_embedder(path)
    states, lengths = rng.normal(size=(3, 6, 4)).astype("f4"), np.array([6, 2, 1])
    want = before.apply(states, lengths, 2)
    np.testing.assert_array_equal(after.apply(states, lengths, 2), want)
    assert want.dtype == np.float32
    assert (after.width(4), want.shape) == (5, (3, 5))
    save_embedder(tmp_path / "again.npz", after)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_files_that_are_not_usable(tmp_path, rng):
    many = Embedder(("mean",), (Layer(LayerKind("normalize")),) * (MAX_LAYERS + 1))
    with pytest.raises(InputError, match="too many layers"):
        save_embedder(tmp_path / "x.npz", many)
    with pytest.raises(InputError, match="weights of a dense layer have another shape"):
        Layer(LayerKind("dense"), np.zeros(3, "f4"))
    path = tmp_path / "x.npz"
    save_embedder(path, embedder(rng))
    raw = path.read_bytes()
    for old, new in (
        (b'"tanh"', b'"tonh"'),
        (b'"normalize"', b'"normalise"'),
        (b'"mean"', b'"mode"'),
    ):
        path.write_bytes(raw.replace(old, new))
        with pytest.raises(FormatError):
            load_embedder(path)
    path.write_bytes(raw[:-40])
    with pytest.raises(FormatError):
        load_embedder(path)


def test_a_folder_without_its_embedder_is_refused(tmp_path, bert):
    made(bert, tmp_path / "st", dense(WIDTH, 24))
    out = tmp_path / "out"
    card = export_model(str(tmp_path / "st"), out)
    (out / "embedder.npz").rename(tmp_path / "kept.npz")
    with pytest.raises(FormatError, match=r"embedder.npz is missing"):
        load_model(out)
    seal_card(out, card)
    with pytest.raises(FormatError, match="does not agree with its folder about embedder"):
        load_card(out)
    save_embedder(out / "embedder.npz", Embedder(("mean",)))
    seal_card(out, card)
    with pytest.raises(FormatError, match="does not have the width of its card"):
        load_model(out)


def test_a_model_without_modules_has_no_embedding(tmp_path, bert):
    made(bert, tmp_path / "st")
    export_model(str(tmp_path / "st"), tmp_path / "out")
    with pytest.raises(InputError, match="has no modules of its own after its token states"):
        extract(load_model(tmp_path / "out"), TEXTS, pooling="embedding")


def test_a_comparison_without_sentence_transformers_is_said(tmp_path, with_dense, monkeypatch):
    from linalign_lite.onnx import sentence_parity

    hidden = SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: None))
    monkeypatch.setattr(sentence_parity, "importlib", hidden)
    said = list[str]()
    card = export_model(str(with_dense), tmp_path / "out", progress=said.append)
    assert "not compared with sentence-transformers' embeddings: it is not installed" in said
    assert "embedding_cosine" not in card.parity


@pytest.mark.slow
def test_embeddinggemma_whole(tmp_path):
    """Real weights: two Dense layers, and prompts."""
    folder = REAL / "embeddinggemma-300m"
    if not (folder / "modules.json").is_file():
        pytest.skip("no embeddinggemma-300m (set LINALIGN_REAL)")
    card = export_model(str(folder), tmp_path / "out")
    assert card.parity["embedding_cosine"] > 0.99999
    model, theirs = (
        load_model(tmp_path / "out"),
        library.SentenceTransformer(str(folder), device="cpu"),
    )
    for prompt in ("query", "document", "Classification"):
        got = extract(model, TEXTS, prompt=prompt)
        want = theirs.encode(TEXTS, prompt_name=prompt)
        assert (got.states * want).sum(axis=1).min() > 0.99999
        assert got.space.prompt == card.prompts[prompt]


@pytest.mark.slow
def test_a_map_is_a_module_of_a_real_model(tmp_path, shared_model, rng):
    """MiniLM of sentence-transformers with the map's Dense module gives the mapped states."""
    folder = shared_model("all-minilm-l6-v2")
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    states = theirs.encode(TEXTS)
    affine = AffineMap(rng.normal(size=(50, 384)).astype("f4"), rng.normal(size=50).astype("f4"))
    to_dense(tmp_path / "dense", affine)
    module = parts.Dense.load(str(tmp_path / "dense"))
    library.SentenceTransformer(modules=[*theirs, module], device="cpu").save(str(tmp_path / "st"))
    mapped = library.SentenceTransformer(str(tmp_path / "st"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(mapped, affine(states), atol=1e-4)
    export_model(str(tmp_path / "st"), tmp_path / "out")  # Dense, read back
    ours = extract(load_model(tmp_path / "out"), TEXTS).states
    np.testing.assert_allclose(ours, mapped, atol=1e-3)
