"""Intervals over training seeds and episodes: pure functions on scores, keyed by training seed and environment seed.

Every training seed is evaluated in the same environments, so that scores form a table: a row per training seed, a column per environment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.errors import LWDError
from lwd.statistics import Interval, wilson

Episode = tuple[str, int]  # task (empty where there is one) and environment seed
Scores = Mapping[int, Mapping[Episode, float]]  # training seed -> episode -> score
RESAMPLES = 10_000
LEVEL = 0.95


def pooled(scores: Scores, kind: str = "mean") -> dict[str, Any]:
    """Mean over training seeds and episodes, with two 95 % intervals.

    `low` and `high` take the trained models as given: a bootstrap over episodes within each training seed (of a rate: Wilson's interval).
    `over_trainings` also asks what other trainings would have given: training seeds and environments are both resampled (Owen, 2007). With
    three training seeds even that is too narrow: three values hardly tell their spread.

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
    means = [float(row.mean()) for row in rows.values()]
    mean = float(np.mean(means))
    episodes = sum(len(row) for row in rows.values())
    if kind == "rate":
        interval = wilson(round(sum(float(row.sum()) for row in rows.values())), episodes)
    else:
        interval = _within(list(rows.values()), mean)
    return {
        **interval.to_dict(),
        "mean": mean,
        "over_trainings": _ends(_across(scores, mean)),
        "per_seed": {str(seed): value for seed, value in zip(rows, means, strict=True)},
        "episodes": episodes,
    }


def difference(first: Scores, second: Scores) -> dict[str, Any]:
    """Mean of first − second over pairs of equal training seed and environment seed, with the two intervals of `pooled`.

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
    rows = _rows(both)
    mean = float(np.mean([row.mean() for row in rows.values()]))
    return {
        **_within(list(rows.values()), mean).to_dict(),
        "over_trainings": _ends(_across(both, mean)),
        "pairs": sum(len(row) for row in rows.values()),
    }


def disjoint(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two intervals have no number in common; False where one is unknown."""
    ends = [first["low"], first["high"], second["low"], second["high"]]
    return None not in ends and bool(ends[0] > ends[3] or ends[2] > ends[1])


def _within(rows: list[NDArray[np.float64]], mean: float) -> Interval:
    """Bootstrap over episodes, stratified by training seed; every training seed has the same weight."""
    if min(len(row) for row in rows) < 2:
        return Interval(mean, math.nan, math.nan)
    drawn = sum(_counts(len(row), number, RESAMPLES) @ row / len(row) for number, row in enumerate(rows)) / len(rows)
    return _percentile(mean, np.asarray(drawn))


def _across(scores: Scores, mean: float) -> Interval:
    """Bootstrap over training seeds and environments, each drawn by itself."""
    envs = sorted(set.intersection(*(set(row) for row in scores.values())))
    if len(scores) < 2 or len(envs) < 2:
        return Interval(mean, math.nan, math.nan)
    table = np.array([[row[env] for env in envs] for row in scores.values()], np.float64)  # (S, E)
    seeds, columns = (_counts(size, -1 - axis, RESAMPLES) for axis, size in enumerate(table.shape))  # (R, S), (R, E)
    return _percentile(mean, ((seeds @ table) * columns).sum(1) / table.size)


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


def _rows(scores: Scores) -> dict[int, NDArray[np.float64]]:
    rows = {seed: np.array(list(row.values()), np.float64) for seed, row in scores.items()}
    if not rows or not all(len(row) for row in rows.values()):
        raise LWDError("there are no scores to pool")
    return rows
