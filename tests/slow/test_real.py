"""The claims, on three real models and CLINC150: accuracies, maps, encrypted scores.

Thresholds are what the project promises; measured figures are in README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from linalign_lite import (
    PRIVATE,
    TRUSTED,
    Client,
    Head,
    HiddenStates,
    Provider,
    evaluate,
    evaluate_detector,
    extract,
    fit,
    fit_detector,
    fit_kl,
    fit_with_few,
    keygen,
    load_model,
    read_texts,
    train_head,
)
from linalign_lite.core.metrics import cross_entropy
from linalign_lite.demo import model_folder
from linalign_lite.encrypt.precision import rounding_step

NAMES = ("all-minilm-l6-v2", "tinystories-656k", "stories260k")
MINILM, STORY, SMALL = NAMES
pytestmark = [pytest.mark.shared, pytest.mark.export]


@pytest.fixture(scope="module")
def exported(shared: Path, tmp_path_factory) -> dict[str, Path]:
    pytest.importorskip("optimum")
    from linalign_lite.onnx.model_export import export_model

    root = tmp_path_factory.mktemp("models")
    for name in NAMES:
        export_model(str(shared / "models" / name), root / name)
    return {name: root / name for name in NAMES}


@pytest.fixture(scope="module")
def states(shared: Path, exported) -> Callable[[str, str], HiddenStates]:
    found: dict[tuple[str, str], HiddenStates] = {}

    def get(name: str, part: str) -> HiddenStates:
        if (name, part) not in found:
            texts = read_texts(str(shared / "data" / f"clinc150_{part}.jsonl"))
            found[name, part] = extract(load_model(exported[name]), texts)
        return found[name, part]

    return get


@pytest.mark.parametrize(
    ("name", "method", "least"),
    [
        (MINILM, "ridge", 0.905),
        (STORY, "ridge", 0.655),
        (MINILM, "logistic", 0.945),
        (STORY, "logistic", 0.72),
        (SMALL, "logistic", 0.66),
    ],
)
def test_heads_reach_their_accuracy(states, name, method, least):
    penalty = "auto" if method == "ridge" else {MINILM: 3e-3, STORY: 1e-3, SMALL: 3e-4}[name]
    head, _ = train_head(states(name, "train"), method=method, penalty=penalty)
    assert evaluate(head, states(name, "test")).accuracy.value >= least


@pytest.mark.parametrize(
    ("source", "target", "least"), [(MINILM, STORY, 0.78), (STORY, MINILM, 0.60)]
)
def test_a_map_without_labels_serves_the_other_models_head(states, source, target, least):
    unlabelled = [replace(states(n, "train"), labels=(), label_ids=None) for n in (source, target)]
    affine, report = fit(*unlabelled)
    head, _ = train_head(states(target, "train"), method="ridge")
    assert evaluate(head, states(source, "test"), affine=affine).accuracy.value >= least
    assert 0 < report.held_out_r2 < 1
    if source == MINILM:
        assert report.rank == 384 - 3  # three dimensions of MiniLM never change


def test_a_map_for_the_head_serves_it_better_than_least_squares(states):
    """On a part of the texts; measured on all of them in README.md."""

    def some(name, part, count):
        whole = states(name, part)
        return whole.rows(np.sort(np.random.default_rng(0).permutation(len(whole))[:count]))

    source, target = (some(n, "train", 4000) for n in (STORY, MINILM))
    head, _ = train_head(target, method="logistic", penalty=0.1)
    unlabelled = [replace(s, labels=(), label_ids=None) for s in (source, target)]
    plain, _ = fit(*unlabelled)
    affine, report = fit_kl(*unlabelled, head, penalty=3.0, iterations=40)
    test = some(STORY, "test", 1000)
    accuracy = [evaluate(head, test, affine=m).accuracy.value for m in (plain, affine)]
    assert accuracy[1] > accuracy[0] + 0.1
    assert report.held_out_agreement > report.start_agreement + 0.05
    back, _ = fit_kl(*unlabelled[::-1], Head(np.eye(3, 128), np.zeros(3)), penalty=1e-3)
    still = np.ptp(target.states, axis=0) == 0  # dimensions of MiniLM that never change
    assert still.any()
    assert np.abs(back.weight[:, still]).max() < 1e-9


@pytest.mark.parametrize(
    ("method", "native", "mapped"),
    [("mahalanobis", 0.925, 0.88), ("relative-mahalanobis", 0.965, 0.92), ("cosine", 0.96, 0.935)],
)
def test_texts_outside_the_intents_are_found(states, method, native, mapped):
    """MiniLM alone, and MiniLM through a least-squares map with TinyStories' own detector."""
    inside, outside = states(MINILM, "test"), states(MINILM, "oos_test")
    own = fit_detector(states(MINILM, "train"), method=method, validation=states(MINILM, "val"))
    found = evaluate_detector(own, inside, outside)
    assert found.auroc.value >= native
    assert 0.93 <= found.kept <= 0.97
    theirs = fit_detector(states(STORY, "train"), method=method)
    unlabelled = [replace(states(n, "train"), labels=(), label_ids=None) for n in (MINILM, STORY)]
    affine, _ = fit(*unlabelled)
    theirs = theirs.with_threshold(theirs.scores(states(MINILM, "val"), affine))
    found = evaluate_detector(theirs, inside, outside, affine)
    assert found.auroc.value >= mapped
    assert 0.93 <= found.kept <= 0.97


