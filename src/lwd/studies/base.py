"""What every study shares: options, directory, execution, and the way from evaluations to one JSON, tables and figures.

A study is one file: a subclass of `Study` that declares its grid (`grid`), and what to read off the result (`extras`, `tables`, `figures`).
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tyro.constructors import PrimitiveConstructorSpec

from lwd.config import require, to_dict
from lwd.errors import LWDError
from lwd.presets import PRESETS
from lwd.studies.tasks import LWD, Outcome, Task

if TYPE_CHECKING:
    from lwd.report import Picture, Table


def listed(kind: type, metavar: str) -> PrimitiveConstructorSpec[tuple[Any, ...]]:
    """A list on the command line: `16,32` and `16 32` are the same."""
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=lambda words: tuple(kind(part) for word in words for part in word.split(",") if part),
        is_instance=lambda value: isinstance(value, tuple) and all(isinstance(part, kind) for part in value),
        str_from_instance=lambda value: [",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)],
    )


Ints = Annotated[tuple[int, ...], listed(int, "INT,INT,...")]
Floats = Annotated[tuple[float, ...], listed(float, "NUMBER,NUMBER,...")]
Words = Annotated[tuple[str, ...], listed(str, "NAME,NAME,...")]


@dataclass(frozen=True)
class Cell:
    """One evaluation of one trained model.

    Args:
        labels: coordinates in the grid without the training seed, such as method, horizon, perturbation.
        seed: training seed.
        task: the evaluation; its output is the result.
    """

    labels: Mapping[str, Any]
    seed: int
    task: Task


@dataclass
class Study:
    """Options of every study. The docstrings are the manual of `lwd study NAME --help`."""

    name: ClassVar[str]
    against: ClassVar[tuple[str, Any] | None] = None  # label and value that all others are compared with in pairs: ("method", "lwd")
    prefix: ClassVar[tuple[str, ...]] = LWD  # words for python before a task's own

    data: str = "embedded"
    """Demonstrations, as for `lwd train`."""
    seeds: int = 3
    """Training seeds 0, 1, ... of every arm."""
    episodes: int = 50
    """Episodes of each cell; all cells run the same environment seeds."""
    seed_start: int = 100_000
    """Environment seed of the first episode; the others follow."""
    jobs: int | None = None
    """Tasks at a time: by default one per core, with --device cuda 1, on a Ray cluster as many as it has room for."""
    ray: str = ""
    """Run on the Ray cluster at this address ("auto", "host:6379"), or on a new one on this machine ("local")."""
    out: str = ""
    """Directory of the study; runs/study-NAME when empty. The same command in the same directory continues."""
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    """Where models are trained and evaluated."""
    json: bool = False
    """Print the result as JSON, without cells."""
    plan: bool = False
    """Only print the tasks, which of them are finished, and what the rest will take."""
    yes: bool = False
    """Start even if it will take more than a day."""

    # --- what a study declares ----------------------------------------------------------------------------------------------------

    def grid(self) -> tuple[list[Task], list[Cell]]:
        """All tasks in order of importance, and the cells that some of them fill.

        Raises:
            LWDError: options that make no sense.
        """
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What the result was made with, for the JSON."""
        hidden = ("jobs", "ray", "json", "plan", "yes")
        return {key: value for key, value in asdict(self).items() if key not in hidden}

    @property
    def costly(self) -> bool:
        """Whether the cost is measured and said before anything starts."""
        return False

    def intro(self, result: dict[str, Any]) -> str:
        """First paragraph of the markdown file."""
        return ""

    def extras(self, result: dict[str, Any]) -> dict[str, Any]:
        """More entries of the JSON, computed from the pooled ones."""
        return {}

    def tables(self, result: dict[str, Any]) -> list[Table]:
        """For the terminal and the markdown file."""
        return []

    def figures(self, result: dict[str, Any], cells: Sequence[Cell]) -> list[Picture]:
        """Draws into `self.directory`; `cells` are those that have a result."""
        return []

    # --- helpers for grids --------------------------------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """Of the study."""
        return Path(self.out or f"runs/study-{self.name}")

    def training(self, name: str, preset: str, seed: int, words: Sequence[str] = (), arm: str = "") -> Task:
        """A training into `runs/<name>` of the study; `words` are more options of `lwd train`, `arm` is what the study compares."""
        run = self.directory / "runs" / name
        own = ("train", preset, "--data", self.data, *words, "--seed", str(seed), "--device", self.device, "--threads", "1", "--quiet")
        output, group = run / "checkpoints" / "latest.json", shlex.join((preset, *words))
        recipe = json.dumps(to_dict(PRESETS[preset][1])) if preset in PRESETS else ""
        return Task(name, (*own, "--out", str(run)), (), output, self._log(name), "train", run, arm or preset, group, recipe)

    def evaluation(self, training: Task, *, horizon: int, perturbation: float, words: Sequence[str] = (), label: str = "") -> Task:
        """An evaluation of a trained run; `words` are more options of `lwd eval`, and `label` tells its name from others."""
        from lwd.evaluate import result_name

        name = result_name(horizon=horizon, perturbation=perturbation, episodes=self.episodes, seed_start=self.seed_start, label=label)
        where = ("--horizon", str(horizon), "--perturbation", f"{perturbation:g}")
        which = ("--episodes", str(self.episodes), "--seed-start", str(self.seed_start))
        how = ("--workers", "0", "--device", self.device, "--name", name, "--json")
        argv, task = ("eval", str(training.run), *where, *which, *words, *how), f"{training.name}-{name}"
        output, group = training.run / "eval" / f"{name}.json", shlex.join((training.group, str(horizon), *words))
        return Task(task, argv, (training.name,), output, self._log(task), "eval", training.run, training.arm, group)

    def _log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    # --- the verb -----------------------------------------------------------------------------------------------------------------

    def __call__(self) -> None:
        """Run what is missing, then write and print what came out.

        Raises:
            LWDError: bad options, no such data, another study in the directory, or tasks that failed (after everything else is done and
                written).
            KeyboardInterrupt: stopped by the user.
        """
        from lwd.data.readers import read
        from lwd.studies.estimate import announce, plan
        from lwd.studies.output import write_outputs

        require(self.seeds >= 1 and self.episodes >= 1, "--seeds and --episodes must be at least 1")
        require(self.jobs is None or self.jobs >= 1, f"--jobs counts tasks at a time: at least 1, not {self.jobs}")
        tasks, cells = self.grid()
        if any(task.kind == "train" and not task.output.exists() for task in tasks) and not Path(self.data).expanduser().exists():
            read(self.data)  # what is embedded is there; everything else is refused here, before a task starts
        if self.plan:
            plan(self, tasks)
            return
        announce(self, tasks)
        outcomes = self.execute(tasks)
        stopped = any(outcome.state == "stopped" for outcome in outcomes.values())
        if stopped:
            done = sum(outcome.state == "done" for outcome in outcomes.values())
            print(f"{done} of {len(tasks)} tasks are done; the same command continues the study", file=sys.stderr)
            raise KeyboardInterrupt
        result = write_outputs(self, cells, outcomes)
        if self.json:
            print(json.dumps({key: value for key, value in result.items() if key != "cells"}, indent=1))
        broken = [f"{name} ({outcome.state})" for name, outcome in outcomes.items() if outcome.state != "done"]
        if broken:
            shown = ", ".join(broken[:3]) + (f" and {len(broken) - 3} more" if len(broken) > 3 else "")
            raise LWDError(
                f"{len(broken)} of {len(tasks)} tasks have no result: {shown}; the same command tries them again, "
                f"their logs are in {self.directory / 'logs'}"
            )

    def execute(self, tasks: Sequence[Task]) -> dict[str, Outcome]:
        """One outcome per task, in the same order; what is finished is not run again."""
        from lwd.studies import tasks as graph
        from lwd.studies.progress import View
        from lwd.studies.workers import LocalWorkers, RayWorkers, study_lock

        with study_lock(self.directory) as keep:
            workers: LocalWorkers | RayWorkers
            if self.ray:
                workers = RayWorkers(self.ray, self.jobs, self.directory / ".stop", 1.0 if self.device == "cuda" else 0.0, self.prefix)
            else:
                workers = LocalWorkers(self.slots, self.prefix, keep)
            with View(tasks, workers.slots, f"study {self.name}") as view:
                return graph.execute(tasks, workers, view)

    @property
    def slots(self) -> int:
        """Tasks at a time on this machine."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.jobs or (1 if self.device == "cuda" else cores)

    @property
    def command(self) -> str:
        """The command line that was given."""
        words = sys.argv[1:] if sys.argv[1:2] == ["study"] else ["study", self.name, *sys.argv[1:]]
        return shlex.join(["lwd", *words])
