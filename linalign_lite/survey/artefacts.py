"""Models, texts, states, heads and maps that the jobs of a survey share, each computed once."""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.kl.divergence_fit import fit_kl
from linalign_lite.alignment.multi_target import fit_several
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import InputError
from linalign_lite.extraction.model_card import ModelCard, load_card
from linalign_lite.extraction.pipeline import extract
from linalign_lite.extraction.session import Model, load_model
from linalign_lite.heads.evaluation import Evaluation, evaluate
from linalign_lite.heads.ood.detector import Detector
from linalign_lite.heads.ood.detector_training import fit_detector
from linalign_lite.heads.training import train_head
from linalign_lite.survey.cache import DiskCache, Inputs
from linalign_lite.survey.config import OWN, DataSet, SurveyConfig, TextFile

PUBLIC = "public"
KEPT_STATES = 24  # sets of states kept in memory
KEPT_DETECTORS = 32


class ArtefactStore:
    """Compute artefacts, or load them from the cache. For one thread.

    Raises InputError for an unusable model folder or file of texts.
    """

    def __init__(self, config: SurveyConfig, cache: DiskCache) -> None:
        self.config, self.cache = config, cache
        self.cards: dict[str, ModelCard] = {n: load_card(p) for n, p in config.models.items()}
        self.data: dict[str, DataSet] = {d.name: d for d in config.data}
        self.model = lru_cache(maxsize=2)(self._load_model)  # source and target of generation
        self.texts = lru_cache(maxsize=None)(TextFile.read)
        self._text_digest = lru_cache(maxsize=None)(self._compute_text_digest)
        self._states = lru_cache(maxsize=KEPT_STATES)(self._make_states)
        self.head = lru_cache(maxsize=KEPT_STATES)(self._make_head)
        self.native = lru_cache(maxsize=None)(self._evaluate_native)
        self.detector = lru_cache(maxsize=KEPT_DETECTORS)(self._fit_detector)

    def states(self, model: str, file: TextFile, pooling: str | None = None) -> HiddenStates:
        """Hidden states of a model on a file of texts."""
        pooling = pooling or self.config.pooling
        pooling = self.cards[model].pooling if pooling == OWN else pooling
        prompt = None if pooling == "tokens" else self.config.prompts.get(model)
        return self._states(model, file, pooling, prompt)

    def train(self, model: str, data: str) -> HiddenStates:
        return self.states(model, self.data[data].train)

    def test(self, model: str, data: str) -> HiddenStates:
        return self.states(model, self.data[data].test)

    def public(self, model: str) -> HiddenStates:
        """States of the public texts without labels, which only name their sources."""
        return without_labels(self.states(model, self.config.public))

    def text_digests(self, *files: TextFile) -> list[str]:
        """SHA-256 of the texts and labels of each file."""
        return [self._text_digest(r) for r in files]

    def inputs(self, models: Sequence[str], **more: Any) -> Inputs:
        """Inputs of a result: models, settings of the survey, and ``more``."""
        common: Inputs = {"seed": self.config.seed, "pooling": self.config.pooling}
        if prompts := {m: p for m, p in self.config.prompts.items() if m in models}:
            common["prompts"] = prompts
        return {"of": [self.cards[m].digest for m in models], **common, **more}

    def _compute_text_digest(self, file: TextFile) -> str:
        texts = self.texts(file)
        return hashlib.sha256((texts.digest + "\n".join(texts.labels)).encode()).hexdigest()

    def _load_model(self, name: str) -> Model:
        return load_model(self.config.models[name], verify=False)  # the card was verified

    def _make_states(
        self, model: str, file: TextFile, pooling: str, prompt: str | None
    ) -> HiddenStates:
        texts = self.texts(file)
        inputs = {
            "of": [self.cards[model].digest], "texts": self._text_digest(file), "pooling": pooling,
        }  # fmt: skip
        if prompt is not None:
            inputs["prompt"] = prompt
        step = f"{model} reads {file.texts.name}" + (", tokens" if pooling == "tokens" else "")
        return self.cache.artefact(
            "states", step, inputs,
            lambda: extract(self.model(model), texts, pooling=pooling, prompt=prompt), step,
        )  # fmt: skip

    def _make_head(self, model: str, data: str) -> Head:
        """Train the native head: logistic, on the model's own states."""
        states = self.train(model, data)
        texts = self.text_digests(self.data[data].train)
        inputs = self.inputs((model,), texts=texts, head="logistic")
        return self.cache.artefact(
            "head", f"head of {model} for {data}", inputs,
            lambda: train_head(states, method="logistic", seed=self.config.seed)[0],
            f"training {model}'s head for {data}",
        )  # fmt: skip

    def _evaluate_native(self, model: str, data: str) -> Evaluation:
        return evaluate(self.head(model, data), self.test(model, data))

    def _fit_detector(self, model: str, data: str, method: str) -> Detector:
        """Fit a detector to the model's own training states; too fast to be worth a file."""
        train, head = self.train(model, data), self.head(model, data)
        return fit_detector(train, method=method, head=head, seed=self.config.seed)

    def map_states(self, model: str, texts: str) -> HiddenStates:
        """States of the texts of a map: "public", or the training texts of a data set."""
        return self.public(model) if texts == PUBLIC else without_labels(self.train(model, texts))

    def training_file(self, texts: str) -> TextFile:
        return self.config.public if texts == PUBLIC else self.data[texts].train

    def ridge(self, source: str, target: str, texts: str) -> AffineMap:
        """The ridge map fitted on ``texts``; maps to all targets are fitted together."""
        digests = self.text_digests(self.training_file(texts))
        key = {
            to: (f"ridge, {source} to {to}, {texts}",
                 self.inputs((source, to), texts=digests, map="ridge"))
            for to in self.cards if to != source
        }  # fmt: skip

        def make() -> AffineMap:
            missing = [to for to in key if not self.cache.has(*key[to])]
            sides = {m: self.map_states(m, texts) for m in missing}
            found = fit_several(self.map_states(source, texts), sides, seed=self.config.seed)
            for to in missing:
                if to != target:
                    self.cache.artefact("map", *key[to], lambda to=to: found[to][0])  # type: ignore[misc]
            return found[target][0]

        return self.cache.artefact("map", *key[target], make, f"ridge, from {source}, {texts}")

    def kl(self, source: str, target: str, texts: str, data: str) -> AffineMap:
        """The kl map for the target's head on ``data``, fitted on ``texts``."""
        head, training = self.head(target, data), self.text_digests(self.data[data].train)
        digests = self.text_digests(self.training_file(texts))
        inputs = self.inputs((source, target), texts=digests, map="kl", head=training)
        step = f"kl, {source} to {target}, {texts}, for {data}"

        def make() -> AffineMap:
            sides = self.map_states(source, texts), self.map_states(target, texts)
            return fit_kl(*sides, head, seed=self.config.seed)[0]

        return self.cache.artefact("map", step, inputs, make, step)

    def few(self, data: str, n: int) -> npt.NDArray[np.intp]:
        """Draw ``n`` training texts by the seed; smaller sets are parts of larger ones."""
        count = len(self.texts(self.data[data].train).texts)
        if n > count:
            raise InputError(
                f"{data} has too few training texts for few = {n}",
                got=str(count),
                hint="lower `few`",
            )
        drawn: npt.NDArray[np.intp] = np.random.default_rng(self.config.seed).permutation(count)[:n]
        return drawn


def without_labels(states: HiddenStates) -> HiddenStates:
    """Copy states without their labels."""
    return dataclasses.replace(states, labels=(), label_ids=None)


def require_files(config: SurveyConfig) -> None:
    """Raise InputError before any work if a file of texts is missing."""
    files = [config.public, *(f for d in config.data for f in (d.train, d.test, d.outside))]
    if config.generation:
        files += [config.generation.train, config.generation.test]
    paths = [file.texts for file in files if file is not None]
    paths += [p for c in config.retrieval for p in (c.corpus, c.queries, c.judgements)]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} is missing", expected="a file of texts")
