"""Environments of robosuite as gymnasium environments whose episodes depend on their seed only."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwd.envs.mujoco import picture

Array = NDArray[np.float64]
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)  # it warns at every import and reset
_compiled = lru_cache(maxsize=4)(mujoco.MjModel.from_xml_string)


class RobosuiteEnv(gymnasium.Env):
    """A Panda arm under operational space control of the hand's pose, at 20 Hz. An episode ends with success.

    robosuite draws starts from numpy's global generator, which is seeded for the time of a reset, and then put back."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - gymnasium declares it for instances

    def __init__(self, name: str, parts: dict[str, int]) -> None:
        robosuite = _package()
        control = robosuite.load_composite_controller_config(controller="BASIC", robot="Panda")
        plain: dict[str, Any] = {"has_renderer": False, "has_offscreen_renderer": False, "use_camera_obs": False, "ignore_done": True}
        with _seeded(0), _compiled_once():  # the size of Lift's cube is drawn here: it is the one of seed 0
            self.inner: Any = robosuite.make(name, robots="Panda", controller_configs=control, control_freq=20, hard_reset=False, **plain)
        self.parts, self.viewer = parts, None  # type: dict[str, int], Any
        needed = {"robot0_eef_pos", "robot0_eef_quat", *parts}  # the object's pose relative to the hand is computed from these
        for key, own in self.inner._observables.items():
            if own.modality != "object" and key not in needed:
                own.set_enabled(False)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (7,), np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (sum(parts.values()),), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """A new episode; `options={"state": ...}` starts it from a state, as `get_state` gives it or as files of robomimic hold it."""
        super().reset(seed=seed)
        with _seeded(int(self.np_random.integers(2**32)) if seed is None else seed % 2**32):
            self.inner.reset()
        state = (options or {}).get("state")
        if state is not None:
            physics, grip = np.split(np.asarray(state, np.float64), [self.inner.sim.get_state().flatten().size])
            self.inner.sim.set_state_from_flattened(physics)
            self.inner.sim.forward()
            self.inner.robots[0].part_controllers["right"].new_update = True  # else the first goal would be relative to the other start
            if len(grip):
                self._gripper.current_action = grip
            self._observe()  # robosuite takes the pose of the object relative to the hand from the pose that it saw last
        return self._observe(), {}  # (what robosuite has returned lacks the object's pose relative to the hand)

    def step(self, action: ArrayLike) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One step of 50 ms."""
        self._simulate(np.asarray(action, np.float32).clip(-1.0, 1.0).astype(np.float64))
        success = bool(self.inner._check_success())
        return self._observe(), float(success), success, False, {"success": float(success)}

    def render(self) -> NDArray[np.uint8]:
        """Picture (256, 256, 3)."""
        return picture(self._draw)

    def close(self) -> None:
        """Lets go of what draws."""
        if self.viewer is not None:
            self.viewer.free()
            self.viewer = None

    def get_state(self) -> Array:
        """MuJoCo's time, positions and velocities, and the command of each finger, which the gripper's actions move by a fifth a step."""
        return np.concatenate([self.inner.sim.get_state().flatten(), self._gripper.current_action])

    def _draw(self) -> NDArray[np.uint8]:
        if self.viewer is None:
            from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer

            model = self.inner.sim.model._model
            model.vis.quality.shadowsize = 0  # without a graphics card, shadows take most of the time of a picture
            self.viewer = OffScreenViewer(model, self.inner.sim.data._data, 256, 256)
            self.viewer.vopt.geomgroup[0] = 0  # shapes for collisions
        self.viewer.make_context_current()
        return np.ascontiguousarray(self.viewer.render("rgb_array", self.inner.sim.model.camera_name2id("agentview")))

    @property
    def _gripper(self) -> Any:
        return self.inner.robots[0].gripper["right"]

    def _observe(self) -> Array:
        seen = self.inner._get_observations(force_update=True)
        return np.concatenate([np.atleast_1d(seen["object-state" if key == "object" else key]) for key in self.parts])

    def _simulate(self, action: Array) -> None:
        """The 25 steps of physics of one control step, bit for bit as robosuite makes them, in two thirds of the time: all but the first
        compute each Jacobian once, take the arm's base to stand still, and measure nothing."""
        from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

        robot, model, data = self.inner.robots[0], self.inner.sim.model._model, self.inner.sim.data._data
        arm, own = robot.part_controllers["right"], robot._ref_actuators_indexes_dict["right"]
        index, site, (low, high) = arm.qvel_index, model.site(arm.ref_name).id, model.actuator_ctrlrange[own].T
        linear, angular, mass = np.zeros((3, model.nv)), np.zeros((3, model.nv)), np.zeros((model.nv, model.nv))
        mujoco.mj_step1(model, data)
        robot.control(action, policy_step=True)
        place, turn = arm.origin_pos + np.dot(arm.origin_ori, arm.goal_pos), np.dot(arm.origin_ori, arm.goal_ori)
        mujoco.mj_step2(model, data)
        for _ in range(24):
            mujoco.mj_step1(model, data)
            mujoco.mj_jacSite(model, data, linear, angular, site)
            mujoco.mj_fullM(model, mass, data.qM)
            joints, speeds, inertia = data.qpos[arm.qpos_index], data.qvel[index], mass[index, :][:, index]
            both = np.ascontiguousarray(np.vstack([linear[:, index], angular[:, index]]))
            force = (place - data.site_xpos[site]) * arm.kp[:3] - np.dot(linear, data.qvel) * arm.kd[:3]
            error = orientation_error(turn, data.site_xmat[site].reshape(3, 3))
            torque = error * arm.kp[3:] - np.dot(angular, data.qvel) * arm.kd[3:]
            _, at_place, at_turn, rest = opspace_matrices(inertia, both, both[:3], both[3:])
            wrench = np.concatenate([np.dot(at_place, force), np.dot(at_turn, torque)])
            torques = np.dot(both.T, wrench) + data.qfrc_bias[index]
            torques += nullspace_torques(inertia, rest, arm.initial_joint, joints, speeds)
            data.ctrl[own] = np.clip(torques, low, high)
            mujoco.mj_step2(model, data)


def _package() -> Any:
    """The package robosuite. What it says at its import about how to draw would not suit workers on machines without a screen."""
    chosen = os.environ.get("MUJOCO_GL")
    package = importlib.import_module("robosuite")
    if chosen is None:
        os.environ.pop("MUJOCO_GL", None)
    return package


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds numpy's global generator, and restores it at the end."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


@contextmanager
def _compiled_once() -> Iterator[None]:
    """Environments of a process share their compiled models, which nobody changes: each has 0.1 GB, and takes 0.6 s to compile."""
    before = mujoco.MjModel.from_xml_string
    mujoco.MjModel.from_xml_string = _compiled
    try:
        yield
    finally:
        mujoco.MjModel.from_xml_string = before
