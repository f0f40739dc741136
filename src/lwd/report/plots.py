"""Figures of a run, and what all figures share. They are made without pyplot: nothing is registered globally, any thread may draw."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from lwd.files import write_bytes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")  # Okabe and Ito: told apart with colour blindness
MARKERS = "osD^vPX"
INK, GRID = "#222222", "#E3E6EA"
COLUMNS, DENSE = 4, 60  # panels in a row; points of a curve from which it is drawn faintly, with its moving average on top


def training_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Every number in the lines of `metrics.jsonl` over its step, a panel per stage and quantity; None where there is none.

    `L_BC` and `held_out/L_BC` share a panel. After a resumed run some steps are there twice: the later line counts.
    """
    panels: dict[tuple[str, str], dict[str, dict[int, float]]] = {}  # (stage, quantity) -> split -> step -> value
    for line in metrics:
        for key, value in line.items():
            if key not in ("step", "stage", "seconds", "lr_factor") and isinstance(value, int | float) and np.isfinite(value):
                curves = panels.setdefault((line["stage"], key.removeprefix("held_out/")), {})
                curves.setdefault("held out" if key.startswith("held_out/") else "train", {})[line["step"]] = float(value)
    if not panels:
        return None
    cells: list[tuple[str, str] | None] = []  # row by row; every stage begins a row
    for stage in dict.fromkeys(stage for stage, _ in panels):
        cells += [key for key in panels if key[0] == stage]
        cells += [None] * (-len(cells) % COLUMNS)
    figure = Figure(figsize=(3.5 * COLUMNS, 2.5 * len(cells) / COLUMNS), layout="constrained")
    for axes, cell in zip(figure.subplots(len(cells) // COLUMNS, COLUMNS, squeeze=False).flat, cells, strict=True):
        axes.set_visible(cell is not None)
        curves = panels[cell] if cell else {}
        for colour, split in zip(COLOURS, sorted(curves, reverse=True), strict=False):
            values = pd.Series(curves[split]).sort_index()
            if len(values) > DENSE:
                axes.plot(values.index, values, color=colour, lw=0.8, alpha=0.3)
                values = values.rolling(len(values) // 20, center=True, min_periods=1).mean()
            axes.plot(values.index, values, color=colour, lw=1.6, label=split, marker="o" if len(values) == 1 else "", ms=3)
        style(axes, " · ".join(cell or ()), "training step", "")
        drawn = [value for points in curves.values() for value in points.values()]
        if drawn and min(drawn) > 0 and max(drawn) > 3 * min(drawn):
            axes.set_yscale("log")
            # within one decade the minor ticks are the only numbers; over more they crowd
            axes.yaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(1, 0.4)))
        if "held out" in curves:
            axes.legend(frameon=False, fontsize=8)
    return figure


def score_over_time(traces: Mapping[str, Sequence[ArrayLike]]) -> Figure:
    """The mean over episodes of the best score so far, by step, with a 95 % bootstrap band.

    `traces` holds for each curve one (T,) trace of scores per episode; an episode that ended early keeps its best value.
    """
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = figure.subplots()
    for colour, (name, episodes) in zip(cycle(COLOURS), traces.items(), strict=False):
        best = pd.DataFrame([pd.Series(trace, dtype=float) for trace in episodes]).cummax(axis=1).ffill(axis=1).to_numpy()
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
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = figure.subplots()
    for colour, (name, values) in zip(cycle(COLOURS), scores.items(), strict=False):
        x = np.clip(np.asarray(values, float), 0, 1)
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
    figure.savefig(buffer, dpi=150, format="png", facecolor="white")
    write_bytes(path, buffer.getvalue())
    return path
