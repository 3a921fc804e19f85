"""The bundled demonstration: two small models, public texts, and labelled texts on five topics.

`ash` and `birch` were trained independently of each other (export/train_demo.py): they differ in
architecture, tokenizer, width, seed and training text. `walkthrough` plays both parties with them.
"""

import json
from pathlib import Path

from linalign_lite.extraction.texts import Texts, read_texts

HERE = Path(__file__).resolve().parent
PROVIDER, CLIENT = "ash", "birch"
HELD_OUT_EVERY = 3  # of the texts of a topic, one is for testing


def model_folder(name: str) -> Path:
    """The exported folder of a bundled model, "ash" or "birch"."""
    return HERE / "models" / name


def public_texts() -> Texts:
    """Public texts to fit a map on: sentences sampled from both bundled models."""
    return read_texts(str(HERE / "public.txt"))


def labelled_texts(*, held_out: bool) -> Texts:
    """Labelled sentences about five topics, for training or, ``held_out``, for testing."""
    texts, labels = [], []
    for label, sentences in json.loads((HERE / "topics.json").read_text("utf-8")).items():
        for i, sentence in enumerate(sentences):
            if (i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == held_out:
                texts.append(sentence)
                labels.append(label)
    return Texts(tuple(texts), tuple(labels))
