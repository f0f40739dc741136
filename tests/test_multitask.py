"""Several tasks in one model: whole episodes as snippets, evaluation of every task, means over tasks."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import tiny_method
from lwd.cli import main
from lwd.config import Config, EvalSettings, Stage
from lwd.data.formats.npz import save_npz
from lwd.data.normalizer import Normalizer
from lwd.data.snippets import Snippets
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError
from lwd.evaluate import evaluate
from lwd.report.tables import tabulate_tasks
from lwd.rollout import Scenario
from lwd.statistics import stratified_mean, wilson
from lwd.training.train import load_method, train

FAMILY = """
    import gymnasium, numpy as np
    from lwd.envs.base import EnvFamily

    class Line(gymnasium.Env):
        '''A point on a line; left and right are the two tasks, the observation does not tell which.'''
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

        def __init__(self, task):
            self.goal = {"left": -1.0, "right": 1.0}[task]

        def reset(self, *, seed=None, options=None):
            self.x = np.random.default_rng(seed).uniform(-0.2, 0.2)
            return np.array([self.x, 1.0]), {}

        def step(self, action):
            self.x += 0.1 * float(action[0])
            return np.array([self.x, 1.0]), 0.0, False, False, {"success": float(self.x * self.goal > 0.5)}

    class Lines(EnvFamily):
        name = "lines"
        max_steps = 12
        action_low, action_high = (-1.0,), (1.0,)
        info_keys = ("success",)
        scores = {"success": "rate"}
        primary = "success"
        tasks = ("left", "right")
        task_sets = {"both": ("left", "right")}
        batch = 3

        def make(self, obs_kind, task=None):
            return Line(task)

        def summarise(self, infos):
            return {"success": max(infos["success"])}

    FAMILY = Lines()
"""


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of the family above."""
    (tmp_path / "linebox").mkdir()
    (tmp_path / "linebox" / "__init__.py").touch()
    (tmp_path / "linebox" / "lines.py").write_text(textwrap.dedent(FAMILY))
    monkeypatch.syspath_prepend(str(tmp_path))
    return "linebox.lines"


def demonstrations(env: str, per_task: int = 12, steps: int = 12) -> Episodes:
    """Left or right at full speed, but for a little noise."""
    rng = np.random.default_rng(0)
    obs, action, task = [], [], []
    for i in range(2 * per_task):
        sign = 1.0 if i % 2 else -1.0
        a = np.clip(sign + 0.05 * rng.standard_normal((steps, 1)), -1, 1)
        x = rng.uniform(-0.2, 0.2) + np.concatenate([[0], np.cumsum(0.1 * a[:-1, 0])])
        obs.append(np.stack([x, np.ones(steps)], 1))
        action.append(a)
        task.append("right" if i % 2 else "left")
    meta = Meta(env, "state", (), (-1.0,), (1.0,), "synthetic: a line")
    ends = steps * np.arange(1, 2 * per_task + 1)
    return Episodes(np.concatenate(obs), np.concatenate(action), ends, np.array(task), meta=meta)


class Push:
    """A planner and controller that knows the tasks (all but the last one of "right")."""

    history, horizon = 1, 12

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Any = None) -> Push:
        assert task is not None and len(task) == len(history)
        self.sign = torch.tensor([[1.0] if name == "right" else [-1.0] for name in task])
        self.slow = (history[:, 0, :1] > 0.1).float()  # these starts are given up
        return self

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        return self.sign * (1 - self.slow)


def test_snippets_of_whole_episodes_start_at_the_first_step() -> None:
    episodes = demonstrations("none", 3, 6)
    normalizer = Normalizer(2, 1)
    normalizer.fit(episodes)
    data = Snippets(episodes, normalizer, 8, starts="first", tasks=("left", "other", "right"))
    assert data.count == 6 and data.starts.tolist() == [0, 6, 12, 18, 24, 30]
    batch = data.sample(500, torch.Generator().manual_seed(0))
    assert set(batch.start.tolist()) == set(data.starts.tolist())
    assert torch.equal(data.starts[batch.number], batch.start)
    assert data.at(torch.tensor([6])).rows.tolist() == [[6, 7, 8, 9, 10, 11, 11, 11]]
    assert data.task is not None and set(data.task.tolist()) == {0, 2}  # places in the given names, not in the data's own
    with pytest.raises(LWDError, match="'left', which is none of the tasks right, up"):
        Snippets(episodes, normalizer, 8, tasks=("right", "up"))


