"""gymnasium's Pendulum as an environment of lwd: a rod is to be swung up and held there by a motor that is too weak to lift it."""

from __future__ import annotations

from typing import ClassVar

import gymnasium

from lwd.envs.base import EnvFamily, Score


class Upright(gymnasium.Wrapper):
    """Adds `info["upright"]`: does the rod stand, to within 15 degrees?"""

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, "upright": float(obs[0] > 0.966)}


class Pendulum(EnvFamily):
    """Observation: cosine and sine of the angle from above, and the angular velocity in rad/s. Action: torque in N m."""

    name: ClassVar[str] = "pendulum_env"  # how this module is imported
    max_steps: ClassVar[int] = 200
    fps: ClassVar[int] = 20
    action_low: ClassVar[tuple[float, ...]] = (-2.0,)
    action_high: ClassVar[tuple[float, ...]] = (2.0,)
    info_keys: ClassVar[tuple[str, ...]] = ("upright",)
    scores: ClassVar[dict[str, Score]] = {"upright": "mean", "held": "rate", "return": "mean"}
    primary: ClassVar[str] = "upright"

    def make(self, obs_kind: str, task: str | None = None) -> gymnasium.Env:
        self.check_obs_kind(obs_kind)
        return Upright(gymnasium.make("Pendulum-v1", render_mode="rgb_array"))

    def summarise(self, infos: dict[str, list[float]]) -> dict[str, float]:
        """Share of the steps that it stands; whether it does so for the last second; the sum of rewards."""
        upright = infos["upright"]
        return {"upright": sum(upright) / len(upright), "held": float(all(upright[-20:])), "return": sum(infos["reward"])}


FAMILY = Pendulum()
