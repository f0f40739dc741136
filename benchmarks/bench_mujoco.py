"""Speed of rollouts in MuJoCo against the simulators' own, measured in one run.

    python benchmarks/bench_mujoco.py [--rounds 3] [--episodes 96] [--out benchmarks/results/mujoco.json]

Raw: the bare environments of gymnasium, random actions, one process per core, all at the same time; steps per second summed, and processor
time per step. Ours: `rollout` of 96 environments on as many workers with the same random actions; its processor time is that of all its
processes, less that of a rollout of one step, which is their start. Actions of Ant and Hammer are small, so that no ant falls. Each round
measures raw, ours, raw. Where other work shares the cores, processor time tells more than the clock: a loop of processes that wait for
each other loses its turn at every step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain import together
from torch import Tensor

from lwd.config import EvalSettings
from lwd.envs.base import family
from lwd.envs.vector import cores
from lwd.rollout import Scenario, rollout

ENVS = {  # id, size of the actions, steps of an episode
    "halfcheetah": ("HalfCheetah-v5", 1.0, 500),
    "ant": ("Ant-v5", 0.2, 150),
    "hammer": ("AdroitHandHammer-v1", 0.2, 100),
}
_RAW = """
import sys, time
import gymnasium, numpy as np
if sys.argv[1].startswith("Adroit"):
    import gymnasium_robotics
env = gymnasium.make(sys.argv[1]).unwrapped
scale, length, number, seconds = float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
actions = scale * np.random.default_rng(number).uniform(-1, 1, (length, *env.action_space.shape))
env.reset(seed=0)
print("ready", flush=True)
sys.stdin.readline()
steps, start, busy = 0, time.perf_counter(), time.process_time()
while time.perf_counter() - start < seconds:
    env.reset(seed=steps)
    for action in actions:
        env.step(action)
    steps += length
print(steps / (time.perf_counter() - start), 1e6 * (time.process_time() - busy) / steps)
"""


class Uniform:
    """A controller of random actions, and the planner that hands it out."""

    history, horizon = 1, 1000

    def __init__(self, scale: float, size: int) -> None:
        self.scale, self.size = scale, size

    def plan(self, history: Tensor, task: Any = None, generator: Any = None) -> Uniform:
        return self

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        return self.scale * (2 * torch.rand(len(obs), self.size) - 1)


def raw(name: str, seconds: float) -> tuple[float, float]:
    """Steps per second of plain stepping, summed over one process per core, and processor time per step, microseconds."""
    rates, costs = together(_RAW, [[*ENVS[name], i, seconds] for i in range(cores())]).T
    return float(rates.sum()), float(costs.mean())


def ours(name: str, episodes: int) -> tuple[float, float]:
    """Steps per second of a rollout, and processor time per step, microseconds."""
    _, scale, length = ENVS[name]
    planner: Any = Uniform(scale, len(family(name).action_low))
    scenario, spent, steps = Scenario(name, "state", tuple(range(episodes))), list[float](), list[int]()
    for limit in (1, length):
        before = sum(os.times()[:4])
        records = rollout(planner, scenario, EvalSettings(max_steps=limit), workers=cores())
        spent.append(sum(os.times()[:4]) - before)
        steps.append(records.env_steps)
    return records.env_steps / records.wall_s, 1e6 * (spent[1] - spent[0]) / (steps[1] - steps[0])


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of rollouts in MuJoCo against plain gymnasium.")
    parser.add_argument("--envs", nargs="+", default=list(ENVS), choices=list(ENVS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement of plain stepping")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "mujoco.json")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the workers have the cores
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in args.envs}
    for _ in range(args.rounds):
        for name, rows in rounds.items():
            load = os.getloadavg()[0]
            before, own, after = raw(name, args.seconds), ours(name, args.episodes), raw(name, args.seconds)
            plain, cost = np.mean([before, after], axis=0).tolist()
            row = {"raw": plain, "rollout": own[0], "raw_cpu_us": cost, "rollout_cpu_us": own[1], "load_before": load}
            rows.append({**{key: round(value, 2) for key, value in row.items()}, "ratio": own[0] / plain, "cpu_ratio": cost / own[1]})
            print(f"{name}: " + " | ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()), flush=True)
    result = {
        "command": "python benchmarks/bench_mujoco.py",
        "machine": f"{platform.machine()}, {cores()} cores, Python {platform.python_version()}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
        "episodes": args.episodes,
        "median": {name: {key: float(np.median([row[key] for row in rows])) for key in rows[0]} for name, rows in rounds.items()},
        "bar": 0.8,
        "rounds": rounds,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    ratios = {name: f"{found['ratio']:.2f} (processor time {found['cpu_ratio']:.2f})" for name, found in result["median"].items()}  # type: ignore[attr-defined]
    print(f"median ratios {ratios}, bar {result['bar']}; written to {args.out}")


if __name__ == "__main__":
    main()
