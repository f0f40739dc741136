"""The evaluator: rollouts of a planner become one JSON-ready result with intervals, costs and one record per episode."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zlib import crc32

import numpy as np

from lwd.config import EvalSettings, require, to_dict
from lwd.envs.base import EnvFamily, family
from lwd.episodes import Spec
from lwd.errors import LWDError
from lwd.files import write_json
from lwd.methods.base import Planner
from lwd.report.video import annotate, save_gif
from lwd.rollout import Progress, Records, Scenario, rollout
from lwd.statistics import Interval, bootstrap_mean, paired_difference, stratified_mean, wilson
from lwd.timing import first_observations, hardware, measure_cost
from lwd.training.run import Run
from lwd.training.train import load_method

VERSION = 2  # of the result's layout
EPISODES, EPISODES_PER_TASK = 50, 16
FILE_NAME = r"[\w.+-]*"


def scenario_of(spec: Spec, settings: EvalSettings) -> Scenario:
    """Where a trained model is evaluated: its environment, the tasks that are wanted, and the same seeds for each of them.

    Raises:
        LWDError: the model's data names no environment, or the model does not know a task.
    """
    require(
        spec.env is not None, "the model was trained on data that names no environment to run it in: lwd diagnose measures it without one"
    )
    assert spec.env is not None
    kind = family(spec.env)
    tasks = kind.task_names(settings.tasks) or (spec.tasks if kind.tasks else ())
    unknown = [task for task in tasks if spec.tasks and task not in spec.tasks]
    require(not unknown, f"this model does not know the task {', '.join(unknown)}: it knows {', '.join(spec.tasks)}")
    count = settings.episodes or (EPISODES_PER_TASK if len(tasks) > 1 else EPISODES)
    seeds = tuple(range(settings.seed_start, settings.seed_start + count))
    return Scenario(spec.env, spec.obs_kind, seeds * max(len(tasks), 1), tuple(task for task in tasks for _ in seeds) or None)


def evaluate(
    planner: Planner,
    scenario: Scenario,
    settings: EvalSettings | None = None,
    *,
    name: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Runs the episodes of a scenario and measures what a query and a control step cost.

    Scores come from the batched rollout. Times and FLOPs are measured apart from it on a batch of one, which is what a robot would run
    (`lwd.timing.measure_cost`).

    Args:
        planner: the planner under test.
        scenario: environment and episodes. With several tasks, scores are means over the tasks, and each task counts the same.
        settings: see `EvalSettings`; a sampler named there is not applied to the planner here.
        name: of the result; made of the settings by default (`result_name`).
        sampling: settings of the planner's sampler, to be kept in the result.
        workers: simulator processes; None for one per core.
        progress: called with (steps done, steps in all).

    Returns:
        The result, JSON-ready.

    Raises:
        LWDError: settings that do not fit, bad actions, or a simulator that is missing.
    """
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
    """Evaluates a trained run and writes `eval/<name>.json` and `videos/<name>_<task>_<seed>.gif` into its directory.

    Args:
        run: trained to its end.
        settings: see `EvalSettings`.
        device: where the model computes.
        name: of the result; made of the settings by default.
        video: number of first episodes that a video is written of; with several tasks, they are of the first task.
        workers: simulator processes; None for one per core.
        progress: called with (steps done, steps in all).

    Returns:
        The result, the file that it was written to, and the videos.

    Raises:
        LWDError: see `scenario_of` and `evaluate`; or the run is not trained to its end.
    """
    require(re.fullmatch(FILE_NAME, name) is not None, f"the name {name!r} becomes a file name: use letters, digits, and . + - _")
    scenario = scenario_of(run.spec(), settings)
    method = load_method(run, device)
    own = method.sampling
    method.sample_with(settings)
    labels = [] if method.sampling is None or method.sampling == own else [method.sampling.label]
    labels += [f"{settings.max_steps}steps"] if settings.max_steps else []
    labels += [f"draw{settings.sampler_seed}"] if settings.sampler_seed else []
    labels += [_task_label(tuple(dict.fromkeys(scenario.tasks or ())))] if settings.tasks else []
    name = name or result_name(scenario.resolve(settings, method), "-".join(labels))
    records = rollout(method, scenario, settings, workers=workers, record_frames=video, progress=progress)
    videos = save_videos(records, run.path / "videos", name, family(scenario.env))
    result = summarise(records, method, scenario, settings, name, {} if method.sampling is None else asdict(method.sampling))
    return result, write_result(result, run.path / "eval"), videos


