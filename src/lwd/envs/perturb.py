"""Perturbations: something pushes the block while the policy is at work (paper, section 4.1.1), or actions are carried out badly."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from numpy.typing import ArrayLike

from lwd.errors import LWDError

PROBABILITY = 0.1  # per step, section 4.1.1


class Perturb(gymnasium.Wrapper):
    """With some probability per step, moves the block by a vector drawn uniformly from a square.

    The move happens at the beginning of a step, before its physics and after the policy has chosen the action: the policy first sees it
    in the observation that the step returns. The block's orientation stays; the environment's `displace` cuts the move off where the block
    would leave the walls. `info["displaced"]` is 1.0 in steps with a move and 0.0 otherwise.

    Draws come from the wrapper's own generator, seeded by the reset seed. Their number is the same at every step: under one seed, two
    magnitudes move the block at the same steps in the same directions.

    Args:
        env: its unwrapped environment has `displace(vector: (2,)) -> (2,)`, the move actually made.
        magnitude: half the side of the square, in the environment's units of length (PushT: pixels).
        probability: of a move, per step.

    Raises:
        LWDError: the environment cannot be displaced, or a number makes no sense.
    """

    def __init__(self, env: gymnasium.Env, magnitude: float, probability: float = PROBABILITY) -> None:
        super().__init__(env)
        if not 0 <= probability <= 1 or not 0 <= magnitude < np.inf:
            raise LWDError(f"a perturbation needs a probability in [0, 1] and a magnitude of at least 0, not {probability} and {magnitude}")
        displace = getattr(env.unwrapped, "displace", None)
        if displace is None:
            raise LWDError(f"{type(env.unwrapped).__name__} cannot be perturbed: it has no method `displace`")
        self._displace = displace
        self.magnitude = magnitude
        self.probability = probability
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; a seed also restarts the perturbations."""
        if seed is not None:
            self._rng = np.random.default_rng([seed, 0x7E27])  # the second word separates this stream from the environment's own
        return self.env.reset(seed=seed, options=options)

    def step(self, action: ArrayLike) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Perhaps displaces the block, then steps the environment."""
        chance, x, y = self._rng.random(3)
        hit = chance < self.probability
        if hit:
            self._displace(self.magnitude * (2 * np.array([x, y]) - 1))
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {**info, "displaced": float(hit)}


class ActionNoise(gymnasium.Wrapper):
    """At every step, Gaussian noise is added to the action before the environment clips and executes it.

    Draws come from the wrapper's own generator, seeded by the reset seed: under one seed, two magnitudes differ in the noise's scale only.

    Args:
        env: with bounded actions.
        magnitude: standard deviation, in the units of the actions.

    Raises:
        LWDError: a negative or infinite magnitude.
    """

    def __init__(self, env: gymnasium.Env, magnitude: float) -> None:
        super().__init__(env)
        if not 0 <= magnitude < np.inf:
            raise LWDError(f"noise on actions needs a standard deviation of at least 0, not {magnitude}")
        self.magnitude = magnitude
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; a seed also restarts the noise."""
        if seed is not None:
            self._rng = np.random.default_rng([seed, 0xA015])
        return self.env.reset(seed=seed, options=options)

    def step(self, action: ArrayLike) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment with the noisy action."""
        wanted = np.asarray(action, np.float64)
        return self.env.step(wanted + self.magnitude * self._rng.standard_normal(wanted.shape))
