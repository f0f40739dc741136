"""One straight-line loop for every stage: data, method, run directory, steps. Lightning Fabric brings device, precision and DDP."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lwd.config import Config, Stage, require, to_dict
from lwd.data.episodes import Episodes, concatenate
from lwd.data.snippets import Snippets
from lwd.errors import LWDError
from lwd.loop import Average, deferred_interrupt, learning_rate, stage_progress
from lwd.methods.lwd import LWD, Spec
from lwd.run import Run, load_optimizer, optimizer_tensors


def load_data(config: Config) -> tuple[Episodes, Episodes]:
    """(training, held-out) episodes in the observation that the config asks for; mirror images only in the training part."""
    from lwd.data.readers import read
    from lwd.envs.base import family

    episodes = read(config.data, download=config.download)
    if config.obs not in ("data", episodes.meta.obs):
        if episodes.meta.env is None:
            raise LWDError(f"{config.data} names no environment that could turn its observations into {config.obs!r}: leave out --obs")
        episodes = family(episodes.meta.env).convert(episodes, config.obs)
    training, held = episodes.split(config.holdout)
    if config.mirror:
        env = None if episodes.meta.env is None else family(episodes.meta.env)
        mirrored = None if env is None else env.mirror(training)
        if mirrored is None:
            raise LWDError(f"{config.data} belongs to no environment with a mirror symmetry: train with --no-mirror")
        training = concatenate([training, mirrored])
    return training, held


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
        tasks=tasks if len(tasks) > 1 else (),
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
    require(config.device != "cuda" or torch.cuda.is_available(), "device is cuda but torch sees no GPU: use --device auto")
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
            run.create(config, spec, data, versions())
        fabric.barrier()
        Trainer(config, spec, run, fabric, training, held, quiet).fit()
    return run


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
    before, now = _flat(record["config"]), _flat(_jsonable(config))
    changed = [f"{k} ({before.get(k)} -> {now.get(k)})" for k in sorted({*before, *now}) if before.get(k) != now.get(k) and k not in free]
    if changed:
        raise LWDError(
            f"{run.path} was started with other settings: {', '.join(changed)}; choose another --out, or start over with --fresh"
        )


class Trainer:
    """The loop. One generator draws everything random after initialisation, so that its state is all that resuming needs."""

    def __init__(self, config: Config, spec: Spec, run: Run, fabric: Any, training: Episodes, held: Episodes, quiet: bool) -> None:
        self.config, self.run, self.fabric, self.quiet = config, run, fabric, quiet
        torch.manual_seed(config.seed)
        self.method = LWD(config.method, spec)
        self.method.normalizer.fit(training)
        self.method.to(fabric.device)
        self.data = Snippets(training, self.method.normalizer, spec.length, config.method.before, fabric.device)
        self.held = Snippets(held, self.method.normalizer, spec.length, config.method.before, fabric.device)
        self.generator = torch.Generator(fabric.device).manual_seed(config.seed * 1_000_003 + 17 + fabric.global_rank)
        self.seconds: dict[str, float] = dict.fromkeys(self.method.stages, 0.0)
        self.averages: dict[str, Tensor] = {}  # EMA weights of the stage in progress, by parameter name

    def fit(self) -> None:
        """All stages that are not done yet."""
        done: tuple[str, ...] = ()
        at = 0
        saved = self._restore()
        if saved is not None:
            done, at = tuple(saved["done"]), saved["step"]
            if saved["stage"] in done:
                at = 0
        for stage in self.method.stages:
            if stage not in done:
                self._stage(stage, at, done)
                done, at = (*done, stage), 0
        self._write_tensorboard_end()

    def _stage(self, stage: str, start: int, done: tuple[str, ...]) -> None:
        settings: Stage = getattr(self.config.method, stage)
        self.method.prepare(stage, self.data)
        groups = self.method.groups(stage)
        owned = {id(p) for parameters, _ in groups.values() for p in parameters}
        for parameter in self.method.parameters():
            parameter.requires_grad_(id(parameter) in owned)
        fused = self.fabric.device.type in ("cpu", "cuda")
        optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.AdamW(parameters, lr=lr, weight_decay=settings.weight_decay, fused=fused)
            for name, (parameters, lr) in groups.items()
        }
        average = Average({k: p for k, p in self.method.named_parameters() if id(p) in owned}, self.config.method.ema_power)
        if start:
            self._restore_stage(optimizers, average)
        module, *wrapped = self.fabric.setup(self.method, *optimizers.values(), move_to_device=False)
        module.mark_forward_method("loss")
        peaks = [lr for _, lr in groups.values()]
        sums: dict[str, Tensor] = {}
        counts: Counter[str] = Counter()
        before, began = self.seconds[stage], time.perf_counter()
        with (
            stage_progress(stage, start, settings.steps, self.quiet or self.fabric.global_rank > 0) as advance,
            deferred_interrupt() as stop,
        ):
            for step in range(start, settings.steps):
                factor = learning_rate(settings, step)
                for optimizer, peak in zip(wrapped, peaks, strict=True):
                    for group in optimizer.param_groups:
                        group["lr"] = peak * factor
                    optimizer.zero_grad(set_to_none=True)
                losses = module.loss(stage, self.data.sample(settings.batch, self.generator), step, self.generator)
                self.fabric.backward(losses["loss"])
                for optimizer in wrapped:
                    optimizer.step()
                average.update(step)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0) + value.detach()
                    counts[name] += 1
                done_steps = step + 1
                last = done_steps == settings.steps
                self.seconds[stage] = before + time.perf_counter() - began
                if done_steps % self.config.log_every == 0 or last:
                    self._log(stage, done_steps, sums, counts, factor, average, advance)
                if (done_steps % self.config.checkpoint_every == 0 and not last) or stop():
                    self._save(stage, done_steps, done, optimizers, average)
                    if stop():
                        raise KeyboardInterrupt
        average.copy_to_model()  # from here on the averaged weights are the model
        self._save(stage, settings.steps, (*done, stage), {}, average)

    # --- what is kept -------------------------------------------------------------------------------------------------------------

    def _log(
        self, stage: str, step: int, sums: dict[str, Tensor], counts: Counter[str], factor: float, average: Average, advance: Any
    ) -> None:
        means = {k: float(v) / counts[k] for k, v in sums.items()}
        line: dict[str, Any] = {"stage": stage, "step": step, **means, "lr_factor": factor}
        sums.clear()
        counts.clear()
        if not math.isfinite(line["loss"]):
            raise LWDError(
                f"the loss of stage {stage} became {line['loss']} before step {step}: lower the learning rate (--method.{stage}.lr)"
            )
        if step % self.config.validate_every == 0 or step == getattr(self.config.method, stage).steps:
            with average.applied():
                measured = self.method.validate(stage, self.held, torch.Generator(self.fabric.device).manual_seed(0))
            line.update({f"held_out/{k}": v for k, v in measured.items()})
        line["seconds"] = round(self.seconds[stage], 1)
        if self.fabric.global_rank == 0:
            self.run.append(line)
        advance(step, line)

    def _write_tensorboard_end(self) -> None:
        """TensorBoard events from metrics.jsonl, which is the record: written once, so that a resumed run has no double points."""
        if self.fabric.global_rank:
            return
        from torch.utils.tensorboard import SummaryWriter

        target = self.run.path / "tensorboard"
        if target.exists():
            return
        writer = SummaryWriter(str(target))
        for line in self.run.metrics():
            for key, value in line.items():
                if key not in ("stage", "step"):
                    writer.add_scalar(f"{line['stage']}/{key}", value, line["step"])
        writer.close()

    def _save(self, stage: str, step: int, done: tuple[str, ...], optimizers: dict[str, torch.optim.Optimizer], average: Average) -> None:
        if self.fabric.global_rank:
            return
        model = {f"model.{k}": v for k, v in self.method.state_dict().items()}
        model.update({f"ema.{k}": v for k, v in average.values.items()})
        training: dict[str, Tensor] = {"generator": self.generator.get_state()}
        for name, optimizer in optimizers.items():
            training.update(optimizer_tensors(name, optimizer))
        self.run.save(model, training, {"stage": stage, "step": step, "done": list(done), "seconds": self.seconds})

    def _restore(self) -> dict[str, Any] | None:
        if self.run.latest() is None:
            return None
        model, state = self.run.load("model")
        training, _ = self.run.load("training")
        self.method.load_state_dict({k.removeprefix("model."): v for k, v in model.items() if k.startswith("model.")})
        if self.fabric.global_rank:  # only the first process's state is kept: the others go on with other numbers
            self.generator.manual_seed((self.config.seed + 1) * 1_000_003 + 7919 * state["step"] + self.fabric.global_rank)
        else:
            self.generator.set_state(training["generator"])
        self.seconds = {k: float(v) for k, v in state["seconds"].items()}
        self.run.rewind(self.method.stages, state["stage"], state["step"])
        return state

    def _restore_stage(self, optimizers: dict[str, torch.optim.Optimizer], average: Average) -> None:
        model, _ = self.run.load("model")
        training, _ = self.run.load("training")
        for key, value in average.values.items():
            value.copy_(model[f"ema.{key}"])
        for name, optimizer in optimizers.items():
            load_optimizer(name, optimizer, training)


def load_method(run: Run, device: str | torch.device = "cpu") -> LWD:
    """The trained method of a run, with averaged weights, ready to plan.

    Raises:
        LWDError: no run, no checkpoint, or a damaged one.
    """
    method = LWD(run.config().method, run.spec())
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
