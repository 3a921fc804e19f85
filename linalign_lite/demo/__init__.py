"""The bundled demonstration: two small models of our own, and texts of our own.

`ash` and `birch` were trained independently of each other (export/train_demo.py): another
architecture, tokenizer, width, seed and training text.
"""

from __future__ import annotations

import json
from pathlib import Path

from linalign_lite.extraction.texts import Texts, read_texts

HERE = Path(__file__).resolve().parent
PROVIDER, CLIENT = "ash", "birch"
HELD_OUT_EVERY = 3  # every third text of a topic is for testing


def model_folder(name: str) -> Path:
    """The exported folder of a bundled model, "ash" or "birch"."""
    return HERE / "models" / name


def public_texts() -> Texts:
    """The public texts that a map is fit on: sentences drawn from both bundled models."""
    return read_texts(str(HERE / "public.txt"))


def labelled_texts(*, held_out: bool) -> Texts:
    """Sentences about five topics, written for this demonstration, for training or for testing."""
    texts, labels = [], []
    for label, sentences in json.loads((HERE / "topics.json").read_text("utf-8")).items():
        for i, sentence in enumerate(sentences):
            if (i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == held_out:
                texts.append(sentence)
                labels.append(label)
    return Texts(tuple(texts), tuple(labels))
