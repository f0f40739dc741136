"""Figures of a run: training curves, latent maps, score over time, histogram. Every function returns a figure, and `save` writes it.

Figures are made without pyplot: nothing is registered globally, so nothing leaks and any thread may draw. Colours are those of Okabe and
Ito, which readers with any common colour blindness can tell apart.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from lwd.errors import LWDError
from lwd.files import write_bytes

DPI = 150
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")  # Okabe and Ito, 2008
MARKERS = "osD^vPX"
INK, GRID = "#222222", "#E3E6EA"
NOT_CURVES = {"step", "stage", "epoch", "time", "wall", "seconds", "wall_s", "lr_factor"}  # bookkeeping in a metrics line
MAX_POINTS = 5000  # more points in a scatter plot only hide each other


def training_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws every number of a training over its step; one panel per stage and quantity.

    Names that differ only in a split (`L_BC`, `held_out/L_BC`) share a panel. Positive quantities get a logarithmic axis. After a resumed
    run some steps are there twice: the later line counts.

    Args:
        metrics: lines of `metrics.jsonl`, such as `{"stage": "autoencoder", "step": 100, "L_BC": 0.1}`.

    Raises:
        LWDError: there is nothing to plot.
    """
    panels = _panels_of(metrics)
    if not panels:
        raise LWDError("the run holds no metrics to plot: has the training written its first line to metrics.jsonl?")
    stages = list(dict.fromkeys(stage for stage, _ in panels))
    columns = min(4, max(sum(s == stage for s, _ in panels) for stage in stages))
    cells: list[tuple[str, str] | None] = []  # row by row; every stage begins a row
    for stage in stages:
        cells += [key for key in panels if key[0] == stage]
        cells += [None] * (-len(cells) % columns)
    figure = Figure(figsize=(3.5 * columns, 2.5 * len(cells) / columns), layout="constrained")
    grid = figure.subplots(len(cells) // columns, columns, squeeze=False).ravel()
    for axes, cell in zip(grid, cells, strict=True):
        if cell is None:
            axes.set_visible(False)
        else:
            _curves(axes, *cell, panels[cell])
    return figure


def latent_map(latents: ArrayLike, *, colour: ArrayLike | None = None, label: str = "", title: str = "Latents") -> Figure:
    """Draws the two principal components of latents, coloured by what one asks about them.

    Args:
        latents: (N, Z) latents.
        colour: (N,) what colours the points: numbers (a phase, a start coordinate) get a scale, strings a legend.
        label: what `colour` is, with its unit.
        title: above the figure.
    """
    points = _matrix("latents", latents)
    values = None if colour is None else np.asarray(colour)
    if values is not None and values.shape != (len(points),):
        raise LWDError(f"colour needs one entry per latent ({len(points)}), not shape {values.shape}")
    keep = _thin(len(points))
    xy, components = project(points, points[keep])
    figure, axes = _single((5.2, 4.4))
    if values is None:
        axes.scatter(xy[:, 0], xy[:, 1], s=7, color=COLOURS[0], alpha=0.6, lw=0)
    elif values.dtype.kind in "fiub":
        dots = axes.scatter(xy[:, 0], xy[:, 1], s=7, c=values[keep].astype(float), cmap="viridis", alpha=0.8, lw=0)
        figure.colorbar(dots, ax=axes, label=label).outline.set_visible(False)
    else:
        names = sorted(set(map(str, values)))
        for number, name in enumerate(names):
            chosen = values[keep].astype(str) == name
            # after seven colours the shape of the marker tells categories apart
            marker = MARKERS[number // len(COLOURS) % len(MARKERS)]
            axes.scatter(
                xy[chosen, 0], xy[chosen, 1], s=12, color=COLOURS[number % len(COLOURS)], marker=marker, alpha=0.7, lw=0, label=name
            )
        axes.legend(title=label, frameon=False, fontsize=8, markerscale=1.6, ncols=1 + len(names) // 12)
    style(axes, title, *components)
    return figure


def latent_overlay(data: ArrayLike, samples: ArrayLike, *, title: str = "Do samples hit the encoded data?") -> Figure:
    """Draws samples of the latent model over the encoded data, in the data's principal components.

    The subtitle gives the spread of the samples relative to the data's over all dimensions: far from 1, the sampler is broken.

    Args:
        data: (N, Z) latents of encoded snippets.
        samples: (M, Z) latents from the diffusion model.
        title: above the figure.
    """
    reference, drawn = _matrix("data", data), _matrix("samples", samples)
    if reference.shape[1] != drawn.shape[1]:
        raise LWDError(f"data and samples have {reference.shape[1]} and {drawn.shape[1]} dimensions: they must share a latent space")
    figure, axes = _single((5.2, 4.4))
    for points, name, colour, size in ((reference, "encoded data", "#9AA0A6", 9), (drawn, "samples", COLOURS[1], 7)):
        xy, components = project(reference, points[_thin(len(points))])
        axes.scatter(xy[:, 0], xy[:, 1], s=size, color=colour, alpha=0.55, lw=0, label=name)
    ratio = float(np.sqrt(drawn.var(axis=0).sum() / max(reference.var(axis=0).sum(), 1e-12)))
    style(axes, f"{title}\nspread of samples / spread of data: {ratio:.2f}", *components)
    axes.legend(frameon=False, fontsize=8, markerscale=1.8)
    return figure


def score_over_time(
    traces: Mapping[str, Sequence[ArrayLike]], *, ylabel: str = "best score so far", title: str = "Score over time"
) -> Figure:
    """Draws the mean over episodes of the best score so far, by step, with a 95 % bootstrap band.

    Args:
        traces: for each curve, one (T,) trace of scores per episode; an episode that ended early keeps its best value.
        ylabel: what the score is, with its unit.
        title: above the figure.
    """
    figure, axes = _single((6.0, 3.6))
    for number, (name, episodes) in enumerate(traces.items()):
        best = _running_max(name, episodes)
        colour, steps = COLOURS[number % len(COLOURS)], np.arange(1, best.shape[1] + 1)
        # whole episodes are resampled, so the band respects that the steps of an episode belong together
        index = np.random.default_rng(0).integers(len(best), size=(1000, len(best)))
        weights = np.apply_along_axis(np.bincount, 1, index, minlength=len(best)) / len(best)
        low, high = np.percentile(weights @ best, (2.5, 97.5), axis=0)
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, lw=0)
        axes.plot(steps, best.mean(axis=0), color=colour, lw=1.8, label=f"{name} (n = {len(best)})")
    style(axes, title, "environment step", ylabel)
    axes.set_ylim(bottom=0)
    legend(figure, axes)
    return figure


def score_histogram(scores: Mapping[str, ArrayLike], *, xlabel: str = "best score", title: str = "Where episodes end up") -> Figure:
    """Draws the share of episodes by score: shows whether a mean comes from imprecise or from stuck episodes.

    Args:
        scores: for each method or condition, (n,) scores in [0, 1].
        xlabel: what the score is, with its unit.
        title: above the figure.
    """
    figure, axes = _single((6.0, 3.6))
    edges = np.linspace(0, 1, 21).tolist()
    for number, (name, values) in enumerate(scores.items()):
        x = np.clip(np.asarray(values, float), 0, 1)
        if x.ndim != 1 or len(x) == 0:
            raise LWDError(f"{name} must be a list of at least one score, not an array of shape {x.shape}")
        colour, weights = COLOURS[number % len(COLOURS)], np.full(len(x), 100 / len(x))
        axes.hist(x, edges, weights=weights, color=colour, alpha=0.35 if len(scores) > 1 else 0.6, label=f"{name} (n = {len(x)})")
        axes.hist(x, edges, weights=weights, histtype="step", color=colour, lw=1.4)
        axes.axvline(float(x.mean()), color=colour, ls="--", lw=1.4)
    style(axes, f"{title} (dashed: mean)", xlabel, "episodes in %")
    legend(figure, axes)
    return figure


def project(reference: NDArray, points: NDArray, pair: tuple[int, int] = (0, 1)) -> tuple[NDArray, tuple[str, str]]:
    """Two principal components of `reference`, in which (n, Z) `points` lie at (n, 2), and their names with their share of the variance."""
    mean = reference.mean(axis=0)
    variances, axes = np.linalg.eigh(np.atleast_2d(np.cov((reference - mean).T)))
    order = np.argsort(variances)[::-1]
    shares = variances[order] / max(float(variances.sum()), 1e-12)
    own = [k for k in pair if k < len(order)]
    # the sign of a component is arbitrary: the largest entry is made positive, so equal latents give equal maps
    basis = axes[:, order[own]] * np.sign(axes[np.abs(axes[:, order[own]]).argmax(axis=0), order[own]])
    xy = np.zeros((len(points), 2))
    xy[:, : len(own)] = (points - mean) @ basis
    first, second = (f"component {k + 1} ({shares[k]:.0%} of variance)" if k < len(order) else "" for k in pair)
    return xy, (first, second)


def style(axes: Axes, title: str, xlabel: str, ylabel: str, size: float = 10) -> None:
    """Gives axes the look of all figures: a grid, no frame, the title at the left."""
    axes.set_title(title, fontsize=size, loc="left", color=INK)
    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=0)
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
    FigureCanvasAgg(figure).print_figure(buffer, dpi=DPI, format="png", facecolor="white")
    write_bytes(path, buffer.getvalue())
    return path


def _curves(axes: Axes, stage: str, quantity: str, curves: dict[str, dict[int, float]]) -> None:
    """One panel: a curve per split; a dense one is drawn faintly, with its moving average on top."""
    for number, (split, points) in enumerate(sorted(curves.items(), reverse=True)):
        steps, values = np.array(sorted(points.items())).T
        colour = COLOURS[number % len(COLOURS)]
        if len(values) > 60:
            axes.plot(steps, values, color=colour, lw=0.8, alpha=0.3)
            values = _smooth(values)
        axes.plot(steps, values, color=colour, lw=1.6, label=split.replace("_", " "), marker="o" if len(values) == 1 else "", ms=3)
    everything = np.concatenate([list(points.values()) for points in curves.values()])
    title = f"{stage} · {quantity}" if stage else quantity
    style(axes, title, "training step", "", size=10 if len(title) <= 36 else 8)
    if (everything > 0).all() and everything.max() > 3 * everything.min():
        axes.set_yscale("log")
        # within one decade the minor ticks are the only numbers; over more they crowd
        axes.yaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(1, 0.4)))
        axes.tick_params(which="minor", labelsize=8, colors=INK, length=0)
    if set(curves) != {"train"}:
        axes.legend(frameon=False, fontsize=8)


