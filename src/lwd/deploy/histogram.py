"""How long things take, as counts of durations: of a control loop, and of a server."""

from __future__ import annotations

import math

import numpy as np

BINS, RATIO = 940, math.log(1.02)  # from a microsecond to two minutes, each 2 % wider than the one before


class Histogram:
    """How often a duration occurred. It takes the same memory and time however long it runs."""

    def __init__(self) -> None:
        self.counts, self.total, self.largest = [0] * BINS, 0.0, 0.0

    def add(self, seconds: float) -> None:
        """Counts a duration, given in seconds."""
        self.counts[min(int(math.log(max(seconds * 1e6, 1)) / RATIO), BINS - 1)] += 1
        self.total, self.largest = self.total + seconds, max(self.largest, seconds)

    def below(self, seconds: float) -> int:
        """How many were shorter, to within the width of a bin."""
        return sum(self.counts[: round(math.log(seconds * 1e6) / RATIO)])

    def summary(self) -> dict[str, float]:
        """Percentiles (upper edge of a bin), maximum and mean in microseconds, and the number `n`."""
        sums, n, most = np.cumsum(self.counts), sum(self.counts), 1e6 * self.largest
        cuts = {f"p{q:g}": min(math.exp(RATIO * (1 + int(np.searchsorted(sums, n * q / 100)))), most) for q in (50, 99, 99.9)}
        return {key: round(value, 1) for key, value in {**cuts, "max": most, "mean": 1e6 * self.total / max(n, 1)}.items()} | {"n": n}
