"""gym-pusht's own physics without its coverage, observations and rendering: what a planner tries its pushes in (about 20 x faster)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.envs.pusht.geometry import GOAL, SUCCESS, VERTICES, block_points

Array = NDArray[np.float64]

SUBSTEPS, DT = 10, 0.01  # physics steps per action, seconds
K_P, K_V = 100.0, 20.0  # the agent's PD control
_POINTS = VERTICES.tolist()
_TARGETS = block_points(GOAL).tolist()


class Scratch:
    """A PushT world that can be put into any state and stepped.

    The agent is kinematic (nothing pushes back), so its position and velocity are kept here as plain floats and only handed to pymunk.
    """

    def __init__(self, env: Any) -> None:
        """Takes over an unwrapped environment of its own (`lwd.envs.pusht.family`, which spares a Python callback per contact)."""
        self.env = env
        env._setup()
        self.x = self.y = self.vx = self.vy = 0.0

    def restore(self, pose: Array, agent: Array, velocity: Array) -> None:
        """Block at pose (x, y, angle) and at rest, agent at (2,) with velocity (2,) in pixels per second."""
        env = self.env
        env.agent.position, env.agent.velocity = (-1000.0, -1000.0), (0.0, 0.0)
        env.space.reindex_shapes_for_body(env.agent)
        for _ in range(4):  # pymunk keeps the impulses of a contact for three steps: let those of the last trial go
            env.space.step(DT)
        self.x, self.y = float(agent[0]), float(agent[1])
        self.vx, self.vy = float(velocity[0]), float(velocity[1])
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
        """Mean distance of the block's eight key points to where they belong, pixels.

        In plain floats: it is asked after every step of every trial.
        """
        block = self.env.block
        (px, py), angle = block.position, block.angle
        c, s = math.cos(angle), math.sin(angle)
        total = 0.0
        for (x, y), (gx, gy) in zip(_POINTS, _TARGETS, strict=True):
            total += math.hypot(px + c * x - s * y - gx, py + s * x + c * y - gy)
        return total / len(_POINTS)

    def solved(self, near: float = 6.0) -> bool:
        """Does the block cover the goal as the environment asks? Looked at only within `near` pixels: it takes 0.1 ms."""
        return self.goal_distance() < near and bool(self.env._get_coverage() > SUCCESS)
