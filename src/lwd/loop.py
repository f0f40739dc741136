"""Tools of the training loop: averaged weights, learning rate, progress, and an end that loses nothing."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lwd.config import Stage


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
