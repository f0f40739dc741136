"""What a control step and a query cost in each deployed form: python benchmarks/bench_control.py [--out docs/results/control/results.json]

Control step: one observation (PushT key points, Metaworld state) to one action, batch of one, one thread, policies of 2 x 128 and 2 x 256
with random weights (the speed does not depend on the training). C is compiled by `gcc -O3` without -march and timed in its own process.
The floor is reading the policy's weights from the processor's cache, in C. onnxruntime is timed as one calls it (`run`), and with inputs
and outputs bound once. Query: one observation to one policy, of the presets `pusht-fast` and `pusht`, in torch and onnxruntime, also with
one thread; beside it Diffusion Policy with the same denoiser and steps.

Forms take turns in every round. A figure is the median of the rounds' medians, beside the best round; a ratio is that of the rounds' own
ratios, which other load on the machine changes less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch

from lwd.config import DiffusionConfig, DiffusionPolicyConfig, LWDConfig, MethodConfig
from lwd.deploy import OnnxGenerator, Policy
from lwd.deploy.generate import as_policy
from lwd.deploy.graphs import write_graphs
from lwd.deploy.runtime import session
from lwd.deploy.source import write_c
from lwd.envs.base import family
from lwd.episodes import Spec
from lwd.files import write_json
from lwd.methods.base import Method, make_method
from lwd.presets import PRESETS
from lwd.timing import hardware

SPACES = {"pusht": ("keypoints", 18), "metaworld": ("state", 39)}
TARGETS = {"C": (4, 12), "numpy": (15, 40), "onnxruntime": (20, 40)}  # microseconds for 2 x 128 and 2 x 256
TIMER = """\
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "policy.h"
enum { CALLS = 2001 };
static double times[CALLS];
static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}
static float read_all(const float *weights) { /* 32 sums, which do not wait for each other: the compiler vectorises them */
    float sums[32] = {0};
    for (int i = 0; i + 32 <= POLICY_WEIGHTS; i += 32)
        for (int j = 0; j < 32; j++) sums[j] += weights[i + j];
    for (int j = 1; j < 32; j++) sums[0] += sums[j];
    return sums[0];
}
int main(void) {
    static float obs[POLICY_OBS_DIM], action[POLICY_ACTION_DIM];
    volatile float sink = 0;
    for (int what = 0; what < 2; what++) {
        for (int i = 0; i < CALLS; i++) {
            const double begin = now();
            if (what == 0) lwd_policy_step(&policy, obs, (unsigned)i % 32, action);
            else sink += read_all(policy.weights);
            times[i] = now() - begin;
            obs[0] = action[0];
        }
        qsort(times, CALLS, sizeof *times, by_size);
        printf("%f ", times[CALLS / 2]);
    }
    return sink != sink;
}
"""


def microseconds(call: Callable[[int], Any], calls: int) -> float:
    """The median time of a call."""
    times = []
    for i in range(calls):
        begin = perf_counter()
        call(i)
        times.append(1e6 * (perf_counter() - begin))
    return median(times)


def untrained(config: MethodConfig, env: str) -> Method:
    """A method with random weights; its denoiser's last layer, which begins with zeros, too."""
    kind, (obs_kind, dim) = family(env), SPACES[env]
    limits = (kind.action_low, kind.action_high)
    torch.manual_seed(0)
    method = make_method(config, Spec(dim, len(kind.action_low), 32, 32, env, obs_kind, (), *limits)).eval().requires_grad_(False)
    for parameter in cast(Any, method).denoiser.parameters():
        parameter += 0.02 * torch.randn_like(parameter)
    return method


def about(env: str) -> dict[str, str]:
    """Metadata of a policy that no run has made."""
    kind = family(env)
    return {
        "obs_names": json.dumps(kind.dimensions(SPACES[env][0])),
        "action_names": json.dumps(kind.action_dimensions),
        "rate": str(kind.fps),
    }


