"""`lwd study multitask`: one generator of policies for many tasks, against one MLP for them all (section 4.1.2 taken further, to MT50)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from lwd.config import require
from lwd.studies.ablation import BANDS, check_names, cost_table, difference_tables, intro, score_table, short
from lwd.studies.base import Cell, Floats, Ints, Study, Words
from lwd.studies.metaworld import EPISODE, task_table
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Picture, Table

LONG = ("--method.cloning.steps", "50000")
LARGE = ("--method.policy", "850", "850")  # ten times the weights of 2 x 256


class Arm(NamedTuple):
    """How a method is trained."""

    preset: str
    words: tuple[str, ...] = ()


RECIPES = {
    "cpu": {"lwd": Arm("metaworld"), "mlp": Arm("metaworld-mlp"), "mlp-large": Arm("metaworld-mlp", LARGE)},
    "mt50": {
        "lwd": Arm("metaworld-mt50"),
        "mlp": Arm("metaworld-mlp", LONG),
        "mlp-large": Arm("metaworld-mlp", (*LARGE, *LONG)),
    },
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
    preset: Literal["cpu", "mt50", "debug"] = "cpu"
    """cpu: presets metaworld and metaworld-mlp; mt50: presets metaworld-mt50 and metaworld-mlp with 50,000 steps instead of 20,000; debug:
    seconds, to see that things run."""
    methods: Words = tuple(RECIPES["cpu"])
    """Of lwd, mlp, mlp-large."""
    demonstrations: Ints = ()
    """Also train on so few demonstrations of each task, such as 5,10,20."""
    perturbations: Floats = (0.0,)
    """Standard deviation of noise on the executed actions, which lie in [-1, 1]."""

    def grid(self) -> tuple[list[Task], list[Cell]]:
        """Seed by seed; first everything with all demonstrations."""
        arms = RECIPES[self.preset]
        check_names("methods", self.methods, tuple(arms))
        require(
            len(self.perturbations) > 0 and min(self.perturbations) >= 0, "--perturbations are magnitudes: give at least one, none negative"
        )
        require(min(self.demonstrations, default=1) >= 1, "--demonstrations counts episodes of each task: at least 1")
        tasks: list[Task] = []
        cells: list[Cell] = []
        for seed in range(self.seeds):
            for count in (0, *sorted(self.demonstrations, reverse=True)):
                for method in self.methods:
                    arm = arms[method]
                    part, words = (f"-d{count}", ("--demonstrations", str(count))) if count else ("", ())
                    training = self.training(f"{method}{part}-s{seed}", arm.preset, seed, (*arm.words, *words), method)
                    tasks.append(training)
                    for perturbation in self.perturbations if not count else self.perturbations[:1]:
                        task = self.evaluation(training, horizon=EPISODE, perturbation=perturbation)
                        tasks.append(task)
                        labels = {"method": method, "demonstrations": count or "all", "perturbation": perturbation}
                        cells.append(Cell(labels, seed, task))
        return tasks, cells

    def intro(self, result: dict[str, Any]) -> str:
        return intro(result) + f" Every task counts the same; {self.episodes} episodes of each task."

    def tables(self, result: dict[str, Any]) -> list[Table]:
        rows, form = ("demonstrations", "perturbation"), "{}, noise {:g}"
        shown = {**result, "pooled": [{**entry, "horizon": EPISODE} for entry in result["pooled"]]}
        plain = self._plain(result)
        title = f"{result['score']}, mean over {len(plain[0].get('tasks', ())) or 1} tasks"
        return [
            score_table(shown, rows, form, "method", title),
            *difference_tables(shown, rows, form, "method"),
            task_table(plain, [entry["method"] for entry in plain], result["score"], "by task, all demonstrations, least noise"),
            cost_table(shown, "method"),
        ]

    def figures(self, result: dict[str, Any], cells: Sequence[Cell]) -> list[Picture]:
        from lwd.report import Picture
        from lwd.studies.figures import lines_with_bands

        pictures = []
        common: dict[str, Any] = {"line": "method", "panel": "panel", "score": result["score"], "panel_title": "{}"}
        if len(self.perturbations) > 1:
            noise = [{**e, "panel": "all demonstrations"} for e in result["pooled"] if e["demonstrations"] == "all"]
            path = lines_with_bands(noise, self.directory / "noise.png", x="perturbation", xlabel="noise on actions", base=0, **common)
            pictures.append(Picture(path, "Noise on the executed actions", BANDS))
        if self.demonstrations:
            whole = next(cell["data"] for cell in result["cells"] if cell["demonstrations"] == "all")
            each = round((whole["episodes"] + whole["held_out"]) / (len(self._plain(result)[0].get("tasks", ())) or 1))
            few = [
                {**e, "demonstrations": each if e["demonstrations"] == "all" else e["demonstrations"], "panel": "no noise"}
                for e in result["pooled"]
                if e["perturbation"] == self.perturbations[0]
            ]
            name, label = self.directory / "demonstrations.png", "demonstrations of each task"
            pictures.append(Picture(lines_with_bands(few, name, x="demonstrations", xlabel=label, **common), "Data efficiency", BANDS))
        return pictures

    def _plain(self, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Pooled entries of all demonstrations and the least noise."""
        least = min(self.perturbations)
        return [entry for entry in result["pooled"] if entry["demonstrations"] == "all" and entry["perturbation"] == least]
