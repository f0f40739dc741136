"""Two trainings side by side with default settings, against one after the other: python benchmarks/bench_threads.py

Each OpenMP runtime spins while it waits for its other threads. Two processes with as many threads each as there are cores then take the
cores from one another. `import lwd` asks the runtime to sleep instead (OMP_WAIT_POLICY=PASSIVE) before torch loads it. Everything is
measured in the same run, so that the ratios can be compared between machines. Writes benchmarks/results/threads.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lwd.files import write_json
from lwd.timing import hardware
from lwd.training.run import Run

STEPS = 60
PRESETS = {"pusht-dp": ["diffusion"], "pusht": ["autoencoder", "diffusion"]}


def start(preset: str, stages: list[str], out: Path, policy: str | None) -> subprocess.Popen[bytes]:
    """A short training with default threads; `policy` is the user's own OMP_WAIT_POLICY."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))}
    if policy is not None:
        environment["OMP_WAIT_POLICY"] = policy
    rare = ["--log-every", str(STEPS), "--validate-every", "1000000", "--checkpoint-every", "1000000", "--quiet", "--no-report"]
    steps = [word for stage in stages for word in (f"--method.{stage}.steps", str(STEPS))]
    command = [sys.executable, "-m", "lwd.cli", "train", preset, *steps, *rare, "--out", str(out)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def seconds(preset: str, stages: list[str], at_once: int, policy: str | None) -> float:
    """Seconds of training, the slowest of `at_once` that run at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / str(number) for number in range(at_once)]
        for process in [start(preset, stages, run, policy) for run in runs]:
            assert process.wait() == 0
        return max(sum(Run(run).state()["seconds"].values()) for run in runs)


def main() -> None:
    """Measure, print, write."""
    result = {"hardware": hardware(), "steps": STEPS, "presets": {}}
    for preset, stages in PRESETS.items():
        row = {}
        for name, policy in (("default", None), ("spinning", "ACTIVE")):
            alone, together = seconds(preset, stages, 1, policy), seconds(preset, stages, 2, policy)
            row[name] = {
                "alone_s": round(alone, 2),
                "two_at_once_s": round(together, 2),
                "over_one_after_the_other": together / (2 * alone),
            }
        result["presets"][preset] = row
        print(preset, json.dumps(row, indent=1))
    write_json(Path(__file__).parent / "results" / "threads.json", result)


if __name__ == "__main__":
    main()
