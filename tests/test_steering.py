"""Steering: policies by tag, around a demonstration and between two; and trainings on a part of the data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lwd
from conftest import reaching, tiny_config, tiny_method
from lwd.cli import main
from lwd.config import Config, EvalSettings, MLPConfig, Stage
from lwd.data.prepare import load_data
from lwd.deploy import load_policy
from lwd.errors import LWDError
from lwd.methods.steering import Steering
from lwd.training.train import steering

START = np.tile([250.0, 50.0], (24, 1))
FAR = [{"goal": "0"}, {"goal": "1"}]  # of the right goal, of the left one


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of `reaching` data that has learned both goals."""
    config = tiny_config(tmp_path_factory.mktemp("steering"))
    stages: Any = {"autoencoder": Stage(400, 32, lr=3e-3, warmup=5), "diffusion": Stage(500, 64, lr=3e-3, warmup=5)}
    method = tiny_method(**stages, world_model=False, beta=1e-5, policy=(32, 32))
    return lwd.train(replace(config, method=method), quiet=True).path


def side(plan: Any) -> np.ndarray:
    """(B,) where policies lead from the start: above 0 to the right."""
    return plan.act(START)[:, 0] - START[:, 0]


def test_a_tag_chooses_the_goal(run: Path) -> None:
    """Without it both goals are sampled. With an agent, too."""
    model = lwd.load(run, seed=0)
    anywhere = side(model.plan(START)) > 0
    assert 0 < anywhere.sum() < len(START)
    right, left = (side(model.plan(START, tag=tag)) for tag in FAR)
    assert (right > 0).all() and (left < 0).all()
    assert len(np.unique(right)) > 1  # sampled, not one latent
    assert (model.agent(tag={"goal": ["1"]}).act(START)[:, 0] < START[:, 0]).all()
    again = side(model.plan(START)) > 0
    assert 0 < again.sum() < len(START)  # steering ends with the plan that asked for it


def test_around_and_between_demonstrations(run: Path) -> None:
    """Even episodes lead to the right, odd ones to the left; a path from one to the other begins and ends there."""
    model = lwd.load(run, seed=0)
    around = [side(model.plan(START, near=number)) for number in (4, 7)]
    assert np.median(around[0]) > 0 > np.median(around[1]) and min(np.ptp(own) for own in around) > 0
    path = [side(model.plan(START, blend=(4, 7, weight))).mean() for weight in (0.0, 0.5, 1.0)]
    assert path[0] > 0 > path[2] and path[0] > path[1] > path[2]


def test_latents_of_any_demonstration(run: Path) -> None:
    """Half of the encoded latents lead to each side; they are told apart by the generator of each row."""
    model = lwd.load(run, seed=0)
    model.method.steering = steering(model.method, model.run, EvalSettings(latent="encoded"))
    history = torch.as_tensor(START, dtype=torch.float32)[:, None]
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(START))]
    actions = model.method.plan(history, None, generators).act(history[:, 0], torch.zeros(len(START)))
    assert 5 < (actions[:, 0] > 250).sum() < 19
    alone = model.method.plan(history[3:4], None, [torch.Generator().manual_seed(3)]).act(history[3:4, 0], torch.zeros(1))
    torch.testing.assert_close(alone[0], actions[3])


def test_policies_in_files_are_steered(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`lwd generate --tag`: files of policies to one side, that tell how they were chosen."""
    command = ["generate", str(run), "--obs", "250,50", "--n", "8", "--out"]
    for goal, sign in (("0", 1), ("1", -1)):
        assert main([*command, str(tmp_path / goal), "--tag", f"goal={goal}"]) == 0
        policies = [load_policy(path) for path in (tmp_path / goal).iterdir()]
        assert len(policies) == 8 and all(sign * (own.act(START[0])[0] - START[0, 0]) > 0 for own in policies)
        assert json.loads(policies[0].about["steered"])["tag"] == [f"goal={goal}"]
    for wrong, sentence in (("goal", "NAME=VALUE"), ("goal=9", "no episode has the tag")):
        assert main([*command, str(tmp_path / "wrong"), "--tag", wrong]) == 2
        assert sentence in capsys.readouterr().err and not (tmp_path / "wrong").exists()


def test_only_a_part_of_the_data(tmp_path: Path) -> None:
    """`--only` keeps episodes by tag."""
    config = replace(tiny_config(tmp_path), holdout=0.0, only=("goal=1",))
    assert load_data(config)[0].tags["goal"].tolist() == [1] * 6
    for words, sentence in {
        ("goal=2",): "no episode has the tag goal=2: the values of goal are 0, 1",
        ("colour=red",): "'colour=red' is no tag NAME=VALUE of the data, whose tags are: goal",
        ("goal",): "'goal' is no tag NAME=VALUE",
    }.items():
        with pytest.raises(LWDError, match=sentence):
            load_data(replace(config, only=words))
    both = replace(reaching(), tags={"goal": np.arange(12) % 2, "part": np.arange(12) // 6})
    assert both.tagged(["goal=0", "goal=1", "part=1"]).tolist() == [False] * 6 + [True] * 6


def test_a_rare_tag_has_its_share(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many demonstrated latents a few are compared with: half of them have the tag, however rare it is."""
    monkeypatch.setattr("lwd.methods.steering.KNOWN", 8)
    model = lwd.load(run, seed=0)
    rare = replace(reaching(), tags={"goal": (np.arange(12) == 3).astype(int)})
    own = Steering(model.method, rare, EvalSettings(tag=("goal=1",)))
    assert own.wanted is not None and own.wanted[own.data.episode[own.rows]].sum() == 4 and len(own.rows) == 8


def test_what_is_refused(run: Path, tmp_path: Path) -> None:
    """Two ways at once, episodes that are not there, and methods without latents."""
    model = lwd.load(run)
    for options, sentence in (
        ({"near": 12}, "there is no episode 12: the data has 12, numbered from 0"),
        ({"near": 1, "tag": FAR[0]}, "ways to choose latents: take one"),
        ({"blend": (1, 1, 0.5)}, "two different demonstrations"),
        ({"blend": (1, 2)}, "two numbers of demonstrations and a weight between 0 and 1"),
        ({"tag": {"goal": "5"}}, "no episode has the tag goal=5"),
    ):
        with pytest.raises(LWDError, match=sentence):
            model.plan(START, **options)
    with pytest.raises(LWDError, match="a weight between 0 and 1"):
        EvalSettings(blend=(0, 1, 2))
    config: Config = replace(tiny_config(tmp_path), method=MLPConfig(cloning=Stage(5, 16, warmup=1), policy=(8,)))
    with pytest.raises(LWDError, match="no latent that could be steered"):
        lwd.load(lwd.train(config, quiet=True).path).plan(START, near=0)
