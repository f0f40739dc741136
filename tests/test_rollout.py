"""The rollout loop: what planners see, what records hold, and that nothing depends on how the work is spread."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lwd.config import EvalSettings
from lwd.envs.pusht.family import FAMILY
from lwd.errors import LWDError
from lwd.methods.base import Generators
from lwd.rollout import Records, Scenario, rollout

SOLVED = [60.0, 60.0, 256.0, 256.0, np.pi / 4]
FAR = [60.0, 60.0, 300.0, 200.0, 3.0]


class Chase:
    """Controller: to the block, with an offset of its own; elementwise, so that rows do not influence each other at all."""

    def __init__(self, offset: Tensor, horizon: int) -> None:
        self.offset, self.horizon = offset, horizon
        self.times: list[list[int]] = []
        self.updates: list[list[int]] = []

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        assert len(obs) == len(self.offset) and t.shape == (len(obs),) and t.dtype == torch.int64
        self.times.append(t.tolist())
        return obs[:, 2:4] + self.offset

    def update(self, rows: Tensor, new: Chase) -> None:
        self.updates.append(rows.tolist())
        self.offset[rows] = new.offset


class ChasePlanner:
    """Draws the offsets from the generators, and remembers what it was asked."""

    def __init__(self, horizon: int = 8, history: int = 2) -> None:
        self.history, self.horizon = history, horizon
        self.seen: list[Tensor] = []
        self.tasks: list[Sequence[str] | None] = []
        self.controllers: list[Chase] = []

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> Chase:
        assert isinstance(generator, list) and len(generator) == len(history)
        self.seen.append(history)
        self.tasks.append(task)
        self.controllers.append(Chase(torch.stack([40 * torch.randn(2, generator=g) for g in generator]), self.horizon))
        return self.controllers[-1]


class Replay:
    """Planner and controller in one: recorded actions (B, T, 2), open loop."""

    def __init__(self, actions: np.ndarray) -> None:
        self.actions = torch.as_tensor(actions, dtype=torch.float32)
        self.history, self.horizon = 1, actions.shape[1]

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> Replay:
        return self

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        return self.actions[torch.arange(len(obs)), t]

    def update(self, rows: Tensor, new: Replay) -> None:
        raise AssertionError("a recording is not planned for twice")


def pusht(seeds: Sequence[int], *, tasks: Sequence[str] | None = None, states: Any = None, obs_kind: str = "state") -> Scenario:
    return Scenario("pusht", obs_kind, tuple(seeds), None if tasks is None else tuple(tasks), states)


def run(
    seeds: Sequence[int], states: Any = None, workers: int = 0, record_states: bool = False, progress: Any = None, **settings: Any
) -> Records:
    how = EvalSettings(**{"max_steps": 40, "disturb": "displace:30", **settings})
    return rollout(ChasePlanner(), pusht(seeds, states=states), how, workers=workers, record_states=record_states, progress=progress)


def test_results_do_not_depend_on_workers_or_on_the_other_episodes() -> None:
    alone = run([3, 4, 5, 6], record_states=True)
    for workers in (1, 3):
        spread = run([3, 4, 5, 6], workers=workers, record_states=True)
        assert spread.episodes == alone.episodes
        for i in range(4):
            np.testing.assert_array_equal(spread.states[i], alone.states[i])
    assert run([5]).episodes[0] == alone.episodes[2]
    assert run([6, 3]).episodes == [alone.episodes[3], alone.episodes[0]]
    assert run([3, 4, 5, 6], sampler_seed=1).episodes != alone.episodes


def test_finished_episodes_are_not_planned_for_and_the_rest_is_unharmed() -> None:
    planner = ChasePlanner(horizon=8, history=3)
    scenario, settings = pusht([1, 2, 3], states=[FAR, SOLVED, FAR]), EvalSettings(max_steps=20)
    records = rollout(planner, scenario, settings, workers=0, record_states=True)
    assert [e["steps"] for e in records.episodes] == [20, 1, 20]
    assert [e["queries"] for e in records.episodes] == [3, 1, 3]
    assert [e["terminated"] for e in records.episodes] == [False, True, False]
    assert [e["queried_at"] for e in records.episodes] == [[0, 8, 16], [0], [0, 8, 16]]
    assert [len(history) for history in planner.seen] == [3, 2, 2]
    assert len(records.plan_ms) == 3 and len(records.act_ms) == 20 and records.env_steps == 41 and records.wall_s > 0
    first, *later = planner.controllers
    assert first.updates == [[0, 2], [0, 2]] and not any(c.times for c in later), "the first controller acts, with rows of the later ones"
    assert [t[0] for t in first.times] == [t[2] for t in first.times] == [*range(8), *range(8), *range(4)]
    assert [e["causes"] for e in records.episodes] == [["start", "interval", "interval"], ["start"], ["start", "interval", "interval"]]
    assert [e["ages"] for e in records.episodes] == [[*range(8), *range(8), *range(4)], [0], [*range(8), *range(8), *range(4)]]
    assert records.states[0].shape == (21, 5) and records.states[1].shape == (2, 5)
    solved = records.episodes[1]
    assert solved["success"] == 1.0 and solved["max_overlap"] == 1.0 and solved["final_coverage"] > 0.95 and len(solved["coverage"]) == 1
    other = rollout(ChasePlanner(8, 3), pusht([1, 3], states=[FAR, FAR]), settings, workers=0)
    assert other.episodes == [records.episodes[0], records.episodes[2]]


def test_a_history_begins_with_the_first_observation_and_then_slides() -> None:
    planner = ChasePlanner(horizon=2, history=3)
    records = rollout(planner, pusht([0, 1]), EvalSettings(max_steps=6), workers=0, record_states=True)
    first, second = planner.seen[0], planner.seen[1]
    assert first.shape == (2, 3, 5) and first.dtype == torch.float32 and first.device.type == "cpu"
    assert (first == first[:, :1]).all()
    states = np.stack([records.states[0], records.states[1]]).astype(np.float32)
    np.testing.assert_array_equal(second, states[:, 0:3])
    np.testing.assert_array_equal(planner.seen[2], states[:, 2:5])


def test_scores_follow_from_the_coverage() -> None:
    seen: list[tuple[int, int]] = []
    records = run([0, 1], states=[[100.0, 100.0, 256.0, 240.0, 0.7], FAR], progress=lambda done, of: seen.append((done, of)))
    for episode in records.episodes:
        coverage = np.array(episode["coverage"])
        assert len(coverage) == episode["steps"] == 40
        assert episode["max_overlap"] == pytest.approx(min(coverage.max() / 0.95, 1), abs=1e-4)
        assert episode["final_coverage"] == pytest.approx(coverage[-1], abs=1e-4)
        assert episode["success"] == float(coverage.max() >= 0.95)
        assert all(0 <= t < 40 for t in episode["displaced_at"])
    assert records.episodes[0]["max_overlap"] > 0.3
    assert seen[0] == (1, 40) and seen[-1] == (40, 40)
    assert json.loads(json.dumps(records.episodes)) == records.episodes


def test_frames_and_key_points_and_tasks() -> None:
    planner = ChasePlanner()
    scenario = pusht([0, 1, 2], tasks="abc", obs_kind="keypoints")
    records = rollout(planner, scenario, EvalSettings(max_steps=3), workers=2, record_frames=2)
    assert sorted(records.frames) == [0, 1] and [len(f) for f in records.frames.values()] == [4, 4]
    assert records.frames[0][0].shape == (384, 384, 3) and records.frames[0][0].dtype == np.uint8
    assert planner.seen[0].shape == (3, 2, 18) and planner.tasks[0] == ["a", "b", "c"]
    assert [e["task"] for e in records.episodes] == ["a", "b", "c"]


def test_the_interval_can_be_chosen_but_not_beyond_the_controller() -> None:
    assert [e["queries"] for e in run([0, 1], replan_every=4).episodes] == [10, 10]
    with pytest.raises(LWDError, match="made for 8"):
        run([0], replan_every=16)


def test_records_tell_of_a_delay_and_of_a_monitor() -> None:
    """Queries, their causes and the ages of what acted, in episodes of different lengths."""

    def monitor(obs: Tensor, action: Tensor, following: Tensor, t: Tensor, *_: object) -> Tensor:
        assert obs.shape == following.shape == (3, 5) and action.shape == (3, 2) and t.shape == (3,)
        calls.append(t.tolist())
        return torch.tensor([False, True, len(calls) == 3])  # of an episode that is over, and of the last one once

    calls: list[list[int]] = []
    scenario, settings = pusht([1, 2, 3], states=[FAR, SOLVED, FAR]), EvalSettings(max_steps=12, replan_every=5, delay=2)
    records = rollout(ChasePlanner(), scenario, settings, monitor=monitor, workers=0)
    first, solved, last = records.episodes
    assert (first["queried_at"], first["causes"]) == ([0, 5, 10], ["start", "interval", "interval"])
    assert first["ages"] == [0, 1, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6]
    assert (solved["queried_at"], solved["causes"], solved["ages"]) == ([0], ["start"], [0])
    assert (last["queried_at"], last["causes"]) == ([0, 3, 8], ["start", "monitor", "interval"])
    assert last["ages"] == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 2, 3]
    assert len(calls) == 11 and all(own["queries"] == len(own["queried_at"]) for own in records.episodes)
    assert [ages[0] for ages in calls] == first["ages"][:-1], "a monitor is told the age at the action, in every step but the first"
    assert json.loads(json.dumps(records.episodes)) == records.episodes


def test_a_delay_that_no_plan_is_made_for_is_refused() -> None:
    assert [e["queries"] for e in run([0], replan_every=6, delay=2).episodes] == [7]
    with pytest.raises(LWDError, match="a query every 7 steps and a delay of 2 need controllers that last as long; these are made for 8"):
        run([0], replan_every=7, delay=2)


def test_more_episodes_than_fit_at_a_time_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    whole = run([3, 4, 5], record_states=True)
    monkeypatch.setattr(type(FAMILY), "batch", 2)
    parts = run([3, 4, 5], record_states=True, progress=lambda done, of: seen.append((done, of)))
    assert parts.episodes == whole.episodes and parts.env_steps == whole.env_steps and list(parts.states) == [0, 1, 2]
    assert seen[0] == (1, 80) and seen[-1] == (80, 80) and sorted(seen) == seen
    chunks = np.random.default_rng(0).uniform(0, 512, (3, 40, 2))
    asked: list[slice] = []

    def planner(rows: slice) -> Replay:
        asked.append(rows)
        return Replay(chunks[rows])

    settings = EvalSettings(max_steps=40)
    records = rollout(planner, pusht([0, 1, 2]), settings, workers=0, record_frames=3)
    assert asked == [slice(0, 2), slice(2, 4)] and sorted(records.frames) == [0, 1, 2]
    for i in range(3):
        alone = rollout(Replay(chunks[i : i + 1]), pusht([i]), settings, workers=0)
        assert alone.episodes[0] == records.episodes[i]


def test_bad_actions_are_refused() -> None:
    nan = np.full((2, 5, 2), np.nan)
    with pytest.raises(LWDError, match="not finite in the episode of seed 7, step 0"):
        rollout(Replay(nan), pusht([7, 8]), EvalSettings(), workers=0)
    with pytest.raises(LWDError, match=r"shape \(2, 3\)"):
        rollout(Replay(np.zeros((2, 5, 3))), pusht([7, 8]), EvalSettings(), workers=0)


def test_scenarios_that_do_not_fit_are_refused() -> None:
    with pytest.raises(LWDError, match="as many start states"):
        pusht([0, 1], states=[FAR])
    with pytest.raises(LWDError, match="at least one seed"):
        pusht([])
    with pytest.raises(LWDError, match="none below zero"):
        pusht([3, -1])
    with pytest.raises(LWDError, match="task names"):
        pusht([0], tasks="ab")
    with pytest.raises(LWDError, match="unknown environment"):
        rollout(ChasePlanner(), Scenario("nowhere", "state", (0,)), EvalSettings())
    with pytest.raises(LWDError, match="choose one of state, keypoints"):
        rollout(ChasePlanner(), Scenario("pusht", "pixels", (0,)), EvalSettings())
    with pytest.raises(LWDError, match="pusht has no disturbance 'wind', it has: displace"):
        rollout(ChasePlanner(), pusht([0]), EvalSettings(disturb="wind:1"))


def test_what_the_settings_leave_open_is_filled_in() -> None:
    settings = pusht([9, 8, 9, 8], tasks="aabb").resolve(EvalSettings(), ChasePlanner(horizon=6))
    assert (settings.replan_every, settings.max_steps, settings.episodes, settings.seed_start) == (6, 300, 2, 8)
    asked = EvalSettings(replan_every=3, max_steps=7, episodes=1, seed_start=5)
    assert pusht([5]).resolve(asked, ChasePlanner()) == asked


def test_actions_are_clipped_to_the_board() -> None:
    for target in (1e6, 512.0):
        planner, start = Replay(np.full((1, 30, 2), target)), [[400.0, 400.0, 150.0, 150.0, 0.0]]
        records = rollout(planner, pusht([0], states=start), EvalSettings(max_steps=30), record_states=True)
        assert records.states[0][-1, :2] == pytest.approx([512, 512], abs=1)


@pytest.mark.data
def test_human_demonstrations_replay_from_their_own_start(human_data: Path) -> None:
    zarr = pytest.importorskip("zarr")
    root = zarr.open(str(human_data), mode="r")
    states, actions, ends = (np.asarray(root[k][:]) for k in ("data/state", "data/action", "meta/episode_ends"))
    starts = np.concatenate([[0], ends[:-1]])[:20]
    ends = ends[:20]
    longest = int((ends - starts).max())
    padded = np.stack([actions[np.minimum(np.arange(s, s + longest), e - 1)] for s, e in zip(starts, ends, strict=True)])
    scenario = pusht(range(20), states=states[starts])
    records = rollout(Replay(padded), scenario, EvalSettings(max_steps=longest), record_states=True)
    best = [max(e["coverage"][: ends[i] - starts[i]]) for i, e in enumerate(records.episodes)]
    assert 0.85 < np.mean(best) < 0.96
    for i in range(20):  # the simulator follows the recording, not only its score
        np.testing.assert_allclose(records.states[i][0], states[starts[i]], atol=1e-3)
        np.testing.assert_allclose(records.states[i][10, :2], states[starts[i] + 10, :2], atol=5)
    assert FAMILY.primary in records.episodes[0]
