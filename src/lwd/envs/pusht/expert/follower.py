"""Following a way smoothly: always aim at the point of it that lies a little ahead ("pure pursuit")."""

from __future__ import annotations

import math
from itertools import pairwise

Points = list[tuple[float, float]]

_WINDOW = 25.0  # pixels; how far along the way the nearest point may jump in one step


class Follower:
    """Follows a polyline (pixels), forwards only; its last segment is taken to be longer than anyone follows it."""

    def __init__(self, points: Points) -> None:
        self.points = points
        self.marks = [0.0]  # length of the way up to each point
        for a, b in pairwise(points):
            self.marks.append(self.marks[-1] + math.dist(a, b))
        self.progress = 0.0

    def remaining(self, x: float, y: float) -> float:
        """Length left from (x, y) to the last bend, pixels; negative beyond it."""
        self._advance(x, y)
        return self.marks[-2] - self.progress

    def ahead(self, x: float, y: float, lead: float) -> tuple[float, float]:
        """The point of the way `lead` pixels further than the one nearest to (x, y)."""
        self._advance(x, y)
        mark = self.progress + lead
        i = 0
        while i < len(self.points) - 2 and self.marks[i + 1] < mark:
            i += 1
        (ax, ay), (bx, by) = self.points[i], self.points[i + 1]
        share = (mark - self.marks[i]) / (self.marks[i + 1] - self.marks[i])
        return ax + share * (bx - ax), ay + share * (by - ay)

    def _advance(self, x: float, y: float) -> None:
        """Moves `progress` to the nearest point that is neither behind it nor more than the window ahead."""
        best, where = math.inf, self.progress
        for i, ((ax, ay), (bx, by)) in enumerate(pairwise(self.points)):
            low, high = max(self.progress, self.marks[i]), min(self.progress + _WINDOW, self.marks[i + 1])
            if low > high:
                continue
            length = self.marks[i + 1] - self.marks[i]
            ux, uy = (bx - ax) / length, (by - ay) / length
            along = min(max((x - ax) * ux + (y - ay) * uy, low - self.marks[i]), high - self.marks[i])
            gap = math.hypot(ax + along * ux - x, ay + along * uy - y)
            if gap < best - 1e-9:
                best, where = gap, self.marks[i] + along
        self.progress = where
