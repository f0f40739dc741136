"""Metaworld demonstrations from its scripted experts: one file per task, many attempts in parallel, continued where it stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lwd.data.episodes import Episodes, Meta
from lwd.data.experts.metaworld import NAME, expert
from lwd.data.npz import load_npz, save_npz
from lwd.data.pool import pool, stopped
from lwd.envs.base import missing
from lwd.envs.metaworld import FAMILY
from lwd.envs.vector import cores
from lwd.errors import LWDError

SEEDS = 100_000  # evaluation begins here: demonstrations stay below
SHORTEST = 3  # episodes in a job at least
PATIENCE = 10  # failures beyond the number of successes after which an expert is given up


@dataclass(frozen=True)
class _Recipe:
    """What decides what a file holds."""

    episodes: int
    seed: int
    noise: float
    keep_failures: bool

    @property
    def meta(self) -> Meta:
        """What every file declares; files of one directory agree in it."""
        kept = "every attempt" if self.keep_failures else "successes"
        return FAMILY.meta("state", f"synthetic: {NAME}, seeds from {self.seed}, noise {self.noise:g}, {kept}")

    def check(self) -> None:
        """Refuses numbers that make no sense, and seeds that evaluation uses."""
        if self.episodes < 1:
            raise LWDError(f"episodes must be at least 1, not {self.episodes}")
        if not 0 <= self.noise < np.inf:
            raise LWDError(f"noise must be a standard deviation of at least 0, not {self.noise}")
        most = self.episodes if self.keep_failures else 2 * self.episodes + PATIENCE
        if self.seed < 0 or self.seed + most > SEEDS:
            raise LWDError(
                f"up to {most} seeds from {self.seed} may be needed, but seeds begin at 0, and those from {SEEDS} are for evaluation: "
                "choose another seed or fewer episodes"
            )


@dataclass(frozen=True)
class Job:
    """Attempts at one task with consecutive reset seeds."""

    task: str
    seeds: range
    noise: float


@dataclass(frozen=True)
class Attempt:
    """What came of a seed: `obs` (500, 39) and `action` (500, 4); success at any step, and at the last one."""

    seed: int
    obs: NDArray[np.float32]
    action: NDArray[np.float32]
    success: bool
    final: bool


@dataclass
class _Task:
    """One file in the making."""

    path: Path
    kept: Episodes | None = None  # what an earlier collection has
    attempts: list[Attempt] = field(default_factory=list)  # of this one, in the order of arrival
    tried: int = 0  # seeds that were handed out, those of earlier collections among them
    running: int = 0  # jobs


def collect_metaworld(
    tasks: Sequence[str],
    out: Path | str,
    episodes: int = 20,
    *,
    seed: int = 0,
    noise: float = 0.0,
    keep_failures: bool = False,
    fresh: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Writes `out/<task>.npz` for every task: the first `episodes` successful episodes from consecutive reset seeds.

    Without noise, an episode's actions carried out from its seed give its observations again, bit for bit. With noise, the recorded
    actions are the expert's own; `FAMILY.perturb(env, noise)` under the same seed adds the same noise again. The same arguments give the
    same files; files that are there already are kept, and extended when more episodes are wanted.

    Args:
        tasks: names of tasks or of sets ("ten", "mt10", "mt50").
        out: directory.
        episodes: of each task.
        seed: reset seed of the first attempt; the others follow.
        noise: standard deviation of Gaussian noise on the executed actions, which lie in [-1, 1].
        keep_failures: keep every attempt, not only the successful ones.
        fresh: collect anew what is there.
        workers: processes; None is one per core, 1 stays in this process. The result does not depend on it.
        progress: show a progress bar.

    Returns:
        For each task: `task`, `path`, `episodes`, `attempts`, `success` and `final_success` (shares of the attempts that succeeded at
        any step, and of the kept episodes that succeed at the last one).

    Raises:
        LWDError: unknown task, simulator not installed, a number that makes no sense, seeds of evaluation would be used, `out` holds
            other data, or an expert fails in most attempts (the files of the other tasks are written all the same).
    """
    names = FAMILY.task_names(tasks)
    count = cores() if workers is None else workers
    recipe = _Recipe(episodes, seed, noise, keep_failures)
    recipe.check()
    if not names:
        raise LWDError(f"say which tasks: names, or one of {', '.join(FAMILY.task_sets)}")
    if count < 1:
        raise LWDError(f"workers must be at least 1, not {count}")
    if find_spec("metaworld") is None:  # before anything is removed
        raise missing(FAMILY.name, ModuleNotFoundError("No module named 'metaworld'"))
    plan = _plan(names, Path(out), recipe, fresh)
    collection = _Collection(plan, recipe, count)
    if not progress:
        hopeless = collection.run(None)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            hopeless = collection.run(bar)
    if hopeless:
        raise LWDError(
            f"the expert fails in most attempts at {', '.join(hopeless)}: leave that out, lower the noise, or keep failures too; "
            f"what was collected for other tasks is in {out}"
        )
    return [_row(name, task, seed) for name, task in plan.items()]


