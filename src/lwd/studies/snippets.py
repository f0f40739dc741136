"""`lwd study snippets`: an autoencoder of whole episodes against one of short snippets, on Metaworld (appendix C; Figures 10 and 11)."""

from __future__ import annotations

from typing import Any

from lwd.config import Config, EvalSettings, require
from lwd.studies.study import Study, recipe
from lwd.studies.views import by_task, differences, latent_map, measured, scores, separability

EPISODE = 500  # steps
ENCODED = 100  # steps of a snippet that the encoder sees at most
KEPT = {"action error": ("decoded.reconstruction_rmse", 1.0, "{:.3f}"), "rate, nats": ("decoded.rate_nats", 1.0, "{:.3g}")}
CAPTION = (
    "Mean over trainings (least to most). Action error: root mean square of a decoded policy on the held-out snippet that it was decoded "
    "from, raw units."
)
NOTE = (
    "Stage 1 only: nothing is sampled. A policy is decoded from a random snippet of a demonstration that was held out (in whole: from the "
    "whole episode), and acts alone for an episode, from the start of that demonstration."
)


def stage_one(length: int, demonstrations: int, **changes: Any) -> Config:
    """The first stage of the preset metaworld, for snippets of so many steps; whole episodes where it is that of one. As in the paper,
    policies see no phase, which ends with a snippet, and nothing is shared; it is short, so that all sizes can be trained three times."""
    require(2 <= length <= EPISODE, f"--axes length: a snippet has 2 to {EPISODE} steps here, not {length}")
    tiny: Any = {"steps": 1, "batch": 1}  # nothing is sampled: the second stage is not needed
    starts = "first" if length == EPISODE else "every"
    own: Any = {"horizon": length, "starts": starts, "demonstrations": demonstrations, "holdout": 0.2}
    own |= {"phase": False, "shared": 0.0, "autoencoder": 4_000}
    return recipe("metaworld", **own, stride=max(1, length // ENCODED), diffusion=tiny, **changes)


STUDY = Study(
    "Autoencoders of whole episodes and of short snippets: what decoded policies are worth, and where tasks lie in the latent space",
    axes={"length": (EPISODE, 50), "demonstrations": (0,)},
    train=lambda cell: stage_one(cell.length, cell.demonstrations),
    evaluate=lambda cell: EvalSettings(max_steps=EPISODE),
    decode=True,
    against=("length", EPISODE),
    measure="separability",
    views=[
        scores("length", every=True),
        differences,
        measured(["length"], KEPT, "what the autoencoder keeps", CAPTION),
        by_task("length"),
        separability("length", "tasks"),
        latent_map("figure10", "Components 1 and 2 of the latents (Figure 10)", "length", "label"),
        latent_map("figure11", "Components 3 and 4 of the latents (Figure 11)", "length", "label", (2, 3)),
    ],
    data="data/metaworld-mt10",
    episodes=16,
    note=NOTE,
)
