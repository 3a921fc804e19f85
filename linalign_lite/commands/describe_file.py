"""Describe any file or folder of the library as pairs of name and value, without secrets."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from linalign_lite.alignment.moments_io import FORMAT as MOMENTS
from linalign_lite.alignment.moments_io import load_moments
from linalign_lite.bundle import file_format
from linalign_lite.bundle.reading import inspect_bundle
from linalign_lite.commands.keys import PUBLIC
from linalign_lite.core import signing
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.shards.manifest import MANIFEST, UNFINISHED
from linalign_lite.core.shards.states_folder import StatesFolder, open_folder
from linalign_lite.core.space import Space
from linalign_lite.encrypt.fitting.descriptions import AnswerInfo, OfferInfo
from linalign_lite.encrypt.fitting.kept import FORMAT as KEPT
from linalign_lite.encrypt.fitting.kept import KeptOffer
from linalign_lite.encrypt.messages import QueryInfo, ResponseInfo
from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.wire import Kind, open_framed
from linalign_lite.errors import FormatError
from linalign_lite.extraction.model_card import load_card
from linalign_lite.heads.ood.detector import Detector
from linalign_lite.heads.serialization import load
from linalign_lite.onnx.metadata import read_card
from linalign_lite.retrieval.index.card import CARD as INDEX
from linalign_lite.retrieval.index.reading import open_index
from linalign_lite.storage import MAGIC
from linalign_lite.storage.atomic import open_regular
from linalign_lite.storage.npz import peek_npz
from linalign_lite.storage.schema import parse

Facts = dict[str, Any]


def describe(path: Path) -> Facts:
    """Check all of a file or folder, and return its kind and what it states of itself.

    Raises InputError if it does not exist, FormatError if it is of no known kind or damaged.
    """
    if (path / INDEX).exists():
        return _index(path)
    if (path / PUBLIC).exists():  # a folder of keys
        return describe(path / PUBLIC)
    if path.is_dir():
        shards = (path / MANIFEST).exists() or (path / UNFINISHED).exists()
        return _folder(path) if shards else _model(path)
    with open_regular(path) as f:
        start = f.read(12)
    if start.startswith(MAGIC):
        number = int.from_bytes(start[10:12], "little")
        return _BY_NUMBER.get(number, _framed)(path, number)
    for magic, describe_kind in _BY_START.items():
        if start.startswith(magic):
            return describe_kind(path)
    raise FormatError(
        f"{path} is not a file of linalign-lite",
        expected="states, a map, a head, a detector, an index, a model folder, ONNX, a key, "
        "a query, a response, a budget or a bundle",
        hint="`vectors info` shows vectors of other files",
    )


def _archive(path: Path) -> Facts:
    if peek_npz(path).get("format") == MOMENTS:
        return _moments(path)
    if peek_npz(path).get("format") == KEPT:
        return _kept(path)
    content = load(path)
    return next(facts(content) for kind, facts in _BY_CLASS.items() if isinstance(content, kind))


def _folder(path: Path) -> Facts:
    x = open_folder(path)
    for part in x:  # checks every shard against the manifest
        del part  # so that one shard is in memory at a time
    return _states(x) | {"shards": len(x.shards)}


def _states(x: HiddenStates | StatesFolder) -> Facts:
    if isinstance(x, HiddenStates):
        kind, rows, dtype = "hidden states", len(x), str(x.states.dtype)
    else:
        kind, rows, dtype = "folder of hidden states", x.rows, x.dtype
    return {
        "kind": kind,
        "rows": rows,
        "space": x.space.describe(),
        "dtype": dtype,
        "texts": x.n_texts,
        "cut": x.n_cut,
        "max_length": x.max_length,
        "labels": len(x.labels),
        "text_digest": x.text_digest,
    }


def _moments(path: Path) -> Facts:
    m = load_moments(path)
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


def _kept(path: Path) -> Facts:
    k = KeptOffer.load(path)
    shape = {"texts": k.shape.n, "folds": k.shape.folds, "columns": k.shape.columns}
    return {
        "kind": "what an offer's maker keeps",
        "source": k.source.describe(),
        **shape,
        "offer": k.offer,
        "key": k.secret.digest.hex(),
        "text_digest": k.text_digest,
    }


def _map(m: AffineMap) -> Facts:
    names = "method penalty n n_public n_few few_weight held_out_r2 condition rank"
    return {
        "kind": "affine map",
        "source": m.source.describe(),
        "target": m.target.describe(),
        "dtype": str(m.weight.dtype),
        **_present(m.card, names),
    }


def _head(h: Head) -> Facts:
    return {
        "kind": "head" if h.labels else "token head",
        "space": h.space.describe(),
        "outputs": h.n_outputs,
        "labels": list(h.labels),
        "softcap": h.softcap,
        "dtype": str(h.weight.dtype),
        **_present(h.card, "method penalty n held_out_accuracy"),
    }


def _detector(d: Detector) -> Facts:
    return {
        "kind": "detector of outlying states",
        "method": d.method,
        "reads": d.space.describe() if d.rule.dim else "scores of a head",
        "threshold": d.threshold,
        "tpr": d.tpr,
        **_present(vars(d.rule), "temperature k alpha n_outputs"),
        **_present(d.card, "n classes classes_from shrinkage components"),
    }


def _index(folder: Path) -> Facts:
    card = open_index(folder).card
    names = "rows metric row_bits sample largest_norm"
    return {
        "kind": "index",
        "space": card.space.describe(),
        **{name: getattr(card, name) for name in names.split()},
        "top_10_kept": {str(o.row_bits): o.overlap for o in card.overlaps},
        "ids": card.ids or "numbers of the rows",
        "shards": len(card.shards),
    }


def _model(folder: Path) -> Facts:
    card = load_card(folder)
    names = "name architecture task hidden_size vocab_size max_length pooling normalize dtype opset"
    return {
        "kind": "exported model",
        **{name: getattr(card, name) for name in names.split()},
        **{n: v for n in ("block_size", "embedding_size") if (v := getattr(card, n))},
        **({"prompts": ", ".join(card.prompts)} if card.prompts else {}),
        "bytes": sum(int(f["size"]) for f in card.files.values()),
        "digest": card.digest,
    }


def _artefact(path: Path) -> Facts:
    card = read_card(path)
    facts: Facts = {"kind": f"ONNX {card['kind']}"}
    facts |= {
        k: parse(Space, card[k], "space").describe() for k in ("states", "mapped") if k in card
    }
    if isinstance(scores := card.get("scores"), dict):
        facts |= {"outputs": scores.get("n")} | {k: scores.get(k) for k in ("labels", "softcap")}
    if isinstance(model := card.get("model"), dict):
        facts |= {k: model.get(k) for k in ("name", "max_length", "tokenizer")}
    return facts | _present(card, "dtype opset folded")


def _framed(path: Path, number: int) -> Facts:
    kind = Kind(number) if number in set(Kind) else Kind.QUERY  # open_framed() names an unknown one
    with open_framed(path, kind) as reader:
        header = reader.header
        facts: Facts = {
            "kind": kind.title,
            "profile": header.parameters.name,
            "ring_degree": header.parameters.degree,
            "modulus_bits": [p.bit_length() for p in header.parameters.data_primes],
            "key": header.key.hex(),
        }
        if kind is Kind.QUERY:
            query = QueryInfo.from_header(header, reader.name)
            facts |= {"queries": query.n, "space": query.space.describe()}
            facts |= _layout(query.layout, reader.size / query.n)
            facts |= {"norm_bound": 2**query.norm_bits, "outputs": query.n_outputs}
            facts |= {"clusters": list(query.clusters)} if query.clusters else {}
        elif kind is Kind.RESPONSE:
            response = ResponseInfo.from_header(header, reader.name)
            facts |= {"queries": response.n, "outputs": response.n_outputs}
            facts |= _layout(response.layout, reader.size / response.n)
            facts |= {"clusters": list(response.clusters)} if response.clusters else {}
            facts |= {"flood_bits": response.flood_bits, "word_bits": response.word_bits}
            facts["answers"] = response.query
        elif kind is Kind.OFFER:
            facts |= _fitted(OfferInfo.from_header(header, reader.name))
        elif kind is Kind.ANSWER:
            answer = AnswerInfo.from_header(header, reader.name)
            facts |= _fitted(answer)
            facts |= {"space": answer.space.describe(), "answers": answer.offer}
        for _ in reader:  # checks every record against its digest
            pass
    return facts


def _fitted(info: OfferInfo | AnswerInfo) -> Facts:
    shape = info.shape
    facts = {"texts": shape.n, "folds": shape.folds, "columns": shape.columns}
    return {**facts, "texts_together": shape.width, "bytes": info.size}


def _layout(layout: Layout, size: float) -> Facts:
    return {
        "packing": layout.packing,
        "states_together": layout.batch,
        "chunks": layout.chunks,
        "bytes_each": round(size),
    }


def _signing_key(path: Path, number: int) -> Facts:
    kind = "secret signing key" if number == signing.SECRET else "public signing key"
    return {"kind": kind, "fingerprint": signing.public_half(path).fingerprint}


def _bundle(path: Path, _: int) -> Facts:
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


def _budget(path: Path) -> Facts:
    from linalign_lite.encrypt.budgets.budget import Budget

    budget = Budget(path)
    used = [u.used for u in budget.usage()]
    return {"kind": "query budget", "limit": budget.limit, "accounts": len(used), "used": sum(used)}


def _present(card: Mapping[str, Any], names: str) -> Facts:
    return {name: card[name] for name in names.split() if name in card}


_BY_CLASS: dict[type, Callable[[Any], Facts]] = {
    HiddenStates: _states,
    AffineMap: _map,
    Head: _head,
    Detector: _detector,
}
_BY_START: dict[bytes, Callable[[Path], Facts]] = {
    b"SQLite forma": _budget,
    b"PK": _archive,
    b"\x08": _artefact,  # the field of ONNX's IR version
}
_BY_NUMBER: dict[int, Callable[[Path, int], Facts]] = {
    file_format.KIND: _bundle,
    signing.SECRET: _signing_key,
    signing.PUBLIC: _signing_key,
}
