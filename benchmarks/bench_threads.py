"""Two trainings side by side against one after the other: python benchmarks/bench_threads.py

Several threads of a process spin while they wait for each other. Two processes with as many threads each as there are cores then take the
cores from one another. A training has one thread by default. Everything is measured in the same run, so that the ratios can be compared
between machines. Writes benchmarks/results/threads.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lwd.envs.vector import cores
from lwd.files import write_json
from lwd.timing import hardware
from lwd.training.run import Run

STEPS, ROUNDS = 100, 3
PRESETS = {"pusht-dp": ["diffusion"], "pusht": ["autoencoder", "diffusion"]}


def start(preset: str, stages: list[str], out: Path, options: list[str]) -> subprocess.Popen[bytes]:
    """A short training without settings of OpenMP in its environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))}
    rare = ["--log-every", str(STEPS), "--validate-every", "1000000", "--checkpoint-every", "1000000", "--quiet", "--no-report"]
    steps = [word for stage in stages for word in (f"--method.{stage}.steps", str(STEPS))]
    command = [sys.executable, "-m", "lwd.cli", "train", preset, *steps, *rare, *options, "--out", str(out)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def seconds(preset: str, stages: list[str], at_once: int, options: list[str]) -> float:
    """Seconds of training, the slowest of `at_once` that run at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / str(number) for number in range(at_once)]
        for process in [start(preset, stages, run, options) for run in runs]:
            assert process.wait() == 0
        return max(sum(Run(run).state()["seconds"].values()) for run in runs)


def main() -> None:
    """Measure in rounds, print, write; a figure is the median of its rounds."""
    settings: dict[str, list[str]] = {"default": [], "all cores": ["--threads", str(cores())]}
    result = {"hardware": hardware(), "steps": STEPS, "rounds": ROUNDS, "presets": {}}
    for preset, stages in PRESETS.items():
        found: dict[tuple[str, int], list[float]] = {(name, at_once): [] for name in settings for at_once in (1, 2)}
        for _ in range(ROUNDS):
            for (name, at_once), measured in found.items():
                measured.append(seconds(preset, stages, at_once, settings[name]))
        median = {key: sorted(measured)[ROUNDS // 2] for key, measured in found.items()}
        row = {
            name: {
                "alone_s": round(median[name, 1], 2),
                "two_at_once_s": round(median[name, 2], 2),
                "over_one_after_the_other": median[name, 2] / (2 * median[name, 1]),
            }
            for name in settings
        }
        result["presets"][preset] = row
        print(preset, json.dumps(row, indent=1))
    write_json(Path(__file__).parent / "results" / "threads.json", result)


if __name__ == "__main__":
    main()
