"""The loaders, each as a function of bytes, with inputs that are right and ways to damage them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from support import ROOT

from fuzz import archives, bundles, documents, fits, frames, mutators
from fuzz.contract import Broken, working_folder
from linalign_lite import commands
from linalign_lite.bundle.reading import verify_bundle
from linalign_lite.commands.describe_file import describe
from linalign_lite.core import serialization
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.dense_module import from_dense, to_dense
from linalign_lite.core.faiss_transform import from_faiss, to_faiss
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates, text_digest
from linalign_lite.core.signing import SigningKey, VerifyingKey
from linalign_lite.core.space import Space
from linalign_lite.encrypt.budgets import sqlite_store
from linalign_lite.encrypt.budgets.budget import Budget
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.key_proof import load_proof, proven, save_proof
from linalign_lite.encrypt.keys import PublicKey, SecretKey, keygen
from linalign_lite.encrypt.messages import Query, QueryInfo, Response, ResponseInfo, signed_bytes
from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED, by_id
from linalign_lite.encrypt.provider import Provider
from linalign_lite.encrypt.scores import Scores
from linalign_lite.encrypt.wire import Header, Kind
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.extraction import model_card
from linalign_lite.extraction.embedder import (
    Embedder,
    Layer,
    LayerKind,
    load_embedder,
    save_embedder,
)
from linalign_lite.extraction.texts import read_texts
from linalign_lite.heads.ood.detector import Detector
from linalign_lite.heads.ood.detectors import cosine, logits, mahalanobis, nearest_neighbours, vim
from linalign_lite.heads.ood.serialization import load_detector
from linalign_lite.heads.serialization import load, save
from linalign_lite.onnx.model_config import ModelConfig
from linalign_lite.storage import npz, schema
from linalign_lite.survey.report import render, to_markdown
from linalign_lite.survey.results_file import load_results, save_results
from linalign_lite.vectors.cards import read_card, write_card
from linalign_lite.vectors.locations import create_vectors, locate, open_vectors
from linalign_lite.vectors.source import Batch, VectorInfo

Mutate = Callable[[bytes, Random, Sequence[bytes]], bytes]
MAX_CIPHERTEXTS = 40  # a query or response of more is parsed and not computed with
DIM = 3
DENSE_ACTIVATION = "torch.nn.modules.linear.Identity"


@dataclass(frozen=True)
class Target:
    """``run``: loads the bytes, with a folder for files. ``share``: of a long run's inputs."""

    name: str
    seeds: Callable[[], list[bytes]]
    mutate: Mutate
    run: Callable[[bytes, Path], None]
    share: int = 10
    note: str = ""

    @functools.cached_property
    def corpus(self) -> tuple[bytes, ...]:
        return tuple(self.seeds())

    def draw(self, r: Random, data: bytes | None = None) -> bytes:
        """A mutated input, from a seed or from ``data``."""
        data = r.choice(self.corpus) if data is None else data
        for _ in range(r.choice((1, 1, 1, 2, 3))):
            try:
                data = self.mutate(data, r, self.corpus)
            except (
                ValueError,
                OverflowError,
                RecursionError,
                LookupError,
            ):  # what was damaged before
                data = mutators.damaged(data, r, self.corpus)
        return data[: mutators.MAX_SIZE]


# --- inputs that are right ------------------------------------------------------------------------


def _saved(*things: Any) -> list[bytes]:
    with working_folder() as folder:
        for i, thing in enumerate(things):
            save(folder / f"{i}.npz", thing)
        return [(folder / f"{i}.npz").read_bytes() for i in range(len(things))]


SPACE = Space(DIM, "ab" * 32, "ash", "mean", normalize=True)


def states_seeds() -> list[bytes]:
    values = np.arange(12, dtype=np.float32).reshape(4, DIM) / 8
    rows = np.array([0, 1, 1, 2], dtype=np.int32)
    digest = text_digest(["a", "b", "c", "d"])
    tokens = dataclasses.replace(SPACE, pooling="tokens")
    return _saved(
        HiddenStates(values, SPACE, digest, 4, 1, 16, ("no", "yes", "é"), label_ids=rows),
        HiddenStates(
            values.astype(np.float16), tokens, digest, 3, 0, 16, text_index=rows, char_end=rows + 1
        ),
        HiddenStates(values),
    )


