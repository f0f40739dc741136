"""The runners of gymnasium (version 5): HalfCheetah, Walker2d, Ant, in MuJoCo. Which feet touch the floor tells how they run."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lwd.envs.mujoco import MujocoFamily, Simulated, simulator

_LEGS = ("back right", "front left", "front right", "back left")  # of the ant, in the order of its motors


class Runner(Simulated):
    """One runner. `info` holds for each foot whether it touches the floor at the end of the step, 0.0 or 1.0."""

    def __init__(self, kind: Any, feet: dict[str, str]) -> None:
        super().__init__(kind)
        geom = self.world.model.geom
        self.floor, self.feet = geom("floor").id, {f"contact_{foot}": geom(name).id for foot, name in feet.items()}

    def told(self, obs: NDArray[np.float64], info: dict[str, Any]) -> dict[str, float]:
        floor, touching = self.floor, set()
        for pair in self.world.data.contact.geom.tolist():  # a handful at most: plain Python is faster than arrays
            if floor in pair:
                touching.update(pair)
        return {name: float(foot in touching) for name, foot in self.feet.items()}


class Locomotion(MujocoFamily):
    """What the three have in common. Scores are the return, and for each foot the share of the steps that end with it on the floor."""

    extra: ClassVar[str] = "mujoco"
    runner: ClassVar[tuple[str, str]]  # module of gymnasium, and class in it
    feet: ClassVar[dict[str, str]]  # names of the geoms by the names of the feet

    def __init_subclass__(cls) -> None:
        cls.info_keys = tuple(f"contact_{foot}" for foot in cls.feet)
        cls.scores = {"return": "mean", **dict.fromkeys(cls.info_keys, "mean")}
        cls.action_low, cls.action_high = (-1.0,) * len(cls.action_dimensions), (1.0,) * len(cls.action_dimensions)

    def make(self, obs_kind: str, task: str | None = None) -> gymnasium.Env:
        self.check_obs_kind(obs_kind)
        module, name = self.runner
        with simulator(self.extra):
            return Runner(getattr(importlib.import_module(f"gymnasium.envs.mujoco.{module}"), name), self.feet)

    def dimensions(self, obs_kind: str) -> tuple[str, ...]:
        joints = ("height", "pitch", *self.action_dimensions)
        return (*joints, "forward velocity", *(f"{joint} velocity" for joint in joints))

    def summarise(self, infos: dict[str, list[float]]) -> dict[str, float]:
        return super().summarise(infos) | {key: float(np.mean(infos[key])) for key in self.info_keys}


class HalfCheetah(Locomotion):
    """Observations are height, angles and velocities (17). An episode always has 1000 steps."""

    name: ClassVar[str] = "halfcheetah"
    runner: ClassVar[tuple[str, str]] = ("half_cheetah_v5", "HalfCheetahEnv")
    aliases: ClassVar[tuple[str, ...]] = tuple(f"gymnasium:HalfCheetah-v{version}" for version in (5, 4, 3, 2))
    action_dimensions: ClassVar[tuple[str, ...]] = ("back thigh", "back shin", "back foot", "front thigh", "front shin", "front foot")
    feet: ClassVar[dict[str, str]] = {"front": "ffoot", "back": "bfoot"}
    policies: ClassVar[dict[str, str]] = {
        "expert": "HalfCheetah_tqc_final.npz",
        "medium": "HalfCheetah_ppo_final.npz@relu",
        "random": "uniform",
    }


class Walker2d(Locomotion):
    """Observations are height, angles and velocities (17). A walker that falls, leans too far or jumps too high terminates."""

    name: ClassVar[str] = "walker2d"
    fps: ClassVar[int] = 125
    runner: ClassVar[tuple[str, str]] = ("walker2d_v5", "Walker2dEnv")
    aliases: ClassVar[tuple[str, ...]] = tuple(f"gymnasium:Walker2d-v{version}" for version in (5, 4, 3, 2))
    action_dimensions: ClassVar[tuple[str, ...]] = ("right thigh", "right leg", "right foot", "left thigh", "left leg", "left foot")
    feet: ClassVar[dict[str, str]] = {"right": "foot_geom", "left": "foot_left_geom"}
    policies: ClassVar[dict[str, str]] = {"expert": "Walker2d_tqc_final.npz", "medium": "Walker2d_ppo_final.npz", "random": "uniform"}


class Ant(Locomotion):
    """Observations are height, orientation, angles and velocities (27), and the contact forces on 13 bodies (78). An ant whose torso
    leaves the heights from 0.2 to 1 m terminates; one that lies on its back goes on."""

    name: ClassVar[str] = "ant"
    runner: ClassVar[tuple[str, str]] = ("ant_v5", "AntEnv")
    aliases: ClassVar[tuple[str, ...]] = ("gymnasium:Ant-v5",)  # (earlier versions observe other contact forces, or none)
    action_dimensions: ClassVar[tuple[str, ...]] = tuple(f"{leg} {joint}" for leg in _LEGS for joint in ("hip", "ankle"))
    feet: ClassVar[dict[str, str]] = {
        "front_left": "left_ankle_geom",
        "front_right": "right_ankle_geom",
        "back_left": "third_ankle_geom",
        "back_right": "fourth_ankle_geom",
    }
    policies: ClassVar[dict[str, str]] = {"expert": "Ant_trpo_final.npz", "medium": "Ant_ars_best.npz", "random": "uniform"}

    def dimensions(self, obs_kind: str) -> tuple[str, ...]:
        joints = (*self.action_dimensions[2:], *self.action_dimensions[:2])  # the motors begin with the last leg
        moves = (*(f"velocity {axis}" for axis in "xyz"), *(f"turn {axis}" for axis in "xyz"), *(f"{joint} velocity" for joint in joints))
        bodies = ("torso", *(f"{leg} {part}" for leg in (*_LEGS[1:], _LEGS[0]) for part in ("root", "thigh", "shin")))
        forces = (f"{body} {kind} {axis}" for body in bodies for kind in ("torque", "force") for axis in "xyz")
        return ("height", "q0", "q1", "q2", "q3", *joints, *moves, *forces)

    def for_policies(self, obs: NDArray[np.float64], inputs: int) -> NDArray[np.float64]:
        """The observation as policies of earlier versions expect it: without contact forces (27), or with 84 zeros for them (111)."""
        return np.pad(obs[:27], (0, inputs - 27)) if inputs in (27, 111) else obs


FAMILIES = (HalfCheetah(), Walker2d(), Ant())
