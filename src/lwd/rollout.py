"""The one rollout loop, for every method and every environment. It knows planners and controllers, and no method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lwd.config import EvalSettings
from lwd.envs.base import family
from lwd.envs.vector import ProcessVectorEnv
from lwd.errors import LWDError
from lwd.methods.base import Controller, Planner

Progress = Callable[[int, int], None]  # called with (steps done, steps in all)


@dataclass(frozen=True)
class Scenario:
    """Where a rollout takes place: one episode per seed.

    Args:
        env: name of the environment family.
        obs_kind: kind of observation.
        seeds: environment seeds, one per episode; they fix the start, the perturbations and (with `sampler_seed`) the planner's draws.
        tasks: task names, one per episode, or None where there is one task only.
        states: (E, S) exact start states in place of the seeded ones, or None.

    Raises:
        LWDError: no seed, a negative one, or not as many tasks or states as seeds.
    """

    env: str
    obs_kind: str
    seeds: tuple[int, ...]
    tasks: tuple[str, ...] | None = None
    states: ArrayLike | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(int(seed) for seed in self.seeds))
        if not self.seeds or min(self.seeds) < 0:
            raise LWDError("a rollout needs at least one seed, and none below zero")
        if self.tasks is not None and len(self.tasks) != len(self.seeds):
            raise LWDError(f"{len(self.seeds)} episodes need as many task names, not {len(self.tasks)}")
        if self.states is not None and np.shape(self.states)[:1] != (len(self.seeds),):
            raise LWDError(f"{len(self.seeds)} episodes of {self.env} need as many start states, not shape {np.shape(self.states)}")

    def part(self, rows: slice) -> Scenario:
        """Some of the episodes."""
        tasks = None if self.tasks is None else self.tasks[rows]
        states = None if self.states is None else np.asarray(self.states)[rows]
        return replace(self, seeds=self.seeds[rows], tasks=tasks, states=states)

    def resolve(self, settings: EvalSettings, planner: Planner) -> EvalSettings:
        """The settings as they are carried out here: nothing is left open (0) but the sampler, which is the planner's matter."""
        return replace(
            settings,
            replan_every=settings.replan_every or planner.horizon,
            max_steps=settings.max_steps or family(self.env).max_steps,
            episodes=len(self.seeds) // max(len(set(self.tasks or ())), 1),
            seed_start=min(self.seeds),
        )


@dataclass
class Records:
    """What a rollout measured. Times are wall-clock. Dictionaries are keyed by the episode's index in the scenario.

    Args:
        episodes: one dict each: `seed`, `task` (of several), `steps`, `queries`, `queried_at` (steps at which it got a new controller),
            `terminated`, the family's scores and traces (one value per step), `displaced_at` (steps) where something could displace it.
        plan_ms: milliseconds of each plan call, for all rows that it planned.
        act_ms: milliseconds of each control step, for the whole batch.
        wall_s: seconds of the episodes, without the start of the workers.
        env_steps: environment steps over all episodes.
        frames: (H, W, 3) uint8 pictures, from the start to the last step.
        states: (steps + 1, S) float64 simulator states.
    """

    episodes: list[dict[str, Any]] = field(default_factory=list)
    plan_ms: list[float] = field(default_factory=list)
    act_ms: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    env_steps: int = 0
    frames: dict[int, list[NDArray[np.uint8]]] = field(default_factory=dict)
    states: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    def extend(self, other: Records) -> None:
        """Appends what a further rollout measured."""
        shift = len(self.episodes)
        for name in ("episodes", "plan_ms", "act_ms"):
            getattr(self, name).extend(getattr(other, name))
        self.wall_s += other.wall_s
        self.env_steps += other.env_steps
        self.frames.update({shift + i: frames for i, frames in other.frames.items()})
        self.states.update({shift + i: states for i, states in other.states.items()})


