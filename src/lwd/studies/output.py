"""From the evaluations of a study to its JSON, its markdown file and what is printed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwd.errors import LWDError
from lwd.studies.files import training_state
from lwd.studies.pooling import Scores, difference, disjoint, pooled
from lwd.studies.tasks import Outcome

if TYPE_CHECKING:
    from lwd.studies.base import Cell, Study

KEPT = (
    "name",
    "env",
    "obs",
    "max_steps",
    "sampler",
    "hardware",
    "queries_per_episode",
    "ms_per_query",
    "ms_per_control_step",
    "flops_per_step",
)


def write_outputs(study: Study, cells: Sequence[Cell], outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Aggregates the cells that are done; writes `<name>.json`, `<name>.md` and the figures; prints the tables.

    Returns:
        What was written to the JSON.

    Raises:
        LWDError: no cell is done.
    """
    from rich.console import Console

    from lwd.evaluate import hardware
    from lwd.report import Content, markdown
    from lwd.run import write_text

    console, name = Console(stderr=study.json), study.name
    failures = [
        {"task": task, "state": outcome.state, "log": str(study.directory / "logs" / f"{task}.log"), "note": outcome.note}
        for task, outcome in outcomes.items()
        if outcome.state != "done"
    ]
    for line in failure_lines(failures) if failures else ():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    done = [cell for cell in cells if outcomes[cell.task.name].state == "done"]
    if not done:
        raise LWDError(f"no cell of the study has a result: see the logs in {study.directory / 'logs'}")
    rows = [read_cell(cell) for cell in done]
    result: dict[str, Any] = {
        "version": 1,
        "study": name,
        "command": study.command,
        "settings": study.settings(),
        "lwd": rows[0]["lwd"],
        "hardware": hardware(),
        "data": rows[0]["data"],
        "score": rows[0]["primary"],
        "intervals": "95 %; low, high: episodes of these trainings; over_trainings: training seeds and environments resampled",
        "failures": failures,
        "pooled": pool(rows),
        "cells": rows,
    }
    if study.against is not None:
        result["differences"] = differences(rows, result["pooled"], *study.against)
    result.update(study.extras(result))
    result["cells"] = result.pop("cells")  # the longest comes last
    write_text(study.directory / f"{name}.json", dumps(result))
    tables, pictures = study.tables(result), study.figures(result, done)
    title = (type(study).__doc__ or name).splitlines()[0].rstrip(".")
    notes = [f"{len(failures)} of {len(outcomes)} tasks have no result, and are missing above."] if failures else []
    machines = sorted({f"{row['hardware']['cpu']}, {row['hardware']['device']}" for row in rows})
    facts = {
        "command": f"`{study.command}`",
        "data": f"{result['data']['description']} — {result['data']['episodes']} training episodes",
        "evaluated on": "; ".join(machines) + "; times were measured while other cells ran beside them",
        "numbers": f"`{name}.json`",
    }
    content = Content(title, study.intro(result), tables, pictures, (), notes, facts, "synthetic" in result["data"]["description"])
    write_text(study.directory / f"{name}.md", markdown(study.directory, content))
    for table in tables:
        console.print(terminal(table))
    for path in (f"{name}.json", f"{name}.md", *(picture.path.name for picture in pictures)):
        console.print(str(study.directory / path), highlight=False, soft_wrap=True)
    return result


def read_cell(cell: Cell) -> dict[str, Any]:
    """One cell for the JSON: labels, costs, and the scores of every episode (traces over time stay in the run's own eval/*.json).

    Raises:
        LWDError: a damaged result.
    """
    from lwd.run import read_json

    result = read_json(cell.task.output, "delete it, and the same command makes it again")
    config = read_json(cell.task.run / "config.json", "the run directory is damaged")
    return {
        **cell.labels,
        "seed": cell.seed,
        "run": str(cell.task.run),
        **{key: result[key] for key in KEPT},
        **({"decoded": result["decoded"]} if "decoded" in result else {}),
        "lwd": result["lwd"],
        "primary": result["primary"],
        "kinds": {score: values["kind"] for score, values in result["scores"].items()},
        "labels": list(cell.labels),
        "training_seconds": training_state(cell.task.run)[2],
        "data": {key: value for key, value in config["data"].items() if key != "path"},
        "records": [{key: value for key, value in record.items() if not isinstance(value, list)} for record in result["records"]],
    }


def scores_of(rows: Sequence[Mapping[str, Any]], score: str) -> Scores:
    """Of the cells of one point of the grid."""
    return {row["seed"]: {(record.get("task", ""), record["seed"]): float(record[score]) for record in row["records"]} for row in rows}


