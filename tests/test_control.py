"""The loop between observations and controllers: when a plan is made, of what, and who acts at which age."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lwd.control import CAUSES, ControlLoop
from lwd.errors import LWDError
from lwd.methods.base import ChunkController, Generators

START, INTERVAL, MONITOR = (CAUSES.index(name) for name in ("start", "interval", "monitor"))


class Clock:
    """A planner of chunks whose actions are (observation that the plan was made from, index in the chunk, draw of the plan)."""

    def __init__(self, horizon: int = 12, history: int = 2) -> None:
        self.horizon, self.history = horizon, history
        self.seen: list[Tensor] = []
        self.tasks: list[Any] = []

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> ChunkController:
        self.seen.append(history.clone())
        self.tasks.append(task)
        rows = len(history)
        drawn = torch.zeros(rows)
        if isinstance(generator, torch.Generator):
            drawn = torch.rand(rows, generator=generator)
        elif generator is not None:
            drawn = torch.cat([torch.rand(1, generator=own) for own in generator])
        made_from, index = history[:, -1, 0], torch.arange(float(self.horizon))
        parts = (made_from[:, None], index[None], drawn[:, None])
        return ChunkController(torch.stack([part.expand(rows, self.horizon) for part in parts], -1))


class Drive:
    """Runs a loop whose row i observes 100 * i + step, and keeps what happened: (T, B) tensors."""

    def __init__(self, loop: ControlLoop, steps: int, rows: int = 2, running: Tensor | None = None) -> None:
        actions, causes, ages = [], [], []
        for step in range(steps):
            obs = 100.0 * torch.arange(rows)[:, None] + step
            actions.append(loop.act(obs, running if step else None).clone())
            causes.append(loop.causes.clone())
            ages.append(loop.ages.clone())
        self.actions, self.causes, self.ages = torch.stack(actions), torch.stack(causes), torch.stack(ages)
        self.made_at = self.actions[..., 0] - 100.0 * torch.arange(rows)  # step of the observation that the acting plan was made from
        self.index = self.actions[..., 1]

    def asked(self, row: int) -> dict[int, str]:
        """Step -> cause of the row's queries."""
        return {step: CAUSES[cause] for step, cause in enumerate(self.causes[:, row].tolist()) if cause}


def test_every_interval_a_plan_is_made_and_acts_from_its_beginning() -> None:
    planner = Clock(horizon=4, history=3)
    seen = Drive(ControlLoop(planner, 3), 8)
    for row in range(2):
        assert seen.asked(row) == {0: "start", 3: "interval", 6: "interval"}
        assert seen.ages[:, row].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
        assert seen.made_at[:, row].tolist() == [0, 0, 0, 3, 3, 3, 6, 6]
    assert torch.equal(seen.index.long(), seen.ages), "a chunk is entered at the age"
    first, second, third = planner.seen
    assert first.squeeze(-1).tolist() == [[0, 0, 0], [100, 100, 100]], "the first observation is its own past"
    assert second.squeeze(-1).tolist() == [[1, 2, 3], [101, 102, 103]] and third.squeeze(-1).tolist() == [[4, 5, 6], [104, 105, 106]]


def test_after_a_delay_the_new_plan_is_entered_where_the_world_is() -> None:
    seen = Drive(ControlLoop(Clock(horizon=7), 4, delay=3), 13)
    assert seen.asked(0) == {0: "start", 4: "interval", 8: "interval", 12: "interval"}
    assert seen.made_at[:, 0].tolist() == [0] * 7 + [4] * 4 + [8] * 2, "the old one acts on for three steps after the observation"
    assert seen.ages[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 3, 4]
    assert torch.equal(seen.index.long(), seen.ages)


def test_a_delay_longer_than_the_interval_keeps_several_plans_on_their_way() -> None:
    seen = Drive(ControlLoop(Clock(horizon=7), 2, delay=5), 12)
    assert list(seen.asked(0)) == [0, 2, 4, 6, 8, 10]
    assert seen.made_at[:, 0].tolist() == [0] * 7 + [2, 2, 4, 4, 6]
    assert seen.ages[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 5, 6, 5, 6, 5]


