"""A scripted PushT expert: plans one push at a time by trying many in the real physics.

A push is: go around the block to a point beside its outline, then push along a direction. The expert draws such pushes, simulates them
from the present state, and values each by the steps until the goal if all went on at its rate. It carries out one of the best, chosen at
random, so that the same start is solved in more than one way; within a push nothing is random. Every action is the point of the agent's
way a bounded distance ahead of it, so that actions are a smooth function of what is seen, like those of a hand with a mouse.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lwd.envs.pusht.expert.follower import Follower, Points
from lwd.envs.pusht.expert.physics import Scratch
from lwd.envs.pusht.expert.routes import AGENT_RADIUS, distance, nearest_side, rotate, routes, sample_contacts, to_world
from lwd.envs.pusht.geometry import SIZE

Array = NDArray[np.float64]

NAME = "push-planner"
VERSION = 1

_NEAR = 1.5  # pixels; about the key-point distance at which the goal counts as covered
_EDGE = 8.0  # pixels that the agent keeps from the border of the board where a push begins
_LONGEST = 200  # steps of approach and push


@dataclass(frozen=True)
class PushTExpert:
    """Settings of the planner; lengths in pixels, durations in steps (0.1 s).

    Args:
        candidates: pushes drawn per decision.
        refined: further pushes drawn around the best ones.
        finalists: how many of the best are simulated together with their approach.
        per_side: finalists at the same side of the block at most; one in the first decision.
        opening_patience: share by which the first push may promise a longer episode than the best one and still be chosen.
        patience: the same for every later push.
        lead: how far ahead of the agent an action lies at most (the agent moves about half of it per step).
        careful_lead: the same at the goal; in between, it grows with the block's distance.
        push_steps: longest push.
        standoff: gap between agent and block where a push begins.
        overhead: steps added to the price of every push: changing sides takes time that the simulation of one push does not see.
    """

    candidates: int = 96
    refined: int = 32
    finalists: int = 8
    per_side: int = 3
    opening_patience: float = 0.7
    patience: float = 0.1
    lead: float = 28.0
    careful_lead: float = 10.0
    push_steps: int = 30
    standoff: float = 14.0
    overhead: float = 8.0

    def total(self, steps: float, before: float, after: float) -> float:
        """Expected steps to the goal at the rate of a push that takes `steps` and brings the block from one distance (px) to another.

        A push divides the distance by a factor, so the work left is measured as its logarithm. Infinite for a push that gains nothing.
        """
        work, left = math.log1p(before / _NEAR), math.log1p(after / _NEAR)
        return (steps + self.overhead) * work / (work - left) if left < work else math.inf

    def push_lead(self, goal_distance: float) -> float:
        """How far ahead of the agent an action lies while it pushes: slower near the goal, where two pixels matter."""
        return min(self.careful_lead + 0.4 * goal_distance, self.lead)


@dataclass
class Push:
    """One candidate."""

    stand: Array  # (2,) where the agent stands when the push begins, block frame
    direction: Array  # (2,) unit vector, block frame
    points: Points  # the agent's way, world; the last two are the line along which it pushes
    score: float = math.inf  # expected steps until the goal
    steps: int = 0  # of the push alone
    actions: Points = field(default_factory=list)  # what to do, known after the rehearsal


@dataclass
class Planner:
    """The expert at work on one episode, with a world to try pushes in."""

    expert: PushTExpert
    scratch: Scratch
    rng: np.random.Generator
    opening: bool = True

    def plan(self, pose: Array, agent: Array, velocity: Array) -> Array:
        """The next push: (T, 2) actions of approach and push, in pixels rounded to 0.01.

        `pose` (3,) is the block's x, y, angle; `agent` (2,) a position in pixels; `velocity` (2,) the agent's in pixels per second.
        """
        patience, per_side = self.expert.patience, self.expert.per_side
        if self.opening:  # the side to begin at is what an onlooker sees as "another way"
            self.opening, patience, per_side = False, self.expert.opening_patience, 1
        finalists = self._finalists(self._candidates(pose, agent), per_side)
        for push in finalists:
            self._rehearse(push, pose, agent, velocity)
        scores = np.minimum([push.score for push in finalists], 1e6)
        excess = scores / scores.min() - 1.0
        weight = np.where(excess <= patience, np.exp(-excess / patience), 0.0)
        return np.array(finalists[self.rng.choice(len(finalists), p=weight / weight.sum())].actions)

    def _candidates(self, pose: Array, agent: Array) -> list[Push]:
        """Draws pushes, then more around the best of them; each simulated from its stand on, best first."""
        contacts, directions = sample_contacts(self.expert.candidates, self.rng)
        pushes = self._simulate(contacts - (AGENT_RADIUS + self.expert.standoff) * directions, directions, pose, agent)
        best = sorted(pushes, key=lambda push: push.score)[:6]
        if best:
            parents = [best[i % len(best)] for i in range(self.expert.refined)]
            stands = np.array([p.stand for p in parents]) + self.rng.normal(0.0, 3.0, (len(parents), 2))
            directions = rotate(np.array([p.direction for p in parents]), self.rng.normal(0.0, 0.08, len(parents)))
            pushes += self._simulate(stands, directions, pose, agent)
        return sorted(pushes, key=lambda push: push.score)

    def _finalists(self, pushes: list[Push], per_side: int) -> list[Push]:
        """The best pushes, no two of them alike and not all at one side of the block."""
        chosen: list[Push] = []
        taken: Counter[int] = Counter()
        for push in pushes:
            side = int(nearest_side(push.stand))
            new = all(math.dist(push.stand, other.stand) > 6.0 or push.direction @ other.direction < 0.99 for other in chosen)
            if new and taken[side] < per_side:
                chosen.append(push)
                taken[side] += 1
            if len(chosen) == self.expert.finalists:
                break
        return chosen

    def _simulate(self, stands: Array, directions: Array, pose: Array, agent: Array) -> list[Push]:
        """The pushes that can be begun, with their ways and scores; stands and directions (n, 2) in the block frame."""
        targets = to_world(stands, pose)
        free = (distance(stands) > AGENT_RADIUS + 4.0) & ((targets > _EDGE) & (targets < SIZE - _EDGE)).all(-1)
        stands, directions, targets = stands[free], directions[free], targets[free]
        costs, paths = routes(agent, targets, pose)
        headings = rotate(directions, pose[2])
        pushes = []
        for stand, direction, target, heading, cost, path in zip(stands, directions, targets, headings, costs, paths, strict=True):
            points = [(float(x), float(y)) for x, y in [*path, target + 2.0 * SIZE * heading]]
            push = Push(stand, direction, points)
            self._try(push, cost / (0.5 * self.expert.lead) + 2.0, pose, target, heading)
            pushes.append(push)
        return pushes

    def _try(self, push: Push, approach: float, pose: Array, target: Array, heading: Array) -> None:
        """Simulates the push without its approach (which is taken to last `approach` steps); sets its score and length."""
        scratch, expert = self.scratch, self.expert
        scratch.restore(pose, target, 3.0 * expert.lead * heading)  # arrives at about the speed of a push
        x, y, ux, uy = float(target[0]), float(target[1]), float(heading[0]), float(heading[1])
        before = after = scratch.goal_distance()
        for t in range(1, expert.push_steps + 1):
            ahead = (scratch.x - x) * ux + (scratch.y - y) * uy + expert.push_lead(after)
            scratch.step(x + ux * ahead, y + uy * ahead)
            if not (0.0 < scratch.x < SIZE and 0.0 < scratch.y < SIZE):
                break
            after = scratch.goal_distance()
            solved = scratch.solved()
            score = expert.total(approach + t, before, 0.0 if solved else after)
            if score < push.score:
                push.score, push.steps = score, t
            if solved or after > before + 15.0:
                break

    def _rehearse(self, push: Push, pose: Array, agent: Array, velocity: Array) -> None:
        """Simulates approach and push as they will be carried out; sets the score, and the actions up to where it is best."""
        scratch, expert = self.scratch, self.expert
        scratch.restore(pose, agent, velocity)
        follower = Follower(push.points)
        before = after = scratch.goal_distance()
        push.score, cut, pushing = math.inf, 0, 0
        actions: Points = []
        while pushing <= push.steps + 3 and len(actions) < _LONGEST:
            lead = expert.lead if follower.remaining(scratch.x, scratch.y) > expert.lead else expert.push_lead(after)
            x, y = (round(min(max(value, 0.0), SIZE), 2) for value in follower.ahead(scratch.x, scratch.y, lead))
            scratch.step(x, y)
            actions.append((x, y))
            after = scratch.goal_distance()
            solved = scratch.solved()
            pushing += follower.remaining(scratch.x, scratch.y) <= 0.0
            score = expert.total(len(actions), before, 0.0 if solved else after)
            if (pushing or solved) and score < push.score:
                push.score, cut = score, len(actions)
            if solved:
                break
        push.actions = actions[:cut] if cut else actions