def pool(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per point of the grid: pooled scores, and costs as medians over its training seeds."""
    from statistics import median

    entries = []
    for labels, group in points(rows).items():
        first = group[0]
        entry: dict[str, Any] = dict(labels)
        entry["seeds"] = [row["seed"] for row in group]
        entry["scores"] = {score: pooled(scores_of(group, score), kind) for score, kind in first["kinds"].items()}
        entry.update(tasks_of(group))
        entry["queries_per_episode"] = sum(row["queries_per_episode"] for row in group) / len(group)
        entry["steps_per_episode"] = sum(r["steps"] for row in group for r in row["records"]) / sum(len(row["records"]) for row in group)
        for key in ("ms_per_query", "ms_per_control_step"):
            entry[key] = median(row[key]["p50"] for row in group)
        entry["flops_per_step"] = first["flops_per_step"]
        entry["seconds_per_episode"] = (
            entry["ms_per_query"] * entry["queries_per_episode"] + entry["ms_per_control_step"] * entry["steps_per_episode"]
        ) / 1e3
        entries.append(entry)
    return entries


def tasks_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`tasks`: the primary score of each task, for the cells of one point of the grid; nothing where there are not two tasks."""
    score = rows[0]["primary"]
    scores = scores_of(rows, score)
    names = sorted({episode[0] for row in scores.values() for episode in row if isinstance(episode, tuple)})
    if len(names) < 2:
        return {}
    found = {}
    for name in names:
        own: Scores = {seed: {k: v for k, v in row.items() if isinstance(k, tuple) and k[0] == name} for seed, row in scores.items()}
        found[name] = pooled({seed: row for seed, row in own.items() if row}, rows[0]["kinds"][score])
    return {"tasks": found}


def points(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[tuple[str, Any], ...], list[Mapping[str, Any]]]:
    """The rows by their point in the grid, in order of appearance."""
    found: dict[tuple[tuple[str, Any], ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple((label, row[label]) for label in row["labels"]), []).append(row)
    return found


def differences(
    rows: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]], label: str, reference: Any
) -> list[dict[str, Any]]:
    """For every point with another value of `label`: the reference minus it, in the primary score, in pairs.

    `disjoint` tells whether the 95 % intervals of the two have no number in common, `disjoint_over_trainings` the same of the wider ones.
    """
    groups = points(rows)
    summary = dict(zip(groups, entries, strict=True))
    found = []
    for key, group in groups.items():
        own = dict(key)
        twin = tuple((name, reference if name == label else value) for name, value in key)
        if own[label] == reference or twin not in groups:
            continue
        score = group[0]["primary"]
        a, b = summary[twin]["scores"][score], summary[key]["scores"][score]
        try:
            paired = difference(scores_of(groups[twin], score), scores_of(group, score))
        except LWDError:  # what both have was lost to failures
            continue
        found.append(
            {
                **own,
                "minuend": reference,
                "score": score,
                **paired,
                "disjoint": disjoint(a, b),
                "disjoint_over_trainings": disjoint(a["over_trainings"], b["over_trainings"]),
            }
        )
    return found


def failure_lines(failures: Sequence[Mapping[str, str]]) -> list[str]:
    """For the terminal: what has no result, the end of its log, and where the log is."""
    lines = ["without a result:"]
    for failure in failures:
        first, *rest = failure["note"].splitlines() or ["no output"]
        lines.append(f"  {failure['state']:<8} {failure['task']}: {first}")
        if failure["state"] == "failed":
            lines += [f"           {line}" for line in (*rest, f"log: {failure['log']}")]
    return lines


def terminal(table: Any) -> Any:
    """A `lwd.report.Table` for the terminal."""
    from rich.table import Table

    shown = Table(title=table.title, caption=table.caption)
    for number, column in enumerate(table.columns):
        shown.add_column(column.replace("**", ""), justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*(cell.replace("**", "").replace("[", "\\[") for cell in row))
    return shown


def dumps(result: Mapping[str, Any]) -> str:
    """JSON with one line per item of a long list: readable, and without a line for each of ten thousand numbers."""
    lines = []
    for key, value in result.items():
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join("  " + json.dumps(item) for item in value) + "\n ]"
        else:
            text = json.dumps(value, indent=1).replace("\n", "\n ")
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def relative(path: Path, folder: Path) -> str:
    """A path as it is written in the folder's markdown file."""
    return path.relative_to(folder).as_posix()
