"""Intervals cover what they claim to cover, and degenerate data do not make numbers up."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from lwd.errors import LWDError
from lwd.statistics import Interval, bootstrap_mean, disjoint, jensen_shannon, over_trainings, wilson, within_groups


def test_interval_reads_well_and_survives_json():
    interval = Interval(0.764, 0.7, 0.823)
    assert str(interval) == "0.76 [0.70, 0.82]"
    assert Interval.from_dict(json.loads(json.dumps(interval.to_dict()))) == interval
    alone = bootstrap_mean([0.5])
    assert "no interval" in str(alone)
    assert json.dumps(alone.to_dict(), allow_nan=False) == '{"mean": 0.5, "low": null, "high": null}'
    assert math.isnan(Interval.from_dict(alone.to_dict()).low)


def test_bootstrap_agrees_with_the_t_interval_on_normal_data():
    x = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = bootstrap_mean(x)
    low, high = stats.t.interval(0.95, len(x) - 1, x.mean(), stats.sem(x))
    assert interval.mean == pytest.approx(x.mean())
    assert interval.low == pytest.approx(low, abs=0.03)
    assert interval.high == pytest.approx(high, abs=0.03)


def test_bootstrap_covers_the_mean_of_scores_with_a_ceiling():
    """Overlaps look like this: many near 1, a tail of failures. 95 % of intervals over 300 repetitions cover the mean, give or take."""
    rng = np.random.default_rng(1)
    true = 2 / 2.8
    hits = 0
    for _ in range(300):
        interval = bootstrap_mean(rng.beta(2.0, 0.8, 50), resamples=1000)
        hits += interval.low <= true <= interval.high
    assert 0.90 <= hits / 300 <= 0.985


def test_bootstrap_covers_the_mean_of_rare_failures_at_fifty_but_not_at_six():
    """What `FEW` and the docstring claim: nine in ten near the ceiling, one in ten stuck."""
    rng = np.random.default_rng(0)
    true = 0.1 * 0.425 + 0.9 * 0.97

    def coverage(n: int) -> float:
        hits = 0
        for _ in range(200):
            interval = bootstrap_mean(np.where(rng.random(n) < 0.1, rng.uniform(0.3, 0.55, n), rng.uniform(0.94, 1, n)), resamples=500)
            hits += interval.low <= true <= interval.high
        return hits / 200

    assert coverage(50) > 0.92 and coverage(6) < 0.65


def test_bootstrap_is_deterministic():
    x = np.random.default_rng(2).random(30)
    assert bootstrap_mean(x) == bootstrap_mean(x)


def test_bootstrap_of_degenerate_data():
    assert bootstrap_mean([0.4] * 10) == Interval(pytest.approx(0.4), pytest.approx(0.4), pytest.approx(0.4))
    one_success = bootstrap_mean([0.0] * 49 + [1.0])
    assert 0 <= one_success.low <= one_success.mean <= one_success.high <= 1
    two = bootstrap_mean([0.0, 1.0])
    assert two.low <= 0.5 <= two.high


@pytest.mark.parametrize("bad", [[], [[1.0, 2.0]], [1.0, np.nan], [np.inf]])
def test_bootstrap_refuses_what_has_no_mean(bad):
    with pytest.raises(LWDError):
        bootstrap_mean(bad)


def test_wilson_keeps_its_width_at_the_ends():
    assert wilson(5, 10) == Interval(0.5, pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert wilson(0, 10).low == 0 and wilson(0, 10).high == pytest.approx(0.2775, abs=1e-4)
    assert wilson(10, 10).high == 1 and wilson(10, 10).low == pytest.approx(0.7225, abs=1e-4)


def test_groups_are_resampled_within_themselves():
    rng = np.random.default_rng(5)
    groups = [rng.normal(0.5 + shift, 0.1, 60) for shift in (0.0, 0.3, 0.6)]
    interval = within_groups(groups)
    half = 1.96 * np.sqrt(sum(group.var() / 60 for group in groups)) / 3  # of a mean of three independent means
    assert interval.mean == pytest.approx(np.mean(groups))
    assert interval.high - interval.mean == pytest.approx(half, rel=0.05), "how much groups differ is no uncertainty"
    assert math.isnan(within_groups([np.array([0.2]), np.array([0.4, 0.5])]).low), "a single value has no interval"


def test_other_trainings_widen_the_interval():
    apart = np.array([[0.1] * 20, [0.5] * 20, [0.9] * 20])  # three trainings that differ, in twenty equal environments
    wide = over_trainings([apart], 0.5)
    assert wide.low < 0.25 and wide.high > 0.75
    assert over_trainings([np.full((2, 5), 0.2), np.full((2, 5), 0.8)], 0.5) == Interval(0.5, pytest.approx(0.5), pytest.approx(0.5))
    assert math.isnan(over_trainings([apart[:1]], 0.1).low), "one training says nothing about others"


def test_intervals_are_disjoint_only_where_both_are_known():
    assert disjoint(Interval(0.5, 0.45, 0.6), Interval(0.2, 0.1, 0.4)) and disjoint(Interval(0.2, 0.1, 0.4), Interval(0.5, 0.45, 0.6))
    assert not disjoint(Interval(0.4, 0.3, 0.6), Interval(0.2, 0.1, 0.4))
    assert not disjoint(Interval(0.9, math.nan, math.nan), Interval(0.2, 0.1, 0.4))


def test_jensen_shannon_of_known_distributions() -> None:
    """Against numerical integration of two normals, as wide as the kernels make them; and its limits."""
    rng = np.random.default_rng(0)
    n, shift = 4000, 1.5
    a, b = rng.normal(0, 1, (n, 1)), rng.normal(shift, 1, (n, 1))
    wide = np.sqrt(1 + n ** (-2 / 5))
    x = np.linspace(-8, 10, 20_001)
    p, q = stats.norm.pdf(x, 0, wide), stats.norm.pdf(x, shift, wide)
    m = (p + q) / 2
    exact = np.trapezoid(0.5 * (stats.norm.pdf(x) * np.log(p / m) + stats.norm.pdf(x, shift) * np.log(q / m)), x)
    assert abs(jensen_shannon(a, b) - exact) < 0.01
    same = [jensen_shannon(rng.normal(size=(k, 2)), rng.normal(size=(k, 2))) for k in (32, 512)]
    assert 0 < same[1] < same[0] < 0.2
    assert jensen_shannon(a, a + 100) == pytest.approx(np.log(2), abs=1e-6)
    assert jensen_shannon(np.zeros((8, 2)), np.zeros((8, 2))) == pytest.approx(0)  # kernels have a least width
