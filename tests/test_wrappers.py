"""Wrappers of planners: means over several controllers, and ACT's weighting of overlapping chunks against a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import tiny_method
from lwd.config import DiffusionPolicyConfig, EvalSettings, LWDConfig
from lwd.control import ControlLoop, Monitor
from lwd.methods.base import ENDLESS, ChunkController, Generators, Method, Spec, make_method
from lwd.methods.diffusion import draw
from lwd.methods.wrappers import Ensemble, TemporalEnsemble, wrapped
from lwd.rollout import Scenario, rollout

SPEC = Spec(2, 2, 8, 8, action_low=(0.0, 0.0), action_high=(512.0, 512.0))
CHUNKS = DiffusionPolicyConfig(denoiser_width=32, denoiser_depth=1, diffusion_steps=20, sampler_steps=4)


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def untrained(config: LWDConfig | DiffusionPolicyConfig) -> Method:
    """A method whose plans differ from draw to draw: that of LWD begins with a decoder that hardly looks at the latent."""
    torch.manual_seed(0)
    method = make_method(config, SPEC)
    method.normalizer.action_half.fill_(200.0)
    method.normalizer.action_center.fill_(256.0)
    return method


class Guess:
    """A planner of random chunks; keeps, for each call, the history and the chunks, and what it was told."""

    def __init__(self, horizon: int = 6) -> None:
        self.horizon, self.history = horizon, 1
        self.made: list[tuple[Tensor, Tensor]] = []
        self.tasks: list[Any] = []

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> ChunkController:
        chunk = draw((len(history), self.horizon, 2), generator, history.device)
        self.made.append((history.clone(), chunk.clone()))
        self.tasks.append(task)
        return ChunkController(chunk)


# --- Ensemble ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CHUNKS, tiny_method()], ids=["chunks", "policies"])
def test_an_ensemble_executes_the_mean_of_its_members(config: LWDConfig | DiffusionPolicyConfig) -> None:
    method = untrained(config)
    history, t = torch.rand(3, 1, 2), torch.tensor([0, 5, 7])
    mean = Ensemble(method, 4).plan(history, generator=seeds(1, 2, 3)).act(history[:, 0], t)
    members = []
    for row, generator in enumerate(seeds(1, 2, 3)):
        own = [method.plan(history[row : row + 1], generator=[generator]).act(history[row], t[row : row + 1]) for _ in range(4)]
        members.append(torch.cat(own))
    assert all(own.std(0).min() > 1e-4 for own in members), "the members are different draws"
    torch.testing.assert_close(mean, torch.stack([own.mean(0) for own in members]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(mean, torch.stack([own[0] for own in members]), atol=1e-4)


def test_a_row_of_an_ensemble_does_not_depend_on_the_batch() -> None:
    ensemble, obs, t = Ensemble(Guess(), 3), torch.zeros(3, 1, 2), torch.tensor([1, 1, 1])
    together = ensemble.plan(obs, generator=seeds(1, 2, 3)).act(obs[:, 0], t)
    swapped = ensemble.plan(obs, generator=seeds(3, 1, 2)).act(obs[:, 0], t)
    assert torch.equal(together, swapped[[1, 2, 0]])
    assert torch.equal(together[1:2], ensemble.plan(obs[:1], generator=seeds(2)).act(obs[:1, 0], t[:1]))


def test_members_have_the_task_and_the_history_of_their_row() -> None:
    inner = Guess()
    ensemble = Ensemble(inner, 2)
    ensemble.plan(torch.arange(4.0).reshape(2, 1, 2), ["a", "b"], torch.Generator().manual_seed(0))
    assert inner.tasks == [["a", "a", "b", "b"]]
    assert inner.made[0][0][:, 0].tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert (ensemble.history, ensemble.horizon) == (1, 6)


def test_some_rows_of_an_ensemble_are_replaced() -> None:
    ensemble, obs, t = Ensemble(Guess(), 3), torch.zeros(4, 1, 2), torch.tensor([2, 0, 1, 5])
    controller, new = ensemble.plan(obs, generator=seeds(1, 2, 3, 4)), ensemble.plan(obs[:2], generator=seeds(5, 6))
    before, fresh = controller.act(obs[:, 0], t), new.act(obs[:2, 0], t[[3, 1]])
    controller.update(torch.tensor([3, 1]), new)
    after = controller.act(obs[:, 0], t)
    assert torch.equal(after[[0, 2]], before[[0, 2]]) and torch.equal(after[[3, 1]], fresh)


# --- TemporalEnsemble -------------------------------------------------------------------------------------------------------------------


class Fleet:
    """A loop of B rows with a temporal ensemble, and what ACT's formula says of the chunks that its planner made."""

    def __init__(
        self, every: int, delay: int = 0, monitor: Monitor | None = None, rows: int = 2, horizon: int = 6, steps: int = 16
    ) -> None:
        inner, self.horizon = Guess(horizon), horizon
        ensemble = TemporalEnsemble(inner)
        loop = ControlLoop(ensemble, every, delay=delay, monitor=monitor, generators=torch.Generator().manual_seed(0))
        found, chunks = [], [list[tuple[int, int, np.ndarray]]() for _ in range(rows)]  # per row: made at, takes over at, (T, 2)
        for step in range(steps):
            number = len(inner.made)
            found.append(loop.act(torch.full((rows, 2), float(step))).double().numpy())
            asked = loop.causes.nonzero()[:, 0].tolist()
            for _, made in inner.made[number:]:
                for row, chunk in zip(asked, made.double().numpy(), strict=True):
                    chunks[row].append((step, step + delay if step else 0, chunk))
        self.found, self.chunks = np.array(found), chunks

    def expected(self) -> np.ndarray:
        """(T, B, 2) by hand: of the chunks that have taken over and still cover the step, the i-th oldest counts exp(-0.01 i)."""
        table = np.zeros_like(self.found)
        for step in range(len(table)):
            for row, own in enumerate(self.chunks):
                wanted = [chunk[step - made] for made, begins, chunk in own if begins <= step < made + 6]
                weights = np.exp(-0.01 * np.arange(len(wanted)))
                table[step, row] = weights @ np.array(wanted) / weights.sum()
        return table


