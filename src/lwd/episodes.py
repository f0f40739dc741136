"""The only in-memory form of demonstrations: formats make `Episodes` from files, and everything else takes `Episodes`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lwd.errors import LWDError

Float = NDArray[np.float32]
Int = NDArray[np.int64]


@dataclass(frozen=True)
class Meta:
    """What a data set declares about its numbers.

    Args:
        env: environment family that can replay the data (`"pusht"`), or None when there is none.
        obs_kind: which observation of that environment the data holds (`"state"`, `"keypoints"`).
        angles: observation dimensions that are angles in radians (they are encoded as cosine and sine for the networks).
        action_low: smallest legal action per dimension, raw units, or None when undeclared.
        action_high: largest legal action per dimension, raw units, or None when undeclared.
        description: one line on where the data comes from; says "synthetic" when no human made it.
    """

    env: str | None = None
    obs_kind: str = "state"
    angles: tuple[int, ...] = ()
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    description: str = ""


@dataclass(frozen=True)
class Spec:
    """What a method must know of the data to be built. It is kept in the run's config: no data is needed to load a model."""

    obs_dim: int
    action_dim: int
    horizon: int
    length: int
    env: str | None = None
    obs_kind: str = "state"
    angles: tuple[int, ...] = ()
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    tasks: tuple[str, ...] = ()
    starts: Literal["every", "first"] = "every"


