"""A scripted PushT expert: plans one push at a time by trying many in the real physics.

A push goes around the block to a point beside its outline, then along a direction. Each is valued by the steps until the goal if all went
on at its rate. One of the best is chosen at random, so that the same start is solved in more than one way. Every action is a point of the
agent's way a bounded distance ahead of it: a smooth function of what is seen, like those of a hand with a mouse.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.envs.pusht.expert.routes import Follower, Points, distance, nearest_side, rotate, routes, sample_contacts, to_world
from lwd.envs.pusht.geometry import AGENT_RADIUS, GOAL, SIZE, SUCCESS, VERTICES, block_points

Array = NDArray[np.float64]
NAME, VERSION = "push-planner", 1

# Lengths in pixels, durations in steps (0.1 s).
CANDIDATES, REFINED = 96, 32  # pushes drawn per decision, and further ones drawn around the best
FINALISTS, PER_SIDE = 8, 3  # of the best, so many are simulated with their approach; at most so many at one side (first push: 1)
OPENING_PATIENCE, PATIENCE = 0.7, 0.1  # share by which a push may promise a longer episode than the best: the first push, every later one
LEAD, CAREFUL_LEAD = 28.0, 10.0  # how far ahead of the agent (which moves half of it per step) an action lies: at most, and at the goal
PUSH_STEPS, LONGEST = 30, 200  # of a push at most, and with its approach
STANDOFF, EDGE = 14.0, 8.0  # gap between agent and block where a push begins, and between agent and border of the board
OVERHEAD = 8.0  # steps added to the price of every push: changing sides takes time that the simulation of one push does not see
NEAR = 1.5  # about the key-point distance at which the goal counts as covered
SUBSTEPS, DT = 10, 0.01  # physics steps per action, seconds
K_P, K_V = 100.0, 20.0  # the agent's PD control
_POINTS, _TARGETS = VERTICES.tolist(), block_points(GOAL).tolist()


class Scratch:
    """gym-pusht's own physics without coverage, observations and rendering (about 20 x faster): a world to try pushes in."""

    def __init__(self, env: Any) -> None:
        self.env = env
        env._setup()
        self.x = self.y = self.vx = self.vy = 0.0  # of the agent: nothing pushes back, so they need not come from pymunk

    def restore(self, pose: Array, agent: Array, velocity: Array) -> None:
        """Block at pose (x, y, angle) and at rest, agent at (2,) with velocity (2,) in pixels per second."""
        env = self.env
        env.agent.position, env.agent.velocity = (-1000.0, -1000.0), (0.0, 0.0)
        env.space.reindex_shapes_for_body(env.agent)
        for _ in range(4):  # pymunk keeps the impulses of a contact for three steps: let those of the last trial go
            env.space.step(DT)
        self.x, self.y, self.vx, self.vy = map(float, (*agent, *velocity))
        env.agent.position = (self.x, self.y)
        env.block.angle = float(pose[2])  # before the position: it turns about the centre of gravity
        env.block.position = (float(pose[0]), float(pose[1]))
        env.block.velocity, env.block.angular_velocity = (0.0, 0.0), 0.0
        env.space.reindex_shapes_for_body(env.agent)
        env.space.reindex_shapes_for_body(env.block)

    def step(self, tx: float, ty: float) -> None:
        """One action (target position, pixels) of 0.1 s."""
        agent, space = self.env.agent, self.env.space
        for _ in range(SUBSTEPS):
            self.vx += (K_P * (tx - self.x) - K_V * self.vx) * DT
            self.vy += (K_P * (ty - self.y) - K_V * self.vy) * DT
            agent.velocity = (self.vx, self.vy)
            space.step(DT)
            self.x += self.vx * DT
            self.y += self.vy * DT

    def goal_distance(self) -> float:
        """Mean distance of the block's eight key points to where they belong, pixels (in plain floats: every step of a trial asks)."""
        block = self.env.block
        (px, py), angle = block.position, block.angle
        c, s, total = math.cos(angle), math.sin(angle), 0.0
        for (x, y), (gx, gy) in zip(_POINTS, _TARGETS, strict=True):
            total += math.hypot(px + c * x - s * y - gx, py + s * x + c * y - gy)
        return total / len(_POINTS)

    def solved(self) -> bool:
        """Does the block cover the goal as the environment asks? Looked at only where it may: it takes 0.1 ms."""
        return self.goal_distance() < 6.0 and bool(self.env._get_coverage() > SUCCESS)


@dataclass
class Push:
    """One push that the expert may choose next."""

    stand: Array  # (2,) where the agent stands when the push begins, block frame
    direction: Array  # (2,) unit vector, block frame
    points: Points  # the agent's way, world; the last two are the line along which it pushes
    score: float = math.inf  # expected steps until the goal
    steps: int = 0  # of the push alone
    actions: Points = field(default_factory=list)  # what to do, known after the rehearsal


