"""Trained policies in the evaluation loops of other libraries: Stable-Baselines3 and robomimic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.errors import LWDError

Array = NDArray[Any]


class StableBaselines:
    """Takes the place of a model of Stable-Baselines3, in `evaluate_policy` and elsewhere: each row gets a new policy at the start of an
    episode, and every `replan_every` steps.

    Args:
        generator: raw observation (Do,) -> anything with `act(obs, t)`.
        replan_every: steps that a policy acts for.
        keys: of observations that are dictionaries: what is joined, in this order (`list(family.parts(obs_kind))`).
    """

    def __init__(self, generator: Callable[[Array], Any], replan_every: int, keys: Sequence[str] = ()) -> None:
        self.generator, self.replan_every, self.keys = generator, replan_every, keys
        self.rows: list[tuple[Any, int]] = []  # policy and age of each

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False) -> tuple[Array, Any]:
        """Raw observations (B, Do) or (Do,) -> actions (B, Da) or (Da,), and the state as it was given, which means nothing here. A row
        whose `episode_start` (B,) is true begins anew, and so do all where their number changes. `deterministic` changes nothing."""
        obs = join(observation, self.keys)
        rows = obs.reshape(-1, obs.shape[-1])
        begins = np.zeros(len(rows), bool) if episode_start is None else np.reshape(episode_start, -1)
        self.rows = self.rows if len(self.rows) == len(rows) else [(None, self.replan_every)] * len(rows)
        actions = []
        for i, (seen, begin) in enumerate(zip(rows, begins, strict=True)):
            policy, age = self.rows[i]
            if begin or age >= self.replan_every:
                policy, age = self.generator(seen), 0
            actions.append(policy.act(seen, age))
            self.rows[i] = policy, age + 1
        return np.asarray(actions, np.float32).reshape(*obs.shape[:-1], -1), state

    def reset(self) -> None:
        """New episodes begin, for whoever does not say so by `episode_start`."""
        self.rows = []


def robomimic_policy(generator: Callable[[Array], Any], replan_every: int, keys: Sequence[str] = ()) -> Any:
    """A policy for the rollouts of robomimic: `start_episode()`, then `policy(ob, goal)` with raw observations in dictionaries or vectors;
    a goal is ignored. Where robomimic is installed, it is one of its `RolloutPolicy`, on which its own loops insist. Arguments are those of
    `StableBaselines`."""
    base: Any = object
    with suppress(ImportError):
        from robomimic import algo

        base = algo.RolloutPolicy
    model = StableBaselines(generator, replan_every, keys)
    own: dict[str, Any] = {"__init__": lambda self: None, "start_episode": lambda self: model.reset(), "__repr__": lambda self: repr(model)}
    own["__call__"] = lambda self, ob, goal=None: model.predict(ob)[0]
    return type("RobomimicPolicy", (base,), own)()


def join(obs: Any, keys: Sequence[str]) -> Array:
    """Observations of several keys, each (..., n) or a number each, as one array (..., Do); an array remains what it is."""
    if not isinstance(obs, Mapping):
        return np.asarray(obs, np.float32)
    if not keys or not set(keys) <= set(obs):
        raise LWDError(f"the observation is a dictionary of {', '.join(obs)}: give the adapter the keys that the model was trained on")
    return np.concatenate([np.asarray(obs[key], np.float32) for key in keys], axis=-1)
