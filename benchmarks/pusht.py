"""PushT, the figures of the README: train `lwd train PRESET` with several seeds, evaluate a grid of intervals and disturbances, pool.

    python benchmarks/pusht.py --data PATH [--preset pusht] [--seeds 0 1 2] [--replan-every 16 32] [--disturb none displace:50] [--jobs 2]

Everything is done by the command line that users have. What exists is kept: the same command continues. Writes
benchmarks/results/NAME.json: per cell the mean over all episodes of all seeds (bootstrap over episodes within each seed), and every
seed's own mean.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro

from lwd.files import write_json
from lwd.statistics import bootstrap_mean, wilson
from lwd.timing import hardware
from lwd.training.run import Run

RESULTS = Path(__file__).parent / "results"


@dataclass
class Options:
    """What to run."""

    data: str
    """Demonstrations."""
    name: str = "pusht"
    """Of the result file, and of the run directories in runs/."""
    preset: str = "pusht"
    """Preset to train."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    replan_every: tuple[int, ...] = (16, 32, 64, 128)
    """Steps between queries in evaluation."""
    disturb: tuple[str, ...] = ("none", "displace:50")
    """Disturbances, as `lwd eval` takes them."""
    episodes: int = 50
    """Of each cell and seed, from environment seed 100000."""
    jobs: int = 2
    """Trainings at a time, one thread each."""
    extra: list[str] = field(default_factory=list)
    """More options for `lwd train`."""


def lwd(*words: str) -> str:
    """Run a verb; its standard output."""
    done = subprocess.run([sys.executable, "-m", "lwd.cli", *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def main(options: Options) -> None:
    """Train, evaluate, pool."""
    out = {seed: f"runs/{options.name}-s{seed}" for seed in options.seeds}

    def train(seed: int) -> None:
        words = [options.preset, "--data", options.data, "--seed", str(seed), "--out", out[seed]]
        lwd("train", *words, "--threads", "1", "--quiet", *options.extra)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(train, options.seeds))
    cells = []
    for replan_every in options.replan_every:
        for disturb in options.disturb:
            results = []
            for seed in options.seeds:
                words = ["--replan-every", str(replan_every), "--disturb", disturb, "--episodes", str(options.episodes)]
                summary = json.loads(lwd("eval", out[seed], *words, "--json"))
                results.append(json.loads(Path(summary["path"]).read_text()))
            overlap = np.array([[e["max_overlap"] for e in r["records"]] for r in results])
            success = np.array([[e["success"] for e in r["records"]] for r in results])
            cell = {
                "replan_every": replan_every,
                "disturb": disturb,
                "max_overlap": bootstrap_mean(overlap.ravel()).to_dict(),
                "per_seed": [round(float(x), 4) for x in overlap.mean(1)],
                "success": wilson(int(success.sum()), success.size).to_dict(),
                "final_coverage": float(np.mean([[e["final_coverage"] for e in r["records"]] for r in results])),
                "queries_per_episode": float(np.mean([r["queries_per_episode"] for r in results])),
                **{k: results[0][k] for k in ("ms_per_query", "ms_per_control_step", "flops_per_step")},
            }
            cells.append(cell)
            print(json.dumps({k: cell[k] for k in ("replan_every", "disturb", "max_overlap", "per_seed")}), flush=True)
    runs = [Run(out[seed]) for seed in options.seeds]
    write_json(
        RESULTS / f"{options.name}.json",
        {
            "command": "python benchmarks/pusht.py " + " ".join(sys.argv[1:]),
            "preset": options.preset,
            "data": {k: v for k, v in runs[0].record()["data"].items() if k != "path"},
            "training_seeds": list(options.seeds),
            "training_seconds": [r.state()["seconds"] for r in runs],
            "training_note": f"{options.jobs} trainings at a time, one thread each",
            "episodes_per_seed": options.episodes,
            "seed_start": 100_000,
            "hardware": hardware(),
            "versions": runs[0].record()["versions"],
            "cells": cells,
        },
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
