"""Views of the results of a study: each is called with them and makes tables and drawings. pandas and matplotlib come with the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lwd.report.tables import Table
from lwd.statistics import Interval
from lwd.studies.study import shown

if TYPE_CHECKING:
    from lwd.studies.results import Drawing, Results

BANDS = "Bands: 95 % intervals over episodes (dark), and over trainings and environments (faint)."
LEAST = "Bands: from the least to the most of the trainings."
Entry = Mapping[str, Any]
Only = Callable[[Entry], bool]


def pivot(results: Results, entries: Sequence[Entry], across: str, text: Callable[[Entry, bool], str]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table: a column for each value of one axis, a row for each combination of the others.

    Args:
        results: of the study, whose axes are meant.
        entries: points of the grid with their `mean`.
        across: axis of the columns.
        text: writes a cell, given its entry, and whether its mean is the best of the row.
    """
    columns = list(dict.fromkeys(entry[across] for entry in entries))
    others = [axis for axis in results.plan.axes if axis != across]
    others = [axis for axis in others if len({entry[axis] for entry in entries}) > 1] or others[:1]
    rows: dict[tuple[Any, ...], dict[Any, Entry]] = {}
    for entry in entries:
        rows.setdefault(tuple(entry[axis] for axis in others), {})[entry[across]] = entry
    texts = []
    for key, own in rows.items():
        best = max(entry["mean"] for entry in own.values())
        texts.append([*map(shown, key), *(text(own[name], own[name]["mean"] == best) if name in own else "–" for name in columns)])
    return [*(axis.replace("_", " ") for axis in others), *map(shown, columns)], texts


def scores(across: str, every: bool = False) -> Callable[[Results], Iterator[Table]]:
    """Pooled scores with their intervals; `across` is the axis of the columns. `every`: all scores, not only the primary one."""

    def view(results: Results) -> Iterator[Table]:
        for score in results.kinds if every else (results.score,):
            entries = [{**entry, **entry["scores"][score]} for entry in results.pooled]
            columns, rows = pivot(results, entries, across, lambda e, best: f"**{interval(e)}**" if best else interval(e))
            yield Table(score.replace("_", " "), columns, rows, "In bold: the best mean of the row. Brackets: 95 % intervals.")

    return view


def differences(results: Results) -> Iterator[Table]:
    """Paired differences from the study's reference; no table where there is none."""
    if results.differences:
        axis, reference = results.plan.study.against or ("", "")
        mark = {(True, True): " ‡", (True, False): " †"}

        def text(entry: Entry, best: bool) -> str:
            return interval(entry) + mark.get((entry["disjoint"], entry["disjoint_over_trainings"]), "")

        columns, rows = pivot(results, results.differences, axis, text)
        note = "Pairs share training seed and environment. †: the 95 % intervals of the two scores have no number in common; ‡: not even "
        yield Table(f"{shown(reference)} minus the others", columns, rows, note + "those that resample the trainings.")


@dataclass(frozen=True)
class Measured:
    """What was measured in the cells, by some axes: the mean over trainings, and the least and the most.

    Args:
        by: axes.
        columns: title -> column of `Results.cells`, factor, format.
        title, caption: of the table.
    """

    by: Sequence[str]
    columns: Mapping[str, tuple[str, float, str]]
    title: str
    caption: str = "Mean over trainings (least to most)."

    def __call__(self, results: Results) -> Iterator[Table]:
        rows = []
        for key, cells in results.cells.groupby(list(self.by), sort=False):
            found = [(cells[name].dropna() * factor if name in cells else [], form) for name, factor, form in self.columns.values()]
            rows.append([*map(shown, key), *(spread(list(values), form) for values, form in found)])
        yield Table(self.title, [*(axis.replace("_", " ") for axis in self.by), *self.columns], rows, self.caption)


def query_cost(*by: str) -> Measured:
    """What a query and a step cost, by some axes."""
    columns = {
        "MFLOP per query": ("query_flops", 1e-6, "{:.3g}"),
        "MFLOP per step": ("step_flops", 1e-6, "{:.3g}"),
        "ms per query": ("ms_per_query", 1.0, "{:.3g}"),
        "ms per control step": ("ms_per_control_step", 1.0, "{:.3g}"),
    }
    note = "A batch of one; the query is spread over the steps until the next one. FLOPs are those of matrix products and convolutions. "
    return Measured(by, columns, "cost", note + "Mean over cells (least to most); times were measured while other jobs ran beside.")


@dataclass(frozen=True)
class Lines:
    """The score, or another value of the cells, against a setting, as a figure `name`.png: see `lwd.report.grids.lines_with_bands`.

    `only` chooses points of the grid; nothing is drawn of a setting with one value.
    """

    name: str
    title: str
    x: str
    line: str
    panel: str = ""
    value: str = ""
    xlabel: str = ""
    ylabel: str = ""
    base: int = 2
    only: Only = lambda entry: True

    def __call__(self, results: Results) -> Iterator[Drawing]:
        from lwd.report.grids import lines_with_bands
        from lwd.studies.results import Drawing

        score = self.value or results.score
        entries = [{"": "", **e, "shown": {**e["values"], **e["scores"]}.get(score)} for e in results.pooled if self.only(e)]
        entries = [entry for entry in entries if entry["shown"] is not None]
        if len({entry[self.x] for entry in entries}) > 1:
            labels = {"xlabel": self.xlabel or self.x.replace("_", " "), "ylabel": self.ylabel or score.replace("_", " ")}
            figure = lines_with_bands(entries, x=self.x, line=self.line, panel=self.panel, base=self.base, **labels)
            yield Drawing(self.name, figure, self.title, LEAST if self.value else BANDS)


def by_task(across: str, only: Only = lambda entry: True) -> Callable[[Results], Iterator[Table]]:
    """Score of each task, the hardest first, with a column for each value of an axis."""

    def view(results: Results) -> Iterator[Table]:
        entries = [entry for entry in results.pooled if "tasks" in entry and only(entry)]
        if entries:
            tasks = sorted(entries[0]["tasks"], key=lambda task: sum(entry["tasks"][task]["mean"] for entry in entries))
            rows = [[task, *(interval(entry["tasks"][task]) for entry in entries)] for task in tasks]
            columns = ["task", *(shown(entry[across]) for entry in entries)]
            note = "Brackets: 95 % intervals (of rates: Wilson) over the episodes of all training seeds."
            yield Table(f"{results.score.replace('_', ' ')} by task", columns, rows, note)

    return view


def interval(entry: Entry, digits: int = 2) -> str:
    """The interval of a pooled score as text."""
    return Interval.from_dict(dict(entry)).format(digits)


def spread(values: Sequence[float], form: str) -> str:
    """`mean (least to most)`; a dash where nothing was measured."""
    if not values:
        return "–"
    mean, least, most = (form.format(value) for value in (sum(values) / len(values), min(values), max(values)))
    return mean if least == most else f"{mean} ({least} to {most})"
