"""One kind of table for the terminal and for reports, and the tables of evaluation results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rich.table
from rich.markup import escape

from lwd.statistics import FEW, Interval

VERDICTS = {"ok": "green", "weak": "yellow", "broken": "red"}  # colours of cells in the terminal


@dataclass(frozen=True)
class Table:
    """A table of text: `rows` have a cell for each of `columns`; the first one names the row. Cells may hold **bold**."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether it holds numbers only, and so is aligned at the right. The first one names the rows."""
        cells = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        return [False, *(bool(own) and all(map(_number, own)) for own in cells[1:])]


def terminal(table: Table) -> rich.table.Table:
    """The table for `rich.console.Console.print`; a single long row is shown from top to bottom, which fits a narrow window."""
    if upright := len(table.rows) == 1 and len(table.columns) > 6:
        table = Table(table.title, ("", ""), list(zip(table.columns, table.rows[0], strict=True)), table.caption)
    shown = rich.table.Table(title=_plain(table.title) or None, caption=_plain(table.caption) or None, show_header=not upright)
    for name, number in zip(table.columns, table.numeric, strict=True):
        shown.add_column(_plain(name), justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*(f"[{VERDICTS[cell]}]{cell}[/]" if cell in VERDICTS else _plain(cell) for cell in row))
    return shown


def markdown(table: Table) -> str:
    """The table in Markdown, without its title."""
    rows = [table.columns, ["---:" if number else "---" for number in table.numeric], *table.rows]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |" for cells in rows]
    return "\n".join(lines) + (f"\n\n{table.caption}" if table.caption else "")


def tabulate(results: Sequence[Mapping[str, Any]], title: str = "") -> Table:
    """Scores and costs of evaluation results (`lwd.evaluate`), a row for each."""
    scores = list(dict.fromkeys(score for result in results for score in result["scores"]))
    columns = ["result", "replan every", "disturb", "n", *(score.replace("_", " ") for score in scores)]
    columns += ["queries", "ms/query p50 (p95)", "ms/step p50 (p95)", "MFLOP/step"]
    rows = []
    for r in results:
        cells = [r["name"], str(r["replan_every"]), r["disturb"] + f" delay {r['delay']}" * (r["delay"] > 0), str(r["episodes"])]
        cells += [str(Interval.from_dict(r["scores"][s])) if s in r["scores"] else "–" for s in scores]
        cells += [f"{r['queries_per_episode']:.1f}"]
        cells += [f"{r[key]['p50']:.3g} ({r[key]['p95']:.3g})" for key in ("ms_per_query", "ms_per_control_step")]
        rows.append([*cells, f"{r['flops_per_step']['amortised_total'] / 1e6:.3g}"])
    caption = "Brackets are 95 % intervals (rates: Wilson; means, also over tasks: bootstrap). Times and FLOPs are of a batch of one."
    if any(r["episodes"] < FEW for r in results):
        caption += f" With fewer than {FEW} episodes the intervals of means are too narrow where failures are rare."
    return Table(title, columns, rows, caption)


def tabulate_tasks(result: Mapping[str, Any], title: str = "by task") -> Table:
    """Scores of one result by task, the worst first."""
    names = list(result["scores"])
    worst_first = sorted(result["tasks"].items(), key=lambda item: item[1][result["primary"]]["mean"])
    rows = [[task, str(own["episodes"]), *(str(Interval.from_dict(own[n])) for n in names)] for task, own in worst_first]
    return Table(title, ["task", "n", *(n.replace("_", " ") for n in names)], rows, "Brackets are 95 % intervals (rates: Wilson).")


def _number(cell: str) -> bool:
    return cell.removeprefix("**").lstrip("-+−±<")[:1].isdigit() or cell in ("", "–", "n/a")


def _plain(text: str) -> str:
    return escape(text.replace("**", ""))
