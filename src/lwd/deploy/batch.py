"""A run that plans for the observations of many clients at once."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lwd.config import EvalSettings, Sampler, require
from lwd.deploy.generate import LARGEST, as_policy, describe
from lwd.errors import LWDError
from lwd.policy import Generator


class Query(NamedTuple):
    """What one client asks for."""

    kind: str  # "policy" or "action"
    history: NDArray[np.float32]  # (K, Do), raw, oldest first
    task: str | None
    seed: int


class Planning:
    """Plans of the run in the directory `run`. See `Generator` for the sampler."""

    def __init__(self, run: str, sampler: Sampler | None = None, steps: int = 0, replan_every: int = 0) -> None:
        self.own = Generator(run, sampler=sampler, steps=steps)
        self.method = self.own.method
        self.about = describe(self.own.run, self.method)
        self.method.ask_for(EvalSettings(replan_every=replan_every))

    def query(self, kind: str, asked: Any) -> Query:
        """What a message asks for: {"obs": (Do,) or (K, Do) raw numbers, oldest first, "task": a name, "seed": a whole number}; task and
        seed may be left out.

        Raises:
            LWDError: a message that is something else, with what is wrong.
        """
        require(isinstance(asked, dict) and "obs" in asked, 'a message is an object such as {"obs": [250, 50]}')
        unknown = ", ".join(sorted(str(key)[:40] for key in set(asked) - {"obs", "task", "seed"}))
        require(not unknown, f"a message has obs, task and seed, not {unknown}")
        (past, size), obs = (self.method.history, self.method.spec.obs_dim), asked["obs"]
        task, seed = asked.get("task"), asked.get("seed")
        rows = obs if isinstance(obs, list) and obs and all(isinstance(row, list) for row in obs) else [obs] * past
        fits = len(rows) == past and all(isinstance(row, list) and len(row) == size for row in rows)
        fits = fits and all(type(number) in (int, float) for row in rows for number in row)
        require(fits, f"obs must hold {size} numbers{f', or {past} lists of as many' * (past > 1)}")
        require(all(abs(number) <= LARGEST for row in rows for number in row), "obs holds a number that is NaN, infinite or beyond float32")
        require(task is None or isinstance(task, str), "task must be the name of a task")
        require(seed is None or (type(seed) is int and 0 <= seed < 1 << 63), "seed must be a whole number from 0 to 2^63 - 1")
        names: Any = self.own._names(task, 1)
        self.method.task_index(names, 1)
        return Query(kind, np.array(rows, np.float32), names and names[0], secrets.randbits(63) if seed is None else seed)

    def answers(self, queries: Sequence[Query]) -> list[bytes | LWDError]:
        """For each query the bytes of a policy file, or an action as JSON; or why there is none. No answer depends on the others."""
        tasks: Any = [query.task for query in queries] if self.method.task_dim else None
        history = torch.from_numpy(np.stack([query.history for query in queries]))
        with torch.inference_mode():
            controller: Any = self.own.planner.plan(history, tasks, [torch.Generator().manual_seed(query.seed) for query in queries])
            return [self._answer(query, controller.select(torch.tensor([row]))) for row, query in enumerate(queries)]

    def _answer(self, query: Query, controller: Any) -> bytes | LWDError:
        """For a controller of one row."""
        about = {"task": query.task or "", "obs": json.dumps(query.history[-1].tolist()), "seed": str(query.seed)}
        try:
            if query.kind == "policy":
                return as_policy(self.method, controller, {**self.about, **about}).to_bytes()
            action = controller.act(torch.from_numpy(query.history[-1:]), torch.zeros(1, dtype=torch.int64))[0]
            require(bool(action.isfinite().all()), "the model's action is not a number: the observation is too far away")
            return json.dumps({"action": action.tolist(), "seed": query.seed}).encode()
        except LWDError as error:
            return error
