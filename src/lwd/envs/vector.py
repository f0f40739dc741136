"""Many environments over a few processes, with the same results however many those are."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwd.envs import worker
from lwd.envs.base import family
from lwd.errors import LWDError

Array = NDArray[np.float64]
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Local:
    """A group in this process: it computes when it is asked."""

    def __init__(self, spec: worker.Spec) -> None:
        self.group = worker.Group(spec)
        self.answer: Any = self.group.describe()

    def send(self, name: str, *arguments: Any) -> None:
        self.answer = getattr(self.group, name)(*arguments)

    def receive(self) -> Any:
        return self.answer

    def close(self) -> None:
        self.group.close()


class _Remote:
    """A group in a worker process: `send` returns at once, `receive` waits for the answer."""

    def __init__(self, spec: worker.Spec) -> None:
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, "1"), "PYTHONPATH": path}
        command = [sys.executable, "-P", "-c", "from lwd.envs.worker import main; main()"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.name = f"{spec.first} to {spec.first + spec.count - 1}"
        self._write(spec)

    def send(self, name: str, *arguments: Any) -> None:
        self._write((name, arguments))

    def receive(self) -> Any:
        try:
            done, answer = pickle.load(cast(IO[bytes], self.process.stdout))
        except (EOFError, ValueError, pickle.UnpicklingError) as error:
            raise self._gone() from error
        if not done:
            raise LWDError(answer)
        return answer

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):  # it died with a message unsent
                cast(IO[bytes], stream).close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _write(self, message: Any) -> None:
        try:
            worker.write(cast(IO[bytes], self.process.stdin), message)
        except (BrokenPipeError, ValueError) as error:
            raise self._gone() from error

    def _gone(self) -> LWDError:
        try:
            code = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return LWDError(f"the worker process of environments {self.name} no longer answers")
        return LWDError(f"the worker process of environments {self.name} died (exit code {code}): was it killed because memory ran out?")


class ProcessVectorEnv:
    """E environments over W worker processes, several in each; one message to and from each worker per step.

    Nothing resets by itself: a finished environment stays finished, repeats its last observation and ignores actions. Results are the
    same, to the bit, for any number of workers. Use it as a context manager, or call `close`.

    Args:
        env: name of the family.
        obs_kind: kind of observation.
        count: E.
        workers: W; None for one per core; 0, or a single environment, runs in the calling process.
        max_steps: steps after which an episode is truncated; None for the family's own.
        perturbation: magnitude, in the family's unit (`EnvFamily.perturb`); 0 for none.
        tasks: one per environment, for a family of several.

    Attributes:
        obs_dim: Do.
        keys: scalars in `info` that `step` returns.

    Raises:
        LWDError: unknown family or observation, simulator not installed, or (from any method) a failure in an environment, with its
            traceback in the message.
    """

    def __init__(
        self,
        env: str,
        obs_kind: str,
        count: int,
        workers: int | None = None,
        max_steps: int | None = None,
        perturbation: float = 0.0,
        tasks: Sequence[str] | None = None,
    ) -> None:
        self._groups: list[_Local | _Remote] = []
        if count < 1:
            raise LWDError(f"a vector environment needs at least one environment, not {count}")
        kind = family(env)
        kind.check_obs_kind(obs_kind)
        if tasks is not None and len(tasks) != count:
            raise LWDError(f"{count} environments need as many tasks, not {len(tasks)}")
        workers = min(cores() if workers is None else workers, count)
        parts = np.array_split(np.arange(count), 1 if count == 1 else max(workers, 1))
        self._slices = [slice(int(p[0]), int(p[-1]) + 1) for p in parts]
        place: type[_Local] | type[_Remote] = _Local if workers == 0 or count == 1 else _Remote
        try:
            for part in self._slices:
                own = None if tasks is None else tuple(tasks[part])
                spec = worker.Spec(env, obs_kind, part.stop - part.start, part.start, max_steps or kind.max_steps, perturbation, own)
                self._groups.append(place(spec))
            answers = [group.receive() for group in self._groups]  # all must be taken, and any may be a failure
        except BaseException:
            self.close()
            raise
        self.obs_dim, self.keys = answers[0]

    def reset(self, seeds: Sequence[int], states: ArrayLike | None = None) -> tuple[Array, dict[str, Any]]:
        """Starts every environment anew.

        Args:
            seeds: E seeds; they fix the starts and the perturbations.
            states: (E, S) exact start states instead of seeded ones.

        Returns:
            obs (E, Do) and an empty dict.
        """
        own = [None if states is None else np.asarray(states, np.float64)[part] for part in self._slices]
        return self._ask("reset", [seeds[part] for part in self._slices], own)[:, : self.obs_dim], {}

    def step(self, actions: ArrayLike) -> tuple[Array, Array, NDArray[np.bool_], NDArray[np.bool_], dict[str, Array]]:
        """Steps the environments that are still running.

        Args:
            actions: (E, Da); rows of finished environments are ignored.

        Returns:
            obs (E, Do), reward (E,), terminated (E,), truncated (E,), and infos: one (E,) array per scalar of the family, and `displaced`
            under perturbation.
        """
        table = np.asarray(actions, np.float64)
        rows = self._ask("step", [table[part] for part in self._slices])
        obs, reward, terminated, truncated, infos = np.split(rows, self.obs_dim + np.arange(4), axis=1)
        return obs, reward[:, 0], terminated[:, 0] > 0, truncated[:, 0] > 0, {k: infos[:, i] for i, k in enumerate(self.keys)}

    def states(self) -> Array:
        """Whole simulator states, (E, S), float64."""
        return self._ask("states")

    def render(self, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Pictures (H, W, 3) of the given environments."""
        frames = []
        for index in indices:
            place = next(i for i, part in enumerate(self._slices) if part.start <= index < part.stop)
            self._groups[place].send("frame", index - self._slices[place].start)
            frames.append(self._groups[place].receive())
        return frames

    def close(self) -> None:
        """Ends the workers; safe to call twice."""
        for group in self._groups:
            group.close()
        self._groups = []

    def __enter__(self) -> ProcessVectorEnv:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, name: str, *arguments: Sequence[Any]) -> Array:
        """Sends each group its own part of the arguments, then collects the answers, (E, ...). The groups work at the same time."""
        if not self._groups:
            raise LWDError("this vector environment is closed: make a new one")
        try:
            for i, group in enumerate(self._groups):
                group.send(name, *(argument[i] for argument in arguments))
            return np.concatenate([group.receive() for group in self._groups])
        except BaseException:
            self.close()  # answers that nobody took would be mistaken for later ones
            raise
