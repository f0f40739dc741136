"""Two tasks of robosuite as families: `lift` and `can`. Observations are those of robomimic's low-dimensional data sets."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lwd.envs.base import EnvFamily, Score
from lwd.envs.mujoco import simulator
from lwd.errors import LWDError

ROBOT = {"joint_pos": 7, "joint_pos_cos": 7, "joint_pos_sin": 7, "joint_vel": 7, "eef_pos": 3, "eef_quat": 4, "eef_quat_site": 4}
ROBOT = {f"robot0_{key}": size for key, size in {**ROBOT, "gripper_qpos": 2, "gripper_qvel": 2}.items()}
DEFAULT = ("object", "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
AXES = {3: ("x", "y", "z"), 4: ("qx", "qy", "qz", "qw")}  # of positions and quaternions


class Lift(EnvFamily):
    """A cube is lifted until its middle is 4 cm above the table. Observations are `state`, or keys of robosuite's, joined with "+"."""

    name: ClassVar[str] = "lift"
    inner: ClassVar[str] = "Lift"  # robosuite's name
    joined: ClassVar[dict[str, int]] = {"cube_pos": 3, "cube_quat": 4, "gripper_to_cube_pos": 3}  # what "object" is joined from
    extra: ClassVar[str] = "robosuite"
    aliases: ClassVar[tuple[str, ...]] = ("robosuite:Lift",)
    max_steps: ClassVar[int] = 400
    fps: ClassVar[int] = 20
    action_low: ClassVar[tuple[float, ...]] = (-1.0,) * 7
    action_high: ClassVar[tuple[float, ...]] = (1.0,) * 7
    action_dimensions: ClassVar[tuple[str, ...]] = ("move x", "move y", "move z", "turn x", "turn y", "turn z", "grip")
    units: ClassVar[str] = (
        "metres and unit quaternions; actions from -1 to 1, of which 1 asks for 5 cm or half a radian, or closes the hand"
    )
    info_keys: ClassVar[tuple[str, ...]] = ("success",)
    scores: ClassVar[dict[str, Score]] = {"success": "rate"}
    primary: ClassVar[str] = "success"
    disturbances: ClassVar[dict[str, str]] = {
        "nudge": "with probability 0.1 a step, the hand's command is moved by up to that in each of its six numbers (1 = 5 cm, 0.5 radian)",
        **EnvFamily.disturbances,
    }
    batch: ClassVar[int] = 64
    expert: ClassVar[str] = "lwd.envs.robosuite.expert"

    def make(self, obs_kind: str, task: str | None = None) -> gymnasium.Env:
        parts = self.parts(obs_kind)
        with simulator(self.extra):
            from lwd.envs.robosuite.simulator import RobosuiteEnv

            return RobosuiteEnv(self.inner, parts)

    @property
    def keys(self) -> dict[str, int]:
        """Sizes of all observations, by their keys."""
        return {"object": sum(self.joined.values()), **self.joined, **ROBOT}

    def parts(self, obs_kind: str) -> dict[str, int]:
        keys, sizes = DEFAULT if obs_kind == "state" else obs_kind.split("+"), self.keys
        if unknown := [key for key in keys if key not in sizes]:
            known = ", ".join(sizes)
            raise LWDError(f'{self.name} has no observation {unknown[0]!r}: choose "state", or join with "+" some of {known}')
        if len(set(keys)) < len(keys):
            raise LWDError(f"{self.name}: the observation {obs_kind!r} names a key twice")
        return {key: sizes[key] for key in keys}

    def check_obs_kind(self, obs_kind: str) -> None:
        self.parts(obs_kind)

    def dimensions(self, obs_kind: str) -> tuple[str, ...]:
        parts = self.parts(obs_kind)
        plain = [item for key in parts for item in (self.joined if key == "object" else {key: parts[key]}).items()]
        return tuple(f"{key} {axis}" for key, size in plain for axis in AXES.get(size, range(size)))

    def summarise(self, infos: dict[str, list[float]]) -> dict[str, float]:
        """Success at any step, which ends the episode."""
        return {"success": float(max(infos["success"]))}

    def state(self, env: gymnasium.Env) -> NDArray[np.float64]:
        """MuJoCo's flattened state (time, positions, velocities), and the command of each finger."""
        return env.unwrapped.get_state()  # type: ignore[attr-defined]


class Can(Lift):
    """A can is put from one bin into its quarter of the other, and the hand moves away from it."""

    name: ClassVar[str] = "can"
    inner: ClassVar[str] = "PickPlaceCan"
    joined: ClassVar[dict[str, int]] = {"Can_to_robot0_eef_pos": 3, "Can_to_robot0_eef_quat": 4, "Can_pos": 3, "Can_quat": 4}
    aliases: ClassVar[tuple[str, ...]] = ("robosuite:PickPlaceCan",)


FAMILIES = (Lift(), Can())
