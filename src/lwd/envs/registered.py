"""Any environment that is registered with gymnasium, as a family of the name `gymnasium:ID`: there is nothing to write for it."""

from __future__ import annotations

import warnings
from contextlib import suppress
from functools import lru_cache
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import ArrayLike, NDArray

from lwd.config import require
from lwd.envs.base import EnvFamily
from lwd.envs.mujoco import import_robotics, picture
from lwd.errors import LWDError


class Flat(gymnasium.Wrapper):
    """An environment whose observations are one vector, of the values under `keys` where it has keys; actions are clipped to their range.
    `info` holds only `success`, 0.0 or 1.0: what the environment calls `success` or `is_success`."""

    def __init__(self, env: gymnasium.Env, parts: dict[str, int]) -> None:
        super().__init__(env)
        space: Any = env.observation_space
        self.keys, size = tuple(parts), sum(parts.values()) or space.shape[0]
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float64)
        self.range: Any = env.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """A new episode; `options` are ignored."""
        return self._flat(self.env.reset(seed=seed)[0]), {}

    def step(self, action: ArrayLike) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One step of the environment."""
        executed = np.clip(action, self.range.low, self.range.high).astype(self.range.dtype)
        obs, reward, terminated, truncated, info = self.env.step(executed)
        success = float(info.get("success", info.get("is_success", 0.0)))
        return self._flat(obs), float(reward), bool(terminated), bool(truncated), {"success": success}

    def render(self) -> Any:
        """Picture (H, W, 3)."""
        return picture(self.env.render) if hasattr(self.unwrapped, "mujoco_renderer") else self.env.render()

    def _flat(self, obs: Any) -> NDArray[np.float64]:
        return np.concatenate([obs[key] for key in self.keys]) if self.keys else np.array(obs, np.float64)


class Registered(EnvFamily):
    """The family of one id. What there is to know, its environment tells: one is made, and stepped to see whether it speaks of success.
    Observations are "state"; or, where they have keys, those that are vectors, joined by +, by default all in alphabetical order."""

    expert: ClassVar[str] = "lwd.envs.behaviours"

    def __init__(self, id: str) -> None:
        self.id, name = id, f"gymnasium:{id}"
        vars(self)["name"] = name  # (attributes of the class, elsewhere)
        env: Any = self._make()
        seen, action = env.observation_space, env.action_space
        parts: dict[str, Any] = dict(seen.items()) if isinstance(seen, Dict) else {}
        self.vectors = {key: space.shape[0] for key, space in sorted(parts.items()) if _is_vector(space)}
        require(bool(self.vectors) or _is_vector(seen), f"{name} cannot be used: its observations are no vectors of numbers, but {seen}")
        require(_is_vector(action), f"{name} cannot be used: its actions are no vectors of numbers, but {action}")
        low, high = (tuple(side.astype(float).tolist()) for side in (action.low, action.high))
        bounds = f"{name} cannot be used: its actions have no bounds; register it with gymnasium.wrappers.RescaleAction around it"
        require(bool(np.isfinite([low, high]).all()), bounds)
        env.reset(seed=0)
        tells = {"success", "is_success"} & set(env.step(np.clip(0, action.low, action.high).astype(action.dtype))[-1])
        scores = {**({"success": "rate"} if tells else {}), "return": "mean"}
        self.options = {"render_mode": "rgb_array"} if "rgb_array" in env.metadata.get("render_modes", ()) else {}
        vars(self).update(
            max_steps=env.spec.max_episode_steps or self.max_steps,
            fps=int(env.metadata.get("render_fps", self.fps)),
            obs_kinds=("+".join(self.vectors) or "state",),
            action_low=low,
            action_high=high,
            info_keys=("success",) if tells else (),
            scores=scores,
            primary=next(iter(scores)),
        )
        env.close()

    def make(self, obs_kind: str, task: str | None = None) -> gymnasium.Env:
        self.check_obs_kind(obs_kind)
        return Flat(self._make(**self.options), self.parts(obs_kind))

    def _make(self, **options: Any) -> gymnasium.Env:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that there is a later version
                try:
                    return gymnasium.make(self.id, disable_env_checker=True, **options)
                except gymnasium.error.UnregisteredEnv:
                    with suppress(ImportError):
                        import_robotics()
                    return gymnasium.make(self.id, disable_env_checker=True, **options)
        except (ImportError, gymnasium.error.Error) as error:
            extras = 'gymnasium\'s in MuJoCo need  pip install "latent-weight-diffusion[mujoco]", and those of gymnasium_robotics [adroit]'
            raise LWDError(f"{self.name} cannot be made ({error}): {extras}; gymnasium:MODULE:ID imports another package first") from error

    def check_obs_kind(self, obs_kind: str) -> None:
        if not self.vectors:
            return super().check_obs_kind(obs_kind)
        known = f"join keys by +, of {', '.join(self.vectors)}"
        require(set(obs_kind.split("+")) <= set(self.vectors), f"{self.name} has no observation {obs_kind!r}: {known}")

    def parts(self, obs_kind: str) -> dict[str, int]:
        return {key: self.vectors[key] for key in obs_kind.split("+")} if self.vectors else {}

    def summarise(self, infos: dict[str, list[float]]) -> dict[str, float]:
        """The sum of rewards, and success at any step where the environment tells."""
        return {**{key: max(infos[key]) for key in self.info_keys}, **super().summarise(infos)}


def _is_vector(space: Any) -> bool:
    return isinstance(space, Box) and len(space.shape) == 1


@lru_cache
def registered(id: str) -> Registered:
    """The family of an id that gymnasium knows, such as `Pendulum-v1`, or `MODULE:ID` of one that a module registers."""
    return Registered(id)
