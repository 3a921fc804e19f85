"""Work done ahead of whoever waits for it: in a thread, or as tasks of any executor.

Results come in the order of the tasks, so nothing that is made of them depends on who was faster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import TypeVar

from linalign_lite.errors import InputError, LinalignError

T = TypeVar("T")
R = TypeVar("R")
_END = object()
IN_FLIGHT = 16  # tasks handed out and not yet used, unless told otherwise


def ahead(items: Iterable[T]) -> Iterator[T]:
    """What ``items`` gives, the next one being made in a thread while the last one is used."""
    source = iter(items)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, source, _END)
        while (item := waiting.result()) is not _END:
            waiting = thread.submit(next, source, _END)
            yield item  # type: ignore[misc]


def in_order(
    executor: Executor,
    function: Callable[[T], R],
    tasks: Iterable[T],
    *,
    in_flight: int = IN_FLIGHT,
) -> Iterator[R]:
    """function(task) of every task, run by the executor, in the order of the tasks.

    function and tasks must be picklable where the executor has processes. No more than
    ``in_flight`` results wait. On an error or Ctrl-C what has not begun is cancelled. Raises what a
    task raises, and LinalignError when the executor itself breaks down.
    """
    if in_flight < 1:
        raise InputError("the number of tasks in flight is not usable", got=str(in_flight))
    queue = iter(tasks)
    waiting: deque[Future[R]] = deque()
    try:
        while True:
            while len(waiting) < in_flight and (task := next(queue, _END)) is not _END:
                waiting.append(executor.submit(function, task))  # type: ignore[arg-type]
            if not waiting:
                return
            result = waiting.popleft().result()
            yield result
            del result  # or it stays while the next is waited for
    except BrokenExecutor as e:
        raise LinalignError(
            "a worker process ended before its task did",
            hint="was it killed for lack of memory? A dask scheduler would have started it again",
        ) from e
    finally:
        for future in waiting:
            future.cancel()
