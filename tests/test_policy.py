"""A trained run in a user's program: what goes in, what comes out, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lwd
from conftest import reaching, tiny_method
from lwd.config import Config, DiffusionPolicyConfig, RandomConfig, Stage
from lwd.control import ControlLoop
from lwd.data.formats.npz import save_npz
from lwd.errors import LWDError
from lwd.training.run import Run
from lwd.training.train import load_method

HERE = np.array([250.0, 50.0])


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Diffusion Policy on two tasks with chunks of eight actions, hardly trained."""
    folder = tmp_path_factory.mktemp("chunks")
    data = reaching()
    save_npz(replace(data, task=np.array(["right", "left"] * (len(data) // 2))), folder / "data.npz")
    method = DiffusionPolicyConfig(diffusion=Stage(20, 32, warmup=1), history=2, denoiser_width=32, denoiser_depth=1, sampler_steps=4)
    config = Config(data=str(folder / "data.npz"), out=str(folder / "run"), horizon=8, threads=1, precision="32-true", method=method)
    return lwd.train(config, quiet=True).path


def test_steps_can_differ_from_row_to_row(chunks: Path) -> None:
    """Rows that were planned together, and are asked for actions of different steps."""
    obs = np.tile(HERE, (3, 1))
    plan = lwd.load(chunks, seed=0).plan(obs, task=["left", "right", "left"])
    by_step = np.stack([plan.act(obs, t) for t in range(8)])
    assert by_step.shape == (8, 3, 2) and np.ptp(by_step, axis=0).min() > 0
    for t in ([5, 0, 7], np.array([5, 0, 7]), torch.tensor([5, 0, 7], dtype=torch.int32)):
        np.testing.assert_array_equal(plan.act(obs, t), by_step[[5, 0, 7], [0, 1, 2]])
    for t in (8, -1, [0, 0, 8]):
        with pytest.raises(LWDError, match=r"actions for 8 steps \(t = 0 ... 7\), not for t ="):
            plan.act(obs, t)
    for wrong in ([0, 1], 0.5):
        with pytest.raises(LWDError, match="a whole number, or one for each of the 3 rows"):
            plan.act(obs, wrong)


def test_a_closed_loop_has_no_last_step(trained: Path) -> None:
    plan = lwd.load(trained, seed=0).plan(HERE)
    assert plan.horizon == 8
    np.testing.assert_array_equal(plan.act(HERE, 0), plan.act(HERE, 100_000))


def test_an_ensemble_acts_with_the_mean_of_its_policies(trained: Path) -> None:
    """The same seed draws the same three latents for three rows as for one row of an ensemble of three."""
    apart = lwd.load(trained, seed=3).plan(np.tile(HERE, (3, 1))).act(np.tile(HERE, (3, 1)), 2)
    together = lwd.load(trained, seed=3, ensemble=3).plan(HERE)
    assert np.ptp(apart, axis=0).max() > 0
    np.testing.assert_allclose(together.act(HERE, 2), apart.mean(0), rtol=1e-4)
    np.testing.assert_array_equal(lwd.load(trained, seed=3, ensemble=3).agent().act(HERE), together.act(HERE, 0))


def test_plans_take_one_observation_a_batch_or_a_history(chunks: Path) -> None:
    past, still = np.stack([HERE + 150, HERE])[None], np.stack([HERE, HERE])[None]
    chunk = []
    for obs in (HERE, HERE[None], still, past):
        plan = lwd.load(chunks, seed=3).plan(obs, task="left")
        chunk.append(np.stack([plan.act(obs if obs.ndim == 1 else HERE[None], t) for t in range(8)]))
    assert [actions.shape for actions in chunk] == [(8, 2), (8, 1, 2), (8, 1, 2), (8, 1, 2)]
    np.testing.assert_array_equal(chunk[0], chunk[1][:, 0])
    np.testing.assert_array_equal(chunk[1], chunk[2])  # without a past, the present is taken for it
    assert np.abs(chunk[3] - chunk[2]).max() > 0
    with pytest.raises(LWDError, match=r"shape \(batch, 2, 2\)"):
        lwd.load(chunks).plan(np.zeros((1, 3, 2)), task="left")


def test_plans_take_a_task_by_name(chunks: Path) -> None:
    generator = lwd.load(chunks)
    assert generator.tasks == ("left", "right")
    states = np.tile(HERE, (3, 1))
    for task, message in (
        (None, "several tasks: say which, one of left, right"),
        ("lefd", "the task lefd: did you mean left.* it knows left, right"),
        (["left", "left"], "one task name per row: 3, not 2"),
    ):
        with pytest.raises(LWDError, match=message):
            generator.plan(states, task=task)


def test_a_task_for_a_model_without_tasks_is_refused(trained: Path) -> None:
    with pytest.raises(LWDError, match="leave out task='left'"):
        lwd.load(trained).plan(HERE, task="left")


def test_other_spellings_of_a_task_are_accepted(tmp_path: Path) -> None:
    data = reaching()
    names = np.array(["reach", "door-open"] * (len(data) // 2))
    for env, known in (("metaworld", True), ("a_simulator_that_is_not_here", False)):
        folder = tmp_path / env
        save_npz(replace(data, task=names, meta=replace(data.meta, env=env)), folder / "data.npz")
        config = Config(data=str(folder / "data.npz"), out=str(folder / "run"), horizon=8, method=RandomConfig())
        generator = lwd.load(lwd.train(config, quiet=True).path)
        assert generator.plan(HERE, task="door-open").act(HERE).shape == (2,)
        if known:
            assert generator.plan(HERE, task="door-open-v3").act(HERE).shape == generator.agent(task="door-open-v3").act(HERE).shape == (2,)
        else:
            with pytest.raises(LWDError, match="does not know the task door-open-v3"):
                generator.plan(HERE, task="door-open-v3")


def test_the_sampler_can_be_chosen(chunks: Path) -> None:
    exact, coarse = (lwd.load(chunks, seed=0, steps=steps).plan(HERE, task="left").act(HERE) for steps in (None, 1))
    assert np.abs(exact - coarse).max() > 0
    with pytest.raises(LWDError, match="euler"):
        lwd.load(chunks, sampler="euler")
    with pytest.raises(LWDError, match="between 1 and 100 steps"):
        lwd.load(chunks, steps=101)


# --- agents -----------------------------------------------------------------------------------------------------------------------------


def walk(agent: Any, steps: int, rows: int = 2) -> tuple[np.ndarray, list[list[int]], list[list[str]]]:
    """(T, B, 2) actions of an agent that is shown a batch that moves, its ages and its causes."""
    actions, ages, causes = [], [], []
    for step in range(steps):
        actions.append(agent.act(np.tile(HERE, (rows, 1)) + 7.0 * step + 20.0 * np.arange(rows)[:, None]))
        ages.append(agent.ages)
        causes.append(agent.causes)
    return np.array(actions), ages, causes


def test_an_agent_speaks_what_it_is_spoken_to_in(trained: Path) -> None:
    agent = lwd.load(trained, seed=0).agent(4)
    single = agent.act(HERE)
    assert isinstance(single, np.ndarray) and single.shape == (2,) and single.dtype == np.float32
    assert agent.ages == [0] and agent.causes == ["start"]
    tensor = agent.act(torch.from_numpy(HERE))
    assert isinstance(tensor, torch.Tensor) and tensor.shape == (2,) and agent.ages == [1] and agent.causes == [""]
    agent.reset()
    batch = agent.act(torch.tensor([[250.0, 50.0]] * 3))
    assert isinstance(batch, torch.Tensor) and batch.shape == (3, 2) and agent.ages == [0, 0, 0]
    assert isinstance(agent.act(np.tile(HERE, (3, 1))), np.ndarray)
    fresh = lwd.load(trained, seed=0)
    np.testing.assert_allclose(fresh.agent(4).act(HERE), single)
    np.testing.assert_allclose(lwd.load(trained, seed=0).agent(4).act(HERE[None])[0], single)


@pytest.mark.parametrize("delay", [0, 2])
def test_an_agent_is_a_control_loop(chunks: Path, delay: int) -> None:
    agent = lwd.load(chunks, seed=3).agent(3, ["left", "right"], delay=delay)
    actions, ages, causes = walk(agent, 8)
    method, generator = load_method(Run(chunks)), torch.Generator().manual_seed(3)
    loop = ControlLoop(method, 3, delay=delay, tasks=["left", "right"], generators=generator)
    for step in range(8):
        obs = torch.from_numpy(np.tile(HERE, (2, 1)) + 7.0 * step + 20.0 * np.arange(2)[:, None]).float()
        np.testing.assert_array_equal(actions[step], loop.act(obs).numpy())
        assert ages[step] == loop.ages.tolist()
    assert [own[0] for own in causes] == ["start", "", "", "interval", "", "", "interval", ""]
    assert [own[0] for own in ages] == ([0, 1, 2, 0, 1, 2, 0, 1] if not delay else [0, 1, 2, 3, 4, 2, 3, 4])


def test_an_agent_asks_every_horizon_by_default_and_again_after_a_reset(chunks: Path) -> None:
    agent = lwd.load(chunks, seed=0).agent(task="left")
    actions, _, causes = walk(agent, 10, rows=1)
    assert [own[0] for own in causes] == ["start", *[""] * 7, "interval", ""]
    agent.reset()
    again, ages, causes = walk(agent, 3, rows=1)
    assert causes == [["start"], [""], [""]] and ages == [[0], [1], [2]]
    assert np.abs(again - actions[:3]).max() > 0, "the draws go on"
    agent.reset()
    assert agent.act(np.tile(HERE, (4, 1))).shape == (4, 2), "another batch"


def test_an_agent_asks_early_when_its_monitor_wants_it(chunks: Path) -> None:
    told = []

    def monitor(obs: torch.Tensor, action: torch.Tensor, following: torch.Tensor, t: torch.Tensor, *_: object) -> torch.Tensor:
        told.append((obs, action, following, t))
        return torch.tensor([False, len(told) == 2])

    agent = lwd.load(chunks, seed=0).agent(4, "left", monitor=monitor)
    actions, _, causes = walk(agent, 6)
    assert [own[0] for own in causes] == ["start", "", "", "", "interval", ""]
    assert [own[1] for own in causes] == ["start", "", "monitor", "", "", ""]
    assert torch.equal(told[1][0] + 7, told[1][2]) and np.array_equal(told[1][1].numpy(), actions[1]) and told[1][3].tolist() == [1, 1]


def test_agents_refuse_what_cannot_be(chunks: Path, trained: Path) -> None:
    agent = lwd.load(trained).agent(4)
    agent.act(np.tile(HERE, (3, 1)))
    for wrong in (HERE, np.tile(HERE, (2, 1)), np.zeros((3, 3))):
        with pytest.raises(LWDError, match=r"act needs observations of shape \(3, 2\) until the next reset, not"):
            agent.act(wrong)
    with pytest.raises(LWDError, match=r"shape \(batch, 1, 2\), not \(1, 1, 3\)"):
        lwd.load(trained).agent(4).act(np.zeros(3))
    with pytest.raises(LWDError, match="NaN"):
        agent.act(np.full((3, 2), np.nan))
    for words in ({"replan_every": -1}, {"delay": -2}):
        with pytest.raises(LWDError, match="replan_every and delay count steps"):
            lwd.load(trained).agent(**words)
    with pytest.raises(LWDError, match="a query every 8 steps and a delay of 1 need controllers that last as long; these are made for 8"):
        lwd.load(chunks).agent(task="left", delay=1).act(HERE)


def test_an_agent_is_told_its_task(chunks: Path, trained: Path) -> None:
    same, mixed = (walk(lwd.load(chunks, seed=0).agent(4, task), 2)[0] for task in ("left", ["left", "right"]))
    np.testing.assert_array_equal(same[:, 0], mixed[:, 0])
    assert np.abs(same[:, 1] - mixed[:, 1]).max() > 0
    cases = ((None, "several tasks: say which"), ("up", "does not know the task up"), (["left"], "one task name per row: 2, not 1"))
    for task, message in cases:
        with pytest.raises(LWDError, match=message):
            walk(lwd.load(chunks).agent(4, task), 1)
    with pytest.raises(LWDError, match="leave out task='left'"):
        lwd.load(trained).agent(4, "left").act(HERE)
    agent = lwd.load(trained).agent(4)
    with pytest.raises(LWDError, match="or a batch"):
        agent.act(np.zeros((2, 1, 2), np.float32))
    assert agent.act(HERE).shape == (2,)  # an episode that could not begin can be begun again


def test_agents_and_plans_of_one_model_have_their_own_intervals(tmp_path: Path) -> None:
    """A model of many intervals is asked for the agent's, whatever is planned in between."""
    save_npz(reaching(), tmp_path / "data.npz")
    files = {"data": str(tmp_path / "data.npz"), "out": str(tmp_path / "run")}
    generator = lwd.load(lwd.train(Config(**files, horizon=8, threads=1, method=tiny_method(phase=True, span=4)), quiet=True).path, seed=0)
    short, long = generator.agent(2), generator.agent(12, delay=5)
    for step in range(6):
        for agent, ends in ((short, 2), (long, 17)):
            agent.act(HERE)
            assert agent._loop is not None and agent._loop.controller.ends.tolist() == [ends]  # type: ignore[attr-defined]
        assert generator.plan(HERE).policies.ends.tolist() == [8]  # type: ignore[attr-defined]
        assert short.ages == [step % 2] and long.ages == [step]
