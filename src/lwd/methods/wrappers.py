"""Wrappers of planners, which are planners themselves and work for every method: mean actions over several controllers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lwd.config import EvalSettings
from lwd.methods.base import Controller, Planner
from lwd.methods.diffusion import Generators


class Ensemble:
    """Plans `count` controllers for each row from the same observation; the mean of their actions is executed."""

    def __init__(self, planner: Planner, count: int) -> None:
        self.planner, self.count, self.history, self.horizon = planner, count, planner.history, planner.horizon

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> EnsembleController:
        """See `Planner.plan`. With a generator per row, a row's controllers draw from it one after the other."""
        tasks = None if task is None else [name for name in task for _ in range(self.count)]
        single = generator is None or isinstance(generator, torch.Generator)
        generators: Generators = generator if single else [own for own in generator for _ in range(self.count)]  # type: ignore[union-attr]
        return EnsembleController(self.planner.plan(history.repeat_interleave(self.count, 0), tasks, generators), self.count)


class EnsembleController:
    """B rows, each of which has the `count` controllers that follow each other in `inner`."""

    def __init__(self, inner: Controller, count: int) -> None:
        self.inner, self.count, self.horizon = inner, count, inner.horizon

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        """(B, Do), (B,) -> (B, Da), the mean."""
        actions = self.inner.act(obs.repeat_interleave(self.count, 0), t.repeat_interleave(self.count))
        return actions.unflatten(0, (-1, self.count)).mean(1)

    def update(self, rows: Tensor, new: Any) -> None:
        """Replaces all members of the rows (M,) by those of another ensemble of M rows."""
        self.inner.update((rows[:, None] * self.count + torch.arange(self.count)).flatten(), new.inner)


class TemporalEnsemble:
    """Averages what the present controller and all earlier ones that are still within their horizon want to do now, as ACT does with
    overlapping chunks (arXiv 2304.13705): the i-th oldest has the weight exp(-m i)."""

    m = 0.01  # ACT's: nearly equal weights

    def __init__(self, planner: Planner) -> None:
        self.planner, self.history, self.horizon = planner, planner.history, planner.horizon

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> TemporalController:
        """Plans one controller per row, which begins a new list of controllers; `update` adds to it."""
        return TemporalController(self.planner.plan(history, task, generator), len(history), self.planner.horizon, self.m)


class _Slot:
    """Controllers of some rows (M,) that were planned together, and the time (M,) of their plan, which is known when they first act."""

    def __init__(self, controller: Controller, rows: Tensor, number: int) -> None:
        self.controller, self.rows, self.number = controller, rows, number
        self.births: Tensor | None = None


class TemporalController:
    """The controllers that the rows were given so far, oldest first, on a clock that counts actions."""

    def __init__(self, first: Controller, rows: int, reach: int, m: float) -> None:
        self.slots, self.newest = [_Slot(first, torch.arange(rows), 0)], torch.zeros(rows, dtype=torch.int64)
        self.given, self.clock, self.m, self.horizon, self.reach = 0, 0, m, first.horizon, min(first.horizon, reach)

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        """(B, Do), ages of the newest controllers (B,) -> (B, Da), the weighted mean."""
        total, norm, rank = torch.zeros(()), torch.zeros(len(t)), torch.zeros(len(t))
        for slot in list(self.slots):
            rows = slot.rows
            if slot.births is None:
                slot.births = self.clock - t[rows]
            ages, newest = self.clock - slot.births, self.newest[rows] == slot.number
            valid = newest | (ages < self.reach)
            if not valid.any():
                self.slots.remove(slot)
                continue
            actions = slot.controller.act(obs[rows], ages.clamp_max(self.horizon - 1)).cpu()
            weights = torch.exp(-self.m * rank[rows]) * valid
            total = total + torch.zeros(len(t), actions.shape[1]).index_add_(0, rows, weights[:, None] * actions)
            norm[rows] += weights
            rank[rows] += valid
        self.clock += 1
        return total / norm[:, None]

    def update(self, rows: Tensor, new: Any) -> None:
        """Adds new controllers of some rows; the old ones have a say until they are past their horizon."""
        self.given += 1
        self.slots.append(_Slot(new.slots[0].controller, rows, self.given))
        self.newest[rows] = self.given


def wrapped(planner: Planner, settings: EvalSettings) -> Planner:
    """The planner inside the wrappers that the settings of an evaluation ask for."""
    planner = Ensemble(planner, settings.ensemble) if settings.ensemble > 1 else planner
    return TemporalEnsemble(planner) if settings.temporal else planner
