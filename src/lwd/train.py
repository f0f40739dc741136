"""From a config to a trained run: data, run directory, devices (Lightning Fabric); the loop itself is in `lwd.loop`."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lwd.config import Config, DiffusionConfig, to_dict
from lwd.data.episodes import Episodes, concatenate
from lwd.errors import LWDError
from lwd.loop import Trainer
from lwd.methods.base import Method, Spec, make_method
from lwd.run import Run


def load_data(config: Config) -> tuple[Episodes, Episodes]:
    """(training, held-out) episodes in the observation that the config asks for; mirror images only in the training part."""
    from lwd.data.readers import read
    from lwd.envs.base import family

    episodes = read(config.data, download=config.download)
    if config.obs not in ("data", episodes.meta.obs):
        if episodes.meta.env is None:
            raise LWDError(f"{config.data} names no environment that could turn its observations into {config.obs!r}: leave out --obs")
        episodes = family(episodes.meta.env).convert(episodes, config.obs)
    if config.demonstrations:
        episodes = demonstrations(episodes, config.demonstrations)
    training, held = episodes.split(config.holdout)
    if config.mirror:
        env = None if episodes.meta.env is None else family(episodes.meta.env)
        mirrored = None if env is None else env.mirror(training)
        if mirrored is None:
            raise LWDError(f"{config.data} belongs to no environment with a mirror symmetry: train with --no-mirror")
        training = concatenate([training, mirrored])
    return training, held


def first_of_each_task(episodes: Episodes, count: int) -> NDArray[np.int64]:
    """Indices of the first `count` episodes of each task, or of as many as there are, in the order of the data."""
    tasks = np.zeros(len(episodes), "U1") if episodes.task is None else np.asarray(episodes.task)
    return np.sort(np.concatenate([np.flatnonzero(tasks == task)[:count] for task in np.unique(tasks)]))


def demonstrations(episodes: Episodes, count: int) -> Episodes:
    """The first `count` episodes of each task.

    Raises:
        LWDError: a task has fewer.
    """
    kept = episodes.select(first_of_each_task(episodes, count))
    tasks = ["" for _ in range(len(kept))] if kept.task is None else list(map(str, kept.task))
    for task, have in Counter(tasks).items():
        if have < count:
            what = f"demonstrations of {task}" if task else "demonstrations"
            raise LWDError(f"the data has {have} {what}, fewer than --demonstrations {count}: ask for fewer, or collect more")
    return kept


def make_spec(config: Config, episodes: Episodes) -> Spec:
    """What the method must know of the data."""
    meta = episodes.meta
    tasks = tuple(sorted(set(map(str, episodes.task)))) if episodes.task is not None else ()
    return Spec(
        obs_dim=episodes.obs.shape[1],
        action_dim=episodes.action.shape[1],
        horizon=config.horizon,
        length=config.length,
        env=meta.env,
        obs=meta.obs,
        angles=tuple(meta.angles),
        action_low=None if meta.action_low is None else tuple(meta.action_low),
        action_high=None if meta.action_high is None else tuple(meta.action_high),
        tasks=tasks,
        starts=config.starts,
    )


def train(config: Config, *, fresh: bool = False, quiet: bool = False) -> Run:
    """Train, or continue a training, in `config.out`.

    Args:
        config: everything.
        fresh: start over, whatever the directory holds.
        quiet: no progress bars.

    Returns:
        The finished run.

    Raises:
        LWDError: bad data, or a directory that holds another run (other settings, other data).
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    if config.threads:
        torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)  # the moments of silent units decay to denormal numbers, which CPUs multiply many times slower
    config = replace(config, out=config.out or str(Path("runs") / config.preset))
    check_device(config.device)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its announcements are noise between progress bars
    strategy: Any = DDPStrategy(find_unused_parameters=True) if config.devices > 1 else "auto"
    fabric = Fabric(accelerator=config.device, devices=config.devices, strategy=strategy, precision=precision(config))
    if config.devices > 1:
        fabric.launch()
    run = Run(config.out)
    training, held = load_data(config)
    with run.lock() if fabric.global_rank == 0 else _nothing():
        if fresh and fabric.global_rank == 0:
            run.clear()
        spec = make_spec(config, training)
        data = None  # of a new run
        if run.exists:
            check_same(run, config, training)
        elif fabric.global_rank == 0:
            data = {
                "path": config.data,
                "fingerprint": training.fingerprint(),
                "episodes": len(training),
                "steps": training.steps,
                "held_out": len(held) if config.holdout else 0,
                "description": training.meta.description,
            }
            check_autoencoder(config, training)
        trainer = Trainer(config, spec, run, fabric, training, held, quiet)  # may refuse: before anything is written
        if data is not None:
            run.create(config, spec, data, versions())
        fabric.barrier()
        trainer.fit()
    return run


