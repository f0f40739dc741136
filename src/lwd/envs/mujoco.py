"""What the families in MuJoCo share: exact start states, and pictures without a screen."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwd.envs.base import EnvFamily
from lwd.episodes import Episodes
from lwd.errors import LWDError


class Simulated(gymnasium.Wrapper):
    """An environment of a class of gymnasium's, which takes turns with the others in one simulation (`lean`). Its state (S,) is positions,
    velocities, and `rest`; the solver's last solution, from which the next one starts, is not in it. `reset(options={"state": ...})` starts
    an episode exactly there."""

    def __init__(self, kind: Any) -> None:
        import mujoco

        env: Any = lean(kind)(render_mode="rgb_array", width=256, height=256)
        super().__init__(env)
        self.world: Any = env.unwrapped
        self.rest = np.zeros(0)  # numbers of the model, not a copy, that an episode is drawn with and keeps
        self.simulation: tuple[Any, Any] = self.world.model, self.world.data
        self.mujoco: Any = mujoco
        self.what = int(mujoco.mjtState.mjSTATE_PHYSICS | mujoco.mjtState.mjSTATE_WARMSTART)
        self.state = np.zeros(mujoco.mj_stateSize(self.world.model, self.what))  # after the last turn
        self.held: list[NDArray[Any]] = []  # what else of the simulation is this environment's own, not copies
        self.kept: list[NDArray[Any]] = []  # copies of that after the last turn

    def told(self, obs: NDArray[np.float64], info: dict[str, Any]) -> dict[str, float]:
        """The information of a step."""
        raise NotImplementedError

    def step(self, action: ArrayLike) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        self._enter()
        obs, reward, terminated, truncated, info = self.env.step(np.asarray(action, np.float64))
        told = self.told(obs, info)
        self._leave()
        return obs, float(reward), bool(terminated), bool(truncated), told

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.float64], dict[str, Any]]:
        obs, _ = self.env.reset(seed=seed)
        if options is not None and options.get("state") is not None:
            model, state = self.world.model, np.asarray(options["state"], np.float64)
            qpos, qvel, self.rest[:] = np.split(state, [model.nq, model.nq + model.nv])
            self.world.set_state(qpos, qvel)
            obs = self.world._get_obs()
        self._leave()
        return obs, {}

    def get_state(self) -> NDArray[np.float64]:
        self._enter()
        return np.concatenate([self.world.data.qpos, self.world.data.qvel, self.rest])

    def render(self) -> NDArray[np.uint8]:
        """Picture (256, 256, 3)."""
        self._enter()
        self.mujoco.mj_forward(*self.simulation)
        return picture(self.env.render)

    def _enter(self) -> None:
        """Begins a turn: restores what the last one left."""
        self.mujoco.mj_setState(*self.simulation, self.state, self.what)
        for array, kept in zip(self.held, self.kept, strict=True):
            array[:] = kept

    def _leave(self) -> None:
        self.mujoco.mj_getState(*self.simulation, self.state, self.what)
        self.kept = [array.copy() for array in self.held]


@lru_cache
def lean(kind: Any) -> Any:
    """A class of gymnasium's in MuJoCo, with the same numbers for less: its environments take turns in one simulation, which stays in the
    processor's cache and is built once, and forces between bodies are computed only where they are observed."""
    import mujoco

    class Lean(kind):
        simulation: ClassVar[list[Any]] = []  # model and data

        def _initialize_simulation(self) -> tuple[Any, Any]:
            if not self.simulation:
                self.simulation.extend(super()._initialize_simulation())
            mujoco.mj_resetData(*self.simulation)
            return self.simulation[0], self.simulation[1]

        def do_simulation(self, ctrl: ArrayLike, n_frames: int) -> None:
            self.data.ctrl[:] = ctrl
            mujoco.mj_step(self.model, self.data, n_frames)
            if hasattr(self, "contact_forces"):
                mujoco.mj_rnePostConstraint(self.model, self.data)

        def control_cost(self, action: NDArray[np.float64]) -> float:
            return self._ctrl_cost_weight * np.square(action).sum()

        @cached_property
        def dt(self) -> float:
            return super().dt

    return Lean


class MujocoFamily(EnvFamily):
    """A family of `Simulated` environments. `lwd data collect` takes policies for it (`lwd.envs.behaviours`)."""

    expert: ClassVar[str] = "lwd.envs.behaviours"
    policies: ClassVar[dict[str, str]]  # public ones, by the behaviours that they show

    def state(self, env: gymnasium.Env) -> NDArray[np.float64]:
        return env.get_wrapper_attr("get_state")()

    def seeds(self, episodes: Episodes) -> NDArray[np.int64] | None:
        seeds = episodes.tags.get("seed")
        return None if seeds is None else seeds.astype(np.int64)


def picture(render: Callable[[], Any]) -> NDArray[np.uint8]:
    """What `render` draws with MuJoCo. Where there is no way to draw without a screen, the error names the Debian packages."""
    if "MUJOCO_GL" not in os.environ and not os.environ.get("DISPLAY"):
        os.environ["MUJOCO_GL"] = "egl"  # no screen: the default would look for one
    backend = os.environ.get("MUJOCO_GL")
    try:
        if backend in {"egl", "osmesa"}:
            importlib.import_module(f"mujoco.{backend}")  # where it is missing, gymnasium would leave half a window behind
        return np.asarray(render(), np.uint8)
    except Exception as error:  # what is raised depends on the backend and on what of it is there
        raise cannot_draw(error) from error


def cannot_draw(error: Exception) -> LWDError:
    """The error where OpenGL is missing."""
    return LWDError(
        f"MuJoCo cannot draw here (MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}; {type(error).__name__}: {error}): on Debian, apt install "
        "libegl1 libegl-mesa0 libgl1-mesa-dri and set MUJOCO_GL=egl, or apt install libosmesa6 and set MUJOCO_GL=osmesa; "
        "without MUJOCO_GL everything but pictures works"
    )


def import_robotics() -> Any:
    """The package gymnasium_robotics, without what it prints at its import."""
    with contextlib.redirect_stderr(io.StringIO()):
        return importlib.import_module("gymnasium_robotics")
