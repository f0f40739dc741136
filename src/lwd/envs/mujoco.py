"""What the families in MuJoCo share: exact start states, and pictures without a screen."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwd.envs.base import EnvFamily, missing
from lwd.errors import LWDError


class Simulated(gymnasium.Wrapper):
    """An environment of a class of gymnasium's, which shares its model with others (`lean`). Its state (S,) is positions, velocities and
    `place`; the solver's last solution, from which the next one starts, is not in it. `reset(options={"state": ...})` starts an episode
    exactly there. `body` is one whose place in the model (3,) is another one in each episode."""

    body: int | None = None

    def __init__(self, kind: Any) -> None:
        env: Any = lean(kind)(render_mode="rgb_array", width=256, height=256)
        super().__init__(env)
        self.world: Any = env.unwrapped
        self.place = np.zeros(0)

    def told(self, obs: NDArray[np.float64], info: dict[str, Any]) -> dict[str, float]:
        """The information of a step."""
        return {}

    def step(self, action: ArrayLike) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        self._enter()
        obs, reward, terminated, truncated, info = self.env.step(np.asarray(action, np.float64))
        return obs, float(reward), bool(terminated), bool(truncated), self.told(obs, info)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.float64], dict[str, Any]]:
        obs, _ = self.env.reset(seed=seed)
        model, state = self.world.model, (options or {}).get("state")
        self.place = model.body_pos[[self.body]].flatten() if self.body is not None else self.place
        if state is not None:
            qpos, qvel, self.place = np.split(np.asarray(state, np.float64), [model.nq, model.nq + model.nv])
            self._enter()
            self.world.set_state(qpos, qvel)
            obs = self.world._get_obs()
        return obs, {}

    def get_state(self) -> NDArray[np.float64]:
        return np.concatenate([self.world.data.qpos, self.world.data.qvel, self.place])

    def render(self) -> NDArray[np.uint8]:
        """Picture (256, 256, 3)."""
        self._enter()
        return picture(self.env.render)

    def _enter(self) -> None:
        """Puts the body where it is in this episode: other episodes have moved it in the shared model."""
        if self.body is not None:
            self.world.model.body_pos[self.body] = self.place


@lru_cache
def lean(kind: Any) -> Any:
    """A class of gymnasium's in MuJoCo, with the same numbers for less: its environments share one model, and forces between bodies are
    computed only where they are observed."""
    import mujoco

    class Lean(kind):
        models: ClassVar[list[Any]] = []

        def _initialize_simulation(self) -> tuple[Any, Any]:
            if not self.models:
                self.models.append(super()._initialize_simulation()[0])
            return self.models[0], mujoco.MjData(self.models[0])

        def do_simulation(self, ctrl: ArrayLike, n_frames: int) -> None:
            self.data.ctrl[:] = ctrl
            mujoco.mj_step(self.model, self.data, n_frames)
            if hasattr(self, "contact_forces"):
                mujoco.mj_rnePostConstraint(self.model, self.data)

    return Lean


class MujocoFamily(EnvFamily):
    """A family of `Simulated` environments. `lwd data collect` takes policies for it (`lwd.envs.behaviours`)."""

    expert: ClassVar[str] = "lwd.envs.behaviours"
    policies: ClassVar[dict[str, str]]  # public ones, by the behaviours that they show

    def state(self, env: gymnasium.Env) -> NDArray[np.float64]:
        return env.get_wrapper_attr("get_state")()


@contextlib.contextmanager
def simulator(extra: str) -> Iterator[None]:
    """Turns what is raised where a simulator in MuJoCo is not installed, or cannot draw, into the error that says what to do."""
    try:
        yield
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise missing(extra, ImportError(str(error))) from error
    except AttributeError as error:
        if "MUJOCO_GL" not in os.environ:
            raise
        raise cannot_draw(error) from error  # mujoco loads the backend that this names as soon as it is imported


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
