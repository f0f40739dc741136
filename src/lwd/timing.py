"""What a query, a control step and a training step cost: time and FLOPs, and the hardware that they were measured on."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lwd.config import Config
from lwd.control import Monitor
from lwd.data.prepare import choose, load_data, make_spec
from lwd.envs.base import family
from lwd.envs.vector import cores
from lwd.methods.base import Controller, Planner
from lwd.methods.wrappers import imagining
from lwd.rollout import Scenario
from lwd.training.loop import Trainer
from lwd.training.run import Run
from lwd.training.train import make_fabric

WARM_UP = 3  # calls before the clock starts: the first ones allocate memory and choose kernels


def measure_cost(planner: Planner, obs: Tensor, interval: float, task: str | None = None, monitor: Monitor | None = None) -> dict[str, Any]:
    """Time and FLOPs of a query and of a control step, for a batch of one, which is what a robot would run, at raw observations (M, Do) in
    turn, with a query every `interval` steps on average: `ms_per_query` and `ms_per_control_step` (p50, p95, n), `flops_per_step` (query,
    policy, amortised_total), `device`. A query that imagines has also `imagination`: candidates, steps, and its own `ms` and `flops` of a
    query, which are part of the others. A monitor is part of a control step.

    A control step ends when its action is on the CPU. FLOPs are those of matrix products and convolutions (torch's counter); a
    multiplication and an addition count as two."""
    histories = obs[:, None].repeat(1, planner.history, 1)  # (M, K, Do)

    def plan(i: int) -> Controller:
        return planner.plan(histories[i % len(obs)][None], None if task is None else [task], [torch.Generator().manual_seed(i)])

    def act(i: int) -> Tensor:
        seen, age = obs[i % len(obs)][None], torch.tensor([i % max(1, int(interval))])
        action = controller.act(seen, age).cpu()
        if monitor is not None:
            monitor(seen, action, seen, age, None if task is None else [task])
        return action

    plan_ms: list[float] = []
    with torch.inference_mode():
        for i in range(WARM_UP):
            controller = plan(i)
            act(i)
        begin = perf_counter()
        while len(plan_ms) < 30 and (len(plan_ms) < 5 or perf_counter() - begin < 20):  # seconds
            plan_ms.append(_milliseconds(plan, len(plan_ms)))
        act_ms = [_milliseconds(act, i) for i in range(300)]
        query, policy = flops(plan, 0), flops(act, 0)
        imagination = _imagination(planner, histories[0, -1:], task)
        device = controller.act(obs[:1], torch.zeros(1, dtype=torch.int64)).device
    return {
        "ms_per_query": _percentiles(plan_ms),
        "ms_per_control_step": _percentiles(act_ms),
        "flops_per_step": {"query": query / interval, "policy": policy, "amortised_total": query / interval + policy},
        **imagination,
        "device": str(device),
    }


def _imagination(planner: Planner, obs: Tensor, task: str | None) -> dict[str, Any]:
    """What imagining alone costs in a query of a planner that does it, at a raw observation (1, Do)."""
    if (inner := imagining(planner)) is None:
        return {}
    tasks, own = None if task is None else [task], inner.method
    candidates = inner.several(obs[:, None].repeat(1, own.history, 1), tasks, torch.Generator(own.device).manual_seed(0))

    def imagine() -> Any:
        return inner.imagine(controllers=candidates, obs=obs, task=tasks)

    times = [_milliseconds(imagine) for _ in range(WARM_UP + 10)][WARM_UP:]
    return {"imagination": {"candidates": inner.count, "steps": inner.steps, "ms": _percentiles(times), "flops": flops(imagine)}}


def first_observations(scenario: Scenario, count: int = 8) -> Tensor:
    """(M, Do) float32 raw: what the first episodes begin with, in the task of the first one."""
    kind = family(scenario.env)
    task = scenario.tasks[0] if scenario.tasks and kind.tasks else None
    with closing(kind.make(scenario.obs_kind) if task is None else kind.make(scenario.obs_kind, task)) as simulator:
        first = [simulator.reset(seed=seed)[0] for seed in scenario.seeds[:count]]
    return torch.as_tensor(np.stack(first), dtype=torch.float32)


def time_training(config: Config, steps: int) -> dict[str, Any]:
    """Times some training steps of every stage with the trainer's own objects, on one thread by default, and counts the FLOPs of one:
    `parameters` by module, and for each of `stages` `steps`, `batch`, `ms_per_step` (median), `flops_per_step`, `prepare_seconds` (before
    the first step) and `seconds` (of the whole stage)."""
    threads, stages = torch.get_num_threads(), {}
    torch.set_num_threads(config.threads or 1)  # as in the jobs of a study
    try:
        training, held = load_data(config)
        config, _ = choose(config, training, len(held or ()))
        trainer = Trainer(config, make_spec(config, training), Run("unused"), make_fabric(config), training, held)
        for stage in trainer.method.stages:
            settings, begin = config.method.stages[stage], perf_counter()
            optimization = trainer.begin(stage)
            prepare = perf_counter() - begin
            step = partial(trainer.step, stage, optimization, settings.steps - 1)  # the last step: whatever is warmed up is on
            typical = median([_milliseconds(step) for _ in range(WARM_UP + steps)][WARM_UP:])
            cost = {"ms_per_step": typical, "flops_per_step": flops(step), "prepare_seconds": prepare}
            whole = prepare + settings.steps * typical / 1e3
            stages[stage] = {"steps": settings.steps, "batch": settings.batch, **cost, "seconds": whole}
    finally:
        torch.set_num_threads(threads)
    return {"parameters": trainer.method.parameter_counts(), "stages": stages}


def hardware(device: str = "cpu") -> dict[str, Any]:
    """What the numbers were measured on: processor, cores and threads of this process, device, torch, system."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return {
        "cpu": names[0].strip() if names else platform.processor() or platform.machine(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _milliseconds(call: Callable[..., Any], *arguments: Any) -> float:
    begin = perf_counter()
    call(*arguments)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # else a part of this call would be booked on the next one
    return 1e3 * (perf_counter() - begin)


def flops(call: Callable[..., Any], *arguments: Any) -> int:
    """Floating-point operations of a call, by torch's counter: of its matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        call(*arguments)
    return int(counter.get_total_flops())


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {"p50": float(np.percentile(values, 50)), "p95": float(np.percentile(values, 95)), "n": len(values)}
