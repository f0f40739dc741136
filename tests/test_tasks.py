"""Several tasks: every method tells them apart, a generated policy never sees the task, and names are checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lwd
from conftest import tiny_method
from lwd.config import Config, DiffusionPolicyConfig, LatentDPConfig, MethodConfig, MLPConfig, RandomConfig, Stage
from lwd.data.formats.npz import save_npz
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError
from lwd.methods.base import Method, Spec, make_method
from lwd.methods.lwd import LWD
from lwd.training.run import Run
from lwd.training.train import load_method, train

# what each task does in every state; the states tell nothing about the task
DIRECTIONS = {"move-left": (-0.8, 0.0), "move-right": (0.8, 0.0), "move-up": (0.0, 0.8)}
NAMES = tuple(sorted(DIRECTIONS))
SMALL: dict[str, Any] = {"denoiser_width": 256, "denoiser_depth": 2, "prediction": "sample", "diffusion_steps": 20, "sampler_steps": 4}


def stage(lr: float = 3e-3) -> Stage:
    return Stage(steps=150, batch=64, lr=lr, warmup=10)


LATENT: dict[str, Any] = {"autoencoder": stage(5e-3), "diffusion": stage(), "latent": 4, "encoder": (32,), "beta": 1e-3, **SMALL}
METHODS: dict[str, MethodConfig] = {
    "lwd": tiny_method(world_model=False, **LATENT),
    "latent_dp": LatentDPConfig(decoder=(32,), **LATENT),
    "diffusion_policy": DiffusionPolicyConfig(diffusion=stage(), **SMALL),
    "mlp": MLPConfig(cloning=stage(), policy=(32, 32)),
    "random": RandomConfig(),
}


def action_of(obs: Any, name: str) -> Any:
    return np.array(DIRECTIONS[name]) + 0.2 * np.asarray(obs)


def moves(names: Sequence[str] = NAMES, episodes: int = 8, length: int = 10, seed: int = 0) -> Episodes:
    """Random states, and what each task does in them."""
    rng = np.random.default_rng(seed)
    task = [name for name in names for _ in range(episodes)]
    obs = rng.uniform(-1, 1, (len(task), length, 2))
    action = np.stack([action_of(o, name) for o, name in zip(obs, task, strict=True)])
    meta = Meta(action_low=(-1.0, -1.0), action_high=(1.0, 1.0), description="synthetic: a direction for each task")
    return Episodes(obs.reshape(-1, 2), action.reshape(-1, 2), np.arange(1, len(task) + 1) * length, task=np.array(task), meta=meta)


def config(folder: Path, episodes: Episodes, method: MethodConfig) -> Config:
    save_npz(episodes, folder / "moves.npz")
    own: dict[str, Any] = {"horizon": 4, "holdout": 0.2, "precision": "32-true", "threads": 1, "validate_every": 1000}
    return Config(data=str(folder / "moves.npz"), out=str(folder / "run"), method=method, **own)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """`trained(method)`: a run, trained when it is first asked for."""
    runs: dict[str, Run] = {}

    def get(name: str) -> Run:
        if name not in runs:
            runs[name] = train(config(tmp_path_factory.mktemp(name), moves(), METHODS[name]), quiet=True)
        return runs[name]

    return get


def error(method: Method, told: Callable[[str], str]) -> float:
    """Mean distance between the first actions of plans that were told `told(task)` and those of the task."""
    states = np.random.default_rng(1).uniform(-1, 1, (32, 2)).astype(np.float32)
    x, errors = torch.from_numpy(states), []
    for name in NAMES:
        controller = method.plan(x.unsqueeze(1), [told(name)] * len(x), torch.Generator().manual_seed(0))
        actions = controller.act(x, torch.zeros(len(x), dtype=torch.int64)).numpy()
        errors.append(np.linalg.norm(actions - action_of(states, name), axis=1).mean())
    return float(np.mean(errors))


def other(name: str) -> str:
    return NAMES[(NAMES.index(name) + 1) % len(NAMES)]


@pytest.mark.parametrize("name", ["lwd", "latent_dp", "diffusion_policy", "mlp"])
def test_tells_the_tasks_apart(trained: Callable[[str], Run], name: str) -> None:
    """The right name gives the right actions, another name does not; held-out episodes of some of the tasks are measured rightly."""
    method = load_method(trained(name))
    assert method.spec.tasks == NAMES
    assert error(method, lambda task: task) < 0.25
    assert error(method, other) > 0.7
    held = method.snippets(moves(["move-up", "move-right"], seed=5))
    measured = method.validate(method.stages[-1], held, torch.Generator().manual_seed(0))
    assert all(value < 0.25 for value in measured.values()), measured


def test_random_actions_know_no_task_but_check_its_name(trained: Callable[[str], Run]) -> None:
    method = load_method(trained("random"))
    assert error(method, lambda task: task) > 0.5 and error(method, other) > 0.5
    with pytest.raises(LWDError, match="does not know the task jump"):
        error(method, lambda task: "jump")


def test_generated_policies_never_see_the_task() -> None:
    """Whatever the number of tasks, the same policy: its first layer reads the features of the observation, and nothing else."""
    sizes = set()
    for tasks in ((), NAMES[:1], NAMES):
        method = make_method(tiny_method(), Spec(2, 2, 4, 4, tasks=tasks))
        assert isinstance(method, LWD)
        assert method.shape.sizes[0] == method.normalizer.feature_dim == 2
        sizes.add((method.policy_parameters, method.parameter_counts()["decoder"]))
    assert len(sizes) == 1


def test_plans_take_a_task_by_name(trained: Callable[[str], Run]) -> None:
    generator = lwd.load(trained("lwd").path, seed=0)
    assert generator.tasks == NAMES
    states = np.zeros((3, 2))
    mixed = generator.plan(states, task=["move-up", "move-left", "move-right"]).act(states)
    assert np.abs(mixed - np.array([DIRECTIONS[n] for n in ("move-up", "move-left", "move-right")])).max() < 0.4
    assert np.abs(generator.plan(states, task="move-left").act(states) - DIRECTIONS["move-left"]).max() < 0.4
    for task, message in (
        (None, "several tasks: say which, one of move-left, move-right, move-up"),
        ("move-lefd", "the task move-lefd: did you mean move-left.* it knows move-left, move-right, move-up"),
        (["move-up", "move-up"], "one task name per row: 3, not 2"),
    ):
        with pytest.raises(LWDError, match=message):
            generator.plan(states, task=task)


def test_a_task_for_a_model_without_tasks_is_refused(tmp_path: Path) -> None:
    generator = lwd.load(train(config(tmp_path, replace(moves(), task=None), METHODS["random"]), quiet=True).path)
    assert generator.tasks == ()
    with pytest.raises(LWDError, match="leave out task='move-up'"):
        generator.plan(np.zeros(2), task="move-up")
