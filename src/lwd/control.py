"""The loop between observations and controllers, for a robot, a batch of them, or a simulator: when a plan is made, and who acts."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lwd.config import require
from lwd.methods.base import Controller, Planner
from lwd.methods.diffusion import Generators

CAUSES = ("", "start", "interval", "monitor")  # why a row was given a new plan in a step; the first: it was not


class Monitor(Protocol):
    """Looks at what the world did in a step, and asks for new controllers for those rows where it did not do what was expected."""

    def __call__(self, obs: Tensor, action: Tensor, following: Tensor, t: Tensor, tasks: Sequence[str] | None) -> Tensor:
        """(B, Do) raw observations, (B, Da) raw actions that were chosen there, (B, Do) observations one step later, the controllers' ages
        (B,) at the action, and B task names or None -> (B,) bool: rows that want a new plan now."""
        ...


class _Pending(NamedTuple):
    step: int  # at which it takes over
    rows: Tensor
    controller: Controller
    planned_at: int


class ControlLoop:
    """Asks a planner for controllers of B rows, and them for actions; each row's controller has its own age.

    A row gets a new plan at its first step, then every `replan_every` steps after its last one, and whenever the monitor wants one. The
    first controller acts at once (the robot waits for it); a later one takes over `delay` steps after the observation that it was planned
    from, at age `delay`, and until then the old one goes on.

    Args:
        planner: what is asked for controllers; `LWDError` when they end before the next one can take over.
        replan_every: steps between plans.
        delay: steps from an observation to the effect of its plan.
        monitor: see `Monitor`.
        tasks: a task name per row, where there are several.
        generators: of the planner's draws, one for all or one per row.
    """

    def __init__(
        self,
        planner: Planner,
        replan_every: int,
        *,
        delay: int = 0,
        monitor: Monitor | None = None,
        tasks: Sequence[str] | None = None,
        generators: Generators = None,
    ) -> None:
        self.planner, self.replan_every, self.delay, self.monitor = planner, replan_every, delay, monitor
        self.tasks, self.generators = tasks, generators
        self.plan_ms: list[float] = []  # of every call of the planner
        self.reset()

    def reset(self) -> None:
        """The next observation is the first one of new episodes."""
        self.step, self.pending = 0, list[_Pending]()
        self.history: Tensor | None = None

    def act(self, obs: Tensor, running: Tensor | None = None) -> Tensor:
        """(B, Do) raw observations -> (B, Da) raw actions on the CPU. Rows that are not `running` (B,) are not planned for any more, and
        their actions mean nothing."""
        rows = torch.ones(len(obs), dtype=torch.bool) if running is None else running
        if self.history is None:
            given = len(obs) if self.tasks is None else len(self.tasks)
            require(given == len(obs), f"there must be one task name per row: {len(obs)}, not {given}")
            self.history = obs[:, None].repeat(1, self.planner.history, 1)  # (B, K, Do), at first K times the same
            self.planned_at, self.asked_at = torch.zeros(2, len(obs), dtype=torch.int64)
            self.causes = torch.where(rows, 1, 0)
            self.controller = self._plan(torch.arange(len(obs)))
        else:
            alarm = self._alarm(obs) & rows
            self.history = torch.cat([self.history[:, 1:], obs[:, None]], 1)
            due = rows & (self.step - self.asked_at >= self.replan_every)
            self.causes = torch.where(due, 2, torch.where(alarm, 3, 0))
            if len(asking := self.causes.nonzero()[:, 0]):
                self.asked_at[asking] = self.step
                self.pending.append(_Pending(self.step + self.delay, asking, self._plan(asking), self.step))
        while self.pending and self.pending[0].step <= self.step:
            _, ready, controller, planned_at = self.pending.pop(0)
            self.controller.update(ready, controller)
            self.planned_at[ready] = planned_at
        self.ages = torch.where(rows, self.step - self.planned_at, 0)  # (B,) of the controllers that act in this step
        self.action = self.controller.act(obs, self.ages).cpu()
        self.step += 1
        return self.action

    def _alarm(self, obs: Tensor) -> Tensor:
        """(B,) rows of which the monitor says that the last step was not what it expected."""
        assert self.history is not None
        if self.monitor is None:
            return torch.zeros(len(obs), dtype=torch.bool)
        return self.monitor(self.history[:, -1], self.action, obs, self.ages, self.tasks)

    def _plan(self, rows: Tensor) -> Controller:
        """New controllers for some rows."""
        assert self.history is not None
        tasks = None if self.tasks is None else [self.tasks[i] for i in rows.tolist()]
        own = self.generators
        generators = own if own is None or isinstance(own, torch.Generator) else [own[i] for i in rows.tolist()]
        begin = perf_counter()
        controller = self.planner.plan(self.history[rows], tasks, generators)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # else a part of the planning would be booked on the first action
        self.plan_ms.append(1e3 * (perf_counter() - begin))
        require(
            self.replan_every + self.delay <= controller.horizon,
            f"a query every {self.replan_every} steps and a delay of {self.delay} need controllers that last as long; these are made for "
            f"{controller.horizon}: lower replan_every, or train with a longer horizon",
        )
        return controller
