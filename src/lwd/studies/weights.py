"""`lwd study weights`: which decoder of weights is best, a hypernetwork, or low-rank changes to a policy that all share?"""

from __future__ import annotations

from functools import cache
from typing import Any

from lwd.config import Config, EvalSettings
from lwd.presets import PRESETS
from lwd.studies.study import SHORT, Cell, Study, recipe
from lwd.studies.views import differences, lines, measured, query_cost, scores

KINDS = ("full", "low-rank")
BASES = {"cpu": SHORT, "mt10": PRESETS["metaworld"][1], "mt50": PRESETS["metaworld-mt50"][1]}
INPUTS = {"cpu": (18, 2), "mt10": (39, 4), "mt50": (39, 4)}  # numbers that a policy sees (PushT: with its phase one more), and emits
EPISODE = 500  # steps of Metaworld, where one policy acts for a whole episode


def train(cell: Cell) -> Config:
    """The same recipe with another decoder; with equal parameters, its policies are as large as the parameters of the full one allow."""
    config = recipe(BASES[cell.variant], hypernetwork=cell.decoder)
    if cell.equal == "policy":
        return config
    width = equal_width(cell.variant, cell.decoder) if cell.equal == "parameters" else int(cell.equal.removeprefix("width-"))
    return recipe(config, policy=(width, width))


@cache
def equal_width(variant: str, kind: str) -> int:
    """Width of the two hidden layers of a policy with which a decoder of that kind has as many parameters as the full one."""
    import torch

    from lwd.nn.hypernetwork import SIZES, make_decoder
    from lwd.nn.policy import PolicyShape

    method: Any = BASES[variant].method
    seen, emitted = INPUTS[variant]

    def count(own: str, *hidden: int) -> int:
        with torch.device("meta"):
            made = make_decoder(
                own, method.latent + (method.span > 1), PolicyShape([seen + method.phase, *hidden, emitted]), SIZES[method.decoder]
            )
        return sum(p.numel() for p in made.parameters())

    target, low, high = count("full", *method.policy), 1, 8192
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(kind, middle, middle) <= target else (low, middle)
    return low


SIZE = {
    "decoder, M parameters": ("parameters.decoder", 1e-6, "{:.3f}"),
    "policy, k weights": ("parameters.generated policy", 1e-3, "{:.1f}"),
    "ms per training step": ("step_ms.autoencoder", 1.0, "{:.0f}"),
}
STUDY = Study(
    "Decoders of weights: a hypernetwork, or low-rank changes to one policy that is shared",
    axes={"equal": ("policy", "parameters"), "decoder": KINDS, "replan_every": (16, 128), "disturb": ("none", "displace:50")},
    variants={
        "cpu": {},
        "mt10": {"equal": ("policy", "width-512", "width-850"), "replan_every": (EPISODE,), "disturb": ("none",)},
        "mt50": {"equal": ("policy", "width-512", "width-850"), "replan_every": (EPISODE,), "disturb": ("none",)},
    },
    train=train,
    evaluate=lambda cell: EvalSettings(replan_every=cell.replan_every, disturb=cell.disturb),
    skip=lambda cell: cell.equal != "policy" and cell.decoder == "full",
    against=("decoder", "full"),
    views=[
        scores("decoder"),
        differences,
        measured(["equal", "decoder"], SIZE, "size", "Encoder and denoiser come on top, and are the same."),
        query_cost("equal", "decoder"),
        lines(
            "weights", "Decoders of weights", "replan_every", "decoder", "disturb", only="equal == 'policy'", xlabel="steps between queries"
        ),
    ],
    data={"cpu": "embedded", "mt10": "data/metaworld-mt10", "mt50": "data/metaworld-mt50"},
    episodes=0,  # as many as `lwd eval` runs
    note="equal=policy: all decode policies of one size. equal=parameters: policies as large as the parameters of the full decoder allow. "
    "width-850: policies of two layers of 850, which have ten times the weights of two of 256.",
)