class Controllers:
    """The controllers in use. Each of E episodes is served by the one that was planned for it last.

    Args:
        episodes: E.
        action_dim: Da.
    """

    def __init__(self, episodes: int, action_dim: int) -> None:
        self.begin = np.full(episodes, -1, np.int64)  # step of each episode's last query, -1 before the first
        self.action_dim = action_dim
        self.parts: list[tuple[int, NDArray[np.int64], Controller]] = []  # (step of the query, episodes, their controllers)

    def give(self, step: int, rows: NDArray[np.int64], controller: Controller) -> None:
        """Hands a batch of controllers to the episodes `rows`, planned from their observations of `step`."""
        self.begin[rows] = step
        self.parts.append((step, rows, controller))

    def act(self, obs: Tensor, step: int, running: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(E, Do) raw observations of `step` -> (E, Da) actions, zero where an episode is not running.

        A batch of controllers is always asked as a whole: also for episodes that have finished, or have got another controller.
        """
        actions = np.zeros((len(obs), self.action_dim))
        self.parts = [part for part in self.parts if (running & (self.begin == part[0]))[part[1]].any()]
        for begin, rows, controller in self.parts:
            chosen = controller.act(obs[rows], torch.full((len(rows),), step - begin, dtype=torch.int64)).cpu().numpy()
            if chosen.shape != (len(rows), self.action_dim):
                raise LWDError(f"the controller returned actions of shape {chosen.shape}, not {(len(rows), self.action_dim)}")
            own = (running & (self.begin == begin))[rows]
            actions[rows[own]] = chosen[own]
        return actions


def rollout(
    planner: Planner | Callable[[slice], Planner],
    scenario: Scenario,
    settings: EvalSettings,
    *,
    workers: int | None = None,
    record_frames: int = 0,
    record_states: bool = False,
    progress: Progress | None = None,
) -> Records:
    """Runs the episodes of a scenario and asks the planner for new controllers every `settings.replan_every` steps.

    An episode's result depends on its seed, its task and the settings. It does not depend on the number of workers, and on the other
    episodes only as far as the planner's arithmetic depends on the batch size. Actions are clipped to the family's range.

    Args:
        planner: gets (B, K, Do) raw observations of the B episodes still running, on the CPU, with one generator each. Or a function that
            gives the planner for a part of the episodes: at most `EnvFamily.batch` run at a time.
        scenario: environment and episodes.
        settings: `replan_every`, `perturbation`, `max_steps` and `sampler_seed` are used here.
        workers: simulator processes; None for one per core, 0 for none.
        record_frames: number of first episodes whose pictures are kept.
        record_states: keep the simulator's states.
        progress: called after every step.

    Raises:
        LWDError: settings that do not fit, actions that are not finite or of the wrong shape, or an environment that fails.
    """
    records, size = Records(), family(scenario.env).batch
    parts = range(0, len(scenario.seeds), size)
    for number, first in enumerate(parts):
        rows = slice(first, first + size)
        own: Any = planner if hasattr(planner, "plan") else planner(rows)  # (a method is callable, too)
        run = _Run(own, scenario.part(rows), settings, record_frames - first, record_states)

        def shown(done: int, total: int, before: int = number) -> None:
            if progress is not None:
                progress(before * total + done, len(parts) * total)

        records.extend(run(workers, shown))
    return records


class _Run:
    """E episodes at the same time, of which `running` marks those that have not finished."""

    def __init__(self, planner: Planner, scenario: Scenario, settings: EvalSettings, frames: int, states: bool) -> None:
        self.planner, self.scenario, self.family = planner, scenario, family(scenario.env)
        self.settings = scenario.resolve(settings, planner)
        count = len(scenario.seeds)
        tasks = scenario.tasks or ("",) * count
        self.generators = [_generator(settings.sampler_seed, *which) for which in zip(scenario.seeds, tasks, strict=True)]
        self.controllers = Controllers(count, len(self.family.action_low))
        self.running = np.ones(count, bool)
        self.terminated = np.zeros(count, bool)
        self.steps = np.zeros(count, np.int64)
        self.queried_at: list[list[int]] = [[] for _ in range(count)]
        self.infos: list[dict[str, NDArray[np.float64]]] = []  # per step: one (E,) array for each key
        self.states: list[NDArray[np.float64]] | None = [] if states else None
        self.records = Records(frames={i: [] for i in range(min(frames, count))})

    def __call__(self, workers: int | None, progress: Progress) -> Records:
        """Runs all episodes to their ends."""
        scenario, limit = self.scenario, self.settings.max_steps
        tasks = scenario.tasks if self.family.tasks else None  # other families cannot be asked for a task, but the planner can
        count, perturbation = len(scenario.seeds), self.settings.perturbation
        with ProcessVectorEnv(scenario.env, scenario.obs_kind, count, workers, limit, perturbation, tasks) as self.envs:
            begin = perf_counter()
            with torch.inference_mode():
                obs, _ = self.envs.reset(scenario.seeds, states=scenario.states)
                # a history is at first the first observation K times: (E, K, Do)
                self.history = torch.as_tensor(obs, dtype=torch.float32)[:, None].repeat(1, self.planner.history, 1)
                self._record(self.running)
                for step in range(limit):
                    self._step(step)
                    progress(step + 1, limit)
                    if not self.running.any():
                        break
            self.records.wall_s = perf_counter() - begin
        progress(limit, limit)
        return self._finish()

    def _step(self, step: int) -> None:
        """One control step of all running episodes: plan for those that are due, act, simulate."""
        begin = self.controllers.begin
        due = self.running & ((begin < 0) | (step - begin >= self.settings.replan_every))
        if due.any():
            self._plan(step, np.flatnonzero(due))
        obs, reward, terminated, truncated, infos = self.envs.step(self._act(step))
        before = self.running
        self.steps += before
        self.running = before & ~terminated & ~truncated
        self.terminated |= terminated
        self.infos.append({"reward": reward, **infos})
        self.history = torch.cat([self.history[:, 1:], torch.as_tensor(obs, dtype=torch.float32)[:, None]], dim=1)
        self._record(before)

    def _plan(self, step: int, rows: NDArray[np.int64]) -> None:
        tasks = None if self.scenario.tasks is None else [self.scenario.tasks[i] for i in rows]
        begin, every = perf_counter(), self.settings.replan_every
        controller = self.planner.plan(self.history[rows], tasks, [self.generators[i] for i in rows])
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # else a part of the planning would be booked on the first action
        self.records.plan_ms.append(1e3 * (perf_counter() - begin))
        if every > controller.horizon:
            raise LWDError(
                f"a query every {every} steps needs controllers made for as many; these are made for {controller.horizon}: "
                "lower replan_every, or train with a longer horizon"
            )
        self.controllers.give(step, rows, controller)
        for i in rows:
            self.queried_at[i].append(step)

    def _act(self, step: int) -> NDArray[np.float64]:
        """Actions (E, Da), clipped to the family's range."""
        begin = perf_counter()
        actions = self.controllers.act(self.history[:, -1], step, self.running)
        self.records.act_ms.append(1e3 * (perf_counter() - begin))
        bad = np.flatnonzero(~np.isfinite(actions).all(axis=1))
        if len(bad):
            raise LWDError(f"the controller's action is not finite in the episode of seed {self.scenario.seeds[bad[0]]}, step {step}")
        return np.where(self.running[:, None], np.clip(actions, self.family.action_low, self.family.action_high), 0.0)

    def _record(self, running: NDArray[np.bool_]) -> None:
        """Keeps pictures and states, if they are wanted."""
        wanted = [i for i in self.records.frames if running[i]]
        for i, frame in zip(wanted, self.envs.render(wanted), strict=True):
            self.records.frames[i].append(frame)
        if self.states is not None:
            self.states.append(self.envs.states())

    def _finish(self) -> Records:
        """Scores every episode from its own steps."""
        traces = {key: np.array([infos[key] for infos in self.infos]) for key in self.infos[0]}  # (T, E)
        for i, seed in enumerate(self.scenario.seeds):
            steps, asked = int(self.steps[i]), self.queried_at[i]
            own = {key: values[:steps, i].tolist() for key, values in traces.items()}
            episode: dict[str, Any] = {"seed": seed, "steps": steps, "queries": len(asked), "queried_at": asked}
            episode |= {"terminated": bool(self.terminated[i])}
            episode |= {} if self.scenario.tasks is None else {"task": self.scenario.tasks[i]}
            episode |= {**self.family.summarise(own), **{key: [round(v, 4) for v in own[key]] for key in self.family.trace}}
            if "displaced" in own:
                episode["displaced_at"] = [t for t, hit in enumerate(own["displaced"]) if hit]
            self.records.episodes.append(episode)
            if self.states is not None:
                self.records.states[i] = np.array([s[i] for s in self.states[: steps + 1]])
        self.records.env_steps = int(self.steps.sum())
        return self.records


def _generator(sampler_seed: int, seed: int, task: str) -> torch.Generator:
    """The generator of one episode: a function of the two seeds and the task only."""
    entropy = [sampler_seed, seed, *([crc32(task.encode())] if task else [])]
    word = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))  # torch takes 63 bits
