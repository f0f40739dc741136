"""One training step of the autoencoder: what it spends its time on, and how it compares with a hypernetwork library and a loop.

    python benchmarks/bench_autoencoder.py [--preset pusht] [--rounds 15] [--out benchmarks/results/autoencoder.json]

The step is the trainer's, with everything it does: sampling 64 snippets, all four losses (L_RO switched on), backward, fused AdamW for the
autoencoder and for the world model, moving averages; precision, threads and flushing of denormal numbers as in training.

Shares: torch.profiler over a number of steps, self time of every operation, grouped by kind. On a GPU the time of the kernels is counted.
Matrix products are the general ones (mm, addmm, bmm, baddbmm), of forward and backward.

Ratio: the same step with the decoder exchanged for hypnettorch's HMLP (same trunk, same policy layout, outputs as its list of weights), and
a Python loop that applies each of the 64 policies with `linear`. Encoder, world model, losses, optimisers, averages are the same code. All
are measured in alternating rounds, so that other load on the machine meets all alike; figures are medians over the rounds. There are two
references: HMLP asked once for the whole batch of latents, and HMLP asked for one policy at a time, inside the loop.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn.functional import linear

from lwd.config import Config, LWDConfig
from lwd.data.prepare import load_data, make_spec
from lwd.methods.base import Spec
from lwd.methods.lwd import LWD, with_phase
from lwd.nn.hypernetwork import SIZES
from lwd.presets import PRESETS
from lwd.training.loop import Optimization
from lwd.training.train import make_fabric

BATCH = 64
STAGE = "autoencoder"
BARS = {"matrix products": 0.5, "ratio": 5.0}
KINDS: dict[str, tuple[str, ...]] = {  # first match of a part of the operation's name wins
    "matrix products": ("aten::mm", "addmm", "bmm", "aten::matmul", "aten::linear", "mkldnn_linear", "aten::mv", "aten::dot"),
    "optimiser": ("adamw", "Optimizer."),
    "moving average": ("lerp",),
    "random numbers": ("rand", "normal_", "uniform_"),
    "copies and conversions": ("copy", "aten::to", "aten::cat", "aten::index", "slice_backward", "contiguous", "clone"),
    "filling with zeros": ("fill_", "zero"),
    "sums and elementwise": ("aten::add", "aten::sub", "aten::mul", "aten::div", "aten::sum", "aten::mean", "aten::exp", "aten::pow",
                             "relu", "threshold", "clamp", "aten::neg", "aten::where"),
}  # fmt: skip


class LoopedLWD(LWD):
    """The reference: hypnettorch's hypernetwork, and one policy after another. Encoder, world model and losses are inherited."""

    def __init__(self, config: LWDConfig, spec: Spec) -> None:
        from hypnettorch.hnets import HMLP

        super().__init__(config, spec)
        shapes = [shape for a, b in pairwise(self.shape.sizes) for shape in ([b, a], [b])]
        hypernetwork: nn.Module = HMLP(
            shapes,
            uncond_in_size=config.latent + self.told,
            cond_in_size=0,
            layers=SIZES[config.decoder],
            verbose=False,
            no_cond_weights=True,
            num_cond_embs=0,
        )
        head = list(hypernetwork.parameters())[-2]
        assert head.shape == (self.shape.count, SIZES[config.decoder][-1])  # as ours: trunk, then one linear layer to all weights
        nn.init.normal_(head, std=0.01)  # the library's own is for classifiers; so that losses are of ordinary size
        self.decoder = hypernetwork  # type: ignore[assignment]

    def generate(self, z: Tensor) -> Any:
        """(B, Z), with the horizon where that varies -> B lists of weights."""
        with torch.autocast(z.device.type, enabled=False):
            return self.decoder(uncond_input=z.float())

    def act(self, weights: Any, obs: Tensor, phase: Tensor) -> Tensor:
        """B lists of weights on (B, T, F) at phases (B, T) -> (B, T, Da)."""
        with torch.autocast(obs.device.type, enabled=False):
            seen = with_phase(obs.float(), phase.clamp(0, 1)) if self.config.phase else obs.float()
            return torch.stack([self.one(w, x) for w, x in zip(weights, seen, strict=True)])

    def one(self, weights: list[Tensor], x: Tensor) -> Tensor:
        """One policy on (T, F) -> (T, Da)."""
        *hidden, last = zip(weights[::2], weights[1::2], strict=True)
        for matrix, bias in hidden:
            x = torch.relu(linear(x, matrix, bias))
        return linear(x, *last)