@pytest.fixture(scope="module")
def public(shared: Path, exported) -> tuple[HiddenStates, HiddenStates]:
    texts = read_texts(str(shared / "data" / "generic_sentences.jsonl"), limit=20_000)
    return tuple(extract(load_model(exported[name]), texts) for name in (MINILM, STORY))


@pytest.mark.parametrize(("count", "least"), [(128, 0.36), (512, 0.64)])
def test_few_texts_and_public_ones_make_a_map_that_serves(states, public, count, least):
    """More than weighting both alike gave, and more than ridge on either side alone."""
    whole = states(MINILM, "train")
    rows = np.sort(np.random.default_rng(0).permutation(len(whole))[:count])
    few = [
        replace(states(n, "train").rows(rows), labels=(), label_ids=None) for n in (MINILM, STORY)
    ]
    head, _ = train_head(states(STORY, "train"), method="logistic", penalty=1e-3)
    test = states(MINILM, "test")
    affine, report = fit_with_few(*public, *few, head=head)
    ours = evaluate(head, test, affine=affine).accuracy.value
    assert ours >= least
    alone = [fit(*side)[0] for side in (public, few)]
    assert ours > max(evaluate(head, test, affine=m).accuracy.value for m in alone) + 0.1
    assert report.loss < min(report.public_loss, report.few_loss)
    squares, plain = fit_with_few(*public, *few)
    assert plain.both_loss < min(plain.public_loss, plain.few_loss)
    assert evaluate(head, test, affine=squares).accuracy.value < ours


def test_encrypted_scores_are_the_plain_ones(states):
    head, _ = train_head(states(MINILM, "train"), method="logistic", penalty=1e-3)
    queries = states(MINILM, "test").states[::30]
    plain = head(queries)
    for profile in (PRIVATE, TRUSTED):
        secret, public = keygen(profile)
        client, provider = Client(secret), Provider(head, keys=[public], accept=[profile])
        for count in (1, len(queries)):  # one alone, and all in shared ciphertexts
            query = client.encrypt(queries[:count], n_outputs=head.n_outputs)
            scores = client.decrypt(provider.score(query), query)
            most = scores.error + rounding_step(scores.error)[0] / 2
            assert np.abs(scores.values - plain[:count]).max() <= most < 5e-3
            np.testing.assert_array_equal(scores.predictions(), plain[:count].argmax(axis=1))


def test_states_are_those_of_transformers(shared, exported):
    """Mean pooling and length 1, computed by the torch model itself, text by text."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModel, AutoTokenizer

    texts = read_texts(str(shared / "data" / "clinc150_test.jsonl"), limit=40)
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / MINILM)
    model = AutoModel.from_pretrained(shared / "models" / MINILM, dtype=torch.float32).eval()
    got = extract(load_model(exported[MINILM]), texts).states
    for row, text in zip(got, texts.texts, strict=True):
        with torch.no_grad():
            wanted = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        wanted = wanted.numpy() / np.linalg.norm(wanted.numpy())
        assert float(row @ wanted) >= 0.99999


@pytest.mark.parametrize("name", ["ash", "birch"])
def test_the_bundled_models_read_stories(shared, name):
    """At most 1.20 bits per character on tinystories_valid, as bundled: ONNX and token head.

    Every token after the first is scored once, and the end token; a story longer than the context
    is read in windows that overlap by half, each begun with the start token.
    """
    model = load_model(model_folder(name))
    head, context = model.token_head(), model.card.max_length
    text = (shared / "data" / "tinystories_valid.txt").read_text(encoding="utf-8")
    stories = [s.strip() for s in text.split("<|endoftext|>") if s.strip()]
    model.tokenizer.no_truncation()
    nats = 0.0
    for story in stories:
        bos, *ids = [*model.tokenizer.encode(story).ids, model.card.special["eos"]]
        scored = 0
        while scored < len(ids):
            start = max(0, scored - context // 2)
            window = np.array([[bos, *ids[start : start + context - 1]]])
            states = model.run(window, np.ones_like(window))[0]
            truth = window[0, 1 + scored - start :]
            nats += cross_entropy(head(states[scored - start : -1]), truth) * len(truth)
            scored = min(len(ids), start + context - 1)
    assert nats / sum(map(len, stories)) / np.log(2) <= 1.20
