"""The whole exchange, step by step, on the bundled models: what `linalign-lite demo` runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.alignment.kl.fitting import fit_kl
from linalign_lite.alignment.least_squares import fit
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.metrics import accuracy
from linalign_lite.core.token_alignment import pair_states
from linalign_lite.demo import CLIENT, PROVIDER, labelled_texts, model_folder, public_texts
from linalign_lite.encrypt.client import Client, Scores
from linalign_lite.encrypt.keys import PublicKey, keygen
from linalign_lite.encrypt.provider import Provider
from linalign_lite.extraction.pipeline import extract
from linalign_lite.extraction.session import Model, load_model
from linalign_lite.extraction.texts import Texts
from linalign_lite.generation.evaluation.judge_map import judge
from linalign_lite.generation.hybrid import generate
from linalign_lite.heads.evaluation import evaluate, label_outputs
from linalign_lite.heads.serialization import save
from linalign_lite.heads.training import train_head
from linalign_lite.storage.atomic import write_atomic

Say = Callable[[str], None]
PROMPT, SAMPLE_TOKENS = "One day, Lily went to the park with her mom. She", 20
JUDGED_EVERY = 20  # of the public texts, one is held out to judge the writing by
TAUGHT = 500  # and so many others teach it: a few seconds' work, and little better with all
KL_PENALTY, KL_ITERATIONS = 1.0, 5


@dataclass
class Diary:
    """Says each step as it is done, with the time it took, and remembers the figures."""

    say: Say
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Lines added inside are said under the step's name when it is over."""
        lines: list[str] = []
        started = time.perf_counter()
        yield lines
        self.seconds[name] = time.perf_counter() - started
        self.say(f"{len(self.seconds)}. {name}  [{self.seconds[name]:.1f} s]")
        for line in lines:
            self.say(f"     {line}")


@dataclass(frozen=True)
class Readings:
    """What one model made of the texts it reads."""

    public: HiddenStates
    train: HiddenStates
    test: HiddenStates


def run(out: Path, say: Say) -> dict[str, Any]:
    """Play both parties in the folder ``out`` and return the figures.

    The provider's files go to out/provider, the client's to out/client. Only what is in
    out/exchange and the public texts crosses: the provider's states on the public texts, to fit the
    map; then a query and a response. For the writing at the end, the provider's token head and the
    client's model are in one place, as is what both made of the public texts, token by token.
    """
    diary = Diary(say)
    provider, client, exchange = (out / name for name in ("provider", "client", "exchange"))
    for folder in (provider, client, exchange):
        folder.mkdir(parents=True, exist_ok=True)
    texts = public_texts(), labelled_texts(held_out=False), labelled_texts(held_out=True)
    _write_texts(out, provider, client, *texts)

    a = _read(diary, PROVIDER, "provider", provider, texts)
    b = _read(diary, CLIENT, "client", client, texts)
    save(exchange / "provider.public.states.npz", a.public)
    affine = _fit(diary, b.public, a.public, client / "client-to-provider.map.npz")
    head = _head(diary, a.train, provider / "topics.head.npz")
    _judge(diary, head, affine, a, b)
    scores = _private(diary, head, affine, b.test, client, exchange)
    _compare(diary, scores, head, affine, b.test)
    _write(diary, texts[0], provider / "client-to-provider.tokens.map.npz")
    diary.figures["seconds"] = {k: round(v, 3) for k, v in diary.seconds.items()}
    write_atomic(out / "figures.json", (json.dumps(diary.figures, indent=2) + "\n").encode())
    return diary.figures


def _read(diary: Diary, name: str, who: str, folder: Path, texts: tuple[Texts, ...]) -> Readings:
    with diary.step(f"The {who} reads the texts with its own model, {name}") as lines:
        model = load_model(model_folder(name))
        found = [extract(model, t) for t in texts]
        for part, states in zip(("public", "train", "test"), found, strict=True):
            save(folder / f"{part}.states.npz", states)
        card = model.card
        lines.append(
            f"{card.architecture}, vocabulary {card.vocab_size}, {card.hidden_size} "
            f"dimensions; {sum(map(len, found))} texts"
        )
    return Readings(*found)


def _fit(diary: Diary, source: HiddenStates, target: HiddenStates, path: Path) -> AffineMap:
    with diary.step("The client fits a map into the provider's space, on public texts") as lines:
        affine, report = fit(source, target)
        save(path, affine)
        diary.figures["held_out_r2"] = report.held_out_r2
        dims = f"{report.d_source} to {report.d_target} dimensions"
        lines.append(
            f"{report.n} texts, {dims}, penalty {report.penalty:.2g}, "
            f"held-out R² {report.held_out_r2:.3f}"
        )
    return affine


def _head(diary: Diary, train: HiddenStates, path: Path) -> Head:
    with diary.step("The provider trains a classifier on its own states") as lines:
        head, report = train_head(train)
        save(path, head)
        lines.append(
            f"{report.n} texts, {report.classes} topics, {report.method} "
            f"(held-out accuracy {report.held_out_accuracy:.3f})"
        )
    return head


