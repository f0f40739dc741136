"""`lwd study latent`: is diffusion needed? Latents from the prior, a Gaussian fit, a regression on the state, diffusion, flow matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from lwd.studies.ablation import BANDS, OneAutoencoder, check_names, check_numbers, cost_table, difference_tables, intro, score_table, short
from lwd.studies.base import Cell, Floats, Ints, Words
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Picture, Table

SOURCES = ("prior", "gaussian", "regression", "diffusion", "flow")
DRAWN = ("prior", "gaussian")  # other draws from a trained run; regression and flow are trainings of stage 2


class Recipe(NamedTuple):
    """Preset of the base run, more options for it, and the default grid."""

    preset: str
    words: tuple[str, ...]
    horizons: tuple[int, ...]


RECIPES = {
    "cpu": Recipe("pusht", (), (16, 128)),
    "debug": Recipe("debug", short("autoencoder", "diffusion"), (8, 16)),
}


@dataclass
class Latent(OneAutoencoder):
    """Is diffusion needed? The same decoder with latents from five sources.

    On one autoencoder per training seed: the prior N(0, I), a full-covariance Gaussian fit of the encoded data (both ignore the state), a
    regression of the latent on the state, diffusion, and flow matching. The last three have the same network, data and gradient steps.
    """

    name: ClassVar[str] = "latent"
    against: ClassVar[tuple[str, Any] | None] = ("source", "diffusion")

    preset: Literal["cpu", "debug"] = "cpu"
    """cpu: preset pusht at its full length, 10,000 and 8,000 gradient steps, and 8,000 for each variant of stage 2; debug: seconds, to see
    that things run."""
    sources: Words = SOURCES
    """Of prior, gaussian, regression, diffusion, flow."""
    horizons: Ints = ()
    """Steps between queries; by default 16,128 (cpu), 8,16 (debug)."""
    perturbations: Floats = (0.0, 50.0)
    """The block is displaced by up to so many pixels in a tenth of all steps."""

    def grid(self) -> tuple[list[Task], list[Cell]]:
        """Seed by seed."""
        recipe = RECIPES[self.preset]
        check_names("sources", self.sources, SOURCES)
        horizons = self.horizons or recipe.horizons
        check_numbers(horizons, self.perturbations)
        tasks: list[Task] = []
        cells: list[Cell] = []
        for base in self.bases("base", "lwd", recipe.preset, recipe.words, self.base):
            tasks += [base.task] if base.task.argv else []
            for source in self.sources:
                training, label = base.task, ""
                words: tuple[str, ...] = ()
                if source in ("regression", "flow"):
                    training = self.variant(base, source, ("--method.objective", source), source)
                    tasks.append(training)
                elif source in DRAWN:
                    words, label = ("--latent", source), source
                for horizon in horizons:
                    for perturbation in self.perturbations:
                        task = self.evaluation(training, horizon=horizon, perturbation=perturbation, words=words, label=label)
                        tasks.append(task)
                        cells.append(Cell({"source": source, "horizon": horizon, "perturbation": perturbation}, base.seed, task))
        return tasks, cells

    def intro(self, result: dict[str, Any]) -> str:
        return intro(result) + " All sources of a training seed share encoder and decoder; prior and gaussian do not look at the state."

    def tables(self, result: dict[str, Any]) -> list[Table]:
        score = score_table(result, ("perturbation", "horizon"), "{:g} px, {} steps", "source")
        return [score, *difference_tables(result, ("perturbation", "horizon"), "{:g} px, {} steps", "source"), cost_table(result, "source")]

    def figures(self, result: dict[str, Any], cells: Sequence[Cell]) -> list[Picture]:
        from lwd.report import Picture
        from lwd.studies.figures import lines_with_bands

        path = lines_with_bands(
            result["pooled"],
            self.directory / "latent.png",
            x="horizon",
            line="source",
            panel="perturbation",
            score=result["score"],
            xlabel="action horizon (steps between queries)",
            panel_title="perturbation {:g} px",
        )
        return [Picture(path, "Score by the source of the latent", BANDS)]
