"""Several environments of one process, and the process around them: arrays in over stdin, arrays out over stdout.

A worker is a fresh interpreter, neither forked (torch's threads do not survive a fork) nor started by `multiprocessing` (which would run
the user's main module, and with it the import of torch, in every worker). It ends when its stdin does, so also when its parent is killed.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import traceback
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwd.envs.base import family
from lwd.errors import LWDError

_HEADER = struct.Struct("<cc3I")  # operation, type of the numbers, shape (padded with ones)
Reply = tuple[bytes, NDArray[Any]]


def write(stream: IO[bytes], op: bytes, array: ArrayLike) -> None:
    """Sends one array of float64, int64 or uint8 with at most three dimensions; flushes."""
    array = np.ascontiguousarray(array)
    shape = (1,) * (3 - array.ndim) + array.shape
    stream.write(_HEADER.pack(op, array.dtype.char.encode(), *shape) + array.tobytes())
    stream.flush()


def read(stream: IO[bytes]) -> Reply:
    """The next (operation, three-dimensional array).

    Raises:
        EOFError: the other side is gone.
    """
    head = stream.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise EOFError
    op, char, *shape = _HEADER.unpack(head)
    dtype = np.dtype(char.decode())
    size = int(np.prod(shape)) * dtype.itemsize
    body = stream.read(size)
    if len(body) < size:
        raise EOFError
    return op, np.frombuffer(body, dtype).reshape(shape)


def pack_json(value: Any) -> NDArray[np.uint8]:
    """JSON as an array to `write`."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def unpack_json(array: NDArray[Any]) -> Any:
    """The inverse of `pack_json`."""
    return json.loads(array.tobytes())


@dataclass(frozen=True)
class Spec:
    """What a group of environments is made of: see `lwd.envs.vector.ProcessVectorEnv`."""

    env: str
    obs: str
    count: int
    first: int  # index of the group's first environment among all
    max_steps: int
    perturbation: float
    tasks: tuple[str, ...] | None = None  # one per environment


class Group:
    """A few environments stepped one after the other; the same code in a worker and in the calling process."""

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
        env = self.family.make(self.spec.obs) if task is None else self.family.make(self.spec.obs, task)
        return self.family.perturb(env, self.spec.perturbation) if self.spec.perturbation else env

    def describe(self) -> dict[str, Any]:
        """Spaces and keys, for JSON."""
        space: Any = self.envs[0].observation_space
        action: Any = self.envs[0].action_space
        bounds = {name: np.asarray(value, float).tolist() for name, value in (("low", space.low), ("high", space.high))}
        return {**bounds, "action_low": action.low.tolist(), "action_high": action.high.tolist(), "keys": self.keys}

    def reset(self, seeds: NDArray[np.int64], states: NDArray[np.float64] | None) -> NDArray[np.float64]:
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


def answer(group: Group, op: bytes, array: NDArray[Any]) -> NDArray[Any]:
    """One request to a group, three-dimensional array in, array out."""
    if op == b"a":
        return group.step(array[0])
    if op == b"r":  # seeds in the first column, start states in the others
        return group.reset(array[0, :, 0].astype(np.int64), array[0, :, 1:] if array.shape[2] > 1 else None)
    if op == b"f":
        return group.frame(int(array.item()))
    if op == b"g":
        return group.states()
    raise ValueError(f"unknown request {op!r}")


def main() -> None:
    """Serves one group until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what simulators print must not get between the arrays
    group = None
    try:
        while True:
            op, array = read(source)
            try:
                if group is None:
                    group = Group(Spec(**unpack_json(array)))
                    write(sink, op, pack_json(group.describe()))
                else:
                    write(sink, op, answer(group, op, array))
            except LWDError as error:
                write(sink, b"e", pack_json(str(error)))
            except Exception:
                write(sink, b"e", pack_json("an environment worker failed:\n" + traceback.format_exc()))
    except (EOFError, BrokenPipeError):
        pass
    finally:
        if group is not None:
            group.close()


def request(spec: Spec) -> NDArray[np.uint8]:
    """First message to a worker."""
    return pack_json(asdict(spec))
