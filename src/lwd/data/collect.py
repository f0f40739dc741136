"""One engine that collects demonstrations from the scripted expert of any environment family, in many processes.

What an attempt is, and what a file declares, is the expert's business (`Expert`). Attempts are numbered. A file holds the successes with
the smallest numbers: the same arguments give the same file whatever the number of processes, and a file can be extended later.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lwd.data.formats.npz import load_npz, save_npz
from lwd.envs.base import family
from lwd.envs.vector import cores
from lwd.episodes import Episodes, Meta, concatenate
from lwd.errors import LWDError

PATIENCE = 20  # failures beyond the number of successes after which an expert is given up
Attempt = tuple[Episodes, bool]  # one episode, and whether it is kept


class Expert(Protocol):
    """The class `Expert` of the module that `EnvFamily.expert` names: a dataclass whose fields are the options of that expert.

    `batch` is the number of attempts in one job of a process.
    """

    batch: int

    def check(self, seed: int, most: int) -> None:
        """Raises `LWDError` unless the simulator is there and `most` attempts from this seed on are allowed."""

    def meta(self, seed: int) -> Meta:
        """What a file declares. It is the same for all files that may be extended or read together."""

    def attempts(self, task: str, seed: int, numbers: range) -> Iterator[Attempt]:
        """Makes the attempts with these numbers at a task ("" where the family has one task)."""

    def number(self, tags: dict[str, Any], seed: int) -> int:
        """The number of the last attempt among those with these tags."""


def collect(
    env: str,
    out: Path | str,
    *,
    tasks: Sequence[str] = (),
    episodes: int = 20,
    seed: int = 0,
    workers: int | None = None,
    fresh: bool = False,
    progress: bool = True,
    **options: Any,
) -> list[dict[str, Any]]:
    """Writes the first `episodes` successful attempts of an expert; what is there already is kept, and extended where more is wanted.

    With more than one worker, a script that calls this needs the usual `if __name__ == "__main__":`.

    Args:
        env: name of the family.
        out: the file to write (.npz). For a family of several tasks: the directory for `<task>.npz`.
        tasks: names of tasks or of sets of them, for a family of several tasks.
        episodes: episodes to keep, of each task.
        seed: seed of start states and of the expert's choices.
        workers: processes. None is one per core, 1 stays in this process.
        fresh: collect anew what is there.
        progress: show a progress bar.
        options: fields of the family's `Expert`.

    Returns:
        For each file: `task`, `path`, `episodes`, `steps`, `attempts`, `success` (share of the attempts that succeeded) and `final_success`
        (share of the kept episodes that still succeed at their last step; None where the expert does not tell).

    Raises:
        LWDError: there is no expert, no such task, no simulator, a number makes no sense, `out` holds other data, or an expert fails in
            most attempts (the files of other tasks are written all the same).
    """
    known = family(env)
    if not known.expert:
        raise LWDError(f"there is no scripted expert for {env!r}: record demonstrations of your own")
    names = known.task_names(tasks) if known.tasks else [""]
    if not names:
        raise LWDError(f"say which tasks: names, or one of {', '.join(known.task_sets)}")
    workers = cores() if workers is None else workers
    for name, value in {"episodes": episodes, "workers": workers}.items():
        if value < 1:
            raise LWDError(f"{name} must be at least 1, not {value}")
    expert: Expert = importlib.import_module(known.expert).Expert(**options)
    expert.check(seed, 2 * episodes + PATIENCE)
    paths = {Path(out) / f"{name}.npz" if name else Path(out): name for name in names}
    files = [_File(path, name, episodes) for path, name in paths.items()]
    _look(Path(out), files, expert, seed, fresh)
    columns = (TextColumn("collect"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        item = bar.add_task("collect", total=episodes * len(files))
        _run(files, expert, seed, workers, lambda: bar.update(item, completed=sum(file.good for file in files)))
    if hopeless := [file.task or env for file in files if file.hopeless]:
        failed = f"the expert fails in most attempts at {', '.join(hopeless)}: leave that out, or change the options of the expert"
        raise LWDError(f"{failed}; what was collected for other tasks is in {out}" if len(files) > 1 else failed)
    return [file.row(expert, seed) for file in files]


@dataclass
class _File:
    """One file in the making."""

    path: Path
    task: str
    wanted: int
    kept: Episodes | None = None  # from an earlier collection
    first: int = 0  # number of the first attempt of this collection
    asked: int = 0  # attempts of this collection that were handed out
    found: dict[int, Attempt] = field(default_factory=dict)  # what came of them, by number
    hopeless: bool = False

    @property
    def good(self) -> int:
        """Episodes that the file has or will have."""
        return len(self.kept or ()) + sum(keep for _, keep in self.found.values())

    def jobs(self, batch: int) -> list[tuple[_File, range]]:
        """As many further attempts as episodes are missing."""
        start = self.first + self.asked
        self.asked += self.wanted - self.good
        end = self.first + self.asked
        return [(self, range(a, min(a + batch, end))) for a in range(start, end, batch)]

    def take(self, numbers: range, attempts: list[Attempt], batch: int) -> list[tuple[_File, range]]:
        """Adds what came of a job. After the last one, writes the file, or returns jobs for as many attempts as failed."""
        self.found.update(zip(numbers, attempts, strict=False))
        self.hopeless = self.hopeless or self._fails()
        if self.hopeless or len(self.found) < self.asked:
            return []
        if self.good < self.wanted:
            return self.jobs(batch)
        parts = [self.found[number][0] for number in sorted(self.found) if self.found[number][1]]
        self.kept, self.found = concatenate([*([self.kept] if self.kept else []), *parts]), {}
        save_npz(self.kept, self.path)
        return []

    def _fails(self) -> bool:
        """Whether failures exceed successes by more than `PATIENCE` at some number; what comes after a gap is not looked at yet."""
        excess = self.first - 2 * len(self.kept or ())
        for number in count(self.first):
            if number not in self.found or excess > PATIENCE:
                return excess > PATIENCE
            excess += -1 if self.found[number][1] else 1
        raise AssertionError

    def row(self, expert: Expert, seed: int) -> dict[str, Any]:
        assert self.kept is not None
        tags = self.kept.tags
        attempts = expert.number(tags, seed) + 1
        succeeded = int(np.sum(tags["success"])) if "success" in tags else len(self.kept)
        final = float(np.mean(tags["final_success"])) if "final_success" in tags else None
        row = {"task": self.task, "path": str(self.path), "episodes": len(self.kept), "steps": self.kept.steps, "attempts": attempts}
        return {**row, "success": succeeded / attempts, "final_success": final}


def _look(out: Path, files: list[_File], expert: Expert, seed: int, fresh: bool) -> None:
    """Takes over what is there already, and removes the rest of an interrupted collection.

    Raises:
        LWDError: what is there is of another kind, or more than is wanted.
    """
    meta, by_path = expert.meta(seed), {file.path: file for file in files}
    several = files[0].path != out
    if several and out.exists() and not out.is_dir():
        raise LWDError(f"{out} is a file: one file per task is written into a directory; choose another name")
    if not several and (out.is_dir() or out.suffix != ".npz"):
        raise LWDError(f"{out}: collected data is written to a file that ends in .npz (`lwd data convert` writes other formats)")
    for path in sorted(out.glob("*.npz")) if several else [out] * out.exists():
        file = by_path.get(path)
        if file is not None and fresh:
            continue
        there = load_npz(path)
        if there.meta != meta:
            remedy = "choose another place" + ("" if file is None else ", or collect anew with --fresh")
            raise LWDError(f"{path} holds other data ({there.meta.description or 'no description'}), not {meta.description}: {remedy}")
        if file is not None and len(there) > file.wanted:
            raise LWDError(f"{path} holds {len(there)} episodes, more than the {file.wanted} asked for: ask for as many, or add --fresh")
        if file is not None:
            file.kept, file.first = there, expert.number(there.tags, seed) + 1
    for file in files:
        for leftover in file.path.parent.glob(f".{file.path.name}.*.tmp"):
            leftover.unlink(missing_ok=True)
        if file.kept is None:
            file.path.unlink(missing_ok=True)


def _run(files: list[_File], expert: Expert, seed: int, workers: int, report: Callable[[], None]) -> None:
    """Hands out jobs, file by file, until every file is written or given up."""
    queue = deque(job for file in files for job in file.jobs(expert.batch))
    workers = max(1, min(workers, len(queue)))
    with _pool(workers) as executor:
        running: dict[Future[list[Attempt]], tuple[_File, range]] = {}
        while queue or running:
            report()
            while queue and len(running) < (1 if workers == 1 else 2 * workers):
                file, numbers = queue.popleft()
                if not file.hopeless:
                    running[executor.submit(_work, expert, file.task, seed, numbers)] = file, numbers
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                file, numbers = running.pop(future)
                queue.extendleft(reversed(file.take(numbers, future.result(), expert.batch)))
        report()


class _Here(Executor):
    """Works in this process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


_stop: Event | None = None  # in a worker process


def _work(expert: Expert, task: str, seed: int, numbers: range) -> list[Attempt]:
    """One job. It is broken off after the present attempt when the collection has been left."""
    attempts = []
    for attempt in expert.attempts(task, seed, numbers):
        attempts.append(attempt)
        if _stop is not None and _stop.is_set():
            break
    return attempts


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    """An executor of so many processes; 1 stays in this one. Leaving the block, also by Ctrl-C, ends them and drops what waits."""
    if workers == 1:
        yield _Here()
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of torch in an undefined state
    stop = context.Event()
    processes = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(stop,))
    try:
        yield processes
    except BrokenProcessPool as error:
        raise LWDError("a worker process died (out of memory?): try again with fewer workers") from error
    finally:
        stop.set()
        processes.shutdown(wait=True, cancel_futures=True)


def _begin(stop: Event) -> None:
    """Starts a worker process. Ctrl-C is for the parent alone; should the parent be killed, its workers end too."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
