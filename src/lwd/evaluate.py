"""The evaluator: rollouts of any planner in any environment, as one JSON-ready result with intervals, costs and per-episode records."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lwd.envs.base import family
from lwd.errors import LWDError
from lwd.methods.base import Controller, Planner
from lwd.rollout import Records, rollouts
from lwd.statistics import Interval, bootstrap_mean, paired_difference, stratified_mean, wilson

VERSION = 1  # of the result's layout
WARM_UP = 3  # plans before the clock starts: first calls allocate and choose kernels
TIMED_PLANS, TIMED_ACTS = 30, 300
TIME_LIMIT = 20.0  # seconds for the timed plans; at least five are made


def evaluate(
    planner: Planner,
    *,
    env: str,
    obs: str,
    seeds: Sequence[int],
    horizon: int | None = None,
    perturbation: float = 0.0,
    max_steps: int | None = None,
    task: Sequence[str] | None = None,
    sampler: Mapping[str, Any] | None = None,
    sampler_seed: int = 0,
    name: str | None = None,
    workers: int | None = None,
    record_frames: int = 0,
    inspect: Callable[[Records], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Runs one episode per seed and measures what a query and a control step cost.

    Scores come from the batched rollout. Times and FLOPs are measured apart from it on a batch of one, which is what a robot would run,
    on the first observations of the first seeds; a control step's time ends when the action is on the CPU. FLOPs are those of matrix
    products and convolutions (torch's counter), a multiplication and an addition counting as two.

    Args:
        planner: method under test.
        env: name of the environment family.
        obs: kind of observation.
        seeds: environment seeds, one per episode.
        horizon: steps between queries; None for the planner's own.
        perturbation: magnitude, in the family's units (PushT: pixels).
        max_steps: None for the family's own.
        task: one name per episode, for families of several tasks; scores are then means over the tasks, each counting the same.
        sampler: settings of the planner's sampler, to be kept in the result.
        sampler_seed: of the planner's draws.
        name: of the result; made of the settings by default (`result_name`).
        workers: processes of the rollout; None for one per core.
        record_frames: pictures of so many first episodes, for `inspect`.
        inspect: called with the raw records (pictures, states) of the rollout before they are let go.
        progress: called with (steps done, max_steps).

    Returns:
        The result, JSON-ready.

    Raises:
        LWDError: settings that do not fit, bad actions, or a simulator that is missing.
    """
    kind = family(env)
    every = planner.horizon if horizon is None else horizon
    limit = kind.max_steps if max_steps is None else max_steps
    records = rollouts(
        lambda _: planner,
        env,
        obs,
        seeds,
        horizon=every,
        max_steps=limit,
        perturbation=perturbation,
        task=task,
        workers=workers,
        sampler_seed=sampler_seed,
        record_frames=record_frames,
        progress=progress,
    )
    if inspect is not None:
        inspect(records)
    return summarise(
        records,
        planner,
        env=env,
        obs=obs,
        seeds=seeds,
        horizon=every,
        perturbation=perturbation,
        max_steps=limit,
        task=task,
        sampler=sampler,
        sampler_seed=sampler_seed,
        name=name or result_name(horizon=every, perturbation=perturbation, episodes=len(seeds), seed_start=min(seeds)),
    )


