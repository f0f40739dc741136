"""Several environments of one process, and the process around them: requests come in over stdin, answers go out over stdout.

A worker is a fresh interpreter. It is not forked, because torch's threads do not survive a fork, and not started by `multiprocessing`,
which would run the user's main module, and with it the import of torch, in every worker. It ends when its stdin ends, and therefore also
when its parent is killed.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lwd.envs.base import family
from lwd.errors import LWDError


@dataclass(frozen=True)
class Spec:
    """What a group of environments is made of: see `lwd.envs.vector.ProcessVectorEnv`."""

    env: str
    obs_kind: str
    count: int
    first: int  # index of the group's first environment among all
    max_steps: int
    perturbation: float
    tasks: tuple[str, ...] | None = None  # one per environment


class Group:
    """A few environments stepped one after the other. The same code runs in a worker and in the calling process."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.family = family(spec.env)
        self.envs = [self._make(None if spec.tasks is None else spec.tasks[i]) for i in range(spec.count)]
        self.keys = (*self.family.info_keys, *(self.family.perturbation_keys if spec.perturbation else ()))
        self.size = int(np.prod(self.envs[0].observation_space.shape or (0,)))
        self.rows = np.zeros((spec.count, self.size + 3 + len(self.keys)))
        self.steps = np.zeros(spec.count, np.int64)
        self.running = np.zeros(spec.count, bool)

    def _make(self, task: str | None) -> Any:
        env = self.family.make(self.spec.obs_kind) if task is None else self.family.make(self.spec.obs_kind, task)
        return self.family.perturb(env, self.spec.perturbation) if self.spec.perturbation else env

    def describe(self) -> tuple[int, tuple[str, ...]]:
        """Dimensions of an observation, and the keys of `info` that steps return."""
        return self.size, self.keys

    def reset(self, seeds: Sequence[int], states: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Starts every environment: seeds (n,), start states (n, S) or None. Returns rows as `step` does."""
        self.rows[:] = 0
        self.steps[:] = 0
        self.running[:] = True
        for i, env in enumerate(self.envs):
            options = None if states is None else {"state": states[i]}
            try:
                self.rows[i, : self.size] = env.reset(seed=int(seeds[i]), options=options)[0]
            except LWDError:
                raise
            except Exception as error:
                raise LWDError(self._failure(i, f"reset with seed {seeds[i]}")) from error
        return self.rows

    def step(self, actions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Steps the running environments with actions (n, Da).

        Returns:
            (n, Do + 3 + I): observation, reward, terminated, truncated, info scalars. A finished environment repeats its last row with
            reward 0.
        """
        for i in np.flatnonzero(self.running):
            try:
                obs, reward, terminated, truncated, info = self.envs[i].step(actions[i])
                self.rows[i, : self.size] = obs
                self.rows[i, self.size + 3 :] = [info[k] for k in self.keys]
            except Exception as error:
                raise LWDError(self._failure(int(i), f"step {self.steps[i]}")) from error
            self.steps[i] += 1
            truncated = truncated or (not terminated and self.steps[i] >= self.spec.max_steps)
            self.rows[i, self.size : self.size + 3] = reward, terminated, truncated
        result = self.rows.copy()
        self.running &= ~self.rows[:, self.size + 1 : self.size + 3].any(axis=1)
        self.rows[~self.running, self.size] = 0  # what a finished environment repeats from now on
        return result

    def frame(self, index: int) -> NDArray[np.uint8]:
        """Picture (H, W, 3) of one environment."""
        return np.asarray(self.envs[index].render(), np.uint8)

    def states(self) -> NDArray[np.float64]:
        """Simulator states (n, S).

        Raises:
            LWDError: the family cannot tell its state.
        """
        states = [self.family.state(env) for env in self.envs]
        if any(s is None for s in states):
            raise LWDError(f"{self.spec.env} does not tell its state: run without recording states")
        return np.array(states)

    def close(self) -> None:
        """Closes every environment."""
        for env in self.envs:
            env.close()

    def _failure(self, index: int, when: str) -> str:
        task = "" if self.spec.tasks is None else f" {self.spec.tasks[index]}"
        return f"environment {self.spec.first + index} ({self.spec.env}{task}) failed at {when}:\n{traceback.format_exc()}"


def write(stream: IO[bytes], message: Any) -> None:
    """Sends one message between a worker and its parent. (Both are this program; nothing else ever writes to these pipes.)"""
    pickle.dump(message, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()


def main() -> None:
    """Serves one group until stdin ends. The first request is its `Spec`; the others are (name of a method of `Group`, arguments)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what simulators print must not get between the answers
    group = None
    try:
        while True:
            request = pickle.load(source)
            try:
                if group is None:
                    group = Group(request)
                    write(sink, (True, group.describe()))
                else:
                    name, arguments = request
                    write(sink, (True, getattr(group, name)(*arguments)))
            except LWDError as error:
                write(sink, (False, str(error)))
            except Exception:
                write(sink, (False, "an environment worker failed:\n" + traceback.format_exc()))
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):  # the parent has gone
        pass
    finally:
        if group is not None:
            group.close()
