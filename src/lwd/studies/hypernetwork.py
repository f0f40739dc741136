"""`lwd study hypernetwork`: is the hypernetwork needed? LWD against latent diffusion policies (LDP) whose decoder emits actions."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import Any

from lwd.config import Config, EvalSettings, LatentConfig, require
from lwd.studies.study import SHORT, Cell, Study, recipe
from lwd.studies.views import differences, lines, measured, query_cost, scores

LWD: Any = SHORT.method
SHARED = {field.name: getattr(LWD, field.name) for field in fields(LatentConfig)}  # stages too
FEATURES, ACTIONS = 18, 2  # PushT: eight corners of the block and the agent; a target position
PAPER = (256, 256)  # section 4.1.1


def train(cell: Cell) -> Config:
    """LDP shares latent, encoder, beta and diffusion with LWD. Its chunks cannot be longer than in training: a model for each interval."""
    if cell.method == "lwd":
        return SHORT
    decoder = PAPER if cell.method == "ldp-paper" else equal_hidden(cell.replan_every)
    return recipe("pusht-ldp", horizon=cell.replan_every, decoder=decoder, **SHARED)


def parameters(*sizes: int) -> int:
    """Weights and biases of an MLP with these sizes, input and output included."""
    return sum(a * b + b for a, b in pairwise(sizes))


def equal_hidden(horizon: int) -> tuple[int, int]:
    """Two equal hidden layers of an LDP decoder with as many parameters as LWD's hypernetwork, within 5 %; LWDError for too long chunks."""
    from lwd.nn.hypernetwork import SIZES

    target = parameters(LWD.latent, *SIZES[LWD.decoder], parameters(FEATURES, *LWD.policy, ACTIONS))
    counts = {width: parameters(LWD.latent, width, width, horizon * ACTIONS) for width in range(1, 4096)}
    width = min(counts, key=lambda width: abs(counts[width] - target))
    fits = abs(counts[width] - target) <= 0.05 * target
    require(fits, f"no decoder of equal size emits {horizon} actions: leave out replan_every={horizon}")
    return width, width


SIZE = {"decoder, M parameters": ("parameters.decoder", 1e-6, "{:.3f}")}
STUDY = Study(
    "Weights of a policy or actions: LWD against latent diffusion policies",
    axes={"method": ("lwd", "ldp-equal", "ldp-paper"), "replan_every": (16, 32, 128), "disturb": ("none", "displace:50")},
    train=train,
    evaluate=lambda cell: EvalSettings(replan_every=cell.replan_every, disturb=cell.disturb),
    against=("method", "lwd"),
    views=[
        scores("method"),
        differences,
        measured(["method", "replan_every"], SIZE, "size", "Encoder and denoiser come on top, and are the same."),
        query_cost("method", "replan_every"),
        lines("hypernetwork", "Weights or actions", "replan_every", "method", "disturb", xlabel="steps between queries"),
    ],
    note="ldp-equal has a decoder of as many parameters as LWD's hypernetwork, ldp-paper one of two layers of 256. All else is the same.",
)
