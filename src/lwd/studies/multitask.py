"""`lwd study multitask`: one generator of policies for many tasks, against one MLP for them all (section 4.1.2 taken further, to MT50)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from lwd.config import require
from lwd.studies.ablation import BANDS, check_names, cost_table, difference_tables, intro, score_table, short
from lwd.studies.base import Cell, Floats, Ints, Study, Words
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Picture, Table

HORIZON = 500  # a policy for the whole episode
LARGE = ("--method.policy", "850", "850")  # ten times the weights of 2 x 256


class Arm(NamedTuple):
    """How a method is trained."""

    preset: str
    words: tuple[str, ...] = ()


RECIPES = {
    "cpu": {"lwd": Arm("metaworld"), "mlp": Arm("metaworld-mlp"), "mlp-large": Arm("metaworld-mlp", LARGE)},
    "debug": {
        "lwd": Arm("metaworld", (*short("autoencoder", "diffusion"), "--method.policy", "32", "32")),
        "mlp": Arm("metaworld-mlp", (*short("cloning"), "--method.policy", "32", "32")),
        "mlp-large": Arm("metaworld-mlp", (*short("cloning"), "--method.policy", "110", "110")),
    },
}


@dataclass
class Multitask(Study):
    """One generator of policies for many tasks of Metaworld, against one MLP that is told the task.

    LWD is queried once, at the start of an episode, with the task; the policy that it generates acts for all 500 steps without seeing the
    task. The MLP has the same size (mlp) or ten times as many weights (mlp-large), and the task in its input. Further axes: demonstrations
    per task, and noise on the executed actions (with all demonstrations only).
    """

    name: ClassVar[str] = "multitask"
    against: ClassVar[tuple[str, Any] | None] = ("method", "lwd")

    data: str = "data/metaworld-mt10"
    """Demonstrations, as collected by `lwd data collect metaworld --tasks mt10` (or ten, mt50, names)."""
    episodes: int = 16
    """Episodes of each task in each cell; all cells run the same environment seeds."""
    preset: Literal["cpu", "debug"] = "cpu"
    """cpu: presets metaworld and metaworld-mlp; debug: seconds, to see that things run."""
    methods: Words = tuple(RECIPES["cpu"])
    """Of lwd, mlp, mlp-large."""
    demonstrations: Ints = ()
    """Also train on so few demonstrations of each task, such as 5,10,20."""
    perturbations: Floats = (0.0,)
    """Standard deviation of noise on the executed actions, which lie in [-1, 1]."""
    scale: float = 1.0
    """Gradient steps of all trainings, as a multiple of the presets'."""

    def grid(self) -> tuple[list[Task], list[Cell]]:
        """Seed by seed; first everything with all demonstrations."""
        arms = RECIPES[self.preset]
        check_names("methods", self.methods, tuple(arms))
        require(
            len(self.perturbations) > 0 and min(self.perturbations) >= 0, "--perturbations are magnitudes: give at least one, none negative"
        )
        require(min(self.demonstrations, default=1) >= 1, "--demonstrations counts episodes of each task: at least 1")
        require(self.scale > 0, f"--scale multiplies gradient steps: it must be positive, not {self.scale:g}")
        tasks: list[Task] = []
        cells: list[Cell] = []
        for seed in range(self.seeds):
            for count in (0, *sorted(self.demonstrations, reverse=True)):
                for method in self.methods:
                    arm = arms[method]
                    part, words = (f"-d{count}", ("--demonstrations", str(count))) if count else ("", ())
                    training = self.training(
                        f"{method}{part}-s{seed}", arm.preset, seed, (*arm.words, *self._steps(arm.preset), *words), method
                    )
                    tasks.append(training)
                    for perturbation in self.perturbations if not count else self.perturbations[:1]:
                        task = self.evaluation(training, horizon=HORIZON, perturbation=perturbation)
                        tasks.append(task)
                        labels = {"method": method, "demonstrations": count or "all", "perturbation": perturbation}
                        cells.append(Cell(labels, seed, task))
        return tasks, cells

    def _steps(self, preset: str) -> tuple[str, ...]:
        """Options that scale the length of a training."""
        from lwd.methods.base import stages_of
        from lwd.presets import PRESETS

        if self.scale == 1.0 or self.preset == "debug":
            return ()
        method = PRESETS[preset][1].method
        return tuple(
            word
            for stage in stages_of(method)
            for word in (f"--method.{stage}.steps", str(round(self.scale * getattr(method, stage).steps)))
        )

    def extras(self, result: dict[str, Any]) -> dict[str, Any]:
        return {"by_task": by_task(result["cells"], result["score"])}

    def intro(self, result: dict[str, Any]) -> str:
        return intro(result) + f" Every task counts the same; {self.episodes} episodes of each task."

    def tables(self, result: dict[str, Any]) -> list[Table]:
        rows, form = ("demonstrations", "perturbation"), "{}, noise {:g}"
        entries = [{**entry, "demonstrations": str(entry["demonstrations"])} for entry in result["pooled"]]
        differences = [{**entry, "demonstrations": str(entry["demonstrations"])} for entry in result.get("differences", [])]
        shown = {**result, "pooled": entries, "differences": differences}
        title = f"{result['score']}, mean over {len(result['by_task'])} tasks"
        return [
            score_table(shown, rows, form, "method", title),
            *difference_tables(shown, rows, form, "method"),
            task_table(result["by_task"], self.methods),
            cost_table({**result, "pooled": [{**entry, "horizon": HORIZON} for entry in result["pooled"]]}, "method"),
        ]

    def figures(self, result: dict[str, Any], cells: Sequence[Cell]) -> list[Picture]:
        from lwd.report import Picture
        from lwd.studies.figures import lines_with_bands

        pictures = []
        common: dict[str, Any] = {"line": "method", "panel": "panel", "score": result["score"], "panel_title": "{}"}
        noise = [{**e, "panel": "all demonstrations"} for e in result["pooled"] if e["demonstrations"] == "all"]
        if len(self.perturbations) > 1:
            path = lines_with_bands(noise, self.directory / "noise.png", x="perturbation", xlabel="noise on actions", base=0, **common)
            pictures.append(Picture(path, "Noise on the executed actions", BANDS))
        if self.demonstrations:
            largest = max(cell["data"]["episodes"] + cell["data"]["held_out"] for cell in result["cells"]) / len(result["by_task"])
            few = [
                {**e, "demonstrations": round(largest) if e["demonstrations"] == "all" else e["demonstrations"], "panel": "no noise"}
                for e in result["pooled"]
                if e["perturbation"] == self.perturbations[0]
            ]
            path = lines_with_bands(
                few, self.directory / "demonstrations.png", x="demonstrations", xlabel="demonstrations of each task", **common
            )
            pictures.append(Picture(path, "Data efficiency", BANDS))
        return pictures