def _panels_of(metrics: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, dict[int, float]]]:
    """(stage, quantity) -> split -> step -> value, in order of first appearance."""
    panels: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for record in metrics:
        if not isinstance(record.get("step"), int):
            continue
        for key, value in record.items():
            if key in NOT_CURVES or isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
                continue
            split, quantity = ("held_out", key.removeprefix("held_out/")) if key.startswith("held_out/") else ("train", key)
            panels.setdefault((str(record.get("stage", "")), quantity), {}).setdefault(split, {})[record["step"]] = float(value)
    return panels


def _smooth(values: NDArray, windows: int = 40) -> NDArray:
    """Centred moving average over 1/20 of the curve; the window shrinks on both sides alike at the ends, so that neither is pulled."""
    index = np.arange(len(values))
    half = np.minimum(max(1, len(values) // windows), np.minimum(index, index[::-1]))
    total = np.concatenate([[0.0], np.cumsum(values)])
    return (total[index + half + 1] - total[index - half]) / (2 * half + 1)


def _running_max(name: str, episodes: Sequence[ArrayLike]) -> NDArray:
    """(n, T) best value so far; shorter episodes keep their last one."""
    rows = [np.asarray(e, float) for e in episodes]
    if not rows or any(r.ndim != 1 or len(r) == 0 for r in rows):
        raise LWDError(f"{name} needs at least one episode, each a list of at least one score")
    length = max(map(len, rows))
    return np.maximum.accumulate(np.stack([np.pad(r, (0, length - len(r)), mode="edge") for r in rows]), axis=1)


def _thin(count: int) -> NDArray[np.int64]:
    """At most `MAX_POINTS` indices, always the same ones, in random order (so that no group is always drawn on top)."""
    return np.random.default_rng(0).permutation(count)[:MAX_POINTS]


def _matrix(name: str, x: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(x, np.float64)
    if values.ndim != 2 or len(values) < 2 or not np.isfinite(values).all():
        raise LWDError(f"{name} must be (N, Z) finite numbers with N >= 2, not an array of shape {values.shape}")
    return values


def _single(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()
