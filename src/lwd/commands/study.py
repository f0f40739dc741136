"""`lwd study NAME`: runs what a study has not finished, then writes and prints what came out."""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from lwd.config import require
from lwd.errors import LWDError
from lwd.studies import STUDIES
from lwd.studies.study import Options

if TYPE_CHECKING:
    from lwd.studies.jobs import Outcome, Plan


@dataclass
class Study(Options):
    name: Positional[str] = ""
    """The study. Without it, they are listed."""
    jobs: int = 0
    """Jobs at a time. 0: one per core; with --device cuda one; on a Ray cluster as many as it has room for."""
    ray: str = ""
    """Run on the Ray cluster at this address ("auto", "host:6379"), or on a new one on this machine ("local")."""
    json: bool = False
    """Print the result as JSON, without episodes."""
    plan: bool = False
    """Only print the axes, the jobs, and which of them are finished."""
    yes: bool = False
    """Start a study of the variant `paper`, which is meant for GPUs."""

    __doc__ = "Answer a question with several trainings; the same command continues. The studies:\n\n" + "\n\n".join(
        f"{name}: {question}" for name, question in STUDIES.items()
    )

    def __call__(self) -> None:
        """Raises:
        LWDError: bad options, no such data, another study in the directory, or jobs without a result (after all else is written).
        KeyboardInterrupt: stopped by the user.
        """
        if not self.name:
            print("\n".join(f"{name:<13} {question}" for name, question in STUDIES.items()))
            return
        require(self.name in STUDIES, f"there is no study {self.name!r}: choose from {', '.join(STUDIES)}")
        require(self.jobs >= 0, f"--jobs counts jobs at a time: at least 1 (0 chooses), not {self.jobs}")
        module: Any = importlib.import_module(f"lwd.studies.{self.name}")
        from lwd.studies.jobs import Plan

        plan = Plan(self.name, module.STUDY, self)
        if self.plan:
            self.show(plan)
            return
        paper = plan.variant == "paper" and not self.debug
        require(not paper or self.yes, "the variant paper is meant for GPUs and takes days: look with --plan, and start it with --yes")
        if not plan.jobs or any(job.kind == "train" and job.finished() is None for job in plan.jobs.values()):
            from lwd.data.read import read

            read(plan.data)  # missing data is said before anything starts
        outcomes = self.execute(plan) if plan.jobs else {}
        broken = {name: outcome for name, outcome in outcomes.items() if outcome.state != "done"}
        if any(outcome.state == "stopped" for outcome in broken.values()):
            done = len(outcomes) - len(broken)
            print(f"{done} of {len(outcomes)} jobs are done; the same command continues the study", file=sys.stderr)
            raise KeyboardInterrupt
        for name, outcome in broken.items():
            print(f"{outcome.state}: {name}: {outcome.note}\nlog: {plan.jobs[name].log}", file=sys.stderr)
        from lwd.studies.results import collect, write

        failures = [{"job": name, "state": outcome.state, "note": outcome.note} for name, outcome in broken.items()]
        write(collect(plan, outcomes) if plan.jobs else module.measure(plan), failures, self.json)
        if failures:
            names = ", ".join(f"{name} ({outcome.state})" for name, outcome in list(broken.items())[:3]) + ", ..." * (len(broken) > 3)
            raise LWDError(f"{len(failures)} of {len(outcomes)} jobs have no result: {names}; the same command tries them again")

    def execute(self, plan: Plan) -> dict[str, Outcome]:
        """One outcome per job, in the same order; what is finished is not run again."""
        from lwd.studies.cluster import RayWorkers
        from lwd.studies.execute import execute
        from lwd.studies.progress import Progress
        from lwd.studies.workers import LocalWorkers, study_lock

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        slots, gpus = self.jobs or (1 if self.device == "cuda" else cores), float(self.device == "cuda")
        with study_lock(plan.folder) as keep:
            workers = RayWorkers(self.ray, self.jobs, plan.folder / ".stop", gpus) if self.ray else LocalWorkers(slots, keep)
            progress = Progress(plan.jobs, workers.slots, f"study {self.name}")
            with progress.bars:
                return execute(plan.jobs, workers, progress)

    def show(self, plan: Plan) -> None:
        """Prints the axes, the jobs, and how long the rest will take by the jobs that are finished."""
        from lwd.studies.jobs import Outcome
        from lwd.studies.progress import duration, remaining

        seconds = {name: job.finished() for name, job in plan.jobs.items()}
        done = {name: Outcome("done", took) for name, took in seconds.items() if took is not None}
        left = remaining(plan.jobs, done, {}, 1)
        if self.json:
            print(json.dumps({"axes": plan.axes, "jobs": {name: name in done for name in plan.jobs}, "seconds": left}, indent=1))
            return
        for axis, values in plan.axes.items():
            more = [*plan.study.more.get(axis, ()), *([] if isinstance(values[0], str) else ["other numbers"])]
            print(f"axis  {axis} = {', '.join(map(str, values))}" + f"  (also: {', '.join(more)})" * bool(more))
        for name in plan.jobs:
            print(f"{'done ' if name in done else 'to do'} {name}")
        time = f"; about {duration(left)} left, one at a time" if left else ""
        print(f"{len(plan.cells)} cells, {len(plan.jobs)} jobs, {len(done)} of them done{time}")
