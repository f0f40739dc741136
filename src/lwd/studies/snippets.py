"""`lwd study snippets`: an autoencoder of whole episodes against one of short snippets, on Metaworld (appendix C; Figures 10 and 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from lwd.config import require
from lwd.studies.ablation import difference_tables, short
from lwd.studies.base import Cell
from lwd.studies.files import find
from lwd.studies.kl import measure, spread
from lwd.studies.metaworld import EPISODE, STAGE_ONE, MetaworldStudy, length_name, length_words, task_table
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Picture, Table

SMALL = ("--method.latent", "8", "--method.encoder", "32", "--method.policy", "16", "16", "--method.bc-steps", "16")
RECIPES: dict[str, tuple[tuple[str, ...], int]] = {  # more options of the preset metaworld, and steps of a rollout
    "cpu": ((*STAGE_ONE, "--holdout", "0.2"), EPISODE),
    "debug": ((*short("autoencoder"), *STAGE_ONE, *SMALL, "--holdout", "0.34"), 50),
}


@dataclass
class Snippets(MetaworldStudy):
    """Autoencoders of whole episodes and of short snippets: where tasks lie in the latent space, and what decoded policies are worth.

    Stage 1 only: nothing is sampled. Both see the same demonstrations for the same number of gradient steps. A policy is decoded from a
    random snippet of a demonstration that was held out (in whole: from the whole episode), and acts alone for an episode, from the start
    of that demonstration.
    """

    name: ClassVar[str] = "snippets"
    against: ClassVar[tuple[str, Any] | None] = ("length", EPISODE)

    data: str = "data/metaworld-mt10"
    """Demonstrations, as for `lwd train`: `lwd data collect metaworld --tasks mt10` makes them."""
    episodes: int = 16
    """Held-out demonstrations of each task, at most."""
    preset: Literal["cpu", "debug"] = "cpu"
    """cpu: the first stage of the preset metaworld, a fifth of the demonstrations held out; debug: seconds, to see that things run."""
    length: int = 50
    """Steps of a short snippet (paper: 50)."""

    def grid(self) -> tuple[list[Task], list[Cell]]:
        """Seed by seed."""
        require(self.length < EPISODE, f"--length is that of a short snippet, below {EPISODE} steps, not {self.length}")
        recipe, steps = RECIPES[self.preset]
        tasks: list[Task] = []
        cells: list[Cell] = []
        for seed in range(self.seeds):
            for length in (EPISODE, self.length):
                words = (*self.data_words(), *length_words(length), *recipe)
                training = self.training(f"length{length}-s{seed}", "metaworld", seed, words, f"length {length}")
                test = self.decoding(training, steps)
                tasks += [training, test]
                cells.append(Cell({"length": length}, seed, test))
        return tasks, cells

    def extras(self, result: dict[str, Any]) -> dict[str, Any]:
        from lwd.studies.separability import pooled_separability, separability

        rows = measure(self, self.grid()[1], "length", cast(Any, separability))
        return {"separability": pooled_separability(rows, "length")}

    def intro(self, result: dict[str, Any]) -> str:
        seeds = len({cell["seed"] for cell in result["cells"]})
        count = sum(len(cell["records"]) for cell in result["cells"] if cell["length"] == EPISODE)
        return (
            f"{result['score'].replace('_', ' ')} of decoded policies in episodes of {RECIPES[self.preset][1]} steps from the starts of "
            f"held-out demonstrations; {seeds} training seed{'s' * (seeds > 1)}, {count} episodes in all for each length. Brackets: 95 % "
            "intervals over the demonstrations, resampled within each task of each training seed."
        )

    def tables(self, result: dict[str, Any]) -> list[Table]:
        entries = result["pooled"]
        names = [length_name(entry["length"]) for entry in entries]
        named = [{**d, "minuend": length_name(EPISODE), "length": length_name(d["length"])} for d in result["differences"]]
        tables = [
            success_table(result, names, "length", "decoded policies"),
            *difference_tables({**result, "differences": named}, (), result["score"], "length"),
            separability_table(result),
        ]
        if any("tasks" in entry for entry in entries):
            tables.insert(1, task_table(entries, names, result["score"], "tasks"))
        return tables

    def figures(self, result: dict[str, Any], cells: Sequence[Cell]) -> list[Picture]:
        from lwd.report import Picture
        from lwd.studies.figures import component_maps
        from lwd.studies.separability import encoded

        first = {cell.labels["length"]: cell.task.run for cell in cells if cell.seed == min(c.seed for c in cells)}
        codes = {length_name(length): encoded(run, self.device)[:2] for length, run in sorted(first.items(), reverse=True)}
        note = "Posterior means of training demonstrations, up to ten snippets of each. One training seed; every panel has its own scale."
        return [
            Picture(
                component_maps(codes, self.directory / f"figure{number}.png", pair),
                f"Components {pair[0] + 1} and {pair[1] + 1} of the latents (Figure {number})",
                note,
                wide=True,
            )
            for number, pair in ((10, (0, 1)), (11, (2, 3)))
        ]


def success_table(result: Mapping[str, Any], names: Sequence[str], label: str, title: str) -> Table:
    """A row per pooled entry: scores, and what the autoencoder keeps."""
    from lwd.report import Table
    from lwd.statistics import Interval

    entries = result["pooled"]
    scores, rows = list(entries[0]["scores"]), []
    for name, entry in zip(names, entries, strict=True):
        kept = [cell["decoded"] for cell in result["cells"] if cell[label] == entry[label]]
        cells = [str(Interval.from_dict(entry["scores"][score])) for score in scores]
        rows.append([name, *cells, spread(kept, "reconstruction_rmse", "{:.3f}"), spread(kept, "rate_nats", "{:.3g}")])
    columns = ["trained on", *(score.replace("_", " ") for score in scores), "action error", "rate, nats"]
    caption = (
        "Action error: root mean square of a decoded policy on the held-out snippet that it was decoded from, raw units, and rate: mean "
        "over training seeds (least to most)."
    )
    return Table(title, columns, rows, caption)


def separability_table(result: Mapping[str, Any]) -> Table:
    """Silhouette and accuracy of neighbours, by length and part of the data."""
    from lwd.report import Table
    from lwd.statistics import Interval

    found, rows = result["separability"], []
    for length, part in dict.fromkeys((row["length"], row["part"]) for row in found):
        own = [find(found, length=length, part=part, measure=name) for name in ("silhouette", "neighbours")]
        cells = ["–" if row is None else Interval.from_dict(dict(row)).format(3) for row in own]
        rows.append([f"{length_name(length)}, {part.replace('_', ' ')}", *cells])
    caption = (
        "Silhouette of tasks, from -1 to 1, and how often the five nearest latents of other demonstrations tell the task (cross-validation "
        "that keeps the snippets of a demonstration together). Brackets: 95 % intervals over demonstrations."
    )
    return Table("how well latents tell tasks apart", ["latents", "silhouette", "neighbours"], rows, caption)