def control_forms(env: str, hidden: int, folder: Path) -> dict[str, Callable[[], dict[str, float]]]:
    """Each form measures itself in microseconds; C also measures the floor."""
    config = replace(cast(LWDConfig, PRESETS["pusht-fast"][1].method), policy=(hidden, hidden), imagine=False, improve=False)
    method = untrained(config, env)
    controller = method.plan(torch.zeros(1, 1, SPACES[env][1]), None, torch.Generator().manual_seed(0))
    policy: Policy = as_policy(method, controller, about(env))
    write_graphs(method, about(env), folder)
    write_c(policy, folder)
    (folder / "check.c").write_text(TIMER)
    subprocess.run(["gcc", "-std=c99", "-O3", *map(str, folder.glob("*.c")), "-lm", "-o", str(folder / "timer")], check=True)
    obs, tensor, ages = np.zeros(policy.obs_dim, np.float32), torch.zeros(1, policy.obs_dim), [torch.tensor([t]) for t in range(32)]
    graph = session(folder / "policy.onnx")
    feed = {"weights": policy.tensors["weights"], "obs": obs, "phase_steps": policy.tensors["phase_steps"], "t": np.zeros(1, np.float32)}
    feed = {given.name: feed[given.name] for given in graph.get_inputs()}
    bound = graph.io_binding()
    for name, value in feed.items():
        bound.bind_cpu_input(name, value)
    bound.bind_output("action")

    def in_c() -> dict[str, float]:
        step, floor = subprocess.run([folder / "timer"], check=True, capture_output=True, text=True).stdout.split()
        return {"C": float(step), "floor": float(floor)}

    def in_torch() -> dict[str, float]:
        with torch.inference_mode():
            return {"torch": microseconds(lambda i: controller.act(tensor, ages[i % 32]).cpu(), 500)}

    return {
        "C": in_c,
        "numpy": lambda: {"numpy": microseconds(lambda i: policy.act(obs, i % 32), 1000)},
        "onnxruntime": lambda: {"onnxruntime": microseconds(lambda i: graph.run(None, feed), 1000)},
        "bound": lambda: {"onnxruntime, bound": microseconds(lambda i: graph.run_with_iobinding(bound), 1000)},
        "torch": in_torch,
    }


def query_forms(preset: str, folder: Path) -> dict[str, Callable[[], dict[str, float]]]:
    """A query in torch and onnxruntime, each from a raw observation to the weights; beside them one of Diffusion Policy, same denoiser."""
    config = cast(LWDConfig, PRESETS[preset.removesuffix(" unet")][1].method)
    config = replace(config, denoiser="unet", unet_size="s") if preset.endswith(" unet") else config
    method = untrained(config, "pusht")
    same = {field.name: getattr(config, field.name) for field in fields(DiffusionConfig)}
    rival = untrained(DiffusionPolicyConfig(**same | {"imagine": False}), "pusht")
    write_graphs(method, about("pusht"), folder)
    onnx, history, generator = OnnxGenerator(folder, seed=0), torch.full((1, 1, 18), 200.0), torch.Generator().manual_seed(0)
    calls = 100 if preset == "pusht-fast" else 30

    def in_torch(name: str, method: Method) -> dict[str, float]:
        with torch.inference_mode():
            return {name: microseconds(lambda i: method.plan(history, None, generator), calls)}

    return {
        "torch": lambda: in_torch("torch", method),
        "rival": lambda: in_torch("diffusion policy, torch", rival),
        "onnxruntime": lambda: {"onnxruntime": microseconds(lambda i: onnx.plan(history[0].numpy()), calls)},
    }


def measure(forms: dict[str, Callable[[], dict[str, float]]], rounds: int, base: str) -> dict[str, Any]:
    """Medians of the forms in microseconds, and their ratios to `base` within a round."""
    for form in forms.values():
        form()  # warm
    found = [{key: value for form in forms.values() for key, value in form().items()} for _ in range(rounds)]
    return {
        "microseconds": {key: round(median(own[key] for own in found), 2) for key in found[0]},
        "best_round": {key: round(min(own[key] for own in found), 2) for key in found[0]},
        f"over_{base}": {key: round(median(own[key] / own[base] for own in found), 2) for key in found[0]},
        "rounds": [{key: round(value, 2) for key, value in own.items()} for own in found],
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="What a control step and a query cost in each deployed form.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "results" / "control" / "results.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"command": "python benchmarks/bench_control.py", "rounds": options.rounds, "hardware": hardware()}
    result |= {"targets_microseconds": TARGETS, "control": {}, "query": {}}
    with tempfile.TemporaryDirectory() as folder:
        for env in SPACES:
            for hidden in (128, 256):
                name = f"{env}, 2 x {hidden}"
                result["control"][name] = measure(control_forms(env, hidden, Path(folder) / name), options.rounds, "floor")
                print(name, json.dumps({key: value for key, value in result["control"][name].items() if key != "rounds"}), flush=True)
        for preset in ("pusht-fast", "pusht", "pusht unet"):
            result["query"][preset] = measure(query_forms(preset, Path(folder) / preset), options.rounds, "diffusion policy, torch")
            print(preset, json.dumps({key: value for key, value in result["query"][preset].items() if key != "rounds"}), flush=True)
    write_json(options.out, result)


if __name__ == "__main__":
    main()
