"""`lwd study cost`: what training and a trained model cost: time, FLOPs and parameters of every method. Nothing is evaluated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from lwd.config import Config, require
from lwd.errors import LWDError
from lwd.presets import PRESETS
from lwd.studies.ablation import check_names, check_numbers
from lwd.studies.base import Cell, Ints, Study, Words
from lwd.studies.files import training_is_finished, training_state
from lwd.studies.measuring import measure
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Picture, Table

NAMES = {"lwd": "lwd", "diffusion_policy": "dp", "latent_dp": "ldp", "mlp": "mlp", "random": "random"}
CHUNKS = ("dp", "ldp")  # trained anew for every horizon


class Recipe(NamedTuple):
    """Presets by method, training steps that are timed, and the default horizons."""

    presets: dict[str, str]
    steps: int
    horizons: tuple[int, ...]


RECIPES = {
    "cpu": Recipe({"lwd": "pusht", "dp": "pusht-dp", "ldp": "pusht-ldp", "mlp": "pusht-mlp"}, 30, (16, 32, 128)),
    "paper": Recipe({"lwd": "paper/pusht", "dp": "paper/pusht-dp", "ldp": "paper/pusht-ldp", "mlp": "paper/pusht-mlp"}, 5, (16, 32, 128)),
    "debug": Recipe({"lwd": "debug", "mlp": "pusht-mlp"}, 2, (8, 16)),
}


@dataclass
class Cost(Study):
    """What training costs: time and FLOPs of every stage of every method, parameters, and the cost of a query and of an environment step.

    Nothing is trained. A few steps of each stage are timed on this machine and multiplied by the number of steps; with --runs, the time is
    the one that finished runs took, with whatever ran beside them. FLOPs are counted in one step, forward and backward, and multiplied.
    """

    name: ClassVar[str] = "cost"

    preset: Literal["cpu", "paper", "debug"] = "cpu"
    """cpu: pusht, pusht-dp, pusht-ldp, pusht-mlp, minutes; paper: the paper's recipes, extrapolated from 5 steps; debug: seconds."""
    runs: Words = ()
    """Finished runs, or directories of studies with such runs, in place of the presets."""
    methods: Words = ()
    """Of lwd, dp, ldp, mlp: the preset's by default."""
    horizons: Ints = ()
    """Steps between queries; by default 16,32,128 (cpu, paper), 8,16 (debug)."""

    def grid(self) -> tuple[list[Task], list[Cell]]:
        """Nothing is run as a task."""
        return [], []

    def __call__(self) -> None:
        """Measure and write.

        Raises:
            LWDError: bad options, or runs that are not there.
        """
        from lwd.studies.workers import study_lock

        jobs = self.jobs_of()
        if self.plan:
            for method, config, path in jobs:
                print(f"to do  {method} {config.preset}, horizon {config.horizon}{'' if path is None else f', {path}'}")
            return
        with study_lock(self.directory):
            rows: list[dict[str, Any]] = []
            for method, config, path in jobs:
                twin = next((row for row, (_, other, _) in zip(rows, jobs, strict=False) if same(other, config)), None)
                rows.append(self.measured(method, config, path, twin))
            write(self, rows)

    def jobs_of(self) -> list[tuple[str, Config, Path | None]]:
        """Method, config, and the finished run (or None) of everything that is measured."""
        recipe = RECIPES[self.preset]
        horizons = self.horizons or recipe.horizons
        check_numbers(horizons, (0.0,))
        if self.runs:
            found = [(NAMES[config.method.name], config, path) for path, config in finished_runs(self.runs)]
            return [job for job in found if not self.methods or job[0] in self.methods]
        methods = self.methods or tuple(recipe.presets)
        check_names("methods", methods, tuple(recipe.presets))
        jobs: list[tuple[str, Config, Path | None]] = []
        for method in methods:
            config = replace(PRESETS[recipe.presets[method]][1], data=self.data)
            for horizon in horizons if method in CHUNKS else (config.horizon,):
                jobs.append((method, replace(config, horizon=horizon), None))
        return jobs

    def measured(self, method: str, config: Config, run: Path | None, twin: dict[str, Any] | None = None) -> dict[str, Any]:
        """One row: cost of training and of use; `twin` is one of the same settings, whose measurements serve again."""
        from rich.console import Console

        if twin is None:
            where = config.preset if run is None else str(run)
            Console(stderr=True).print(f"measuring {method}, horizon {config.horizon}: {where}", markup=False, highlight=False)
        horizons = self.horizons or RECIPES[self.preset].horizons
        chosen = [h for h in horizons if method not in CHUNKS or h == config.horizon]
        if twin is None:
            row = measure(replace(config, device=self.device), chosen or [config.horizon], RECIPES[self.preset].steps)
        else:
            row = {key: deepcopy(twin[key]) for key in ("parameters", "stages", "use")}
        if run is not None:
            for stage, seconds in training_state(run)[2].items():
                row["stages"][stage]["seconds"] = seconds
        return {"method": method, "preset": config.preset, "seed": config.seed, "run": run and str(run), "horizon": config.horizon, **row}

    def tables(self, result: dict[str, Any]) -> list[Table]:
        return tables(result["rows"])

    def figures(self, result: dict[str, Any], cells: Sequence[Cell]) -> list[Picture]:
        from lwd.report import Picture

        path = figure(result["rows"], self.directory / "cost.png")
        caption = "Left: minutes of training by stage. Right: query and control step, the query spread over the horizon."
        return [Picture(path, "Cost of training and of use", caption, wide=True)]


