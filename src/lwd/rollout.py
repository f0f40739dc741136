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

from lwd.config import EvalSettings, require
from lwd.control import CAUSES, ControlLoop, Monitor
from lwd.envs.base import family
from lwd.envs.vector import ProcessVectorEnv
from lwd.errors import LWDError
from lwd.methods.base import Planner
from lwd.methods.wrappers import imagining

Progress = Callable[[int, int], None]  # called with (steps done, steps in all)


@dataclass(frozen=True)
class Scenario:
    """Where a rollout takes place: one episode per seed. Seeds fix starts, disturbances and (with `sampler_seed`) the planner's draws."""

    env: str  # name of the environment family
    obs_kind: str
    seeds: tuple[int, ...]
    tasks: tuple[str, ...] | None = None  # one per episode, or None where there is one task only
    states: ArrayLike | None = field(default=None, compare=False)  # (E, S) exact starts in place of the seeded ones

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(int(seed) for seed in self.seeds))
        count = len(self.seeds)
        require(count > 0 and min(self.seeds) >= 0, "a rollout needs at least one seed, and none below zero")
        require(len(self.tasks or self.seeds) == count, f"{count} episodes need as many task names, not {len(self.tasks or ())}")
        if self.states is not None and np.shape(self.states)[:1] != (count,):
            raise LWDError(f"{count} episodes of {self.env} need as many start states, not shape {np.shape(self.states)}")

    def part(self, rows: slice) -> Scenario:
        """Some of the episodes."""
        tasks = None if self.tasks is None else self.tasks[rows]
        states = None if self.states is None else np.asarray(self.states)[rows]
        return replace(self, seeds=self.seeds[rows], tasks=tasks, states=states)

    def resolve(self, settings: EvalSettings, planner: Planner) -> EvalSettings:
        """The settings as they are carried out here: nothing is left open (0) but the sampler, which is the planner's matter."""
        kind = family(self.env)
        kind.check_disturbance(settings.disturb)
        every, steps = settings.replan_every or planner.horizon, settings.max_steps or kind.max_steps
        count = len(self.seeds) // max(len(set(self.tasks or ())), 1)
        return replace(settings, replan_every=every, max_steps=steps, episodes=count, seed_start=min(self.seeds))


@dataclass
class Records:
    """What a rollout measured; times are wall-clock. Each of `episodes` has `seed`, `task` (of several), `steps`, `queries`, `queried_at`
    (steps whose observation a plan was made from) with the `causes` (start, interval, monitor), `ages` (of the controller that acted, for
    each step), `terminated`, the family's scores and traces (one value per step), and `displaced_at` (steps) where something could displace
    it. `frames` and `states` are keyed by the episode's index in the scenario."""

    episodes: list[dict[str, Any]] = field(default_factory=list)
    plan_ms: list[float] = field(default_factory=list)  # of each plan call, for all rows that it planned
    act_ms: list[float] = field(default_factory=list)  # of each control step, for the whole batch
    wall_s: float = 0.0  # of the episodes, without the start of the workers
    frames: dict[int, list[NDArray[np.uint8]]] = field(default_factory=dict)  # (H, W, 3) each, from the start to the last step
    states: dict[int, NDArray[np.float64]] = field(default_factory=dict)  # of the simulator, (steps + 1, S)
    # of episodes with frames, by step: imagined futures as places in the picture (count, T + 1, 2), and which one was chosen
    futures: dict[int, dict[int, tuple[NDArray[np.float64], int]]] = field(default_factory=dict)

    @property
    def env_steps(self) -> int:
        """Environment steps over all episodes."""
        return sum(episode["steps"] for episode in self.episodes)


def rollout(
    planner: Planner | Callable[[slice], Planner],
    scenario: Scenario,
    settings: EvalSettings,
    *,
    monitor: Monitor | None = None,
    workers: int | None = None,
    record_frames: int = 0,
    record_states: bool = False,
    progress: Progress | None = None,
) -> Records:
    """Runs the episodes of a scenario and asks the planner for new controllers every `settings.replan_every` steps, and when a monitor
    wants them earlier (`lwd.control`).

    An episode's result depends on its seed, its task and the settings of the rollout and of the planner. It does not depend on the number
    of workers (simulator processes; None for one per core, 0 for none), and on the other episodes only as far as the planner's arithmetic
    depends on the batch size. Actions are clipped to the family's range.

    The planner gets (B, K, Do) raw observations of the B episodes that want a plan, on the CPU, with one generator each. A function gives
    the planner for a part of the episodes: at most `EnvFamily.batch` run at a time. Pictures are kept of the `record_frames` first ones.
    """
    records, size = Records(), family(scenario.env).batch
    parts = range(0, len(scenario.seeds), size)
    for number, first in enumerate(parts):
        rows = slice(first, first + size)
        own: Any = planner if hasattr(planner, "plan") else planner(rows)  # (a method is callable, too)

        def shown(done: int, total: int, before: int = number) -> None:
            if progress is not None:
                progress(before * total + done, len(parts) * total)

        _Run(own, scenario.part(rows), settings, monitor, records, record_frames - first, record_states).to_the_end(workers, shown)
    return records


