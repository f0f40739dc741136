"""Demonstrations of several behaviours, each shown by a policy: what D4RL did, done again with public policies, or with one's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lwd.config import require
from lwd.envs.base import check_seeds, family
from lwd.envs.policies import Policy, Source, load
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError


@dataclass(frozen=True)
class Expert:
    """Whole episodes from consecutive reset seeds (see `lwd.data.collect`), successful or not; a part is a behaviour. Policies draw from
    their own distributions, and the action that was executed is recorded: it gives the observations again, bit for bit."""

    env: str
    # A directory with the public policies that the environment names, or BEHAVIOUR=POLICY,... (`lwd.envs.policies`); or a mapping.
    policies: str | Mapping[str, Source] = ""
    batch: ClassVar[int] = 4

    @cached_property
    def sources(self) -> Mapping[str, Source]:
        """The policy of each behaviour."""
        if not isinstance(self.policies, str):
            return self.policies
        how = f"for {self.env} --policies is BEHAVIOUR=POLICY,..."
        if "=" in self.policies:
            words = [word.strip().partition("=") for word in self.policies.split(",")]
            require(all(source for _, _, source in words), f"{how}, not {self.policies!r}")
            return {part: source for part, _, source in words}
        known: dict[str, Source] = getattr(family(self.env), "policies", {})
        require(bool(known), f"{how}, because no public policies of it are known, not {self.policies!r}")
        files = ", ".join(str(source).partition("@")[0] for source in known.values() if source != "uniform")
        require(bool(self.policies) and self.folder.is_dir(), f"{how}, or a directory with {files}, not {self.policies!r}")
        return known

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.sources)

    @property
    def folder(self) -> Path:
        """Where the files of policies are looked for."""
        return Path(self.policies).expanduser() if isinstance(self.policies, str) and "=" not in self.policies else Path()

    def check(self, seed: int, most: int) -> None:
        check_seeds(seed, most)
        for part in self.parts:
            next(_Actor(self, part).steps(seed))  # what is missing, or does not fit, is reported here and not by a worker

    def meta(self, seed: int) -> Meta:
        kind, public = family(self.env), "public " * (self.folder != Path())
        names = (f"{part} {_label(source)}" for part, source in self.sources.items())
        recipe = f"synthetic: D4RL-style data regenerated from {public}policies ({', '.join(names)}), seeds from {seed}"
        return kind.meta(kind.obs_kinds[0], recipe)

    def number(self, tags: dict[str, Any], seed: int) -> int:
        return int(tags["seed"][-1]) - seed

    def attempts(self, task: str, seed: int, numbers: range) -> Iterator[tuple[Episodes, bool]]:
        actor, kind = _Actor(self, task), family(self.env)
        for own in range(seed + numbers.start, seed + numbers.stop):
            obs, actions, rewards, infos = zip(*actor.steps(own), strict=True)
            traces = {"reward": list(rewards), **{key: [info[key] for info in infos] for key in kind.info_keys}}
            values = {"seed": own, "behaviour": task, **kind.summarise(traces)}
            tags = {name: np.array([value]) for name, value in values.items()}
            ends = np.array([len(actions)])
            yield Episodes(np.array(obs), np.array(actions), ends, np.array([task]), tags, self.meta(seed)), True


def _label(source: Source) -> str:
    """What a description calls a policy: the name of its file or function, not where that is."""
    return source.rpartition("/")[2] if isinstance(source, str) else getattr(source, "__qualname__", type(source).__name__)


class _Actor:
    """A policy at work in its environment."""

    def __init__(self, expert: Expert, part: str) -> None:
        self.kind, self.name, source = family(expert.env), part, expert.sources[part]
        self.env = self.kind.make(self.kind.obs_kinds[0])
        self.low, self.high = np.array(self.kind.action_low), np.array(self.kind.action_high)
        self.policy: Policy = load(source, expert.folder, self.low, self.high)

    def steps(self, seed: int) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float32], float, dict[str, Any]]]:
        """Observation, action, reward and info of each step of an episode."""
        obs, _ = self.env.reset(seed=seed)
        rng, limit, over, step = np.random.default_rng([seed, crc32(self.name.encode())]), self.kind.max_steps, False, 0
        while not over:
            drawn = np.asarray(self.policy.draw(self._shown(obs, 1 - step / limit), rng), np.float64)
            if drawn.shape != self.low.shape or not np.isfinite(drawn).all():
                raise LWDError(f"the policy of {self.name} returned {drawn}, but an action has {len(self.low)} finite numbers")
            action = np.clip(drawn, self.low, self.high).astype(np.float32)
            seen, reward, terminated, truncated, info = self.env.step(action)
            yield obs, action, float(reward), info
            obs, step = seen, step + 1
            over = terminated or truncated or step >= limit

    def _shown(self, obs: NDArray[np.float64], left: float) -> NDArray[np.float64]:
        """The observation as the policy takes it: as in earlier versions of the environment, or with the share of the steps left."""
        wanted, earlier = self.policy.inputs, getattr(self.kind, "for_policies", None)
        if wanted not in (0, len(obs)):
            obs = earlier(obs, wanted) if earlier is not None else obs
            obs = np.append(obs, left) if wanted == len(obs) + 1 else obs
            require(wanted == len(obs), f"the policy of {self.name} takes {wanted} numbers, but {self.kind.name} observes {len(obs)}")
        return obs