class OneByOneLWD(LoopedLWD):
    """The other reference: the hypernetwork too is asked for one policy after another."""

    def generate(self, z: Tensor) -> Any:
        """(B, Z), with the horizon where that varies -> B lists of weights."""
        with torch.autocast(z.device.type, enabled=False):
            return [self.decoder(uncond_input=row) for row in z.float().split(1)]


class Stepper:
    """The trainer's inner loop, one call a step."""

    def __init__(self, kind: type[LWD], config: Config) -> None:
        fabric = make_fabric(config)
        training, _ = load_data(config)
        torch.manual_seed(config.seed)
        method = kind(config.method, make_spec(config, training))
        method.normalizer.fit(training)
        method.to(fabric.device)
        self.data = method.snippets(training, fabric.device)
        self.generator = torch.Generator(fabric.device).manual_seed(config.seed)
        method.prepare(STAGE, self.data)
        groups = method.groups(STAGE)
        self.optimization = Optimization(method, groups, config.method.stages[STAGE], config.method.ema_power)
        self.method, self.fabric, self.device = method, fabric, fabric.device
        self.number = config.method.rollout_warmup  # L_RO is on
        self.parameters = sum(p.numel() for parameters, _ in groups.values() for p in parameters)

    def step(self) -> dict[str, Tensor]:
        self.optimization.zero_grad(self.number)
        with self.fabric.autocast():
            losses = self.method.loss(STAGE, self.data.sample(BATCH, self.generator), self.number, self.generator)
        self.fabric.backward(losses["loss"])
        self.optimization.step(self.number)
        self.number += 1
        return losses

    def milliseconds(self, steps: int) -> float:
        """Mean wall time of a step."""
        self.wait()
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.wait()
        return (time.perf_counter() - start) * 1e3 / steps

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def kind_of(name: str) -> str:
    """The kind of an operation, by its name."""
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other")


def profile(stepper: Stepper, steps: int) -> dict[str, Any]:
    """Self time of the operations of some steps: share by kind, and the ten most expensive ones (ms and calls a step)."""
    from torch.profiler import ProfilerActivity

    cuda = stepper.device.type == "cuda"
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        for _ in range(steps):
            stepper.step()
        stepper.wait()
    rows = []
    for event in profiler.key_averages():
        if event.device_type == DeviceType.CPU:  # operations; on a GPU each carries the time of the kernels it started
            spent = event.self_device_time_total if cuda else event.self_cpu_time_total  # microseconds
            rows.append((event.key, spent / 1e3 / steps, event.count / steps))
    total = sum(ms for _, ms, _ in rows)
    shares = dict.fromkeys([*KINDS, "other"], 0.0)
    for name, ms, _ in rows:
        shares[kind_of(name)] += ms / total
    dearest = sorted(rows, key=lambda row: -row[1])[:10]
    return {
        "time": "kernels" if cuda else "operations on the CPU",
        "ms_per_step": round(total, 3),
        "operations_per_step": round(sum(n for name, _, n in rows if name.startswith("aten::"))),
        "shares": {kind: round(share, 4) for kind, share in shares.items()},
        "dearest": [{"operation": name, "kind": kind_of(name), "ms": round(ms, 3), "calls": round(n, 1)} for name, ms, n in dearest],
    }


def compare(steppers: list[Stepper], rounds: int, steps: int) -> list[list[float]]:
    """Milliseconds a step of each, in alternating rounds after a warm-up."""
    for stepper in steppers:
        stepper.milliseconds(3)
        loss = stepper.step()["loss"].item()
        assert np.isfinite(loss), f"the loss of {type(stepper.method).__name__} is {loss}: its times mean nothing"
    return [[stepper.milliseconds(steps) for stepper in steppers] for _ in range(rounds)]