def check_device(device: str) -> None:
    """Refuse a device that torch does not have.

    Raises:
        LWDError: no such device.
    """
    if device == "auto":
        return
    try:
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError, NotImplementedError):
        raise LWDError(f"torch has no device {device!r} here: choose another --device (cpu always works)") from None


def precision(config: Config) -> Any:
    """The precision that `auto` stands for on this machine."""
    if config.precision != "auto":
        return config.precision
    if config.device in ("auto", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    flags = Path("/proc/cpuinfo")
    amx = flags.exists() and "amx_bf16" in flags.read_text()
    return "bf16-mixed" if amx and config.device in ("auto", "cpu") else "32-true"


def check_same(run: Run, config: Config, training: Episodes) -> None:
    """Refuse to continue a run with other settings or other data."""
    record = run.record()
    if record["data"]["fingerprint"] != training.fingerprint():
        raise LWDError(
            f"{run.path} was trained on other data (fingerprint {record['data']['fingerprint']}, now {training.fingerprint()}): "
            "restore the data, choose another --out, or start over with --fresh"
        )
    free = ("out", "data", "download", "device", "devices", "threads", "log_every", "validate_every", "checkpoint_every", "preset")
    before, now = _flat(_jsonable(run.config())), _flat(_jsonable(config))
    changed = [f"{k} ({before.get(k)} -> {now.get(k)})" for k in sorted({*before, *now}) if before.get(k) != now.get(k) and k not in free]
    if changed:
        raise LWDError(
            f"{run.path} was started with other settings: {', '.join(changed)}; choose another --out, or start over with --fresh"
        )


def check_autoencoder(config: Config, training: Episodes) -> None:
    """Refuse to take over the first stage of a run (`method.autoencoder_from`) that does not belong to this one.

    Raises:
        LWDError: no such run, not trained so far, or on other data or with other settings of stage 1.
    """
    elsewhere = getattr(config.method, "autoencoder_from", "")
    if not elsewhere:
        return
    run = Run(elsewhere)
    record, other = run.record(), run.config()
    if record["data"]["fingerprint"] != training.fingerprint():
        raise LWDError(f"{run.path} was trained on other data: its autoencoder does not belong here")
    if "autoencoder" not in run.load("model")[1]["done"]:
        raise LWDError(f"the autoencoder of {run.path} is not trained to its end yet: continue with the same `lwd train` command")
    second_stage = {f.name for f in fields(DiffusionConfig)} - {"before", "after"} | {"autoencoder_from", "unet_fold"}
    names = [f.name for f in fields(config.method) if f.name not in second_stage]
    differing = [name for name in names if getattr(other.method, name, None) != getattr(config.method, name)]
    differing += [name for name in ("horizon", "obs", "mirror") if getattr(other, name) != getattr(config, name)]
    if other.method.name != config.method.name or differing:
        raise LWDError(f"{run.path} has another autoencoder ({', '.join(differing) or other.method.name}): give this run the same settings")


def load_method(run: Run, device: str | torch.device = "cpu") -> Method:
    """The trained method of a run, with averaged weights, ready to plan.

    Raises:
        LWDError: no run, no checkpoint, or a damaged one.
    """
    check_device(str(device))
    method = make_method(run.config().method, run.spec())
    tensors, _ = run.load("model")
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    weights.update({k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")})
    try:
        method.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise LWDError(f"the checkpoint of {run.path} does not fit its config ({reason}): train again with --fresh") from None
    return method.to(device).eval().requires_grad_(False)


def versions() -> dict[str, str]:
    """Versions and hardware that a run was made with."""
    from importlib.metadata import version

    return {
        "lwd": version("latent-weight-diffusion"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _jsonable(config: Config) -> dict[str, Any]:
    return json.loads(json.dumps(to_dict(config)))


@contextmanager
def _nothing() -> Iterator[None]:
    yield