def _judge(diary: Diary, head: Head, affine: AffineMap, a: Readings, b: Readings) -> None:
    with diary.step("How well does the provider's classifier serve the client?") as lines:
        own, _ = train_head(b.train)
        rows = {
            "native": ("provider's classifier, provider's model", evaluate(head, a.test)),
            "mapped": ("provider's classifier, client's model and map",
                       evaluate(head, b.test, affine)),
            "client_own": ("for comparison: a classifier trained on the client's model",
                           evaluate(own, b.test)),
        }  # fmt: skip
        for key, (what, found) in rows.items():
            diary.figures[key] = found.accuracy.value
            lines.append(f"{found.accuracy.value:.3f}  {what}")
        diary.figures["majority"] = found.majority
        lines.append(f"{found.majority:.3f}  always the same topic")


def _private(
    diary: Diary, head: Head, affine: AffineMap, test: HiddenStates, client: Path, exchange: Path
) -> Scores:
    query, response = exchange / "test.query", exchange / "test.response"
    with diary.step("The client makes a key and encrypts its mapped states") as lines:
        secret, public = keygen()
        keys = client / "keys"
        keys.mkdir(mode=0o700)
        secret.save(keys / "secret.key")
        public.save(keys / "public.key")
        public.save(exchange / "public.key")
        asker = Client(secret)
        asker.encrypt_to(query, test, affine, n_outputs=head.n_outputs)
        lines.append(_sizes(query, len(test)))
    with diary.step("The provider scores what it cannot read") as lines:
        given = PublicKey.load(exchange / "public.key")  # what hides the head in the response
        Provider(head, keys=[given]).score_file(query, response)
        lines.append(_sizes(response, len(test)))
    with diary.step("The client decrypts the scores"):
        return asker.decrypt_from(response, query)


def _compare(
    diary: Diary, scores: Scores, head: Head, affine: AffineMap, test: HiddenStates
) -> None:
    plain = head(affine(test.states))
    guess = scores.predictions()
    diary.figures["encrypted"] = accuracy(label_outputs(head, test), guess)
    diary.figures["same_as_plain"] = int((guess == plain.argmax(axis=1)).sum())
    diary.figures["queries"] = len(test)
    diary.figures["largest_error"] = float(np.abs(scores.values - plain).max())
    diary.say(
        f"     {diary.figures['encrypted']:.3f}  accuracy on the encrypted queries; "
        f"{diary.figures['same_as_plain']} of {len(test)} answers as without encryption, "
        f"largest error of a score {diary.figures['largest_error']:.1e}"
    )


def _write(diary: Diary, public: Texts, path: Path) -> None:
    with diary.step("The client's model writes with the provider's token head") as lines:
        source, target = (load_model(model_folder(name)) for name in (CLIENT, PROVIDER))
        affine, pairs = _fit_tokens(source, target, public)
        save(path, affine)
        held_out = Texts(public.texts[::JUDGED_EVERY])
        found = judge(source, target, affine, held_out, samples=0)
        diary.figures["next_token_agreement"] = found.agreement
        lines.append(
            f"{pairs} token positions fit a map; the next token is the provider's own at "
            f"{found.agreement:.3f} of {found.positions} others"
        )
        mixed = _continued(source, target, affine)
        alone = _continued(target, target, None)
        diary.figures["sample"] = {"prompt": PROMPT, "hybrid": mixed, "provider": alone}
        lines.append(f"both go on with:   {PROMPT}")
        lines.append(f"client, map, head: {' '.join(mixed.split())}")
        lines.append(f"provider alone:    {' '.join(alone.split())}")


def _fit_tokens(source: Model, target: Model, public: Texts) -> tuple[AffineMap, int]:
    """A map for what the target's token head says, and how many positions it was fit on."""
    texts = [text for i, text in enumerate(public.texts) if i % JUDGED_EVERY][:TAUGHT]
    theirs, mine = (extract(m, texts, pooling="tokens", normalize=False) for m in (source, target))
    x, y = pair_states(theirs, mine)
    affine, _ = fit_kl(x, y, target.token_head(), penalty=KL_PENALTY, iterations=KL_ITERATIONS)
    return affine, len(x)


def _continued(source: Model, target: Model, affine: AffineMap | None) -> str:
    going = generate(source, target, PROMPT, affine=affine, max_tokens=SAMPLE_TOKENS)
    return "".join(piece.text for piece in going)


def _sizes(path: Path, count: int) -> str:
    size = path.stat().st_size
    return f"{path.name}: {count} queries, {size / 1e6:.1f} MB, {size / count / 1e3:.0f} kB each"


def _write_texts(
    out: Path, provider: Path, client: Path, public: Texts, train: Texts, test: Texts
) -> None:
    """The texts as files too, so that the same can be done again by hand with the commands."""
    write_atomic(out / "public.txt", "".join(t + "\n" for t in public.texts).encode())
    for path, texts in ((provider / "train.jsonl", train), (client / "test.jsonl", test)):
        rows = zip(texts.texts, texts.labels, strict=True)
        lines = (json.dumps({"text": t, "label": label}) + "\n" for t, label in rows)
        write_atomic(path, "".join(lines).encode())