def machine(device: torch.device) -> dict[str, str | int]:
    """Hardware and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "cpu": f"{platform.machine()}, {model}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "lightning-fabric", "hypnettorch", "latent-weight-diffusion")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="One training step of the autoencoder: shares of its time, and against HMLP with a loop.")
    parser.add_argument("--preset", default="pusht", choices=list(PRESETS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=3, help="steps in a round")
    parser.add_argument("--profiled", type=int, default=30, help="steps under the profiler")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "autoencoder.json")
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    config = replace(PRESETS[args.preset][1], data="embedded")
    if config.threads:
        torch.set_num_threads(config.threads)
    ours, theirs, single = Stepper(LWD, config), Stepper(LoopedLWD, config), Stepper(OneByOneLWD, config)
    load, precision = os.getloadavg()[0], str(ours.fabric.strategy.precision.precision)
    rounds = compare([ours, theirs, single], args.rounds, args.steps)
    profiled, reference = profile(ours, args.profiled), profile(theirs, max(3, args.profiled // 4))
    ms = [float(np.median(column)) for column in zip(*rounds, strict=True)]
    ratios = {
        "HMLP asked once, loop over policies": [r[1] / r[0] for r in rounds],
        "HMLP and policy in the loop": [r[2] / r[0] for r in rounds],
    }
    medians, share = {name: float(np.median(values)) for name, values in ratios.items()}, profiled["shares"]["matrix products"]

    print(
        f"step of the autoencoder, preset {args.preset}, batch {BATCH}, horizon {config.horizon}, {precision}, "
        f"{ours.parameters:,} parameters, {torch.get_num_threads()} threads, {ours.device}"
    )
    print(f"\n{'self time of ' + profiled['time']:<36}{'lwd':>8}{'HMLP, loop':>12}")
    for kind, value in profiled["shares"].items():
        print(f"{kind:<36}{value:>8.1%}{reference['shares'][kind]:>12.1%}")
    print(f"{'operations a step':<36}{profiled['operations_per_step']:>8}{reference['operations_per_step']:>12}")
    print(f"\n{'dearest operations of lwd':<52}{'ms':>8}{'calls':>8}   kind")
    for row in profiled["dearest"]:
        print(f"{row['operation'][:50]:<52}{row['ms']:>8.2f}{row['calls']:>8.0f}   {row['kind']}")
    print(f"\n{'a step, median of ' + str(len(rounds)):<52}{'ms':>8}")
    print(f"{'lwd':<52}{ms[0]:>8.1f}")
    for name, value in zip(ratios, ms[1:], strict=True):
        print(f"{name:<52}{value:>8.1f}")
    reached = {"matrix products": share >= BARS["matrix products"], **{n: m >= BARS["ratio"] for n, m in medians.items()}}
    words = {name: "reached" if yes else "missed" for name, yes in reached.items()}
    print(f"\nmatrix products {share:.1%} (bar {BARS['matrix products']:.0%}: {words['matrix products']})")
    for name, value in medians.items():
        low, high = min(ratios[name]), max(ratios[name])
        print(f"ratio {value:.2f}, rounds {low:.2f} to {high:.2f}: {name} (bar {BARS['ratio']:.0f}: {words[name]})")
    result = {
        "command": f"python benchmarks/bench_autoencoder.py --preset {args.preset} --rounds {args.rounds}",
        "machine": machine(ours.device),
        "date": time.strftime("%Y-%m-%d"),
        "preset": args.preset,
        "batch": BATCH,
        "horizon": config.horizon,
        "policy": list(ours.method.shape.sizes),
        "trunk": list(SIZES[config.method.decoder]),
        "precision": precision,
        "parameters": ours.parameters,
        "load_before": round(load, 2),
        "profile": {"lwd": profiled, "hypnettorch_loop": reference},
        "median_ms_per_step": {name: round(value, 2) for name, value in zip(["lwd", *ratios], ms, strict=True)},
        "ratio": {name: round(value, 3) for name, value in medians.items()},
        "ratio_range": {name: [round(min(v), 3), round(max(v), 3)] for name, v in ratios.items()},
        "bars": BARS,
        "reached": reached,
        "rounds_ms": [[round(value, 2) for value in row] for row in rounds],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
