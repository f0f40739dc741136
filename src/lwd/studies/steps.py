"""`lwd study steps`: how few denoising steps will do? Samplers for LWD and Diffusion Policy, flow matching, warm starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from lwd.config import require
from lwd.studies.ablation import BANDS, Base, OneAutoencoder, check_names, check_numbers, intro, query_flops, score_table, short
from lwd.studies.base import Cell, Floats, Ints, Words
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Picture, Table

METHODS = ("lwd", "dp")
SAMPLERS = ("ddim", "dpm++", "ddpm", "euler")  # euler: of a flow variant
KINDS = {"lwd": "lwd", "dp": "diffusion_policy"}


class Recipe(NamedTuple):
    """Presets of the two methods with more options, and the default numbers of steps."""

    presets: dict[str, str]
    words: dict[str, tuple[str, ...]]
    steps: tuple[int, ...]
    horizon: int


RECIPES = {
    "cpu": Recipe({"lwd": "pusht", "dp": "pusht-dp"}, {"lwd": (), "dp": ()}, (1, 2, 4, 8, 16), 16),
    "debug": Recipe({"lwd": "debug", "dp": "pusht-dp"}, {"lwd": short("autoencoder", "diffusion"), "dp": short("diffusion")}, (1, 4), 8),
}


@dataclass
class Steps(OneAutoencoder):
    """Fewer denoising steps: samplers, flow matching and warm starts.

    One model per method and training seed, sampled with each sampler and number of steps; one more of each trained with flow matching, for
    the sampler euler (LWD's on the same autoencoder); and LWD with queries that start from the latent of the policy before.
    """

    name: ClassVar[str] = "steps"

    preset: Literal["cpu", "debug"] = "cpu"
    """cpu: presets pusht and pusht-dp at their full lengths; debug: seconds, to see that things run."""
    dp_base: Words = ()
    """Trained runs of Diffusion Policy at this horizon, one per training seed, instead of training one for each of --seeds."""
    methods: Words = METHODS
    """Of lwd, dp."""
    samplers: Words = SAMPLERS
    """Of ddim, dpm++, ddpm, euler (a variant trained with flow matching)."""
    steps: Ints = ()
    """Denoising steps of a query; by default 1,2,4,8,16 (cpu), 1,4 (debug)."""
    warm: Floats = (0.25, 0.5, 0.75)
    """Warm starts of LWD: the fraction of the schedule's noise on the previous latent, and of the largest of --steps that is taken (DDIM);
    `--warm` alone leaves them out."""
    horizon: int = 0
    """Steps between queries, at which DP is trained; by default 16 (cpu), 8 (debug). LWD is trained at its preset's own."""
    perturbations: Floats = (0.0, 50.0)
    """The block is displaced by up to so many pixels in a tenth of all steps."""

    @property
    def interval(self) -> int:
        """Steps between queries."""
        return self.horizon or RECIPES[self.preset].horizon

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "horizon": self.interval, "steps": list(self.steps or RECIPES[self.preset].steps)}

    def grid(self) -> tuple[list[Task], list[Cell]]:
        """Seed by seed, method by method."""
        recipe = RECIPES[self.preset]
        check_names("methods", self.methods, METHODS)
        check_names("samplers", self.samplers, SAMPLERS)
        check_numbers([self.interval], self.perturbations)
        steps = self.steps or recipe.steps
        require(len(set(steps)) == len(steps) and min(steps) >= 1, f"--steps are different numbers of at least 1, not {steps}")
        require(all(0 < w < 1 for w in self.warm), f"--warm are fractions between 0 and 1, not {self.warm}")
        bases: list[tuple[str, Base]] = []
        for method in self.methods:
            given = self.dp_base if method == "dp" else self.base
            words = ("--horizon", str(self.interval), *recipe.words[method]) if method == "dp" else recipe.words[method]
            bases += [(method, base) for base in self.bases(method, KINDS[method], recipe.presets[method], words, given)]
        tasks: list[Task] = []
        cells: list[Cell] = []
        for method, base in sorted(bases, key=lambda pair: pair[1].seed):
            tasks += [base.task] if base.task.argv else []
            for sampler in self.samplers:
                training = base.task
                if sampler == "euler":
                    training = self._flow(method, base)
                    tasks.append(training)
                for number in steps:
                    self._add(tasks, cells, base.seed, training, method, sampler, number)
            for warm in self.warm if method == "lwd" else ():
                self._add(tasks, cells, base.seed, base.task, method, "ddim", max(steps), warm)
        return tasks, cells

    def _flow(self, method: str, base: Base) -> Task:
        """The variant of a base that is trained with flow matching."""
        words = ("--method.objective", "flow")
        if method == "lwd":
            return self.variant(base, "lwd-flow", words, "lwd-flow")
        return self.training(f"dp-flow-s{base.seed}", base.preset, base.seed, (*base.words, *words), "dp-flow")

    def _add(
        self, tasks: list[Task], cells: list[Cell], seed: int, training: Task, method: str, sampler: str, number: int, warm: float = 0.0
    ) -> None:
        """The evaluations of one way to sample; a warm query takes a part of the steps."""
        words = ("--sampler", sampler, "--steps", str(number), *(("--warm-start", f"{warm:g}") if warm else ()))
        label = f"{sampler}{number}" + (f"-warm{warm:g}" if warm else "")
        taken = max(1, round(warm * number)) if warm else number
        for perturbation in self.perturbations:
            task = self.evaluation(training, horizon=self.interval, perturbation=perturbation, words=words, label=label)
            tasks.append(task)
            sampling = f"{method} {sampler}" + (", warm" if warm else "")
            labels = {"sampling": sampling, "method": method, "steps": taken, "warm": warm, "perturbation": perturbation}
            cells.append(Cell(labels, seed, task))

    def extras(self, result: dict[str, Any]) -> dict[str, Any]:
        return {"costs": costs(result)}

    def intro(self, result: dict[str, Any]) -> str:
        text = f" A new policy or chunk every {self.interval} steps. euler: variants trained with flow matching."
        return (
            intro(result) + text + (" Warm: DDIM from the previous latent; steps are those that a warm query takes." if self.warm else "")
        )

    def tables(self, result: dict[str, Any]) -> list[Table]:
        from lwd.report import Table

        scores = score_table(result, ("perturbation", "steps"), "{:g} px, {} steps", "sampling")
        rows = [[c["sampling"], str(c["steps"]), f"{c['flops'] / 1e6:.3g}", f"{c['ms']:.3g}"] for c in result["costs"]]
        caption = (
            "A batch of one, medians; times were measured while other cells ran beside them. Of warm starts: a query that follows another; "
            "the first one of an episode takes all steps."
        )
        return [scores, Table("cost of a query", ["sampling", "steps", "MFLOP", "ms"], rows, caption)]

    def figures(self, result: dict[str, Any], cells: Sequence[Cell]) -> list[Picture]:
        from lwd.report import Picture
        from lwd.studies.figures import lines_with_bands

        pictures = []
        for method in dict.fromkeys(entry["method"] for entry in result["pooled"]):
            path = lines_with_bands(
                [entry for entry in result["pooled"] if entry["method"] == method],
                self.directory / f"steps-{method}.png",
                x="steps",
                line="sampling",
                panel="perturbation",
                score=result["score"],
                xlabel="denoising steps of a query",
                panel_title="perturbation {:g} px",
            )
            pictures.append(Picture(path, f"Score of {method} against the number of denoising steps", BANDS))
        return pictures


def costs(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """FLOPs and milliseconds of a query (of warm starts: one that follows another) for every way to sample."""
    entries = result["pooled"]
    least = min(entry["perturbation"] for entry in entries)
    return [
        {
            **{key: entry[key] for key in ("sampling", "steps", "warm")},
            "flops": query_flops(entry, result),
            "ms": entry["ms_per_query"],
        }
        for entry in entries
        if entry["perturbation"] == least
    ]
