"""Metaworld (version 3): fifty manipulation tasks of one robot arm, in MuJoCo. Every seed draws its own object and goal positions."""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwd.envs.base import EnvFamily, Score
from lwd.envs.metaworld.tasks import MT10, MT50, TEN
from lwd.envs.mujoco import picture, simulator
from lwd.episodes import Episodes
from lwd.errors import LWDError

GOAL = slice(36, 39)  # of the observation; 0:18 is the present frame (hand, gripper, two objects), 18:36 the one before


class MetaworldEnv(gymnasium.Env):
    """One task. `reset(seed=...)` draws the positions; without a seed they are drawn from the generator of the last one."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012 - gymnasium declares it for instances

    def __init__(self, task: str, obs_kind: str = "state") -> None:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        camera: Any = {"camera_name": "corner4", "width": 256, "height": 256}  # the nearest; like all these cameras it is upside down
        self.inner: Any = ALL_V3_ENVIRONMENTS[f"{task}-v3"](render_mode="rgb_array", **camera)
        _trust_matrices(type(self.inner))
        self.inner._partially_observable = False  # else the goal reads as zeros...
        self.inner.__dict__.pop("sawyer_observation_space", None)  # ...and is clipped to the bounds of a space that was cached before
        self.inner._set_task_called = True
        self.inner._freeze_rand_vec = False  # else every reset has the same positions
        self.inner.seeded_rand_vec = True
        self.inner.model.vis.quality.shadowsize = 0  # without a graphics card, three quarters of the time of a picture
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.seen = slice(39 if obs_kind == "state" else GOAL.start)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (self.seen.stop,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """A new episode; `options` are ignored."""
        if seed is not None:
            self.inner.seed(int(seed))
        return self.inner.reset()[0][self.seen], {}

    def step(self, action: ArrayLike) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One step of 12.5 ms; never terminates."""
        obs, reward, _, truncated, info = self.inner.step(np.asarray(action, np.float32).clip(-1.0, 1.0))
        return obs[self.seen], float(reward), False, bool(truncated), {"success": float(info["success"])}

    def render(self) -> NDArray[np.uint8]:
        """Picture (256, 256, 3)."""
        return np.ascontiguousarray(picture(self.inner.render)[::-1, ::-1])

    def close(self) -> None:
        """Lets go of the simulator and its window."""
        self.inner.close()


def _trust_matrices(task: type) -> None:
    """Makes observations cheaper, bit for bit the same: rotation matrices that MuJoCo has just computed need not be checked again, which
    takes an eighth of a step in 22 of the tasks (scipy 1.17). A scipy without this switch is left alone."""
    from scipy.spatial.transform import Rotation

    if "assume_valid" not in inspect.signature(Rotation.from_matrix).parameters:
        return

    class Trusting(Rotation):
        @staticmethod
        def from_matrix(matrix: ArrayLike, **_: Any) -> Rotation:
            return Rotation.from_matrix(matrix, assume_valid=True)

    for base in task.__mro__:
        module: Any = sys.modules[base.__module__]
        if module.__name__.startswith("metaworld.") and getattr(module, "Rotation", None) is Rotation:
            module.Rotation = Trusting


class Metaworld(EnvFamily):
    """The family. Observations are the 39-d `state`, whose last three numbers are the goal, or `goal_hidden` without them."""

    name: ClassVar[str] = "metaworld"
    max_steps: ClassVar[int] = 500
    fps: ClassVar[int] = 80
    obs_kinds: ClassVar[tuple[str, ...]] = ("state", "goal_hidden")
    action_low: ClassVar[tuple[float, ...]] = (-1.0,) * 4
    action_high: ClassVar[tuple[float, ...]] = (1.0,) * 4
    action_dimensions: ClassVar[tuple[str, ...]] = ("move x", "move y", "move z", "grip")
    units: ClassVar[str] = "metres and unit quaternions, gripper opening from 0 to 1; actions from -1 to 1, of which 1 moves by 1 cm"
    info_keys: ClassVar[tuple[str, ...]] = ("success",)
    scores: ClassVar[dict[str, Score]] = {"success": "rate", "final_success": "rate"}
    primary: ClassVar[str] = "success"
    batch: ClassVar[int] = 64
    tasks: ClassVar[tuple[str, ...]] = MT50
    task_sets: ClassVar[dict[str, tuple[str, ...]]] = {"ten": TEN, "mt10": MT10, "mt50": MT50}
    expert: ClassVar[str] = "lwd.envs.metaworld.expert"

    def make(self, obs_kind: str, task: str | None = None) -> gymnasium.Env:
        self.check_obs_kind(obs_kind)
        if task is None:
            raise LWDError(f"metaworld has {len(self.tasks)} tasks: say which, one of {', '.join(self.tasks)}")
        (task,) = self.task_names([task])
        with simulator(self.name):
            return MetaworldEnv(task, obs_kind)

    def task_name(self, name: str) -> str:
        """The name of a task without the version that Metaworld appends: `door-open-v3` is `door-open`."""
        return name.removesuffix("-v3")

    def summarise(self, infos: dict[str, list[float]]) -> dict[str, float]:
        """Success as the simulator reports it: at any step (the figure of the benchmark and of the paper), and at the last one."""
        return {"success": float(max(infos["success"])), "final_success": float(infos["success"][-1])}

    def dimensions(self, obs_kind: str) -> tuple[str, ...]:
        pose = ("x", "y", "z", "q0", "q1", "q2", "q3")  # position and quaternion
        parts = (*(f"hand {axis}" for axis in "xyz"), "gripper", *(f"object {i} {part}" for i in (1, 2) for part in pose))
        frames = tuple(f"{when}{part}" for when in ("", "last ") for part in parts)
        return frames if obs_kind == "goal_hidden" else (*frames, "goal x", "goal y", "goal z")

    def convert(self, episodes: Episodes, obs_kind: str) -> Episodes:
        """Hides the goal. It cannot be brought back."""
        if (episodes.meta.obs_kind, obs_kind) != ("state", "goal_hidden"):
            return super().convert(episodes, obs_kind)
        return replace(episodes, obs=episodes.obs[:, : GOAL.start], meta=replace(episodes.meta, obs_kind=obs_kind))


FAMILY = Metaworld()
