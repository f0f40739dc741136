"""`lwd study multitask`: one generator of policies for many tasks, against one MLP for them all (section 4.1.2 taken further, to MT50)."""

from __future__ import annotations

from typing import Any

from lwd.config import Config, EvalSettings
from lwd.studies.study import Cell, Study, recipe
from lwd.studies.views import by_task, differences, lines, query_cost, scores

EPISODE = 500  # steps
LARGE = (850, 850)  # ten times the weights of 2 x 256


def train(cell: Cell) -> Config:
    """LWD, and MLPs of the policy's size and ten times as large. On fifty tasks all are trained for longer."""
    many = cell.variant == "mt50"
    if cell.method == "lwd":
        return recipe("metaworld-mt50" if many else "metaworld", demonstrations=cell.demonstrations)
    changes: dict[str, Any] = {"cloning": 50_000} if many else {}
    changes |= {"policy": LARGE} if cell.method == "mlp-large" else {}
    return recipe("metaworld-mlp", demonstrations=cell.demonstrations, **changes)


STUDY = Study(
    "One generator of policies for many tasks of Metaworld, against one MLP that is told the task",
    axes={"demonstrations": (0,), "method": ("lwd", "mlp", "mlp-large"), "noise": (0.0,)},
    variants={"cpu": {}, "mt50": {}},
    train=train,
    evaluate=lambda cell: EvalSettings(replan_every=EPISODE, disturb=f"action-noise:{cell.noise:g}"),
    skip=lambda cell: cell.demonstrations > 0 and cell.noise > 0,
    against=("method", "lwd"),
    views=[
        scores("method"),
        differences,
        by_task("method", only="demonstrations == 0 and noise == 0"),
        query_cost("method"),
        lines("noise", "Noise on the actions", "noise", "method", base=0, only="demonstrations == 0"),
        lines("demonstrations", "Data efficiency", "demonstrations", "method", only="demonstrations > 0 and noise == 0"),
    ],
    data="data/metaworld-mt10",
    episodes=16,
    note="LWD is queried once, at the start of an episode, with the task; its policy does not see the task. demonstrations: of each task, "
    "0 is all of them. noise: standard deviation of noise on the executed actions.",
)