def embedder_seeds() -> list[bytes]:
    weight = np.arange(12, dtype=np.float32).reshape(2, 2 * DIM)
    layers = (
        Layer(LayerKind("dense", "gelu"), weight, np.ones(2, np.float32)),
        Layer(LayerKind("layer-norm"), np.ones(2, np.float32)),
        Layer(LayerKind("normalize")),
    )
    with working_folder() as folder:
        save_embedder(folder / "x.npz", Embedder(("mean", "max"), layers, include_prompt=False))
        save_embedder(folder / "y.npz", Embedder(("weighted-mean",)))
        return [(folder / name).read_bytes() for name in ("x.npz", "y.npz")]


def map_seeds() -> list[bytes]:
    weight = np.arange(6, dtype=np.float64).reshape(2, DIM)
    card = {"method": "ridge", "penalty": 0.5, "n": 4, "held_out_r2": 0.9, "condition": None}
    return _saved(
        AffineMap(weight.astype(np.float32), np.ones(2, np.float32), SPACE, Space(2), card),
        AffineMap(weight.astype(np.float16), np.ones(2, np.float16)),
        AffineMap(weight, np.ones(2)),
    )


def _of_others() -> AffineMap:
    weight = np.arange(6, dtype=np.float32).reshape(2, DIM)
    return AffineMap(weight, np.ones(2, np.float32), SPACE, Space(2), {"method": "ridge"})


def faiss_seeds() -> list[bytes]:
    with working_folder() as folder:
        to_faiss(folder / "x.faiss", _of_others())
        return [(folder / "x.faiss").read_bytes()]


def index_seeds() -> list[bytes]:
    """Flat indexes: without and with ids."""
    found, vectors = [], np.arange(12, dtype=np.float32).reshape(4, DIM)
    with working_folder() as folder:
        for ids, metric in (("rows", "dot"), ("integers", "euclidean")):
            info = VectorInfo(Space(DIM), 4, metric, ids)
            with create_vectors(f"{folder}/x.faiss", info) as sink:
                sink.write(Batch(("0", "1", "2", "3"), vectors))
                sink.finish()
            found.append((folder / "x.faiss").read_bytes())
    return found


def collection_card_seeds() -> list[bytes]:
    infos = VectorInfo(SPACE), VectorInfo(Space(DIM, name="x"), 4, "cosine", version="job")
    return [write_card(infos[0]).encode(), write_card(infos[1], "17").encode()]


def dense_seeds() -> list[bytes]:
    with working_folder() as folder:
        to_dense(folder / "x", _of_others())
        return [(folder / "x" / "model.safetensors").read_bytes()]


def head_seeds() -> list[bytes]:
    weight = np.arange(6, dtype=np.float32).reshape(2, DIM)
    bias = np.zeros(2, np.float32)
    return _saved(
        Head(weight, bias, ("no", "yes"), SPACE, 30.0, {"method": "ridge", "n": 4}),
        Head(weight.astype(np.float64), bias.astype(np.float64)),
    )


def ood_seeds() -> list[bytes]:
    weight = np.arange(6, dtype=np.float32).reshape(2, DIM)
    head = Head(weight, np.zeros(2, np.float32), ("no", "yes"), SPACE, 30.0)
    mean, eye = np.arange(DIM, dtype=np.float64), np.eye(DIM)
    rules = (
        logits.Energy(2, 0.5, head),
        logits.MaxSoftmax(2),
        mahalanobis.RelativeMahalanobis(mean, eye[:2], eye[:1, :2], eye),
        cosine.Cosine(mean, eye, eye[:2]),
        nearest_neighbours.WhitenedNearestNeighbours(eye.astype(np.float32), 2, mean, eye),
        vim.VirtualLogit(dataclasses.replace(head, labels=()), mean, eye[:1], 0.5),
    )
    labels = [rule.method in {"energy", "msp"} for rule in rules]
    return _saved(
        *(
            Detector(rule, SPACE, 0.5, 0.95, ("no", "yes") if named else (), {"n": 4})
            for rule, named in zip(rules, labels, strict=True)
        )
    )


