"""The results of a study: one tidy row per episode and per cell, pooled over trainings, and written as JSON, Markdown and figures."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Console

from lwd.errors import LWDError
from lwd.files import read_json, write_text
from lwd.report.tables import Table, terminal
from lwd.statistics import Interval, disjoint, over_trainings, stratified_mean, wilson, within_groups
from lwd.studies.jobs import Outcome, Plan, Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPISODE = ["training_seed", "task", "environment_seed"]  # what makes two episodes of two cells a pair
INTERVALS = "95 %; low, high: over the episodes of these trainings; over_trainings: training seeds and environments are both resampled"


@dataclass(frozen=True)
class Drawing:
    """A figure that a view has drawn. `name` becomes its file `<name>.png`."""

    name: str
    figure: Figure
    title: str
    caption: str = ""


class Results:
    """What a study has measured.

    Args:
        plan: cells and jobs.
        cells: a row per cell: axes, `training_seed`, `run`, costs, and what was measured in the run (`links.rate`, ...).
        episodes: a row per episode: axes, `training_seed`, `task`, `environment_seed`, scores, `queries`, `steps`.
        score: the primary score.
        kinds: score -> "mean", or "rate" for zeros and ones.
        facts: environment, version, hardware and data, for the JSON.

    Attributes:
        pooled: an entry per point of the grid: its axes, `scores` (see `pool`), `tasks` where there are several, and `values`: the mean,
            least and most of every number in its cells.
        differences: for every point, the reference of the study minus it.
    """

    def __init__(
        self, plan: Plan, cells: pd.DataFrame, episodes: pd.DataFrame, score: str, kinds: Mapping[str, str], facts: Mapping[str, Any]
    ) -> None:
        self.plan, self.cells, self.episodes, self.score, self.kinds, self.facts = plan, cells, episodes, score, kinds, facts
        self.groups = dict(iter(episodes.groupby(list(plan.axes), sort=False))) if score else {}
        self.pooled = [self._entry(key, own) for key, own in cells.groupby(list(plan.axes), sort=False)]
        self.differences = self._differences(*plan.study.against) if plan.study.against else []

    def _entry(self, key: tuple[Any, ...], cells: pd.DataFrame) -> dict[str, Any]:
        labels = dict(zip(self.plan.axes, key, strict=True))
        numbers = cells.drop(columns=[*labels, "training_seed"], errors="ignore").select_dtypes("number").dropna(axis=1)
        values = {name: {"mean": float(v.mean()), "low": float(v.min()), "high": float(v.max())} for name, v in numbers.items()}
        entry: dict[str, Any] = {**labels, "values": values, "scores": {}}
        if key in self.groups:
            rows = self.groups[key]
            entry["scores"] = {score: pool(rows, score, kind) for score, kind in self.kinds.items()}
            if rows["task"].nunique() > 1:
                entry["tasks"] = {task: pool(part, self.score, self.kinds[self.score]) for task, part in rows.groupby("task")}
        return entry

    def _differences(self, axis: str, reference: Any) -> list[dict[str, Any]]:
        entries, found = dict(zip(self.groups, self.pooled, strict=True)), []
        for key, rows in self.groups.items():
            labels = dict(zip(self.plan.axes, key, strict=True))
            twin = tuple({**labels, axis: reference}.values())
            paired = difference(self.groups[twin], rows, self.score) if twin != key and twin in entries else None
            if paired is not None:
                both = [entries[k]["scores"][self.score] for k in (twin, key)]
                wide = [Interval.from_dict({"mean": 0.0, **score["over_trainings"]}) for score in both]
                apart = {"disjoint": disjoint(*map(Interval.from_dict, both)), "disjoint_over_trainings": disjoint(*wide)}
                found.append({**labels, "minuend": reference, **paired, **apart})
        return found


def pool(rows: pd.DataFrame, score: str, kind: str = "mean") -> dict[str, Any]:
    """Mean over training seeds, tasks and episodes, with two 95 % intervals, JSON-ready.

    `low` and `high` take the trained models as given: a bootstrap over episodes within each training seed and task (of rates of one task:
    Wilson's interval). `over_trainings` also asks what other trainings would have given (`lwd.statistics.over_trainings`).
    """
    parts = rows.groupby(["training_seed", "task"], sort=False)[score]
    groups, means = [part.to_numpy(float) for _, part in parts], parts.mean().groupby("training_seed", sort=False).mean()
    mean = float(means.mean())
    if rows["task"].nunique() > 1:
        interval = stratified_mean(groups)
    else:
        interval = wilson(round(float(rows[score].sum())), len(rows)) if kind == "rate" else within_groups(groups)
    per_seed = {str(seed): float(value) for seed, value in means.items()}
    return {**interval.to_dict(), "mean": mean, "over_trainings": _wide(rows, score, mean), "per_seed": per_seed, "episodes": len(rows)}


def difference(first: pd.DataFrame, second: pd.DataFrame, score: str) -> dict[str, Any] | None:
    """Mean of first − second over pairs of equal training seed, task and environment seed, with the intervals of `pool`, or None."""
    both = first[[*EPISODE, score]].merge(second[[*EPISODE, score]], on=EPISODE, suffixes=("", " of the second")).sort_values(EPISODE)
    if both.empty:
        return None
    both[score] -= both[f"{score} of the second"]
    interval = within_groups([part.to_numpy(float) for _, part in both.groupby(["training_seed", "task"])[score]])
    return {**interval.to_dict(), "over_trainings": _wide(both, score, interval.mean), "pairs": len(both)}


def _wide(rows: pd.DataFrame, score: str, mean: float) -> dict[str, float | None]:
    table = rows.pivot_table(index="training_seed", columns=["task", "environment_seed"], values=score).dropna(axis=1)
    tasks = table.columns.get_level_values("task").unique() if len(table) else []
    interval = over_trainings([table[task].to_numpy(float) for task in tasks], mean).to_dict()
    return {"low": interval["low"], "high": interval["high"]}


def collect(plan: Plan, outcomes: Mapping[str, Outcome]) -> Results:
    """Reads the outputs of the jobs that are done.

    Raises:
        LWDError: no cell has a result, or a damaged one.
    """
    done = [point for point in plan.points if outcomes[point.test.name].state == "done"]
    if not done:
        raise LWDError(f"no cell of the study has a result: see the logs in {plan.folder / 'jobs'}")
    found = [_read(point) for point in done]
    cells, episodes = pd.DataFrame([cell for cell, _, _ in found]), pd.DataFrame([row for _, rows, _ in found for row in rows])
    result, record = found[0][2], read_json(done[0].training.run / "config.json", "the run directory is damaged")
    facts = {name: result[name] for name in ("lwd", "env", "obs_kind", "hardware")}
    facts["data"] = {key: value for key, value in record["data"].items() if key != "path"}
    return Results(plan, cells, episodes, result["primary"], {score: own["kind"] for score, own in result["scores"].items()}, facts)


def _read(point: Point) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """A cell's row, its episodes' rows, and the result that they are from."""
    again = "delete it, and the same command makes it again"
    result: Any = read_json(point.test.output, again)
    labels, run, flops = {**point.cell.values, "training_seed": point.cell.seed}, point.training.run, result["flops_per_step"]
    cell = {**labels, "run": str(run), "query_flops": flops["query"] * result["replan_every"], "step_flops": flops["amortised_total"]}
    cell |= {name: result[name]["p50"] for name in ("ms_per_query", "ms_per_control_step")}
    steps = float(np.mean([record["steps"] for record in result["records"]]))
    busy = cell["ms_per_query"] * result["queries_per_episode"] + cell["ms_per_control_step"] * steps
    cell |= {"queries_per_episode": result["queries_per_episode"], "seconds_per_episode": busy / 1e3}
    cell |= _of_run(run) | _flat("decoded", result.get("decoded", {}))
    if point.measured is not None and point.measured.output.exists():
        cell |= _flat(point.measured.content["what"], read_json(point.measured.output, again))
    rows = []
    for record in result["records"]:
        own = {key: value for key, value in record.items() if not isinstance(value, list | dict) and key not in ("seed", "task")}
        rows.append({**labels, "task": record.get("task", ""), "environment_seed": record["seed"], **own})
    return cell, rows, result


@lru_cache
def _of_run(path: Path) -> dict[str, Any]:
    """What a trained run tells: parameters by module, seconds of each stage and milliseconds of its steps."""
    from lwd.methods.base import make_method
    from lwd.training.run import Run

    run = Run(path)
    method = run.config().method
    seconds = {name: value for name, value in run.state().get("seconds", {}).items() if name in method.stages}
    per_step = {name: 1e3 * value / max(1, method.stages[name].steps) for name, value in seconds.items()}
    counts = make_method(method, run.spec()).parameter_counts()
    return _flat("seconds", seconds) | _flat("step_ms", per_step) | _flat("parameters", counts)


def _flat(name: str, values: Any) -> dict[str, Any]:
    """{"a": {"b": 1}} named n -> {"n.a.b": 1}; only numbers."""
    if isinstance(values, Mapping):
        return {key: value for part, own in values.items() for key, value in _flat(f"{name}.{part}", own).items()}
    return {name: values} if isinstance(values, int | float) else {}


def write(results: Results, failures: list[dict[str, str]], as_json: bool = False) -> None:
    """Writes `<name>.json`, `<name>.md` and the figures, and prints the tables; with `as_json`, the JSON without cells and episodes."""
    from lwd.report.plots import save
    from lwd.report.report import Content, Picture, markdown

    plan, console = results.plan, Console(stderr=as_json)
    study, folder, name = plan.study, plan.folder, plan.name
    made = [item for view in study.views for item in view(results)]
    tables, drawings = [item for item in made if isinstance(item, Table)], [item for item in made if isinstance(item, Drawing)]
    pictures = [Picture(save(own.figure, folder / f"{own.name}.png"), own.title, own.caption, wide=True) for own in drawings]
    command = shlex.join(["lwd", *sys.argv[1:]])
    settings = {**asdict(plan.options), "variant": plan.variant, "data": plan.data, "axes": plan.axes}
    content = {"version": 2, "study": name, "command": command, "settings": settings, **results.facts, "score": results.score}
    content |= {"intervals": INTERVALS, "failures": failures, "pooled": results.pooled, "differences": results.differences}
    content |= {"tables": [asdict(table) for table in tables]}
    frames = {"cells": results.cells, "episodes": results.episodes}
    rows = {key: json.loads(frame.to_json(orient="records", double_precision=15)) for key, frame in frames.items()}
    write_text(folder / f"{name}.json", dumps({**content, **rows}))
    notes = [f"{len(failures)} of {len(plan.jobs)} jobs have no result, and are missing above."] if failures else []
    machine = results.facts["hardware"]
    where = f"{machine['cpu']}, {machine['device']}; times were measured while other jobs ran beside"
    facts = {"command": f"`{command}`", "data": results.facts["data"]["description"], "measured on": where, "numbers": f"`{name}.json`"}
    seeds = f"Training seeds: {results.cells['training_seed'].nunique()}. " if results.score else ""
    page = Content(study.title, f"{seeds}{study.note}", tables, pictures, notes=notes, facts=facts)
    write_text(folder / f"{name}.md", markdown(folder, page))
    for table in tables:
        console.print(terminal(table))
    for file in (f"{name}.json", f"{name}.md", *(picture.path.name for picture in pictures)):
        console.print(str(folder / file), highlight=False, soft_wrap=True)
    if as_json:
        print(dumps(content))


def dumps(content: Mapping[str, Any]) -> str:
    """JSON with one line per item of a long list: readable, and without a line for each of ten thousand numbers."""
    lines = []
    for key, value in content.items():
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join("  " + json.dumps(item) for item in value) + "\n ]"
        else:
            text = json.dumps(value, indent=1).replace("\n", "\n ")
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
