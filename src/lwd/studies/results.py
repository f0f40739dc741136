"""The results of a study: one tidy row per episode and per cell, pooled over trainings, and written as JSON, Markdown and figures."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from lwd.config import require
from lwd.files import read_json, write_json, write_text
from lwd.methods.base import make_method
from lwd.report.plots import save
from lwd.report.report import Content, Picture, markdown
from lwd.report.tables import Table, terminal
from lwd.statistics import Interval, disjoint, over_trainings, stratified_mean, wilson, within_groups
from lwd.studies.execute import Outcome
from lwd.studies.jobs import Plan, Point
from lwd.studies.study import Drawing
from lwd.training.run import Run

EPISODE = ["training_seed", "task", "environment_seed"]  # what makes two episodes of two cells a pair
INTERVALS = "95 %; low, high: over the episodes of these trainings; over_trainings: training seeds and environments are both resampled"
AGAIN = "delete it, and the same command makes it again"


class Results:
    """What a study has measured: `cells` and `episodes` have a row for each, labelled by axes and `training_seed`.

    `score` is the primary one, empty for a study without episodes; `kinds` are score -> "mean", or "rate" for zeros and ones; `facts` are
    for the JSON. `pooled` has an entry per point of the grid: its axes, `scores` (see `pool`), `tasks` where there are several, and
    `values`: the mean, least and most of every number in its cells. `differences` has for every point the study's reference minus it.
    """

    def __init__(
        self, plan: Plan, cells: pd.DataFrame, episodes: pd.DataFrame, score: str, kinds: Mapping[str, str], facts: Mapping[str, Any]
    ) -> None:
        self.plan, self.cells, self.episodes, self.score, self.kinds, self.facts = plan, cells, episodes, score, kinds, facts
        self.groups = dict(iter(episodes.groupby(list(plan.axes), sort=False))) if score else {}
        self.pooled = [self._entry(key, own) for key, own in cells.groupby(list(plan.axes), sort=False)]
        self.differences = self._differences(*plan.study.against) if plan.study.against else []

    def points(self, value: str = "") -> pd.DataFrame:
        """A row per point of the grid that has a value (by default the primary score): axes, `mean`, `low`, `high`, for scores also
        `over_trainings.low` and `.high`, and the means of all numbers of its cells."""
        value, rows = value or self.score, list[dict[str, Any]]()
        for entry in self.pooled:
            axes, known = {axis: entry[axis] for axis in self.plan.axes}, {**entry["values"], **entry["scores"]}
            if value in known:
                rows.append({**{name: own["mean"] for name, own in known.items()}, **axes, **known[value]})
        points = pd.json_normalize(rows)
        ends = points.columns.intersection(["low", "high", "over_trainings.low", "over_trainings.high"])
        return points.astype(dict.fromkeys(ends, float))  # None becomes NaN

    def _entry(self, key: tuple[Any, ...], cells: pd.DataFrame) -> dict[str, Any]:
        labels = dict(zip(self.plan.axes, key, strict=True))
        numbers = cells.drop(columns=[*labels, "training_seed"], errors="ignore").select_dtypes("number").dropna(axis=1)
        values = numbers.agg(["mean", "min", "max"]).set_axis(["mean", "low", "high"]).to_dict()
        entry: dict[str, Any] = {**labels, "values": values, "scores": {}}
        if key in self.groups:
            rows = self.groups[key]
            entry["scores"] = {score: pool(rows, score, kind) for score, kind in self.kinds.items()}
            if rows["task"].nunique() > 1:
                entry["tasks"] = {task: pool(part, self.score, self.kinds[self.score]) for task, part in rows.groupby("task")}
        return entry

    def _differences(self, axis: str, reference: Any) -> list[dict[str, Any]]:
        scores, found = {key: entry["scores"][self.score] for key, entry in zip(self.groups, self.pooled, strict=True)}, []
        for key, rows in self.groups.items():
            labels = dict(zip(self.plan.axes, key, strict=True))
            twin = tuple({**labels, axis: reference}.values())
            paired = difference(self.groups[twin], rows, self.score) if twin != key and twin in scores else None
            if paired is not None:
                wide = [Interval.from_dict({"mean": 0.0, **scores[k]["over_trainings"]}) for k in (twin, key)]
                apart = disjoint(*(Interval.from_dict(scores[k]) for k in (twin, key)))
                found.append({**labels, "minuend": reference, **paired, "disjoint": apart, "disjoint_over_trainings": disjoint(*wide)})
        return found


def pool(rows: pd.DataFrame, score: str, kind: str = "mean") -> dict[str, Any]:
    """Mean over training seeds, tasks and episodes, with two 95 % intervals (see `INTERVALS`), JSON-ready.

    `low` and `high` are those of a bootstrap within each training seed and task (of rates of one task: Wilson's).
    """
    parts = rows.groupby(["training_seed", "task"], sort=False)[score]
    groups, means = [part.to_numpy(float) for _, part in parts], parts.mean().groupby("training_seed", sort=False).mean()
    if rows["task"].nunique() > 1:
        interval = stratified_mean(groups)
    else:
        interval = wilson(round(float(rows[score].sum())), len(rows)) if kind == "rate" else within_groups(groups)
    mean = float(means.mean())
    return {**interval.to_dict(), "mean": mean, "over_trainings": _wide(rows, score, mean), "episodes": len(rows)}


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
    tasks = [own.to_numpy(float) for _, own in table.T.groupby("task")]
    interval = over_trainings([own.T for own in tasks], mean).to_dict()
    return {"low": interval["low"], "high": interval["high"]}


def collect(plan: Plan, outcomes: Mapping[str, Outcome]) -> Results:
    """Reads the outputs of the jobs that are done: LWDError where there is none, or a damaged one."""
    done = [point for point in plan.points if outcomes[point.test.name].state == "done"]
    require(len(done) > 0, f"no cell of the study has a result: see the logs in {plan.folder / 'jobs'}")
    cells, episodes = [], []
    for point in done:
        result = read_json(point.test.output, AGAIN)
        labels = {**point.cell.values, "training_seed": point.cell.seed}
        cells.append({**labels, **_cell(point, result)})
        for record in result["records"]:
            own = {key: value for key, value in record.items() if not isinstance(value, list | dict) and key not in ("seed", "task")}
            episodes.append({**labels, "task": record.get("task", ""), "environment_seed": record["seed"], **own})
    facts = {name: result[name] for name in ("lwd", "env", "obs_kind", "hardware")} | {"data": Run(done[0].training.run).record()["data"]}
    kinds = {score: own["kind"] for score, own in result["scores"].items()}
    return Results(plan, pd.json_normalize(cells), pd.DataFrame(episodes), result["primary"], kinds, facts)


def _cell(point: Point, result: Mapping[str, Any]) -> dict[str, Any]:
    """What the row of a cell holds beside its axes; nested values become columns such as `links.rate`."""
    flops, queries, run = result["flops_per_step"], result["queries_per_episode"], point.training.run
    query, control = (result[name]["p50"] for name in ("ms_per_query", "ms_per_control_step"))
    steps = float(np.mean([record["steps"] for record in result["records"]]))
    asked = result["settings"].get("monitor") or 0.0  # then FLOPs are spread over the queries that were made (`lwd.evaluate`)
    every = steps / queries if asked else result["replan_every"]
    cell = {"run": str(run), "query_flops": flops["query"] * every, "step_flops": flops["amortised_total"]}
    cell |= {"ms_per_query": query, "ms_per_control_step": control, "queries_per_episode": queries}
    cell |= {"seconds_per_episode": (query * queries + control * steps) / 1e3, **_of_run(run), "decoded": result.get("decoded", {})}
    if point.measured is not None and point.measured.content["kind"] == "links" and point.measured.output.exists():
        cell["links"] = read_json(point.measured.output, AGAIN)
    return cell


@lru_cache
def _of_run(path: Path) -> dict[str, Any]:
    """What a trained run tells: parameters by module, seconds of each stage and milliseconds of its steps."""
    run = Run(path)
    method, seconds = run.config().method, run.state()["seconds"]
    per_step = {name: 1e3 * seconds[name] / max(1, stage.steps) for name, stage in method.stages.items()}
    return {"seconds": seconds, "step_ms": per_step, "parameters": make_method(method, run.spec()).parameter_counts()}


def write(results: Results, failures: Sequence[Mapping[str, str]], as_json: bool = False) -> None:
    """Writes `<name>.json`, `<name>.md` and the figures, and prints the tables; with `as_json`, the JSON without cells and episodes."""
    plan, console = results.plan, Console(stderr=as_json)
    study, folder, name = plan.study, plan.folder, plan.name
    made = [item for view in study.views for item in view(results)]
    tables, drawings = [item for item in made if isinstance(item, Table)], [item for item in made if isinstance(item, Drawing)]
    pictures = [Picture(save(own.figure, folder / f"{own.name}.png"), own.title, own.caption, wide=True) for own in drawings]
    command = shlex.join(["lwd", *sys.argv[1:]])
    settings = {**asdict(plan.options), "variant": plan.variant, "data": plan.data, "axes": plan.axes}
    content = {"study": name, "command": command, "settings": settings, **results.facts, "score": results.score, "failures": failures}
    content |= {"intervals": INTERVALS, "pooled": results.pooled, "differences": results.differences}
    content |= {"tables": [asdict(table) for table in tables]}
    frames = {"cells": results.cells, "episodes": results.episodes}
    rows = {key: json.loads(frame.to_json(orient="records", double_precision=15)) for key, frame in frames.items()}
    write_json(folder / f"{name}.json", {**content, **rows})
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
        print(json.dumps(content, indent=1))
