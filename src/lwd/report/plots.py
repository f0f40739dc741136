"""Figures of a run: training curves, score over time, histogram; and what all figures share. `save` writes a figure.

Figures are made without pyplot: nothing is registered globally, so nothing leaks and any thread may draw. Colours are those of Okabe and
Ito, which readers with any common colour blindness can tell apart.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from lwd.files import write_bytes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")  # Okabe and Ito, 2008
MARKERS = "osD^vPX"
INK, GRID = "#222222", "#E3E6EA"
NOT_CURVES = {"step", "stage", "seconds", "lr_factor"}  # bookkeeping in a metrics line
COLUMNS, DENSE = 4, 60  # panels in a row; points of a curve from which it is smoothed

Panels = dict[tuple[str, str], dict[str, dict[int, float]]]  # (stage, quantity) -> split -> step -> value


def training_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Every number in the lines of `metrics.jsonl` over its step, a panel per stage and quantity; None where there is none.

    Names that differ only in a split (`L_BC`, `held_out/L_BC`) share a panel. Positive quantities get a logarithmic axis. After a resumed
    run some steps are there twice: the later line counts.
    """
    panels: Panels = {}
    for line in metrics:
        for key, value in line.items():
            if key not in NOT_CURVES and isinstance(value, int | float) and np.isfinite(value):
                quantity = key.removeprefix("held_out/")
                curves = panels.setdefault((line["stage"], quantity), {})
                curves.setdefault("train" if key == quantity else "held out", {})[line["step"]] = float(value)
    if not panels:
        return None
    cells: list[tuple[str, str] | None] = []  # row by row; every stage begins a row
    for stage in dict.fromkeys(stage for stage, _ in panels):
        cells += [key for key in panels if key[0] == stage]
        cells += [None] * (-len(cells) % COLUMNS)
    figure = Figure(figsize=(3.5 * COLUMNS, 2.5 * len(cells) / COLUMNS), layout="constrained")
    for axes, cell in zip(figure.subplots(len(cells) // COLUMNS, COLUMNS, squeeze=False).flat, cells, strict=True):
        if cell is None:
            axes.set_visible(False)
        else:
            _curves(axes, " · ".join(cell), panels[cell])
    return figure


def score_over_time(traces: Mapping[str, Sequence[ArrayLike]]) -> Figure:
    """The mean over episodes of the best score so far, by step, with a 95 % bootstrap band.

    `traces` holds for each curve one (T,) trace of scores per episode; an episode that ended early keeps its best value.
    """
    figure, axes = _single()
    for number, (name, episodes) in enumerate(traces.items()):
        columns = pd.DataFrame({episode: pd.Series(trace, dtype=float) for episode, trace in enumerate(episodes)})
        best, colour = columns.cummax().ffill().to_numpy().T, COLOURS[number % len(COLOURS)]
        steps = np.arange(1, best.shape[1] + 1)
        # whole episodes are resampled, so the band respects that the steps of an episode belong together
        counts = np.random.default_rng(0).multinomial(len(best), np.full(len(best), 1 / len(best)), 1000)
        low, high = np.percentile(counts @ best / len(best), (2.5, 97.5), axis=0)
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, lw=0)
        axes.plot(steps, best.mean(axis=0), color=colour, lw=1.8, label=f"{name} (n = {len(best)})")
    style(axes, "Score over time", "environment step", "best score so far")
    axes.set_ylim(bottom=0)
    legend(figure, axes)
    return figure


def score_histogram(scores: Mapping[str, ArrayLike]) -> Figure:
    """The share of episodes by score, (n,) in [0, 1] by name: shows whether a mean comes from imprecise or from stuck episodes."""
    figure, axes = _single()
    for number, (name, values) in enumerate(scores.items()):
        x, colour = np.clip(np.asarray(values, float), 0, 1), COLOURS[number % len(COLOURS)]
        weights, label = np.full(len(x), 100 / len(x)), f"{name} (n = {len(x)})"
        axes.hist(x, np.linspace(0, 1, 21).tolist(), weights=weights, histtype="stepfilled", fc=f"{colour}55", ec=colour, label=label)
        axes.axvline(float(x.mean()), color=colour, ls="--", lw=1.4)
    style(axes, "Where episodes end up (dashed: mean)", "best score", "episodes in %")
    legend(figure, axes)
    return figure


def project(reference: NDArray, points: NDArray, pair: tuple[int, int] = (0, 1)) -> tuple[NDArray, tuple[str, str]]:
    """Two principal components of `reference`, in which (n, Z) `points` lie at (n, 2), and their names with their share of the variance."""
    mean = reference.mean(axis=0)
    _, lengths, axes = np.linalg.svd(reference - mean, full_matrices=False)
    shares = lengths**2 / max(float((lengths**2).sum()), 1e-12)
    xy, names = np.zeros((len(points), 2)), ["", ""]
    for place, k in enumerate(pair):
        if k < len(axes):
            sign = np.sign(axes[k][np.abs(axes[k]).argmax()])  # it is arbitrary: the largest entry is made positive
            xy[:, place], names[place] = (points - mean) @ axes[k] * sign, f"component {k + 1} ({shares[k]:.0%} of variance)"
    return xy, (names[0], names[1])


def style(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Gives axes the look of all figures: a grid, no frame, the title at the left."""
    axes.set_title(title, fontsize=10 if len(title) <= 36 else 8, loc="left", color=INK)
    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    axes.tick_params(which="both", labelsize=8, colors=INK, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def legend(figure: Figure, axes: Axes) -> None:
    """Puts the legend of some axes below the figure, in as many columns as fit."""
    handles, names = axes.get_legend_handles_labels()
    for columns in range(max(1, min(len(names), 4 * len(figure.axes))), 0, -1):
        drawn = figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
        if columns == 1 or drawn.get_window_extent().width <= 0.98 * figure.bbox.width:
            return
        drawn.remove()  # wider than the figure, which would cut it off


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure as a PNG, whole or not at all, and returns its path."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, dpi=150, format="png", facecolor="white")
    write_bytes(path, buffer.getvalue())
    return path


def _curves(axes: Axes, title: str, curves: dict[str, dict[int, float]]) -> None:
    """One panel: a curve per split; a dense one is drawn faintly, with its moving average on top."""
    for number, split in enumerate(sorted(curves, reverse=True)):
        values, colour = pd.Series(curves[split]).sort_index(), COLOURS[number]
        if len(values) > DENSE:
            axes.plot(values.index, values, color=colour, lw=0.8, alpha=0.3)
            values = values.rolling(len(values) // 20, center=True, min_periods=1).mean()
        axes.plot(values.index, values, color=colour, lw=1.6, label=split, marker="o" if len(values) == 1 else "", ms=3)
    style(axes, title, "training step", "")
    everything = np.concatenate([list(points.values()) for points in curves.values()])
    if (everything > 0).all() and everything.max() > 3 * everything.min():
        axes.set_yscale("log")
        # within one decade the minor ticks are the only numbers; over more they crowd
        axes.yaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(1, 0.4)))
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8)


def _single() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    return figure, figure.subplots()
