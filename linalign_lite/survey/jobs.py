"""Jobs of a survey; each computes rows of one table of the results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from linalign_lite.survey.artefacts import ArtefactStore
from linalign_lite.survey.cache import Inputs
from linalign_lite.survey.results import Results


@dataclass(frozen=True)
class Job:
    """``compute`` returns rows for ``table``, which depend on ``inputs`` alone."""

    table: str
    label: str
    inputs: Inputs
    compute: Callable[[], Sequence[Any]]


def run_job(store: ArtefactStore, job: Job) -> tuple[Any, ...]:
    """Compute the rows of a job, or load them from the cache."""

    def compute() -> Sequence[Any]:
        store.tell(job.label)
        return job.compute()

    row_type = get_args(get_type_hints(Results)[job.table])[0]
    return store.cache.rows(job.label, {"table": job.table, **job.inputs}, row_type, compute)


def job_inputs(store: ArtefactStore, models: Sequence[str], **more: Any) -> Inputs:
    """Inputs of a job: models, settings of the survey, and ``more``."""
    common = {"seed": store.config.seed, "pooling": store.config.pooling}
    return {"of": store.model_digests(*models), "names": list(models), **common, **more}
