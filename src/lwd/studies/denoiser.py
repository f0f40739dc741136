"""`lwd study denoiser`: which network denoises latents best, for how much? (Appendix E, Figure 14)"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from lwd.config import LatentConfig, require
from lwd.presets import PRESETS
from lwd.studies.ablation import BANDS, Base, OneAutoencoder, check_names, check_numbers, intro, query_flops, score_table, short
from lwd.studies.base import Cell, Floats, Ints, Words
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Picture, Table


class Recipe(NamedTuple):
    """Preset of the base run, options of it and of every variant, and the default grid."""

    preset: str
    words: tuple[str, ...]
    variant: tuple[str, ...]
    denoisers: tuple[str, ...]
    steps: tuple[int, ...]
    horizon: int


def _sizes(size: str) -> tuple[str, ...]:
    return ("--method.unet-size", size, "--method.transformer-size", size)


RECIPES = {
    "cpu": Recipe(
        "pusht",
        ("--method.autoencoder.steps", "5000", "--method.diffusion.steps", "100"),
        ("--method.diffusion.batch", "128", *_sizes("s")),
        ("mlp", "unet-16x4", "unet-8x8", "unet-4x16", "transformer"),
        (1000, 2000, 4000),
        32,
    ),
    "debug": Recipe(
        "debug",
        short("autoencoder", "diffusion"),
        ("--method.diffusion.batch", "32", *_sizes("xs")),
        ("mlp", "unet-4x4", "transformer"),
        (10, 20),
        16,
    ),
}


@dataclass
class Denoiser(OneAutoencoder):
    """Architectures of the latent diffusion model: success over training, and the cost of a query (Figure 14).

    One autoencoder per training seed; on it, each network is trained with each number of gradient steps, as runs of their own: the learning
    rate ends at zero in each.
    """

    name: ClassVar[str] = "denoiser"

    preset: Literal["cpu", "debug"] = "cpu"
    """cpu: 5,000 gradient steps of the autoencoder (the preset pusht has 10,000), 128 snippets per step of the denoisers (256), U-Net and
    transformer of size s (the paper: m); debug: seconds, to see that things run."""
    denoisers: Words = ()
    """Of mlp (residual, as in the preset), mlp-W (the same, W wide), transformer, and unet-CxL: a U-Net over the latent folded to C
    channels of length L. By default mlp,unet-16x4,unet-8x8,unet-4x16,transformer (cpu), mlp,unet-4x4,transformer (debug)."""
    steps: Ints = ()
    """Gradient steps of the denoisers; by default 1000,2000,4000 (cpu), 10,20 (debug)."""
    horizon: int = 0
    """Steps between queries; by default 32 (cpu), 16 (debug)."""
    perturbations: Floats = (0.0, 50.0)
    """The block is displaced by up to so many pixels in a tenth of all steps."""

    @property
    def interval(self) -> int:
        """Steps between queries."""
        return self.horizon or RECIPES[self.preset].horizon

    def settings(self) -> dict[str, Any]:
        recipe = RECIPES[self.preset]
        chosen = {
            "horizon": self.interval,
            "denoisers": list(self.denoisers or recipe.denoisers),
            "steps": list(self.steps or recipe.steps),
        }
        return {**super().settings(), **chosen}

    def grid(self) -> tuple[list[Task], list[Cell]]:
        """Seed by seed, short trainings first."""
        recipe = RECIPES[self.preset]
        names, steps = self.denoisers or recipe.denoisers, self.steps or recipe.steps
        unknown = [name for name in names if not re.fullmatch(r"mlp(-[1-9]\d*)?|transformer|unet-\d+x\d+", name)]
        require(not unknown, f"--denoisers: there is no {', '.join(unknown)}; choose from mlp, mlp-W, transformer, unet-CxL")
        check_names("denoisers", names, names)
        check_numbers([self.interval], self.perturbations)
        require(len(set(steps)) == len(steps) and min(steps) >= 1, f"--steps are different numbers of at least 1, not {steps}")
        tasks: list[Task] = []
        cells: list[Cell] = []
        for base in self.bases("base", "lwd", recipe.preset, recipe.words, self.base):
            tasks += [base.task] if base.task.argv else []
            for name in names:
                check_fold(name, base)
            for number in sorted(steps):
                for name in names:
                    length = ("--method.diffusion.steps", str(number), "--method.diffusion.warmup", str(min(200, max(1, number // 10))))
                    words = (*recipe.variant, *length, *network(name))
                    training = self.variant(base, f"{name}-{number}", words, name)
                    tasks.append(training)
                    for perturbation in self.perturbations:
                        task = self.evaluation(training, horizon=self.interval, perturbation=perturbation)
                        tasks.append(task)
                        cells.append(Cell({"denoiser": name, "steps": number, "perturbation": perturbation}, base.seed, task))
        return tasks, cells

    def extras(self, result: dict[str, Any]) -> dict[str, Any]:
        _, cells = self.grid()
        runs = {cell.labels["denoiser"]: cell.task.run for cell in reversed(cells) if cell.task.finished() is not None}
        return {"parameters": {name: parameters(run) for name, run in reversed(runs.items())}}

    def intro(self, result: dict[str, Any]) -> str:
        return intro(result) + f" A new policy every {self.interval} steps. All networks of a training seed share one autoencoder."

    def tables(self, result: dict[str, Any]) -> list[Table]:
        from lwd.report import Table

        rows = []
        for name in dict.fromkeys(entry["denoiser"] for entry in result["pooled"]):
            own = [entry for entry in result["pooled"] if entry["denoiser"] == name]
            longest = max(own, key=lambda entry: entry["steps"])
            seconds = [
                cell["training_seconds"]["diffusion"] / cell["steps"]
                for cell in result["cells"]
                if cell["denoiser"] == name and "diffusion" in cell["training_seconds"]
            ]
            count = result["parameters"].get(name)
            rows.append(
                [
                    name,
                    "–" if count is None else f"{count / 1e6:.2f}",
                    f"{query_flops(longest, result) / 1e6:.3g}",
                    f"{longest['ms_per_query']:.3g}",
                    f"{1e3 * sum(seconds) / len(seconds):.0f}" if seconds else "–",
                ]
            )
        caption = "A query: a batch of one, medians. Times were measured while other tasks ran beside them."
        columns = ["denoiser", "M parameters", "MFLOP per query", "ms per query", "ms per training step"]
        scores = score_table(result, ("perturbation", "steps"), "{:g} px, {} gradient steps", "denoiser")
        return [scores, Table("cost", columns, rows, caption)]

    def figures(self, result: dict[str, Any], cells: Sequence[Cell]) -> list[Picture]:
        from lwd.report import Picture
        from lwd.studies.figures import lines_with_bands

        path = lines_with_bands(
            result["pooled"],
            self.directory / "figure14.png",
            x="steps",
            line="denoiser",
            panel="perturbation",
            score=result["score"],
            xlabel="gradient steps of the denoiser",
            panel_title="perturbation {:g} px",
        )
        return [Picture(path, "Score over training (Figure 14)", BANDS)]


def network(name: str) -> tuple[str, ...]:
    """Options of `lwd train` for a denoiser of this study."""
    kind, _, size = name.partition("-")
    if kind == "unet":
        return ("--method.denoiser", kind, "--method.unet-fold", size.split("x")[0])
    return ("--method.denoiser", kind, *(("--method.denoiser-width", size) if size else ()))


def check_fold(name: str, base: Base) -> None:
    """Refuse a fold that does not hold the latent.

    Raises:
        LWDError: channels times length is not its size.
    """
    if not name.startswith("unet-"):
        return
    preset = PRESETS[base.preset][1].method
    assert isinstance(preset, LatentConfig)
    size = int(base.words[base.words.index("--method.latent") + 1]) if "--method.latent" in base.words else preset.latent
    channels, length = map(int, name.removeprefix("unet-").split("x"))
    require(
        channels * length == size and length % 4 == 0, f"{name} does not hold a latent of {size}: choose C x L = {size}, L divisible by 4"
    )


def parameters(run: Path) -> int:
    """Weights of a run's denoiser."""
    from lwd.verbs import info

    return int(info(str(run))["parameters"]["denoiser"])
