"""Many environments over a few processes, with the same results however many those are."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any, cast

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
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
    """A group in this process: computes when asked."""

    def __init__(self, spec: worker.Spec) -> None:
        self.group = worker.Group(spec)
        self.reply: NDArray[Any] = np.zeros(0)
        self.hello = self.group.describe()

    def send(self, op: bytes, array: ArrayLike) -> None:
        array = np.asarray(array)
        self.reply = worker.answer(self.group, op, array.reshape((1,) * (3 - array.ndim) + array.shape))

    def receive(self) -> NDArray[Any]:
        return self.reply

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
        self.send(b"m", worker.request(spec))

    @property
    def hello(self) -> dict[str, Any]:
        return worker.unpack_json(self.receive())

    def send(self, op: bytes, array: ArrayLike) -> None:
        try:
            worker.write(cast(IO[bytes], self.process.stdin), op, array)
        except (BrokenPipeError, ValueError) as error:
            raise self._gone() from error

    def receive(self) -> NDArray[Any]:
        try:
            op, array = worker.read(cast(IO[bytes], self.process.stdout))
        except (EOFError, ValueError) as error:
            raise self._gone() from error
        if op == b"e":
            raise LWDError(worker.unpack_json(array))
        return array if op == b"f" else array[0]

    def _gone(self) -> LWDError:
        try:
            code = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return LWDError(f"the worker process of environments {self.name} no longer answers")
        return LWDError(f"the worker process of environments {self.name} died (exit code {code}): was it killed for want of memory?")

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):  # it died with a message unsent
                cast(IO[bytes], stream).close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class ProcessVectorEnv(VectorEnv):
    """E environments over W worker processes, several in each; one message to and from each worker per step.

    Nothing resets by itself: a finished environment stays finished, repeats its last observation and ignores actions. Results are the
    same, to the bit, for any number of workers. Use it as a context manager, or call `close`.

    Args:
        env: name of the family.
        obs: kind of observation.
        count: E.
        workers: W; None for one per core; 0, or a single environment, runs in the calling process.
        max_steps: steps after which an episode is truncated; None for the family's own.
        perturbation: magnitude, in the family's unit (`EnvFamily.perturb`); 0 for none.
        tasks: one per environment, for a family of several.

    Raises:
        LWDError: unknown family or observation, simulator not installed, or (from any method) a failure in an environment, with its
            traceback in the message.
    """

    def __init__(
        self,
        env: str,
        obs: str,
        count: int,
        workers: int | None = None,
        max_steps: int | None = None,
        perturbation: float = 0.0,
        tasks: Sequence[str] | None = None,
    ) -> None:
        self.closed = False
        self._groups: list[_Local | _Remote] = []
        if count < 1:
            raise LWDError(f"a vector environment needs at least one environment, not {count}")
        self.family = family(env)
        self.family.check_obs(obs)
        if tasks is not None and len(tasks) != count:
            raise LWDError(f"{count} environments need as many tasks, not {len(tasks)}")
        workers = min(cores() if workers is None else workers, count)
        parts = np.array_split(np.arange(count), 1 if count == 1 else max(workers, 1))
        self._slices = [slice(int(p[0]), int(p[-1]) + 1) for p in parts]
        kind: type[_Local] | type[_Remote] = _Local if workers == 0 or count == 1 else _Remote
        try:
            for part in parts:
                own = None if tasks is None else tuple(tasks[i] for i in part)
                spec = worker.Spec(env, obs, len(part), int(part[0]), max_steps or self.family.max_steps, perturbation, own)
                self._groups.append(kind(spec))
            hellos = [g.hello for g in self._groups]  # from every group: the answers must be taken, and any may be a failure
        except BaseException:
            self.close()
            raise
        hello = hellos[0]
        self.keys: tuple[str, ...] = tuple(hello["keys"])
        self.num_envs = count
        self.single_observation_space = spaces.Box(np.array(hello["low"]), np.array(hello["high"]), dtype=np.float64)
        self.single_action_space = spaces.Box(np.array(hello["action_low"]), np.array(hello["action_high"]), dtype=np.float64)
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_fps": self.family.fps}
        self._size = len(hello["low"])

    def reset(
        self, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None, *, states: ArrayLike | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Starts every environment anew.

        Args:
            seed: E seeds; one seed s stands for s, s + 1, ...; it fixes the start and the perturbations.
            options: unused, part of gymnasium's interface.
            states: (E, S) exact start states instead of seeded ones.

        Returns:
            obs (E, Do) and an empty dict.
        """
        if seed is None or isinstance(seed, int):
            first = int(np.random.default_rng().integers(2**31)) if seed is None else seed
            seed = list(range(first, first + self.num_envs))
        if len(seed) != self.num_envs:
            raise LWDError(f"{self.num_envs} environments need as many seeds, not {len(seed)}")
        table = np.asarray(seed, np.float64)[:, None]
        if states is not None:
            table = np.concatenate([table, np.asarray(states, np.float64)], axis=1)
        return self._ask(b"r", table)[:, : self._size], {}

    def step(self, actions: ArrayLike) -> tuple[Array, Array, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Steps the environments that are still running.

        Args:
            actions: (E, Da); rows of finished environments are ignored.

        Returns:
            obs (E, Do), reward (E,), terminated (E,), truncated (E,), and infos: one (E,) float array per scalar of the family, and
            `displaced` under perturbation.
        """
        rows = self._ask(b"a", np.ascontiguousarray(actions, np.float64))
        obs, reward, terminated, truncated, infos = np.split(rows, self._size + np.arange(4), axis=1)
        return obs, reward[:, 0], terminated[:, 0] > 0, truncated[:, 0] > 0, {k: infos[:, i] for i, k in enumerate(self.keys)}

    def states(self) -> Array:
        """Whole simulator states, (E, S), float64."""
        return self._ask(b"g", np.zeros((self.num_envs, 1)))

    def render(self, indices: Sequence[int] | None = None) -> tuple[NDArray[np.uint8], ...]:
        """Pictures (H, W, 3) of the given environments (all of them by default)."""
        frames = []
        for index in range(self.num_envs) if indices is None else indices:
            place = next(i for i, s in enumerate(self._slices) if s.start <= index < s.stop)
            self._groups[place].send(b"f", np.array([index - self._slices[place].start], np.int64))
            frames.append(self._groups[place].receive())
        return tuple(frames)

    def close(self, **kwargs: Any) -> None:
        """Ends the workers; safe to call twice."""
        for group in self._groups:
            group.close()
        self._groups = []
        self.closed = True

    def __enter__(self) -> ProcessVectorEnv:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, op: bytes, table: Array) -> Array:
        """Sends each group its rows, then collects the answers, (E, ...); the groups work at the same time."""
        if self.closed:
            raise LWDError("this vector environment is closed: make a new one")
        try:
            for group, part in zip(self._groups, self._slices, strict=True):
                group.send(op, table[part])
            return np.concatenate([group.receive() for group in self._groups])
        except BaseException:
            self.close()  # answers that nobody took would be mistaken for later ones
            raise
