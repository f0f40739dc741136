"""PushT as a family: a disc pushes a T-shaped block onto its goal pose. The simulator is gym-pusht."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lwd.envs.base import EnvFamily, Score, missing
from lwd.envs.pusht import geometry
from lwd.envs.pusht.geometry import SIZE, SUCCESS
from lwd.episodes import Episodes
from lwd.errors import LWDError


class PushT(EnvFamily):
    """Observations are the 5-d `state`, or `keypoints` as gym-pusht and `lerobot/pusht_keypoints` give them (16 + 2)."""

    name: ClassVar[str] = "pusht"
    max_steps: ClassVar[int] = 300
    fps: ClassVar[int] = 10
    obs_kinds: ClassVar[tuple[str, ...]] = ("state", "keypoints")
    action_low: ClassVar[tuple[float, ...]] = (0.0, 0.0)
    action_high: ClassVar[tuple[float, ...]] = (SIZE, SIZE)
    action_dimensions: ClassVar[tuple[str, ...]] = ("target x", "target y")
    units: ClassVar[str] = "pixels of a board of 512 x 512, y downwards as in the picture"
    info_keys: ClassVar[tuple[str, ...]] = ("coverage",)
    trace: ClassVar[tuple[str, ...]] = ("coverage",)
    scores: ClassVar[dict[str, Score]] = {"max_overlap": "mean", "success": "rate", "final_coverage": "mean"}
    primary: ClassVar[str] = "max_overlap"
    side: ClassVar[float] = SIZE
    disturbances: ClassVar[dict[str, str]] = {
        "displace": "pixels: with probability 0.1 a step, the block moves by up to that along each axis",
        "drift": "pixels by which the block is dragged at every step, in a slowly turning direction",
        "dynamic": "pixels by which the block moves along both axes at every step (bid_diffusion: 400 steps, seeds from 20000)",
        "action-noise": "pixels, standard deviation of noise on the executed targets",
        "sensor-noise": "pixels, standard deviation of noise on the observed positions",
    }
    usual: ClassVar[dict[str, float]] = {"displace": 50, "drift": 2, "dynamic": 1, "action-noise": 20, "sensor-noise": 5}
    expert: ClassVar[str] = "lwd.envs.pusht.expert.collecting"

    def make(self, obs_kind: str, task: str | None = None) -> gymnasium.Env:
        self.check_obs_kind(obs_kind)
        try:
            from lwd.envs.pusht.simulator import PushTEnv
        except ImportError as error:
            raise missing(self.name, error) from error
        return PushTEnv(obs_kind)

    def angles(self, obs_kind: str) -> tuple[int, ...]:
        return (4,) if obs_kind == "state" else ()

    def sensor_scale(self, obs_kind: str) -> NDArray[np.float64] | float:
        """An angle that is off by 1/60 radian moves the block's corners, about 60 pixels away, by a pixel."""
        return np.array([1, 1, 1, 1, 1 / 60]) if obs_kind == "state" else 1.0

    def dimensions(self, obs_kind: str) -> tuple[str, ...]:
        if obs_kind == "state":
            return ("agent x", "agent y", "block x", "block y", "block angle")
        return (*(f"point {i} {axis}" for i in range(8) for axis in "xy"), "agent x", "agent y")

    def recognise(self, obs: NDArray[Any], action: NDArray[Any]) -> str | None:
        """PushT data have 5 or 18 observed and 2 action dimensions; the agent is within 64 pixels of the board, not scaled to about one."""
        if obs.shape[1] not in (5, 18) or action.shape[1] != 2:
            return None
        agent = obs[:, :2] if obs.shape[1] == 5 else obs[:, 16:]
        agent = agent[np.isfinite(agent)]
        in_pixels = agent.size and agent.min() >= -64 and 2 < agent.max() <= SIZE + 64
        return {5: "state", 18: "keypoints"}[obs.shape[1]] if in_pixels else None

    def summarise(self, infos: dict[str, list[float]]) -> dict[str, float]:
        """The three scores that circulate for PushT. `max_overlap` is the one of Diffusion Policy and of the paper (4.1.1)."""
        best, last = max(infos["coverage"]), infos["coverage"][-1]
        return {"max_overlap": float(np.clip(best / SUCCESS, 0, 1)), "success": float(best >= SUCCESS), "final_coverage": float(last)}

    def curve(self, episode: dict[str, Any]) -> list[float]:
        """The overlap, as scored: clip(coverage / 0.95, 0, 1)."""
        return [min(value / SUCCESS, 1.0) for value in episode["coverage"]]

    def trail(self, obs_kind: str, obs: NDArray[np.float64]) -> NDArray[np.float64]:
        """The middle of the block's corners (key points), or its origin (state)."""
        block = obs[..., 2:4] if obs_kind == "state" else obs[..., :16].reshape(*obs.shape[:-1], 8, 2).mean(-2)
        return block / SIZE

    def scene(self, env: gymnasium.Env) -> dict[str, Any]:
        """Goal, block and agent."""
        state = self.state(env)
        poses: dict[str, Any] = {"goal": geometry.GOAL, "block": state[2:]}
        polygons = {name: np.round(geometry.block_points(pose)[geometry.OUTLINE] / SIZE, 4).tolist() for name, pose in poses.items()}
        return {"polygons": polygons, "discs": {"agent": [*(state[:2] / SIZE).round(4).tolist(), geometry.AGENT_RADIUS / SIZE]}}

    def convert(self, episodes: Episodes, obs_kind: str) -> Episodes:
        """Converts states to key points. The other direction is refused."""
        if (episodes.meta.obs_kind, obs_kind) != ("state", "keypoints"):
            return super().convert(episodes, obs_kind)
        if episodes.obs.shape[1] != 5:
            raise LWDError(f"a PushT state has 5 dimensions (agent x, y, block x, y, angle), not {episodes.obs.shape[1]}")
        points = geometry.state_to_keypoints(episodes.obs).astype(np.float32)
        return replace(episodes, obs=points, meta=replace(episodes.meta, obs_kind=obs_kind, angles=self.angles(obs_kind)))

    def mirror(self, episodes: Episodes) -> Episodes:
        """The reflected episodes with the tag `mirrored` (originals lack the tag or have it False; mirrored twice is False again)."""
        self.check_obs_kind(episodes.meta.obs_kind)
        obs = geometry.mirror_state(episodes.obs) if episodes.meta.obs_kind == "state" else geometry.mirror_keypoints(episodes.obs)
        action, before = geometry.mirror_points(episodes.action), episodes.tags.get("mirrored", np.zeros(len(episodes), bool))
        tags = {**episodes.tags, "mirrored": ~before.astype(bool)}
        return replace(episodes, obs=obs.astype(np.float32), action=action.astype(np.float32), tags=tags)

    def state(self, env: gymnasium.Env) -> NDArray[np.float64]:
        return geometry.get_state(env)

    def states(self, episodes: Episodes) -> NDArray[np.float64]:
        """(N, 5) states: the observation itself, or a least-squares fit of the key points."""
        obs = episodes.obs.astype(np.float64)
        return obs if episodes.meta.obs_kind == "state" else geometry.keypoints_to_state(obs)

    def distance(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        """Mean distance of the agent and of the block's key points, pixels."""
        points = geometry.state_to_keypoints(np.stack([a, b])).reshape(2, 9, 2)
        moved = np.linalg.norm(points[0] - points[1], axis=-1)
        return float(moved[8:].mean() + moved[:8].mean()) / 2


FAMILY = PushT()