@dataclass(frozen=True)
class Episodes:
    """Demonstrations as flat arrays in raw units. Validated on construction.

    Args:
        obs: (N, Do) float32, raw units; row i is what was seen when action row i was chosen.
        action: (N, Da) float32, raw units.
        ends: (E,) int64, exclusive end row of each episode, strictly increasing, the last one equals N.
        task: (E,) str or None, task name of each episode.
        tags: free-form per-episode labels, each (E,).
        meta: what the data set declares about its numbers.

    Raises:
        LWDError: shapes disagree, `ends` is not increasing, an episode has fewer than two steps, a value is NaN or infinite,
            or an action leaves the declared range; the message names the episode and the step.
    """

    obs: Float
    action: Float
    ends: Int
    task: NDArray[np.str_] | None = None
    tags: dict[str, NDArray] = field(default_factory=dict)
    meta: Meta = field(default_factory=Meta)

    def __post_init__(self) -> None:
        object.__setattr__(self, "obs", np.ascontiguousarray(self.obs, np.float32))
        object.__setattr__(self, "action", np.ascontiguousarray(self.action, np.float32))
        object.__setattr__(self, "ends", np.ascontiguousarray(self.ends, np.int64))
        self._check_shapes()
        self._check_values("obs", self.obs)
        self._check_values("action", self.action)
        self._check_action_range()

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.ends)

    @property
    def steps(self) -> int:
        """Number of steps over all episodes."""
        return len(self.obs)

    @property
    def starts(self) -> Int:
        """First row of each episode, (E,)."""
        return np.concatenate([[0], self.ends[:-1]]).astype(np.int64)

    @property
    def lengths(self) -> Int:
        """Steps of each episode, (E,)."""
        return self.ends - self.starts

    def locate(self, row: int) -> tuple[int, int]:
        """(episode, step within it) of a row."""
        episode = int(np.searchsorted(self.ends, row, side="right"))
        return episode, int(row - self.starts[episode])

    def select(self, episodes: Sequence[int] | Int) -> Episodes:
        """The given episodes, in the given order."""
        index = np.asarray(episodes, np.int64)
        rows = np.concatenate([np.arange(self.starts[e], self.ends[e]) for e in index])
        return replace(
            self,
            obs=self.obs[rows],
            action=self.action[rows],
            ends=np.cumsum(self.lengths[index]),
            task=None if self.task is None else self.task[index],
            tags={k: v[index] for k, v in self.tags.items()},
        )

    def split(self, holdout: float, seed: int = 0) -> tuple[Episodes, Episodes | None]:
        """(training, held-out) episodes, deterministic in `seed`.

        At least one is held out, but never the only one of its task. The second part is None when `holdout` is 0 or none is left to take.

        Raises:
            LWDError: `holdout` is no fraction, or nothing would be left to train on.
        """
        if not 0 <= holdout < 1:
            raise LWDError(f"holdout must be a fraction in [0, 1), not {holdout}")
        count = max(1, round(holdout * len(self))) if holdout else 0
        if count >= len(self) > 1:
            raise LWDError(f"cannot hold out {count} of {len(self)} episodes: nothing would be left to train on; lower --holdout")
        tasks = ["" for _ in range(len(self))] if self.task is None else list(map(str, self.task))
        left: Counter[str] = Counter(tasks)
        held: list[int] = []
        for episode in np.random.default_rng(seed).permutation(len(self)):
            if len(held) < count and left[tasks[episode]] > 1:
                left[tasks[episode]] -= 1
                held.append(int(episode))
        if not held:
            return self, None
        return self.select(sorted(set(range(len(self))) - set(held))), self.select(sorted(held))

    def fingerprint(self) -> str:
        """Hash of everything that a model learns from (hex, 16 digits): equal data, equal fingerprint."""
        digest = hashlib.sha256(repr((self.obs.shape, self.action.shape, self.meta.env, self.meta.obs_kind, self.meta.angles)).encode())
        for array in (self.obs, self.action, self.ends):
            digest.update(array.tobytes())
        if self.task is not None:
            digest.update("\0".join(map(str, self.task)).encode())
        return digest.hexdigest()[:16]

    def _check_shapes(self) -> None:
        if self.obs.ndim != 2 or self.action.ndim != 2:
            raise LWDError(f"obs and action must be two-dimensional (steps, dimensions), not {self.obs.shape} and {self.action.shape}")
        if len(self.obs) != len(self.action):
            raise LWDError(f"obs has {len(self.obs)} steps but action has {len(self.action)}: every step needs both")
        if self.ends.ndim != 1 or len(self.ends) == 0:
            raise LWDError(f"ends must list the end of every episode in one dimension, not have shape {self.ends.shape}")
        lengths = np.diff(self.ends, prepend=0)
        bad = np.flatnonzero(lengths <= 0)
        if len(bad):
            raise LWDError(f"ends must increase: episode {bad[0]} ends at {self.ends[bad[0]]}, not after the one before it")
        if self.ends[-1] != len(self.obs):
            raise LWDError(f"the last episode ends at {self.ends[-1]} but there are {len(self.obs)} steps")
        short = np.flatnonzero(lengths < 2)
        if len(short):
            raise LWDError(f"episode {short[0]} has one step: an episode needs at least two; leave it out")
        for name, value in {"task": self.task, **self.tags}.items():
            if value is not None and np.shape(value) != (len(self.ends),):
                raise LWDError(f"{name} must have one entry per episode ({len(self.ends)}), not shape {np.shape(value)}")
        for angle in self.meta.angles:
            if not 0 <= angle < self.obs.shape[1]:
                raise LWDError(f"angle dimension {angle} does not exist: observations have {self.obs.shape[1]} dimensions")

    def _check_values(self, name: str, array: Float) -> None:
        if not np.isfinite(array).all():
            row, dim = np.argwhere(~np.isfinite(array))[0]
            episode, step = self.locate(int(row))
            raise LWDError(f"{name} is {array[row, dim]} at episode {episode}, step {step}, dimension {dim}: every value must be finite")

    def _check_action_range(self) -> None:
        low, high = self.meta.action_low, self.meta.action_high
        if low is None or high is None:
            return
        if len(low) != self.action.shape[1] or len(high) != self.action.shape[1]:
            raise LWDError(f"the declared action range has {len(low)} dimensions but actions have {self.action.shape[1]}")
        tolerance = 1e-4 * (np.asarray(high) - np.asarray(low))
        outside = (self.action < low - tolerance) | (self.action > high + tolerance)
        if outside.any():
            row, dim = np.argwhere(outside)[0]
            episode, step = self.locate(int(row))
            raise LWDError(
                f"action is {self.action[row, dim]:g} at episode {episode}, step {step}, dimension {dim}, "
                f"outside its declared range [{low[dim]:g}, {high[dim]:g}]: clip the data or correct the range"
            )


def concatenate(parts: Sequence[Episodes]) -> Episodes:
    """Several sets of episodes as one; all must agree in dimensions and `meta` (the first one's description stays)."""
    first = parts[0]
    for part in parts[1:]:
        same = (part.meta.env, part.meta.obs_kind, part.meta.angles) == (first.meta.env, first.meta.obs_kind, first.meta.angles)
        if part.obs.shape[1:] != first.obs.shape[1:] or part.action.shape[1:] != first.action.shape[1:] or not same:
            raise LWDError("the data sets to join differ in dimensions, environment or observation kind")
    shared = set.intersection(*(set(p.tags) for p in parts))
    offsets = np.cumsum([0] + [p.steps for p in parts[:-1]])
    has_task = all(p.task is not None for p in parts)
    return replace(
        first,
        obs=np.concatenate([p.obs for p in parts]),
        action=np.concatenate([p.action for p in parts]),
        ends=np.concatenate([p.ends + o for p, o in zip(parts, offsets, strict=True)]),
        task=np.concatenate([p.task for p in parts if p.task is not None]) if has_task else None,
        tags={k: np.concatenate([p.tags[k] for p in parts]) for k in first.tags if k in shared},
    )
