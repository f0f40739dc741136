"""Intervals over training seeds and episodes: pure functions on scores, keyed by training seed and environment seed.

Every training seed is evaluated in the same environments, so that scores form a table: a row per training seed, a column per environment.
With several tasks there is such a table for each; every task counts the same, and episodes are resampled within their task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.errors import LWDError
from lwd.statistics import Interval, stratified_mean, wilson

Episode = int | tuple[str, int]  # environment seed, with the task (empty where there is one)
Scores = Mapping[int, Mapping[Episode, float]]  # training seed -> episode -> score
RESAMPLES = 10_000
LEVEL = 0.95


def pooled(scores: Scores, kind: str = "mean") -> dict[str, Any]:
    """Mean over training seeds and episodes, with two 95 % intervals.

    `low` and `high` take the trained models as given: a bootstrap over episodes within each training seed (of a rate: Wilson's interval).
    Of several tasks, it is a bootstrap within each task of each training seed, of rates too (`lwd.statistics.stratified_mean`).
    `over_trainings` also asks what other trainings would have given: training seeds and environments, those of a task among themselves,
    are both resampled (Owen, 2007). With three training seeds even that is too narrow: three values hardly tell their spread.

    Args:
        scores: no training seed without episodes.
        kind: "mean", or "rate" for zeros and ones.

    Returns:
        `mean`, `low`, `high`, `over_trainings` (`low`, `high`; None for one training seed), `per_seed` (each training seed's mean),
        `episodes`, JSON-ready.

    Raises:
        LWDError: no scores.
    """
    rows = _rows(scores)
    groups = [group for row in rows.values() for group in row]
    means = [float(np.mean([group.mean() for group in row])) for row in rows.values()]
    mean = float(np.mean(means))
    episodes = sum(len(group) for group in groups)
    if len(groups) > len(rows):
        interval = stratified_mean(groups, LEVEL, RESAMPLES)
    elif kind == "rate":
        interval = wilson(round(sum(float(group.sum()) for group in groups)), episodes)
    else:
        interval = _within(groups, mean)
    return {
        **interval.to_dict(),
        "mean": mean,
        "over_trainings": _ends(_across(scores, mean)),
        "per_seed": {str(seed): value for seed, value in zip(rows, means, strict=True)},
        "episodes": episodes,
    }


def difference(first: Scores, second: Scores) -> dict[str, Any]:
    """Mean of first − second over pairs of equal training seed, task and environment seed, with the two intervals of `pooled`.

    Returns:
        `mean`, `low`, `high`, `over_trainings`, `pairs`.

    Raises:
        LWDError: no pair.
    """
    both = {
        seed: {env: first[seed][env] - second[seed][env] for env in first[seed].keys() & second[seed].keys()}
        for seed in sorted(first.keys() & second.keys())
    }
    both = {seed: dict(sorted(row.items())) for seed, row in both.items() if row}
    if not both:
        raise LWDError("nothing can be paired: the two have no training seed and environment seed in common")
    groups = [group for row in _rows(both).values() for group in row]
    mean = float(np.mean([group.mean() for group in groups]))
    return {
        **_within(groups, mean).to_dict(),
        "over_trainings": _ends(_across(both, mean)),
        "pairs": sum(len(group) for group in groups),
    }


def disjoint(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two intervals have no number in common; False where one is unknown."""
    ends = [first["low"], first["high"], second["low"], second["high"]]
    return None not in ends and bool(ends[0] > ends[3] or ends[2] > ends[1])


def _within(groups: list[NDArray[np.float64]], mean: float) -> Interval:
    """Bootstrap over episodes within each group: a training seed, or a task of one. Every group has the same weight."""
    if min(len(group) for group in groups) < 2:
        return Interval(mean, math.nan, math.nan)
    drawn = sum(_counts(len(group), number, RESAMPLES) @ group / len(group) for number, group in enumerate(groups)) / len(groups)
    return _percentile(mean, np.asarray(drawn))


def _across(scores: Scores, mean: float) -> Interval:
    """Bootstrap over training seeds and, within each task, over environments, each drawn by itself."""
    shared = set.intersection(*(set(row) for row in scores.values()))
    envs: dict[str, list[Episode]] = {}
    for env in sorted(shared):
        envs.setdefault(_task(env), []).append(env)
    if len(scores) < 2 or max(map(len, envs.values()), default=0) < 2:
        return Interval(mean, math.nan, math.nan)
    seeds, drawn = _counts(len(scores), -1, RESAMPLES), 0.0  # (R, S)
    for number, own in enumerate(envs.values()):
        table = np.array([[row[env] for env in own] for row in scores.values()], np.float64)  # (S, E)
        drawn = drawn + ((seeds @ table) * _counts(len(own), -2 - number, RESAMPLES)).sum(1) / table.size
    return _percentile(mean, np.asarray(drawn) / len(envs))


@lru_cache(maxsize=16)
def _counts(size: int, stream: int, resamples: int) -> NDArray[np.float64]:
    """(R, size): how often each resample draws each of `size` values; streams are independent of one another."""
    rng = np.random.default_rng([size, stream % 1000])
    return rng.multinomial(size, np.full(size, 1 / size), resamples).astype(np.float64)


def _percentile(mean: float, drawn: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(drawn, (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return Interval(mean, float(low), float(high))


def _ends(interval: Interval) -> dict[str, float | None]:
    return {key: value for key, value in interval.to_dict().items() if key != "mean"}


def _task(episode: Episode) -> str:
    return episode[0] if isinstance(episode, tuple) else ""


def _rows(scores: Scores) -> dict[int, list[NDArray[np.float64]]]:
    """Of every training seed, the scores of each task."""
    rows: dict[int, list[NDArray[np.float64]]] = {}
    for seed, row in scores.items():
        groups: dict[str, list[float]] = {}
        for episode, value in row.items():
            groups.setdefault(_task(episode), []).append(value)
        rows[seed] = [np.array(group, np.float64) for group in groups.values()]
    if not rows or not all(rows.values()):
        raise LWDError("there are no scores to pool")
    return rows
