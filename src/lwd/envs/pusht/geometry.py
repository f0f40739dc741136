"""PushT in plain numpy: constants, the block's geometry, both kinds of observation, the symmetry, and the simulator's exact state.

State, in pixels and radians: agent x, agent y, block x, block y, block angle. Action: where the agent is drawn to, in pixels.
The space damps all velocity within a physics step. Positions and angle (and the agent's own velocity) are therefore the whole state."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

SUCCESS = 0.95  # coverage of the goal that counts as success; gym-pusht ends the episode above it
SIZE = 512.0  # pixels; the board is [0, 512]^2
WALLS = (7.0, 504.0)  # pixels; inner faces of the walls, whose centre lines of radius 2 lie at 5 and 506
GOAL = (256.0, 256.0, np.pi / 4)  # block x, y, angle
AGENT_RADIUS = 15.0  # pixels
# Corners of bar and stem in the block's own frame, in the order of gym-pusht's key points.
VERTICES = np.array([[-60, 0], [60, 0], [60, 30], [-60, 30], [-15, 30], [15, 30], [15, 120], [-15, 120]], np.float64)
OUTLINE = [0, 1, 2, 5, 6, 7, 4, 3]  # the corners in their order around the T


def block_points(pose: ArrayLike) -> NDArray[np.float64]:
    """Corners of the block: pose (..., 3), which is block x, y, angle -> (..., 8, 2) pixels, in the order of `VERTICES`."""
    pose = np.asarray(pose, np.float64)
    cos, sin = np.cos(pose[..., 2:3]), np.sin(pose[..., 2:3])
    x = cos * VERTICES[:, 0] - sin * VERTICES[:, 1] + pose[..., 0:1]
    y = sin * VERTICES[:, 0] + cos * VERTICES[:, 1] + pose[..., 1:2]
    return np.stack([x, y], axis=-1)


def state_to_keypoints(state: ArrayLike) -> NDArray[np.float64]:
    """Key-point observation of a state: (N, 5) -> (N, 18), the block's 8 corners as x, y pairs and then the agent's x, y."""
    state = np.asarray(state, np.float64)
    return np.concatenate([block_points(state[:, 2:]).reshape(len(state), 16), state[:, :2]], axis=1)


def keypoints_to_state(obs: ArrayLike) -> NDArray[np.float64]:
    """(N, 18) key points and agent -> (N, 5) state: rotation and position that fit the block's points best (least squares)."""
    points = np.asarray(obs, np.float64)
    block = points[:, :16].reshape(-1, 8, 2)
    a, b = VERTICES - VERTICES.mean(0), block - block.mean(1, keepdims=True)
    angle = np.arctan2((a[:, 0] * b[:, :, 1] - a[:, 1] * b[:, :, 0]).sum(1), (a * b).sum((1, 2)))
    centred = block_points(np.stack([0 * angle, 0 * angle, angle], 1))  # as the block would lie at the origin
    return np.concatenate([points[:, 16:], (block - centred).mean(1), (angle % (2 * np.pi))[:, None]], 1)


def mirror_points(points: ArrayLike) -> NDArray[np.float64]:
    """Reflects positions or actions (..., 2) about the axis of the goal: (x, y) -> (512 - y, 512 - x)."""
    return SIZE - np.asarray(points, np.float64)[..., ::-1]


def mirror_state(state: ArrayLike) -> NDArray[np.float64]:
    """Reflects states (..., 5); the angle becomes pi/2 - angle, in [0, 2 pi). The block is symmetric and the goal lies on the axis:
    coverage stays. The walls' centre is half a pixel off the axis: a mirrored wall is one pixel further in or out."""
    state = np.asarray(state, np.float64)
    angle = (np.pi / 2 - state[..., 4:]) % (2 * np.pi)
    return np.concatenate([mirror_points(state[..., :2]), mirror_points(state[..., 2:4]), angle], axis=-1)


def mirror_keypoints(obs: ArrayLike) -> NDArray[np.float64]:
    """Reflects key-point observations (..., 18); left corners trade places with right ones."""
    obs = np.asarray(obs, np.float64)
    points = mirror_points(obs.reshape(*obs.shape[:-1], 9, 2))
    return points[..., [1, 0, 3, 2, 5, 4, 7, 6, 8], :].reshape(obs.shape)  # (the agent, 8, is its own mirror image)


def set_state(env: gymnasium.Env, state: ArrayLike) -> None:
    """Puts the simulator (ours or a plain gym-pusht one, wrapped or not) exactly into a state (5,), everything at rest.

    The space is made anew, as Chipmunk keeps the contact impulses of recent steps: references to the old bodies become stale."""
    raw: Any = env.unwrapped
    agent_x, agent_y, x, y, angle = np.asarray(state, np.float64).tolist()
    raw._setup()
    raw.agent.position = (agent_x, agent_y)
    raw.block.angle = angle  # before the position: turning about the centre of gravity moves the origin
    raw.block.position = (x, y)
    for body in (raw.agent, raw.block):
        raw.space.reindex_shapes_for_body(body)


def get_state(env: gymnasium.Env) -> NDArray[np.float64]:
    """State of the simulator, (5,); the angle in [0, 2 pi)."""
    raw: Any = env.unwrapped
    return np.array([*raw.agent.position, *raw.block.position, raw.block.angle % (2 * np.pi)], np.float64)
