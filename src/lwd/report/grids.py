"""Figures of studies: a value against a setting, score against cost, maps of latents, film strips. Each returns a figure.

`points` have a row for each point of a study's grid: the names of its `panel` and `line`, and the `mean` of what is drawn with `low` and
`high` (NaN where unknown).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from lwd.report.plots import COLOURS, INK, MARKERS, legend, project, style

Panel = tuple[Axes, list[tuple[pd.DataFrame, dict[str, Any]]]]


def lines_with_bands(points: pd.DataFrame, x: str, xlabel: str, ylabel: str, base: int = 2) -> Figure:
    """A value against a setting in the column `x`, with a band from `low` to `high` and a fainter one for `over_trainings` (Figure 3).

    `base` is that of a logarithmic horizontal axis; 0 makes it linear.
    """
    ticks = np.unique(points[x].to_numpy(float))
    figure, panels = _panels(points, xlabel, ylabel, height=3.2)
    for axes, lines in panels:
        for own, look in lines:
            own = own.sort_values(x)
            for low, high, alpha in (("low", "high", 0.22), ("over_trainings.low", "over_trainings.high", 0.10)):
                if low in own and own[low].notna().all():
                    axes.fill_between(own[x], own[low], own[high], color=look["color"], alpha=alpha, lw=0)
            axes.plot(own[x], own["mean"], lw=1.8, ms=4, **look)
        if base and ticks[0] > 0:
            axes.set_xscale("log", base=base)
        axes.set_xticks(ticks, [short(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
        least = 1.0 if "over_trainings.low" in points else 0.0  # the axis of a score always reaches 1
        axes.set_ylim(0, 1.03 * max(least, points["high"].fillna(points["mean"]).max()))
    legend(figure, figure.axes[0])
    return figure


def short(tick: float) -> str:
    """What a tick says: 32, 1e-6, 500k, 7.8M."""
    return EngFormatter(sep="")(float(f"{tick:.2g}")) if tick >= 1e4 else f"{tick:g}".replace("e-0", "e-")


def cost_against_score(points: pd.DataFrame, cost: str, xlabel: str, ylabel: str) -> Figure:
    """Score against the column `cost` on a logarithmic axis; upper left is better (Figures 6 and 20). What costs nothing is left out.

    `mark` is written at a point; points that have `join` in common are joined.
    """
    figure, panels = _panels(points[points[cost] > 0], xlabel, ylabel, height=4.0)
    for axes, lines in panels:
        for number, (own, look) in enumerate(lines):
            axes.plot(own[cost], own["mean"], lw=0, ms=6, **look)
            axes.vlines(own[cost], own["low"], own["high"], color=look["color"], lw=0.9, alpha=0.6)
            for _, joined in own.sort_values(cost).groupby("join"):
                axes.plot(joined[cost], joined["mean"], color=look["color"], lw=0.8)
            place = (5, -10 if number % 2 else 4)  # neighbours of two kinds do not write over each other
            for text, x, y in zip(own["mark"], own[cost], own["mean"], strict=True):
                axes.annotate(text, (x, y), place, textcoords="offset points", fontsize=7, color=INK)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda x, _: short(x))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.15)
        axes.set_ylim(0, 1.05)
    legend(figure, figure.axes[0])
    return figure


def maps(
    panels: Mapping[str, tuple[NDArray, NDArray]],
    pair: tuple[int, int] = (0, 1),
    label: str = "",
    tsne: bool = False,
    names: tuple[str, str] | None = None,
) -> Figure:
    """Two principal components of latents (Figures 10, 11, 13) or their t-SNE (Figure 16): a panel for each set, with a scale of its own.

    `panels` are title -> (N, Z) latents and (N,) what colours them: names, or numbers from 0 to 1 (`label` says of what). With `names`
    of two axes, (N, 2) points are drawn as they are.
    """
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * lines), layout="constrained")
    words = sorted({str(name) for _, colours in panels.values() if colours.dtype.kind in "UO" for name in colours})
    for place, (title, (codes, colours)) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(lines, columns, place)
        xy, shown = (codes, names) if names else embed(codes) if tsne else project(codes, codes, pair)
        for number, name in enumerate(words):
            chosen, marker = colours == name, MARKERS[number // len(COLOURS) % len(MARKERS)]  # after seven colours the markers differ
            color = COLOURS[number % len(COLOURS)]
            axes.scatter(xy[chosen, 0], xy[chosen, 1], s=9, color=color, marker=marker, alpha=0.6, lw=0, label=name)
        if not words:
            dots = axes.scatter(xy[:, 0], xy[:, 1], s=4, c=colours, cmap="viridis", vmin=0, vmax=1, alpha=0.7, lw=0)
        style(axes, title, *shown)
    if words:
        legend(figure, figure.axes[0])
    else:
        figure.colorbar(dots, ax=figure.axes, label=label).outline.set_visible(False)
    return figure


def embed(codes: NDArray) -> tuple[NDArray, tuple[str, str]]:
    """(N, Z) latents -> (N, 2) t-SNE, always the same for the same latents, and the names of its axes."""
    from sklearn.manifold import TSNE

    near = min(30.0, (len(codes) - 1) / 3)
    return TSNE(perplexity=near, init="pca", random_state=0).fit_transform(codes), ("t-SNE 1", "t-SNE 2")


def film_rows(rows: Mapping[str, Sequence[NDArray[np.uint8]]], title: str) -> Figure:
    """Film strips below one another, the first on top (Figure 4): name of the row -> pictures (H, W, 3), equally many in every row."""
    strips = {
        name: np.hstack([np.pad(frame, ((0, 0), (2, 2), (0, 0)), constant_values=255) for frame in own]) for name, own in rows.items()
    }
    height = sum(12 * strip.shape[0] / strip.shape[1] for strip in strips.values())  # inches
    figure = Figure(figsize=(12, height + 0.3), layout="constrained")
    for axes, (name, strip) in zip(figure.subplots(len(strips), squeeze=False).flat, strips.items(), strict=True):
        axes.imshow(strip)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(name, fontsize=10, color=INK)
    figure.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    return figure


def _panels(points: pd.DataFrame, xlabel: str, ylabel: str, height: float) -> tuple[Figure, list[Panel]]:
    """A figure with axes for each `panel`; in each the points of every `line`, and how they are drawn."""
    titles, names, panels = points["panel"].unique(), points["line"].unique(), list[Panel]()
    figure = Figure(figsize=(max(5.0, 3.3 * len(titles)), height), layout="constrained")
    for axes, title in zip(figure.subplots(1, len(titles), squeeze=False, sharey=True)[0], titles, strict=True):
        style(axes, title, xlabel, ylabel)
        looks = [_look(number, name) for number, name in enumerate(names)]
        here = points[points["panel"] == title]
        panels.append((axes, [(here[here["line"] == look["label"]], look) for look in looks]))
    return figure, panels


def _look(number: int, name: str) -> dict[str, Any]:
    """Label, colour, marker and dashes of a line; after seven colours come dashes, and other markers."""
    turn, place = divmod(number, len(COLOURS))
    return {"label": name, "color": COLOURS[place], "marker": MARKERS[(place + turn) % len(MARKERS)], "ls": "--" if turn else "-"}
