"""Demonstrations of the scripted operators, each from reset seeds of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from lwd.config import require
from lwd.envs.base import family, missing
from lwd.envs.robosuite.operators import HABITS, Operator
from lwd.episodes import Episodes, Meta

RANGE = 10_000  # seeds of an operator; evaluation begins at 100,000, beyond the last one's
PATIENCE = 700  # steps after which an operator gives up; longer than an evaluation lasts, as people are


@dataclass(frozen=True)
class Expert:
    """Episodes that end with success (see `lwd.data.collect`). Their actions give the observations again, bit for bit."""

    env: str  # "lift" or "can"
    operators: str = "better,okay,worse"  # which, by name or by proficiency
    keep_failures: bool = False  # keep every attempt, not only the successful ones
    batch: ClassVar[int] = 5

    @property
    def parts(self) -> list[str]:
        """Names of the operators, each of which has a file."""
        wanted = [name.strip() for name in self.operators.split(",")]
        chosen = [name for name in HABITS if {name, name.partition("-")[0]} & set(wanted)]
        known = {*HABITS, "better", "okay", "worse"}
        require(set(wanted) <= known, f"there is no operator {', '.join(sorted(set(wanted) - known))}: choose among {', '.join(HABITS)}")
        return chosen

    def check(self, seed: int, most: int) -> None:
        if find_spec("robosuite") is None:
            raise missing("robosuite", ModuleNotFoundError("No module named 'robosuite'"))
        limits = f"each operator has {RANGE}, from 0: choose another seed or fewer episodes"
        require(0 <= seed <= RANGE - most, f"up to {most} seeds from {seed} may be needed, but {limits}")

    def meta(self, seed: int) -> Meta:
        recipe = f"seed {seed}, {'every attempt' if self.keep_failures else 'successes'}"
        like = "calibrated to the lengths, path ratios and direction noise of robomimic's multi-human data"
        return family(self.env).meta("state", f"synthetic: scripted operators in robosuite 1.5.1, {like}, {recipe}")

    def number(self, tags: dict[str, Any], seed: int) -> int:
        return int(tags["seed"][-1]) % RANGE - seed

    def attempts(self, task: str, seed: int, numbers: range) -> Iterator[tuple[Episodes, bool]]:
        env, start = _environment(self.env), RANGE * list(HABITS).index(task) + seed
        thing, hand = {"lift": (0, 10), "can": (7, 14)}[self.env]  # where their poses begin in the observation
        for own in range(start + numbers.start, start + numbers.stop):
            operator = Operator(self.env, task, np.random.default_rng([own, 0x0B5]))
            obs, actions, success = [env.reset(seed=own)[0]], list[NDArray[np.float32]](), False
            while not success and len(actions) < PATIENCE:
                poses = [(obs[-1][i : i + 3], Rotation.from_quat(obs[-1][i + 3 : i + 7]).as_matrix()) for i in (thing, hand)]
                actions.append(operator.act(*poses[0], *poses[1]))
                seen, _, success, _, _ = env.step(actions[-1])
                obs.append(seen)
            tags = {"operator": task, "proficiency": task.partition("-")[0], "seed": own, "success": success}
            named = {name: np.array([value]) for name, value in tags.items()}
            end = np.array([len(actions)])
            yield Episodes(np.array(obs[:-1]), np.array(actions), end, None, named, self.meta(seed)), success or self.keep_failures


@lru_cache(maxsize=1)
def _environment(name: str) -> gymnasium.Env:
    return family(name).make("state")
