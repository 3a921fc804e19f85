"""Run a survey: every job in turn; the result of each is kept at once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.errors import OutputExistsError
from linalign_lite.extraction.model_card import ModelCard
from linalign_lite.survey.artefacts import ArtefactStore, require_files
from linalign_lite.survey.cache import Notify, open_cache
from linalign_lite.survey.classification_jobs import list_classification
from linalign_lite.survey.config import SurveyConfig
from linalign_lite.survey.curve_jobs import list_curves, list_projections
from linalign_lite.survey.few_pair_jobs import list_few_pairs
from linalign_lite.survey.generation_jobs import list_generation, list_tokenizers
from linalign_lite.survey.jobs import Job, run_job
from linalign_lite.survey.ood_jobs import list_ood
from linalign_lite.survey.results import DataRow, ModelRow, Results
from linalign_lite.survey.retrieval_jobs import list_retrieval
from linalign_lite.survey.similarity_jobs import list_similarity
from linalign_lite.version import __version__

CACHE = "cache"
JOBS: tuple[tuple[str, Callable[[ArtefactStore], Iterator[Job]]], ...] = (
    ("tokenizers", list_tokenizers),
    ("similarity", list_similarity),
    ("classification", list_classification),
    ("", list_curves),
    ("few-pairs", list_few_pairs),
    ("classification", list_projections),
    ("ood", list_ood),
    ("generation", list_generation),
    ("retrieval", list_retrieval),
)  # task that wants them, if not all do
Progress = Callable[[int, int], None]  # jobs done, jobs in all


def run_survey(
    config: SurveyConfig,
    out: Path,
    *,
    progress: Progress = lambda _done, _all: None,
    tell: Notify = lambda _: None,
) -> Results:
    """Measure every ordered pair of the models of ``config`` on every task that it names.

    Intermediate results are kept in ``out/cache`` under digests of their inputs: a stopped survey
    resumes, and one with another model computes only what is new. Nothing else is written;
    `results_file.save_results` writes the returned results. ``progress`` is called after each job,
    ``tell`` with the name of each step.

    Raises InputError for an unusable model, file or folder, OutputExistsError if ``out`` is not
    the folder of a survey.
    """
    require_survey_folder(out)
    require_files(config)
    store = ArtefactStore(config, open_cache(out / CACHE, tell))
    for data in config.data:
        for n in config.few:
            store.few(data.name, n)  # raises before any work if a data set is too small
    wanted = {"", *config.tasks}
    jobs = [job for task, list_jobs in JOBS if task in wanted for job in list_jobs(store)]
    found: dict[str, list[Any]] = {}
    progress(0, len(jobs))
    for done, job in enumerate(jobs, 1):
        found.setdefault(job.table, []).extend(run_job(store, job))
        progress(done, len(jobs))
    return Results(
        title=config.title,
        library=__version__,
        seed=config.seed,
        pooling=config.pooling,
        public=len(store.texts(config.public).texts),
        models=tuple(_model_row(config, n, c) for n, c in store.cards.items()),
        data=tuple(_data_row(store, name) for name in store.data),
        times=tuple(store.cache.times),
        **{table: tuple(rows) for table, rows in found.items()},
    )


def require_survey_folder(out: Path) -> None:
    """Raise OutputExistsError unless ``out`` is missing, empty, or the folder of a survey."""
    if not out.exists() and not out.is_symlink():
        return
    if out.is_dir() and (not any(out.iterdir()) or (out / CACHE).is_dir()):
        return
    raise OutputExistsError(
        f"{out} exists and is not the folder of a survey", hint="choose another folder"
    )


def _model_row(config: SurveyConfig, name: str, card: ModelCard) -> ModelRow:
    return ModelRow(
        name, card.digest, card.architecture, card.task, card.hidden_size, card.vocab_size,
        card.max_length, config.prompts.get(name, ""),
    )  # fmt: skip


def _data_row(store: ArtefactStore, name: str) -> DataRow:
    data = store.data[name]
    train, test = store.texts(data.train), store.texts(data.test)
    names, ids = test.label_ids()
    majority = 0.0 if ids is None else float(np.bincount(ids).max() / len(ids))
    outside = 0 if data.outside is None else len(store.texts(data.outside).texts)
    return DataRow(name, len(train.texts), len(test.texts), outside, len(names), majority)