def finished_runs(paths: Sequence[str]) -> list[tuple[Path, Config]]:
    """The finished runs among these directories and in their `runs` folders.

    Raises:
        LWDError: none in one of them.
    """
    from lwd.run import Run

    found = []
    for path in map(Path, paths):
        inside = sorted(folder.parent for folder in (path / "runs").glob("*/config.json"))
        own = [run for run in ([path] if (path / "config.json").exists() else inside) if training_is_finished(run)]
        require(len(own) > 0, f"{path} holds no finished run: give a run directory, or the directory of a study")
        found += [(run, Run(run).config()) for run in own]
    return found


def same(one: Config, other: Config) -> bool:
    """Two trainings of the same recipe, but for the training seed."""
    return replace(one, seed=0, out="", preset="") == replace(other, seed=0, out="", preset="")


def write(study: Cost, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """JSON, markdown, figure, and the tables on the terminal."""
    from rich.console import Console

    from lwd.evaluate import _version, hardware
    from lwd.report import Content, markdown
    from lwd.run import write_text
    from lwd.studies.output import dumps, terminal

    if not rows:
        raise LWDError("there is nothing to measure: none of the runs is of one of --methods")
    machine = hardware(study.device)
    how = "time that the runs took" if study.runs else f"{RECIPES[study.preset].steps} timed steps of each stage, times the number of steps"
    hidden = ("jobs", "ray", "json", "plan", "yes")
    settings = {key: value for key, value in asdict(study).items() if key not in hidden}
    head = {"version": 1, "study": "cost", "command": study.command, "settings": settings, "lwd": _version(), "hardware": machine}
    result: dict[str, Any] = {**head, "training_time": how, "rows": rows}
    write_text(study.directory / "cost.json", dumps(result))
    shown, pictures = study.tables(result), study.figures(result, [])
    facts = {"command": f"`{study.command}`", "measured on": f"{machine['cpu']}, {machine['device']}, one thread", "numbers": "`cost.json`"}
    text = f"Time of training: {how}. FLOPs: matrix products and convolutions of one step, forward and backward, times the steps."
    title = "What training costs, and what a query costs"
    write_text(study.directory / "cost.md", markdown(study.directory, Content(title, text, shown, pictures, (), [], facts, False)))
    if study.json:
        print(json.dumps(result, indent=1))
        return result
    console = Console()
    for table in shown:
        console.print(terminal(table))
    for name in ("cost.json", "cost.md", "cost.png"):
        console.print(str(study.directory / name), highlight=False, soft_wrap=True)
    return result


def grouped(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], list[Mapping[str, Any]]]:
    """Rows by method and horizon of training: those of several training seeds together."""
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["method"], row["horizon"]), []).append(row)
    return found


def tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Cost of training by stage, and of use by horizon."""
    from lwd.report import Table

    training, use = [], []
    for (method, horizon), group in grouped(rows).items():
        for stage, own in group[0]["stages"].items():
            minutes = mean(row["stages"][stage]["seconds"] for row in group) / 60
            total = own["flops_per_step"] * own["steps"] / 1e12
            cells = [f"{own['steps']:,}", f"{own['batch']}", f"{own['ms_per_step']:.3g}", f"{own['flops_per_step'] / 1e9:.3g}"]
            training.append([f"{method}, {horizon} steps, {stage}", *cells, f"{total:.4g}", f"{minutes:.3g}"])
        parameters = sum(group[0]["parameters"].values()) / 1e6
        for every, own in group[0]["use"].items():
            query, step = own["flops_per_step"]["query"] * int(every), own["flops_per_step"]["amortised_total"]
            times = (median(row["use"][every][key]["p50"] for row in group) for key in ("ms_per_query", "ms_per_control_step"))
            use.append(
                [f"{method}, every {every}", f"{parameters:.2f}", f"{query / 1e6:.3g}", f"{step / 1e6:.3g}", *(f"{t:.3g}" for t in times)]
            )
    columns = ["method, horizon of training, stage", "gradient steps", "batch", "ms per step", "GFLOP per step", "TFLOP", "minutes"]
    caption = "Methods that execute chunks are trained anew for every horizon; LWD and MLP are one model for all."
    second = [
        "method, steps between queries",
        "M parameters, all modules",
        "MFLOP per query",
        "MFLOP per step",
        "ms per query",
        "ms per control step",
    ]
    note = "A batch of one, untrained weights; a query's cost does not depend on them. MFLOP per step: the query spread over the horizon."
    return [Table("training", columns, training, caption), Table("use", second, use, note)]


def figure(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Minutes of training by stage, and FLOPs of an environment step against the horizon."""
    from matplotlib.figure import Figure

    from lwd.plots import COLOURS, _style, _write
    from lwd.studies.figures import MARKERS

    groups = grouped(rows)
    canvas = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = canvas.subplots(1, 2)
    names = [f"{method}, {horizon}" for method, horizon in groups]
    kinds = list(dict.fromkeys(stage for group in groups.values() for stage in group[0]["stages"]))
    offset = [0.0] * len(names)
    for number, stage in enumerate(kinds):
        values = [mean(row["stages"][stage]["seconds"] for row in g) / 60 if stage in g[0]["stages"] else 0.0 for g in groups.values()]
        left.barh(names, values, left=offset, color=COLOURS[number % len(COLOURS)], label=stage)
        offset = [a + b for a, b in zip(offset, values, strict=True)]
    _style(left, "training", "minutes", "method, horizon of training")
    left.invert_yaxis()
    left.legend(frameon=False, fontsize=8)
    for number, method in enumerate(dict.fromkeys(method for method, _ in groups)):
        points = {
            int(every): own["flops_per_step"]["amortised_total"] / 1e6
            for (name, _), group in groups.items()
            if name == method
            for every, own in group[0]["use"].items()
            if own["flops_per_step"]["amortised_total"] > 0
        }
        at = sorted(points)
        right.plot(
            at, [points[x] for x in at], color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)], ms=4, label=method
        )
    _style(right, "use", "steps between queries", "MFLOP per environment step")
    right.set_xscale("log", base=2)
    everything = sorted({int(every) for group in groups.values() for every in group[0]["use"]})
    right.set_xticks(everything, list(map(str, everything)))
    right.minorticks_off()
    right.set_yscale("log")
    right.legend(frameon=False, fontsize=8)
    return _write(canvas, path)
