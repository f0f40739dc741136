"""Collects numbered attempts of a family's scripted expert. A file holds the first successes, the same for any number of processes."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from lwd.config import require
from lwd.data.formats.npz import load_npz, save_npz
from lwd.envs.base import family
from lwd.envs.vector import cores
from lwd.episodes import Episodes, Meta, concatenate
from lwd.errors import LWDError

PATIENCE = 20  # failures beyond the number of successes after which an expert is given up
Attempt = tuple[Episodes, bool]  # one episode, and whether it is kept


class Expert(Protocol):
    """The class `Expert` of the module that `EnvFamily.expert` names: a dataclass whose fields are the options of that expert."""

    batch: int  # attempts in one job of a process
    parts: Sequence[str]  # kinds of demonstrations, where a family of one task has several: each has a file of its own

    def check(self, seed: int, most: int) -> None:
        """Raises `LWDError` unless the simulator is there and `most` attempts from this seed on are allowed."""

    def meta(self, seed: int) -> Meta:
        """What a file declares. It is the same for all files that may be extended or read together."""

    def attempts(self, task: str, seed: int, numbers: range) -> Iterator[Attempt]:
        """Makes the attempts with these numbers at a task, or of a part ("" where there is one task and one kind)."""

    def number(self, tags: dict[str, Any], seed: int) -> int:
        """The number of the last attempt among those with these tags."""


@dataclass
class _File:
    """One file in the making."""

    path: Path
    task: str
    episodes: list[Episodes] = field(default_factory=list)  # what is in it, or will be
    next: int = 0  # number of the first attempt of which nothing is known yet

    @property
    def good(self) -> int:
        return sum(map(len, self.episodes))

    @property
    def hopeless(self) -> bool:
        return self.next - 2 * self.good > PATIENCE


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

    `out` is a file (.npz), or the directory for `<task>.npz` where the family has several tasks; then `tasks` names tasks or sets of them,
    and `episodes` is of each. So it is with the parts of an expert. `options` are fields of the family's `Expert`. `workers` None is one
    per core, and 1 stays in this process: with more, a script that calls this needs the usual `if __name__ == "__main__":`.

    Returns for each file `task`, `path`, `episodes`, `steps`, `attempts`, `success` (share of the attempts that succeeded) and
    `final_success` (share of the kept episodes that still succeed at their last step; None where the expert does not tell).
    """
    known, workers = family(env), cores() if workers is None else workers
    require(bool(known.expert), f"there is no scripted expert for {env!r}: record demonstrations of your own")
    for name, value in {"episodes": episodes, "workers": workers}.items():
        require(value >= 1, f"{name} must be at least 1, not {value}")
    kind: Any = importlib.import_module(known.expert).Expert
    own = {"env": env} if "env" in kind.__dataclass_fields__ else {}  # several environments share an expert
    expert: Expert = kind(**own, **options)
    names = known.task_names(tasks) if known.tasks else list(getattr(expert, "parts", ())) or [""]
    require(bool(names), f"say which tasks: names, or one of {', '.join(known.task_sets)}")
    expert.check(seed, 2 * episodes + PATIENCE)
    files = _files(Path(out), names, expert, seed, episodes, fresh)
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True), disable=not progress) as bar:
        item = bar.add_task("collect", total=episodes * len(files))
        with _pool(workers) as submit:
            while unfinished := [file for file in files if file.good < episodes and not file.hopeless]:
                jobs = []
                for file in unfinished:  # as many further attempts as episodes are missing
                    end = file.next + episodes - file.good
                    batches = [range(start, min(start + expert.batch, end)) for start in range(file.next, end, expert.batch)]
                    jobs += [(file, submit(_work, expert, file.task, seed, numbers)) for numbers in batches]
                for file, result in jobs:
                    for episode, keep in [] if file.hopeless else result():
                        file.next += 1
                        if keep:
                            file.episodes.append(episode)
                    bar.update(item, completed=sum(file.good for file in files))
                    if file.good == episodes:
                        save_npz(concatenate(file.episodes), file.path)
    if hopeless := [file.task or env for file in files if file.hopeless]:
        failed = f"the expert fails in most attempts at {', '.join(hopeless)}: leave that out, or change the options of the expert"
        raise LWDError(f"{failed}; what was collected for other tasks is in {out}" if len(files) > 1 else failed)
    rows = []
    for file in files:
        whole = concatenate(file.episodes)
        success = float(np.sum(whole.tags.get("success", len(whole)))) / file.next
        final = float(np.mean(whole.tags["final_success"])) if "final_success" in whole.tags else None
        row = {"task": file.task, "path": str(file.path), "episodes": len(whole), "steps": whole.steps, "attempts": file.next}
        rows.append({**row, "success": success, "final_success": final})
    return rows


def _files(out: Path, names: list[str], expert: Expert, seed: int, wanted: int, fresh: bool) -> list[_File]:
    """The files to write, with what is there already. What is of another kind, or more than is wanted, is refused."""
    several, meta = names != [""], expert.meta(seed)
    require(not several or not out.is_file(), f"{out} is a file: one file per task is written into a directory; choose another name")
    fits = several or (out.suffix == ".npz" and not out.is_dir())
    require(fits, f"{out}: collected data is written to a file that ends in .npz (`lwd data convert` writes other formats)")
    files = {path: _File(path, name) for name in names for path in [out / f"{name}.npz" if several else out]}
    for path in sorted(out.glob("*.npz")) if several else [out] * out.exists():
        file = files.get(path)
        if file is not None and fresh:
            continue
        there, remedy = load_npz(path), "choose another place" + ("" if file is None else ", or collect anew with --fresh")
        other = there.meta.description or "no description"
        require(there.meta == meta, f"{path} holds other data ({other}), not {meta.description}: {remedy}")
        if file is not None:
            count = len(there)
            require(count <= wanted, f"{path} holds {count} episodes, more than the {wanted} asked for: ask for as many, or add --fresh")
            file.episodes, file.next = [there], expert.number(there.tags, seed) + 1
    return list(files.values())


def _work(expert: Expert, task: str, seed: int, numbers: range) -> list[Attempt]:
    return list(expert.attempts(task, seed, numbers))


@contextmanager
def _pool(workers: int) -> Iterator[Callable[..., Callable[[], Any]]]:
    """A function that hands a call to a process and returns what waits for the result; one worker works here. Leaving drops what waits."""
    if workers == 1:
        yield partial
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the threads of torch in an undefined state
    executor = ProcessPoolExecutor(workers, spawn, _begin)
    try:
        yield lambda *call: executor.submit(*call).result
    except BrokenProcessPool as error:
        raise LWDError("a worker process died (out of memory?): try again with fewer workers") from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """Starts a worker process. It ends at once by Ctrl-C, and when its parent ends, however that happens."""

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()  # type: ignore[union-attr]
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=end_with_parent, daemon=True).start()
