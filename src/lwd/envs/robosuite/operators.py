"""Six scripted operators: what each is in the habit of, and how well each of the three proficiencies does a task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DOWN = np.diag([1.0, -1.0, -1.0])  # orientation of a hand that points down, as a rotation matrix
BIN = np.array([0.17, 0.35, 0.8])  # where the can is put: in its quarter of the bin, well within reach


@dataclass(frozen=True)
class Habit:
    """What an operator does in every episode, whatever the proficiency: it tells operators apart."""

    height: float  # metres above the object from which the hand goes down
    bow: float  # radians by which the hand heads to the left of where it goes, while that is far
    wrist: float  # radians by which the hand is turned about the vertical; the cube is taken by the faces that are nearest to it
    lean: tuple[float, float]  # radians by which the hand leans: towards the robot, and to its right
    close: float  # metres from the grasp at which the fingers begin to close
    settle: int  # steps that the hand then rests before it rises
    away: tuple[float, float]  # direction (x, y) in which the hand drifts as it rises: metres for each metre
    drop: float  # metres above the bin's floor at which the hand lets the can go


@dataclass(frozen=True)
class Skill:
    """How well a task is done. The numbers are calibrated to robomimic's multi-human data sets (docs/environments.md)."""

    speed: float  # largest command
    gain: float  # command for each metre of the way that remains
    spread: float  # standard deviation of the logarithm of an episode's pace
    noise: float  # standard deviation of noise on each number of the command
    memory: float  # correlation of that noise with the one of the last step
    strays: float  # mean number of wrong turns, each to a point that is off by up to `far`
    far: float  # metres
    pause: float  # probability to hesitate, for each step: for ten steps on average, at a sixth of the pace


HABITS = {
    "better-1": Habit(0.17, 0.3, 0.0, (0.25, 0.0), 0.012, 10, (0.0, 0.0), 0.19),
    "better-2": Habit(0.22, -0.3, 0.7, (-0.25, 0.0), 0.016, 12, (-0.6, 0.0), 0.21),
    "okay-1": Habit(0.07, 0.6, -0.7, (0.12, 0.22), 0.012, 14, (0.0, 0.6), 0.19),
    "okay-2": Habit(0.13, -0.6, 0.0, (-0.12, -0.22), 0.015, 10, (0.0, -0.6), 0.21),
    "worse-1": Habit(0.06, -0.6, 0.7, (-0.12, 0.22), 0.012, 18, (-0.5, 0.5), 0.20),
    "worse-2": Habit(0.12, 0.6, -0.7, (0.12, -0.22), 0.015, 13, (0.6, 0.0), 0.26),
}
SKILLS = {
    "lift": {
        "better": Skill(0.5, 7.5, 0.3, 0.055, 0.7, 0.0, 0.05, 0.0),
        "okay": Skill(0.5, 6.6, 0.28, 0.155, 0.65, 0.6, 0.08, 0.004),
        "worse": Skill(0.42, 4.5, 0.22, 0.155, 0.62, 0.35, 0.08, 0.022),
    },
    "can": {
        "better": Skill(1.0, 10.0, 0.2, 0.13, 0.6, 0.0, 0.05, 0.0),
        "okay": Skill(1.0, 11.0, 0.25, 0.2, 0.55, 0.3, 0.12, 0.003),
        "worse": Skill(0.8, 6.0, 0.5, 0.14, 0.65, 0.5, 0.15, 0.02),
    },
}


class Stage(NamedTuple):
    """One part of the task: the hand goes to a place."""

    frame: str  # what the place is relative to: the "object", where the hand has "grasped" it, the "world", or the "hand" (a direction)
    place: Array  # (3,) metres
    near: float  # metres from the place at which the stage ends; after 60 steps the operator is less exact
    grip: int  # 1 closes the fingers, -1 opens them
    rest: int = 0  # steps for which the hand rests there instead of moving