def attempt(job: Job) -> list[Attempt]:
    """Full episodes of the expert, one per seed."""
    env, act = _environment(job.task, job.noise), expert(job.task)
    attempts = []
    for seed in job.seeds:
        if stopped():
            break
        obs, actions, success = np.empty((FAMILY.max_steps, 39), np.float32), np.empty((FAMILY.max_steps, 4), np.float32), []
        seen, _ = env.reset(seed=seed)
        for t in range(FAMILY.max_steps):
            obs[t], actions[t] = seen, act(seen)
            seen, _, _, _, info = env.step(actions[t])
            success.append(info["success"] > 0)
        attempts.append(Attempt(seed, obs, actions, any(success), success[-1]))
    return attempts


@lru_cache(maxsize=1)  # making one takes as long as an episode
def _environment(task: str, noise: float) -> gymnasium.Env:
    env = FAMILY.make("state", task)
    return FAMILY.perturb(env, noise) if noise else env


class _Collection:
    """Hands out jobs, task by task, and writes a task's file when it is complete."""

    def __init__(self, plan: dict[str, _Task], recipe: _Recipe, workers: int) -> None:
        self.plan, self.recipe, self.workers = plan, recipe, workers
        self.queue: deque[Job] = deque()
        self.hopeless: list[str] = []

    def run(self, bar: Progress | None) -> list[str]:
        """Collects what is missing; returns the names of the tasks whose expert fails."""
        total = self.recipe.episodes * len(self.plan)
        done = sum(len(task.kept or ()) for task in self.plan.values())
        item = None if bar is None else bar.add_task("collect", total=total, completed=done)
        left = total - done
        for name, task in self.plan.items():
            wanted = self.recipe.episodes - len(task.kept or ())
            self.queue.extend(self._jobs(name, task, wanted, left))
            left -= wanted
        workers = max(1, min(self.workers, len(self.queue)))
        with pool(workers) as executor:
            running: dict[Future[list[Attempt]], str] = {}
            while self.queue or running:
                self._submit(executor, running, 1 if workers == 1 else 2 * workers)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(future)
                    self._take(name, self.plan[name], future.result())
                if bar is not None and item is not None:
                    bar.update(item, completed=sum(min(self.recipe.episodes, self._good(task)) for task in self.plan.values()))
        return self.hopeless

    def _submit(self, executor: Executor, running: dict[Future[list[Attempt]], str], window: int) -> None:
        while self.queue and len(running) < window:
            job = self.queue.popleft()
            running[executor.submit(attempt, job)] = job.task

    def _jobs(self, name: str, task: _Task, count: int, left: int) -> list[Job]:
        """The next `count` seeds of a task in jobs, which get shorter as there is less left: environments are made rarely, and all
        processes are busy to the end."""
        jobs = []
        while count:
            size = min(count, max(SHORTEST, left // (2 * self.workers)))
            first = self.recipe.seed + task.tried
            jobs.append(Job(name, range(first, first + size), self.recipe.noise))
            task.tried += size
            count -= size
            left -= size
        task.running += len(jobs)
        return jobs

    def _good(self, task: _Task) -> int:
        return len(task.kept or ()) + sum(a.success or self.recipe.keep_failures for a in task.attempts)

    def _take(self, name: str, task: _Task, attempts: list[Attempt]) -> None:
        """Adds what came of a job; after a task's last one, writes its file or asks for as many attempts as failed."""
        task.attempts += attempts
        task.running -= 1
        if task.running:
            return
        wanted = self.recipe.episodes - self._good(task)
        if not wanted:
            task.attempts.sort(key=lambda a: a.seed)
            task.kept, task.attempts = self._episodes(name, task), []
            save_npz(task.kept, task.path)
        elif task.tried - self._good(task) > PATIENCE + self._good(task):
            self.hopeless.append(name)
        else:
            self.queue.extendleft(reversed(self._jobs(name, task, wanted, wanted)))

    def _episodes(self, name: str, task: _Task) -> Episodes:
        kept = [a for a in task.attempts if a.success or self.recipe.keep_failures]
        old = [] if task.kept is None else [task.kept]
        tags = {
            "seed": np.array([a.seed for a in kept], np.int64),
            "success": np.array([a.success for a in kept]),
            "final_success": np.array([a.final for a in kept]),
            "noise": np.full(len(kept), self.recipe.noise),
        }
        count = self.recipe.episodes
        return Episodes(
            obs=np.concatenate([e.obs for e in old] + [a.obs for a in kept]),
            action=np.concatenate([e.action for e in old] + [a.action for a in kept]),
            ends=np.arange(1, count + 1) * FAMILY.max_steps,
            task=np.array([name] * count),
            tags={key: np.concatenate([*(e.tags[key] for e in old), values]) for key, values in tags.items()},
            meta=self.recipe.meta,
        )


def _plan(names: list[str], out: Path, recipe: _Recipe, fresh: bool) -> dict[str, _Task]:
    """What is to be made, and what of it is there already.

    Raises:
        LWDError: what is there is of another kind, or more than is wanted.
    """
    meta, episodes = recipe.meta, recipe.episodes
    plan = {name: _Task(out / f"{name}.npz") for name in names}
    if out.exists() and not out.is_dir():
        raise LWDError(f"{out} is a file: one file per task is written into a directory; choose another name")
    for path in sorted(out.glob("*.npz")):
        task = plan.get(path.stem)
        if task is not None and fresh:
            continue
        there = load_npz(path)
        if there.meta != meta:
            remedy = "choose another directory" + ("" if task is None else ", or collect anew with --fresh")
            raise LWDError(f"{path} holds other data ({there.meta.description or 'no description'}), not {meta.description}: {remedy}")
        if task is not None:
            if len(there) > episodes:
                raise LWDError(f"{path} holds {len(there)} episodes, more than the {episodes} asked for: ask for as many, or add --fresh")
            task.kept, task.tried = there, int(there.tags["seed"][-1]) - recipe.seed + 1
    for name, task in plan.items():
        for leftover in out.glob(f".{name}.npz.*.tmp"):  # of a collection that was killed
            leftover.unlink(missing_ok=True)
        if task.kept is None:
            task.path.unlink(missing_ok=True)
    return plan


def _row(name: str, task: _Task, seed: int) -> dict[str, Any]:
    assert task.kept is not None
    tags = task.kept.tags
    attempts = int(tags["seed"][-1]) - seed + 1
    return {
        "task": name,
        "path": str(task.path),
        "episodes": len(task.kept),
        "attempts": attempts,
        "success": float(tags["success"].sum() / attempts),
        "final_success": float(tags["final_success"].mean()),
    }
