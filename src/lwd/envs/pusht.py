"""PushT: a disc pushes a T-shaped block onto its goal pose. Geometry and conventions in plain numpy; the simulator is gym-pusht.

State, in pixels and radians: agent x, agent y, block x, block y, block angle. Action: where the agent is drawn to, in pixels.
The space damps all velocity within a physics step, so that positions and angle (and the agent's own velocity) are the whole state.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwd.envs.base import EnvFamily, Score, missing
from lwd.errors import LWDError

if TYPE_CHECKING:
    from lwd.data.episodes import Episodes

SUCCESS = 0.95  # coverage of the goal that counts as success; gym-pusht ends the episode above it
SIZE = 512.0  # pixels; the board is [0, 512]^2
WALLS = (7.0, 504.0)  # pixels; inner faces of the walls, whose centre lines of radius 2 lie at 5 and 506
GOAL = (256.0, 256.0, np.pi / 4)  # block x, y, angle
AGENT_RADIUS = 15.0  # pixels
# Corners of bar and stem in the block's own frame, in the order of gym-pusht's key points.
VERTICES = np.array([[-60, 0], [60, 0], [60, 30], [-60, 30], [-15, 30], [15, 30], [15, 120], [-15, 120]], np.float64)
MIRROR_ORDER = np.array([1, 0, 3, 2, 5, 4, 7, 6])  # the key point that is the mirror image of each one


def block_points(pose: ArrayLike) -> NDArray[np.float64]:
    """Corners of the block.

    Args:
        pose: (..., 3) block x, y, angle.

    Returns:
        (..., 8, 2) pixels, in the order of `VERTICES`.
    """
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
    body = block_points([0.0, 0.0, 0.0]).reshape(8, 2)
    a, b = body - body.mean(0), block - block.mean(1, keepdims=True)
    angle = np.arctan2((a[:, 0] * b[:, :, 1] - a[:, 1] * b[:, :, 0]).sum(1), (a * b).sum((1, 2)))
    turned = np.stack([np.cos(angle), np.sin(angle)], 1)
    centre = body.mean(0)
    rotated = np.stack([turned[:, 0] * centre[0] - turned[:, 1] * centre[1], turned[:, 1] * centre[0] + turned[:, 0] * centre[1]], 1)
    return np.concatenate([points[:, 16:], block.mean(1) - rotated, (angle % (2 * np.pi))[:, None]], 1)


def mirror_points(points: ArrayLike) -> NDArray[np.float64]:
    """Reflects positions or actions (..., 2) about the axis of the goal: (x, y) -> (512 - y, 512 - x)."""
    return SIZE - np.asarray(points, np.float64)[..., ::-1]


def mirror_state(state: ArrayLike) -> NDArray[np.float64]:
    """Reflects states (..., 5); the angle becomes pi/2 - angle, in [0, 2 pi).

    The block is symmetric and the goal lies on the axis, so that coverage is unchanged. The board is symmetric but for its walls: 5 and
    506 have their centre at 255.5, half a pixel off the axis' 256, so that a mirrored wall is one pixel further in or out.
    """
    state = np.asarray(state, np.float64)
    angle = (np.pi / 2 - state[..., 4:]) % (2 * np.pi)
    return np.concatenate([mirror_points(state[..., :2]), mirror_points(state[..., 2:4]), angle], axis=-1)


def mirror_keypoints(obs: ArrayLike) -> NDArray[np.float64]:
    """Reflects key-point observations (..., 18); left corners trade places with right ones."""
    obs = np.asarray(obs, np.float64)
    points = mirror_points(obs.reshape(*obs.shape[:-1], 9, 2))
    return points[..., np.append(MIRROR_ORDER, 8), :].reshape(obs.shape)


def set_state(env: gymnasium.Env, state: ArrayLike) -> None:
    """Puts the simulator (ours or a plain gym-pusht one, wrapped or not) exactly into a state (5,), everything at rest.

    The space is made anew: Chipmunk keeps the contact impulses of recent steps, and what follows would depend on what went before.
    References to the old bodies (`env.block`, `env.agent`) become stale.
    """
    raw: Any = env.unwrapped
    agent_x, agent_y, x, y, angle = (float(v) for v in np.asarray(state, np.float64))
    raw._setup()
    raw.agent.position = (agent_x, agent_y)
    raw.agent.velocity = (0.0, 0.0)
    raw.block.angle = angle  # before the position: turning about the centre of gravity moves the origin
    raw.block.position = (x, y)
    raw.block.velocity = (0.0, 0.0)
    raw.block.angular_velocity = 0.0
    raw.space.reindex_shapes_for_body(raw.agent)
    raw.space.reindex_shapes_for_body(raw.block)


def get_state(env: gymnasium.Env) -> NDArray[np.float64]:
    """State of the simulator, (5,); the angle in [0, 2 pi)."""
    raw: Any = env.unwrapped
    return np.array([*raw.agent.position, *raw.block.position, raw.block.angle % (2 * np.pi)], np.float64)


class PushT(EnvFamily):
    """The family: observations are the 5-d `state`, or `keypoints` as gym-pusht and `lerobot/pusht_keypoints` give them (16 + 2)."""

    name: ClassVar[str] = "pusht"
    max_steps: ClassVar[int] = 300
    fps: ClassVar[int] = 10
    observations: ClassVar[tuple[str, ...]] = ("state", "keypoints")
    action_low: ClassVar[tuple[float, ...]] = (0.0, 0.0)
    action_high: ClassVar[tuple[float, ...]] = (SIZE, SIZE)
    info_keys: ClassVar[tuple[str, ...]] = ("coverage",)
    trace: ClassVar[tuple[str, ...]] = ("coverage",)
    scores: ClassVar[dict[str, Score]] = {"max_overlap": "mean", "success": "rate", "final_coverage": "mean"}
    primary: ClassVar[str] = "max_overlap"

    def make(self, obs: str, task: str | None = None) -> gymnasium.Env:
        self.check_obs(obs)
        try:
            from lwd.envs._pusht_env import PushTEnv
        except ImportError as error:
            raise missing(self.name, error) from error
        return PushTEnv(obs)

    def angles(self, obs: str) -> tuple[int, ...]:
        self.check_obs(obs)
        return (4,) if obs == "state" else ()

    def summarise(self, infos: dict[str, list[float]]) -> dict[str, float]:
        """The three figures that circulate for PushT; max_overlap is the one of Diffusion Policy and of the paper (4.1.1)."""
        best = max(infos["coverage"])
        return {
            "max_overlap": float(np.clip(best / SUCCESS, 0.0, 1.0)),
            "success": float(best >= SUCCESS),
            "final_coverage": float(infos["coverage"][-1]),
        }

    def curve(self, episode: dict[str, Any]) -> list[float]:
        """The overlap, as scored: clip(coverage / 0.95, 0, 1)."""
        return [min(value / SUCCESS, 1.0) for value in episode["coverage"]]

    def convert(self, episodes: Episodes, obs: str) -> Episodes:
        """State to key points; not back."""
        self.check_obs(obs)
        if (episodes.meta.obs, obs) != ("state", "keypoints"):
            return super().convert(episodes, obs)
        if episodes.obs.shape[1] != 5:
            raise LWDError(f"a PushT state has 5 dimensions (agent x, y, block x, y, angle), not {episodes.obs.shape[1]}")
        points = state_to_keypoints(episodes.obs).astype(np.float32)
        return replace(episodes, obs=points, meta=replace(episodes.meta, obs=obs, angles=self.angles(obs)))

    def mirror(self, episodes: Episodes) -> Episodes:
        """The reflected episodes, tagged `mirrored` (originals lack the tag or have it False; mirrored twice is False again)."""
        self.check_obs(episodes.meta.obs)
        reflect = mirror_state if episodes.meta.obs == "state" else mirror_keypoints
        before = episodes.tags.get("mirrored", np.zeros(len(episodes), bool))
        return replace(
            episodes,
            obs=reflect(episodes.obs).astype(np.float32),
            action=mirror_points(episodes.action).astype(np.float32),
            tags={**episodes.tags, "mirrored": ~before.astype(bool)},
        )

    def state(self, env: gymnasium.Env) -> NDArray[np.float64]:
        return get_state(env)

    def states(self, episodes: Episodes) -> NDArray[np.float64]:
        """(N, 5), exact for the state observation, by the block's axis for key points."""
        obs = episodes.obs.astype(np.float64)
        return obs if episodes.meta.obs == "state" else keypoints_to_state(obs)

    def distance(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        """Mean distance of the agent and of the block's key points, pixels."""
        points = [state_to_keypoints(x[None]).reshape(-1, 2) for x in (a, b)]
        agent, block = (float(np.linalg.norm(d, axis=-1).mean()) for d in (points[0][8:] - points[1][8:], points[0][:8] - points[1][:8]))
        return (agent + block) / 2


FAMILY = PushT()
