"""Jitter of a control loop that generates all the time: python benchmarks/bench_realtime.py [--seconds 60] [--priority 50] [--out FILE]

`AsyncController` at 1 kHz with policies of the preset `pusht-fast`, whose weights are random (the time does not depend on the training). As
soon as a generation is there, the next one begins. Where the generator is: `none` (one policy for the whole time: what system and
interpreter do by themselves), `thread` (torch, in the background thread of the controller), `process` (`lwd.deploy.remote.local`: torch in
a process of its own), and `failing`: as `process`, but one generation in three raises. `latency` lasts from the deadline of a step to its
action; a swap is missed when a generation that succeeded never took over. Other load on the machine adds to all: it is written down.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_serve import FIRST, brief_run

from lwd.deploy import AsyncController
from lwd.deploy.batch import Planning
from lwd.deploy.policy import parse
from lwd.deploy.remote import local
from lwd.files import write_json
from lwd.timing import hardware

KINDS = ("none", "thread", "process", "failing")


def generators(run: Path, kind: str, stack: ExitStack) -> Callable[[Any], Any]:
    """A generator of one kind; what it starts ends with the stack."""
    if kind in ("process", "failing"):
        own = stack.enter_context(local(str(run)))
        numbers = count()

        def failing(obs: Any) -> Any:
            if next(numbers) % 3 == 2:
                raise OSError("fails on purpose")
            return own(obs)

        return failing if kind == "failing" else own
    planning = Planning(str(run))

    def plan(obs: Any) -> Any:
        return parse(planning.answers([planning.query("policy", {"obs": obs.tolist()})])[0])  # type: ignore[arg-type]

    only = plan(np.array(FIRST))
    return (lambda obs: only) if kind == "none" else plan


def measure(run: Path, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """One kind for some seconds."""
    with ExitStack() as stack:
        generator = generators(run, kind, stack)
        every = 1 << 40 if kind == "none" else 0
        how: dict[str, Any] = {"priority": options.priority, "spin": options.spin, "safe": np.zeros(2)}
        controller = AsyncController(generator, options.rate, replan_every=every, **how)
        for _ in range(6):
            with suppress(OSError):
                generator(np.array(FIRST))  # warm
        controller.observe(FIRST)
        before = os.getloadavg()[0]
        controller.run(lambda action: controller.observe(FIRST), round(options.rate * options.seconds))
        told = controller.summary()
    left = told["asked"] - told["failed"] - told["swapped"]  # the last one was still under way
    return {**told, "missed_swaps": max(0, left - 1), "load_average": [round(before, 1), round(os.getloadavg()[0], 1)]}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Jitter of a control loop that generates all the time.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--priority", type=int, default=0, help="among the system's real-time threads, which needs the right to it")
    parser.add_argument("--spin", action="store_true")
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "results" / "realtime" / "results.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/bench_realtime.py", *sys.argv[1:]]),
        "seconds": options.seconds,
        "hardware": hardware(),
    }
    result |= {"priority": options.priority, "spin": options.spin, "target_us": {"p99.9": 1000}, "kinds": {}}
    with tempfile.TemporaryDirectory() as folder:
        run = brief_run("pusht-fast", Path(folder))
        for kind in options.kinds:
            result["kinds"][kind] = told = measure(run, kind, options)
            print(
                kind,
                told["latency_us"],
                {key: told[key] for key in ("swapped", "failed", "missed", "missed_swaps", "load_average")},
                flush=True,
            )
    write_json(options.out, result)


if __name__ == "__main__":
    main()
