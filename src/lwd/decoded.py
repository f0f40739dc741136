"""Policies decoded from held-out demonstrations, each run from its demonstration's own start: does the autoencoder alone solve the task?

No diffusion model is asked: what fails here cannot be repaired by sampling better. A start is known by the seed with which the episode
was recorded (`EnvFamily.seeds`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tyro.conf import Positional

from lwd.config import require
from lwd.errors import LWDError

if TYPE_CHECKING:  # the command line imports this file: it must stay free of torch
    import torch
    from torch import Tensor

    from lwd.data.episodes import Episodes
    from lwd.data.snippets import Snippets
    from lwd.methods.base import Controller, Planner
    from lwd.methods.lwd import LWD
    from lwd.rollout import Records

SNIPPETS = 512  # held-out snippets at most, for the reconstruction error


class Replay:
    """B chunks of recorded actions, (B, T, Da)."""

    def __init__(self, actions: Tensor) -> None:
        self.actions, self.horizon = actions, actions.shape[1]

    def act(self, obs: Tensor, t: int) -> Tensor:
        """(B, Da) actions of step t; `obs` is ignored."""
        return self.actions[:, t]


class Fixed:
    """A planner that has one answer."""

    history = 1

    def __init__(self, controller: Controller, horizon: int) -> None:
        self.controller, self.horizon = controller, horizon

    def plan(self, history: Tensor, task: Any = None, generator: Any = None, previous: Any = None) -> Controller:
        """The answer, for the batch that it was made for."""
        return self.controller


class Decoded:
    """A planner that encodes B given snippets and decodes their policies, from the posterior mean.

    Args:
        method: trained through its first stage.
        obs: (B, T, F) features.
        action: (B, T, Da) features.
        horizon: steps that a policy acts for.
    """

    history = 1

    def __init__(self, method: LWD, obs: Tensor, action: Tensor, horizon: int) -> None:
        self.method, self.obs, self.action, self.horizon = method, obs, action, horizon

    def plan(self, history: Tensor, task: Any = None, generator: Any = None, previous: Any = None) -> Controller:
        """B policies, whatever the states are."""
        mean, _ = self.method.posterior(self.obs, self.action)
        return self.method.controller(mean)


def own_starts(episodes: Episodes) -> NDArray[np.int64]:
    """(E,) seeds with which the episodes began.

    Raises:
        LWDError: the data names no environment, or does not tell the seeds.
    """
    from lwd.envs.base import family

    if episodes.meta.env is None:
        raise LWDError("the data names no environment: there is nothing to run a policy in")
    seeds = family(episodes.meta.env).seeds(episodes)
    if seeds is None:
        raise LWDError("the data does not say from which seed each episode began: collect it with `lwd data collect`, which does")
    return seeds


def run_from_own_starts(
    planner: Callable[[NDArray[np.int64]], Planner],
    episodes: Episodes,
    chosen: NDArray[np.int64],
    *,
    horizon: int | None = None,
    max_steps: int | None = None,
    workers: int | None = None,
) -> Records:
    """Rollouts from the starts of some recorded episodes, at most `EnvFamily.batch` at a time.

    Args:
        planner: gives the planner for a part of `chosen`.
        episodes: whose seeds are known.
        chosen: (n,) indices of episodes.
        horizon: steps between queries; None for the planner's own.
        max_steps: of a rollout; None for the family's own.
        workers: processes; None for one per core, 0 for none.

    Raises:
        LWDError: the starts are not known.
    """
    from lwd.rollout import rollouts

    seeds = own_starts(episodes)[chosen]
    return rollouts(
        lambda part: planner(chosen[part]),
        str(episodes.meta.env),
        episodes.meta.obs,
        seeds.tolist(),
        task=None if episodes.task is None else [str(task) for task in episodes.task[chosen]],
        horizon=horizon,
        max_steps=max_steps,
        workers=workers,
    )


def recorded_actions(episodes: Episodes, chosen: NDArray[np.int64], steps: int) -> Tensor:
    """(n, steps, Da) raw actions of some episodes from their beginning; a shorter one repeats its last action."""
    import torch

    rows = np.minimum(episodes.starts[chosen][:, None] + np.arange(steps), episodes.ends[chosen][:, None] - 1)
    return torch.from_numpy(episodes.action[rows])


def random_snippets(data: Snippets, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """(n,) start rows of a random snippet of each of some episodes; none reaches beyond its episode if the episode is long enough.

    Args:
        data: snippets of the episodes.
        chosen: (n,) indices of episodes, on the data's device.
        generator: on the data's device.
    """
    import torch

    first = torch.unique_consecutive(data.first)[chosen]
    if data.count < len(data.obs):  # a snippet is a whole episode
        return first
    room = (data.last[first] - first + 2 - (data.length - data.before)).clamp_min(1)
    draw = torch.rand(len(chosen), generator=generator, device=first.device)
    return first + torch.minimum((draw * room).long(), room - 1)


def decode_run(
    path: str | Path, *, episodes: int = 16, horizon: int | None = None, seed: int = 0, workers: int | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Success of policies decoded from held-out demonstrations, from the demonstrations' own starts, without a second query.

    Of each demonstration one random snippet is encoded (the whole episode where the run was trained on whole episodes), and the policy of
    the posterior mean acts alone.

    Args:
        path: run directory of LWD, trained at least through the autoencoder stage, with episodes held out.
        episodes: held-out demonstrations of each task, at most.
        horizon: steps of a rollout; None for the family's whole episode.
        seed: of the choice of snippets.
        workers: processes of the rollout; None for one per core.
        device: where to compute.

    Returns:
        As `lwd.evaluate.evaluate`, with one record for each demonstration (`seed` is that of its start) and `decoded`: `length` of the
        encoded snippets, `reconstruction_rmse` (raw units, over up to 512 held-out snippets), `rate_nats`, `parameters` by module.

    Raises:
        LWDError: no such run, nothing held out, other data than in training, or data that does not tell the starts.
    """
    import torch

    from lwd.envs.base import family
    from lwd.evaluate import summarise
    from lwd.methods.lwd import LWD
    from lwd.run import Run
    from lwd.train import first_of_each_task, load_data, load_method

    require(episodes >= 1, f"--episodes counts demonstrations: at least 1, not {episodes}")
    require(horizon is None or horizon >= 1, f"--horizon counts steps: at least 1, not {horizon}")
    run = Run(path)
    config = run.config()
    training, held = load_data(config)
    if run.record()["data"]["fingerprint"] != training.fingerprint():
        raise LWDError(f"{config.data} is not the data that {run.path} was trained on: restore it")
    require(config.holdout > 0, f"{run.path} was trained on all demonstrations: train with --holdout 0.1 to keep some for this")
    method = load_method(run, device)
    if not isinstance(method, LWD):
        raise LWDError(f"policies are decoded from demonstrations by LWD, and {run.path} is a run of {config.method.name}")
    if "autoencoder" not in run.load("model")[1]["done"]:
        raise LWDError(f"{run.path}: the autoencoder is not trained to its end yet: continue with the same `lwd train` command")
    seeds, kind = own_starts(held), family(str(held.meta.env))
    chosen, steps = first_of_each_task(held, episodes), horizon or kind.max_steps
    data, generator = method.snippets(held, device), torch.Generator(device).manual_seed(seed)
    rows = random_snippets(data, torch.from_numpy(chosen).to(device), generator)
    place = {int(episode): number for number, episode in enumerate(chosen)}

    def planner(part: NDArray[np.int64]) -> Decoded:
        batch = data.at(rows[[place[int(episode)] for episode in part]])
        return Decoded(method, batch.obs, batch.action, steps)

    records = run_from_own_starts(planner, held, chosen, horizon=steps, max_steps=steps, workers=workers)
    result = summarise(
        records,
        planner(chosen[:1]),
        env=str(held.meta.env),
        obs=held.meta.obs,
        seeds=[int(seed) for seed in seeds[chosen]],
        horizon=steps,
        perturbation=0.0,
        max_steps=steps,
        task=None if held.task is None else [str(task) for task in held.task[chosen]],
        sampler={"latent": "encoded demonstrations"},
        sampler_seed=seed,
        name=f"decoded_h{steps}_n{episodes}",
    )
    return {**result, "decoded": reconstruction(method, data, generator)}