@functools.cache
def _keys() -> dict[int, tuple[SecretKey, PublicKey]]:
    return {p.id: keygen(p) for p in (PRIVATE, TRUSTED)}


@functools.cache
def _client(number: int) -> Client:
    return Client(_keys()[number][0], max_error=float("inf"))


@functools.cache
def _provider(dim: int, outputs: int = 3, budget: Budget | None = None) -> Provider:
    weight = np.random.default_rng(dim).normal(size=(outputs, dim)) / 8
    head = Head(weight, np.linspace(-1, 1, outputs), tuple(f"class {i}" for i in range(outputs)))
    keys = [public for _, public in (*_keys().values(), _account_keys())]
    return Provider(
        head, keys=keys, accept=(PRIVATE, TRUSTED), max_error=float("inf"), budget=budget
    )


def public_seeds() -> list[bytes]:
    return [public.to_bytes() for _, public in (*_keys().values(), _account_keys())]


def secret_seeds() -> list[bytes]:
    with working_folder() as folder:
        for number, (secret, _) in _keys().items():
            secret.save(folder / str(number))
        return [(folder / str(number)).read_bytes() for number in _keys()]


@functools.cache
def _queries() -> tuple[Query, ...]:
    made = []
    for p in (PRIVATE, TRUSTED):
        states = HiddenStates(np.eye(4, DIM, dtype=np.float32), Space(DIM, "", "ash", "mean"))
        layouts = (Layout(p.degree, DIM, *cut) for cut in ((1, 1), (3, 4), (1, 2)))
        made += [_client(p.id).encrypt(states, layout=layout) for layout in layouts]
        made.append(
            _client(p.id).encrypt(HiddenStates(states.states[:1], states.space), n_outputs=3)
        )
    secret, _ = _account_keys()
    made.append(Client(secret, account=_account()).encrypt(states, layout=Layout(2048, DIM, 1, 2)))
    return tuple(made)


@functools.cache
def _account() -> SigningKey:
    return SigningKey.generate()


@functools.cache
def _account_keys() -> tuple[SecretKey, PublicKey]:
    """Keys of an account, with a proof."""
    secret, public = keygen(TRUSTED, _account())
    return secret, proven(secret, public)


def proof_seeds() -> list[bytes]:
    with working_folder() as folder:
        save_proof(folder / "x.proof", _account_keys()[1])
        return [(folder / "x.proof").read_bytes()]


def run_proof(data: bytes, folder: Path) -> None:
    key = load_proof(data, _account_keys()[1])
    if key.proof != _account_keys()[1].proof:
        raise Broken("a forged proof verifies")


def query_seeds() -> list[bytes]:
    first = _queries()[0]
    asked = dataclasses.replace(first.info, clusters=(0, 2), index="0" * 64)
    return [query.to_bytes() for query in (*_queries(), Query(asked, first.payloads))]


@functools.cache
def _responses() -> tuple[Response, ...]:
    capped = [
        dataclasses.replace(_provider(DIM).score(q).info, softcap=30.0) for q in _queries()[:1]
    ]
    scored = [_provider(DIM).score(q) for q in _queries()]
    capped.append(dataclasses.replace(scored[0].info, clusters=(0, 2), labels=(), ids="0" * 64))
    return (*scored, *(Response(info, scored[0].payloads) for info in capped))


def response_seeds() -> list[bytes]:
    return [response.to_bytes() for response in _responses()]