@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize("every", [1, 3])
def test_overlapping_chunks_have_the_weights_of_act(every: int, delay: int) -> None:
    fleet = Fleet(every, delay)
    np.testing.assert_allclose(fleet.found, fleet.expected(), atol=1e-5)
    alone = fleet.chunks[0][0][2]
    np.testing.assert_allclose(fleet.found[0], [own[0][2][0] for own in fleet.chunks], atol=1e-5)
    assert np.abs(fleet.found[:6, 0] - alone)[every + delay :].min() > 0.01, "later chunks have a say"


def test_the_oldest_chunk_weighs_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a steep weighting the action is nearly that of the oldest chunk that still covers the step."""
    monkeypatch.setattr(TemporalEnsemble, "m", 20.0)
    fleet = Fleet(3)
    oldest = [next(chunk[step - made] for made, _, chunk in fleet.chunks[0] if step < made + 6) for step in range(16)]
    np.testing.assert_allclose(fleet.found[:, 0], oldest, atol=1e-4)


@pytest.mark.parametrize("delay", [0, 2])
def test_rows_that_were_planned_apart_have_overlaps_of_their_own(delay: int) -> None:
    def monitor(obs: Tensor, action: Tensor, following: Tensor, t: Tensor, *_: object) -> Tensor:
        step = int(following[0, 0])
        return torch.tensor([step in (2, 3, 8), step == 5, False])

    fleet = Fleet(4, delay, monitor, rows=3)
    assert [[made for made, *_ in own] for own in fleet.chunks] == [[0, 2, 3, 7, 8, 12], [0, 4, 5, 9, 13], [0, 4, 8, 12]]
    np.testing.assert_allclose(fleet.found, fleet.expected(), atol=1e-5)


def test_policies_have_a_say_for_their_horizon() -> None:
    """A policy could act for ever; it is asked for as long as it was made for."""
    method = untrained(tiny_method())
    ensemble, obs = TemporalEnsemble(method), torch.rand(40, 2, 2)
    loop = ControlLoop(ensemble, 5, generators=seeds(0, 1))
    plans, generators = {}, seeds(0, 1)
    for step in range(20):
        if step % 5 == 0:
            plans[step] = method.plan(obs[step][:, None], generator=generators)
        own = [plan.act(obs[step], torch.full((2,), step - made)) for made, plan in plans.items() if step - made < 8]
        weights = torch.exp(-0.01 * torch.arange(len(own)))
        expected = (weights[:, None, None] * torch.stack(own)).sum(0) / weights.sum()
        torch.testing.assert_close(loop.act(obs[step]), expected, atol=1e-4, rtol=1e-5)
    assert ensemble.plan(obs[0][:, None]).horizon == ENDLESS


# --- what the settings ask for ----------------------------------------------------------------------------------------------------------


def test_settings_choose_the_wrappers() -> None:
    planner = Guess()
    assert wrapped(planner, EvalSettings()) is planner
    mean = wrapped(planner, EvalSettings(ensemble=3))
    assert isinstance(mean, Ensemble) and mean.count == 3
    both = wrapped(planner, EvalSettings(ensemble=3, temporal=True))
    assert isinstance(both, TemporalEnsemble) and isinstance(both.planner, Ensemble)


@pytest.mark.parametrize("settings", [{"ensemble": 3}, {"temporal": True}, {"ensemble": 2, "temporal": True}])
def test_wrapped_planners_run_in_the_simulator(settings: dict[str, Any]) -> None:
    """An episode is the same whatever runs beside it."""
    pytest.importorskip("gym_pusht")

    class Steps(Guess):
        def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> ChunkController:
            steps = super().plan(history, task, generator).actions
            return ChunkController(history[:, -1:, :2] + 30 * steps)

    how = EvalSettings(replan_every=2, delay=1, max_steps=9, **settings)
    states = [
        [100.0, 100.0, 256.0, 300.0, 0.5],
        [60.0, 60.0, 256.0, 256.0, np.pi / 4],
        [400.0, 100.0, 256.0, 200.0, 2.0],
    ]  # the second ends
    whole = rollout(wrapped(Steps(), how), Scenario("pusht", "state", (4, 5, 6), None, states), how, workers=0, record_states=True)
    alone = rollout(wrapped(Steps(), how), Scenario("pusht", "state", (6,), None, states[2:]), how, workers=0, record_states=True)
    assert [episode["steps"] for episode in whole.episodes] == [9, 1, 9]
    np.testing.assert_allclose(whole.states[2], alone.states[0], atol=1e-3)
    plain = rollout(Steps(), Scenario("pusht", "state", (6,), None, states[2:]), how, workers=0, record_states=True)
    assert np.abs(plain.states[0] - alone.states[0]).max() > 1
