"""From a config to a trained run: data, run directory, devices (Lightning Fabric). The loop itself is in `lwd.training.loop`."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterable
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lwd.config import Config, Corrected, DiffusionConfig, EvalSettings, Improved, require, to_dict
from lwd.data.prepare import choose, load_data, make_spec
from lwd.envs.vector import cores
from lwd.episodes import Episodes
from lwd.errors import LWDError
from lwd.methods.base import Method, make_method
from lwd.methods.steering import Steering
from lwd.report.tables import Table, terminal
from lwd.training.loop import Trainer, inherited
from lwd.training.run import Run

# Settings that may change when a run continues: none of them changes what is trained but the learning rates, which a user lowers after a
# training has diverged.
FREE = ("out", "data", "download", "device", "threads", "log_every", "validate_every", "checkpoint_every", "preset")


def train(config: Config, *, fresh: bool = False, quiet: bool = False) -> Run:
    """Train, or continue a training, in `config.out`; returns the finished run.

    What the config leaves open is chosen from the data, and said in one table before the training starts. `fresh` starts over, whatever
    the directory holds; `quiet` shows no table and no progress bars.

    Raises:
        LWDError: bad data, impossible settings, or a directory that holds another run (other settings, other data).
    """
    if config.threads or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(config.threads or 1)
    torch.set_flush_denormal(True)  # the moments of silent units decay to denormal numbers, which CPUs multiply many times slower
    config = replace(config, out=config.out or str(Path("runs") / config.preset))
    check_device(config.device)
    training, held = load_data(config)
    config, choices = choose(config, training, 0 if held is None else len(held))
    run, fabric = Run(config.out), make_fabric(config)
    with run.lock():
        if fresh:
            run.clear()
        if not quiet:
            if fabric.device.type == "cpu":
                threads, most = torch.get_num_threads(), cores()
                more = f"more are faster while nothing else runs: --threads {most}" if threads < most else "as set"
                choices.append(("threads", f"{threads} on {most} cores", more))
            columns, note = ("setting", "value", "why"), "Every setting is an option: lwd train --help"
            Console(stderr=True).print(terminal(Table(f"{config.data} → {run.path}", columns, choices, note)))
        spec = make_spec(config, training)
        if run.exists:
            check_same(run, config, training)
        else:
            check_stages_from(config, training)
        trainer = Trainer(config, spec, run, fabric, training, held, quiet)  # may refuse: before anything is written
        data = {
            "path": config.data,
            "fingerprint": training.fingerprint(),
            "episodes": len(training),
            "steps": training.steps,
            "held_out": 0 if held is None else len(held),
            "description": training.meta.description,
        }
        gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{gpu}"
        versions = {"lwd": version("latent-weight-diffusion"), "torch": torch.__version__, "python": platform.python_version()}
        if not run.exists or run.config() != config:  # changed: a lower learning rate, another device
            run.create(config, spec, data, {**versions, "machine": machine})
        trainer.fit()
    return run


def check_device(device: str) -> None:
    """Refuse a device that torch does not have, with `LWDError`."""
    try:
        torch.empty(1, device=None if device == "auto" else device)
    except (AssertionError, RuntimeError, NotImplementedError):
        raise LWDError(f"torch has no device {device!r} here: choose another --device (cpu always works)") from None


def make_fabric(config: Config) -> Any:
    """Device and precision of a training; what "auto" stands for on this machine is decided here."""
    from lightning_fabric import Fabric  # a second to import, which evaluations need not wait for

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its announcements are noise between progress bars
    precision: Any = config.precision
    if precision == "auto" and config.device in ("auto", "cuda") and torch.cuda.is_available():
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    elif precision == "auto":
        flags = Path("/proc/cpuinfo")
        fast = flags.exists() and {"amx_bf16", "avx512_bf16"} & set(flags.read_text().split())
        precision = "bf16-mixed" if fast and config.device in ("auto", "cpu") else "32-true"
    return Fabric(accelerator=config.device, devices=1, precision=precision)


def check_same(run: Run, config: Config, training: Episodes) -> None:
    """Refuse to continue a run with other settings or other data, with `LWDError`. Learning rates may change."""
    _check_data(run, training)
    before, now = (_flat(json.loads(json.dumps(to_dict(c)))) for c in (run.config(), config))
    changed = [
        f"{key} ({before.get(key)} -> {now.get(key)})"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and key not in FREE and not key.endswith("lr")
    ]
    if changed:
        was = f"{run.path} was started with other settings: {', '.join(changed)}"
        raise LWDError(f"{was}; choose another --out, or start over with --fresh")


def _check_data(run: Run, training: Episodes) -> None:
    known, now = run.record()["data"]["fingerprint"], training.fingerprint()
    if known != now:
        raise LWDError(
            f"{run.path} was trained on other data (fingerprint {known}, now {now}): restore the data, choose another --out, or start over "
            "with --fresh"
        )


def check_stages_from(config: Config, training: Episodes) -> None:
    """Refuse to take over the stages of a run (`method.stages_from`) that are not trained to their end, or on other data, or with other
    settings."""
    if not config.method.stages_from:
        return
    run, stages = Run(config.method.stages_from), list(config.method.stages)
    require(len(stages) > 1, f"stages_from takes over all stages but the last, and {config.method.name} has {len(stages)}: leave it out")
    other, taken, last = run.config(), inherited(config, run), stages[-1]
    if run.record()["data"]["fingerprint"] != training.fingerprint():
        raise LWDError(f"{run.path} was trained on other data: its stages do not belong here")
    _check_done(run, taken)
    free = {"stages_from", "ema_power", *Improved.HEAD, *Corrected.HEAD}  # what the last stage alone needs
    free |= set() if "world" in taken else {"imagine", "world"}
    if last == "diffusion":
        free |= {f.name for f in fields(DiffusionConfig)} - {"before", "after"} | {"unet_fold"}
    names = [f.name for f in fields(config.method) if f.name not in free]
    differing = [name for name in names if getattr(other.method, name, None) != getattr(config.method, name)]
    differing += [name for name in ("horizon", "obs_kind", "mirror", "starts") if getattr(other, name) != getattr(config, name)]
    if other.method.name != config.method.name or differing:
        raise LWDError(f"{run.path} has other stages ({', '.join(differing) or other.method.name}): give this run the same settings")


def _check_done(run: Run, stages: Iterable[str]) -> None:
    lacking = [stage for stage in stages if stage not in run.done]
    if lacking:
        raise LWDError(f"{run.path} is not trained to its end ({', '.join(lacking)} is missing): the same `lwd train` command continues it")


def load_method(run: Run, device: str | torch.device = "cpu", stages: Iterable[str] | None = None) -> Method:
    """The trained method of a run, with averaged weights, ready to plan.

    Raises:
        LWDError: no run, one of the `stages` (all by default) that is not trained to its end, or a damaged checkpoint.
    """
    check_device(str(device))
    method = make_method(run.config().method, run.spec())
    tensors, _ = run.load("model")
    _check_done(run, method.stages if stages is None else stages)
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    weights.update({k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")})
    run.load_into(method, weights)
    return method.to(device).eval().requires_grad_(False)


def run_data(run: Run) -> tuple[Episodes, Episodes | None]:
    """(training, held-out or None) episodes of a run; `LWDError` where the data is gone, or is not what the run was trained on."""
    training, held = load_data(run.config())
    _check_data(run, training)
    return training, held


def steering(method: Method, run: Run, settings: EvalSettings) -> Steering | None:
    """What the settings want of the latents of a run's method; None where they want nothing. Episodes are those that
    the run was trained on, with those that were held out, in the order of the data."""
    if not settings.steers:
        return None
    return Steering(method, load_data(replace(run.config(), holdout=0.0, mirror=False))[0], settings)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
