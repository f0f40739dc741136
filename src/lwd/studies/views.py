"""Views of the results of a study: each is called with them and makes tables and drawings. pandas and matplotlib come with the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lwd.files import read_json
from lwd.report.tables import Table
from lwd.statistics import Interval
from lwd.studies.study import Drawing, View, shown

if TYPE_CHECKING:
    import pandas as pd

    from lwd.studies.results import Results

Columns = Mapping[str, tuple[str, float, str]]
BANDS = "Bands: 95 % intervals over episodes (dark), and over trainings and environments (faint)."
LEAST = "Bands: from the least to the most of the trainings."
QUERY = {
    "MFLOP per query": ("query_flops", 1e-6, "{:.3g}"),
    "MFLOP per step": ("step_flops", 1e-6, "{:.3g}"),
    "ms per query": ("ms_per_query", 1.0, "{:.3g}"),
    "ms per control step": ("ms_per_control_step", 1.0, "{:.3g}"),
}


def view(make: Callable[..., Iterator[Any]]) -> Callable[..., View]:
    """A function of results and settings as a function of the settings, which gives a view."""
    return lambda *settings, **named: lambda results: make(results, *settings, **named)


def grid(results: Results, entries: pd.DataFrame, across: str, title: str, caption: str, bold: bool = False) -> Table:
    """A column for each value of the axis `across`, a row for each combination of the others; `text` of the entries are the cells.

    `bold`: the best `mean` of a row is in bold.
    """
    others = [axis for axis in results.plan.axes if axis != across]
    if not others:  # the study's only axis: a row for each of its values
        best, texts = entries["mean"].max() if bold else None, zip(entries[across], entries["mean"], entries["text"], strict=True)
        rows = [[named(across, value), f"**{text}**" if mean == best else text] for value, mean, text in texts]
        return Table(title, [words(across), words(results.score)], rows, caption)
    others = [axis for axis in others if entries[axis].nunique() > 1] or others[:1]
    if bold:
        best = entries["mean"] == entries.groupby(others)["mean"].transform("max")
        entries = entries.assign(text=entries["text"].where(~best, "**" + entries["text"] + "**"))
    wide = entries.set_index([*others, across])["text"].unstack(sort=False).fillna("–")
    names = wide.index.to_frame().to_numpy().tolist()
    rows = [[*map(shown, own), *texts] for own, texts in zip(names, wide.to_numpy(), strict=True)]
    return Table(title, [*map(words, others), *(named(across, value) for value in wide.columns)], rows, caption)


@view
def scores(results: Results, across: str, every: bool = False) -> Iterator[Table]:
    """Pooled scores with their intervals; `across` is the axis of the columns. `every`: all scores, not only the primary one."""
    for score in results.kinds if every else (results.score,):
        points = results.points(score).assign(text=[interval(entry["scores"][score]) for entry in results.pooled])
        yield grid(results, points, across, words(score), "In bold: the best mean of the row. Brackets: 95 % intervals.", bold=True)


def differences(results: Results) -> Iterator[Table]:
    """Paired differences from the study's reference; no table where there is none."""
    import pandas as pd

    if results.differences:
        marks = ["‡" if own["disjoint_over_trainings"] else "†" for own in results.differences]
        texts = [interval(own) + f" {mark}" * own["disjoint"] for own, mark in zip(results.differences, marks, strict=True)]
        axis, reference = results.plan.study.against or ("", "")
        note = "Pairs share training seed and environment. †: the 95 % intervals of the two scores have no number in common; ‡: not even "
        title, note = f"{named(axis, reference)} minus the others", note + "those that resample the trainings."
        yield grid(results, pd.DataFrame(results.differences).assign(text=texts), axis, title, note)


@view
def measured(results: Results, by: Sequence[str], columns: Columns, title: str, caption: str) -> Iterator[Table]:
    """What was measured in the cells, by some axes: the mean over trainings, and the least and the most.

    `columns` are titles, each with a column of `Results.cells`, a factor and a format.
    """
    rows = []
    for key, cells in results.cells.groupby(list(by), sort=False):
        texts = [spread(cells[name].dropna() * factor, form) if name in cells else "–" for name, factor, form in columns.values()]
        rows.append([*map(shown, key), *texts])
    yield Table(title, [*map(words, by), *columns], rows, caption)


def query_cost(*by: str) -> View:
    """What a query and a step cost, by some axes."""
    note = "A batch of one; the query is spread over the steps until the next one. FLOPs are those of matrix products and convolutions. "
    return measured(by, QUERY, "cost", note + "Mean over cells (least to most); times were measured while other jobs ran beside.")


@view
def lines(
    results: Results, name: str, title: str, x: str, line: str = "", panel: str = "", *, value: str = "", only: str = "", **how: Any
) -> Iterator[Drawing]:
    """The score, or another `value` of the cells, against an axis or a value `x`: see `lwd.report.grids.lines_with_bands`.

    `line` and `panel` are axes. `only` chooses points (a pandas query); nothing is drawn where `x` has one value.
    """
    from lwd.report.grids import lines_with_bands

    points = results.points(value).query(only or "index >= 0")
    if len(points) and points[x].nunique() > 1:
        names = {column: [named(axis, v) for v in points[axis]] if axis else "" for column, axis in (("line", line), ("panel", panel))}
        points = points.assign(**names).drop_duplicates([x, "line", "panel"])  # a value of a training is the same in all evaluations
        labels = {"xlabel": words(x), "ylabel": words(results.score), **how}
        yield Drawing(name, lines_with_bands(points, x, **labels), title, LEAST if value else BANDS)


