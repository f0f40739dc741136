"""Speed of collecting Metaworld demonstrations against the simulator's own, measured in one run.

    python benchmarks/bench_collect.py [--tasks ten] [--episodes 10] [--rounds 3] [--out benchmarks/results/collect.json]

Ours: the wall time of `lwd.data.collect.collect` on all cores into an empty directory, with everything in it: start of the processes,
making the environments, resets, the experts, writing the files. Steps per second of all attempts.
Raw: `step` of plain metaworld environments with the actions that were just recorded, neither experts nor resets nor construction, in one
process, times the cores; and, because cores share power and memory, in one process per core at the same time, summed.
Rounds alternate between them, so that other load on the machine meets all alike. Processor time per step (raw / ours) is also given: where
other work takes turns with ours, it tells more than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
from plain import together

from lwd.data.collect import collect
from lwd.envs.vector import cores

_RAW = """
import sys, time
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from lwd.data.read import read

data, limit = read(sys.argv[1]), float(sys.argv[2])
order = np.random.default_rng(0).permutation(len(data))
print("ready", flush=True)
sys.stdin.readline()
steps, spent, cpu, envs = 0, 0.0, 0.0, {}
for episode in order:
    task = str(data.task[episode])
    if task not in envs:
        envs[task] = env = ALL_V3_ENVIRONMENTS[task + "-v3"]()
        env._set_task_called, env._freeze_rand_vec, env.seeded_rand_vec = True, False, True
    env = envs[task]
    env.seed(int(data.tags["seed"][episode]))
    env.reset()
    start, busy = time.perf_counter(), time.process_time()
    for action in data.action[data.starts[episode] : data.ends[episode]]:
        env.step(action)
    spent += time.perf_counter() - start
    cpu += time.process_time() - busy
    steps += int(data.lengths[episode])
    if spent > limit:
        break
print(steps / spent, 1e6 * cpu / steps)
"""


def raw_rate(data: Path, processes: int, seconds: float) -> tuple[float, float]:
    """Steps per second of plain stepping, summed over processes that run at the same time, and processor time per step, microseconds."""
    rates, costs = together(_RAW, [[data, seconds]] * processes).T
    return float(rates.sum()), float(costs.mean())


def collection_rate(tasks: list[str], episodes: int, out: Path) -> tuple[float, float]:
    """Steps per second of a whole collection, and processor time per step of all its processes, microseconds."""
    start, busy = time.perf_counter(), _processor_time()
    rows = collect("metaworld", out, tasks=tasks, episodes=episodes, progress=False)
    steps = sum(row["attempts"] for row in rows) * 500
    return steps / (time.perf_counter() - start), 1e6 * (_processor_time() - busy) / steps


def _processor_time() -> float:
    """Seconds of this process and of those it has ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of collecting Metaworld demonstrations against plain metaworld.")
    parser.add_argument("--tasks", default="ten")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each measurement of plain stepping")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "collect.json")
    args = parser.parse_args()
    count, rounds = cores(), []
    for _ in range(args.rounds):
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            ours, cost = collection_rate(args.tasks.split(","), args.episodes, Path(folder))
            one, _ = raw_rate(Path(folder), 1, args.seconds)
            together, raw_cost = raw_rate(Path(folder), count, args.seconds)
        row = {"collect": ours, "raw_one_process": one, "raw_all_cores": together, "load_before": load}
        row |= {"collect_cpu_us": cost, "raw_cpu_us": raw_cost}
        rounds.append({key: round(value, 3) for key, value in row.items()})
        print(
            f"steps/s on {count} cores: collect {ours:.0f} | plain metaworld {one:.0f} in one process, {together:.0f} in {count} | "
            f"collect / ({count} x one) {ours / one / count:.2f}, / together {ours / together:.2f}, processor time {raw_cost / cost:.2f} | "
            f"load {load:.1f}",
            flush=True,
        )
    medians = {key: float(np.median([r[key] for r in rounds])) for key in ("collect", "raw_one_process", "raw_all_cores")}
    result = {
        "command": f"python benchmarks/bench_collect.py --tasks {args.tasks} --episodes {args.episodes} --rounds {args.rounds}",
        "machine": f"{platform.machine()}, {count} cores, Python {platform.python_version()}, numpy {np.__version__}",
        "date": time.strftime("%Y-%m-%d"),
        "median_steps_per_second": medians,
        "ratio_to_raw_times_cores": round(float(np.median([r["collect"] / r["raw_one_process"] / count for r in rounds])), 3),
        "ratio_to_raw_on_all_cores": round(float(np.median([r["collect"] / r["raw_all_cores"] for r in rounds])), 3),
        "ratio_of_processor_time": round(float(np.median([r["raw_cpu_us"] / r["collect_cpu_us"] for r in rounds])), 3),
        "bar": 0.8,
        "rounds": rounds,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"median ratio {result['ratio_to_raw_times_cores']} (bar {result['bar']}); written to {args.out}")


if __name__ == "__main__":
    main()
