"""Action error on held-out demonstrations, beside two baselines: needs no simulator, and says whether a training has learned anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lwd.config import MLPConfig, Stage
from lwd.diagnose.decoded import Replay
from lwd.episodes import Episodes
from lwd.errors import LWDError
from lwd.methods.base import Method
from lwd.report.tables import Table
from lwd.training.run import Run
from lwd.training.train import load_method, train

FOLDER = "baseline-mlp"  # inside the run directory
MOST_STEPS = 5000  # gradient steps of the MLP
Errors = dict[str, tuple[float, float]]  # name -> error of the first action, and over the whole horizon


def action_errors(run: Run, method: Method, held: Episodes, *, samples: int = 256, seed: int = 0) -> Errors:
    """What a method and the baselines do on the recorded observations of held-out demonstrations, against the recorded actions.

    Args:
        run: the run of the method; the MLP is kept in its folder `baseline-mlp`.
        method: trained.
        held: held-out episodes, raw units.
        samples: queries, at random steps.
        seed: seed of the choice of steps and of the samples of the method.

    Returns:
        Root mean square over queries, steps and dimensions, raw units, by name of the planner. "repeat the last action" (the action before
        the query) is left out where queries are at the first step only.
    """
    first_step = method.spec.starts == "first"
    rows = torch.from_numpy(held.starts if first_step else np.setdiff1d(np.arange(held.steps), held.starts))
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:samples]]
    errors = {"this run": error_of(method, held, rows, seed)}
    if method.config.name not in ("mlp", "random"):
        errors["one MLP policy"] = error_of(mlp_baseline(run, method), held, rows, seed)
    if not first_step:
        last = torch.from_numpy(held.action)[rows - 1]
        errors["repeat the last action"] = _error(Replay(last[:, None].expand(-1, method.horizon, -1)), held, rows, method.horizon)
    return errors


@torch.no_grad()
def error_of(method: Method, held: Episodes, rows: Tensor, seed: int) -> tuple[float, float]:
    """Error of a method that is queried at some rows and then sees the recorded observations."""
    first = torch.from_numpy(held.starts)[torch.searchsorted(torch.from_numpy(held.ends), rows, right=True)]
    past = torch.maximum(rows[:, None] + torch.arange(1 - method.history, 1), first[:, None])
    names = None if held.task is None else [str(held.task[held.locate(int(row))[0]]) for row in rows]
    controller = method.plan(torch.from_numpy(held.obs)[past], names, torch.Generator(method.device).manual_seed(seed))
    return _error(controller, held, rows, method.horizon)


def _error(controller: Any, held: Episodes, rows: Tensor, horizon: int) -> tuple[float, float]:
    """(first action, whole horizon); steps beyond the end of an episode do not count."""
    obs, action = torch.from_numpy(held.obs), torch.from_numpy(held.action)
    last = torch.from_numpy(held.ends)[torch.searchsorted(torch.from_numpy(held.ends), rows, right=True)] - 1
    squares, inside = [], []
    for t in range(horizon):
        at = torch.minimum(rows + t, last)
        given = controller.act(obs[at], torch.full((len(rows),), t)).cpu()
        squares.append((given - action[at]).square().mean(-1))
        inside.append(rows + t <= last)
    square, real = torch.stack(squares), torch.stack(inside)
    return square[0].mean().sqrt().item(), square[real].mean().sqrt().item()


def mlp_baseline(run: Run, method: Method) -> Method:
    """One MLP policy of the size that the method generates, trained by behaviour cloning on the run's data, and kept with the run.

    It takes as many gradient steps as the run, at most 5,000.
    """
    config, own = run.config(), method.config
    like = {name: getattr(own, name) for name in ("policy", "activation", "policy_noise") if hasattr(own, name)}
    steps = min(MOST_STEPS, sum(stage.steps for stage in own.stages.values()))
    cloning = Stage(steps=steps, batch=256, warmup=min(200, steps // 10))
    mlp = MLPConfig(cloning=cloning, ema_power=own.ema_power, **like)
    config = replace(
        config, preset="mlp", starts="every", method=mlp, out=str(run.path / FOLDER), validate_every=steps, checkpoint_every=steps
    )
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
