"""Processes that collect: the same jobs in one process or in many, ended whenever the block that uses them is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

from lwd.errors import LWDError

Job = TypeVar("Job")
Result = TypeVar("Result")


class _Here(Executor):
    """Works in this process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


_stop: Event | None = None  # in a worker process


def stopped() -> bool:
    """Whether nobody waits for the present job any more: long ones ask now and then, and return."""
    return _stop is not None and _stop.is_set()


@contextmanager
def pool(workers: int) -> Iterator[Executor]:
    """An executor of so many processes; 1 stays in this one. Leaving the block, also by Ctrl-C, ends them, and drops what waits.

    With more than one worker, a script that uses it needs the usual `if __name__ == "__main__":`.

    Raises:
        LWDError: a process died.
    """
    if workers == 1:
        yield _Here()
        return
    # Fresh processes: a fork would copy torch's threads in an undefined state.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    processes = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(stop,))
    try:
        yield processes
    except BrokenProcessPool as error:
        raise LWDError("a worker process died (out of memory?): try again with fewer workers") from error
    finally:
        stop.set()
        processes.shutdown(wait=True, cancel_futures=True)


def in_order(executor: Executor, function: Callable[[Job], Result], jobs: Iterator[Job], window: int) -> Iterator[Result]:
    """Results in the order of the jobs (which may be without end), of which `window` are in the executor at a time."""
    waiting = [executor.submit(function, job) for job in islice(jobs, window)]
    while waiting:
        yield waiting.pop(0).result()
        waiting += [executor.submit(function, job) for job in islice(jobs, 1)]


def _begin(stop: Event) -> None:
    """Start of a worker process. Ctrl-C is for the parent alone; should the parent be killed, its workers end too."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
