"""The only in-memory form of demonstrations: formats make `Episodes` from files, and everything else takes `Episodes`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lwd.config import require
from lwd.errors import LWDError

Float = NDArray[np.float32]
Int = NDArray[np.int64]


@dataclass(frozen=True)
class Meta:
    """What a data set declares about its numbers."""

    env: str | None = None  # environment family that can replay the data ("pusht"); None: there is none
    obs_kind: str = "state"  # which observation of that environment the data holds ("state", "keypoints")
    angles: tuple[int, ...] = ()  # observation dimensions in radians; the networks see their cosine and sine
    action_low: tuple[float, ...] | None = None  # smallest legal action per dimension, raw units; None: undeclared
    action_high: tuple[float, ...] | None = None  # largest legal action
    description: str = ""  # one line on where the data comes from; it says "synthetic" when no human made it


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

    def __post_init__(self) -> None:
        least = min(self.obs_dim, self.action_dim, self.horizon, self.length)
        require(least >= 1, f"dimensions, horizon and length must be at least 1: {self}")


@dataclass(frozen=True)
class Episodes:
    """Demonstrations as flat arrays in raw units. Shapes, finite values and the range of actions are checked: `LWDError` says where."""

    obs: Float  # (N, Do) float32; row i is what was seen when action row i was chosen
    action: Float  # (N, Da) float32
    ends: Int  # (E,) int64, exclusive end row of each episode, strictly increasing, the last one equals N
    task: NDArray[np.str_] | None = None  # (E,) task name of each episode
    tags: dict[str, NDArray] = field(default_factory=dict)  # free-form labels of the episodes, each (E,)
    meta: Meta = field(default_factory=Meta)

    def __post_init__(self) -> None:
        for name, kind in {"obs": np.float32, "action": np.float32, "ends": np.int64}.items():
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), kind))
        obs, action, ends = self.obs, self.action, self.ends
        flat = obs.ndim == action.ndim == 2
        require(flat, f"obs and action must be two-dimensional (steps, dimensions), not {obs.shape} and {action.shape}")
        require(len(obs) == len(action), f"obs has {len(obs)} steps but action has {len(action)}: every step needs both")
        listed = ends.ndim == 1 and len(ends) > 0
        require(listed, f"ends must list the end of every episode in one dimension, not have shape {ends.shape}")
        short = int((self.lengths < 2).argmax())  # the first one, if there is any
        length = self.lengths[short]
        require(length > 0, f"ends must increase: episode {short} ends at {ends[short]}, not after the one before it")
        require(length > 1, f"episode {short} has one step: an episode needs at least two; leave it out")
        require(ends[-1] == len(obs), f"the last episode ends at {ends[-1]} but there are {len(obs)} steps")
        for name, value in {"task": self.task, **self.tags}.items():
            fits = value is None or np.shape(value) == ends.shape
            require(fits, f"{name} must have one entry per episode ({len(ends)}), not shape {getattr(value, 'shape', None)}")
            number = name not in ("success", "success_step") or np.asarray(value).dtype.kind in "biuf"
            require(number, f"the tag {name} must be numbers or true and false, not texts: correct or rename it")
        (_, obs_dim), (_, action_dim) = obs.shape, action.shape
        for angle in self.meta.angles:
            require(0 <= angle < obs_dim, f"angle dimension {angle} does not exist: observations have {obs_dim} dimensions")
        for limit in (self.meta.action_low or (), self.meta.action_high or ()):
            require(len(limit) in (0, action_dim), f"the declared action range has {len(limit)} dimensions but actions have {action_dim}")
        low = np.array(self.meta.action_low or [-np.inf] * action_dim)
        high = np.array(self.meta.action_high or [np.inf] * action_dim)
        tolerance = 1e-4 * (high - low)
        outside = (action < low - tolerance) | (action > high + tolerance)
        for name, wrong in (("obs", ~np.isfinite(obs)), ("action", ~np.isfinite(action)), ("action", outside)):
            if wrong.any():
                row, dim = np.argwhere(wrong)[0]
                value, episode = getattr(self, name)[row, dim], np.searchsorted(ends, row, side="right")
                reason = ": every value must be finite"
                if wrong is outside:
                    reason = f", outside its declared range [{low[dim]:g}, {high[dim]:g}]: clip the data or correct the range"
                raise LWDError(f"{name} is {value:g} at episode {episode}, step {row - self.starts[episode]}, dimension {dim}{reason}")

    def __len__(self) -> int:
        """How many episodes there are (not steps)."""
        return len(self.ends)

    @property
    def left(self) -> NDArray[np.int64]:
        """(N,) steps that remain at every step: to the last one, or to `success_step` where this tag says when an episode reached its goal,
        and 0 afterwards. An episode with `success` false, or `success_step` negative or NaN, counts as longer by the longest episode."""
        last = self.lengths - 1
        reached = np.nan_to_num(self.tags.get("success_step", last), nan=-1.0).astype(np.int64)
        failed = (reached < 0) | ~self.tags.get("success", reached >= 0).astype(bool)
        goal = self.starts + np.where(failed, last + self.lengths.max(), reached)
        return np.maximum(np.repeat(goal, self.lengths) - np.arange(self.steps), 0)

    def tagged(self, words: Sequence[str]) -> NDArray[np.bool_]:
        """(E,) which episodes have tags NAME=VALUE; several values of one name are alternatives. `LWDError` for what none has."""
        wanted: dict[str, list[str]] = {}
        for word in words:
            name, equals, value = word.partition("=")
            known = ", ".join(self.tags) or "none"
            require(bool(equals) and name in self.tags, f"{word!r} is no tag NAME=VALUE of the data, whose tags are: {known}")
            values = sorted(set(map(str, self.tags[name])))
            shown = ", ".join(values[:12]) + ", ..." * (len(values) > 12)
            require(value in values, f"no episode has the tag {word}: the values of {name} are {shown}")
            wanted.setdefault(name, []).append(value)
        chosen = np.ones(len(self), bool)
        for name, values in wanted.items():
            chosen &= np.isin(self.tags[name].astype(str), values)
        require(bool(chosen.any()), f"no episode has all of {', '.join(words)}")
        return chosen

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

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, sorted; empty for data that names none."""
        return () if self.task is None else tuple(sorted(set(map(str, self.task))))

    @property
    def labels(self) -> NDArray[np.str_]:
        """(E,) what the episodes are told apart by: their tasks; where there is one, the first tag that is text with 2 to 12 values
        (operators, behaviours); otherwise empty."""
        if self.task is not None and len(self.tasks) > 1:
            return self.task
        texts = [own for own in self.tags.values() if own.dtype.kind in "UO" and 2 <= len(np.unique(own.astype(str))) <= 12]
        return texts[0].astype(str) if texts else np.full(len(self), "" if self.task is None else self.task[0])

    def select(self, episodes: Sequence[int] | Int) -> Episodes:
        """The given episodes, in the given order."""
        index = np.asarray(episodes, np.int64)
        rows = np.concatenate([np.arange(self.starts[e], self.ends[e]) for e in index])
        task = None if self.task is None else self.task[index]
        tags = {name: values[index] for name, values in self.tags.items()}
        return Episodes(self.obs[rows], self.action[rows], np.cumsum(self.lengths[index]), task, tags, self.meta)

    def split(self, holdout: float, seed: int = 0) -> tuple[Episodes, Episodes | None]:
        """(training, held-out or None) episodes, random in `seed`. At least one is held out, but never the only one of its task."""
        count, many = max(1, round(holdout * len(self))) if holdout else 0, len(self)
        require(not count >= many > 1, f"cannot hold out {count} of {many} episodes: nothing would be left to train on; lower --holdout")
        tasks, held = [""] * many if self.task is None else self.task.tolist(), list[int]()
        left = Counter(tasks)
        for episode in np.random.default_rng(seed).permutation(many).tolist():
            if len(held) < count and left[tasks[episode]] > 1:
                left[tasks[episode]] -= 1
                held.append(episode)
        return (self.select(np.setdiff1d(np.arange(many), held)), self.select(sorted(held))) if held else (self, None)

    def fingerprint(self) -> str:
        """Hash of everything that a model learns from (hex, 16 digits): equal data, equal fingerprint."""
        digest = hashlib.sha256(repr((self.obs.shape, self.action.shape, self.meta.env, self.meta.obs_kind, self.meta.angles)).encode())
        task = "" if self.task is None else "\0".join(map(str, self.task))
        for content in (self.obs.tobytes(), self.action.tobytes(), self.ends.tobytes(), task.encode()):
            digest.update(content)
        return digest.hexdigest()[:16]

    def difference(self, other: Episodes) -> str:
        """The first reason why `other` cannot be joined to these episodes; empty where it can."""
        a, b = self.meta, other.meta
        facts = {
            "dimensions of observations": (self.obs.shape[1], other.obs.shape[1]),
            "dimensions of actions": (self.action.shape[1], other.action.shape[1]),
            "the environment": (a.env, b.env),
            "the kind of observation": (a.obs_kind, b.obs_kind),
            "angles": (a.angles, b.angles),
            "the range of actions": ((a.action_low, a.action_high), (b.action_low, b.action_high)),
            "having task names": (self.task is not None, other.task is not None),
        }
        return next((f"{name} ({theirs}, not {ours})" for name, (ours, theirs) in facts.items() if ours != theirs), "")


def concatenate(parts: Sequence[Episodes]) -> Episodes:
    """Several sets of episodes as one. Of tags, those stay that all have, and of descriptions the first."""
    first = parts[0]
    for part in parts[1:]:
        difference = first.difference(part)
        require(not difference, f"the data sets to join differ in {difference}")
    obs, action = np.concatenate([p.obs for p in parts]), np.concatenate([p.action for p in parts])
    ends = np.cumsum(np.concatenate([p.lengths for p in parts]))
    task = None if first.task is None else np.concatenate([p.task for p in parts if p.task is not None])
    shared = [name for name in first.tags if all(name in p.tags for p in parts)]
    tags = {name: np.concatenate([p.tags[name] for p in parts]) for name in shared}
    return Episodes(obs, action, ends, task, tags, first.meta)