def cost_drawing(results: Results, points: pd.DataFrame, name: str, title: str, note: str, cost: str, xlabel: str) -> Drawing:
    """Score against a cost: see `lwd.report.grids.cost_against_score`; a panel for each disturbance and delay."""
    from lwd.report.grids import cost_against_score

    by = [axis for axis in ("disturb", "noise", "delay") if axis in points and (axis != "delay" or points[axis].any())]
    panels = [", ".join(named(axis, value) for axis, value in own.items()) for own in points[by].to_dict("records")]
    figure = cost_against_score(points.assign(panel=panels), cost, xlabel, words(results.score))
    return Drawing(name, figure, title, f"{note} Bars: 95 % intervals over episodes. Upper left is better.")


@view
def latent_map(
    results: Results,
    name: str,
    title: str,
    axis: str,
    colour: str,
    pair: tuple[int, int] = (0, 1),
    label: str = "",
    only: Sequence[str] = (),
    tsne: bool = False,
) -> Iterator[Drawing]:
    """Two principal components of encoded training snippets, or their t-SNE, a panel for each value (of `only`) of an axis, of the first
    training seed.

    `colour` is "label" (task, operator, behaviour), or "progress" for where in its episode a snippet starts.
    """
    from lwd.diagnose.separability import encoded
    from lwd.report.grids import maps

    points = [point for point in results.plan.points if not point.cell.seed and point.training.finished() is not None]
    points = [point for point in points if not only or point.cell.values[axis] in only]
    runs = {named(axis, point.cell.values[axis]): point.training.run for point in points}
    found = {panel: encoded(run, results.plan.options.device) for panel, run in runs.items()}
    if found:
        figure = maps({panel: (own.codes, getattr(own, colour)) for panel, own in found.items()}, pair, label, tsne)
        yield Drawing(name, figure, title, "Posterior means of training snippets, first training seed. Every panel has its own scale.")


@view
def separability(results: Results, axis: str, of: str) -> Iterator[Table]:
    """Silhouette and accuracy of nearest neighbours `of` tasks, operators or behaviours, by an axis and the part of the data."""
    import pandas as pd

    from lwd.studies.results import pool

    columns, found = [axis, "part", "measure", "training_seed", "task", "environment_seed", "value"], []
    once = {job.name: (cell, job) for cell, _, _, job in reversed(results.plan.points) if job is not None}  # cells may share a training
    for cell, job in reversed(once.values()):
        if job.output.exists():
            for part, measures in read_json(job.output, "the same command makes it again").items():
                found += [(cell.values[axis], part, name, cell.seed, *value) for name, values in measures.items() for value in values]
    table, names = [], ("silhouette", "neighbours")
    for (value, part), group in pd.DataFrame(found, columns=columns).groupby([axis, "part"], sort=False):
        texts = [interval(pool(own, "value"), 3) if len(own) else "–" for own in (group[group["measure"] == name] for name in names)]
        table.append([f"{named(axis, value)}, {words(part)}", *texts])
    caption = (
        f"Silhouette of {of}, from -1 to 1, and how often the five nearest latents of other demonstrations tell which it is of (cross-"
        "validation that keeps the snippets of a demonstration together). Brackets: 95 % intervals over demonstrations."
    )
    yield Table(f"how well latents tell {of} apart", ["latents", *names], table, caption)


@view
def by_task(results: Results, across: str, only: str = "") -> Iterator[Table]:
    """Score of each task, the hardest first, with a column for each value of an axis; `only` chooses points (a pandas query)."""
    chosen = results.points().query(only or "index >= 0").index
    entries = [results.pooled[number] for number in chosen if "tasks" in results.pooled[number]]
    if entries:
        tasks = sorted(entries[0]["tasks"], key=lambda task: sum(entry["tasks"][task]["mean"] for entry in entries))
        rows = [[task, *(interval(entry["tasks"][task]) for entry in entries)] for task in tasks]
        note = "Brackets: 95 % intervals (of rates: Wilson) over the episodes of all training seeds."
        columns = ["task", *(named(across, entry[across]) for entry in entries)]
        yield Table(f"{words(results.score)} by task", columns, rows, note)


def words(name: str) -> str:
    """A name as it is read."""
    return name.replace("_", " ")


def named(axis: str, value: Any) -> str:
    """A value of an axis as the name of a column."""
    return value if isinstance(value, str) else f"{words(axis)} {shown(value)}"


def interval(entry: Mapping[str, Any], digits: int = 2) -> str:
    """The interval of a pooled score as text."""
    return Interval.from_dict(dict(entry)).format(digits)


def spread(values: pd.Series, form: str) -> str:
    """`mean (least to most)`; a dash where nothing was measured."""
    if values.empty:
        return "–"
    mean, least, most = (form.format(value) for value in (values.mean(), values.min(), values.max()))
    return mean if least == most else f"{mean} ({least} to {most})"