def by_task(cells: Sequence[Mapping[str, Any]], score: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Task -> method -> rate over the episodes of all training seeds with Wilson's interval; with all demonstrations and the least noise."""
    from lwd.statistics import wilson

    least = min(cell["perturbation"] for cell in cells)
    values: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        if cell["demonstrations"] == "all" and cell["perturbation"] == least:
            for record in cell["records"]:
                values.setdefault(record["task"], {}).setdefault(cell["method"], []).append(float(record[score]))
    return {
        task: {method: {**wilson(round(sum(v)), len(v)).to_dict(), "episodes": len(v)} for method, v in own.items()}
        for task, own in sorted(values.items())
    }


def task_table(rates: Mapping[str, Mapping[str, Mapping[str, Any]]], methods: Sequence[str]) -> Table:
    """One row per task, the worst of the first method first."""
    from lwd.report import Table
    from lwd.statistics import Interval

    order = sorted(rates, key=lambda task: rates[task].get(methods[0], {"mean": 0.0})["mean"])
    lines = [[task, *(str(Interval.from_dict(dict(rates[task][m]))) if m in rates[task] else "–" for m in methods)] for task in order]
    return Table("by task", ["task", *methods], lines, "All demonstrations, least noise. Brackets: 95 % intervals (Wilson).")