class Operator:
    """Does a task once, from what it sees: where the object and the hand are, and how they are turned."""

    def __init__(self, env: str, name: str, rng: np.random.Generator) -> None:
        self.env, self.habit, self.skill, self.rng = env, HABITS[name], SKILLS[env][name.partition("-")[0]], rng
        self.pace = math.exp(self.skill.spread * rng.standard_normal())
        self.noise, self.hesitates = self.skill.noise * rng.standard_normal(6), False
        strays = [self._wrong_turn() for _ in range(rng.poisson(self.skill.strays))]
        self.stages = [*self._reach(rng.uniform(0.8, 1.2) * self.habit.height, strays), *self._deliver()]
        self.number, self.steps = 0, 0  # of the present stage, and how many steps it has lasted
        self.first, self.grasped = len(strays), np.zeros(3)  # stage to begin anew from; where the hand was when the fingers closed

    def _wrong_turn(self) -> Array:
        angle, size = self.rng.uniform(0, 2 * math.pi), self.rng.uniform(0.3, 1) * self.skill.far
        return size * np.array([math.cos(angle), math.sin(angle), self.rng.uniform(0, 0.5)])

    def _reach(self, height: float, strays: list[Array]) -> list[Stage]:
        """To the object, after some wrong turns."""
        self.height, depth, near = (height, 0.0, 0.02) if self.env == "lift" else (0.03 + 0.3 * height, 0.01, 0.012)
        above, inside = np.array([0, 0, self.height]), np.array([0, 0, depth])
        wrong = [Stage("object", above + stray, 0.03, -1) for stray in strays]
        return [*wrong, Stage("object", above, near, -1), Stage("object", inside, self.habit.close, -1)]

    def _deliver(self) -> list[Stage]:
        """From the grasp to the end."""
        up, here = np.array([*self.habit.away, 1.0]), np.zeros(3)
        grasp = Stage("grasped", here, 1.0, 1, self.habit.settle)
        if self.env == "lift":
            return [grasp, Stage("hand", 0.3 * up, 0.0, 1)]
        drop, top = BIN + np.array([0, 0, self.habit.drop]), np.array([0, 0, 0.3 * self.height])
        carry = [Stage("grasped", (0.1 + self.height) * up, 0.05, 1), Stage("world", drop + top, 0.05, 1), Stage("world", drop, 0.03, 1)]
        return [grasp, *carry, Stage("hand", here, 1.0, -1, 4), Stage("hand", 0.3 * up, 0.0, -1)]

    def act(self, thing: Array, thing_turn: Array, hand: Array, turn: Array) -> NDArray[np.float32]:
        """Positions (3,) in metres and rotation matrices (3, 3) of object and hand -> action (7,)."""
        stage, self.steps = self.stages[self.number], self.steps + 1
        way = {"object": thing, "grasped": self.grasped, "world": np.zeros(3), "hand": hand}[stage.frame] + stage.place - hand
        far = float(np.linalg.norm(way))
        slipped = self.number > self.first + 2 and stage.grip > 0 and np.linalg.norm(thing - hand) > 0.06
        if slipped or (far < stage.near * max(1.0, self.steps / 60) and self.steps > stage.rest):
            self.number, self.steps = self.first if slipped else self.number + 1, 0
            self.grasped = hand.copy() if self.number == self.first + 2 else self.grasped
            return self.act(thing, thing_turn, hand, turn)
        aside = _rotation(2, self.habit.bow * min(1.0, far / 0.1)) @ way
        push = aside / max(far, 1e-6) * min(self.skill.speed, max(self.skill.gain * far, 0.08)) if far > 0.003 else np.zeros(3)
        fresh = math.sqrt(1 - self.skill.memory**2) * self.skill.noise * self.rng.standard_normal(6)
        self.noise = self.skill.memory * self.noise + fresh
        self.hesitates = self.rng.random() < (0.9 if self.hesitates else self.skill.pause)
        command = np.concatenate([push + self.noise[:3], 0.3 * (self._turn(thing_turn, turn) + self.noise[3:])])
        pace = (self.pace / 6 if self.hesitates else self.pace) * (stage.rest == 0)
        return np.array([*pace * command, stage.grip], np.float32).clip(-1, 1)

    def _turn(self, thing: Array, hand: Array) -> Array:
        """(3,) rotation vector from the hand's orientation to the one that the operator wants, radians."""
        yaw = self.habit.wrist
        if self.env == "lift":  # nearest face
            face = math.atan2(thing[1, 0], thing[0, 0])
            yaw = face + math.pi / 2 * round((yaw - face) / (math.pi / 2))
        wanted = _rotation(1, self.habit.lean[0]) @ _rotation(0, self.habit.lean[1]) @ _rotation(2, yaw) @ DOWN
        error = wanted @ hand.T
        return 0.5 * np.array([error[2, 1] - error[1, 2], error[0, 2] - error[2, 0], error[1, 0] - error[0, 1]])


def _rotation(axis: int, angle: float) -> Array:
    """The matrix (3, 3) of a rotation about an axis, 0 to 2, by an angle in radians."""
    matrix, (i, j) = np.eye(3), ((axis + 1) % 3, (axis + 2) % 3)
    matrix[[i, j], [i, j]] = math.cos(angle)
    matrix[i, j], matrix[j, i] = -math.sin(angle), math.sin(angle)
    return matrix