def test_a_monitor_asks_early_for_some_rows_only() -> None:
    calls: list[tuple[Tensor, ...]] = []

    def monitor(*told: Any) -> Tensor:
        assert told[4] is None, "there are no tasks"
        calls.append(told[:4])
        return torch.tensor([False, len(calls) == 2, False])

    planner = Clock()
    seen = Drive(ControlLoop(planner, 4, monitor=monitor), 9, rows=3)
    assert seen.asked(0) == seen.asked(2) == {0: "start", 4: "interval", 8: "interval"}
    assert seen.asked(1) == {0: "start", 2: "monitor", 6: "interval"}, "its interval begins anew"
    assert seen.ages[:, 1].tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 2] and seen.ages[:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert seen.made_at[:, 1].tolist() == [0, 0, 2, 2, 2, 2, 6, 6, 6] and seen.made_at[:, 2].tolist() == [0, 0, 0, 0, 4, 4, 4, 4, 8]
    assert [history[:, :, 0].tolist() for history in planner.seen[1:3]] == [[[101, 102]], [[3, 4], [203, 204]]], "each from its own history"
    assert len(calls) == 8
    for step, (obs, action, following, t) in enumerate(calls):
        assert obs[:, 0].tolist() == [step, 100 + step, 200 + step] and torch.equal(following, obs + 1)
        assert torch.equal(action, seen.actions[step]) and torch.equal(t, seen.ages[step])


def test_a_monitor_and_a_delay() -> None:
    """What the monitor asked for takes over after the delay as well, and so does what was on its way before."""
    loop = ControlLoop(Clock(), 4, delay=2, monitor=lambda obs, action, following, *_: following[:, 0] == 105)
    seen = Drive(loop, 10)
    assert seen.asked(0) == {0: "start", 4: "interval", 8: "interval"}
    assert seen.asked(1) == {0: "start", 4: "interval", 5: "monitor", 9: "interval"}
    assert seen.made_at[:, 0].tolist() == [0, 0, 0, 0, 0, 0, 4, 4, 4, 4]
    assert seen.made_at[:, 1].tolist() == [0, 0, 0, 0, 0, 0, 4, 5, 5, 5]
    assert seen.ages[:, 1].tolist() == [0, 1, 2, 3, 4, 5, 2, 2, 3, 4]


def test_when_both_ask_it_is_the_interval() -> None:
    seen = Drive(ControlLoop(Clock(), 2, monitor=lambda obs, action, following, *_: torch.ones(len(obs), dtype=torch.bool)), 4)
    assert list(seen.asked(0).values()) == ["start", "monitor", "monitor", "monitor"], "a monitor that always asks leaves no interval"
    rare = ControlLoop(Clock(), 2, monitor=lambda obs, action, following, *_: following[:, 0] == 2)
    assert Drive(rare, 4).asked(0) == {0: "start", 2: "interval"}


def test_rows_that_have_finished_are_not_planned_for() -> None:
    """Nor asked for an age at which their chunk is over."""
    planner = Clock(horizon=3)
    always = ControlLoop(planner, 3, monitor=lambda obs, action, following, *_: torch.tensor([True, False]))
    seen = Drive(always, 7, running=torch.tensor([False, True]))
    assert seen.asked(0) == {0: "start"} and seen.asked(1) == {0: "start", 3: "interval", 6: "interval"}
    assert [len(history) for history in planner.seen] == [2, 1, 1] and seen.ages[:, 1].tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(("every", "delay"), [(9, 0), (8, 1), (2, 7)])
def test_a_chunk_that_ends_before_the_next_one_takes_over_is_refused(every: int, delay: int) -> None:
    assert ControlLoop(Clock(horizon=8), every - 1, delay=delay).act(torch.zeros(1, 1)).shape == (1, 3)
    message = (
        f"a query every {every} steps and a delay of {delay} need controllers that last as long; these are made for 8: lower replan_every"
    )
    with pytest.raises(LWDError, match=message):
        ControlLoop(Clock(horizon=8), every, delay=delay).act(torch.zeros(1, 1))


def test_rows_have_their_own_tasks_and_generators() -> None:
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def loop(planner: Clock, *seeds: int, tasks: str = "ab") -> ControlLoop:
        return ControlLoop(planner, 4, monitor=lambda obs, *_: obs[:, 0] == 101, tasks=list(tasks), generators=generators(*seeds))

    planner = Clock()
    both = Drive(loop(planner, 5, 6), 5)
    assert planner.tasks == [["a", "b"], ["b"], ["a"]]
    alone = Drive(loop(Clock(), 5, tasks="a"), 5, rows=1)
    assert torch.equal(both.actions[:, :1], alone.actions), "the draws of a row do not depend on the others"
    assert not torch.equal(both.actions[:, 0, 2], both.actions[:, 1, 2])
    one = ControlLoop(Clock(), 2, generators=torch.Generator().manual_seed(1))
    again = ControlLoop(Clock(), 2, generators=torch.Generator().manual_seed(1))
    assert torch.equal(Drive(one, 5).actions, Drive(again, 5).actions)


def test_a_reset_begins_new_episodes() -> None:
    loop = ControlLoop(Clock(), 3, delay=1)
    first = Drive(loop, 4)  # ends with a plan on its way
    loop.reset()
    again = Drive(loop, 4)
    assert torch.equal(first.actions, again.actions) and torch.equal(first.causes, again.causes) and again.asked(0)[0] == "start"
    assert len(loop.plan_ms) == 4
