"""Links 6 and 7: world models and the progress value on held-out data, several steps ahead, and where they are wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lwd.data.prepare import dimension_names
from lwd.data.snippets import Snippets
from lwd.episodes import Episodes
from lwd.methods.base import Method
from lwd.methods.lwd import LWD

Links = list[dict[str, Any]]
Judged = tuple[float, float, float] | None

TRAIN_LONGER = "train longer, or raise method.world_model_steps"
WORLD_LONGER = "raise method.world.steps or method.world.hidden, or collect more demonstrations"
IMPROVED = "so poor a world model makes policies worse: evaluate both runs, and prefer the run they come from unless this is better"
MEMBERS = "the members do not know where they are wrong: raise method.world.members"
VALUE = "the value says little about progress: are the demonstrations of very different speed, or do they not end at the goal?"
AHEAD = (1, 8, 32)


def link(number: int, name: str, value: float, unit: str, against: float | None, judged: Judged = None, advice: str = "") -> dict[str, Any]:
    """One measurement of link `number`, JSON-ready: its value, what that is compared `against`, a verdict, and what to do when it is bad.

    `judged` is a figure, up to where it is "ok", and from where on it is "broken"; between it is "weak". Without it the verdict is "-".
    """
    figure, good, bad = judged or (0.0, 0.0, 0.0)
    verdict = "-" if judged is None else "ok" if figure <= good else "broken" if figure >= bad else "weak"
    return {"number": number, "name": name, "value": value, "unit": unit, "against": against, "verdict": verdict, "advice": advice}


def _from(data: Snippets, steps: int) -> Tensor:
    """(N,) rows that have so many successors."""
    rows = torch.arange(len(data.obs), device=data.obs.device)
    return rows[data.last - rows >= steps]


def _ahead(number: int, steps: int, predicted: Tensor, data: Snippets, start: Tensor, advice: str) -> dict[str, Any]:
    """A prediction (N, F) some steps after start rows, against a predictor that says nothing changes; normalised units."""
    value, still = ((guess - data.obs[start + steps]).square().mean().sqrt().item() for guess in (predicted, data.obs[start]))
    name = f"world model, {steps} step{'s' * (steps > 1)}, against no change"
    return link(number, name, value, "norm.", still, (value, 0.5 * still, still), advice)


@torch.no_grad()
def joint_world_links(method: LWD, data: Snippets) -> Links:
    """Link 6: the world model of L_TF and L_RO, one step and several steps ahead."""
    if method.world_model is None:
        return []
    found = [(steps, start) for steps in (1, 16) if len(start := _from(data, steps))]
    return [_ahead(6, steps, method.imagine(data, start, steps), data, start, TRAIN_LONGER) for steps, start in found]


@torch.no_grad()
def world_links(method: Method, held: Episodes) -> Links:
    """Link 7: what `--imagine`, `--monitor` and `improve` rely on. The model open loop along held-out actions; in which dimension, and in
    which share of the starts, its error lies; whether its members disagree where it is wrong; and the progress value."""
    world = method.world
    if world is None:
        return []
    data, links, names = method.snippets(held, method.device), Links(), dimension_names(held)[0]
    improved = getattr(method.config, "improve", False)
    for steps in AHEAD:
        if not len(start := _from(data, steps)):
            continue
        each = world.recorded(data, start, steps)[-1]
        links.append(_ahead(7, steps, each.mean(0), data, start, IMPROVED if improved and steps == AHEAD[1] else WORLD_LONGER))
        if steps != AHEAD[1]:
            continue
        square = (each.mean(0) - data.obs[start + steps]).square()
        total, hardest = square.mean(-1), max(1, len(start) // 10)
        share = (total.topk(hardest).values.sum() / total.sum().clamp_min(1e-12)).item()
        links.append(link(7, f"share of that error in the worst tenth of starts, {steps} steps", share, "", 0.1))
        worst = int(square.mean(0).argmax())
        name = names[worst] if square.shape[1] == len(names) else f"feature {worst}"  # angles are two features
        links.append(link(7, f"largest error, dimension {name}, {steps} steps", square[:, worst].mean().sqrt().item(), "norm.", None))
        known = _rank_correlation(world.disagreement(each), total)
        links.append(link(7, f"rank correlation of disagreement and error, {steps} steps", known, "", 1.0, (-known, -0.3, 0.0), MEMBERS))
    left, value = data.left, world.remaining(data.obs, data.task).mean(0)
    error, spread = (value - left).square().mean().sqrt().item(), left.std().item()
    links.append(link(7, "progress value, remaining steps", error, "steps", spread, (error, 0.8 * spread, spread), VALUE))
    place = (torch.arange(len(left), device=left.device) - data.first) / (data.last - data.first).clamp_min(1)
    for name, low in (("first", 0.0), ("middle", 1 / 3), ("last", 2 / 3)):
        own = (place >= low) & (place <= low + 1 / 3)
        links.append(link(7, f"bias of the value in the {name} third of a demonstration", (value - left)[own].mean().item(), "steps", 0.0))
    return links


def _rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, of two (N,) tensors."""
    ranks = torch.stack([a.argsort().argsort(), b.argsort().argsort()]).float()
    return float(torch.corrcoef(ranks)[0, 1]) if len(a) > 2 else 0.0
