"""A trained run in a user's program: what goes in, what comes out, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import lwd
from conftest import reaching
from lwd.config import Config, DiffusionPolicyConfig, RandomConfig, Stage
from lwd.data.formats.npz import save_npz
from lwd.errors import LWDError

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
            assert generator.plan(HERE, task="door-open-v3").act(HERE).shape == (2,)
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
