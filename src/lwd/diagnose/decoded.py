"""Policies decoded from held-out demonstrations, run from their own starts: what fails here cannot be repaired by sampling better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass
class Fixed:
    """A planner that gives the same controllers whatever the states are: `answer` makes them, and they act for `horizon` steps."""

    answer: Callable[[], Controller]
    horizon: int
    history: int = 1

    def plan(self, history: Tensor, task: Any = None, generator: Any = None) -> Controller:
        """The answer, for the batch that it was made for."""
        return self.answer()


def measured_run(run: Run, device: str) -> tuple[LWD, Episodes, Episodes]:
    """The method of a run of LWD whose autoencoder is trained, with its training and held-out episodes; `LWDError` for another run."""
    name = run.config().method.name
    require(name == LWDConfig.name, f"{run.path} is a run of {name}: only LWD has links to measure and policies to decode; use lwd eval")
    require(not run.nothing_held, f"{run.path}: {run.nothing_held}")
    method = load_method(run, device, stages=("autoencoder",))
    training, held = run_data(run)
    assert isinstance(method, LWD) and held is not None
    return method, training, held


def own_scenario(episodes: Episodes, chosen: NDArray[np.int64]) -> Scenario:
    """The starts of some recorded episodes: (n,) `chosen` are their indices. The data must tell their environment and seeds."""
    if episodes.meta.env is None:
        raise LWDError("the data names no environment that its episodes could be run in")
    seeds = family(episodes.meta.env).seeds(episodes)
    if seeds is None:
        raise LWDError("the data does not say from which seed each episode began: collect it with `lwd data collect`, which does")
    tasks = None if episodes.task is None else tuple(map(str, episodes.task[chosen]))
    return Scenario(episodes.meta.env, episodes.meta.obs_kind, tuple(seeds[chosen].tolist()), tasks)


def random_snippets(data: Snippets, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """(n,) indices of episodes -> (n,) start rows of a random snippet of each, inside the episode if that is long enough."""
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

    One random snippet of each demonstration is encoded, and the policy of the posterior mean acts alone. The result is one of
    `lwd.evaluate`, with `decoded`: `length` of the snippets, `reconstruction_rmse` (raw units, up to 512 held-out snippets), `rate_nats`.
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
        return Fixed(lambda: method.controller(method.posterior(batch)[0]), steps)

    settings = EvalSettings(replan_every=steps, max_steps=steps, episodes=episodes, sampler_seed=seed)
    records, name = rollout(planner, scenario, settings, workers=workers), f"decoded_h{steps}_n{episodes}"
    result = summarise(records, planner(slice(1)), scenario, settings, name=name, sampling={"latent": "encoded demonstrations"})
    with torch.no_grad():
        batch = data.at(data.starts[torch.randperm(data.count, generator=generator, device=device)[:512]])
        mean, logvar = method.posterior(batch)
        error = method.raw_errors(method.decoded(mean, batch), batch.action, "decoded", method.before)["decoded_action_rmse"]
        kept = {"length": method.spec.length, "reconstruction_rmse": error, "rate_nats": method.kl(mean, logvar).item() / 2}
    return {**result, "decoded": {**kept, "parameters": method.parameter_counts()}}
