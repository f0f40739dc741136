"""The training loop: one for every method and stage. Averaged weights, learning rate, progress, and an end that loses nothing."""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lwd.config import Config, Stage
from lwd.data.episodes import Episodes
from lwd.errors import LWDError
from lwd.methods.base import Spec, make_method
from lwd.run import Run, load_optimizer, optimizer_tensors


class Trainer:
    """The loop. One generator draws everything random after initialisation, so that its state is all that resuming needs."""

    def __init__(self, config: Config, spec: Spec, run: Run, fabric: Any, training: Episodes, held: Episodes, quiet: bool) -> None:
        self.config, self.run, self.fabric, self.quiet = config, run, fabric, quiet
        torch.manual_seed(config.seed)
        self.method = make_method(config.method, spec)
        self.method.normalizer.fit(training)
        if run.latest() is None:  # a run that continues has it in its checkpoint
            self.method.fit_tasks()
        self.method.to(fabric.device)
        self.data = self.method.snippets(training, fabric.device)
        self.held = self.method.snippets(held, fabric.device)
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
        if saved is None and not self.method.stages:  # nothing to train: what is kept is the range of the data
            self._save("none", 0, (), {}, Average({}, 1.0))
        elsewhere = getattr(self.config.method, "autoencoder_from", "")
        if saved is None and elsewhere:
            self._adopt(Run(elsewhere))
            done = ("autoencoder",)
        for stage in self.method.stages:
            if stage not in done:
                self._stage(stage, at, done)
                done, at = (*done, stage), 0

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
        writer = self._tensorboard(stage, start)
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
                batch = self.data.sample(settings.batch, self.generator)
                with self.fabric.autocast():  # Fabric itself does so for marked methods only when the module is wrapped (several devices)
                    losses = module.loss(stage, batch, step, self.generator)
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
                    self._log(stage, done_steps, sums, counts, factor, average, writer, advance)
                if (done_steps % self.config.checkpoint_every == 0 and not last) or stop():
                    self._save(stage, done_steps, done, optimizers, average)
                    if stop():
                        raise KeyboardInterrupt
        if writer is not None:
            writer.close()
        average.copy_to_model()  # from here on the averaged weights are the model
        self._save(stage, settings.steps, (*done, stage), {}, average)

    # --- what is kept -------------------------------------------------------------------------------------------------------------

    def _log(
        self,
        stage: str,
        step: int,
        sums: dict[str, Tensor],
        counts: Counter[str],
        factor: float,
        average: Average,
        writer: Any,
        advance: Any,
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
            for key in line.keys() - {"stage", "step"}:
                writer.add_scalar(key, line[key], step)
        advance(step, line)

    def _tensorboard(self, stage: str, start: int) -> Any:
        """Events of one stage; what a killed run wrote after its last checkpoint is purged."""
        if self.fabric.global_rank:
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.run.path / "tensorboard" / stage), purge_step=start + 1 if start else None)

    def _save(self, stage: str, step: int, done: tuple[str, ...], optimizers: dict[str, torch.optim.Optimizer], average: Average) -> None:
        if self.fabric.global_rank:
            return
        model = {f"model.{k}": v for k, v in self.method.state_dict().items()}
        model.update({f"ema.{k}": v for k, v in average.values.items()})
        training: dict[str, Tensor] = {"generator": self.generator.get_state()}
        for name, optimizer in optimizers.items():
            training.update(optimizer_tensors(name, optimizer))
        self.run.save(model, training, {"stage": stage, "step": step, "done": list(done), "seconds": self.seconds})

    def _adopt(self, run: Run) -> None:
        """Everything but the denoiser, and the task embedding that it learns with, from a run that `check_autoencoder` has passed."""
        tensors, _ = run.load("model")
        second_stage = ("denoiser.", "task_code.")
        own = {k: v for k, v in self.method.state_dict().items() if k.startswith(second_stage)}
        taken = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        self.method.load_state_dict({**{k: v for k, v in taken.items() if not k.startswith(second_stage)}, **own})

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
        if self.method.stages:
            self.run.rewind(self.method.stages, state["stage"], state["step"])
        return state

    def _restore_stage(self, optimizers: dict[str, torch.optim.Optimizer], average: Average) -> None:
        model, _ = self.run.load("model")
        training, _ = self.run.load("training")
        for key, value in average.values.items():
            value.copy_(model[f"ema.{key}"])
        for name, optimizer in optimizers.items():
            load_optimizer(name, optimizer, training)


class Average:
    """Exponential moving average of a stage's weights, decay 1 - (1 + step)^-power."""

    def __init__(self, named: dict[str, nn.Parameter], power: float) -> None:
        self.named, self.power = named, power
        self.values = {k: v.detach().clone() for k, v in named.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step number `step` (from 0)."""
        rate = min(1.0, (1 + step) ** -self.power)
        torch._foreach_lerp_(list(self.values.values()), [p.detach() for p in self.named.values()], max(rate, 1e-4))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averaged weights in the model, within the block."""
        live = {k: p.detach().clone() for k, p in self.named.items()}
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for k, p in self.named.items():
                    p.copy_(live[k])

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Replace the live weights."""
        for k, p in self.named.items():
            p.copy_(self.values[k])


def learning_rate(stage: Stage, step: int) -> float:
    """Factor of the peak rate: linear warm-up, then cosine to zero."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - stage.warmup) / max(1, stage.steps - stage.warmup)))


@contextmanager
def deferred_interrupt() -> Iterator[Any]:
    """Ctrl-C and SIGTERM ask for a checkpoint and an end; a second Ctrl-C ends at once."""
    asked: list[int] = []

    def ask(number: int, _frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals stay the caller's
        previous = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def stage_progress(stage: str, start: int, total: int, quiet: bool) -> Iterator[Any]:
    if quiet:
        yield lambda step, line: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as bars:
        task = bars.add_task(stage, total=total, completed=start, note="")
        yield lambda step, line: bars.update(task, completed=step, note=f"loss {line['loss']:.4g}")
