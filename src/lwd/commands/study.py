"""`lwd study NAME`: runs what a study has not finished, then writes and prints what came out."""

from __future__ import annotations

import importlib
import json
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tyro.conf import Positional

from lwd.config import require
from lwd.errors import LWDError
from lwd.files import locked
from lwd.studies import STUDIES
from lwd.studies.jobs import Plan
from lwd.studies.study import Options


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
        if not self.name:
            return print("\n".join(f"{name:<13} {question}" for name, question in STUDIES.items()))
        require(self.name in STUDIES, f"there is no study {self.name!r}: choose from {', '.join(STUDIES)}")
        require(self.jobs >= 0, f"--jobs counts jobs at a time: at least 1 (0 chooses), not {self.jobs}")
        module: Any = importlib.import_module(f"lwd.studies.{self.name}")
        plan = Plan(self.name, module.STUDY, self)
        if self.plan:
            return show(plan, self.json)
        from lwd.data.read import read
        from lwd.envs.vector import cores
        from lwd.studies.cluster import RayExecutor
        from lwd.studies.execute import execute
        from lwd.studies.results import collect, write

        ready = plan.variant != "paper" or self.debug or self.yes
        require(ready, "the variant paper is meant for GPUs and takes days: look with --plan, and start it with --yes")
        if any(job.content["kind"] == "train" and job.finished() is None for job in plan.jobs.values()):
            read(plan.data)  # missing data is said before anything starts
        gpus = int(self.device == "cuda")
        slots = self.jobs or (sys.maxsize if self.ray else 1 if gpus else cores())
        with locked(plan.folder, "runs the study in"):
            executor: Executor = RayExecutor(self.ray, self.jobs, gpus) if self.ray else ThreadPoolExecutor(slots)
            with executor:
                outcomes = execute(plan.jobs, executor, slots, plan.folder / ".stop")
            failures = [{"job": name, **own._asdict(), "log": str(plan.jobs[name].log)} for name, own in outcomes.items() if own.note]
            for failure in failures:
                print("{state}: {job}: {note}\nlog: {log}".format(**failure), file=sys.stderr)
            if any(outcome.state == "stopped" for outcome in outcomes.values()):
                raise KeyboardInterrupt
            write(collect(plan, outcomes) if plan.jobs else module.measure(plan), failures, self.json)
        if failures:
            raise LWDError(f"{len(failures)} of {len(outcomes)} jobs have no result; the same command tries them again")


def show(plan: Plan, as_json: bool) -> None:
    """Prints the axes, the jobs, and how long the finished ones took."""
    done = {name: took for name, job in plan.jobs.items() if (took := job.finished()) is not None}
    if as_json:
        content = {"axes": plan.axes, "jobs": {name: name in done for name in plan.jobs}, "seconds": sum(done.values())}
        return print(json.dumps(content, indent=1))
    for axis, values in plan.axes.items():
        more = [*plan.study.more.get(axis, ()), *([] if isinstance(values[0], str) else ["other numbers"])]
        print(f"axis  {axis} = {', '.join(map(str, values))}" + f"  (also: {', '.join(more)})" * bool(more))
    for name in plan.jobs:
        print(f"{'done ' if name in done else 'to do'} {name}")
    time = f", in {timedelta(seconds=round(sum(done.values())))} of computing" if done else ""
    print(f"{len(plan.cells)} cells, {len(plan.jobs)} jobs, {len(done)} of them done{time}")
