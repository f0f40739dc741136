"""Disturbances: what happens to robot and world while a policy is at work (paper, section 4.1.1, and design of the comparisons).

A disturbance is written `NAME:MAGNITUDE`, such as `displace:50`; `none` is none. A family says which it has, and in which units
(`EnvFamily.disturbances`).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, SupportsFloat

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwd.errors import LWDError


class Disturbed(gymnasium.Wrapper):
    """An environment under one disturbance. Draws come from its own generator, which the reset seed starts anew. Their number is the same
    at every step: under one seed, two magnitudes disturb the same steps in the same directions."""

    stream: ClassVar[int]  # separates the draws from the environment's own
    rng = np.random.default_rng()

    def __init__(self, env: gymnasium.Env, magnitude: float) -> None:
        super().__init__(env)
        self.magnitude = magnitude

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; a seed also restarts the disturbance."""
        if seed is not None:
            self.rng = np.random.default_rng([seed, self.stream])
        return self.env.reset(seed=seed, options=options)


class Displacing(Disturbed):
    """Moves the block by `move()`, before a step's physics and after the policy's choice of the action: the policy first sees it in the
    observation that the step returns. The unwrapped environment makes the move: its method `displace(vector: (2,))` cuts it off where the
    block would leave the walls; the block's orientation stays."""

    sudden: ClassVar[bool] = False  # then `info["displaced"]` is 1.0 in steps with a move, else 0.0

    def __init__(self, env: gymnasium.Env, magnitude: float) -> None:
        super().__init__(env, magnitude)
        if not hasattr(env.unwrapped, "displace"):
            raise LWDError(f"{type(env.unwrapped).__name__} cannot be displaced: it has no method `displace`")
        self.displace = env.unwrapped.displace

    def move(self) -> NDArray[np.float64] | None:
        """(2,) by which the block moves in this step, or None."""
        raise NotImplementedError

    def step(self, action: ArrayLike) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Moves the block, then steps the environment."""
        if (vector := self.move()) is not None:
            self.displace(vector)
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, "displaced": float(vector is not None)} if self.sudden else info


class Displace(Displacing):
    """The paper's: with probability 0.1 a step, a move drawn uniformly from a square of side 2 `magnitude`."""

    stream, sudden = 0x7E27, True
    probability = 0.1

    def move(self) -> NDArray[np.float64] | None:
        chance, x, y = self.rng.random(3)
        return self.magnitude * (2 * np.array([x, y]) - 1) if chance < self.probability else None


class Drift(Displacing):
    """The block is dragged by `magnitude` at every step, in a direction that starts at random and turns slowly: by a normal draw of
    standard deviation `turn` a step."""

    stream = 0xD21F
    turn = 0.1  # radians: a turn by 1 radian takes about 100 steps
    angle = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        found = super().reset(seed=seed, options=options)
        self.angle = self.rng.uniform(0, 2 * math.pi)
        return found

    def move(self) -> NDArray[np.float64]:
        self.angle += self.turn * self.rng.standard_normal()
        return self.magnitude * np.array([math.cos(self.angle), math.sin(self.angle)])


class Dynamic(Displacing):
    """The moving block of bid_diffusion: `magnitude` along both axes at every step. There it moves after the physics instead of before it,
    and may leave the walls."""

    stream = 0xB1D

    def move(self) -> NDArray[np.float64]:
        return np.array([self.magnitude, self.magnitude])


class ActionNoise(Disturbed):
    """Adds Gaussian noise of standard deviation `magnitude` to every action before the environment clips and executes it."""

    stream = 0xA015

    def step(self, action: ArrayLike) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment with the noisy action."""
        wanted = np.asarray(action, np.float64)
        return self.env.step(wanted + self.magnitude * self.rng.standard_normal(wanted.shape))


class Nudge(Disturbed):
    """With probability 0.1 a step, the motion that a robot's hand is told to make (the first six numbers of the action: translation and
    rotation) is off: by a draw from ±`magnitude` for each number, in units of the command, before the environment clips and executes it."""

    stream = 0x9D6E
    probability = 0.1

    def step(self, action: ArrayLike) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment with the action, which is off now and then."""
        wanted = np.array(action, np.float64)
        chance, *push = self.rng.random(7)
        if chance < self.probability:
            wanted[:6] += self.magnitude * (2 * np.array(push) - 1)
        return self.env.step(wanted)


class SensorNoise(Disturbed):
    """Adds Gaussian noise of standard deviation `magnitude`, times each dimension's `scale`, to what is observed; the world stays."""

    stream = 0x5E25
    scale: Any = 1.0  # or (Do,)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(seed=seed, options=options)
        return self._noisy(obs), info

    def step(self, action: ArrayLike) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment and blurs what it returns."""
        obs, *rest = self.env.step(action)
        return (self._noisy(obs), *rest)  # type: ignore[return-value]

    def _noisy(self, obs: ArrayLike) -> NDArray[np.float64]:
        seen = np.asarray(obs, np.float64)
        return seen + self.magnitude * self.scale * self.rng.standard_normal(seen.shape)


DISTURBANCES: dict[str, type[Disturbed]] = {
    "displace": Displace,
    "drift": Drift,
    "dynamic": Dynamic,
    "action-noise": ActionNoise,
    "nudge": Nudge,
    "sensor-noise": SensorNoise,
}
