"""The evaluator: rollouts of a planner become one JSON-ready result with intervals, costs and one record per episode."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zlib import crc32

import numpy as np

from lwd.config import EvalSettings, require, to_dict
from lwd.control import Monitor
from lwd.envs.base import family
from lwd.episodes import Spec
from lwd.errors import LWDError
from lwd.files import write_json
from lwd.methods.base import Planner
from lwd.methods.wrappers import monitored, wrapped
from lwd.report.video import annotate, save_gif
from lwd.rollout import Progress, Records, Scenario, rollout
from lwd.statistics import bootstrap_mean, stratified_mean, wilson
from lwd.timing import first_observations, hardware, measure_cost
from lwd.training.run import Run
from lwd.training.train import load_method, steering

FILE_NAME = r"[\w.+-]*"


def scenario_of(spec: Spec, settings: EvalSettings) -> Scenario:
    """Where a trained model is evaluated: its environment, the tasks that are wanted (by default all that it was trained on), and the same
    seeds for each of them (by default 50 for one task, else 16)."""
    env = settings.env or spec.env
    if env is None:
        what = "the model was trained on data that names no environment to run it in"
        raise LWDError(f"{what}: say which with --env; lwd diagnose measures it without one")
    kind = family(env)
    kind.check_obs_kind(spec.obs_kind)
    takes = len(kind.action_low)
    require(takes == spec.action_dim, f"an action of {env} has {takes} numbers, of this model {spec.action_dim}: say another --env")
    if kind.tasks or not set(settings.tasks) <= set(spec.tasks):
        tasks = kind.task_names(settings.tasks) or spec.tasks
    else:  # names in the data, such as of behaviours, that the environment need not know
        tasks = tuple(settings.tasks) or (spec.tasks if len(spec.tasks) > 1 else ())
    unknown = [task for task in tasks if spec.tasks and task not in spec.tasks]
    require(not unknown, f"this model does not know the task {', '.join(unknown)}: it knows {', '.join(spec.tasks)}")
    count = settings.episodes or (16 if len(tasks) > 1 else 50)
    seeds = tuple(range(settings.seed_start, settings.seed_start + count))
    return Scenario(env, spec.obs_kind, seeds * max(len(tasks), 1), tuple(task for task in tasks for _ in seeds) or None)


def evaluate(
    planner: Planner,
    scenario: Scenario,
    settings: EvalSettings | None = None,
    *,
    name: str = "",
    sampling: dict[str, Any] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Runs the episodes of a scenario and measures what a query and a control step cost. Returns the result, JSON-ready.

    Scores come from the batched rollout. With several tasks they are means over the tasks, and each task counts the same. Times and FLOPs
    are measured apart from it on a batch of one, which is what a robot would run (`lwd.timing.measure_cost`). A sampler that the settings
    name is not applied to the planner here; `sampling` says in the result which one it uses."""
    settings = settings or EvalSettings()
    return summarise(rollout(planner, scenario, settings, workers=workers, progress=progress), planner, scenario, settings, name, sampling)


def evaluate_run(
    run: Run,
    settings: EvalSettings,
    *,
    device: str = "cpu",
    name: str = "",
    video: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], Path, list[Path]]:
    """Evaluates a run that is trained to its end, and writes `eval/<name>.json` and, of the `video` first episodes,
    `videos/<name>_<task>_<seed>.gif` into its directory. Returns the result, the file that it was written to, and the videos."""
    require(re.fullmatch(FILE_NAME, name) is not None, f"the name {name!r} becomes a file name: use letters, digits, and . + - _")
    scenario = scenario_of(run.spec(), settings)
    method = load_method(run, device)
    own, method.steering = method.sampling, steering(method, run, settings)
    method.sample_with(settings)
    labels = [method.sampling.label] if method.sampling is not None and method.sampling != own else []
    labels += [re.sub(r"[^\w.-]", "-", settings.env)] * bool(settings.env)
    labels += [quote("tag-" + "-".join(word.partition("=")[2] for word in settings.tag), safe="")] * bool(settings.tag)
    labels += [f"near{settings.near}"] * (settings.near >= 0) + ["blend" + "-".join(f"{x:g}" for x in settings.blend)] * bool(
        settings.blend
    )
    labels += [f"imagine{settings.imagine}"] * (settings.imagine > 0) + [f"{settings.imagine_steps}ahead"] * (settings.imagine_steps > 0)
    labels += [f"monitor{settings.monitor:g}"] * (settings.monitor > 0)
    labels += [f"mean{settings.ensemble}"] * (settings.ensemble > 1) + ["temporal"] * settings.temporal
    labels += [f"{settings.max_steps}steps"] if settings.max_steps else []
    labels += [f"draw{settings.sampler_seed}"] if settings.sampler_seed else []
    if settings.tasks:
        tasks = list(dict.fromkeys(scenario.tasks or ()))
        fits = len(tasks) < 4 and re.fullmatch(FILE_NAME, "+".join(tasks))  # else their number and a hash stand for the names
        labels.append("+".join(tasks) if fits else f"{len(tasks)}tasks-{crc32(' '.join(tasks).encode()):08x}")
    name = name or result_name(scenario.resolve(settings, method), "-".join(labels))
    planner = wrapped(method, settings)
    monitor = monitored(method, settings)
    records = rollout(planner, scenario, settings, monitor=monitor, workers=workers, record_frames=video, progress=progress)
    kind, videos = family(scenario.env), []
    for index, frames in records.frames.items():
        episode = records.episodes[index]
        marked = annotate(frames, episode, kind.curve(episode), records.futures.get(index))
        task = f"_{quote(episode['task'], safe='')}" if "task" in episode else ""  # the seeds of all tasks are the same
        videos.append(save_gif(marked, run.path / "videos" / f"{name}{task}_{episode['seed']}.gif", kind.fps))
    sampling = {} if method.sampling is None else asdict(method.sampling)
    result = summarise(records, planner, scenario, settings, name, sampling, monitor)
    return result, write_result(result, run.path / "eval"), videos


