"""What the benchmarks of simulators are compared with: scripts that run at the same time, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray


def together(script: str, arguments: list[list[Any]]) -> NDArray[np.float64]:
    """Starts `script` once for each list of arguments, waits until each has printed a line, and lets all of them go on by a line on their
    stdin. Returns the numbers that each prints at its end, (processes, numbers)."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
    running = [subprocess.Popen([sys.executable, "-c", script, *map(str, own)], **pipes) for own in arguments]
    for process in running:
        process.stdout.readline()
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    return np.array([process.communicate()[0].split() for process in running], float)
