"""The one rollout loop: every method, every environment. It knows planners and controllers, and no method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lwd.envs.base import EnvFamily, family
from lwd.envs.vector import ProcessVectorEnv
from lwd.errors import LWDError
from lwd.methods.base import Controller, Planner


@dataclass
class Records:
    """What a rollout measured. Times are wall-clock; dictionaries are keyed by the episode's index in `seeds`.

    Args:
        episodes: one dict per seed: `seed`, `steps`, `queries`, `terminated`, every score of the family, its traces (one value per step,
            rounded to 4 digits), and `displaced_at`, the steps with a perturbation, if there were any to come.
        plan_ms: milliseconds of each plan call.
        plan_batch: episodes in each plan call.
        act_ms: milliseconds of each control step, for the whole batch.
        act_batch: controllers asked in each control step.
        wall_s: seconds of the episodes, without the start of the workers.
        env_steps: environment steps over all episodes.
        frames: (H, W, 3) uint8 pictures, from the start to the last step.
        states: (steps + 1, S) float64 simulator states.
    """

    episodes: list[dict[str, Any]] = field(default_factory=list)
    plan_ms: list[float] = field(default_factory=list)
    plan_batch: list[int] = field(default_factory=list)
    act_ms: list[float] = field(default_factory=list)
    act_batch: list[int] = field(default_factory=list)
    wall_s: float = 0.0
    env_steps: int = 0
    frames: dict[int, list[NDArray[np.uint8]]] = field(default_factory=dict)
    states: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    def extend(self, other: Records) -> None:
        """Append what a further rollout measured."""
        shift = len(self.episodes)
        for name in ("episodes", "plan_ms", "plan_batch", "act_ms", "act_batch"):
            getattr(self, name).extend(getattr(other, name))
        self.wall_s += other.wall_s
        self.env_steps += other.env_steps
        self.frames.update({shift + i: frames for i, frames in other.frames.items()})
        self.states.update({shift + i: states for i, states in other.states.items()})

    def to_json(self) -> dict[str, Any]:
        """Everything but pictures and states, as plain dicts, lists and numbers for `json.dump`."""
        return {
            "episodes": self.episodes,
            "plan_ms": [round(v, 4) for v in self.plan_ms],
            "plan_batch": self.plan_batch,
            "act_ms": [round(v, 4) for v in self.act_ms],
            "act_batch": self.act_batch,
            "wall_s": round(self.wall_s, 4),
            "env_steps": self.env_steps,
        }


def rollout(
    planner: Planner,
    env: str,
    obs: str,
    seeds: Sequence[int],
    *,
    horizon: int | None = None,
    max_steps: int | None = None,
    perturbation: float = 0.0,
    task: Sequence[str] | None = None,
    states: ArrayLike | None = None,
    workers: int | None = None,
    sampler_seed: int = 0,
    record_frames: int = 0,
    record_states: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Records:
    """Runs one episode per seed, all in lockstep, and asks the planner for new controllers every `horizon` steps.

    An episode's result depends on its seed, `sampler_seed` and the arguments, not on the number of workers, and on the other episodes only
    as far as the planner's arithmetic depends on the batch size. Actions are clipped to the family's range.

    Args:
        planner: gets (B, K, Do) raw observations of the B episodes still running, on the CPU, with one generator each.
        env: name of the environment family.
        obs: kind of observation.
        seeds: one per episode: start state, perturbations, and (with `sampler_seed`) the planner's draws.
        horizon: steps between plans; None for the planner's own.
        max_steps: None for the family's own.
        perturbation: magnitude of the perturbation, in the family's units; 0 for none.
        task: one name per episode, for a family of several tasks and task-conditioned planners.
        states: (E, S) exact start states in place of the seeded ones.
        workers: processes; None for one per core, 0 for none.
        sampler_seed: another one gives other draws of the planner in the same episodes.
        record_frames: of so many first episodes, keep the pictures.
        record_states: keep the simulator's states.
        progress: called with (steps done, max_steps) after every step.

    Raises:
        LWDError: the arguments do not fit, the planner returns actions that are not finite or of the wrong shape, or an environment fails.
    """
    kind = family(env)
    limit = kind.max_steps if max_steps is None else max_steps
    every = planner.horizon if horizon is None else horizon
    _check(kind, seeds, task, states, every, limit)
    with ProcessVectorEnv(env, obs, len(seeds), workers, limit, perturbation, task if kind.tasks else None) as envs:
        run = _Run(envs, planner, list(seeds), None if task is None else list(task), every, sampler_seed)
        run.keep(record_frames, record_states)
        start = perf_counter()
        with torch.inference_mode():
            run.begin(states)
            for step in range(limit):
                run.step(step)
                if progress is not None:
                    progress(step + 1, limit)
                if not run.running.any():
                    break
        run.records.wall_s = perf_counter() - start
        if progress is not None:
            progress(limit, limit)
    return run.finish()


def rollouts(
    planner: Callable[[slice], Planner],
    env: str,
    obs: str,
    seeds: Sequence[int],
    *,
    task: Sequence[str] | None = None,
    record_frames: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Records:
    """`rollout` of any number of episodes, at most `EnvFamily.batch` at a time.

    Args:
        planner: gives the planner for a part of the episodes.
        env: see `rollout`, also for what is not named here.
        obs: see `rollout`.
        seeds: one per episode.
        task: one name per episode.
        record_frames: of so many first episodes.
        progress: called with (steps done, steps of all parts).
        options: further arguments of `rollout`.

    Raises:
        LWDError: see `rollout`.
    """
    records, size = Records(), family(env).batch
    parts = range(0, max(len(seeds), 1), size)  # no seeds at all are refused by `rollout`
    for number, first in enumerate(parts):
        part = slice(first, first + size)
        own = None if task is None else task[part]
        frames = min(max(record_frames - first, 0), size)
        shown = None if progress is None else _part(progress, number, len(parts))
        records.extend(rollout(planner(part), env, obs, seeds[part], task=own, record_frames=frames, progress=shown, **options))
    return records


def _part(progress: Callable[[int, int], None], number: int, parts: int) -> Callable[[int, int], None]:
    """Progress of one of several rollouts as progress of them all."""
    return lambda done, total: progress(number * total + done, parts * total)


class _Run:
    """State of a rollout in progress: E episodes, of which `running` marks those that have not finished."""

    def __init__(
        self, envs: ProcessVectorEnv, planner: Planner, seeds: list[int], task: list[str] | None, horizon: int, sampler_seed: int
    ) -> None:
        self.envs, self.planner, self.seeds, self.task, self.horizon = envs, planner, seeds, task, horizon
        self.generators = [_generator(sampler_seed, seed, "" if task is None else task[i]) for i, seed in enumerate(seeds)]
        self.running = np.ones(len(seeds), bool)
        self.rows = np.arange(len(seeds))  # episodes of the present controller
        self.controller: Controller | None = None
        self.steps = np.zeros(len(seeds), np.int64)
        self.queries = np.zeros(len(seeds), np.int64)
        self.terminated = np.zeros(len(seeds), bool)
        self.infos: dict[str, list[NDArray[np.float64]]] = {key: [] for key in ("reward", *envs.keys)}  # one (E,) per step
        self.records = Records()
        self.state_trace: list[NDArray[np.float64]] = []

    def keep(self, frames: int, states: bool) -> None:
        """What to record besides scores."""
        self.records.frames = {i: [] for i in range(min(frames, len(self.seeds)))}
        self.keep_states = states

    def begin(self, states: ArrayLike | None) -> None:
        """Resets; a history is at first the first observation K times."""
        obs, _ = self.envs.reset(self.seeds, states=states)
        self.history = torch.as_tensor(obs, dtype=torch.float32)[:, None].repeat(1, self.planner.history, 1)  # (E, K, Do)
        self._record(self.running)

    def step(self, t: int) -> None:
        """One control step of all running episodes: plan when due, act, simulate."""
        if t % self.horizon == 0:
            self._plan()
        action = self._act(t % self.horizon)
        obs, reward, terminated, truncated, infos = self.envs.step(action)
        before = self.running
        self.steps += before
        self.running = before & ~terminated & ~truncated
        self.terminated |= terminated
        for key, values in {"reward": reward, **infos}.items():
            self.infos[key].append(values)
        self.history = torch.cat([self.history[:, 1:], torch.as_tensor(obs, dtype=torch.float32)[:, None]], dim=1)
        self._record(before)

    def finish(self) -> Records:
        """Scores every episode from its own steps."""
        traces = {key: np.array(values) for key, values in self.infos.items()}  # (T, E)
        kind = self.envs.family
        for i, seed in enumerate(self.seeds):
            steps = int(self.steps[i])
            own = {key: values[:steps, i].tolist() for key, values in traces.items()}
            episode: dict[str, Any] = {
                "seed": seed,
                "steps": steps,
                "queries": int(self.queries[i]),
                "terminated": bool(self.terminated[i]),
            }
            episode |= {**({"task": self.task[i]} if self.task else {}), **kind.summarise(own)}
            episode |= {key: [round(v, 4) for v in own[key]] for key in kind.trace}
            if "displaced" in own:
                episode["displaced_at"] = [t for t, hit in enumerate(own["displaced"]) if hit]
            self.records.episodes.append(episode)
            if self.keep_states:
                self.records.states[i] = np.array([s[i] for s in self.state_trace[: steps + 1]])
        self.records.env_steps = int(self.steps.sum())
        return self.records

    def _plan(self) -> None:
        before, self.rows = self.rows, np.flatnonzero(self.running)
        task = None if self.task is None else [self.task[i] for i in self.rows]
        latent = getattr(self.controller, "latent", None)  # of the controllers until now, for planners that start from it
        previous = {} if latent is None else {"previous": latent[torch.from_numpy(np.isin(before, self.rows))]}
        start = perf_counter()
        self.controller = self.planner.plan(self.history[self.rows], task, [self.generators[i] for i in self.rows], **previous)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # else a part of the planning would be booked on the first action
        self.records.plan_ms.append(1e3 * (perf_counter() - start))
        self.records.plan_batch.append(len(self.rows))
        self.queries[self.rows] += 1
        if self.horizon > self.controller.horizon:
            raise LWDError(
                f"a plan every {self.horizon} steps needs controllers made for as many; these are made for {self.controller.horizon}: "
                "ask more often, or train with a longer horizon"
            )

    def _act(self, t: int) -> NDArray[np.float64]:
        """Actions (E, Da), zero where an episode is not running."""
        assert self.controller is not None
        obs = self.history[self.rows, -1]  # finished ones too: the controller is a batch that was made for all of them
        start = perf_counter()
        chosen = self.controller.act(obs, t).cpu().numpy()
        self.records.act_ms.append(1e3 * (perf_counter() - start))
        self.records.act_batch.append(len(self.rows))
        kind = self.envs.family
        actions = np.zeros((len(self.seeds), len(kind.action_low)))
        if chosen.shape != (len(self.rows), actions.shape[1]):
            raise LWDError(f"the controller returned actions of shape {chosen.shape}, not {(len(self.rows), actions.shape[1])}")
        actions[self.rows] = np.clip(chosen, kind.action_low, kind.action_high)
        actions[~self.running] = 0
        bad = np.flatnonzero(~np.isfinite(actions).all(axis=1))
        if len(bad):
            step = int(self.steps[bad[0]])
            raise LWDError(f"the controller's action is not finite in the episode of seed {self.seeds[bad[0]]}, step {step}")
        return actions

    def _record(self, running: NDArray[np.bool_]) -> None:
        wanted = [i for i in self.records.frames if running[i]]
        for i, frame in zip(wanted, self.envs.render(wanted), strict=True):
            self.records.frames[i].append(frame)
        if self.keep_states:
            self.state_trace.append(self.envs.states())


def _generator(sampler_seed: int, seed: int, task: str) -> torch.Generator:
    """The generator of one episode: a function of the two seeds and the task only."""
    entropy = [sampler_seed, seed, *([crc32(task.encode())] if task else [])]
    word = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))  # torch takes 63 bits


def _check(
    kind: EnvFamily, seeds: Sequence[int], task: Sequence[str] | None, states: ArrayLike | None, horizon: int, max_steps: int
) -> None:
    if not len(seeds) or min(seeds) < 0:
        raise LWDError("a rollout needs at least one seed, and none below zero")
    if horizon < 1 or max_steps < 1:
        raise LWDError(f"horizon and max_steps must be at least 1, not {horizon} and {max_steps}")
    if task is not None and len(task) != len(seeds):
        raise LWDError(f"{len(seeds)} episodes need as many task names, not {len(task)}")
    if states is not None and np.shape(states)[:1] != (len(seeds),):
        raise LWDError(f"{len(seeds)} episodes of {kind.name} need as many start states, not shape {np.shape(states)}")
