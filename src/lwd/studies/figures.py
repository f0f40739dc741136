"""Figures that several studies share: score against a setting, cost against score, film strips. Each writes a PNG and returns its path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator
from numpy.typing import NDArray

from lwd.errors import LWDError
from lwd.plots import COLOURS, INK, _style, _write

if TYPE_CHECKING:
    from lwd.video import Frame

MARKERS = "osD^vPX"
Entry = Mapping[str, Any]  # one of the pooled entries of a study


def lines_with_bands(
    entries: Sequence[Entry], path: Path, *, x: str, line: str, panel: str, score: str, xlabel: str, panel_title: str, base: int = 2
) -> Path:
    """Pooled score against a setting: a panel for each value of one label, a line for each value of another (Figure 3).

    The dark band is the 95 % interval over the episodes of these trainings, the faint one that over trainings as well.

    Args:
        entries: pooled ones, with the labels `x`, `line`, `panel`.
        path: PNG to write.
        x: label on the horizontal axis.
        line: label that tells lines apart.
        panel: label that tells panels apart.
        score: which one.
        xlabel: of the horizontal axis, with its unit.
        panel_title: format of a panel's title, such as "perturbation {:g} px".
        base: of the logarithm; 0 for a linear axis.
    """
    figure, panels = _panels(_values(entries, panel))
    values = [float(value) for value in _values(entries, x)]
    for (value, axes), first in zip(panels.items(), [True] + [False] * len(panels), strict=False):
        for number, name in enumerate(_values(entries, line)):
            own = sorted((e for e in entries if e[panel] == value and e[line] == name), key=lambda e: e[x])
            if not own:
                continue
            at, scores, colour = [e[x] for e in own], [e["scores"][score] for e in own], COLOURS[number % len(COLOURS)]
            for ends, alpha in ((scores, 0.22), ([s["over_trainings"] for s in scores], 0.10)):
                if all(e["low"] is not None for e in ends):
                    axes.fill_between(at, [e["low"] for e in ends], [e["high"] for e in ends], color=colour, alpha=alpha, lw=0)
            axes.plot(at, [s["mean"] for s in scores], color=colour, lw=1.8, marker=MARKERS[number % len(MARKERS)], ms=4, label=str(name))
        _style(axes, panel_title.format(value), xlabel, score.replace("_", " ") if first else "")
        if base:
            axes.set_xscale("log", base=base)
        axes.set_xticks(sorted(values), [f"{v:g}" for v in sorted(values)])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(0, 1.02 * max(1.0, max(e["scores"][score]["mean"] for e in entries)))
    _legend(figure, next(iter(panels.values())))
    return _write(figure, path)


def time_against_score(
    entries: Sequence[Entry], path: Path, *, mark: str, line: str, panel: str, score: str, mark_title: str, panel_title: str
) -> Path:
    """Time that a method computes in an episode, against its pooled score; lower right is better (Figure 20).

    The time is that of a batch of one: the median query times the queries of an episode, and the median control step times its steps.

    Args:
        entries: pooled ones, with the labels `mark`, `line`, `panel` and `seconds_per_episode`.
        path: PNG to write.
        mark: label written at every point.
        line: label that tells lines apart; a line joins its points in order of `mark`.
        panel: label that tells panels apart.
        score: which one.
        mark_title: what the numbers at the points are.
        panel_title: format of a panel's title.
    """
    figure, panels = _panels(_values(entries, panel), height=3.6)
    for value, axes in panels.items():
        for number, name in enumerate(_values(entries, line)):
            own = sorted((e for e in entries if e[panel] == value and e[line] == name), key=lambda e: e[mark])
            if not own:
                continue
            scores, colour = [e["scores"][score] for e in own], COLOURS[number % len(COLOURS)]
            means, times = [s["mean"] for s in scores], [e["seconds_per_episode"] for e in own]
            ends = [(0.0, 0.0) if s["low"] is None else (max(0.0, s["mean"] - s["low"]), max(0.0, s["high"] - s["mean"])) for s in scores]
            axes.errorbar(means, times, xerr=np.array(ends).T, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.5)
            axes.plot(means, times, color=colour, lw=1.4, marker=MARKERS[number % len(MARKERS)], ms=5, label=str(name))
            for entry, mean, seconds in zip(own, means, times, strict=True):
                axes.annotate(f"{entry[mark]:g}", (mean, seconds), (4, 4), textcoords="offset points", fontsize=7, color=INK)
        _style(axes, panel_title.format(value), score.replace("_", " "), "")
        axes.set_yscale("log")
        axes.set_xlim(0, 1.05)
    first = next(iter(panels.values()))
    first.set_ylabel(f"seconds of computation per episode\n(at the points: {mark_title})", fontsize=9, color=INK)
    _legend(figure, first)
    return _write(figure, path)


def flops_against_score(
    entries: Sequence[Entry], path: Path, *, mark: str, line: str, join: str, panel: str, score: str, panel_title: str
) -> Path:
    """Pooled score against the FLOPs of an environment step, on a logarithmic axis; upper left is better (Figure 6).

    Args:
        entries: pooled ones, with the labels `mark`, `line`, `panel`; those that take no FLOPs are left out.
        path: PNG to write.
        mark: label written at every point, or at the last of those that are joined.
        line: label that tells colours and markers apart.
        join: label of which points that have it in common are joined.
        panel: label that tells panels apart.
        score: which one.
        panel_title: format of a panel's title.
    """
    figure, panels = _panels(_values(entries, panel), height=4.2, width=6.4)
    for value, axes in panels.items():
        for number, name in enumerate(_values(entries, line)):
            own = [e for e in entries if e[panel] == value and e[line] == name and e["flops_per_step"]["amortised_total"] > 0]
            if not own:
                continue
            at, scores = [e["flops_per_step"]["amortised_total"] / 1e9 for e in own], [e["scores"][score] for e in own]
            means, colour = [s["mean"] for s in scores], COLOURS[number % len(COLOURS)]
            ends = [(0.0, 0.0) if s["low"] is None else (max(0.0, s["mean"] - s["low"]), max(0.0, s["high"] - s["mean"])) for s in scores]
            axes.errorbar(at, means, yerr=np.array(ends).T, fmt="none", ecolor=colour, elinewidth=1.0, capsize=2.5, alpha=0.7)
            axes.plot(at, means, color=colour, ls="", marker=MARKERS[number % len(MARKERS)], ms=6, label=str(name))
            for joined in _values(own, join):
                points = sorted((x, mean, entry[mark]) for entry, x, mean in zip(own, at, means, strict=True) if entry[join] == joined)
                axes.plot([x for x, *_ in points], [mean for _, mean, _ in points], color=colour, lw=0.8, alpha=0.6)
                below = number % 2  # neighbours of two kinds do not write over each other
                axes.annotate(
                    str(points[-1][2]), points[-1][:2], (5, -10 if below else 4), textcoords="offset points", fontsize=7, color=INK
                )
        first = value == next(iter(panels))
        _style(axes, panel_title.format(value), "GFLOPs per environment step", score.replace("_", " ") if first else "")
        axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.set_ylim(0, 1.05)
    _legend(figure, next(iter(panels.values())))
    return _write(figure, path)


def component_maps(panels: Mapping[str, tuple[NDArray, NDArray]], path: Path, pair: tuple[int, int]) -> Path:
    """Two principal components of latents, coloured by task: a panel for each set of them (Figures 10 and 11).

    Args:
        panels: title -> (N, Z) latents and (N,) names of their tasks.
        path: PNG to write.
        pair: which components, from 0.
    """
    figure, grid = _panels(list(panels), height=4.0, width=4.6 * len(panels), share=False)
    names = sorted({str(name) for _, tasks in panels.values() for name in tasks})
    for title, (codes, tasks) in panels.items():
        centred = codes - codes.mean(0)
        _, scales, basis = np.linalg.svd(centred, full_matrices=False)
        shares = scales**2 / max(float((scales**2).sum()), 1e-12)
        # the sign of a component is arbitrary: the largest entry is made positive, so equal latents give equal maps
        basis = basis * np.sign(basis[np.arange(len(basis)), np.abs(basis).argmax(1)])[:, None]
        own = [k for k in pair if k < len(basis)]
        xy = np.zeros((len(codes), 2))
        xy[:, : len(own)] = centred @ basis[own].T
        for number, name in enumerate(names):
            chosen, marker = np.asarray(tasks) == name, MARKERS[number // len(COLOURS) % len(MARKERS)]
            colour = COLOURS[number % len(COLOURS)]  # after seven colours the shape of the marker tells tasks apart
            grid[title].scatter(xy[chosen, 0], xy[chosen, 1], s=9, color=colour, marker=marker, alpha=0.6, lw=0, label=name)
        first, second = (f"component {k + 1}" + (f" ({shares[k]:.0%} of variance)" if k < len(shares) else "") for k in pair)
        _style(grid[title], title, first, second)
    _legend(figure, next(iter(grid.values())))
    return _write(figure, path)


def film_rows(rows: Mapping[str, Sequence[Frame]], path: Path, title: str = "") -> Path:
    """Film strips below one another, the first on top (Figure 4).

    Args:
        rows: name of the row -> pictures (H, W, 3) uint8 of one size; all rows have the same number.
        path: PNG to write.
        title: above them.
    """
    if not rows or len({len(frames) for frames in rows.values()}) != 1 or not all(rows.values()):
        raise LWDError("a film needs at least one row, and as many frames in every row")
    count = len(next(iter(rows.values())))
    height, width = np.shape(next(iter(rows.values()))[0])[:2]
    figure = Figure(figsize=(1.5 * count, 1.5 * height / width * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, frames) in zip(grid, rows.items(), strict=True):
        for axes, frame in zip(line, frames, strict=True):
            axes.imshow(frame)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(name, fontsize=10, color=INK)
    figure.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    return _write(figure, path)


def film(run: Path, *, seed: int, horizon: int, perturbation: float, device: str = "cpu", count: int = 8) -> list[Frame]:
    """Captioned frames of one episode of a trained run, evenly spaced; every other one is moved to the nearest displacement of the block.

    Args:
        run: run directory.
        seed: environment seed.
        horizon: steps between queries.
        perturbation: magnitude.
        device: where the model computes.
        count: frames.
    """
    from lwd.envs.base import family
    from lwd.rollout import rollout
    from lwd.run import Run
    from lwd.train import load_method
    from lwd.video import annotate

    method: Any = load_method(Run(run), device)
    env = method.spec.env
    records = rollout(method, env, method.spec.obs, [seed], horizon=horizon, perturbation=perturbation, workers=0, record_frames=1)
    episode, frames = records.episodes[0], records.frames[0]
    displaced = episode.get("displaced_at", [])
    pictures = annotate(frames, scores=family(env).curve(episode), queries=range(0, episode["steps"], horizon), displaced=displaced)
    return [pictures[step] for step in spaced(len(pictures), count, [step + 1 for step in displaced])]


def spaced(total: int, count: int, wanted: Sequence[int]) -> list[int]:
    """`count` increasing indices below `total`, evenly spaced from the first to the last, but for the second, the fourth and so on, which
    move to a wanted one where there is one near."""
    gap = (total - 1) / max(1, count - 1) / 2
    chosen = np.linspace(0, total - 1, count).round().astype(int).tolist()
    for number in range(1, count - 1, 2):
        near = [step for step in wanted if abs(step - chosen[number]) < gap]
        chosen[number] = min(near, key=lambda step: (abs(step - chosen[number]), step), default=chosen[number])
    return chosen


def _panels(values: Sequence[Any], height: float = 3.2, width: float = 4.6, share: bool = True) -> tuple[Figure, dict[Any, Axes]]:
    figure = Figure(figsize=(max(width, 3.3 * len(values)), height), layout="constrained")
    return figure, dict(zip(values, figure.subplots(1, len(values), squeeze=False, sharey=share)[0], strict=True))


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    for columns in range(max(1, min(len(names), 4 * len(figure.axes))), 0, -1):
        legend = figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
        if columns == 1 or legend.get_window_extent().width <= 0.98 * figure.bbox.width:
            return
        legend.remove()  # wider than the figure, which would cut it off


def _values(entries: Sequence[Entry], label: str) -> list[Any]:
    """Of one label, in order of appearance."""
    return list(dict.fromkeys(entry[label] for entry in entries))
