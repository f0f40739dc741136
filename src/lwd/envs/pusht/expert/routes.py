"""The T-shaped block of PushT in pixels and radians; its frame has the origin at the middle of the bar's outer side, the stem along +y."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from lwd.envs.pusht.geometry import AGENT_RADIUS

Array = NDArray[np.float64]
Points = list[tuple[float, float]]

# Boxes (x low, y low, x high, y high) of bar and stem, and the outline around both; gym-pusht's add_tee at scale 30.
BOXES = np.array([[-60.0, 0.0, 60.0, 30.0], [-15.0, 30.0, 15.0, 120.0]])
OUTLINE = np.array([[-60, 0], [60, 0], [60, 30], [15, 30], [15, 120], [-15, 120], [-15, 30], [-60, 30]], np.float64)
SIDES = ("top", "bar right", "shoulder right", "stem right", "foot", "stem left", "shoulder left", "bar left")

_EDGES = np.roll(OUTLINE, -1, axis=0) - OUTLINE
_LENGTHS = np.linalg.norm(_EDGES, axis=1)
TANGENTS = _EDGES / _LENGTHS[:, None]
NORMALS = np.stack([TANGENTS[:, 1], -TANGENTS[:, 0]], axis=1)  # outwards

# A route bends at these points: the outline's corners, moved outwards so that the agent passes with a margin of 10 px.
_OFFSET = AGENT_RADIUS + 10.0
_CORNERS = OUTLINE + _OFFSET * (NORMALS + np.roll(NORMALS, 1, axis=0))
_CLEARANCE = AGENT_RADIUS + 7.0  # closer than this to the block, a route pays
_ARENA = (14.0, 498.0)  # centre of the agent, inside the walls at 5 and 506
_SAMPLES = 24  # points per segment at which the clearance is looked at
_WINDOW = 25.0  # how far along a way that is followed the nearest point may jump in one step


def to_world(points: Array, pose: Array) -> Array:
    """Block-frame points (..., 2) in the world, for a block at pose (x, y, angle)."""
    return rotate(points, pose[2]) + pose[:2]


def to_block(points: Array, pose: Array) -> Array:
    """World points (..., 2) in the frame of a block at pose (x, y, angle)."""
    return rotate(points - pose[:2], -pose[2])


def rotate(vectors: Array, angle: float | Array) -> Array:
    """Vectors (..., 2) turned by an angle, or each by its own (...)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * vectors[..., 0] - s * vectors[..., 1], s * vectors[..., 0] + c * vectors[..., 1]], axis=-1)


def distance(points: Array) -> Array:
    """Signed distance (...) of block-frame points (..., 2) to the block's surface; exact outside, negative inside."""
    centre, half = (BOXES[:, :2] + BOXES[:, 2:]) / 2, (BOXES[:, 2:] - BOXES[:, :2]) / 2
    q = np.abs(points[..., None, :] - centre) - half
    return (np.linalg.norm(np.maximum(q, 0.0), axis=-1) + np.minimum(q.max(axis=-1), 0.0)).min(axis=-1)


def nearest_side(points: Array) -> NDArray[np.int64]:
    """Index into `SIDES` of the edge nearest to each block-frame point: (..., 2) -> (...)."""
    relative = points[..., None, :] - OUTLINE
    along = np.clip((relative * TANGENTS).sum(-1), 0.0, _LENGTHS)
    return np.linalg.norm(relative - along[..., None] * TANGENTS, axis=-1).argmin(-1)


def sample_contacts(count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Points on the outline and directions to push in (inwards, tilted a little), both (count, 2) in the block frame."""
    edge = rng.choice(len(OUTLINE), size=count, p=_LENGTHS / _LENGTHS.sum())
    along = rng.uniform(5.0, _LENGTHS[edge] - 5.0)  # nearer to a corner, a frictionless round agent slides off
    points = OUTLINE[edge] + along[:, None] * TANGENTS[edge]
    return points, rotate(-NORMALS[edge], rng.normal(0.0, 0.2, count))


def routes(start: Array, targets: Array, pose: Array) -> tuple[Array, list[Array]]:
    """Costs (n,) in pixels and ways, each (m, 2), from `start` (2,) to `targets` (n, 2), all world, around a block at `pose` (3,)."""
    local = away = to_block(start, pose)
    gap = float(distance(local))
    if gap < _CLEARANCE:  # first let go of the block, straight away from its surface
        step = 1e-3
        slope = (distance(local + step * np.eye(2)) - gap) / step
        away = local + slope / max(float(np.linalg.norm(slope)), 1e-6) * (_CLEARANCE - gap)
    corners = np.clip(to_world(_CORNERS, pose), *_ARENA)
    inner = np.concatenate([to_block(corners, pose), away[None]])
    ends = to_block(targets, pose)
    direct = _segment_costs(inner[:, None], inner[None])
    # Bellman-Ford from the last node: the cost of each one and its predecessor
    cost, before = direct[-1].copy(), [len(inner) - 1] * len(inner)
    cost[-1], before[-1] = 0.0, -1
    for node in [*range(len(inner))] * len(inner):
        through = cost + direct[:, node]
        via = int(through.argmin())
        if through[via] < cost[node] - 1e-9:
            cost[node], before[node] = through[via], via
    total = cost[:, None] + _segment_costs(inner[:, None], ends[None])
    world = to_world(inner, pose)
    ways: list[list[Array]] = []
    for target, node in zip(targets, total.argmin(0), strict=True):
        chain = [int(node)]
        while before[chain[-1]] >= 0:
            chain.append(before[chain[-1]])
        points = [start, *(world[i] for i in reversed(chain)), target]
        ways.append([p for i, p in enumerate(points) if i == 0 or np.linalg.norm(p - points[i - 1]) > 1e-6])
    return total.min(0) + float(np.linalg.norm(away - local)), [np.array(way) for way in ways]


def _segment_costs(a: Array, b: Array) -> Array:
    """Length of the segments from a to b (broadcast, (..., 2), block frame) plus what they pay for coming near the block."""
    share = np.linspace(0.0, 1.0, _SAMPLES)
    points = a[..., None, :] + share[:, None] * (b - a)[..., None, :]
    length = np.linalg.norm(b - a, axis=-1)
    intrusion = np.maximum(_CLEARANCE - distance(points), 0.0)
    return length + (intrusion**2).mean(-1) * length / 8.0


class Follower:
    """Follows a polyline, forwards only, by aiming a little ahead ("pure pursuit"). Nobody follows the last segment to its end."""

    def __init__(self, points: Points) -> None:
        self.points = points
        self.marks = list(accumulate(map(math.dist, points, points[1:]), initial=0.0))  # length of the way up to each point
        self.progress = 0.0

    def remaining(self, x: float, y: float) -> float:
        """Length left from (x, y) to the last bend; negative beyond it."""
        self._advance(x, y)
        return self.marks[-2] - self.progress

    def ahead(self, x: float, y: float, lead: float) -> tuple[float, float]:
        """The point of the way that lies `lead` further than the one nearest to (x, y)."""
        self._advance(x, y)
        mark = self.progress + lead
        i = min(bisect_left(self.marks, mark, 1) - 1, len(self.points) - 2)
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