def test_every_task_runs_every_seed_and_counts_the_same(lines: str) -> None:
    seeds, tasks = tuple(range(8)) * 2, ("left",) * 8 + ("right",) * 8
    seen: list[tuple[int, int]] = []
    scenario = Scenario(lines, "state", seeds, tasks)
    result = evaluate(Push(), scenario, EvalSettings(), workers=0, progress=lambda *p: seen.append(p))
    given_up = sum(np.random.default_rng(s).uniform(-0.2, 0.2) > 0.1 for s in range(8))
    assert 0 < given_up < 8
    rate = 1 - given_up / 8
    assert [(r["task"], r["seed"]) for r in result["records"]] == list(zip(tasks, seeds, strict=True))
    assert result["scores"]["success"]["mean"] == pytest.approx(rate)
    assert {t: own["success"]["mean"] for t, own in result["tasks"].items()} == {"left": pytest.approx(rate), "right": pytest.approx(rate)}
    assert result["tasks"]["left"]["success"]["low"] == pytest.approx(wilson(8 - given_up, 8).low)
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]  # six rollouts of at most three environments, one bar
    assert len(tabulate_tasks(result).rows) == 2


def test_a_mean_over_tasks_is_resampled_within_each() -> None:
    all_or_nothing = stratified_mean([np.ones(20), np.zeros(20)])
    assert all_or_nothing.mean == 0.5 and all_or_nothing.low < 0.5 < all_or_nothing.high  # Wilson: the bootstrap sees no spread
    perfect = stratified_mean([np.ones(16)] * 10)
    assert perfect.mean == perfect.high == 1.0 and perfect.low == pytest.approx(wilson(160, 160).low)
    coin = np.tile([0.0, 1.0], 50)
    mixed, apart = stratified_mean([coin, np.ones(100)]), stratified_mean([coin])
    assert mixed.mean == 0.75 and mixed.high - mixed.low == pytest.approx((apart.high - apart.low) / 2, rel=0.15)
    unequal = stratified_mean([np.zeros(2), np.ones(100)])
    assert unequal.mean == 0.5
    with pytest.raises(LWDError, match="at least one group"):
        stratified_mean([])


def test_one_generator_for_two_tasks_from_data_to_result(lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_npz(demonstrations(lines), tmp_path / "lines.npz")
    stages: Any = {"autoencoder": Stage(200, 64, 1e-3, warmup=20), "diffusion": Stage(200, 128, 1e-3, warmup=20)}
    method = tiny_method(**stages, world_model=False, stride=2, bc_steps=4, latent=16, encoder=(64,), policy=(32, 32), denoiser_width=64)
    data, out = str(tmp_path / "lines.npz"), str(tmp_path / "run")
    config = Config(data=data, out=out, horizon=12, starts="first", threads=1, precision="32-true", method=method)
    run = train(config, quiet=True)
    assert load_method(run).spec.tasks == ("left", "right")
    assert main(["eval", str(run.path), "--episodes", "8", "--workers", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["episodes"] == 16 and set(result["tasks"]) == {"left", "right"}
    assert result["scores"]["success"]["mean"] > 0.9  # chance, or a model that ignores the task: a half at most
    assert main(["eval", str(run.path), "--episodes", "2", "--tasks", "right", "--workers", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["tasks"]) == {"right"} and result["name"].endswith("_right") and result["episodes"] == 2
    assert main(["eval", str(run.path), "--tasks", "up"]) == 2
    assert "has no task 'up'; it has both, left, right" in capsys.readouterr().err