def summarise(
    records: Records,
    planner: Planner,
    scenario: Scenario,
    settings: EvalSettings,
    name: str | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The result of a rollout that was made: scores with intervals, and what the planner costs, which is measured now."""
    kind, settings = family(scenario.env), scenario.resolve(settings, planner)
    cost = measure_cost(planner, first_observations(scenario), settings.replan_every, scenario.tasks[0] if scenario.tasks else None)
    return {
        "version": VERSION,
        "name": name or result_name(settings),
        "env": scenario.env,
        "obs_kind": scenario.obs_kind,
        "replan_every": settings.replan_every,
        "perturbation": settings.perturbation,
        "max_steps": settings.max_steps,
        "episodes": len(scenario.seeds),
        "seed_start": settings.seed_start,
        "settings": {**to_dict(settings), "tasks": list(settings.tasks)},
        "sampling": dict(sampling or {}),
        "hardware": hardware(cost.pop("device")),
        "lwd": _version(),
        "primary": kind.primary,
        "scores": {score: _score(records.episodes, score, how) for score, how in kind.scores.items()},
        **({} if scenario.tasks is None else {"tasks": by_task(records.episodes, kind.scores)}),
        "queries_per_episode": float(np.mean([e["queries"] for e in records.episodes])),
        **cost,
        "rollout": {
            "wall_s": round(records.wall_s, 3),
            "env_steps": records.env_steps,
            "steps_per_s": round(records.env_steps / max(records.wall_s, 1e-9), 1),
            "plan_s": round(sum(records.plan_ms) / 1e3, 3),
        },
        "records": records.episodes,
    }


def result_name(settings: EvalSettings, label: str = "") -> str:
    """Name of a result and stem of its file: `h16_p50_n50_s100000`, with `_ddim10` for the label `ddim10`.

    Args:
        settings: as carried out (`Scenario.resolve`).
        label: what else distinguishes the result.
    """
    name = f"h{settings.replan_every}_p{settings.perturbation:g}_n{settings.episodes}_s{settings.seed_start}"
    return name + (f"_{label}" if label else "")


def save_videos(records: Records, folder: Path, name: str, kind: EnvFamily) -> list[Path]:
    """One GIF for each recorded episode, with marks where it got a new controller and where it was displaced."""
    paths = []
    for index, frames in records.frames.items():
        episode = records.episodes[index]
        displaced = episode.get("displaced_at", ())
        marked = annotate(frames, scores=kind.curve(episode), queries=episode["queried_at"], displaced=displaced)
        task = f"_{quote(episode['task'], safe='')}" if "task" in episode else ""  # the seeds of all tasks are the same
        paths.append(save_gif(marked, folder / f"{name}{task}_{episode['seed']}.gif", kind.fps))
    return paths


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Interval]:
    """Paired differences first − second of every shared score, over the same seeds.

    Raises:
        LWDError: the two results are of different environments or seeds, and cannot be paired.
    """
    a, b = ({(record.get("task", ""), record["seed"]): record for record in result["records"]} for result in (first, second))
    if first["env"] != second["env"] or a.keys() != b.keys():
        raise LWDError(
            f"{first['name']} and {second['name']} cannot be paired: evaluate both in the same environment on the same seeds "
            f"({len(a.keys() & b.keys())} of {len(a.keys() | b.keys())} are shared)"
        )
    shared = [score for score in first["scores"] if score in second["scores"]]
    return {score: paired_difference([a[s][score] for s in a], [b[s][score] for s in a]) for score in shared}


def write_result(result: Mapping[str, Any], directory: Path) -> Path:
    """Writes `<directory>/<name>.json`, whole or not at all, and returns its path."""
    path = Path(directory) / f"{result['name']}.json"
    write_json(path, result)
    return path


def by_task(episodes: Sequence[Mapping[str, Any]], scores: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """For each task its number of `episodes`, and every score with its interval."""
    tasks = dict.fromkeys(str(e["task"]) for e in episodes)
    groups = {task: [e for e in episodes if e["task"] == task] for task in tasks}
    return {task: {"episodes": len(own), **{s: _score(own, s, how) for s, how in scores.items()}} for task, own in groups.items()}


def _score(episodes: Sequence[Mapping[str, Any]], score: str, how: str) -> dict[str, Any]:
    groups: dict[str, list[float]] = {}
    for e in episodes:
        groups.setdefault(e.get("task", ""), []).append(float(e[score]))
    if len(groups) > 1:
        interval = stratified_mean(list(groups.values()))
    else:
        (values,) = groups.values()
        interval = wilson(round(sum(values)), len(values)) if how == "rate" else bootstrap_mean(values)
    return {**interval.to_dict(), "kind": how}


def _task_label(tasks: Sequence[str]) -> str:
    """Some tasks in a file name: their names where these are few and fit, else their number and a hash."""
    text = "+".join(tasks)
    return text if len(tasks) < 4 and re.fullmatch(FILE_NAME, text) else f"{len(tasks)}tasks-{crc32(' '.join(tasks).encode()):08x}"


def _version() -> str:
    try:
        return importlib.metadata.version("latent-weight-diffusion")
    except importlib.metadata.PackageNotFoundError:  # used from a source tree that was not installed
        return "unknown"
