"""Results of evaluations as tables, for the terminal and for reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from lwd.statistics import FEW, Interval


def tabulate(results: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Column names and one row of text per result, for the terminal and for reports."""
    scores = list(dict.fromkeys(score for result in results for score in result["scores"]))
    columns = ["result", "horizon", "perturbation", "n", *(s.replace("_", " ") for s in scores)]
    columns += ["queries", "ms/query p50 (p95)", "ms/step p50 (p95)", "MFLOP/step"]
    rows = []
    for r in results:
        cells = [r["name"], str(r["horizon"]), f"{r['perturbation']:g}", str(r["episodes"])]
        cells += [str(Interval.from_dict(r["scores"][s])) if s in r["scores"] else "–" for s in scores]
        cells += [f"{r['queries_per_episode']:.1f}"]
        cells += [f"{r[key]['p50']:.3g} ({r[key]['p95']:.3g})" for key in ("ms_per_query", "ms_per_control_step")]
        rows.append([*cells, f"{r['flops_per_step']['amortised_total'] / 1e6:.3g}"])
    return columns, rows


def render(results: Sequence[Mapping[str, Any]], title: str | None = None) -> Table:
    """The results as a table for the terminal; one result is shown upright, which fits a narrow window."""
    columns, rows = tabulate(results)
    caption = "brackets: 95 % intervals (rates: Wilson; means, and means over tasks: bootstrap); times and FLOPs for a batch of one"
    if min((r["episodes"] for r in results), default=FEW) < FEW:
        caption += f"; with fewer than {FEW} episodes the intervals of means are too narrow where failures are rare"
    if len(rows) == 1:
        table = Table("", "", title=title, show_header=False, caption=caption)
        for pair in zip(columns, rows[0], strict=True):
            table.add_row(*pair)
        return table
    table = Table(title=title, caption=caption)
    for column in columns:
        table.add_column(column, justify="left" if column == "result" else "right", no_wrap=column == "result")
    for row in rows:
        table.add_row(*row)
    return table


def render_tasks(result: Mapping[str, Any]) -> Table:
    """Scores by task, the worst first."""
    names = list(result["scores"])
    table = Table("task", "n", *(name.replace("_", " ") for name in names), title="by task", caption="brackets: 95 % intervals (Wilson)")
    for task, own in sorted(result["tasks"].items(), key=lambda item: item[1][result["primary"]]["mean"]):
        table.add_row(task, str(own["episodes"]), *(str(Interval.from_dict(own[name])) for name in names))
    return table
