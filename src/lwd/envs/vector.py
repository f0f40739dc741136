"""Many environments over a few processes, with the same results however many those are.

A worker is a fresh interpreter: torch's threads do not survive a fork, and `multiprocessing` would run the user's main module, and with
it the import of torch, in every worker. It reads requests from its stdin and ends with it, and therefore also when its parent is killed."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import IO, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwd.envs.base import family
from lwd.envs.disturb import Displace
from lwd.errors import LWDError

Array = NDArray[np.float64]
Names = Sequence[str]
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ProcessVectorEnv(AbstractContextManager["ProcessVectorEnv"]):
    """`count` environments (E) over some worker processes, several in each; one message to and from each worker per step.

    Nothing resets by itself: a finished environment stays finished, repeats its last observation and ignores actions. Results are the
    same, to the bit, for any number of workers: None for one per core; 0, or a single environment, runs in the calling process.
    `max_steps` 0 means the family's own limit; `disturb` is one of the family's disturbances (`EnvFamily.disturb`); a family of several
    tasks needs one per environment. A failure in an environment is raised with its traceback. Use it as a context manager."""

    def __init__(
        self, env: str, obs_kind: str, count: int, workers: int | None, max_steps: int = 0, disturb: str = "none", tasks: Names = ()
    ) -> None:
        workers = min(cores() if workers is None else workers, count)
        place: type[_Local] | type[_Remote] = _Local if workers == 0 or count == 1 else _Remote
        parts = np.array_split(np.arange(count), max(workers, 1))
        self._slices = [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
        self._groups = [place(range(part.start, part.stop)) for part in self._slices]
        names: Sequence[str | None] = tasks or [None] * count
        starts = [(env, obs_kind, names[part], max_steps, disturb) for part in self._slices]
        self._obs_dim, self._keys = self._each("start", starts)[0]

    def reset(self, seeds: Sequence[int], states: ArrayLike | None = None) -> tuple[Array, dict[str, Any]]:
        """Starts every environment anew from its seed, or exactly from states (E, S). Returns obs (E, Do) and an empty dict."""
        rows = self._ask("reset", seeds, [None] * len(seeds) if states is None else np.asarray(states, np.float64))
        return rows[:, : self._obs_dim], {}

    def step(self, actions: ArrayLike) -> tuple[Array, Array, NDArray[np.bool_], NDArray[np.bool_], dict[str, Array]]:
        """Steps the environments that are still running, with actions (E, Da); rows of finished ones are ignored.

        Returns obs (E, Do), reward, terminated, truncated, and infos: (E,) arrays by scalar of the family, and `displaced` where that is
        the disturbance."""
        rows = self._ask("step", np.asarray(actions, np.float64))
        obs, (reward, terminated, truncated, *infos) = rows[:, : self._obs_dim], rows[:, self._obs_dim :].T
        return obs, reward, terminated > 0, truncated > 0, dict(zip(self._keys, infos, strict=True))

    def states(self) -> Array:
        """Whole simulator states, (E, S), float64."""
        return self._ask("states")

    def render(self, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Pictures (H, W, 3) of the given environments."""
        frames = []
        for index in indices:
            group = next(group for group in self._groups if index in group.numbers)
            group.send("frame", index - group.numbers.start)
            frames.append(group.receive())
        return frames

    def close(self) -> None:
        """Ends the workers; safe to call twice."""
        for group in self._groups:
            group.close()
        self._groups = []

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, name: str, *arguments: Any) -> Array:
        """Gives each group its own part of the arguments (E, ...), and puts the answers together, (E, ...)."""
        return np.concatenate(self._each(name, [tuple(argument[part] for argument in arguments) for part in self._slices]))

    def _each(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Each group's answer to its arguments. The groups work at the same time."""
        if not self._groups:
            raise LWDError("this vector environment is closed: make a new one")
        try:
            for group, own in zip(self._groups, arguments, strict=True):
                group.send(name, *own)
            return [group.receive() for group in self._groups]
        except BaseException:
            self.close()  # answers that nobody took would be mistaken for later ones
            raise


class Group:
    """The environments `numbers` of all, stepped one after the other in a worker or in the calling process."""

    def __init__(self, numbers: range) -> None:
        self.numbers = numbers
        self.now: tuple[int, str] | None = None  # index of an environment, and what is being done with it: for a failure
        self.envs: list[Any] = []

    def ask(self, name: str, *arguments: Any) -> Any:
        """The answer of the method `name`. Whatever fails becomes an error that says where, with its traceback."""
        try:
            return getattr(self, name)(*arguments)
        except LWDError:
            raise
        except Exception as error:
            at = "the environments failed to start"
            if self.now is not None:
                index, what = self.now
                at = f"environment {self.numbers[index]} ({self.names[index]}) failed at {what}"
            raise LWDError(f"{at}:\n{traceback.format_exc()}") from error

    def start(self, env: str, obs_kind: str, tasks: Sequence[str | None], max_steps: int, disturb: str) -> tuple[int, list[str]]:
        """Makes the environments, one per task. Returns the dimensions of an observation, and the keys of `info` that steps return."""
        self.family = family(env)
        self.family.check_obs_kind(obs_kind)
        self.names = [env if task is None else f"{env} {task}" for task in tasks]
        self.max_steps, self.steps = max_steps or self.family.max_steps, 0
        for i, task in enumerate(tasks):
            self.now = i, "its start"
            made = self.family.make(obs_kind) if task is None else self.family.make(obs_kind, task)
            self.envs.append(self.family.disturb(made, disturb, obs_kind))
        self.keys = [*self.family.info_keys, *(["displaced"] if isinstance(self.envs[0], Displace) else [])]
        self.size = int(np.prod(self.envs[0].observation_space.shape))
        self.rows = np.zeros((len(tasks), self.size + 3 + len(self.keys)))
        self.running = np.zeros(len(tasks), bool)
        return self.size, self.keys

    def reset(self, seeds: Sequence[int], states: Sequence[Any]) -> Array:
        """Starts every environment from its seed, or from a state (S,) where it is not None. Returns rows as `step` does."""
        self.rows[:], self.steps, self.running[:] = 0, 0, True
        for i, env in enumerate(self.envs):
            self.now = i, f"reset with seed {seeds[i]}"
            self.rows[i, : self.size] = env.reset(seed=int(seeds[i]), options=None if states[i] is None else {"state": states[i]})[0]
        return self.rows

    def step(self, actions: Array) -> Array:
        """Steps the running environments with actions (n, Da); a finished one repeats its last row with reward 0. Returns
        (n, Do + 3 + I): observation, reward, terminated, truncated, info scalars."""
        last, what, running = self.steps + 1 >= self.max_steps, f"step {self.steps}", np.flatnonzero(self.running).tolist()
        seen, told = [], []  # of those that run: what fills their rows, which is faster at once than one by one
        for i in running:
            self.now = i, what
            obs, reward, terminated, truncated, info = self.envs[i].step(actions[i])
            seen.append(obs)
            told.append([reward, terminated, truncated or (last and not terminated), *[info[key] for key in self.keys]])
        if running:
            self.rows[running, : self.size], self.rows[running, self.size :] = seen, told
        self.steps += 1  # of all that are running: they started together
        result = self.rows.copy()
        self.running &= ~self.rows[:, self.size + 1 : self.size + 3].any(axis=1)
        self.rows[~self.running, self.size] = 0  # what a finished environment repeats from now on
        return result

    def frame(self, index: int) -> NDArray[np.uint8]:
        """Picture (H, W, 3) of one environment."""
        self.now = index, "drawing"
        return np.asarray(self.envs[index].render(), np.uint8)

    def states(self) -> Array:
        """Simulator states (n, S)."""
        states = [self.family.state(env) for env in self.envs]
        if states[0] is None:
            raise LWDError(f"{self.family.name} does not tell its state: run without recording states")
        return np.array(states)

    def close(self) -> None:
        """Closes the environments of this group, which then cannot be used any more."""
        for env in self.envs:
            env.close()


class _Local(Group):
    """A group in this process: it computes when it is asked."""

    answer: Any = None

    def send(self, *request: Any) -> None:
        self.answer = self.ask(*request)

    def receive(self) -> Any:
        return self.answer


class _Remote:
    """A group in a worker process: `send` returns at once, `receive` waits for the answer."""

    def __init__(self, numbers: range) -> None:
        self.numbers = numbers
        environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        command = [sys.executable, "-P", "-c", f"from lwd.envs.vector import serve; serve({numbers})"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.pipes = [cast(IO[bytes], pipe) for pipe in (self.process.stdin, self.process.stdout)]

    def send(self, *request: Any) -> None:
        try:
            pickle.dump(request, self.pipes[0], pickle.HIGHEST_PROTOCOL)  # (nothing but this program ever writes to these pipes)
            self.pipes[0].flush()
        except BrokenPipeError as error:
            raise self._gone() from error

    def receive(self) -> Any:
        try:
            answer = pickle.load(self.pipes[1])
        except (EOFError, pickle.UnpicklingError) as error:
            raise self._gone() from error
        if isinstance(answer, LWDError):
            raise answer
        return answer

    def close(self) -> None:
        for pipe in self.pipes:
            with suppress(BrokenPipeError):  # it died with a message unsent
                pipe.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _gone(self) -> LWDError:
        self.close()
        which, code = f"{self.numbers[0]} to {self.numbers[-1]}", self.process.returncode
        return LWDError(f"the worker process of environments {which} died (exit code {code}): was it killed because memory ran out?")


def serve(numbers: range) -> None:
    """Serves one group until stdin ends. Requests are the arguments of `Group.ask`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what simulators print must not get between the answers
    group = Group(numbers)
    with suppress(EOFError, BrokenPipeError, pickle.UnpicklingError):  # the parent has gone
        while True:
            request = pickle.load(source)
            try:
                answer = group.ask(*request)
            except LWDError as error:
                answer = error
            pickle.dump(answer, sink, pickle.HIGHEST_PROTOCOL)
            sink.flush()
    group.close()
