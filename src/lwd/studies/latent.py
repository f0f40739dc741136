"""`lwd study latent`: is diffusion needed? Latents from the prior, a Gaussian fit, a regression on the state, diffusion, flow matching."""

from lwd.config import EvalSettings
from lwd.studies.study import SHORT, Study, second_stage
from lwd.studies.views import differences, lines, query_cost, scores

DRAWN = ("prior", "gaussian")  # other draws of latents from the base run, which ignore the state
FIGURE = lines("latent", "Score by the source of the latent", "replan_every", "source", "disturb", xlabel="steps between queries")

STUDY = Study(
    "Is diffusion needed? The same decoder with latents from five sources",
    axes={"source": (*DRAWN, "regression", "diffusion", "flow"), "replan_every": (16, 128), "disturb": ("none", "displace:50")},
    train=lambda cell: SHORT if cell.source in (*DRAWN, "diffusion") else second_stage(SHORT, objective=cell.source),
    evaluate=lambda cell: EvalSettings(
        replan_every=cell.replan_every, disturb=cell.disturb, latent=cell.source if cell.source in DRAWN else "model"
    ),
    base=SHORT,
    against=("source", "diffusion"),
    views=[scores("source"), differences, query_cost("source"), FIGURE],
    note="All sources of a training seed share encoder and decoder. prior and gaussian do not look at the state.",
)
