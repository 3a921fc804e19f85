"""Jobs of a survey; each computes rows of one table of the results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from linalign_lite.survey.artefacts import ArtefactStore
from linalign_lite.survey.cache import Inputs
from linalign_lite.survey.results import Results


@dataclass(frozen=True)
class Job:
    """``compute`` returns rows for ``table``, which depend on ``models`` and ``inputs`` alone."""

    table: str
    label: str
    models: Sequence[str]
    inputs: Inputs
    compute: Callable[[], Sequence[Any]]


def run_job(store: ArtefactStore, job: Job) -> tuple[Any, ...]:
    """Compute the rows of a job, or load them from the cache."""
    row_type = get_args(get_type_hints(Results)[job.table])[0]
    inputs = {"table": job.table, **job_inputs(store, job.models, **job.inputs)}
    return store.cache.rows(job.label, inputs, row_type, job.compute)


def job_inputs(store: ArtefactStore, models: Sequence[str], **more: Any) -> Inputs:
    """Inputs of a result that names its models: these, settings of the survey, and ``more``."""
    return store.inputs(models, names=list(models), **more)
