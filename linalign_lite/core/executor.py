"""Run tasks ahead of their use, in a thread or by any executor; count the cores and the memory.

Results come in the order of the tasks, so nothing made from them depends on which task was faster.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from itertools import repeat, takewhile
from pathlib import Path
from typing import Any, TypeVar

from linalign_lite.errors import InputError, LinalignError

T = TypeVar("T")
R = TypeVar("R")
IN_FLIGHT = 16  # default number of tasks that are submitted and not yet used
_END: Any = object()


def map_in_order(
    executor: Executor,
    function: Callable[[T], R],
    tasks: Iterable[T],
    *,
    in_flight: int = IN_FLIGHT,
    hint: str = "was it killed for lack of memory? A dask scheduler would have started it again",
) -> Iterator[R]:
    """Yield function(task) of every task, run by the executor, in the order of the tasks.

    function and tasks must be picklable for an executor of processes. Tasks are drawn as they are
    submitted; at most ``in_flight`` are submitted and not yet used, the one being waited for among
    them. An error, Ctrl-C or closing the iterator cancels those that have not begun. The caller
    shuts the executor down. Raises what a task raises, and LinalignError with ``hint`` when a
    worker process ends.
    """
    if in_flight < 1:
        raise InputError("the number of tasks in flight is not usable", got=str(in_flight))
    queue = iter(tasks)
    futures: deque[Future[R]] = deque()
    try:
        while True:
            while len(futures) < in_flight and (task := next(queue, _END)) is not _END:
                futures.append(executor.submit(function, task))
            if not futures:
                return
            yield futures.popleft().result()  # no name holds it while the next is waited for
    except BrokenExecutor as e:
        raise LinalignError("a worker process ended before its task did", hint=hint) from e
    finally:
        for future in futures:
            future.cancel()


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Yield the items; while one is used, a thread makes the next."""
    source = iter(items)
    with ThreadPoolExecutor(1) as thread:
        made = map_in_order(thread, lambda _: next(source, _END), repeat(None), in_flight=2)
        yield from takewhile(lambda item: item is not _END, made)


def cores(*, physical: bool = False) -> int:
    """Count the processor cores that this process may run on.

    physical: count hyperthreads of one core once, where the system (Linux) tells.
    """
    if hasattr(os, "sched_getaffinity"):
        usable = os.sched_getaffinity(0)
    else:
        usable = set(range(os.cpu_count() or 1))
    return len({_siblings(cpu) for cpu in usable}) if physical else len(usable)


def memory() -> int:
    """Physical memory of the machine in bytes; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


def _siblings(cpu: int) -> str:
    """The hyperthreads of the core that ``cpu`` belongs to; ``cpu`` alone where unknown."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return str(cpu)
