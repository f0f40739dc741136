"""Demonstrations of the scripted expert from start states that are drawn as the environment's reset draws them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lwd.config import require
from lwd.envs.pusht.expert.planner import NAME, VERSION, Planner, Scratch
from lwd.envs.pusht.expert.routes import SIDES, nearest_side, to_block
from lwd.envs.pusht.family import FAMILY
from lwd.envs.pusht.geometry import get_state, set_state
from lwd.episodes import Episodes, Meta

REPEAT_EVERY = 5


@dataclass(frozen=True)
class Expert:
    """Attempts from numbered starts (see `lwd.data.collect`). Replayed open loop from its first state, an episode ends just as covered."""

    repeats: int = 3  # how often every fifth start (`REPEAT_EVERY`) is solved, each time with other choices of the expert
    disturb: str = "none"  # displace:PIXELS: the block is displaced as in an evaluation, and the expert, who sees it, plans anew
    batch: ClassVar[int] = 1

    def check(self, seed: int, most: int) -> None:
        require(self.repeats >= 1, f"repeats must be at least 1, not {self.repeats}")
        name, _ = FAMILY.check_disturbance(self.disturb)
        require(
            name in ("none", "displace"), f"the expert plans anew after displacements only: displace:PIXELS, or none, not {self.disturb}"
        )
        require(seed >= 0, f"a seed must not be negative, but is {seed}")
        FAMILY.make("state").close()  # a missing simulator is reported here, not by a worker

    def meta(self, seed: int) -> Meta:
        under = "" if self.disturb == "none" else f", under {self.disturb}"
        return FAMILY.meta("state", f"synthetic: scripted expert {NAME} v{VERSION}, seed {seed}, repeats {self.repeats}{under}")

    def place(self, number: int) -> tuple[int, int]:
        """(number of the start, number of the attempt at it) of the attempt with a number over all."""
        group, rest = divmod(number, self.repeats + REPEAT_EVERY - 1)
        start = max(0, rest - self.repeats + 1)
        return REPEAT_EVERY * group + start, 0 if start else rest

    def number(self, tags: dict[str, Any], seed: int) -> int:
        group, start = divmod(int(tags["start"][-1]), REPEAT_EVERY)
        return group * (self.repeats + REPEAT_EVERY - 1) + (self.repeats + start - 1 if start else int(tags["attempt"][-1]))

    def attempts(self, task: str, seed: int, numbers: range) -> Iterator[tuple[Episodes, bool]]:
        for start, attempt in map(self.place, numbers):
            env = FAMILY.disturb(FAMILY.make("state"), self.disturb, "state")
            world: Any = env.unwrapped
            draw = np.random.SeedSequence(seed, spawn_key=(start, 0)).generate_state(1)[0]
            first, _ = env.reset(seed=int(draw))
            set_state(world, first.astype(np.float32))  # what is recorded is float32: the recording can be replayed bit for bit
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(start, 1 + attempt)))
            planner = Planner(Scratch(FAMILY.make("state").unwrapped), rng)
            states, actions, plan = list[NDArray[np.float64]](), list[NDArray[np.float32]](), list[NDArray[np.float32]]()
            coverage, solved, pushes = 0.0, False, 0
            limit = FAMILY.max_steps * (1 if self.disturb == "none" else 3)  # displaced again and again, it takes longer
            while not solved and len(actions) < limit:
                if not plan:
                    pose = np.array([*world.block.position, world.block.angle])
                    plan = list(planner.plan(pose, np.array(world.agent.position), np.array(world.agent.velocity)).astype(np.float32))
                    pushes += 1
                states.append(get_state(world))
                actions.append(plan.pop(0))
                _, _, solved, _, info = env.step(actions[-1])
                coverage = info["coverage"]
                plan = [] if info.get("displaced") else plan
            obs = np.array(states, np.float32)
            values = {"start": start, "attempt": attempt, "side": first_contact(obs), "pushes": pushes, "coverage": np.float32(coverage)}
            tags = {name: np.array([value]) for name, value in {**values, "expert": f"{NAME} v{VERSION}"}.items()}
            yield Episodes(obs, np.array(actions), np.array([len(actions)]), None, tags, self.meta(seed)), solved


def first_contact(states: NDArray[np.floating]) -> str:
    """The side of the block (one of `SIDES`) that the agent stands at when the block first moves, from states (T, 5); "none" if never."""
    change = np.abs(np.diff(states[:, 2:].astype(np.float64), axis=0))
    change[:, 2] = np.minimum(change[:, 2], 2 * np.pi - change[:, 2])
    moved = np.flatnonzero((change > [0.5, 0.5, 0.01]).any(axis=1))
    if not len(moved):
        return "none"
    state = states[moved[0] + 1].astype(np.float64)
    return SIDES[int(nearest_side(to_block(state[:2], state[2:])))]
