"""Steps of `linalign-lite demo`: both parties of an exchange, on the bundled models."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.alignment.kl.divergence_fit import fit_kl
from linalign_lite.alignment.least_squares import fit
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.metrics import accuracy
from linalign_lite.core.token_alignment import pair_states
from linalign_lite.demo import CLIENT, PROVIDER, labelled_texts, model_folder, public_texts
from linalign_lite.demo.steps import Say, Steps, make_folders, new_keys, size_line, write_figures
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.encrypt.provider import Provider
from linalign_lite.encrypt.scores import Scores
from linalign_lite.extraction.pipeline import extract
from linalign_lite.extraction.session import Model, load_model
from linalign_lite.extraction.texts import Texts
from linalign_lite.generation.evaluation.judge_map import judge
from linalign_lite.generation.hybrid import generate
from linalign_lite.heads.evaluation import evaluate, label_outputs
from linalign_lite.heads.serialization import save
from linalign_lite.heads.training import train_head
from linalign_lite.storage.atomic import write_atomic

PROMPT, SAMPLE_TOKENS = "One day, Lily went to the park with her mom. She", 20
EVALUATED_EVERY = 20  # of the public texts, one is held out to evaluate the token map on
TRAINING_TEXTS = 500  # of the token map: a few seconds' work, and little better with all
KL_PENALTY, KL_ITERATIONS = 1.0, 5


@dataclass(frozen=True)
class PartyStates:
    """States that the model of one party has on the texts."""

    public: HiddenStates
    train: HiddenStates
    test: HiddenStates


def run(out: Path, say: Say) -> dict[str, Any]:
    """Play both parties in the folder ``out`` and return the figures.

    The provider's files go to out/provider, the client's to out/client. Only the public texts and
    the files in out/exchange pass between them: the provider's states on the public texts, to fit
    the map; then a query and a response. For generation, the provider's token head, the client's
    model and the states of both on the public texts, one per token, are in one place.
    """
    return Walkthrough(out, say).run()


class Walkthrough:
    """Run the steps, print each with its time, and collect the figures."""

    def __init__(self, out: Path, say: Say) -> None:
        self.out, self.say, self.step = out, say, Steps(say)
        self.provider, self.client, self.exchange = make_folders(out)
        self.figures: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        head, affine, provider, client = self.prepare()
        self._evaluate(head, affine, provider, client)
        scores = self._score_encrypted(head, affine, client.test)
        self._compare(scores, head, affine, client.test)
        self._generate(public_texts())
        self.figures["seconds"] = self.step.rounded()
        write_figures(self.out, self.figures)
        return self.figures

    def prepare(self) -> tuple[Head, AffineMap, PartyStates, PartyStates]:
        """Make both parties' states, the client's map and the provider's classifier."""
        texts = public_texts(), labelled_texts(held_out=False), labelled_texts(held_out=True)
        self._write_texts(*texts)
        provider = self._extract(PROVIDER, "provider", self.provider, texts)
        client = self._extract(CLIENT, "client", self.client, texts)
        save(self.exchange / "provider.public.states.npz", provider.public)
        affine = self._fit(client.public, provider.public)
        return self._train(provider.train), affine, provider, client

    def _write_texts(self, public: Texts, train: Texts, test: Texts) -> None:
        """Write the texts too, so that the steps can be repeated with the commands."""
        write_atomic(self.out / "public.txt", "".join(t + "\n" for t in public.texts).encode())
        files = {self.provider / "train.jsonl": train, self.client / "test.jsonl": test}
        for path, texts in files.items():
            rows = zip(texts.texts, texts.labels, strict=True)
            lines = (json.dumps({"text": t, "label": label}) + "\n" for t, label in rows)
            write_atomic(path, "".join(lines).encode())

    def _extract(self, name: str, party: str, out: Path, texts: tuple[Texts, ...]) -> PartyStates:
        with self.step(f"The {party} reads the texts with its own model, {name}") as lines:
            model = load_model(model_folder(name))
            found = [extract(model, t) for t in texts]
            for part, states in zip(("public", "train", "test"), found, strict=True):
                save(out / f"{part}.states.npz", states)
            card = model.card
            lines.append(
                f"{card.architecture}, vocabulary {card.vocab_size}, {card.hidden_size} "
                f"dimensions; {sum(map(len, found))} texts"
            )
        return PartyStates(*found)

    def _fit(self, source: HiddenStates, target: HiddenStates) -> AffineMap:
        with self.step("The client fits a map into the provider's space, on public texts") as lines:
            affine, report = fit(source, target)
            save(self.client / "client-to-provider.map.npz", affine)
            self.figures["held_out_r2"] = report.held_out_r2
            lines.append(
                f"{report.n} texts, {report.d_source} to {report.d_target} dimensions, "
                f"penalty {report.penalty:.2g}, held-out R² {report.held_out_r2:.3f}"
            )
        return affine

    def _train(self, states: HiddenStates) -> Head:
        with self.step("The provider trains a classifier on its own states") as lines:
            head, report = train_head(states)
            save(self.provider / "topics.head.npz", head)
            lines.append(
                f"{report.n} texts, {report.classes} topics, {report.method} "
                f"(held-out accuracy {report.held_out_accuracy:.3f})"
            )
        return head

    def _evaluate(
        self, head: Head, affine: AffineMap, provider: PartyStates, client: PartyStates
    ) -> None:
        with self.step("How well does the provider's classifier serve the client?") as lines:
            own, _ = train_head(client.train)
            found = {
                "native": evaluate(head, provider.test),
                "mapped": evaluate(head, client.test, affine=affine),
                "client_own": evaluate(own, client.test),
            }
            labels = (
                "provider's classifier, provider's model",
                "provider's classifier, client's model and map",
                "for comparison: a classifier trained on the client's model",
            )
            for label, (key, evaluation) in zip(labels, found.items(), strict=True):
                self.figures[key] = evaluation.accuracy.value
                lines.append(f"{evaluation.accuracy.value:.3f}  {label}")
            self.figures["majority"] = evaluation.majority
            lines.append(f"{evaluation.majority:.3f}  always the same topic")

    def _score_encrypted(self, head: Head, affine: AffineMap, test: HiddenStates) -> Scores:
        query, response = self.exchange / "test.query", self.exchange / "test.response"
        with self.step("The client makes a key and encrypts its mapped states") as lines:
            secret, public = new_keys(self.client / "keys")
            public.save(self.exchange / "public.key")
            client = Client(secret)
            client.encrypt_to(query, test, affine, n_outputs=head.n_outputs)
            lines.append(size_line(query, len(test)))
        with self.step("The provider scores what it cannot read") as lines:
            key = PublicKey.load(self.exchange / "public.key")  # to hide the head in the response
            Provider(head, keys=[key]).score_file(query, response)
            lines.append(size_line(response, len(test)))
        with self.step("The client decrypts the scores"):
            return client.decrypt_from(response, query)

    def _compare(self, scores: Scores, head: Head, affine: AffineMap, test: HiddenStates) -> None:
        plain = head(affine(test.states))
        predicted = scores.predictions()
        found = {
            "encrypted": accuracy(label_outputs(head, test), predicted),
            "same_as_plain": int((predicted == plain.argmax(axis=1)).sum()),
            "queries": len(test),
            "largest_error": float(np.abs(scores.values - plain).max()),
        }
        self.figures.update(found)
        self.say(
            f"     {found['encrypted']:.3f}  accuracy on the encrypted queries; "
            f"{found['same_as_plain']} of {len(test)} answers as without encryption, "
            f"largest error of a score {found['largest_error']:.1e}"
        )

    def _generate(self, public: Texts) -> None:
        with self.step("The client's model writes with the provider's token head") as lines:
            source, target = (load_model(model_folder(name)) for name in (CLIENT, PROVIDER))
            affine, positions = _fit_tokens(source, target, public)
            save(self.provider / "client-to-provider.tokens.map.npz", affine)
            held_out = Texts(public.texts[::EVALUATED_EVERY])
            found = judge(source, target, affine, held_out, samples=0)
            self.figures["next_token_agreement"] = found.agreement
            lines.append(
                f"{positions} token positions fit a map; the next token is the provider's own at "
                f"{found.agreement:.3f} of {found.positions} others"
            )
            hybrid = _continue(source, target, affine)
            alone = _continue(target, target, None)
            self.figures["sample"] = {"prompt": PROMPT, "hybrid": hybrid, "provider": alone}
            lines.append(f"prompt:            {PROMPT}")
            lines.append(f"client, map, head: {' '.join(hybrid.split())}")
            lines.append(f"provider alone:    {' '.join(alone.split())}")


def _fit_tokens(source: Model, target: Model, public: Texts) -> tuple[AffineMap, int]:
    """Fit a map for the target's token head; return it with the number of its positions."""
    texts = [text for i, text in enumerate(public.texts) if i % EVALUATED_EVERY][:TRAINING_TEXTS]
    states = [extract(m, texts, pooling="tokens", normalize=False) for m in (source, target)]
    x, y = pair_states(states[0], states[1])
    affine, _ = fit_kl(x, y, target.token_head(), penalty=KL_PENALTY, iterations=KL_ITERATIONS)
    return affine, len(x)


def _continue(source: Model, target: Model, affine: AffineMap | None) -> str:
    pieces = generate(source, target, PROMPT, affine=affine, max_tokens=SAMPLE_TOKENS)
    return "".join(piece.text for piece in pieces)