@dataclass
class Planner:
    """The expert at work on one episode, with a world to try pushes in."""

    scratch: Scratch
    rng: np.random.Generator
    opening: bool = True

    def plan(self, pose: Array, agent: Array, velocity: Array) -> Array:
        """The next push: (T, 2) actions, px. `pose` (3,) of the block; `agent` (2,), px, and its `velocity` (2,), px/s."""
        patience, per_side = (OPENING_PATIENCE, 1) if self.opening else (PATIENCE, PER_SIDE)
        self.opening = False
        contacts, directions = sample_contacts(CANDIDATES, self.rng)
        pushes = self._simulate(contacts - (AGENT_RADIUS + STANDOFF) * directions, directions, pose, agent)
        if best := sorted(pushes, key=lambda push: push.score)[:6]:  # more are drawn around them
            parents = [best[i % len(best)] for i in range(REFINED)]
            stands = np.array([p.stand for p in parents]) + self.rng.normal(0.0, 3.0, (REFINED, 2))
            directions = rotate(np.array([p.direction for p in parents]), self.rng.normal(0.0, 0.08, REFINED))
            pushes += self._simulate(stands, directions, pose, agent)
        finalists: list[Push] = []  # no two alike, and not all at one side of the block
        taken: Counter[int] = Counter()
        for push in sorted(pushes, key=lambda push: push.score):
            side = int(nearest_side(push.stand))
            new = all(math.dist(push.stand, other.stand) > 6.0 or push.direction @ other.direction < 0.99 for other in finalists)
            if new and taken[side] < per_side:
                finalists.append(push)
                taken[side] += 1
            if len(finalists) == FINALISTS:
                break
        for push in finalists:
            self._rehearse(push, pose, agent, velocity)
        scores = np.minimum([push.score for push in finalists], 1e6)
        excess = scores / scores.min() - 1.0
        weight = np.where(excess <= patience, np.exp(-excess / patience), 0.0)
        return np.array(finalists[self.rng.choice(len(finalists), p=weight / weight.sum())].actions)

    def _simulate(self, stands: Array, directions: Array, pose: Array, agent: Array) -> list[Push]:
        """The pushes that can be begun, with their ways and scores; stands and directions (n, 2) in the block frame."""
        targets = to_world(stands, pose)
        free = (distance(stands) > AGENT_RADIUS + 4.0) & ((targets > EDGE) & (targets < SIZE - EDGE)).all(-1)
        stands, directions, targets = stands[free], directions[free], targets[free]
        costs, paths = routes(agent, targets, pose)
        headings = rotate(directions, pose[2])
        pushes, scratch = [], self.scratch
        for stand, direction, target, heading, cost, path in zip(stands, directions, targets, headings, costs, paths, strict=True):
            points = [(float(x), float(y)) for x, y in [*path, target + 2.0 * SIZE * heading]]
            push, approach = Push(stand, direction, points), cost / (0.5 * LEAD) + 2.0  # steps of the approach, which is not simulated
            pushes.append(push)
            scratch.restore(pose, target, 3.0 * LEAD * heading)  # arrives at about the speed of a push
            (x, y), (ux, uy) = map(float, target), map(float, heading)
            before = after = scratch.goal_distance()
            for t in range(1, PUSH_STEPS + 1):
                ahead = (scratch.x - x) * ux + (scratch.y - y) * uy + _push_lead(after)
                scratch.step(x + ux * ahead, y + uy * ahead)
                if not (0.0 < scratch.x < SIZE and 0.0 < scratch.y < SIZE):
                    break
                after, solved = scratch.goal_distance(), scratch.solved()
                score = _total(approach + t, before, 0.0 if solved else after)
                if score < push.score:
                    push.score, push.steps = score, t
                if solved or after > before + 15.0:
                    break
        return pushes

    def _rehearse(self, push: Push, pose: Array, agent: Array, velocity: Array) -> None:
        """Simulates approach and push as they will be carried out; sets the score, and the actions up to where it is best."""
        scratch, follower = self.scratch, Follower(push.points)
        scratch.restore(pose, agent, velocity)
        before = after = scratch.goal_distance()
        push.score, cut, pushing, solved = math.inf, 0, 0, False
        actions: Points = []
        while pushing <= push.steps + 3 and len(actions) < LONGEST and not solved:
            lead = LEAD if follower.remaining(scratch.x, scratch.y) > LEAD else _push_lead(after)
            x, y = (round(min(max(value, 0.0), SIZE), 2) for value in follower.ahead(scratch.x, scratch.y, lead))
            scratch.step(x, y)
            actions.append((x, y))
            after, solved = scratch.goal_distance(), scratch.solved()
            pushing += follower.remaining(scratch.x, scratch.y) <= 0.0
            score = _total(len(actions), before, 0.0 if solved else after)
            if (pushing or solved) and score < push.score:
                push.score, cut = score, len(actions)
        push.actions = actions[:cut] if cut else actions


def _total(steps: float, before: float, after: float) -> float:
    """Expected steps to the goal at the rate of a push that takes `steps` from one distance (px) to another: it divides the distance."""
    work, left = math.log1p(before / NEAR), math.log1p(after / NEAR)
    return (steps + OVERHEAD) * work / (work - left) if left < work else math.inf


def _push_lead(goal_distance: float) -> float:
    """How far ahead of the agent an action lies while it pushes: slower near the goal, where two pixels matter."""
    return min(CAREFUL_LEAD + 0.4 * goal_distance, LEAD)
