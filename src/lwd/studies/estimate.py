"""What a study will take, before it starts: a few steps of every arm are measured on the device, by `lwd.train` itself."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from lwd.errors import LWDError
from lwd.studies.files import read_object
from lwd.studies.progress import duration
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.run import Run
    from lwd.studies.base import Study

STEPS, SKIPPED = 45, 5  # of every stage; the first ones are slower and are not counted
LIMIT = 24 * 3600.0  # seconds beyond which a study wants --yes
HOW = (
    f"Estimated from {STEPS - SKIPPED} training steps of each stage and one short rollout of each arm, measured on this device at one of "
    "its horizons, with whatever else ran there just then; validation and the start of processes (some seconds per task) are not counted"
)


@dataclass(frozen=True)
class Cost:
    """Measured cost of one arm.

    Args:
        training: seconds of a whole training.
        per_step: milliseconds of a training step, by stage.
        steps: of a whole training, by stage.
        plan: seconds of a query for all episodes of a cell.
        step: seconds of a control step for all episodes of a cell, with the simulators.
        single: seconds of a query for one episode.
        max_steps: of an episode.
    """

    training: float
    per_step: dict[str, float]
    steps: dict[str, int]
    plan: float
    step: float
    single: float
    max_steps: int

    def evaluation(self, horizon: int) -> float:
        """Seconds of one cell: its rollout, and the queries that are timed one by one (see `lwd.evaluate.measure_cost`)."""
        return ceil(self.max_steps / horizon) * self.plan + self.max_steps * self.step + min(20.0, 33 * self.single)


def plan(study: Study, tasks: Sequence[Task]) -> None:
    """`--plan`: every task with its state and command, and the estimate."""
    from rich.console import Console

    finished = {task.name for task in tasks if task.finished() is not None}
    missing = [task for task in tasks if task.name not in finished]
    console = Console(stderr=study.json)
    if not study.json:
        for task in tasks:
            console.print(f"{'done ' if task.name in finished else 'to do'}  {task.command}", markup=False, highlight=False, soft_wrap=True)
    costs = measure(study, missing, console)
    total = seconds(missing, costs) / study.slots
    for line in describe(study, tasks, missing, costs, total):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if study.json:
        listed = [{"name": t.name, "done": t.name in finished, "command": t.command, "needs": list(t.needs)} for t in tasks]
        print(json.dumps({"tasks": listed, "costs": {k: asdict(c) for k, c in costs.items()}, "seconds": total, "how": HOW}, indent=1))


def announce(study: Study, tasks: Sequence[Task]) -> None:
    """Before a costly study: the estimate; beyond a day it has to be wanted.

    Raises:
        LWDError: it will take more than a day, and neither --yes nor a user at the terminal said to go on.
    """
    if not study.costly:
        return
    from rich.console import Console
    from rich.prompt import Confirm

    console = Console(stderr=True)
    missing = [task for task in tasks if task.finished() is None]
    costs = measure(study, missing, console)
    total = seconds(missing, costs) / study.slots
    for line in describe(study, tasks, missing, costs, total):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if total <= LIMIT or study.yes:
        return
    if not sys.stdin.isatty() or not Confirm.ask("Start?", console=console, default=False):
        raise LWDError(
            f"the study will take about {duration(total)}: start it with --yes, or ask for less (--methods, --horizons, --seeds)"
        )


def seconds(tasks: Sequence[Task], costs: dict[str, Cost]) -> float:
    """Seconds of all the tasks, one after another."""
    total = 0.0
    for task in tasks:
        cost = costs[task.arm]
        total += cost.training if task.kind == "train" else cost.evaluation(int(task.argv[task.argv.index("--horizon") + 1]))
    return total


def describe(study: Study, tasks: Sequence[Task], missing: Sequence[Task], costs: dict[str, Cost], total: float) -> list[str]:
    """The estimate in words, a line for each arm."""
    lines = [f"{len(tasks)} tasks, {len(tasks) - len(missing)} of them done"]
    counts = Counter((task.arm, task.kind) for task in missing)
    for name, cost in costs.items():
        stages = ", ".join(f"{stage} {cost.steps[stage]:,} steps of {ms:.0f} ms" for stage, ms in cost.per_step.items())
        text = f"{name}: {counts[name, 'train']} trainings of {duration(cost.training)} ({stages or 'nothing to train'})"
        lines.append(f"{text}, {counts[name, 'eval']} evaluations")
    if missing:
        lines.append(f"about {duration(total)} with {study.slots} at a time. {HOW}")
    return lines


def measure(study: Study, tasks: Sequence[Task], console: Any) -> dict[str, Cost]:
    """The cost of each arm that still has something to do; kept in the study's directory, and measured anew on other hardware."""
    from lwd.evaluate import hardware
    from lwd.run import Run, write_json

    path, machine = study.directory / "estimate.json", hardware(study.device)
    known = read_object(path) or {}
    costs = {}
    everything, _ = study.grid()
    for name in dict.fromkeys(task.arm for task in tasks):
        trainings = [task for task in everything if task.kind == "train" and task.arm == name]
        given = next(task for task in everything if task.arm == name)  # an arm without trainings is a run that the study was given
        chosen = trainings[(len(trainings) - 1) // 2] if trainings else given
        key = {
            "argv": list(chosen.argv),
            "recipe": chosen.recipe,
            "episodes": study.episodes,
            "cpu": machine["cpu"],
            "device": machine["device"],
        }
        entry = known.get(name, {})
        if entry.get("key") != key:
            console.print(f"measuring {name} ...", markup=False, highlight=False)
            known[name] = entry = {
                "key": key,
                "cost": asdict(measure_arm(study, chosen) if trainings else measure_acting(study, Run(chosen.run))),
            }
            write_json(path, known)
        costs[name] = Cost(**entry["cost"])
    return costs


def measure_arm(study: Study, task: Task) -> Cost:
    """A few steps of every stage and a short rollout of what came out, with one thread, as in a task."""
    import torch
    import tyro
    from tyro.conf import CascadeSubcommandArgs, OmitSubcommandPrefixes

    from lwd.cli import Train
    from lwd.config import Stage
    from lwd.train import train

    config = tyro.cli(Train, args=list(task.argv[1:]), config=(OmitSubcommandPrefixes, CascadeSubcommandArgs)).config
    stages = {f.name: getattr(config.method, f.name) for f in fields(config.method) if isinstance(getattr(config.method, f.name), Stage)}
    changes: dict[str, Any] = {name: replace(stage, steps=STEPS, warmup=1) for name, stage in stages.items()}
    if getattr(config.method, "autoencoder_from", ""):  # that run may not exist yet: here the first stage is made, but not counted
        changes["autoencoder_from"] = ""
        stages.pop("autoencoder")
    if hasattr(config.method, "rollout_warmup"):
        changes["rollout_warmup"] = 0  # L_RO comes later in a training, but then at every step of it
    folder, threads, rare = study.directory / "estimate.tmp", torch.get_num_threads(), 10**9
    method = replace(config.method, **changes)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        run = train(
            replace(config, method=method, out=str(folder), log_every=SKIPPED, validate_every=rare, checkpoint_every=rare), quiet=True
        )
        times = {(line["stage"], line["step"]): line["seconds"] for line in run.metrics()}
        per_step = {name: max(times[name, STEPS] - times[name, SKIPPED], 0.05) / (STEPS - SKIPPED) for name in stages}
        acting = measure_acting(study, run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        torch.set_num_threads(threads)
    return replace(
        acting,
        training=sum(stage.steps * per_step[name] for name, stage in stages.items()),
        per_step={name: 1e3 * value for name, value in per_step.items()},
        steps={name: stage.steps for name, stage in stages.items()},
    )


def measure_acting(study: Study, run: Run) -> Cost:
    """A short rollout of a trained run; the costs of training are 0."""
    from lwd.envs.base import family
    from lwd.rollout import rollout
    from lwd.train import load_method

    planner: Any = load_method(run, study.device)
    kind = family(planner.spec.env or "")
    every = min(planner.horizon, 16)
    tasks = kind.task_names(getattr(study, "tasks", ())) or list(planner.spec.tasks) if kind.tasks else []
    total = study.episodes * max(1, len(tasks))
    seeds = [study.seed_start + number for number in range(min(total, kind.batch))]
    names = [tasks[number % len(tasks)] for number in range(len(seeds))] if tasks else None
    records = rollout(planner, planner.spec.env, planner.spec.obs, seeds, horizon=every, max_steps=every, task=names, workers=0)
    single = rollout(planner, planner.spec.env, planner.spec.obs, seeds[:1], horizon=1, max_steps=2, task=names and names[:1], workers=0)
    asked, parts = sum(records.plan_ms) / 1e3, total / len(seeds)
    return Cost(0.0, {}, {}, asked * parts, (records.wall_s - asked) / every * parts, min(single.plan_ms) / 1e3, kind.max_steps)
