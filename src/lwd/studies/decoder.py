"""`lwd study decoder`: size of the hypernetwork against length of the snippets, on Metaworld (appendix F; Figure 15)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lwd.config import require
from lwd.studies.ablation import BANDS, check_names, score_table
from lwd.studies.base import Cell, Ints, Words
from lwd.studies.kl import spread
from lwd.studies.metaworld import EPISODE, MetaworldStudy, length_name, length_words
from lwd.studies.snippets import RECIPES
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Picture, Table

SIZES = ("xs", "s", "m", "l")


@dataclass
class Decoder(MetaworldStudy):
    """Size of the hypernetwork, for whole episodes and for short snippets: success of decoded policies, and what they reconstruct.

    Stage 1 only: nothing is sampled. A policy is decoded from a random snippet of a demonstration that was held out (in whole: from the
    whole episode), and acts alone for an episode, from the start of that demonstration.
    """

    name: ClassVar[str] = "decoder"

    data: str = "data/metaworld-mt10"
    """Demonstrations, as for `lwd train`: `lwd data collect metaworld --tasks mt10` makes them."""
    episodes: int = 16
    """Held-out demonstrations of each task, at most."""
    preset: Literal["cpu", "debug"] = "cpu"
    """cpu: the first stage of the preset metaworld, a fifth of the demonstrations held out; debug: seconds, to see that things run."""
    sizes: Words = SIZES
    """Of xs, s, m, l (Table 5)."""
    lengths: Ints = (EPISODE, 50)
    """Steps of a snippet; 500 is a whole episode."""

    def grid(self) -> tuple[list[Task], list[Cell]]:
        """Seed by seed."""
        check_names("sizes", self.sizes, SIZES)
        require(len(self.lengths) > 0, "--lengths is empty")
        require(len(set(self.lengths)) == len(self.lengths), f"--lengths names something twice: {', '.join(map(str, self.lengths))}")
        recipe, steps = RECIPES[self.preset]
        tasks: list[Task] = []
        cells: list[Cell] = []
        for seed in range(self.seeds):
            for length in self.lengths:
                for size in self.sizes:
                    words = (*self.data_words(), *length_words(length), *recipe, "--method.decoder", size)
                    training = self.training(f"{size}-length{length}-s{seed}", "metaworld", seed, words, f"{size}, length {length}")
                    test = self.decoding(training, steps)
                    tasks += [training, test]
                    cells.append(Cell({"length": length, "decoder": size}, seed, test))
        return tasks, cells

    def intro(self, result: dict[str, Any]) -> str:
        seeds = len({cell["seed"] for cell in result["cells"]})
        return (
            f"{result['score'].replace('_', ' ')} of decoded policies in episodes of {RECIPES[self.preset][1]} steps from the starts of "
            f"held-out demonstrations, {seeds} training seed{'s' * (seeds > 1)}. Brackets: 95 % intervals over the demonstrations, "
            "resampled within each task of each training seed."
        )

    def tables(self, result: dict[str, Any]) -> list[Table]:
        from lwd.report import Table

        rows = []
        for length, size in dict.fromkeys((entry["length"], entry["decoder"]) for entry in result["pooled"]):
            own = [cell["decoded"] for cell in result["cells"] if (cell["length"], cell["decoder"]) == (length, size)]
            parameters = own[0]["parameters"]
            cells = [f"{parameters['decoder'] / 1e6:.2f}", f"{parameters['generated policy'] / 1e3:.1f}"]
            cells += [spread(own, key, form) for key, form in (("reconstruction_rmse", "{:.3f}"), ("rate_nats", "{:.3g}"))]
            rows.append([f"{length_name(length)}, {size}", *cells])
        caption = (
            "M parameters of the hypernetwork, thousands of weights of a policy. Action error: root mean square of a decoded policy on the "
            "held-out snippet that it was decoded from, raw units, and rate: mean over training seeds (least to most)."
        )
        columns = ["trained on, decoder", "decoder, M", "policy, k", "action error", "rate, nats"]
        order = sorted(result["pooled"], key=lambda entry: SIZES.index(entry["decoder"]))
        shown = {**result, "pooled": order}
        names = [str(name) for name in result["pooled"][0]["scores"]]
        scores = [score_table({**shown, "score": name}, ("length",), "{} steps", "decoder", name.replace("_", " ")) for name in names]
        return [*scores, Table("what the autoencoder keeps", columns, rows, caption)]

    def figures(self, result: dict[str, Any], cells: Sequence[Cell]) -> list[Picture]:
        from lwd.report import Picture
        from lwd.studies.figures import lines_with_bands

        millions = {cell["decoder"]: float(f"{cell['decoded']['parameters']['decoder'] / 1e6:.2g}") for cell in result["cells"]}
        entries = [
            {**entry, "millions": millions[entry["decoder"]], "trained on": length_name(entry["length"]), "panel": "decoded policies"}
            for entry in result["pooled"]
        ]
        path = lines_with_bands(
            entries,
            self.directory / "figure15.png",
            x="millions",
            line="trained on",
            panel="panel",
            score=result["score"],
            xlabel="million parameters of the hypernetwork",
            panel_title="{}",
        )
        return [Picture(path, "Success of decoded policies against size of the hypernetwork (Figure 15)", BANDS)]
