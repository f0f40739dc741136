"""`lwd study worldmodel`: what does a world model add, and where: in training (L_RO), at query time, or in imagined episodes (Figure 3)?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lwd.config import Config, EvalSettings
from lwd.presets import DIFFUSION, IMPROVEMENT, WORLD
from lwd.studies.study import BASE as SAME
from lwd.studies.study import SHORT, Cell, Study, recipe
from lwd.studies.views import differences, lines, measured, query_cost, scores

CANDIDATES, MONITOR = 16, 0.15  # of imagination at query time
IMAGINING: dict[str, Any] = {"imagine": True, "world": WORLD}
BASES: dict[str, Config] = {  # short, so that all arms can be trained three times on two cores
    "lwd": recipe(SHORT, **IMAGINING),
    "dp": recipe("pusht-dp", diffusion=DIFFUSION.steps, **IMAGINING),
    "mlp": recipe("pusht-mlp", **IMAGINING),
}
HELPERS = {
    "lwd": ("", "rollout1", "rollout4", "rollout8", "continued", "improved", "imagine", "improved-imagine"),
    "dp": ("", "imagine"),
    "mlp": ("", "continued", "improved"),
}
MINUTES = {f"{stage}, min": (f"seconds.{stage}", 1 / 60, "{:.1f}") for stage in ("world", "autoencoder", "diffusion", "improvement")}


def train(cell: Cell) -> Config:
    """The method, and what helps it."""
    return helped(BASES[cell.method.partition("-")[0]], cell.method)


def helped(base: Config, name: str) -> Config:
    """A base with a world model as `name` says: in L_RO (`rollout4`), in imagined episodes (`improved`), or as it is. `continued` has the
    same gradient steps as `improved`, but none through imagination."""
    if "rollout" in name:
        return recipe(base, imagine=False, world_model=True, rollout_steps=int(name.partition("rollout")[2]))
    if "improved" in name or "continued" in name:
        weight = IMPROVEMENT.weight if "improved" in name else 0.0
        return recipe(base, improve=True, improvement=replace(IMPROVEMENT, weight=weight), stages_from=SAME)
    return base


def asked(name: str) -> dict[str, Any]:
    """Settings of an evaluation that imagines at query time, and asks early when the world departs from the prediction."""
    return {"imagine": CANDIDATES, "monitor": MONITOR} if "imagine" in name else {}


STUDY = Study(
    "The world model: without it, in L_RO, at query time, and in imagined episodes",
    axes={
        "method": tuple("-".join(filter(None, (method, helper))) for method, helpers in HELPERS.items() for helper in helpers),
        "replan_every": (16, 32),
        "disturb": ("none", "displace:25", "displace:50"),
    },
    train=train,
    evaluate=lambda cell: EvalSettings(replan_every=cell.replan_every, disturb=cell.disturb, **asked(cell.method)),
    skip=lambda cell: cell.method.startswith("dp") and cell.replan_every > BASES["dp"].horizon,
    against=("method", "lwd"),
    views=[
        scores("method"),
        differences,
        query_cost("method"),
        measured(["method"], MINUTES, "minutes of training", "Mean over trainings (least to most), with other jobs beside them."),
        lines("worldmodel", "Score against the interval", "replan_every", "method", "disturb", xlabel="steps between queries"),
    ],
    note=f"LWD: 5,000 and 4,000 steps. rolloutN: L_RO imagines N steps (paper: 1). continued: {IMPROVEMENT.steps:,} more steps on the "
    f"demonstrations alone. imagine: the best of {CANDIDATES} by imagined progress, and a monitor at {MONITOR:g}.",
)