def card_seeds() -> list[bytes]:
    with working_folder() as folder:
        _model_files(folder)
        card = model_card.ModelCard(
            name="ash", architecture="GPT2LMHeadModel", task="generate", hidden_size=8,
            max_length=16,
            vocab_size=32, pooling="mean", normalize=False, dtype="fp32", opset=17,
            past=(model_card.PastTensor("past_key_values.0.key", 2, 4),),
            special={"bos": 1, "eos": 2, "pad": None}, parity={"max": 1e-5}, versions={"onnx": "1"},
        )  # fmt: skip
        model_card.seal_card(folder, card)
        generate = (folder / model_card.CARD_FILE).read_bytes()
        (folder / model_card.HEAD_FILE).unlink()
        model_card.seal_card(folder, dataclasses.replace(card, task="embed", past=()))
        return [generate, (folder / model_card.CARD_FILE).read_bytes()]


def _model_files(folder: Path) -> None:
    for name in (model_card.MODEL_FILE, model_card.TOKENIZER_FILE, model_card.HEAD_FILE):
        (folder / name).write_bytes(name.encode())


_LINES = {
    "txt": ["The cat sat.\nOn the mat.\n\n  \nÉté, 🦊\r\nlast", "one\n"],
    "jsonl": [
        '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n',
        '{"text": "a"}\n\n{"text": "é", "other": [1]}',
    ],
    "csv": ['text,label\na,x\n"b, and\nc",y\n', 'id,text\n1,"say ""hi"""\n2,b\n'],
}


def _info_seeds(kind: Kind) -> list[bytes]:
    """A description with what the header around it says, as one JSON object."""
    infos = [x.info for x in (_queries() if kind is Kind.QUERY else _responses())]
    return [
        json.dumps(
            {"meta": dict(h.meta), "n": h.n_records, "size": h.record_size, "set": h.parameters.id}
        ).encode()
        for h in (info.header() for info in infos)
    ]


def budget_seeds() -> list[bytes]:
    with working_folder() as folder:
        seeds = []
        for used in (0, 1, 30):
            path = folder / f"{used}.sqlite"
            book = Budget(path, 1000)
            for i in range(used):
                charge = bytes([i]) * 32, bytes([i + 1]) * 32, i + 1
                book.charge(*charge)
                if i % 3:
                    (book.settle if i % 2 else book.refund)(*charge)
            sqlite_store.close_connections()
            seeds.append(path.read_bytes())
        return seeds


_FOLDER: dict[str, Any] = {
    "config.json": {"architectures": ["RobertaModel"], "model_type": "roberta", "pad_token_id": 1,
                    "max_position_embeddings": 514, "eos_token_id": [2, 3], "bos_token_id": 0,
                    "text_config": {"hidden_size": 8}},
    "modules.json": [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
                     {"idx": 1, "path": "1_Pooling",
                         "type": "sentence_transformers.models.Pooling"},
                     {"idx": 2, "path": "2_Normalize",
                         "type": "sentence_transformers.models.Normalize"}],
    "1_Pooling/config.json": {"word_embedding_dimension": 8, "pooling_mode_cls_token": True,
                              "pooling_mode_mean_tokens": False},
    "tokenizer_config.json": {"model_max_length": 512, "bos_token": {"content": "<s>"},
        "eos_token": "</s>"},
    "special_tokens_map.json": {"pad_token": "<pad>", "eos_token": "</s>"},
    "sentence_bert_config.json": {"max_seq_length": 128},
}  # fmt: skip


def results_seeds() -> list[bytes]:
    return [(ROOT / "tests" / "golden" / "v1.results.json").read_bytes()]


def folder_seeds() -> list[bytes]:
    return [bytes([i]) + json.dumps(_FOLDER[name]).encode() for i, name in enumerate(_FOLDER)]


# --- loading --------------------------------------------------------------------------------------


