"""What there is to do: a list of jobs, each of which gives rows of one table of the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from linalign_lite.survey.artefacts import ArtefactStore
from linalign_lite.survey.cache import Inputs


@dataclass(frozen=True)
class Job:
    """``make`` gives rows of ``kind`` for a table of the results, which depend on ``inputs``."""

    label: str
    table: str
    kind: type[Any]
    inputs: Inputs
    make: Callable[[], Sequence[Any]]


def run_job(store: ArtefactStore, job: Job) -> tuple[Any, ...]:
    """The job's rows, made now or earlier."""

    def make() -> Sequence[Any]:
        store.tell(job.label)
        return job.make()

    return store.cache.rows(job.label, {"table": job.table, **job.inputs}, job.kind, make)


def job_inputs(store: ArtefactStore, models: Sequence[str], **more: Any) -> Inputs:
    """Inputs of a job about some models under the survey's settings."""
    return {"of": store.model_digests(*models), "names": list(models), "seed": store.config.seed,
            "pooling": store.config.pooling, **more}  # fmt: skip
