"""PushT demonstrations from a scripted expert: many episodes in parallel, the same under the same seed whatever the number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lwd.data.episodes import Episodes
from lwd.data.experts.pusht_geometry import SIDES, nearest_side, to_block
from lwd.data.pool import in_order, pool
from lwd.envs.pusht import FAMILY, get_state, set_state
from lwd.envs.vector import cores
from lwd.errors import LWDError

REPEAT_EVERY = 5  # of so many starts, one is solved `repeats` times


@dataclass(frozen=True)
class Job:
    """One attempt: `start` numbers the start states under `seed`, `attempt` the expert's choices for that start."""

    seed: int
    start: int
    attempt: int


@dataclass(frozen=True)
class Solution:
    """What came of an attempt: `states` (T, 5) and `actions` (T, 2), pixels and radians; the last coverage; the pushes used."""

    job: Job
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    coverage: float
    pushes: int
    solved: bool


def collect(
    episodes: int = 250, seed: int = 0, repeats: int = 3, workers: int | None = None, env: str = "pusht", progress: bool = True
) -> Episodes:
    """Collects successful episodes of a scripted expert from start states drawn as the environment's reset draws them.

    Replayed open loop from its first recorded state (`lwd.envs.pusht.set_state`), every episode ends with the same coverage. With more
    than one worker, a script that calls this needs the usual `if __name__ == "__main__":`.

    Args:
        episodes: successful episodes to return.
        seed: of start states and of the expert's choices.
        repeats: how often every fifth start is solved, each time with other choices of the expert: the same start in several ways.
        workers: processes; None is one per core, 1 stays in this process. The result does not depend on it.
        env: the environment; there is an expert for "pusht".
        progress: show a progress bar, and how many attempts failed.

    Returns:
        Episodes with observation "state" (5), actions in pixels, and the tags `start` and `attempt` (numbers), `side` (of the block that
        is touched first), `pushes`, `coverage` (at the end) and `expert`.

    Raises:
        LWDError: there is no expert for `env`, its simulator is not installed, or most attempts fail.
    """
    if env != FAMILY.name:
        raise LWDError(f"there is no scripted expert for {env!r}: choose {FAMILY.name}")
    for name, value in {"episodes": episodes, "repeats": repeats, "workers": 1 if workers is None else workers}.items():
        if value < 1:
            raise LWDError(f"{name} must be at least 1, not {value}")
    FAMILY.make("state").close()  # a missing simulator is reported here, not by a worker
    solutions: list[Solution] = []
    failures = 0
    columns = (TextColumn("collect"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("collect", total=episodes, failed=0)
        count = min(workers or cores(), episodes)
        with pool(count) as executor:
            for solution in in_order(executor, solve, _jobs(seed, repeats), 1 if count == 1 else 2 * count):
                if solution.solved:
                    solutions.append(solution)
                else:
                    failures += 1
                bar.update(task, completed=len(solutions), failed=failures)
                if len(solutions) == episodes:
                    break
                if failures > 20 + len(solutions):
                    raise LWDError(f"the expert for {env} failed {failures} times in {failures + len(solutions)}: it does not work here")
    if progress:
        total = len(solutions) + failures
        Console(stderr=True).print(f"{len(solutions)} episodes kept, {failures} of {total} attempts failed within {FAMILY.max_steps} steps")
    return _episodes(solutions, f"synthetic: scripted expert {_expert_name()}, seed {seed}, repeats {repeats}")


def solve(job: Job) -> Solution:
    """One attempt at one start. Only steps until success are recorded; `solved` is False when that takes too long."""
    from lwd.data.experts.pusht import PushTExpert
    from lwd.data.experts.pusht_physics import Scratch

    world: Any = FAMILY.make("state").unwrapped
    draw = np.random.SeedSequence(job.seed, spawn_key=(job.start, 0)).generate_state(1)[0]
    start, _ = world.reset(seed=int(draw))
    # What is recorded is float32: starting from exactly that makes the recording replayable bit for bit.
    set_state(world, start.astype(np.float32))
    rng = np.random.default_rng(np.random.SeedSequence(job.seed, spawn_key=(job.start, 1 + job.attempt)))
    planner = PushTExpert().start(Scratch(FAMILY.make("state").unwrapped), rng)
    states: list[NDArray[np.float64]] = []
    actions: list[NDArray[np.float32]] = []
    coverage, solved, pushes = 0.0, False, 0
    while not solved and len(actions) < FAMILY.max_steps:
        pose = np.array([*world.block.position, world.block.angle])
        plan = planner.plan(pose, np.array(world.agent.position), np.array(world.agent.velocity))
        pushes += 1
        for action in plan[: FAMILY.max_steps - len(actions)].astype(np.float32):
            states.append(get_state(world))
            actions.append(action)
            _, _, solved, _, info = world.step(action)
            coverage = info["coverage"]
            if solved:
                break
    return Solution(job, np.array(states, np.float32), np.array(actions, np.float32), coverage, pushes, solved)


def first_contact(states: NDArray[np.floating]) -> str:
    """The side of the block (one of `SIDES`) that the agent stands at when the block first moves, from states (T, 5); "none" if never."""
    change = np.abs(np.diff(states[:, 2:].astype(np.float64), axis=0))
    change[:, 2] = np.minimum(change[:, 2], 2 * np.pi - change[:, 2])
    moved = np.flatnonzero((change > [0.5, 0.5, 0.01]).any(axis=1))
    if not len(moved):
        return "none"
    state = states[moved[0] + 1].astype(np.float64)
    return SIDES[int(nearest_side(to_block(state[:2], state[2:])))]


def _jobs(seed: int, repeats: int) -> Iterator[Job]:
    """Attempts without end, in the order in which they count."""
    start = 0
    while True:
        for attempt in range(repeats if start % REPEAT_EVERY == 0 else 1):
            yield Job(seed, start, attempt)
        start += 1


def _episodes(solutions: list[Solution], description: str) -> Episodes:
    """Solutions as one data set."""
    return Episodes(
        obs=np.concatenate([s.states for s in solutions]),
        action=np.concatenate([s.actions for s in solutions]),
        ends=np.cumsum([len(s.actions) for s in solutions]),
        tags={
            "start": np.array([s.job.start for s in solutions]),
            "attempt": np.array([s.job.attempt for s in solutions]),
            "side": np.array([first_contact(s.states) for s in solutions]),
            "pushes": np.array([s.pushes for s in solutions]),
            "coverage": np.array([s.coverage for s in solutions], np.float32),
            "expert": np.array([_expert_name()] * len(solutions)),
        },
        meta=FAMILY.meta("state", description),
    )


def _expert_name() -> str:
    from lwd.data.experts.pusht import NAME, VERSION

    return f"{NAME} v{VERSION}"
