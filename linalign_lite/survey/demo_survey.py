"""Survey of the two bundled models on the bundled texts."""

import json
from pathlib import Path

from linalign_lite.demo import CLIENT, PROVIDER, labelled_texts, model_folder, public_texts
from linalign_lite.extraction.texts import Texts
from linalign_lite.storage.atomic import write_atomic
from linalign_lite.survey.cache import open_cache
from linalign_lite.survey.config import SurveyConfig, load_config
from linalign_lite.survey.run import CACHE

NAME = "demo"  # of this configuration on the command line
FOLDER = "texts"
STORIES = 800  # public texts for generation, a fifth of them for its test
LEFT_OUT = "weather"  # out-of-distribution topic


def write_bundled(out: Path) -> SurveyConfig:
    """Write the texts and `survey.toml` to ``out``; return the configuration."""
    folder = out / FOLDER
    open_cache(out / CACHE)  # marks the folder of a survey
    folder.mkdir(parents=True, exist_ok=True)
    public = public_texts().texts
    _write(folder / "public.jsonl", Texts(public))
    _write(folder / "stories-train.jsonl", Texts(public[STORIES // 5 : STORIES]))
    _write(folder / "stories-test.jsonl", Texts(public[: STORIES // 5]))
    for part, held_out in (("train", False), ("test", True)):
        texts = labelled_texts(held_out=held_out)
        _write(folder / f"topics-{part}.jsonl", texts)
        _write(folder / f"four-{part}.jsonl", _some(texts, inside=True))
    both = (_some(labelled_texts(held_out=h), inside=False) for h in (False, True))
    _write(folder / "fifth.jsonl", Texts(tuple(t for part in both for t in part.texts)))
    write_atomic(out / "survey.toml", _toml().encode())
    return load_config(out / "survey.toml")


def _some(texts: Texts, *, inside: bool) -> Texts:
    rows = [i for i, label in enumerate(texts.labels) if (label != LEFT_OUT) == inside]
    return Texts(tuple(texts.texts[i] for i in rows), tuple(texts.labels[i] for i in rows))


def _write(path: Path, texts: Texts) -> None:
    rows = [{"text": text} for text in texts.texts]
    if texts.labels:
        rows = [{**row, "label": x} for row, x in zip(rows, texts.labels, strict=True)]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _toml() -> str:
    models = "\n".join(
        f"{name} = {json.dumps(str(model_folder(name)))}" for name in (PROVIDER, CLIENT)
    )
    return f"""title = "The bundled models, {PROVIDER} and {CLIENT}"
few = [32, 128]

[models]
{models}

[public]
texts = "{FOLDER}/public.jsonl"

[[data]]
name = "topics"
train = "{FOLDER}/topics-train.jsonl"
test = "{FOLDER}/topics-test.jsonl"

[[data]]
name = "four topics"
train = "{FOLDER}/four-train.jsonl"
test = "{FOLDER}/four-test.jsonl"
outside = "{FOLDER}/fifth.jsonl"

[generation]
train = "{FOLDER}/stories-train.jsonl"
test = "{FOLDER}/stories-test.jsonl"
"""
