"""`lwd study operators`: who made a demonstration, seen in the latents, and what leaving some out does (section 4.2, Figures 7 and 16)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lwd.config import Config, EvalSettings
from lwd.report.tables import Table
from lwd.studies.study import Cell, Study, recipe
from lwd.studies.views import differences, interval, latent_map, scores, separability

if TYPE_CHECKING:
    from lwd.studies.results import Results

GOOD = ("proficiency=better", "proficiency=okay")
STEERED = {"steered-better": ("proficiency=better",), "steered-worse": ("proficiency=worse",)}  # how the model of all is sampled


def train(cell: Cell) -> Config:
    """All operators, all but the worse ones, or all with a latent for each whole demonstration, as in the paper."""
    if cell.arm == "whole":
        return recipe(cell.variant, starts="first", horizon=0, span=1, bc_steps=64)
    return recipe(cell.variant, only=GOOD if cell.arm == "filtered" else ())


def evaluate(cell: Cell) -> EvalSettings:
    """A policy for a whole demonstration acts for the whole episode."""
    return EvalSettings(replan_every=0 if cell.arm == "whole" else 16, tag=STEERED.get(cell.arm, ()))


def shorter(results: Results) -> Iterator[Table]:
    """What each arm changes in success and in the length of an episode, against all operators, in pairs."""
    from lwd.studies.results import difference

    base, rows = results.groups.get(("all",)), []
    for (arm,), own in results.groups.items() if base is not None else ():
        if arm != "all":
            pairs = {score: difference(own, base, score) for score in (results.score, "steps")}
            rows.append([arm, *(interval(paired, 2 if score != "steps" else 1) if paired else "–" for score, paired in pairs.items())])
    note = "Steps: of an episode, which ends at success or is cut off. Pairs share training seed and start. Brackets: 95 % intervals."
    yield Table("Arm minus all operators", ["arm", results.score, "steps"], rows, note)


STUDY = Study(
    "Operators of three proficiencies: are they told apart without labels, and does it help to leave the worse ones out?",
    axes={"arm": ("all", "filtered", *STEERED, "whole")},
    variants={"lift": {}, "can": {}},
    train=train,
    evaluate=evaluate,
    against=("arm", "all"),
    measure="separability",
    views=[
        scores("arm", every=True),
        shorter,
        differences,
        separability("arm", "operators"),
        latent_map("figure16", "Latents by operator, t-SNE (Figures 7, 16)", "arm", "label", only=("all", "whole"), tsne=True),
    ],
    data={"lift": "data/lift", "can": "data/can"},
    note="filtered: trained without the worse operators. steered: trained on all, sampled near the latents of some. whole: a latent and a "
    "policy for a whole demonstration; the others have snippets, and a new policy every 16 steps.",
)
