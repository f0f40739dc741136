"""Policies decoded from held-out demonstrations, each run from its demonstration's own start: does the autoencoder alone solve the task?

No diffusion model is asked: what fails here cannot be repaired by sampling better. A start is known by the seed with which the episode
was recorded (`EnvFamily.seeds`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwd.config import EvalSettings, LWDConfig, require
from lwd.data.prepare import first_of_each_task
from lwd.data.snippets import Snippets
from lwd.envs.base import family
from lwd.episodes import Episodes
from lwd.errors import LWDError
from lwd.evaluate import summarise
from lwd.methods.base import Controller
from lwd.methods.lwd import LWD
from lwd.rollout import Scenario, rollout
from lwd.training.run import Run
from lwd.training.train import load_method, run_data

SNIPPETS = 512  # held-out snippets at most, for the reconstruction error


class Replay:
    """B chunks of recorded actions, (B, T, Da), executed whatever is observed."""

    def __init__(self, actions: Tensor) -> None:
        self.actions, self.horizon = actions, actions.shape[1]

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        """(B, Da) actions, row by row of step t; `obs` is ignored."""
        return self.actions[torch.arange(len(t)), t.to(self.actions.device)]


class Fixed:
    """A planner that has one answer, whatever the states are.

    Args:
        answer: makes the controllers of the batch.
        horizon: steps that they act for.
    """

    history = 1

    def __init__(self, answer: Callable[[], Controller], horizon: int) -> None:
        self.answer, self.horizon = answer, horizon

    def plan(self, history: Tensor, task: Any = None, generator: Any = None) -> Controller:
        """The answer, for the batch that it was made for."""
        return self.answer()


def measured_run(run: Run, device: str) -> tuple[LWD, Episodes, Episodes]:
    """The method of a run of LWD whose autoencoder is trained, with its training and held-out episodes.

    Raises:
        LWDError: another method, not trained, other data than in training, or nothing held out.
    """
    name = run.config().method.name
    require(name == LWDConfig.name, f"{run.path} is a run of {name}: only LWD has links to measure and policies to decode; use lwd eval")
    require(
        run.config().holdout > 0,
        f"{run.path} was trained on all demonstrations (holdout 0): nothing is held out to measure on; train with --holdout 0.05",
    )
    method = load_method(run, device, stages=("autoencoder",))
    training, held = run_data(run)
    assert isinstance(method, LWD) and held is not None
    return method, training, held


def own_scenario(episodes: Episodes, chosen: NDArray[np.int64]) -> Scenario:
    """The starts of some recorded episodes: (n,) `chosen` are their indices.

    Raises:
        LWDError: the data names no environment, or does not tell the seeds with which the episodes began.
    """
    if episodes.meta.env is None:
        raise LWDError("the data names no environment: there is nothing to run a policy in")
    seeds = family(episodes.meta.env).seeds(episodes)
    if seeds is None:
        raise LWDError("the data does not say from which seed each episode began: collect it with `lwd data collect`, which does")
    tasks = None if episodes.task is None else tuple(str(task) for task in episodes.task[chosen])
    return Scenario(episodes.meta.env, episodes.meta.obs_kind, tuple(int(seed) for seed in seeds[chosen]), tasks)


def recorded_actions(episodes: Episodes, chosen: NDArray[np.int64], steps: int) -> Tensor:
    """(n, steps, Da) raw actions of some episodes from their beginning; a shorter one repeats its last action."""
    rows = np.minimum(episodes.starts[chosen][:, None] + np.arange(steps), episodes.ends[chosen][:, None] - 1)
    return torch.from_numpy(episodes.action[rows])


def random_snippets(data: Snippets, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """(n,) start rows of a random snippet of each of some episodes; none reaches beyond its episode if the episode is long enough.

    Args:
        data: snippets of the episodes.
        chosen: (n,) indices of episodes, on the data's device.
        generator: on the data's device.
    """
    first = torch.unique_consecutive(data.first)[chosen]
    if data.count < len(data.obs):  # a snippet is a whole episode
        return first
    room = (data.last[first] - first + 2 - (data.length - data.before)).clamp_min(1)
    draw = torch.rand(len(chosen), generator=generator, device=first.device)
    return first + torch.minimum((draw * room).long(), room - 1)


def decode_run(
    path: str | Path, *, episodes: int = 16, steps: int = 0, seed: int = 0, workers: int | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Success of policies decoded from held-out demonstrations, from the demonstrations' own starts, without a second query.

    Of each demonstration one random snippet is encoded (the whole episode where the run was trained on whole episodes), and the policy of
    the posterior mean acts alone.

    Args:
        path: run directory of LWD, trained at least through the autoencoder stage, with episodes held out.
        episodes: held-out demonstrations of each task, at most.
        steps: length of a rollout; 0 for the family's whole episode.
        seed: seed of the choice of snippets.
        workers: processes of the rollout; None for one per core.
        device: where to compute.

    Returns:
        As `lwd.evaluate.evaluate`, with one record for each demonstration (`seed` is that of its start) and `decoded`: `length` of the
        encoded snippets, `reconstruction_rmse` (raw units, over up to 512 held-out snippets), `rate_nats`, `parameters` by module.

    Raises:
        LWDError: no such run, nothing held out, other data than in training, or data that does not tell the starts.
    """
    require(episodes >= 1, f"--episodes counts demonstrations: at least 1, not {episodes}")
    require(steps >= 0, f"--steps counts steps of a rollout: at least 1 (0 is a whole episode), not {steps}")
    method, _, held = measured_run(Run(path), device)
    chosen = first_of_each_task(held, episodes)
    scenario = own_scenario(held, chosen)
    steps = steps or family(scenario.env).max_steps
    data, generator = method.snippets(held, device), torch.Generator(device).manual_seed(seed)
    rows = random_snippets(data, torch.from_numpy(chosen).to(device), generator)

    def planner(part: slice) -> Fixed:
        batch = data.at(rows[part])
        return Fixed(lambda: method.controller(method.posterior(batch.obs, batch.action)[0]), steps)

    settings = EvalSettings(replan_every=steps, max_steps=steps, episodes=episodes, sampler_seed=seed)
    records = rollout(planner, scenario, settings, workers=workers)
    result = summarise(
        records, planner(slice(1)), scenario, settings, name=f"decoded_h{steps}_n{episodes}", sampling={"latent": "encoded demonstrations"}
    )
    return {**result, "decoded": reconstruction(method, data, generator)}


def reconstruction(method: LWD, data: Snippets, generator: torch.Generator) -> dict[str, Any]:
    """What the autoencoder keeps of snippets: see `decode_run`."""
    with torch.no_grad():
        batch = data.at(data.starts[torch.randperm(data.count, generator=generator, device=data.obs.device)[:SNIPPETS]])
        mean, logvar = method.posterior(batch.obs, batch.action)
        error = method.raw_errors(method.decoded(mean, batch), batch.action, "decoded", method.before)["decoded_action_rmse"]
        rate = method.kl(mean, logvar).item() / 2
    counts = method.parameter_counts()
    return {"length": method.spec.length, "reconstruction_rmse": error, "rate_nats": rate, "parameters": counts}
