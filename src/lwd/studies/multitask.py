"""`lwd study multitask`: one generator of policies for many tasks, against one MLP for them all (section 4.1.2 taken further, to MT50)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lwd.config import Config, EvalSettings
from lwd.studies.study import Cell, Drawing, Study, recipe
from lwd.studies.views import by_task, cost_drawing, differences, lines, query_cost, scores

if TYPE_CHECKING:
    from lwd.studies.results import Results

EPISODE = 500  # steps
WIDTHS = {"mlp": 256, "mlp-450": 450, "mlp-large": 850}  # 450: as many FLOPs in a step as LWD; 850: ten times the weights of 2 x 256
STEPS = {"lwd-2-steps": 2}  # denoising steps, where not those of training


def train(cell: Cell) -> Config:
    """LWD, and MLPs of the policy's size, of LWD's FLOPs, and ten times as large. On fifty tasks all are trained for longer."""
    many = cell.variant == "mt50"
    if cell.method not in WIDTHS:
        return recipe("metaworld-mt50" if many else "metaworld", demonstrations=cell.demonstrations)
    changes: dict[str, Any] = {"cloning": 50_000} if many else {}
    return recipe("metaworld-mlp", demonstrations=cell.demonstrations, policy=(WIDTHS[cell.method],) * 2, **changes)


def evaluate(cell: Cell) -> EvalSettings:
    """One query an episode."""
    return EvalSettings(replan_every=EPISODE, disturb=f"action-noise:{cell.noise:g}", sampler_steps=STEPS.get(cell.method, 0))


def compute(results: Results) -> Iterator[Drawing]:
    """Success against FLOPs per environment step, with all demonstrations."""
    points = results.points().query("demonstrations == 0")
    if len(points):
        kinds = ["MLP" if method in WIDTHS else "LWD" for method in points["method"]]
        points = points.assign(line=kinds, join=kinds, mark=points["method"])
        title, note = "Success against compute", "One query an episode."
        yield cost_drawing(results, points, "compute", title, note, "step_flops", "FLOPs per environment step")


STUDY = Study(
    "One generator of policies for many tasks of Metaworld, against one MLP that is told the task",
    axes={"demonstrations": (0,), "method": ("lwd", "mlp", "mlp-large"), "noise": (0.0,)},
    variants={"cpu": {}, "mt50": {"method": ("lwd", *STEPS, *WIDTHS)}},
    more={"method": (*STEPS, "mlp-450")},
    train=train,
    evaluate=evaluate,
    skip=lambda cell: cell.demonstrations > 0 and cell.noise > 0,
    against=("method", "lwd"),
    views=[
        scores("method"),
        differences,
        by_task("method", only="demonstrations == 0 and noise == 0"),
        query_cost("method"),
        compute,
        lines("noise", "Noise on the actions", "noise", "method", base=0, only="demonstrations == 0"),
        lines("demonstrations", "Data efficiency", "demonstrations", "method", only="demonstrations > 0 and noise == 0"),
    ],
    data={"cpu": "data/metaworld-mt10", "mt50": "data/metaworld-mt50"},
    episodes=16,
    note="LWD is queried once, at the start of an episode, with the task; its policy does not see the task. demonstrations: of each task, "
    "0 is all of them. noise: standard deviation of noise on the executed actions. mlp: 2 x 256, as the policies; mlp-450: of LWD's FLOPs "
    "in a step; mlp-large: 2 x 850.",
)
