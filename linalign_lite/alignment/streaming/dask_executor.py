"""Use a dask.distributed scheduler as an executor. Needs the extra `dask`."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor

from linalign_lite.errors import InputError, LinalignError, import_extra

TIMEOUT = 20  # seconds to reach the scheduler in


@contextlib.contextmanager
def connected(address: str) -> Iterator[tuple[Executor, int]]:
    """Workers of the scheduler at ``address`` ("tcp://host:8786"), and the tasks to keep in flight.

    A task whose worker ends is run again by another. Workers run what the scheduler sends them and
    trust it: docs/SECURITY.md. Raises MissingExtraError without dask.distributed, InputError when
    no scheduler or no worker answers, LinalignError when a task ends several workers.
    """
    distributed = import_extra("distributed", extra="dask", purpose="--scheduler")
    try:
        client = distributed.Client(address, timeout=TIMEOUT, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as e:
        raise InputError(
            "no dask scheduler answers",
            got=f"{address[:80]}: {type(e).__name__}",
            hint="start one with `dask scheduler`, and `dask worker ADDRESS` on each machine",
        ) from e
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise InputError("the dask scheduler has no workers", hint="dask worker ADDRESS")
        try:
            yield client.get_executor(pure=False), 2 * threads
        except (distributed.KilledWorker, CancelledError) as e:
            raise LinalignError(
                "the workers did not finish a task",
                got=type(e).__name__,
                hint="have they enough memory, and does the scheduler still run?",
            ) from e