def summarise(
    records: Records,
    planner: Planner,
    scenario: Scenario,
    settings: EvalSettings,
    name: str = "",
    sampling: dict[str, Any] | None = None,
    monitor: Monitor | None = None,
) -> dict[str, Any]:
    """The result of a rollout that was made: scores with intervals, and what the planner costs, which is measured now."""
    kind, settings = family(scenario.env), scenario.resolve(settings, planner)
    groups: dict[str, list[dict[str, Any]]] = {}
    for episode in records.episodes:
        groups.setdefault(episode.get("task", ""), []).append(episode)
    tasks = {task: {"episodes": len(own), **_scores([own], kind.scores)} for task, own in groups.items()}
    interval = records.env_steps / max(1, sum(e["queries"] for e in records.episodes)) if monitor else settings.replan_every
    task = scenario.tasks[0] if scenario.tasks else None
    cost = measure_cost(planner, first_observations(scenario), interval, task, monitor)
    steps, seconds = records.env_steps, records.wall_s
    speed = {"wall_s": round(seconds, 3), "env_steps": steps, "steps_per_s": round(steps / max(seconds, 1e-9), 1)}
    return {
        "version": 3,  # of this layout
        "name": name or result_name(settings),
        **{key: getattr(scenario, key) for key in ("env", "obs_kind")},
        **{key: getattr(settings, key) for key in ("replan_every", "disturb", "delay", "max_steps", "seed_start")},
        "episodes": len(scenario.seeds),
        "settings": {name: list(own) if isinstance(own, tuple) else own for name, own in to_dict(settings).items()},
        "sampling": sampling or {},
        "hardware": hardware(cost.pop("device")),
        "lwd": version("latent-weight-diffusion"),
        "primary": kind.primary,
        "scores": _scores(groups.values(), kind.scores),
        **({} if scenario.tasks is None else {"tasks": tasks}),
        "queries_per_episode": float(np.mean([e["queries"] for e in records.episodes])),
        **cost,
        "rollout": {**speed, "plan_s": round(sum(records.plan_ms) / 1e3, 3)},
        "records": records.episodes,
    }


def result_name(settings: EvalSettings, label: str = "") -> str:
    """Name of a result: `h16_displace50_n50_s100000`, with `_ddim10` for the label `ddim10`. Settings are as carried out (`resolve`)."""
    delay = f"_delay{settings.delay}" * (settings.delay > 0)
    name = f"h{settings.replan_every}_{settings.disturb.replace(':', '')}{delay}_n{settings.episodes}_s{settings.seed_start}"
    return f"{name}_{label}" if label else name


def write_result(result: Mapping[str, Any], directory: Path) -> Path:
    """Writes `<directory>/<name>.json`, whole or not at all, and returns its path."""
    path = Path(directory) / f"{result['name']}.json"
    write_json(path, result)
    return path


def _scores(groups: Collection[Sequence[Mapping[str, Any]]], kinds: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Every score with its interval, from the episodes of each task."""
    found = {}
    for score, kind in kinds.items():
        values = [[float(episode[score]) for episode in own] for own in groups]
        if len(values) > 1:
            interval = stratified_mean(values)
        else:
            interval = wilson(round(sum(values[0])), len(values[0])) if kind == "rate" else bootstrap_mean(values[0])
        found[score] = {**interval.to_dict(), "kind": kind}
    return found
