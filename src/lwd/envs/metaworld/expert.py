"""The scripted experts that the metaworld package ships, one per task, and how demonstrations are collected from them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lwd.config import require
from lwd.envs.base import check_seeds, missing
from lwd.envs.disturb import ActionNoise
from lwd.envs.metaworld.family import FAMILY
from lwd.episodes import Episodes, Meta

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Expert:
    """Full episodes from consecutive reset seeds (see `lwd.data.collect`), whose actions give the observations again, bit for bit.

    With noise, the recorded actions are the expert's own; `--disturb action-noise:NOISE` under the same seed adds the same noise again.
    """

    noise: float = 0.0  # standard deviation of Gaussian noise on the executed actions, which lie in [-1, 1]
    keep_failures: bool = False  # keep every attempt, not only the successful ones
    batch: ClassVar[int] = 3  # making an environment takes as long as an episode

    def check(self, seed: int, most: int) -> None:
        if find_spec("metaworld") is None:
            raise missing(FAMILY.name, ModuleNotFoundError("No module named 'metaworld'"))
        require(0 <= self.noise < np.inf, f"noise must be a standard deviation of at least 0, not {self.noise}")
        check_seeds(seed, most)

    def meta(self, seed: int) -> Meta:
        recipe = f"seeds from {seed}, noise {self.noise:g}, {'every attempt' if self.keep_failures else 'successes'}"
        return FAMILY.meta("state", f"synthetic: scripted expert of Metaworld 3.1.1, {recipe}")

    def number(self, tags: dict[str, Any], seed: int) -> int:
        return int(tags["seed"][-1]) - seed

    def attempts(self, task: str, seed: int, numbers: range) -> Iterator[tuple[Episodes, bool]]:
        env, act = _environment(task, self.noise), expert(task)
        for own in range(seed + numbers.start, seed + numbers.stop):
            obs, actions, success = [env.reset(seed=own)[0]], [], []
            for _ in range(FAMILY.max_steps):
                actions.append(act(obs[-1]))
                seen, _, _, _, info = env.step(actions[-1])
                obs.append(seen)
                success.append(info["success"] > 0)
            first = success.index(True) if any(success) else -1
            values = {"seed": own, "success": first >= 0, "success_step": first, "final_success": success[-1], "noise": self.noise}
            tags = {name: np.array([value]) for name, value in values.items()}
            end, name = np.array([FAMILY.max_steps]), np.array([task])
            yield Episodes(np.array(obs[:-1]), np.array(actions), end, name, tags, self.meta(seed)), first >= 0 or self.keep_failures


@lru_cache(maxsize=1)  # a process gets most attempts at one task one after the other
def _environment(task: str, noise: float) -> gymnasium.Env:
    env = FAMILY.make("state", task)
    return ActionNoise(env, noise) if noise else env


def expert(task: str) -> Callable[[Array], NDArray[np.float32]]:
    """The expert of a task: from an observation "state" (39,), which is left unchanged, to an action (4,) in [-1, 1]."""
    from metaworld.policies import ENV_POLICY_MAP

    kind: Any = ENV_POLICY_MAP[f"{task}-v3"]
    policy = kind()
    # as metaworld's, without its warning at almost every step that actions will be clipped: that is intended
    sys.modules[kind.__module__].move = lambda from_xyz, to_xyz, p: p * (to_xyz - from_xyz)  # type: ignore[attr-defined]

    def act(obs: Array) -> NDArray[np.float32]:
        return policy.get_action(obs.copy()).clip(-1.0, 1.0)  # some experts change what they are shown

    return act
