"""`lwd study denoiser`: which network denoises latents best, for how much? (Appendix E, Figure 14)"""

from __future__ import annotations

from typing import Any

from lwd.config import Config, EvalSettings
from lwd.studies.study import SHORT, Cell, Study, recipe, second_stage
from lwd.studies.views import lines, measured, query_cost, scores

BASE = recipe(SHORT, diffusion=100)  # only its autoencoder is used
EVERY = 32


def network(name: str) -> dict[str, Any]:
    """Settings of a denoiser: mlp, mlp-WIDTH, transformer, or unet-CxL, a U-Net over the latent folded to C channels of length L."""
    kind, _, size = name.partition("-")
    if kind == "unet":
        return {"denoiser": kind, "unet_fold": int(size.split("x")[0])}
    return {"denoiser": kind, **({"denoiser_width": int(size)} if size else {})}


def train(cell: Cell) -> Config:
    """Each number of gradient steps is a training of its own: the learning rate ends at zero in each."""
    steps = cell.gradient_steps
    stage = {"steps": steps, "batch": 128, "warmup": min(200, max(1, steps // 10))}
    return second_stage(BASE, diffusion=stage, unet_size="s", transformer_size="s", **network(cell.denoiser))


SIZES = {"M parameters": ("parameters.denoiser", 1e-6, "{:.3g}"), "ms per training step": ("step_ms.diffusion", 1.0, "{:.0f}")}
STUDY = Study(
    "Networks that denoise latents: score over training, size, cost of a query",
    axes={
        "gradient_steps": (1000, 2000, 4000),
        "denoiser": ("mlp", "unet-16x4", "unet-8x8", "unet-4x16", "transformer"),
        "disturb": ("none", "displace:50"),
    },
    more={"denoiser": ("mlp-32", "mlp-64", "mlp-128", "mlp-256", "mlp-512", "mlp-1024", "unet-2x32", "unet-1x64")},
    train=train,
    evaluate=lambda cell: EvalSettings(replan_every=EVERY, disturb=cell.disturb),
    base=BASE,
    views=[
        scores("denoiser"),
        measured(["denoiser"], SIZES, "size", "Times were measured while other jobs ran beside."),
        query_cost("denoiser"),
        lines("figure14", "Score over training (Figure 14)", "gradient_steps", "denoiser", "disturb"),
    ],
    note=f"A new policy every {EVERY} steps. All networks of a training seed share one autoencoder.",
)
