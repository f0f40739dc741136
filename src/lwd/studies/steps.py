"""`lwd study steps`: how few denoising steps will do? Samplers for LWD and Diffusion Policy, and flow matching."""

from lwd.config import Config, EvalSettings
from lwd.presets import DIFFUSION
from lwd.studies.study import SHORT, Cell, Study, recipe, second_stage
from lwd.studies.views import lines, query_cost, scores

SAMPLERS = ("ddim", "ddpm", "euler")
EVERY = 16


def train(cell: Cell) -> Config:
    """One model per method, and one more that is trained with flow matching, for the sampler euler (LWD's on the same autoencoder)."""
    flow = {"objective": "flow"} if cell.sampler == "euler" else {}
    if cell.method == "dp":
        return recipe("pusht-dp", horizon=EVERY, diffusion=DIFFUSION.steps, **flow)
    return second_stage(SHORT, **flow) if flow else SHORT


STUDY = Study(
    "Fewer denoising steps: samplers and flow matching",
    axes={"method": ("lwd", "dp"), "sampler": SAMPLERS, "sampler_steps": (1, 2, 4, 8, 16), "disturb": ("none", "displace:50")},
    train=train,
    evaluate=lambda cell: EvalSettings(replan_every=EVERY, disturb=cell.disturb, sampler=cell.sampler, sampler_steps=cell.sampler_steps),
    base=SHORT,
    views=[
        scores("sampler"),
        query_cost("method", "sampler", "sampler_steps"),
        lines("steps-lwd", "LWD with fewer denoising steps", "sampler_steps", "sampler", "disturb", only="method == 'lwd'"),
        lines("steps-dp", "DP with fewer denoising steps", "sampler_steps", "sampler", "disturb", only="method == 'dp'"),
    ],
    note=f"A new policy or chunk every {EVERY} steps. euler: variants that are trained with flow matching.",
)
