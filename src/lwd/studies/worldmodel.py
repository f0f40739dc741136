"""`lwd study worldmodel`: what does the world model add? Without it, with it, and with longer imagination, against its own error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from lwd.config import require
from lwd.studies.ablation import check_numbers, difference_tables, intro, score_table, short
from lwd.studies.base import Cell, Floats, Ints, Study
from lwd.studies.kl import measure, spread
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Picture, Table

WITHOUT = "without"


class Recipe(NamedTuple):
    """Preset with more options, and the default grid."""

    preset: str
    words: tuple[str, ...]
    imagination: tuple[int, ...]
    horizon: int


RECIPES = {
    "cpu": Recipe("pusht", ("--method.autoencoder.steps", "5000", "--method.diffusion.steps", "4000"), (1, 4, 8), 32),
    "debug": Recipe("debug", (*short("autoencoder", "diffusion"), "--method.rollout-warmup", "5"), (1, 4), 16),
}


@dataclass
class WorldModel(Study):
    """The world model: without, with one step of imagination, and with more, against the world model's own error.

    All arms have the same gradient steps, not the same time: a step with the world model takes longer. Its error is measured on held-out
    episodes, one step ahead and 16 steps on its own predictions, relative to predicting that nothing changes.
    """

    name: ClassVar[str] = "worldmodel"
    against: ClassVar[tuple[str, Any] | None] = ("variant", WITHOUT)

    preset: Literal["cpu", "debug"] = "cpu"
    """cpu: preset pusht with 5,000 and 4,000 gradient steps in place of 10,000 and 8,000; debug: seconds, to see that things run."""
    imagination: Ints = ()
    """Steps that L_RO imagines, beside the arm without a world model; by default 1,4,8 (cpu), 1,4 (debug)."""
    horizon: int = 0
    """Steps of a snippet, and between queries; by default 32 (cpu), 16 (debug)."""
    perturbations: Floats = (0.0, 50.0)
    """The block is displaced by up to so many pixels in a tenth of all steps."""

    def settings(self) -> dict[str, Any]:
        recipe = RECIPES[self.preset]
        chosen = {"horizon": self.horizon or recipe.horizon, "imagination": list(self.imagination or recipe.imagination)}
        return {**super().settings(), **chosen}

    def grid(self) -> tuple[list[Task], list[Cell]]:
        """Seed by seed."""
        recipe = RECIPES[self.preset]
        counts, horizon = self.imagination or recipe.imagination, self.horizon or recipe.horizon
        check_numbers([horizon], self.perturbations)
        require(len(set(counts)) == len(counts), f"--imagination names something twice: {', '.join(map(str, counts))}")
        require(
            min(counts) >= 1 and max(counts) <= horizon, f"--imagination counts steps of a snippet: between 1 and {horizon}, not {counts}"
        )
        arms: dict[str, tuple[str, ...]] = {WITHOUT: ("--method.no-world-model",)}
        arms.update({f"k = {k}": ("--method.world-model", "--method.imagination", str(k)) for k in counts})
        tasks: list[Task] = []
        cells: list[Cell] = []
        for seed in range(self.seeds):
            for variant, own in arms.items():
                name = f"{variant.replace(' = ', '')}-s{seed}"
                training = self.training(name, recipe.preset, seed, (*recipe.words, "--horizon", str(horizon), *own), variant)
                tasks.append(training)
                for perturbation in self.perturbations:
                    task = self.evaluation(training, horizon=horizon, perturbation=perturbation)
                    tasks.append(task)
                    cells.append(Cell({"variant": variant, "perturbation": perturbation}, seed, task))
        return tasks, cells

    def extras(self, result: dict[str, Any]) -> dict[str, Any]:
        return {"links": measure(self, self.grid()[1], "variant")}

    def intro(self, result: dict[str, Any]) -> str:
        return intro(result) + f" A new policy every {result['settings']['horizon']} steps. k: steps of imagination in L_RO (paper: 1)."

    def tables(self, result: dict[str, Any]) -> list[Table]:
        from lwd.report import Table

        rows = []
        for variant in dict.fromkeys(link["variant"] for link in result["links"]):
            own = [link for link in result["links"] if link["variant"] == variant]
            seconds = [c["training_seconds"].get("autoencoder") for c in result["cells"] if c["variant"] == variant]
            minutes = [{"minutes": value / 60} for value in seconds if value is not None]
            cells = [spread(own, key, "{:.2f}") for key in ("one_step", "open_loop")]
            cells += [spread(own, "final_state", "{:.1f}"), spread(own, "rate", "{:.3g}"), spread(minutes, "minutes", "{:.1f}")]
            rows.append([variant, *cells])
        caption = (
            "Mean over training seeds (least to most). Errors of the world model over those of predicting no change; final state "
            "of policies decoded from the encoder's mean, pixels after one horizon. Minutes: with other tasks beside them."
        )
        columns = ["variant", "error, 1 step", "error, 16 steps", "final state", "rate, nats", "minutes of stage 1"]
        scores = score_table(result, ("perturbation",), "{:g} px", "variant")
        return [scores, *difference_tables(result, ("perturbation",), "{:g} px", "variant"), Table("links", columns, rows, caption)]

    def figures(self, result: dict[str, Any], cells: Sequence[Cell]) -> list[Picture]:
        from lwd.report import Picture

        path = figure(result, self.directory / "worldmodel.png")
        caption = "Left: bars are 95 % intervals over episodes. Right: one point per training seed that has a world model."
        return [Picture(path, "Score, and score against the world model's error", caption, wide=True)]


def figure(result: Mapping[str, Any], path: Path) -> Path:
    """Score of each variant, and each training's score against the open-loop error of its world model."""
    from matplotlib.figure import Figure

    from lwd.plots import COLOURS, _style, _write

    score, entries = result["score"], result["pooled"]
    variants = list(dict.fromkeys(entry["variant"] for entry in entries))
    canvas = Figure(figsize=(8.6, 3.4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    for number, perturbation in enumerate(dict.fromkeys(entry["perturbation"] for entry in entries)):
        colour = COLOURS[number % len(COLOURS)]
        for entry in entries:
            if entry["perturbation"] != perturbation:
                continue
            own, at = entry["scores"][score], variants.index(entry["variant"]) + 0.12 * number
            if own["low"] is not None:
                left.plot([at, at], [own["low"], own["high"]], color=colour, lw=1.4, alpha=0.6)
            left.plot(at, own["mean"], "o", color=colour, ms=5)
            for link in result["links"]:
                mean = own["per_seed"].get(str(link["seed"]))
                if link["variant"] == entry["variant"] and link["open_loop"] is not None and mean is not None:
                    right.plot(link["open_loop"], mean, "o", color=colour, ms=5)
                    right.annotate(link["variant"], (link["open_loop"], mean), (4, 3), textcoords="offset points", fontsize=6)
        left.plot([], [], "o", color=colour, label=f"{perturbation:g} px")
    _style(left, "by variant", "", score.replace("_", " "))
    left.set_xticks(range(len(variants)), variants)
    left.set_xlim(-0.4, len(variants) - 0.4)
    left.set_ylim(0, 1.05)
    left.legend(frameon=False, fontsize=8, title="perturbation", title_fontsize=8)
    _style(right, "against the world model", "error after 16 imagined steps / no change", "")
    right.set_ylim(0, 1.05)
    return _write(canvas, path)