def reconstruction(method: LWD, data: Snippets, generator: torch.Generator) -> dict[str, Any]:
    """What the autoencoder keeps of snippets: see `decode_run`."""
    import torch

    with torch.no_grad():
        batch = data.at(data.starts[torch.randperm(data.count, generator=generator, device=data.obs.device)[:SNIPPETS]])
        mean, logvar = method.posterior(batch.obs, batch.action)
        error = method.raw_errors(method.decoded(mean, batch), batch.action, "decoded", method.before)["decoded_action_rmse"]
        rate = method.kl(mean, logvar).item() / 2
    parts = {name: sum(p.numel() for p in module.parameters()) for name, module in method.named_children()}
    parts = {name: count for name, count in parts.items() if count}
    return {
        "length": method.spec.length,
        "reconstruction_rmse": error,
        "rate_nats": rate,
        "parameters": {**parts, "generated policy": method.policy_parameters},
    }


@dataclass
class Decode:
    """Run policies decoded from held-out demonstrations, each from its demonstration's own start; writes eval/<name>.json.

    It is what the autoencoder can do by itself: no latent is sampled, and no second query is made.
    """

    run: Positional[str]
    """Run directory of LWD; its data must hold the seeds of its episodes (`lwd data collect` keeps them)."""
    episodes: int = 16
    """Held-out demonstrations of each task, at most."""
    horizon: int | None = None
    """Steps that a policy acts for; a whole episode by default."""
    seed: int = 0
    """Of the choice of snippets, one of each demonstration."""
    workers: int | None = None
    """Simulator processes; one per core by default."""
    device: str = "cpu"
    """Where the model computes."""
    name: str = ""
    """Name of the result; made from the settings by default."""
    json: bool = False
    """Print the result as JSON, without the episodes."""

    def __call__(self) -> None:
        import json

        from rich.console import Console

        from lwd.evaluate import write_result
        from lwd.tables import render, render_tasks

        require(not set(self.name) & set("/\\"), f"--name becomes a file name: it must not hold a slash, but is {self.name!r}")
        result = decode_run(
            self.run, episodes=self.episodes, horizon=self.horizon, seed=self.seed, workers=self.workers, device=self.device
        )
        result["name"] = self.name or result["name"]
        path = write_result(result, Path(self.run) / "eval")
        if self.json:
            print(json.dumps({**{k: v for k, v in result.items() if k != "records"}, "path": str(path)}, indent=1))
            return
        console = Console()
        if len(result.get("tasks", ())) > 1:
            console.print(render_tasks(result))
        console.print(render([result], title=self.run))
        print(path)
