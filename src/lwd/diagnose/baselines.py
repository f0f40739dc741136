"""Action error on held-out demonstrations, beside two baselines: needs no simulator, and says whether a training has learned anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from lwd.config import MLPConfig, Stage
from lwd.episodes import Episodes
from lwd.errors import LWDError
from lwd.methods.base import ChunkController, Controller, Method
from lwd.methods.mlp import MLP
from lwd.report.tables import Table
from lwd.training.run import Run
from lwd.training.train import load_method, train

FOLDER = "baseline-mlp"  # inside the run directory
MOST_STEPS, QUERIES = 5000, 256  # gradient steps of the MLP; random steps that are asked
Errors = dict[str, tuple[float, float]]  # name -> error of the first action, and over the whole horizon


def action_errors(run: Run, method: Method, held: Episodes) -> Errors:
    """What a run's method and the baselines do on the recorded observations of held-out demonstrations, against the recorded actions.

    Root mean square over queries, steps and dimensions, raw units, by name of the planner; steps beyond the end of an episode do not count.
    """
    first_step = method.spec.starts == "first" or (isinstance(method, MLP) and method.config.phase)
    obs, action = torch.from_numpy(held.obs), torch.from_numpy(held.action)
    rows = torch.from_numpy(held.starts if first_step else np.setdiff1d(np.arange(held.steps), held.starts))
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:QUERIES]]
    planned = {"this run": method}
    if method.config.name not in ("mlp", "random"):
        planned["one MLP policy"] = mlp_baseline(run, method)
    episode = torch.searchsorted(torch.from_numpy(held.ends), rows, right=True)
    names = None if held.task is None else [str(held.task[e]) for e in episode]
    controllers: dict[str, Controller] = {}
    for name, planner in planned.items():
        past = torch.maximum(rows[:, None] + torch.arange(1 - planner.history, 1), torch.from_numpy(held.starts)[episode][:, None])
        generator = torch.Generator(planner.device).manual_seed(0)
        controllers[name] = planner.plan(obs[past], names, generator)
    if not first_step:  # nothing comes before a first step
        controllers["repeat the last action"] = ChunkController(action[rows - 1][:, None].expand(-1, method.horizon, -1))
    steps, last = rows + torch.arange(method.horizon)[:, None], torch.from_numpy(held.ends)[episode] - 1
    at, errors = torch.minimum(steps, last), Errors()
    for name, controller in controllers.items():
        given = torch.stack([controller.act(obs[now], torch.full_like(now, t)).cpu() for t, now in enumerate(at)])
        square = (given - action[at]).square().mean(-1).where(steps <= last, torch.nan)  # (T, queries)
        errors[name] = square[0].mean().sqrt().item(), square.nanmean().sqrt().item()
    return errors


def mlp_baseline(run: Run, method: Method) -> Method:
    """One MLP policy of the size that the method generates, trained on the run's data for as many steps, and kept with the run."""
    own = method.config
    names = ("policy", "policy_noise", "phase")[: 3 if method.spec.starts == "first" else 2]  # an MLP's phase counts from the beginning
    like = {name: getattr(own, name) for name in names if hasattr(own, name)}
    steps = min(MOST_STEPS, sum(stage.steps for stage in own.stages.values()))
    mlp = MLPConfig(cloning=Stage(steps=steps, batch=256, warmup=min(200, steps // 10)), ema_power=own.ema_power, **like)
    where = {"preset": "mlp", "out": str(run.path / FOLDER), "validate_every": steps, "checkpoint_every": steps}
    config = replace(run.config(), starts="every", method=mlp, **where)
    try:
        trained = train(config, quiet=True)
    except LWDError:  # an older baseline, of other settings or damaged
        trained = train(config, fresh=True, quiet=True)
    return load_method(trained, method.device)


def tabulate_errors(errors: Errors, horizon: int) -> Table:
    """`action_errors` as a table, the best on top."""
    rows = [(name, f"{first:.4g}", f"{whole:.4g}") for name, (first, whole) in sorted(errors.items(), key=lambda item: item[1][1])]
    caption = (
        "Root mean square over held-out queries and dimensions, in the data's own units; the planner sees the recorded observations. "
        "One MLP policy: the size of a generated one, trained as long as the run, at most 5,000 steps. "
        "Where demonstrations differ in what they do in one state, a sampled policy may follow another one than the recorded."
    )
    return Table("Held-out action error", ("planner", "first action", f"all {horizon} steps"), rows, caption)
