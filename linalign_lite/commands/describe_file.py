"""Say what a file of ours is, in plain pairs of name and value. Nothing secret is among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linalign_lite.alignment.moments_io import FORMAT as MOMENTS
from linalign_lite.alignment.moments_io import load_moments
from linalign_lite.alignment.paired_moments import PairedMoments
from linalign_lite.bundle import file_format, signing
from linalign_lite.bundle.reading import inspect_bundle
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.shards.manifest import MANIFEST, UNFINISHED
from linalign_lite.core.shards.states_folder import open_folder
from linalign_lite.core.space import Space
from linalign_lite.encrypt.messages import QueryInfo, ResponseInfo
from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.wire import MAGIC, Kind, open_framed
from linalign_lite.errors import FormatError
from linalign_lite.extraction.model_card import load_card
from linalign_lite.heads.ood.detector import Detector
from linalign_lite.heads.serialization import load
from linalign_lite.onnx.metadata import read_card
from linalign_lite.storage.atomic import open_regular
from linalign_lite.storage.npz import peek_npz

_SIGNING = {signing.SECRET: "secret signing key", signing.PUBLIC: "public signing key"}


def describe(path: Path) -> dict[str, Any]:
    """What ``path`` is and what it says of itself, after checking the whole of it.

    Raises InputError when it is not there, FormatError when it is none of ours or damaged.
    """
    if path.is_dir():
        ours = (path / MANIFEST).exists() or (path / UNFINISHED).exists()
        return _folder(path) if ours else _model(path)
    with open_regular(path) as f:
        start = f.read(12)
    if start.startswith(MAGIC):
        return _numbered(path, int.from_bytes(start[10:12], "little"))
    for magic, say in _STARTS:
        if start.startswith(magic):
            return say(path)
    raise FormatError(
        f"{path} is not a file of linalign-lite",
        expected="states, a map, a head, a detector, a model folder, ONNX, a key, a query, a "
        "response, a budget or a bundle",
    )


def _archive(path: Path) -> dict[str, Any]:
    if peek_npz(path).get("format") == MOMENTS:
        return _moments(load_moments(path))
    thing = load(path)
    if isinstance(thing, HiddenStates):
        return _states(thing)
    if isinstance(thing, Detector):
        return _detector(thing)
    return _map(thing) if isinstance(thing, AffineMap) else _head(thing)


def _states(x: HiddenStates) -> dict[str, Any]:
    return {
        "kind": "hidden states",
        "rows": len(x),
        "space": x.space.describe(),
        "dtype": str(x.states.dtype),
        "texts": x.n_texts,
        "cut": x.n_cut,
        "max_length": x.max_length,
        "labels": len(x.labels),
        "text_digest": x.text_digest,
    }


def _folder(path: Path) -> dict[str, Any]:
    x = open_folder(path)
    for part in x:  # every shard against the manifest
        del part  # or the next one is read beside it
    return {
        "kind": "folder of hidden states",
        "rows": x.rows,
        "space": x.space.describe(),
        "dtype": x.dtype,
        "texts": x.n_texts,
        "cut": x.n_cut,
        "max_length": x.max_length,
        "labels": len(x.labels),
        "text_digest": x.text_digest,
        "shards": len(x.shards),
    }


def _moments(m: PairedMoments) -> dict[str, Any]:
    return {
        "kind": "moments",
        "pairs": m.n,
        "source": m.source.describe(),
        "target": m.target.describe(),
        "folds": len(m.moments.folds),
        "seed": m.seed,
        "pairing": m.pairing,
        "parts": len(m.parts),
        "fewest_in_a_fold": m.fewest,
        "give_states_away": m.telling,
        "text_digests": [p.text_digest for p in m.parts],
    }


def _map(m: AffineMap) -> dict[str, Any]:
    wanted = ("method", "penalty", "n", "n_public", "n_few", "few_weight", "held_out_r2",
              "condition", "rank")  # fmt: skip
    return {
        "kind": "affine map",
        "source": m.source.describe(),
        "target": m.target.describe(),
        "dtype": str(m.weight.dtype),
        **_some(m.card, wanted),
    }


def _head(h: Head) -> dict[str, Any]:
    wanted = ("method", "penalty", "n", "held_out_accuracy")
    return {
        "kind": "head" if h.labels else "token head",
        "space": h.space.describe(),
        "outputs": h.n_outputs,
        "labels": list(h.labels),
        "softcap": h.softcap,
        "dtype": str(h.weight.dtype),
        **_some(h.card, wanted),
    }


def _detector(d: Detector) -> dict[str, Any]:
    wanted = ("n", "classes", "classes_from", "shrinkage", "components")
    return {
        "kind": "detector of outlying states",
        "method": d.method,
        "reads": d.space.describe() if d.rule.dim else "scores of a head",
        "threshold": d.threshold,
        "tpr": d.tpr,
        **_some(vars(d.rule), ("temperature", "k", "alpha", "n_outputs")),
        **_some(d.card, wanted),
    }


def _model(folder: Path) -> dict[str, Any]:
    card = load_card(folder)
    return {
        "kind": "exported model",
        "name": card.name,
        "architecture": card.architecture,
        "task": card.task,
        "hidden_size": card.hidden_size,
        "vocab_size": card.vocab_size,
        "max_length": card.max_length,
        "pooling": card.pooling,
        "normalize": card.normalize,
        "dtype": card.dtype,
        "opset": card.opset,
        "bytes": sum(int(f["size"]) for f in card.files.values()),
        "digest": card.digest,
    }


def _artefact(path: Path) -> dict[str, Any]:
    card = read_card(path)
    found: dict[str, Any] = {"kind": f"ONNX {card['kind']}"}
    for name in ("states", "mapped"):
        if name in card:
            found[name] = Space.parse(card[name]).describe()
    scores = card.get("scores")
    if isinstance(scores, dict):
        found |= {"outputs": scores.get("n"), "labels": scores.get("labels")}
        found["softcap"] = scores.get("softcap")
    model = card.get("model")
    if isinstance(model, dict):
        found |= {k: model.get(k) for k in ("name", "max_length", "tokenizer")}
    return found | {k: card.get(k) for k in ("dtype", "opset", "folded") if k in card}


def _framed(path: Path, number: int) -> dict[str, Any]:
    kind = Kind(number) if number in set(Kind) else Kind.QUERY  # open_framed() names an unknown one
    with open_framed(path, kind) as reader:
        header = reader.header
        found: dict[str, Any] = {
            "kind": kind.title,
            "profile": header.parameters.name,
            "ring_degree": header.parameters.degree,
            "modulus_bits": list(header.parameters.prime_bits),
            "key": header.key.hex(),
        }
        if kind is Kind.QUERY:
            query = QueryInfo.from_header(header, reader.name)
            found |= {"queries": query.n, "space": query.space.describe()}
            found |= _layout(query.layout, reader.size / query.n)
            found |= {"norm_bound": 2**query.norm_bits}
        elif kind is Kind.RESPONSE:
            response = ResponseInfo.from_header(header, reader.name)
            found |= {"queries": response.n, "outputs": response.n_outputs}
            found |= _layout(response.layout, reader.size / response.n)
            found |= {"flood_bits": response.flood_bits, "answers": response.query}
        for _ in reader:  # every record against its digest
            pass
    return found


def _numbered(path: Path, number: int) -> dict[str, Any]:
    if number == file_format.KIND:
        return _bundle(path)
    return _signing(path, number) if number in _SIGNING else _framed(path, number)


def _signing(path: Path, number: int) -> dict[str, Any]:
    return {"kind": _SIGNING[number], "fingerprint": signing.public_half(path).fingerprint}


def _bundle(path: Path) -> dict[str, Any]:
    info, signature = inspect_bundle(path)
    platform = info.manifest.platform
    return {
        "kind": "bundle",
        "signature": signature,
        "signer": info.signer,
        "note": info.manifest.note,
        "wheels_for": f"Python {platform.python}, {platform.tag}" if platform else "",
        "bytes": info.manifest.size,
        "digest": info.digest,
        "files": [f.path for f in info.manifest.files],
    }


def _budget(path: Path) -> dict[str, Any]:
    from linalign_lite.encrypt.query_budget import Budget

    budget = Budget(path)
    usage = budget.usage()
    return {
        "kind": "query budget",
        "limit": budget.limit,
        "keys": len(usage),
        "used": sum(u.used for u in usage),
    }


def _layout(layout: Layout, size: float) -> dict[str, Any]:
    return {
        "packing": layout.packing,
        "states_together": layout.batch,
        "chunks": layout.chunks,
        "bytes_each": round(size),
    }


def _some(card: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: card[name] for name in names if name in card}


# how files begin; ONNX with its IR version
_STARTS = ((b"SQLite forma", _budget), (b"PK", _archive), (b"\x08", _artefact))
