"""Perturbations: something pushes the block while the policy is at work (paper, section 4.1.1), or actions are carried out badly."""

from __future__ import annotations

from typing import Any, ClassVar, SupportsFloat

import gymnasium
import numpy as np
from numpy.typing import ArrayLike

from lwd.errors import LWDError


class _Disturbed(gymnasium.Wrapper):
    """Draws come from its own generator, which the reset seed starts anew. Their number is the same at every step: under one seed, two
    magnitudes disturb the same steps in the same directions."""

    stream: ClassVar[int]  # separates the draws from the environment's own
    rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; a seed also restarts the disturbance."""
        if seed is not None:
            self.rng = np.random.default_rng([seed, self.stream])
        return self.env.reset(seed=seed, options=options)


class Perturb(_Disturbed):
    """With some probability per step, moves the block by a vector drawn uniformly from a square of side 2 `magnitude` (PushT: pixels).

    The move precedes a step's physics and follows the policy's choice of the action: the policy first sees it in the observation that the
    step returns. The unwrapped environment makes it, and its method `displace(vector: (2,))` cuts it off where the block would leave the
    walls; the block's orientation stays. `info["displaced"]` is 1.0 in steps with a move, else 0.0."""

    stream = 0x7E27

    def __init__(self, env: gymnasium.Env, magnitude: float, probability: float = 0.1) -> None:
        super().__init__(env)
        if not 0 <= probability <= 1 or not 0 <= magnitude < np.inf:
            raise LWDError(f"a perturbation needs a probability in [0, 1] and a magnitude of at least 0, not {probability} and {magnitude}")
        if not hasattr(env.unwrapped, "displace"):
            raise LWDError(f"{type(env.unwrapped).__name__} cannot be perturbed: it has no method `displace`")
        self.magnitude, self.probability, self.displace = magnitude, probability, env.unwrapped.displace

    def step(self, action: ArrayLike) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Perhaps displaces the block, then steps the environment."""
        chance, x, y = self.rng.random(3)
        if hit := chance < self.probability:
            self.displace(self.magnitude * (2 * np.array([x, y]) - 1))
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, "displaced": float(hit)}


class ActionNoise(_Disturbed):
    """Adds Gaussian noise of standard deviation `magnitude` to every action before the environment clips and executes it."""

    stream = 0xA015

    def __init__(self, env: gymnasium.Env, magnitude: float) -> None:
        super().__init__(env)
        if not 0 <= magnitude < np.inf:
            raise LWDError(f"noise on actions needs a standard deviation of at least 0, not {magnitude}")
        self.magnitude = magnitude

    def step(self, action: ArrayLike) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment with the noisy action."""
        wanted = np.asarray(action, np.float64)
        return self.env.step(wanted + self.magnitude * self.rng.standard_normal(wanted.shape))
