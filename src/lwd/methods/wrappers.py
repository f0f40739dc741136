"""Wrappers of planners, which are planners themselves and work for every method: best of several by imagination, means over several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lwd.config import EvalSettings, require
from lwd.methods.base import Controller, Method, Planner
from lwd.methods.diffusion import Generators
from lwd.methods.world import Imagined

IMAGINED = 24  # steps that are imagined at most, unless more are asked for


class Several:
    """Plans `count` controllers for each row from the same observation; they follow each other."""

    def __init__(self, planner: Planner, count: int) -> None:
        self.planner, self.count, self.history, self.horizon = planner, count, planner.history, planner.horizon

    def several(self, history: Tensor, task: Sequence[str] | None, generator: Generators) -> Any:
        """B · count controllers. With a generator per row, a row's controllers draw from it one after the other."""
        tasks = None if task is None else [name for name in task for _ in range(self.count)]
        single = generator is None or isinstance(generator, torch.Generator)
        generators: Generators = generator if single else [own for own in generator for _ in range(self.count)]  # type: ignore[union-attr]
        return self.planner.plan(history.repeat_interleave(self.count, 0), tasks, generators)


class Imagining(Several):
    """Of several controllers, the one with the best imagined progress: each acts in the world model for `steps` steps (a generated policy
    in closed loop, a chunk as it is), and the fewest steps in all, imagined and remaining, win. It needs no reward and no simulator."""

    def __init__(self, method: Method, count: int, steps: int) -> None:
        super().__init__(method, count)
        self.method, self.steps = method, steps
        self.futures: tuple[Tensor, Tensor] | None = None  # of the last plan: features (T + 1, B, count, F), and the chosen (B,)

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> Any:
        """Plans several controllers for each row, imagines them all, and keeps the best one of each row."""
        controllers = self.several(history, task, generator)
        imagined = self.imagine(controllers, history[:, -1], task)
        best = imagined.total.view(-1, self.count).argmin(1)
        self.futures = imagined.path.unflatten(1, (-1, self.count)), best
        return controllers.select(best + self.count * torch.arange(len(best), device=best.device))

    def considered(self) -> tuple[Tensor, Tensor]:
        """Of the last plan: raw observations (B, count, T + 1, Do) of the futures, on the CPU, and which of them was chosen (B,)."""
        assert self.futures is not None
        path, best = self.futures
        return self.method.normalizer.decode_obs(path).permute(1, 2, 0, 3).cpu(), best.cpu()

    def imagine(self, controllers: Controller, obs: Tensor, task: Sequence[str] | None) -> Imagined:
        """B · count controllers at raw observations (B, Do) -> as many imagined episodes."""
        method, world = self.method, self.method.world
        assert world is not None
        encode, decode = method.normalizer.encode_obs, method.normalizer.decode_obs
        start, index = encode(obs.to(method.device, torch.float32)).repeat_interleave(self.count, 0), method.task_index(task)

        def act(seen: Tensor, t: int) -> Tensor:
            return method.normalizer.encode_action(controllers.act(decode(seen), torch.full((len(seen),), t, device=seen.device)))

        told = None if index is None else index.repeat_interleave(self.count)
        return world.imagine(act, start, min(self.steps, controllers.horizon), told)


def imagining(planner: Planner) -> Imagining | None:
    """The part of a wrapped planner that imagines, if there is one."""
    inner: Any = planner
    while not isinstance(inner, Imagining) and isinstance(inner, Several | TemporalEnsemble):
        inner = inner.planner
    return inner if isinstance(inner, Imagining) else None


class Surprise:
    """A monitor (`lwd.control.Monitor`) that wants a new plan where the world did not do what the world model expects: the observation is
    farther from the prediction than `threshold`, a distance in normalised units."""

    def __init__(self, method: Method, threshold: float) -> None:
        self.method, self.threshold = method, threshold

    def __call__(self, obs: Tensor, action: Tensor, following: Tensor, t: Tensor, tasks: Sequence[str] | None = None) -> Tensor:
        """Rows (B,) whose last step did not end where the world model expected it to."""
        method, world = self.method, self.method.world
        assert world is not None
        encode, device = method.normalizer.encode_obs, method.device
        before, after = (encode(x.to(device, torch.float32)) for x in (obs, following))
        expected = world.step(before, method.normalizer.encode_action(action.to(device)), method.task_index(tasks)).mean(0)
        return ((expected - after).norm(dim=-1) > self.threshold).cpu()


class Ensemble(Several):
    """Plans several controllers for each row from the same observation; the mean of their actions is executed."""

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> EnsembleController:
        """Plans the members for each row; they stay together as one controller."""
        return EnsembleController(self.several(history, task, generator), self.count)


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


def wrapped(method: Method, settings: EvalSettings) -> Planner:
    """The method inside the wrappers that settings ask for; `LWDError` for what needs a world model that is not there."""
    planner: Planner = method
    if settings.imagine:
        needs_world(method, "--imagine")
        every = (settings.replan_every or method.horizon) + settings.delay
        planner = Imagining(method, settings.imagine, settings.imagine_steps or min(every, IMAGINED))
    planner = Ensemble(planner, settings.ensemble) if settings.ensemble > 1 else planner
    return TemporalEnsemble(planner) if settings.temporal else planner


def monitored(method: Method, settings: EvalSettings) -> Surprise | None:
    """The monitor that the settings ask for."""
    if not settings.monitor:
        return None
    needs_world(method, "--monitor")
    return Surprise(method, settings.monitor)


def needs_world(method: Method, what: str) -> None:
    """Refuses what cannot be done without a world model."""
    lacking = "which this run does not have: train with --method.imagine, or `lwd improve` the run"
    require(method.world is not None, f"{what} needs a world model, {lacking}")