class _Run:
    """E episodes at the same time, of which `running` marks those that have not finished."""

    def __init__(
        self,
        planner: Planner,
        scenario: Scenario,
        settings: EvalSettings,
        monitor: Monitor | None,
        records: Records,
        frames: int,
        states: bool,
    ) -> None:
        self.scenario, self.family = scenario, family(scenario.env)
        self.settings, count = scenario.resolve(settings, planner), len(scenario.seeds)
        names = scenario.tasks or ("",) * count
        generators = [_generator(settings.sampler_seed, *which) for which in zip(scenario.seeds, names, strict=True)]
        every, delay = self.settings.replan_every, settings.delay
        self.loop = ControlLoop(planner, every, delay=delay, monitor=monitor, tasks=scenario.tasks, generators=generators)
        self.running = np.ones(count, bool)
        self.infos: list[dict[str, NDArray[np.float64]]] = []  # per step: one (E,) array for each key
        self.marks: list[tuple[NDArray[Any], ...]] = []  # per step, (E,) each: was running, cause of a plan, age of what acted, terminated
        self.states: list[NDArray[np.float64]] | None = [] if states else None
        self.frames: dict[int, list[NDArray[np.uint8]]] = {i: [] for i in range(min(frames, count))}
        self.records = records
        self.imagining = imagining(planner) if self.frames else None
        self.futures: dict[int, dict[int, tuple[NDArray[np.float64], int]]] = {i: {} for i in self.frames}

    def to_the_end(self, workers: int | None, progress: Progress) -> None:
        """Runs all episodes to their ends, scores each from its own steps, and adds them to the records."""
        scenario, limit, count = self.scenario, self.settings.max_steps, len(self.running)
        tasks = scenario.tasks or () if self.family.tasks else ()  # other families cannot be asked for a task, but the planner can
        with ProcessVectorEnv(scenario.env, scenario.obs_kind, count, workers, limit, self.settings.disturb, tasks) as self.envs:
            begin = perf_counter()
            with torch.inference_mode():
                self.obs = torch.as_tensor(self.envs.reset(scenario.seeds, scenario.states)[0], dtype=torch.float32)  # (E, Do)
                self._record()
                while self.running.any():
                    self._step(len(self.infos))
                    progress(len(self.infos), limit)
            self.records.wall_s += perf_counter() - begin
            self.records.plan_ms += self.loop.plan_ms
        progress(limit, limit)
        first = len(self.records.episodes)
        self.records.frames |= {first + i: frames for i, frames in self.frames.items()}
        self.records.futures |= {first + i: futures for i, futures in self.futures.items()}
        traces = {key: np.array([infos[key] for infos in self.infos]) for key in self.infos[0]}  # (T, E)
        running, cause, age, terminated = np.array(self.marks).swapaxes(0, 1)  # (T, E) each
        for i, seed in enumerate(scenario.seeds):
            steps, asked = int(running[:, i].sum()), np.flatnonzero(cause[:, i]).tolist()
            own = {key: values[:steps, i].tolist() for key, values in traces.items()}
            episode = {"seed": seed, "steps": steps, "queries": len(asked), "queried_at": asked, "terminated": bool(terminated[-1, i])}
            episode |= {"causes": [CAUSES[cause[step, i]] for step in asked], "ages": age[:steps, i].tolist()}
            episode |= {} if scenario.tasks is None else {"task": scenario.tasks[i]}
            episode |= {**self.family.summarise(own), **{key: [round(v, 4) for v in own[key]] for key in self.family.trace}}
            if "displaced" in own:
                episode["displaced_at"] = np.flatnonzero(own["displaced"]).tolist()
            self.records.episodes.append(episode)
            if self.states is not None:
                self.records.states[first + i] = np.array([states[i] for states in self.states[: steps + 1]])

    def _step(self, step: int) -> None:
        """One control step of all running episodes: act, after a plan where it is time, and simulate."""
        begin, planned = perf_counter(), len(self.loop.plan_ms)
        table = self.loop.act(self.obs, torch.from_numpy(self.running)).numpy()  # also of episodes that have finished
        if self.imagining is not None and planned < len(self.loop.plan_ms):
            self._keep_futures(step)
        self.records.act_ms.append(1e3 * (perf_counter() - begin) - sum(self.loop.plan_ms[planned:]))
        wanted = (len(self.running), len(self.family.action_low))
        require(table.shape == wanted, f"the controller returned actions of shape {table.shape}, not {wanted}")
        bad = np.flatnonzero(self.running & ~np.isfinite(table).all(axis=1))
        if len(bad):
            raise LWDError(f"the controller's action is not finite in the episode of seed {self.scenario.seeds[bad[0]]}, step {step}")
        obs, reward, terminated, truncated, infos = self.envs.step(np.clip(table, self.family.action_low, self.family.action_high))
        self.marks.append((self.running, self.loop.causes.numpy(), self.loop.ages.numpy(), terminated))
        self.infos.append({"reward": reward, **infos})
        self.obs = torch.as_tensor(obs, dtype=torch.float32)
        self._record()
        self.running = self.running & ~terminated & ~truncated

    def _keep_futures(self, step: int) -> None:
        """Keeps what was imagined in the plan of this step, for the videos."""
        assert self.imagining is not None
        seen, best = self.imagining.considered()
        places = self.family.trail(self.scenario.obs_kind, seen.numpy().astype(np.float64))
        if places is None:
            return
        for number, row in enumerate(self.loop.causes.nonzero()[:, 0].tolist()):
            if row in self.futures:
                self.futures[row][step] = places[number], int(best[number])

    def _record(self) -> None:
        """Keeps pictures and states, if they are wanted."""
        wanted = [i for i in self.frames if self.running[i]]
        for i, frame in zip(wanted, self.envs.render(wanted), strict=True):
            self.frames[i].append(frame)
        if self.states is not None:
            self.states.append(self.envs.states())


def _generator(sampler_seed: int, seed: int, task: str) -> torch.Generator:
    """The generator of one episode: a function of the two seeds and the task only."""
    entropy = [sampler_seed, seed, *([crc32(task.encode())] if task else [])]
    word = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))  # torch takes 63 bits