def _file(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _printable(texts: Sequence[str], what: str) -> None:
    if not all(text.isprintable() for text in texts):
        raise Broken(f"{what} that cannot be printed")


def run_states(data: bytes, folder: Path) -> None:
    states = serialization.load_states(_file(folder, "x.npz", data))
    _printable(states.labels, "labels")
    _again(states, serialization.load_states, folder)


def run_map(data: bytes, folder: Path) -> None:
    _again(serialization.load_map(_file(folder, "x.npz", data)), serialization.load_map, folder)


def run_head(data: bytes, folder: Path) -> None:
    head = serialization.load_head(_file(folder, "x.npz", data))
    with np.errstate(all="ignore"), contextlib.suppress(InputError):
        head.apply(np.zeros(head.weight.shape[1], np.float32))
    _again(head, serialization.load_head, folder)


def run_faiss(data: bytes, folder: Path) -> None:
    affine = from_faiss(_file(folder, "x.faiss", data))
    to_faiss(folder / "again.faiss", affine)
    if not np.array_equal(from_faiss(folder / "again.faiss").weight, affine.weight):
        raise Broken("another map when written and read again")


def run_index(data: bytes, folder: Path) -> None:
    with open_vectors(str(_file(folder, "x.faiss", data))) as source:
        n = sum(len(batch) for batch in source.batches())
    if n != source.info.count or n * DIM > len(data):
        raise Broken("another number of vectors than the header's")


def run_collection_card(data: bytes, folder: Path) -> None:
    card = read_card(data.decode("utf-8", "replace"), locate(f"{folder}/x.npy"))
    if card is not None:
        _printable([card.space.describe(), card.cursor, card.job], "card")


def run_dense(data: bytes, folder: Path) -> None:
    """The bytes are those of the weights; the config fits the map that the seed is of."""
    inside = folder / "dense"
    inside.mkdir(exist_ok=True)
    config = {"in_features": DIM, "out_features": 2, "activation_function": DENSE_ACTIVATION}
    (inside / "config.json").write_text(json.dumps(config))
    affine = from_dense(_file(inside, "model.safetensors", data).parent)
    _printable([affine.source.describe(), affine.target.describe()], "spaces")
    if affine.weight.shape != (2, DIM):
        raise Broken("a map of another shape than the config's")


def run_embedder(data: bytes, folder: Path) -> None:
    found = load_embedder(_file(folder, "x.npz", data))
    with np.errstate(all="ignore"), contextlib.suppress(InputError):
        width = found.width(DIM)
        got = found.apply(np.ones((1, 2, DIM), np.float32), np.array([2]), 1)
        if got.shape != (1, width):
            raise Broken("an embedding of another width")
    save_embedder(folder / "again.npz", found)
    load_embedder(folder / "again.npz")


def run_ood(data: bytes, folder: Path) -> None:
    detector = load_detector(_file(folder, "x.npz", data))
    _printable(detector.labels, "labels")
    with np.errstate(all="ignore"), contextlib.suppress(InputError):
        scores = detector.scores(np.zeros((2, detector.space.dim), np.float32))
        if not np.isfinite(scores).all():
            raise Broken("scores that are not finite")
    with np.errstate(all="ignore"), contextlib.suppress(InputError):
        detector.of_scores(np.zeros((2, 2)))
    _again(detector, load_detector, folder)


def _again(thing: Any, load: Callable[[Path], Any], folder: Path) -> None:
    """Write what was accepted, and read it again."""
    try:
        save(folder / "again.npz", thing)
        load(folder / "again.npz")
    except (ValueError, InputError) as e:
        raise Broken("loaded, and cannot be saved and loaded again") from e


def run_any(data: bytes, folder: Path) -> None:
    path = _file(folder, "x.npz", data)
    npz.peek_npz(path)
    load(path)


def run_card(data: bytes, folder: Path) -> None:
    if not (folder / model_card.MODEL_FILE).exists():
        _model_files(folder)
    _file(folder, model_card.CARD_FILE, data)
    card = model_card.load_card(folder)
    card.space().describe()
    _inspected(folder, data)


def _run_texts(ending: str) -> Callable[[bytes, Path], None]:
    def run(data: bytes, folder: Path) -> None:
        texts = read_texts(str(_file(folder, f"x.{ending}", data)))
        _printable(texts.labels, "labels")
        texts.label_ids()
        if len(texts.digest) != 64:
            raise Broken("texts without a digest")

    return run


def run_public(data: bytes, folder: Path) -> None:
    key = PublicKey.load(data)
    if key.to_bytes() != data:
        raise Broken("accepted in another form than its own")
    PublicKey.load(_file(folder, "x.key", data))


def run_secret(data: bytes, folder: Path) -> None:
    path = _file(folder, "secret.key", data)
    path.chmod(0o600)
    Client(SecretKey.load(path))


def run_query(data: bytes, folder: Path) -> None:
    query = Query.load(data)
    if query.to_bytes() != data:
        raise Broken("accepted in another form than its own")
    query.records()


def run_response(data: bytes, folder: Path) -> None:
    response = Response.load(data)
    if response.to_bytes() != data:
        raise Broken("accepted in another form than its own")
    _printable(response.info.labels, "labels")


def run_score(data: bytes, folder: Path) -> None:
    """The query under a key that the provider knows, whatever key it names."""
    query = Query.load(data)
    info = query.info
    if info.layout.chunks * len(query.payloads) > MAX_CIPHERTEXTS:
        return
    if info.clusters:  # of an index, which this head is not
        with contextlib.suppress(MismatchError):
            _provider(info.space.dim).score(query)
            raise Broken("a head scores clusters")
        return
    mine = _keys()[info.parameters.id][1].digest
    if info.signed and zlib.crc32(data) & 2:  # as it is, or with a signature that agrees
        client = Client(_account_keys()[0], account=_account(), max_error=float("inf"))
        signed = dataclasses.replace(info, key=_account_keys()[1].digest)
        query = dataclasses.replace(query, info=signed)
        if zlib.crc32(data) & 4:
            signature = _account().sign(signed_bytes(query.fingerprint))
            query = dataclasses.replace(query, signature=signature)
        response = _provider(info.space.dim).score(query)
        _finite(client.decrypt(response, query), len(query))
        return
    query = Query(dataclasses.replace(info, key=mine, signed=False), query.payloads)
    if zlib.crc32(data) & 1:
        path, out = _file(folder, "x.query", query.to_bytes()), folder / "x.response"
        _provider(info.space.dim).score_file(path, out)
        response = Response.load(out)
    else:
        response = _provider(info.space.dim).score(query)
    _finite(_client(info.parameters.id).decrypt(response, query), len(query))


def run_decrypt(data: bytes, folder: Path) -> None:
    """The response under the client's own key, whatever key it names."""
    response = Response.load(data)
    info = response.info
    if info.layout.products(info.n_outputs) * len(response.payloads) > MAX_CIPHERTEXTS:
        return
    client = _client(info.parameters.id)
    with contextlib.suppress(MismatchError):
        client.decrypt(response, _queries()[0])
    response = Response(
        dataclasses.replace(info, key=_keys()[info.parameters.id][1].digest), response.payloads
    )
    if zlib.crc32(data) & 1:
        scores = client.decrypt_from(_file(folder, "x.response", response.to_bytes()))
    else:
        scores = client.decrypt(response)
    _finite(scores, info.n)


def _finite(scores: Scores, n: int) -> None:
    if scores.values.shape[0] != n or not np.isfinite(scores.values).all():
        raise Broken("scores that are not finite")
    scores.names()


def _run_info(kind: Kind) -> Callable[[bytes, Path], None]:
    def run(data: bytes, folder: Path) -> None:
        raw = _json(data)
        numbers = [raw.get(name) for name in ("n", "size", "set")] if isinstance(raw, dict) else []
        if not numbers or not all(type(x) is int and 0 <= x < 1 << 33 for x in numbers):
            raise InputError("not a header: nothing for the loader here")
        parameters = by_id(numbers[2])
        meta = raw.get("meta")
        if not isinstance(meta, dict):  # the reader of frames lets nothing else through
            raise InputError("not a description: nothing for the loader here")
        header = Header(kind, parameters, bytes(32), max(1, numbers[0]), max(1, numbers[1]), meta)
        info = (QueryInfo if kind is Kind.QUERY else ResponseInfo).from_header(header, "this file")
        layout = info.layout
        layout.blocks(info.n), layout.rows, layout.packing
        info.header().digest.hex()

    return run


def run_spaces(data: bytes, folder: Path) -> None:
    space = schema.parse(Space, _json(data), "space")
    _printable([space.describe()], "a space")
    space.agrees(SPACE)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as e:
        raise InputError("not JSON: nothing for the loader here") from e


def run_describe(data: bytes, folder: Path) -> None:
    path = _file(folder, "x", data)
    describe(path)
    _inspected(path, data)


def _inspected(path: Path, data: bytes) -> None:
    """Run `linalign-lite inspect` on one accepted input in six: it is slow."""
    if zlib.crc32(data) % 6:
        return
    for options in ([], ["--json"]):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = commands.main(["inspect", *options, str(path)])
        if code != 0:
            raise Broken("described, and inspect fails")
        if options:
            json.loads(out.getvalue())
        else:
            _printable(out.getvalue().splitlines(), "lines")


def run_budget(data: bytes, folder: Path) -> None:
    # into the same file each time: the process keeps one descriptor for each budget that it charges
    sqlite_store.close_connections()
    path = _file(folder, "x.sqlite", data)
    for suffix in ("journal", "wal", "shm"):
        (folder / f"x.sqlite-{suffix}").unlink(missing_ok=True)
    book = Budget(path)
    used = book.usage()
    key, fingerprint = bytes(32), b"\1" * 32
    if book.limit < 1 or book.remaining(key) < 0:
        raise Broken("a limit below 1")
    before = book.remaining(key)
    book.charge(key, fingerprint, 1)
    left = book.remaining(key)
    if left not in (before - 1, before):
        raise Broken("a charge that does not count")
    book.settle(key, fingerprint, 1)
    if len(book.usage()) not in (len(used), len(used) + 1):
        raise Broken("keys come and go")
    Budget(path, 5)


def run_results(data: bytes, folder: Path) -> None:
    """Save and render what was accepted."""
    results = load_results(_file(folder, "results.json", data))
    to_markdown(results)
    save_results(folder / "again.json", results)
    if load_results(folder / "again.json") != results:
        raise Broken("loaded, and another thing when saved and loaded again")
    if zlib.crc32(data) % 6 == 0:  # it draws
        render(results)


def run_folder(data: bytes, folder: Path) -> None:
    """The settings of a model's folder that `export` reads before it loads the model."""
    if not data:
        raise InputError("nothing for the loader here")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for i, (name, value) in enumerate(_FOLDER.items()):
        chosen = data[0] % len(_FOLDER) == i
        _file(folder, name, data[1:] if chosen else json.dumps(value).encode())
    config = ModelConfig.read(folder)
    _ = (config.architecture, config.task, config.max_length, config.modules)
    config.special_tokens({"<s>": 0}.get)


def bundle_seeds() -> list[bytes]:
    """Signed: a map, a head and a public key; a map alone."""
    contents = {
        "maps/a.map.npz": map_seeds()[0],
        "heads/b.head.npz": head_seeds()[0],
        "keys/public.key": public_seeds()[0],
    }
    kinds = {"maps": "map", "heads": "head", "keys": "public-key"}
    made = []
    for paths in (sorted(contents), ["maps/a.map.npz"]):
        files = [
            {"kind": kinds[p.split("/")[0]], "path": p, "size": len(contents[p]),
             "sha256": hashlib.sha256(contents[p]).hexdigest()}
            for p in paths
        ]  # fmt: skip
        raw = {"files": files, "format": "linalign-bundle", "note": "", "platform": None,
               "version": 1}  # fmt: skip
        text = json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()
        made.append(bundles.signed(text, [contents[p] for p in paths]))
    return made


def run_bundle(data: bytes, folder: Path) -> None:
    """Every file read too, for one in four: it writes."""
    path = _file(folder, "x.bundle", data)
    deep = zlib.crc32(data) % 4 == 0
    verify_bundle(path, keys=[VerifyingKey(bundles.PUBLIC)], deep=deep)
    if not deep:
        describe(path)


# --- the table ------------------------------------------------------------------------------------


def _mixed(data: bytes, r: Random, others: Sequence[bytes] = ()) -> bytes:
    if data.startswith(b"LINALIGN"):
        return frames.mutate(data, r, others)
    return (
        archives.mutate(data, r, others)
        if data.startswith(b"PK")
        else mutators.damaged(data, r, others)
    )


def _everything() -> list[bytes]:
    makers = (
        states_seeds,
        map_seeds,
        head_seeds,
        ood_seeds,
        public_seeds,
        secret_seeds,
        query_seeds,
        response_seeds,
    )
    return [seed for make in makers for seed in make()]


def _spaces() -> list[bytes]:
    return [
        json.dumps(vars(space)).encode() for space in (SPACE, Space(1), Space(1 << 20, name="é"))
    ]


_SEAL = "SEAL works on each: fewer inputs"
_ALL = (
    Target("states", states_seeds, archives.mutate, run_states, 20),
    Target("map", map_seeds, archives.mutate, run_map, 20),
    Target("head", head_seeds, archives.mutate, run_head, 20),
    Target("embedder", embedder_seeds, archives.mutate, run_embedder, 20),
    Target("faiss-transform", faiss_seeds, mutators.damaged, run_faiss, 20),
    Target("faiss-index", index_seeds, mutators.damaged, run_index, 20),
    Target("collection-card", collection_card_seeds, documents.mutate_json,
        run_collection_card, 20),
    Target("dense-module", dense_seeds, mutators.damaged, run_dense, 20),
    Target("detector", ood_seeds, archives.mutate, run_ood, 20),
    Target("any-npz", lambda: states_seeds() + map_seeds() + head_seeds(), archives.mutate,
        run_any, 20),
    Target("model-card", card_seeds, documents.mutate_card, run_card, 20),
    *(Target(f"texts-{kind}", lambda kind=kind: [t.encode() for t in _LINES[kind]],
             documents.mutate_lines, _run_texts(kind), 20) for kind in _LINES),
    Target("space", _spaces, documents.mutate_json, run_spaces, 20),
    Target("query-info", lambda: _info_seeds(Kind.QUERY), documents.mutate_json,
        _run_info(Kind.QUERY), 20),
    Target("response-info", lambda: _info_seeds(Kind.RESPONSE), documents.mutate_json,
        _run_info(Kind.RESPONSE), 20),
    Target("query", query_seeds, frames.mutate, run_query, 20),
    Target("response", response_seeds, frames.mutate, run_response, 20),
    Target("public-key", public_seeds, frames.mutate, run_public, 10, _SEAL),
    Target("proof", proof_seeds, frames.mutate, run_proof, 10, _SEAL),
    Target("secret-key", secret_seeds, frames.mutate, run_secret, 10, _SEAL),
    Target("score", query_seeds, frames.mutate, run_score, 6, _SEAL),
    Target("decrypt", response_seeds, frames.mutate, run_decrypt, 10, _SEAL),
    Target("offer", fits.offer_seeds, frames.mutate, fits.run_offer, 6, _SEAL),
    Target("answer", fits.answer_seeds, frames.mutate, fits.run_answer, 6, _SEAL),
    Target("kept", fits.kept_seeds, archives.mutate, fits.run_kept, 10),
    Target("inspect", _everything, _mixed, run_describe, 10, "runs the command too: fewer inputs"),
    Target("budget", budget_seeds, documents.mutate_sqlite, run_budget, 6,
        "SQLite writes for each: fewer inputs"),
    Target("results", results_seeds, documents.mutate_json, run_results, 6,
        "draws some: fewer inputs"),
    Target("bundle", bundle_seeds, bundles.mutate, run_bundle, 6, "writes some: fewer inputs"),
    Target("model-folder", folder_seeds, documents.mutate_folder, run_folder, 10),
)  # fmt: skip
TARGETS = {target.name: target for target in _ALL}
