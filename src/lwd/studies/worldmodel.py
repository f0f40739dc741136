"""`lwd study worldmodel`: what does the world model add? Without it, with it, and with longer imagination, against its own error."""

from typing import Any

from lwd.config import EvalSettings
from lwd.studies.study import Study, recipe
from lwd.studies.views import differences, lines, measured, scores

HORIZON = 32
LINKS = {
    "error, 1 step": ("links.one_step", 1.0, "{:.2f}"),
    "error, 16 steps": ("links.open_loop", 1.0, "{:.2f}"),
    "final state": ("links.final_state", 1.0, "{:.1f}"),
    "rate, nats": ("links.rate", 1.0, "{:.3g}"),
    "minutes of stage 1": ("seconds.autoencoder", 1 / 60, "{:.1f}"),
}
CAPTION = (
    "Mean over trainings (least to most). Errors of the world model over those of predicting no change; final state of policies decoded "
    "from the encoder's mean, pixels after one horizon. Minutes: with other jobs beside them."
)
STEPS: dict[str, Any] = {"x": "imagination", "base": 0, "xlabel": "steps of imagination (0: no world model)"}
ERROR: dict[str, Any] = {"value": "links.open_loop", "ylabel": "error after 16 steps / no change"}

STUDY = Study(
    "The world model: without it, with one step of imagination, and with more",
    axes={"imagination": (0, 1, 4, 8), "disturb": ("none", "displace:50")},
    train=lambda cell: recipe(
        "pusht", autoencoder=5000, diffusion=4000, horizon=HORIZON, world_model=cell.imagination > 0, imagination=max(1, cell.imagination)
    ),
    evaluate=lambda cell: EvalSettings(replan_every=HORIZON, disturb=cell.disturb),
    against=("imagination", 0),
    measure="links",
    views=[
        scores("imagination"),
        differences,
        measured(["imagination"], LINKS, "links of the chain", CAPTION),
        lines("worldmodel", "Score by steps of imagination", line="disturb", **STEPS),
        lines("worldmodel-error", "Error of the world model by steps of imagination", **STEPS, **ERROR),
    ],
    note=f"A new policy every {HORIZON} steps. imagination: steps that L_RO imagines (paper: 1); 0 has no world model.",
)
