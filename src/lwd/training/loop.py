"""The training loop: one for every method and stage. Averaged weights, learning rate, progress, and an end that loses nothing."""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.progress import Progress, TextColumn
from torch import Tensor, nn

from lwd.config import Config, Stage
from lwd.episodes import Episodes, Spec
from lwd.errors import LWDError, LWDWarning
from lwd.methods.base import make_method
from lwd.training.run import Run, load_optimizer, optimizer_tensors


class Trainer:
    """The loop, for a config without anything left to choose. One generator draws everything random after initialisation: its state is
    all that resuming needs. Without `held` episodes nothing is validated.
    """

    def __init__(
        self, config: Config, spec: Spec, run: Run, fabric: Any, training: Episodes, held: Episodes | None, quiet: bool = True
    ) -> None:
        self.config, self.run, self.fabric, self.quiet, self.device = config, run, fabric, quiet, fabric.device
        torch.manual_seed(config.seed)
        self.method = make_method(config.method, spec)
        self.method.normalizer.fit(training, config.method.scaling)
        self.method.to(self.device)
        self.data = self.method.snippets(training, self.device)
        self.held = None if held is None else self.method.snippets(held, self.device)
        self.generator = torch.Generator(self.device).manual_seed(config.seed * 1_000_003 + 17)
        self.seconds: dict[str, float] = dict.fromkeys(self.method.stages, 0.0)

    def fit(self) -> None:
        """Train all stages that are not done yet."""
        saved = self._restore()
        done, at = tuple(saved["done"]), 0 if saved["stage"] in saved["done"] else saved["step"]
        if not saved["stage"] and not self.method.stages:  # nothing to train: what is kept is the range of the data
            self._save("none", 0, (), None)
        elsewhere = self.config.method.stages_from
        if not saved["stage"] and elsewhere:
            self._adopt(Run(elsewhere))
            done = inherited(self.config, Run(elsewhere))
        for stage in self.method.stages:
            if stage not in done:
                self._fit_stage(stage, at, done)
                done, at = (*done, stage), 0

    def begin(self, stage: str) -> Optimization:
        """Prepare a stage: what it measures on the data, its optimisers, its averaged weights."""
        part = self.method.part(stage)
        part.prepare(stage, self.data)
        if self.held is not None and (doubt := self.method.doubt(stage, self.held)):
            warnings.warn(doubt, LWDWarning, stacklevel=2)
        return Optimization(self.method, part.groups(stage), self.config.method.stages[stage], self.config.method.ema_power)

    def step(self, stage: str, optimization: Optimization, number: int) -> dict[str, Tensor]:
        """One gradient step; returns the named losses."""
        batch = self.data.sample(optimization.settings.batch, self.generator)
        optimization.zero_grad(number)
        with self.fabric.autocast():
            losses = self.method.part(stage).loss(stage, batch, number, self.generator)
        self.fabric.backward(losses["loss"])
        optimization.step(number)
        return {name: value.detach() for name, value in losses.items()}

    def _fit_stage(self, stage: str, start: int, done: tuple[str, ...]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        optimization = self.begin(stage)
        steps = optimization.settings.steps
        if start:
            model, training = self.run.load("model")[0], self.run.load("training")[0]
            optimization.restore(model, training)
        sums: Counter[str] = Counter()
        before, began = self.seconds[stage], time.perf_counter()
        events = SummaryWriter(str(self.run.path / "tensorboard" / stage), purge_step=start + 1 if start else None)
        with stage_progress(stage, start, steps, self.quiet) as show, deferred_interrupt() as stop:
            for number in range(start, steps):
                sums.update(self.step(stage, optimization, number))
                sums["count"] += 1
                at, last = number + 1, number + 1 == steps
                self.seconds[stage] = before + time.perf_counter() - began
                if at % self.config.log_every == 0 or last:
                    line = self._measure(stage, at, sums, optimization)
                    sums.clear()
                    self.run.append(line)
                    for key in line.keys() - {"stage", "step"}:
                        events.add_scalar(key, line[key], at)
                    show(at, line)
                if (at % self.config.checkpoint_every == 0 and not last) or stop():
                    self._save(stage, at, done, optimization)
                    if stop():
                        raise KeyboardInterrupt
        events.close()
        optimization.copy_to_model()  # from here on the averaged weights are the model
        self._save(stage, steps, (*done, stage), optimization)

    def _measure(self, stage: str, step: int, sums: Counter[str], optimization: Optimization) -> dict[str, Any]:
        """One line of metrics: mean losses since the last one, and held-out errors now and then."""
        count = sums["count"]
        means = {name: float(value) / count for name, value in sums.items() if name != "count"}
        if not math.isfinite(means["loss"]):
            raise self._diverged(stage, step)
        line: dict[str, Any] = {"stage": stage, "step": step, **means, "lr_factor": learning_rate(optimization.settings, step - 1)}
        if self.held is not None and (step % self.config.validate_every == 0 or step == optimization.settings.steps):
            with optimization.averaged():
                measured = self.method.part(stage).validate(stage, self.held, torch.Generator(self.device).manual_seed(0))
            line.update({f"held_out/{k}": v for k, v in measured.items()})
        return {**line, "seconds": round(self.seconds[stage], 1)}

    def _save(self, stage: str, step: int, done: tuple[str, ...], optimization: Optimization | None) -> None:
        """Write a checkpoint, unless a weight is not finite. A finished stage keeps no state of its optimisers."""
        averages = {} if optimization is None else optimization.averages
        finite = [t.detach().isfinite().all() for t in (*self.method.parameters(), *averages.values())]
        if finite and not torch.stack(finite).all():
            raise self._diverged(stage, step)
        model = {f"model.{k}": v for k, v in self.method.state_dict().items()} | {f"ema.{k}": v for k, v in averages.items()}
        training = {"generator": self.generator.get_state()}
        for name, optimizer in optimization.optimizers.items() if optimization is not None and stage not in done else ():
            training.update(optimizer_tensors(name, optimizer))
        state = {"stage": stage, "step": step, "done": list(done), "seconds": self.seconds, "device": self.device.type}
        self.run.save(model, training, state)

    def _diverged(self, stage: str, step: int) -> LWDError:
        """The error for weights or a loss that are not finite: nothing of them is written."""
        rate = self.config.method.stages[stage].lr
        return LWDError(
            f"the training diverged in stage {stage} before step {step} (the loss or a weight is not finite); the last good checkpoint is "
            f"kept: continue from it with a lower learning rate, the same command with --method.{stage}.lr {rate / 3:.1g}"
        )

    def _adopt(self, run: Run) -> None:
        """Take everything but what the last stage trains from a run that `check_stages_from` has passed."""
        own_part = {"diffusion": "denoiser.", "correction": "head."}.get(self.method.stages[-1], "none")
        tensors, _ = run.load("model")
        model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        world = () if run.config().method.imagine else ("world.",)
        kept = (own_part, *world)  # it may have another architecture
        left = own_part if self.method.world is not None else (own_part, "world.")
        taken = {k: v for k, v in model.items() if not k.startswith(left)}
        own = {k: v for k, v in self.method.state_dict().items() if k.startswith(kept)}
        run.load_into(self.method, {**taken, **own})

    def _restore(self) -> dict[str, Any]:
        """Go back to the newest checkpoint, if there is one; returns its state."""
        state = self.run.state()
        if not state["stage"]:
            return state
        model, training = self.run.load("model")[0], self.run.load("training")[0]
        self.run.load_into(self.method, {k.removeprefix("model."): v for k, v in model.items() if k.startswith("model.")})
        if state.get("device") == self.device.type:
            self.generator.set_state(training["generator"])
        else:  # the state of another kind of device does not fit: go on with other numbers
            self.generator.manual_seed((self.config.seed + 1) * 1_000_003 + 7919 * state["step"])
        self.seconds.update({k: float(v) for k, v in state["seconds"].items()})
        self.run.rewind(self.method.stages, state["stage"], state["step"])
        return state


def inherited(config: Config, other: Run) -> tuple[str, ...]:
    """The stages that a training takes over from another run (`method.stages_from`): all but the last, and a world model if it has one."""
    return tuple(stage for stage in list(config.method.stages)[:-1] if stage != "world" or other.config().method.imagine)


class Optimization:
    """One stage being optimised: AdamW for each group (name -> parameters, peak learning rate), and the exponential moving average of its
    weights, decay 1 - (1 + step)^-power. Parameters outside the groups are frozen.
    """

    def __init__(self, method: nn.Module, groups: dict[str, tuple[list[nn.Parameter], float]], settings: Stage, power: float) -> None:
        self.settings, self.power = settings, power
        owned = {id(p) for parameters, _ in groups.values() for p in parameters}
        for parameter in method.parameters():
            parameter.requires_grad_(id(parameter) in owned)
        self.named = {k: p for k, p in method.named_parameters() if id(p) in owned}
        self.averages = {k: p.detach().clone() for k, p in self.named.items()}
        self.peaks = {name: lr for name, (_, lr) in groups.items()}
        fused = next(iter(self.named.values())).device.type in ("cpu", "cuda")
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.AdamW(parameters, lr=lr, weight_decay=settings.weight_decay, fused=fused)
            for name, (parameters, lr) in groups.items()
        }

    def zero_grad(self, number: int) -> None:
        """Before step number `number` (from 0): its learning rate, and no gradients."""
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.peaks[name] * learning_rate(self.settings, number)
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, number: int) -> None:
        """Step number `number` of all optimisers and of the average."""
        for optimizer in self.optimizers.values():
            optimizer.step()
        rate = max(1e-4, min(1.0, (1 + number) ** -self.power))
        torch._foreach_lerp_(list(self.averages.values()), [p.detach() for p in self.named.values()], rate)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in the model, within the block."""
        live = {k: p.detach().clone() for k, p in self.named.items()}
        self.copy_to_model()
        try:
            yield
        finally:
            self.copy_to_model(live)

    @torch.no_grad()
    def copy_to_model(self, values: dict[str, Tensor] | None = None) -> None:
        """Replace the live weights by the averaged ones, or by given ones."""
        for k, p in self.named.items():
            p.copy_((self.averages if values is None else values)[k])

    def restore(self, model: dict[str, Tensor], training: dict[str, Tensor]) -> None:
        """Continue from the tensors of a checkpoint."""
        for key, value in self.averages.items():
            value.copy_(model[f"ema.{key}"])
        for name, optimizer in self.optimizers.items():
            load_optimizer(name, optimizer, training)


def learning_rate(stage: Stage, step: int) -> float:
    """Factor of the peak rate at a step (from 0): linear warm-up, then cosine to zero."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - stage.warmup) / max(1, stage.steps - stage.warmup)))


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
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
def stage_progress(stage: str, start: int, total: int, quiet: bool) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """A progress bar over the steps of a stage, as a function of (step, line of metrics)."""
    with Progress(*Progress.get_default_columns(), TextColumn("{task.fields[note]}"), disable=quiet) as bars:
        task = bars.add_task(stage, total=total, completed=start, note="")
        yield lambda step, line: bars.update(task, completed=step, note=f"loss {line['loss']:.4g}")
