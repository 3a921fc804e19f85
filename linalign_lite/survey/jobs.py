"""What there is to do: a list of jobs, each of which gives rows of one table of the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from linalign_lite.survey.artefacts import Workshop
from linalign_lite.survey.cache import Described


@dataclass(frozen=True)
class Job:
    """``make`` gives rows of ``kind`` for a table of the results, which depend on ``inputs``."""

    label: str
    table: str
    kind: type[Any]
    inputs: Described
    make: Callable[[], Sequence[Any]]


Jobs = Iterator[Job]


def run_job(shop: Workshop, job: Job) -> tuple[Any, ...]:
    """The job's rows, made now or earlier."""

    def make() -> Sequence[Any]:
        shop.tell(job.label)
        return job.make()

    return shop.shelf.rows(job.label, {"table": job.table, **job.inputs}, job.kind, make)


def described(shop: Workshop, models: Sequence[str], **more: Any) -> Described:
    """Inputs of a job about some models under the survey's settings."""
    return {"of": shop.digests(*models), "names": list(models), "seed": shop.config.seed,
            "pooling": shop.config.pooling, **more}  # fmt: skip