def summarise(
    records: Records,
    planner: Planner,
    *,
    env: str,
    obs: str,
    seeds: Sequence[int],
    horizon: int,
    perturbation: float,
    max_steps: int,
    task: Sequence[str] | None,
    sampler: Mapping[str, Any] | None,
    sampler_seed: int,
    name: str,
) -> dict[str, Any]:
    """The result of rollouts that were made with these settings: scores with intervals, and what the planner costs, measured now."""
    kind = family(env)
    first_task = None if task is None else task[0]
    cost = measure_cost(planner, first_observations(env, obs, seeds, first_task if kind.tasks else None), horizon, first_task)
    return {
        "version": VERSION,
        "name": name,
        "env": env,
        "obs": obs,
        "horizon": horizon,
        "perturbation": perturbation,
        "max_steps": max_steps,
        "episodes": len(seeds),
        "seed_start": min(seeds),
        "sampler": dict(sampler or {}),
        "sampler_seed": sampler_seed,
        "hardware": hardware(cost.pop("device")),
        "lwd": _version(),
        "primary": kind.primary,
        "scores": {score: _score(records.episodes, score, how) for score, how in kind.scores.items()},
        **({} if task is None else {"tasks": by_task(records.episodes, kind.scores)}),
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


def result_name(*, horizon: int, perturbation: float, episodes: int, seed_start: int, label: str = "") -> str:
    """Name of a result and stem of its file: `h16_p50_n50_s100000`, with `_ddim10` for the label `ddim10`.

    Raises:
        LWDError: a label that would not make a file name.
    """
    if not re.fullmatch(r"[\w.+-]*", label):
        raise LWDError(f"{label!r} cannot be part of a file name: use letters, digits, and . + - _")
    return f"h{horizon}_p{perturbation:g}_n{episodes}_s{seed_start}" + (f"_{label}" if label else "")


def measure_cost(planner: Planner, obs: Tensor, horizon: int, task: str | None = None) -> dict[str, Any]:
    """Time and FLOPs of a query and of a control step, for a batch of one.

    Args:
        planner: method under test.
        obs: (M, Do) raw observations, tried one after another.
        horizon: steps between queries, for the amortised cost.
        task: for task-conditioned planners.

    Returns:
        `ms_per_query` and `ms_per_control_step` (p50, p95, n), `flops_per_step` (query, policy, amortised_total), `device`.
    """
    histories = obs[:, None].repeat(1, planner.history, 1)  # (M, K, Do)

    latent: Tensor | None = None  # of the plan before: what is timed are queries that follow another, as nearly all do

    def plan(i: int) -> Controller:
        nonlocal latent
        generator = torch.Generator().manual_seed(i)
        previous = {} if latent is None else {"previous": latent}
        controller = planner.plan(histories[i % len(obs)][None], None if task is None else [task], [generator], **previous)
        latent = getattr(controller, "latent", None)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # else a part of the planning would be booked on the first action
        return controller

    def act(controller: Controller, i: int) -> Tensor:
        return controller.act(obs[i % len(obs)][None], i % horizon).cpu()

    plan_ms: list[float] = []
    act_ms: list[float] = []
    with torch.inference_mode():
        for i in range(WARM_UP):
            controller = plan(i)
            act(controller, i)
        begin = perf_counter()
        for i in range(TIMED_PLANS):
            plan_ms.append(_milliseconds(plan, i))
            if i >= 4 and perf_counter() - begin > TIME_LIMIT:
                break
        for i in range(TIMED_ACTS):
            act_ms.append(_milliseconds(act, controller, i))
        query, policy = _flops(plan, 0), _flops(act, controller, 0)
        device = controller.act(obs[:1], 0).device
    return {
        "ms_per_query": _percentiles(plan_ms),
        "ms_per_control_step": _percentiles(act_ms),
        "flops_per_step": {"query": query / horizon, "policy": policy, "amortised_total": query / horizon + policy},
        "device": str(device),
    }


def hardware(device: str = "cpu") -> dict[str, Any]:
    """What the numbers were measured on: processor, cores and threads of this process, device, torch, system."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


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
    from lwd.run import write_json  # it imports the methods, which evaluating someone else's planner does not need

    path = Path(directory) / f"{result['name']}.json"
    write_json(path, result)
    return path


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


def by_task(episodes: Sequence[Mapping[str, Any]], scores: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Per task: number of `episodes`, and every score with its interval."""
    tasks = dict.fromkeys(str(e["task"]) for e in episodes)
    groups = {task: [e for e in episodes if e["task"] == task] for task in tasks}
    return {task: {"episodes": len(own), **{s: _score(own, s, how) for s, how in scores.items()}} for task, own in groups.items()}


def first_observations(env: str, obs: str, seeds: Sequence[int], task: str | None = None, count: int = 8) -> Tensor:
    """(M, Do) float32 raw: what the first episodes begin with."""
    simulator = family(env).make(obs) if task is None else family(env).make(obs, task)
    try:
        return torch.as_tensor(np.stack([simulator.reset(seed=seed)[0] for seed in seeds[:count]]), dtype=torch.float32)
    finally:
        simulator.close()


def _milliseconds(call: Callable[..., Any], *arguments: Any) -> float:
    start = perf_counter()
    call(*arguments)
    return 1e3 * (perf_counter() - start)


def _flops(call: Callable[..., Any], *arguments: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        call(*arguments)
    return int(counter.get_total_flops())


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {"p50": float(np.percentile(values, 50)), "p95": float(np.percentile(values, 95)), "n": len(values)}


def _cpu_model() -> str:
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def _version() -> str:
    try:
        return importlib.metadata.version("latent-weight-diffusion")
    except importlib.metadata.PackageNotFoundError:  # used from a source tree that was not installed
        return "unknown"
