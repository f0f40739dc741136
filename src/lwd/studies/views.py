"""Views of the results of a study: each is called with them and makes tables and drawings. pandas and matplotlib come with the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lwd.report.tables import Table
from lwd.statistics import Interval
from lwd.studies.study import View, shown

if TYPE_CHECKING:
    from lwd.studies.results import Drawing, Results

BANDS = "Bands: 95 % intervals over episodes (dark), and over trainings and environments (faint)."
LEAST = "Bands: from the least to the most of the trainings."
Entry = Mapping[str, Any]
Only = Callable[[Entry], bool]


def pivot(results: Results, entries: Sequence[Entry], across: str, text: Callable[[Entry, bool], str]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table: a column for each value of the axis `across`, a row for each combination of the others.

    `text` writes a cell, given its entry, and whether the entry's `mean` is the best of the row.
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
    return [*(axis.replace("_", " ") for axis in others), *(named(across, name) for name in columns)], texts


def scores(across: str, every: bool = False) -> View:
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
        yield Table(f"{named(axis, reference)} minus the others", columns, rows, note + "those that resample the trainings.")


def measured(by: Sequence[str], columns: Mapping[str, tuple[str, float, str]], title: str, caption: str) -> View:
    """What was measured in the cells, by some axes: the mean over trainings, and the least and the most.

    `columns` are title -> column of `Results.cells`, factor, format.
    """

    def view(results: Results) -> Iterator[Table]:
        rows = []
        for key, cells in results.cells.groupby(list(by), sort=False):
            found = [(cells[name].dropna() * factor if name in cells else [], form) for name, factor, form in columns.values()]
            rows.append([*map(shown, key), *(spread(list(values), form) for values, form in found)])
        yield Table(title, [*(axis.replace("_", " ") for axis in by), *columns], rows, caption)

    return view


def query_cost(*by: str) -> View:
    """What a query and a step cost, by some axes."""
    columns = {
        "MFLOP per query": ("query_flops", 1e-6, "{:.3g}"),
        "MFLOP per step": ("step_flops", 1e-6, "{:.3g}"),
        "ms per query": ("ms_per_query", 1.0, "{:.3g}"),
        "ms per control step": ("ms_per_control_step", 1.0, "{:.3g}"),
    }
    note = "A batch of one; the query is spread over the steps until the next one. FLOPs are those of matrix products and convolutions. "
    return measured(by, columns, "cost", note + "Mean over cells (least to most); times were measured while other jobs ran beside.")


@dataclass(frozen=True)
class Lines:
    """The score, or another `value` of the cells, against an axis or a value `x`, as a figure: see `lwd.report.grids.lines_with_bands`.

    `only` chooses points of the grid; nothing is drawn where `x` has one value.
    """

    name: str
    title: str
    x: str
    line: str = ""
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
        points: dict[tuple[Any, ...], Entry] = {}  # a value of a training is the same in all its evaluations
        for entry in results.pooled:
            drawn = {**entry["values"], **entry["scores"]}
            if self.only(entry) and score in drawn:
                own = {"": "", **{name: value["mean"] for name, value in drawn.items()}, **entry, "shown": drawn[score]}
                points.setdefault(tuple(own[name] for name in (self.x, self.line, self.panel)), own)
        entries = list(points.values())
        if len({entry[self.x] for entry in entries}) > 1:
            labels = {"xlabel": self.xlabel or self.x.replace("_", " "), "ylabel": self.ylabel or score.replace("_", " ")}
            figure = lines_with_bands(entries, x=self.x, line=self.line, panel=self.panel, base=self.base, **labels)
            yield Drawing(self.name, figure, self.title, LEAST if self.value else BANDS)


def cost_figure(name: str, title: str, note: str, entries_of: Callable[[Results], Sequence[Entry]] | None = None, **how: str) -> View:
    """Score against a cost: see `lwd.report.grids.cost_against_score`. `entries_of` gives entries more to tell them apart by."""

    def view(results: Results) -> Iterator[Drawing]:
        from lwd.report.grids import cost_against_score
        from lwd.studies.results import Drawing

        entries = [{**entry, "shown": entry["scores"][results.score]} for entry in (entries_of(results) if entries_of else results.pooled)]
        figure = cost_against_score(entries, panel="perturbation", ylabel=results.score.replace("_", " "), **how)
        yield Drawing(name, figure, title, f"{note} Bars: 95 % intervals over episodes. Upper left is better.")

    return view


def latent_map(name: str, title: str, axis: str, colour: str, pair: tuple[int, int] = (0, 1), label: str = "") -> View:
    """Two principal components of encoded training snippets, a panel for each value of an axis, of the first training seed.

    `colour` is "task", or "progress" for where in its episode a snippet starts.
    """

    def view(results: Results) -> Iterator[Drawing]:
        from lwd.diagnose.separability import encoded
        from lwd.report.grids import maps
        from lwd.studies.results import Drawing

        points = [point for point in results.plan.points if not point.cell.seed and point.training.finished() is not None]
        runs = {named(axis, point.cell.values[axis]): point.training.run for point in points}
        found = {panel: encoded(run, results.plan.options.device) for panel, run in runs.items()}
        figure = maps({panel: (own.codes, getattr(own, colour)) for panel, own in found.items()}, pair, label)
        yield Drawing(name, figure, title, "Posterior means of training snippets, first training seed. Every panel has its own scale.")

    return view


def by_task(across: str, only: Only = lambda entry: True) -> View:
    """Score of each task, the hardest first, with a column for each value of an axis."""

    def view(results: Results) -> Iterator[Table]:
        entries = [entry for entry in results.pooled if "tasks" in entry and only(entry)]
        if entries:
            tasks = sorted(entries[0]["tasks"], key=lambda task: sum(entry["tasks"][task]["mean"] for entry in entries))
            rows = [[task, *(interval(entry["tasks"][task]) for entry in entries)] for task in tasks]
            columns = ["task", *(named(across, entry[across]) for entry in entries)]
            note = "Brackets: 95 % intervals (of rates: Wilson) over the episodes of all training seeds."
            yield Table(f"{results.score.replace('_', ' ')} by task", columns, rows, note)

    return view


def named(axis: str, value: Any) -> str:
    """A value of an axis as the name of a column."""
    return value if isinstance(value, str) else f"{axis.replace('_', ' ')} {shown(value)}"


def interval(entry: Entry, digits: int = 2) -> str:
    """The interval of a pooled score as text."""
    return Interval.from_dict(dict(entry)).format(digits)


def spread(values: Sequence[float], form: str) -> str:
    """`mean (least to most)`; a dash where nothing was measured."""
    if not values:
        return "–"
    mean, least, most = (form.format(value) for value in (sum(values) / len(values), min(values), max(values)))
    return mean if least == most else f"{mean} ({least} to {most})"
