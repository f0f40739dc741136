"""Shared fixtures: a tiny synthetic data set, a tiny training configuration, and a run that was trained with them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lwd.config import Config, LWDConfig, Stage
from lwd.data.formats.npz import save_npz
from lwd.episodes import Episodes, Meta
from lwd.training.train import train

torch.set_num_threads(1)
SHARED = Path(os.environ.get("LWD_SHARED", Path(__file__).parents[1] / ".." / "shared")).resolve()


@pytest.fixture(scope="session")
def human_data() -> Path:
    """The 206 human demonstrations of PushT."""
    path = SHARED / "data" / "pusht" / "pusht_cchi_v7_replay.zarr"
    if not path.exists():
        pytest.skip(f"{path} is not here: set LWD_SHARED")
    return path


def reaching(episodes: int = 12, length: int = 20, seed: int = 0) -> Episodes:
    """A point that walks to the right or to the left goal, at random: two modes. Raw units of hundreds; two-dimensional."""
    rng = np.random.default_rng(seed)
    obs, action = [], []
    for i in range(episodes):
        position = np.array([rng.uniform(240, 260), rng.uniform(40, 60)])
        goal = np.array([100.0 if i % 2 else 400.0, 400.0])
        for _ in range(length):
            target = position + 0.2 * (goal - position)
            obs.append(position.copy())
            action.append(target)
            position = position + 0.5 * (target - position)
    meta = Meta(action_low=(0.0, 0.0), action_high=(512.0, 512.0), description="synthetic: two goals")
    ends = np.arange(1, episodes + 1) * length
    return Episodes(np.array(obs), np.array(action), ends, tags={"goal": np.arange(episodes) % 2}, meta=meta)


def assert_equal(a: Episodes, b: Episodes, meta: bool = True) -> None:
    """Two sets of episodes are the same, to the last tag, and what they declare, too."""
    for name in ("obs", "action", "ends", "task"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.meta == b.meta or not meta) and a.tags.keys() == b.tags.keys()
    for name in a.tags:
        np.testing.assert_array_equal(a.tags[name], b.tags[name])


def tiny_method(**changes: object) -> LWDConfig:
    """Settings that train in a second or two."""
    config = LWDConfig(
        autoencoder=Stage(steps=20, batch=16, lr=1e-3, warmup=5),
        diffusion=Stage(steps=20, batch=32, lr=1e-3, warmup=5),
        latent=8,
        encoder=(32,),
        decoder="xs",
        policy=(16, 16),
        policy_noise=0.0,
        world_model_hidden=(16, 16),
        rollout_warmup=5,
        denoiser_width=32,
        denoiser_depth=1,
        diffusion_steps=20,
        sampler_steps=4,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def tiny_config(folder: Path) -> Config:
    """A run of two seconds on `reaching` data, both in a folder."""
    save_npz(reaching(), folder / "data.npz")
    return Config(
        data=str(folder / "data.npz"),
        out=str(folder / "run"),
        horizon=8,
        holdout=0.2,
        precision="32-true",
        threads=1,
        log_every=5,
        validate_every=10,
        checkpoint_every=5,
        method=tiny_method(),
    )


@pytest.fixture
def tiny(tmp_path: Path) -> Config:
    """A run of two seconds on `reaching` data."""
    return tiny_config(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run of LWD with a world model, on `reaching` data, which names no simulator. Tests must not change it."""
    folder = tmp_path_factory.mktemp("trained")
    return train(tiny_config(folder), quiet=True).path
