"""Speed of the rollout against the simulator's own, measured in one run.

    python benchmarks/bench_rollout.py [--rounds 3] [--out benchmarks/results/rollout.json]

Raw: plain gym_pusht environments, random actions, coverage included, one process per core, all at the same time; steps per second summed.
Ours: `rollout` of 50 environments on as many workers, with a planner that hands out 50 MLPs of two hidden layers of 256 (as generated
policies are: batched matrix products over a set of weights per environment), undisturbed and displaced, full episodes of 300 steps. The
start of the processes is outside both. Rounds alternate between the two, so that other load on the machine meets both alike. The share of
the policy is also given, because it is what the simulator waits for.

Also given is our own environment's rate with random actions and one process per core: how much of the gain is a faster simulator, and how
much of it the loop keeps.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain import together
from torch import Tensor

from lwd.config import EvalSettings
from lwd.envs.vector import cores
from lwd.rollout import Scenario, rollout

_RAW = """
import os, sys, time
os.environ["PYGAME_HIDE_SUPPORT_PROMPT"] = "1"
import numpy as np
if sys.argv[1] == "raw":
    from gym_pusht.envs.pusht import PushTEnv
    env = PushTEnv(obs_type="state")
else:
    from lwd.envs.pusht.family import FAMILY
    env = FAMILY.make("state")
rng = np.random.default_rng(int(sys.argv[2]))
seconds = float(sys.argv[3])
actions = rng.uniform(0, 512, (300, 2)).astype(np.float32)
env.reset(seed=0)
print("ready", flush=True)
sys.stdin.readline()
steps, start = 0, time.perf_counter()
while time.perf_counter() - start < seconds:
    env.reset(seed=steps)
    for action in actions:
        env.step(action)
    steps += 300
print(steps / (time.perf_counter() - start))
"""


class Policies:
    """B generated MLPs of two hidden layers of 256, and the planner that hands them out (random weights, actions around the block)."""

    history, horizon = 1, 16

    def __init__(self, weights: list[Tensor] | None = None) -> None:
        self.weights = weights or []

    def plan(self, history: Tensor, task: Any = None, generator: Any = None) -> Policies:
        sizes, batch = (5, 256, 256, 2), len(history)
        return Policies([torch.randn(batch, i, o) / i**0.5 for i, o in pairwise(sizes)])

    def update(self, rows: Tensor, new: Policies) -> None:
        for own, other in zip(self.weights, new.weights, strict=True):
            own[rows] = other

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        x = (obs / 256 - 1)[:, None]
        for weight in self.weights[:-1]:
            x = torch.relu(torch.bmm(x, weight))
        return obs[:, 2:4] + 60 * torch.bmm(x, self.weights[-1])[:, 0]


def simulator_rate(kind: str, processes: int, seconds: float) -> float:
    """Steps per second of plain stepping, summed over processes that run at the same time."""
    return float(together(_RAW, [[kind, i, seconds] for i in range(processes)]).sum())


def rollout_rate(episodes: int, workers: int, disturb: str) -> tuple[float, float]:
    """(steps per second, share of the time spent in planning and acting) of a rollout."""
    scenario, settings = Scenario("pusht", "state", tuple(range(episodes))), EvalSettings(disturb=disturb)
    records = rollout(Policies(), scenario, settings, workers=workers)
    return records.env_steps / records.wall_s, (sum(records.plan_ms) + sum(records.act_ms)) / 1e3 / records.wall_s


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the rollout against plain gym_pusht.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement of plain stepping")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "rollout.json")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the workers have the cores
    count = cores()
    rounds = []
    for _ in range(args.rounds):
        load = os.getloadavg()[0]
        raw = simulator_rate("raw", count, args.seconds)
        ours = simulator_rate("ours", count, args.seconds)
        still, share = rollout_rate(args.episodes, count, "none")
        moved, _ = rollout_rate(args.episodes, count, "displace:50")
        row = {"raw": raw, "own_simulator": ours, "rollout": still, "rollout_perturbed": moved, "policy_share": share, "load_before": load}
        rounds.append({key: round(value, 3) for key, value in row.items()})
        print(
            f"steps/s on {count} cores: plain gym_pusht {raw:.0f} | our simulator {ours:.0f} | rollout of {args.episodes} {still:.0f} "
            f"(displaced {moved:.0f}) | rollout / plain {still / raw:.2f} | policies {share:.0%} of the rollout | load {load:.1f}",
            flush=True,
        )
    medians = {key: float(np.median([r[key] for r in rounds])) for key in rounds[0]}
    result = {
        "command": "python benchmarks/bench_rollout.py",
        "machine": f"{platform.machine()}, {count} cores, Python {platform.python_version()}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
        "episodes": args.episodes,
        "median_steps_per_second": {key: medians[key] for key in ("raw", "own_simulator", "rollout", "rollout_perturbed")},
        "ratio_to_raw_times_cores": round(medians["rollout"] / medians["raw"], 3),
        "ratio_perturbed": round(medians["rollout_perturbed"] / medians["raw"], 3),
        "ratio_to_own_simulator": round(medians["rollout"] / medians["own_simulator"], 3),
        "bar": 0.8,
        "rounds": rounds,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"median ratio {result['ratio_to_raw_times_cores']} (bar {result['bar']}); written to {args.out}")


if __name__ == "__main__":
    main()
