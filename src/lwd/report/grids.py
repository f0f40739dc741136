"""Figures that studies share: a value against a setting, score against cost, maps of latents, film strips. Each returns a figure.

`entries` are points of a study's grid: their axes, and at `shown` the `mean` of what is drawn with `low` and `high` (None where unknown).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator
from numpy.typing import NDArray

from lwd.errors import LWDError
from lwd.report.plots import COLOURS, INK, MARKERS, legend, project, style

Entry = Mapping[str, Any]


def lines_with_bands(entries: Sequence[Entry], *, x: str, line: str, xlabel: str, ylabel: str, panel: str = "", base: int = 2) -> Figure:
    """A value against a setting `x`, with a band from `low` to `high` and a fainter one for `over_trainings` (Figure 3).

    `line` and `panel` are the axes that tell lines and panels apart. `base` is that of a logarithmic horizontal axis; 0 for a linear one.
    """
    figure, panels = _panels(_values(entries, panel), 3.2)
    ticks = sorted(map(float, _values(entries, x)))
    for value, axes in panels.items():
        for number, name in enumerate(_values(entries, line)):
            own = sorted((e for e in entries if e[panel] == value and e[line] == name), key=lambda e: e[x])
            at, drawn, colour = [e[x] for e in own], [e["shown"] for e in own], COLOURS[number % len(COLOURS)]
            for ends, alpha in ((drawn, 0.22), ([s.get("over_trainings", {"low": None}) for s in drawn], 0.10)):
                if own and all(e["low"] is not None for e in ends):
                    axes.fill_between(at, [e["low"] for e in ends], [e["high"] for e in ends], color=colour, alpha=alpha, lw=0)
            marker = MARKERS[number % len(MARKERS)]
            axes.plot(at, [s["mean"] for s in drawn], color=colour, lw=1.8, marker=marker, ms=4, label=_text(line, name))
        style(axes, _text(panel, value), xlabel, ylabel)
        if base and ticks[0] > 0:
            axes.set_xscale("log", base=base)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        least = 1.0 if "over_trainings" in entries[0]["shown"] else 0.0  # a score's axis always reaches 1
        axes.set_ylim(0, 1.03 * max(least, *(e["shown"]["high"] or e["shown"]["mean"] for e in entries)))
    legend(figure, next(iter(panels.values())))
    return figure


def cost_against_score(
    entries: Sequence[Entry], *, cost: str, xlabel: str, ylabel: str, mark: str, line: str, panel: str, join: str = ""
) -> Figure:
    """Score against a cost on a logarithmic axis; upper left is better (Figures 6 and 20). What costs nothing is left out.

    `cost` names one of the entries' `values`, `mark` what is written at every point. `line` and `panel` are the axes that tell colours and
    panels apart; points that have `join` (by default `line`) in common are joined.
    """
    figure, panels = _panels(_values(entries, panel), 4.0)
    for value, axes in panels.items():
        for number, name in enumerate(_values(entries, line)):
            colour, marker, kind = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)], _text(line, name)
            own = [e for e in entries if e[panel] == value and e[line] == name and e["values"][cost]["mean"] > 0]
            for group in _values(own, join or line):
                joined = [(e["values"][cost]["mean"], e["shown"], e[mark]) for e in own if e[join or line] == group]
                joined.sort(key=lambda point: point[0])
                at, means = [x for x, _, _ in joined], [score["mean"] for _, score, _ in joined]
                axes.plot(at, means, color=colour, lw=0.8, marker=marker, ms=6, label=kind)
                kind = ""  # one entry in the legend
                for x, score, text in joined:
                    if score["low"] is not None:
                        axes.plot([x, x], [score["low"], score["high"]], color=colour, lw=0.9, alpha=0.6)
                    place = (5, -10 if number % 2 else 4)  # neighbours of two kinds do not write over each other
                    axes.annotate(str(text), (x, score["mean"]), place, textcoords="offset points", fontsize=7, color=INK)
        style(axes, _text(panel, value), xlabel, ylabel)
        axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.set_ylim(0, 1.05)
    legend(figure, next(iter(panels.values())))
    return figure


def maps(panels: Mapping[str, tuple[NDArray, NDArray]], pair: tuple[int, int] = (0, 1), label: str = "") -> Figure:
    """Two principal components of latents (Figures 10, 11, 13): a panel for each set of them, with a scale of its own.

    `panels` are title -> (N, Z) latents and (N,) what colours them: names, or numbers from 0 to 1 (what they are says `label`).
    """
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * lines), layout="constrained")
    grid = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    words = sorted({str(name) for _, colours in panels.values() if colours.dtype.kind in "UO" for name in colours})
    for axes, (title, (codes, colours)) in zip(grid, panels.items(), strict=False):
        xy, names = project(codes, codes, pair)
        for number, name in enumerate(words):
            chosen, marker = colours == name, MARKERS[number // len(COLOURS) % len(MARKERS)]  # after seven colours the markers differ
            axes.scatter(*xy[chosen].T, s=9, color=COLOURS[number % len(COLOURS)], marker=marker, alpha=0.6, lw=0, label=name)
        if not words:
            dots = axes.scatter(*xy.T, s=4, c=colours, cmap="viridis", vmin=0, vmax=1, alpha=0.7, lw=0)
        style(axes, title, *names)
    if words:
        legend(figure, grid[0])
    else:
        figure.colorbar(dots, ax=grid, label=label).outline.set_visible(False)
    return figure


def film_rows(rows: Mapping[str, Sequence[NDArray[np.uint8]]], title: str = "") -> Figure:
    """Film strips below one another, the first on top (Figure 4): name of the row -> pictures (H, W, 3), equally many in every row."""
    if not rows or len({len(frames) for frames in rows.values()}) != 1 or not all(map(len, rows.values())):
        raise LWDError("a film needs at least one row, and as many frames in every row")
    count = len(next(iter(rows.values())))
    height, width = np.shape(next(iter(rows.values()))[0])[:2]
    figure = Figure(figsize=(1.5 * count, 1.5 * height / width * len(rows) + 0.3), layout="constrained")
    for line, (name, frames) in zip(figure.subplots(len(rows), count, squeeze=False), rows.items(), strict=True):
        for axes, frame in zip(line, frames, strict=True):
            axes.imshow(frame)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(name, fontsize=10, color=INK)
    figure.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    return figure


def spaced(total: int, count: int, wanted: Sequence[int]) -> list[int]:
    """`count` increasing indices below `total`, evenly spaced, but every other one moves to a wanted one where there is one near."""
    gap = (total - 1) / max(1, count - 1) / 2
    chosen: list[int] = np.linspace(0, total - 1, count).round().astype(int).tolist()
    for number in range(1, count - 1, 2):
        near = [step for step in wanted if abs(step - chosen[number]) < gap]
        chosen[number] = min(near, key=lambda step: (abs(step - chosen[number]), step), default=chosen[number])
    return chosen


def _values(entries: Sequence[Entry], axis: str) -> list[Any]:
    """The values of one axis, in order of appearance."""
    return list(dict.fromkeys(entry[axis] for entry in entries))


def _panels(values: Sequence[Any], height: float) -> tuple[Figure, dict[Any, Axes]]:
    figure = Figure(figsize=(max(5.0, 3.3 * len(values)), height), layout="constrained")
    return figure, dict(zip(values, figure.subplots(1, len(values), squeeze=False, sharey=True)[0], strict=True))


def _text(axis: str, value: Any) -> str:
    return value if isinstance(value, str) else f"{axis.replace('_', ' ')} {value:g}"
