"""Steps of `linalign-lite demo search`: one party's documents, the other's queries and model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.demo import CLIENT, PROVIDER, labelled_texts, model_folder, public_texts
from linalign_lite.demo.steps import Say, Steps, make_folders, new_keys, size_line, write_figures
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.encrypt.provider import Provider
from linalign_lite.encrypt.scores import Scores
from linalign_lite.extraction.pipeline import extract
from linalign_lite.extraction.session import Model, load_model
from linalign_lite.extraction.texts import Texts
from linalign_lite.heads.serialization import save
from linalign_lite.retrieval.choosing import fit_retrieval
from linalign_lite.retrieval.index.building import build_index
from linalign_lite.retrieval.index.card import CARD, IDS, read_card, read_ids
from linalign_lite.retrieval.index.reading import Index, open_index
from linalign_lite.retrieval.measures import overlap
from linalign_lite.storage.atomic import write_atomic
from linalign_lite.vectors.locations import create_vectors, open_vectors
from linalign_lite.vectors.source import Batch, VectorInfo

PUBLIC = 2000  # of the public texts: with all 4,000 the map is no better, and reading slower
TOP = 10
SHOWN = 3  # documents of each query that is printed
PRINTED = (45, 72, 133)  # queries; the figures are of all


def run_search(out: Path, say: Say) -> dict[str, Any]:
    """Play both parties of a private search in the folder ``out`` and return the figures.

    The provider's files go to out/provider, the client's to out/client. Only the public texts and
    the files in out/exchange pass between them: the provider's states on the public texts, to fit
    the map; index.json and ids.txt of the index, whose ids are the documents' own sentences; a
    public key, and two queries with their responses: of one text, and of all together.
    """
    return PrivateSearch(out, say).run()


class PrivateSearch:
    """Run the steps, print each with its time, and collect the figures."""

    def __init__(self, out: Path, say: Say) -> None:
        self.out, self.say, self.step = out, say, Steps(say)
        self.provider, self.client, self.exchange = make_folders(out)
        self.figures: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        public, documents = Texts(public_texts().texts[:PUBLIC]), labelled_texts(held_out=False)
        queries = labelled_texts(held_out=True)
        write_atomic(self.out / "public.txt", _lines(public))
        write_atomic(self.client / "queries.txt", _lines(queries))
        index, theirs = self._index(documents, public)
        states, affine = self._map(queries, public, theirs)
        scores = self._ask(states, affine)
        self._compare(scores, index, states, affine, queries, documents)
        self.figures["seconds"] = self.step.rounded()
        write_figures(self.out, self.figures)
        return self.figures

    def _index(self, documents: Texts, public: Texts) -> tuple[Index, HiddenStates]:
        """The provider's index, and its states on the public texts."""
        with self.step(f"The provider encodes its documents with its own model, {PROVIDER}") as say:
            model = load_model(model_folder(PROVIDER))
            theirs, own = extract(model, public), extract(model, documents)
            save(self.exchange / "provider.public.states.npz", theirs)
            vectors = str(self.provider / "documents.jsonl")
            with create_vectors(vectors, VectorInfo(own.space, len(own), "cosine")) as sink:
                sink.write(Batch(documents.texts, own.states))
                sink.finish()
            say.append(_card(model, len(own), "documents"))
        with self.step("The provider makes an index of them") as say:
            folder = self.provider / "documents.index"
            with open_vectors(vectors) as source:
                card = build_index(source, folder)
            for name in (CARD, IDS):  # what a client needs
                write_atomic(self.exchange / name, (folder / name).read_bytes())
            size = sum(file.stat().st_size for file in folder.iterdir())
            self.figures |= {"documents": card.rows, "index_bytes": size}
            say.append(
                f"{card.rows} rows of {card.space.dim} dimensions, {size / 1e3:.0f} kB; searched "
                f"with {card.row_bits} bits a number"
            )
        return open_index(folder), theirs

    def _map(
        self, queries: Texts, public: Texts, theirs: HiddenStates
    ) -> tuple[HiddenStates, AffineMap]:
        """The client's states of its queries, and its map into the provider's space."""
        with self.step(f"The client encodes its queries with its own model, {CLIENT}") as say:
            model = load_model(model_folder(CLIENT))
            own, states = extract(model, public), extract(model, queries)
            save(self.client / "public.states.npz", own)
            save(self.client / "queries.states.npz", states)
            say.append(_card(model, len(states), "queries"))
        with self.step("The client fits a map into the provider's space, on public texts") as say:
            affine, report = fit_retrieval(own, theirs)
            save(self.client / "client-to-provider.map.npz", affine)
            say.append(f"{report.n} texts; {report.method}")
        return states, affine

    def _ask(self, states: HiddenStates, affine: AffineMap) -> Scores:
        """Ask one query, then all in one file; return the scores of all."""
        card = read_card(self.exchange)
        one, every = states.rows(np.array([PRINTED[0]])), states
        with self.step("The client makes a key") as say:
            secret, public = new_keys(self.client / "keys")
            public.save(self.exchange / "public.key")
            size = (self.exchange / "public.key").stat().st_size
            say.append(f"public.key: {size / 1e3:.0f} kB, for the provider, once")
        client, asked = Client(secret), (("one", one), ("all", every))
        with self.step("The client maps and encrypts its queries") as say:
            for name, some in asked:
                path, started = self.exchange / f"{name}.query", time.perf_counter()
                client.encrypt_to(path, some, affine, index=card)
                say.append(_size_and_time(path, len(some), started))
        with self.step("The provider scores every document for queries that it cannot read") as say:
            key = PublicKey.load(self.exchange / "public.key")
            provider = Provider(open_index(self.provider / "documents.index"), keys=[key])
            for name, some in asked:
                path, started = self.exchange / f"{name}.response", time.perf_counter()
                provider.score_file(path.with_suffix(".query"), path)
                say.append(_size_and_time(path, len(some), started))
        with self.step("The client decrypts the scores, and reads the best documents off"):
            scores = client.decrypt_from(
                self.exchange / "all.response", self.exchange / "all.query"
            )
        for kind in ("query", "response"):
            self.figures[f"{kind}_bytes"] = (self.exchange / f"one.{kind}").stat().st_size
        return scores

    def _compare(
        self,
        scores: Scores,
        index: Index,
        states: HiddenStates,
        affine: AffineMap,
        queries: Texts,
        documents: Texts,
    ) -> None:
        """Print what was found, beside what the same search finds in the clear."""
        ids, found = read_ids(self.exchange, index.card), scores.top(TOP)
        clear, values = index.search(states, len(index), affine)
        self.say("     Scores, the same in the clear, and documents of three queries:")
        for i in PRINTED:
            self.say(f"     query: {queries.texts[i]}")
            exact = dict(zip(clear[i].tolist(), values[i].tolist(), strict=True))
            for row in found[i, :SHOWN].tolist():
                self.say(f"       {scores.values[i, row]:.3f}  {exact[row]:.3f}  {ids[row]}")
        native, _ = index.search(extract(load_model(model_folder(PROVIDER)), queries), 1)
        figures = {
            "queries": len(states),
            "overlap": float(overlap(found, clear, TOP).mean()),
            "largest_error": _largest_error(scores, clear, values),
            "encrypted": _on_topic(found[:, 0], queries, documents),
            "clear": _on_topic(clear[:, 0], queries, documents),
            "native": _on_topic(native[:, 0], queries, documents),
        }
        self.figures |= figures
        self.say(f"     All {len(states)} queries:")
        self.say(
            f"     {figures['overlap']:.3f}  of the first {TOP} documents are those of the same "
            "search in the clear"
        )
        for key, label in (
            ("encrypted", "of the best documents are on their query's topic, encrypted"),
            ("clear", "in the clear"),
            ("native", "in the clear, queries encoded with the provider's own model"),
        ):
            self.say(f"     {figures[key]:.3f}  {label}")


def _on_topic(rows: npt.NDArray[np.int64], queries: Texts, documents: Texts) -> float:
    """Share of queries whose document has their label."""
    pairs = zip(rows.tolist(), queries.labels, strict=True)
    return float(np.mean([documents.labels[row] == label for row, label in pairs]))


def _largest_error(
    scores: Scores, rows: npt.NDArray[np.int64], values: npt.NDArray[np.float32]
) -> float:
    return float(np.abs(np.take_along_axis(scores.values, rows, axis=1) - values).max())


def _size_and_time(path: Path, count: int, started: float) -> str:
    return f"{size_line(path, count)}, {(time.perf_counter() - started) * 1e3:.0f} ms"


def _card(model: Model, count: int, what: str) -> str:
    card = model.card
    return f"{card.architecture}, {card.hidden_size} dimensions; {count} {what}"


def _lines(texts: Texts) -> bytes:
    return "".join(text + "\n" for text in texts.texts).encode()
