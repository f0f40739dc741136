"""gym-pusht's environment with the same numbers for less work."""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np
import pymunk
import shapely
from numpy.typing import ArrayLike, NDArray

from lwd.envs.pusht.geometry import GOAL, OUTLINE, SUCCESS, WALLS, block_points, get_state, set_state, state_to_keypoints

# pygame reads both on import.
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # drawing happens in memory; a real display stays usable when one is asked for

from gym_pusht.envs.pusht import PushTEnv as GymPushT

# The T as one outline instead of two rectangles that share an edge: the same area, one polygon less to build and intersect.
_GOAL = shapely.Polygon(block_points(GOAL)[OUTLINE])
shapely.prepare(_GOAL)


class PushTEnv(GymPushT):
    """PushT with a flat observation, an exact start state, and a block that can be displaced.

    Physics and coverage are those of gym-pusht (the tests compare them bit for bit, and to 1e-9). It is faster because it does not count
    contact points (a Python callback in every contact of every physics step) and builds the goal's geometry once."""

    def __init__(self, obs_kind: str = "state") -> None:
        super().__init__(obs_type="state", visualization_width=384, visualization_height=384)
        self.obs_kind = obs_kind
        self._last_action: Any = None  # drawn as a cross
        if obs_kind == "keypoints":  # corners of the block may stand a little outside the board
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (18,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Starts an episode where gym-pusht would under `seed`, or exactly at `options["state"]` (5,)."""
        if options is None or options.get("state") is None:
            super().reset(seed=seed, options=options)
        else:
            gymnasium.Env.reset(self, seed=seed)
            set_state(self, options["state"])
        self._last_action = None
        return self.get_obs(), {}

    def step(self, action: ArrayLike) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Ten physics steps of 0.01 s towards `action` (2,), pixels. `info["coverage"]` is the covered share of the goal."""
        target_x, target_y = (float(v) for v in np.asarray(action))
        agent, space, dt, k_p, k_v = self.agent, self.space, self.dt, self.k_p, self.k_v
        self._last_action = action
        # The agent is kinematic: its velocity changes only here. Written out in scalars, in gym-pusht's order of operations.
        velocity_x, velocity_y = agent.velocity
        for _ in range(int(1 / (dt * self.control_hz))):
            x, y = agent.position
            velocity_x += (k_p * (target_x - x) + k_v * (0.0 - velocity_x)) * dt
            velocity_y += (k_p * (target_y - y) + k_v * (0.0 - velocity_y)) * dt
            agent.velocity = velocity_x, velocity_y
            space.step(dt)
        coverage = self._get_coverage()
        reward = min(max(coverage / SUCCESS, 0.0), 1.0)
        return self.get_obs(), reward, coverage > SUCCESS, False, {"coverage": coverage}

    def displace(self, vector: ArrayLike) -> NDArray[np.float64]:
        """Moves the block by `vector` (2,), pixels, cut off per axis where a corner would reach a wall; returns the move that was made."""
        x, y = self.block.position
        corners = block_points([x, y, self.block.angle])
        low = np.minimum(WALLS[0] - corners.min(axis=0), 0.0)  # a block that is already pressed into a wall may stay, but goes no deeper
        high = np.maximum(WALLS[1] - corners.max(axis=0), 0.0)
        move = np.clip(np.asarray(vector, np.float64), low, high)
        self.block.position = (x + float(move[0]), y + float(move[1]))
        self.space.reindex_shapes_for_body(self.block)
        return move

    def get_obs(self) -> NDArray[np.float64]:
        state = get_state(self)
        return state if self.obs_kind == "state" else state_to_keypoints(state[None])[0]

    def _get_coverage(self) -> float:
        block = shapely.Polygon(block_points([*self.block.position, self.block.angle])[OUTLINE])
        return float(shapely.intersection(_GOAL, block).area / _GOAL.area)

    def _setup(self) -> None:
        """gym-pusht's space, built in its order, without the collision handler whose only use is to count contacts."""
        self.space = pymunk.Space()
        self.space.gravity = 0, 0
        self.space.damping = 0.0
        a, b, c, d = (5, 506), (5, 5), (506, 5), (506, 506)
        self.space.add(*(self.add_segment(self.space, *ends, 2) for ends in ((a, b), (b, c), (c, d), (a, d))))
        self.agent = self.add_circle(self.space, (256, 400), 15)
        self.block, self._block_shapes = self.add_tee(self.space, (256, 300), 0)
        self.goal_pose = np.array(GOAL)
        self.n_contact_points = 0
        self.teleop = False
