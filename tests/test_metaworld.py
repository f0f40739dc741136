"""Metaworld: tasks and their names, seeds, hidden goals, noise on actions, vector environments of several tasks, pictures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip("metaworld")

from lwd.envs.base import families, family
from lwd.envs.disturb import ActionNoise
from lwd.envs.metaworld.family import FAMILY
from lwd.envs.metaworld.tasks import MT10, MT50, TEN
from lwd.envs.vector import ProcessVectorEnv
from lwd.episodes import Episodes
from lwd.errors import LWDError


@pytest.fixture(scope="module")
def reach() -> Iterator[gymnasium.Env]:
    env = FAMILY.make("state", "reach")
    yield env
    env.close()


def run(env: gymnasium.Env, seed: int, steps: int = 20, action: tuple[float, ...] = (0.5, -0.5, 0.2, 1.0)) -> np.ndarray:
    return np.array([env.reset(seed=seed)[0], *(env.step(np.array(action))[0] for _ in range(steps))])


def test_names_and_sets() -> None:
    assert "metaworld" in families() and family("metaworld") is FAMILY
    assert (len(TEN), len(MT10), len(set(MT50))) == (10, 10, 50)
    assert FAMILY.task_names(["mt50"]) == list(MT50) and set(TEN) | set(MT10) <= set(MT50)
    assert FAMILY.task_names(["door-open-v3", "ten", "reach"]) == ["door-open", *(name for name in TEN if name != "door-open")]
    with pytest.raises(LWDError, match="metaworld has no task 'open-door'; it has ten, mt10, mt50, assembly, "):
        FAMILY.task_names(["reach", "open-door"])
    with pytest.raises(LWDError, match="metaworld has 50 tasks: say which"):
        FAMILY.make("state")
    with pytest.raises(LWDError, match="choose one of state, goal_hidden"):
        FAMILY.make("pixels", "reach")


def test_the_package_has_the_same_tasks() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS, MT10_V3
    from metaworld.policies import ENV_POLICY_MAP

    assert {f"{name}-v3" for name in MT50} == set(ALL_V3_ENVIRONMENTS) == set(ENV_POLICY_MAP)
    assert {f"{name}-v3" for name in MT10} == set(MT10_V3)


def test_missing_simulator_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", None)
    with pytest.raises(LWDError, match=r'pip install "latent-weight-diffusion\[metaworld\]"'):
        FAMILY.make("state", "reach")


def test_seeds_fix_the_episode(reach: gymnasium.Env) -> None:
    first, second, again = run(reach, 5), run(reach, 6), run(reach, 5)
    np.testing.assert_array_equal(first, again)  # whatever the environment did in between
    np.testing.assert_array_equal(first, run(FAMILY.make("state", "reach"), 5))
    assert first.shape == (21, 39) and reach.observation_space.shape == (39,)
    assert np.abs(first[0, 36:] - second[0, 36:]).max() > 0.01  # another goal
    np.testing.assert_array_equal(first[1:, 18:36], first[:-1, :18])  # the frame before
    assert (first[:, 36:] == first[0, 36:]).all() and np.abs(first[0, 36:]).max() > 0


def test_an_episode_lasts_500_steps_and_success_is_not_its_end() -> None:
    env = FAMILY.make("state", "button-press")
    env.reset(seed=0)
    ends = [env.step(np.zeros(4))[2:4] for _ in range(500)]
    assert not any(terminated for terminated, _ in ends) and [truncated for _, truncated in ends] == [False] * 499 + [True]
    assert FAMILY.max_steps == 500
    assert FAMILY.summarise({"success": [0.0, 1.0, 0.0], "reward": [0.0] * 3}) == {"success": 1.0, "final_success": 0.0}
    assert FAMILY.summarise({"success": [0.0, 0.0, 1.0], "reward": [0.0] * 3}) == {"success": 1.0, "final_success": 1.0}


def test_actions_are_clipped_float32(reach: gymnasium.Env) -> None:
    np.testing.assert_array_equal(run(reach, 0, 5, (3.0, -1.0, 0.1, 9.0)), run(reach, 0, 5, (1.0, -1.0, float(np.float32(0.1)), 1.0)))


@pytest.mark.parametrize("task", ["door-open", "push"])
def test_unchecked_rotations_change_no_observation(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = FAMILY.make("state", task)
    module = sys.modules[type(env.unwrapped.inner).__module__]  # type: ignore[attr-defined]
    assert module.Rotation is not Rotation and issubclass(module.Rotation, Rotation), "the switch took effect"
    rolled = run(env, 3, 60)
    monkeypatch.setattr(module, "Rotation", Rotation)
    np.testing.assert_array_equal(run(env, 3, 60), rolled)
    again = FAMILY.make("state", task)
    assert module.Rotation is not Rotation, "whoever makes another environment gets it too"
    again.close()


def test_hidden_goal(reach: gymnasium.Env) -> None:
    hidden = FAMILY.make("goal_hidden", "reach")
    assert hidden.observation_space.shape == (36,)
    seen = run(reach, 3, 1)
    np.testing.assert_array_equal(run(hidden, 3, 1), seen[:, :36])
    data = Episodes(seen, np.zeros((2, 4)), np.array([2]), np.array(["reach"]), {"seed": np.array([3])}, FAMILY.meta("state"))
    converted = FAMILY.convert(data, "goal_hidden")
    np.testing.assert_array_equal(converted.obs, seen[:, :36].astype(np.float32))
    assert converted.meta.obs_kind == "goal_hidden" and converted.tags == data.tags and converted.task is data.task
    assert FAMILY.convert(data, "state") is data and FAMILY.convert(converted, "goal_hidden") is converted
    with pytest.raises(LWDError, match="cannot be computed"):
        FAMILY.convert(converted, "state")
    assert FAMILY.seeds(data).tolist() == [3] and FAMILY.seeds(Episodes(seen, np.zeros((2, 4)), np.array([2]))) is None  # type: ignore[union-attr]


class Recorder(gymnasium.Env):
    """Remembers its actions; nothing else."""

    def __init__(self) -> None:
        self.actions: list[np.ndarray] = []
        self.observation_space = self.action_space = gymnasium.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        return np.zeros(2), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.actions.append(action)
        return np.zeros(2), 0.0, False, False, {}


def noise(magnitude: float, seed: int, steps: int = 500) -> np.ndarray:
    base = Recorder()
    env = ActionNoise(base, magnitude)
    env.reset(seed=seed)
    for _ in range(steps):
        env.step([0.5, -0.5])
    return np.array(base.actions) - [0.5, -0.5]


def test_noise_on_actions() -> None:
    small, large = noise(0.1, 1), noise(0.2, 1)
    np.testing.assert_allclose(2 * small, large, atol=1e-12)
    assert small.std() == pytest.approx(0.1, rel=0.1) and abs(small.mean()) < 0.015
    assert abs(np.corrcoef(small.T)[0, 1]) < 0.15 and np.abs(small - noise(0.1, 2)).max() > 0.1
    assert not noise(0.0, 1).any()


def test_the_family_has_the_two_noises_only(reach: gymnasium.Env) -> None:
    def disturbed(disturbance: str) -> np.ndarray:
        return run(FAMILY.disturb(reach, disturbance, "state"), 5)

    still, moved, blurred = run(reach, 5), disturbed("action-noise:0.5"), disturbed("sensor-noise:0.01")
    np.testing.assert_array_equal(still[0], moved[0])
    np.testing.assert_array_equal(moved, disturbed("action-noise:0.5"))
    assert np.abs(still - moved)[5:, :3].max() > 0.01
    assert (blurred - still).std() == pytest.approx(0.01, rel=0.1), "the arm moves as before, and all 39 dimensions are blurred alike"
    for name in ("displace", "drift", "dynamic"):
        with pytest.raises(
            LWDError, match=rf"metaworld has no disturbance '{name}', it has: action-noise \(.*\); sensor-noise \(.*units\)$"
        ):
            FAMILY.disturb(reach, f"{name}:1", "state")


@pytest.mark.parametrize("disturb", ["none", "action-noise:0.2"])
def test_vector_environment_of_several_tasks(disturb: str) -> None:
    tasks, results = ["reach", "drawer-close", "reach"], []
    for workers in (0, 2):
        with ProcessVectorEnv("metaworld", "goal_hidden", 3, workers, disturb=disturb, tasks=tasks) as envs:
            rows = [envs.reset([4, 4, 9])[0]]
            for _ in range(10):
                obs, reward, _, _, infos = envs.step(np.tile([0.3, 0.6, -0.2, -1.0], (3, 1)))
                rows += [obs, reward[:, None], infos["success"][:, None]]
        results.append(np.concatenate(rows, axis=1))
    np.testing.assert_array_equal(*results)
    assert rows[0].shape == (3, 36)
    for i, (task, seed) in enumerate(zip(tasks, (4, 4, 9), strict=True)):
        np.testing.assert_array_equal(results[0][i, :36], FAMILY.make("goal_hidden", task).reset(seed=seed)[0])


_BARE = """
import ctypes
load = ctypes.CDLL.__init__
def refuse(self, name, *args, **kwargs):
    if any(word in str(name) for word in ("EGL", "OSMesa", "OpenGL", "libGL")):
        raise OSError(f"{name}: cannot open shared object file")
    load(self, name, *args, **kwargs)
ctypes.CDLL.__init__ = refuse
from lwd.envs.metaworld.family import FAMILY
env = FAMILY.make("state", "reach")
env.reset(seed=0)
print("stepped", env.step([0, 0, 0, 0])[0].shape)
env.render()
"""


@pytest.mark.parametrize("backend", [None, "egl", "osmesa"])
def test_without_opengl_everything_but_pictures_works(backend: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    if backend is not None:
        monkeypatch.setenv("MUJOCO_GL", backend)
    done = subprocess.run([sys.executable, "-c", _BARE], capture_output=True, text=True)
    assert ("stepped (39,)" in done.stdout) == (backend is None)  # who names a backend that is missing is told at once
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("lwd.errors.LWDError: MuJoCo cannot draw here") and "libegl1" in last and "libosmesa6" in last


_DRAW = """
import sys, numpy as np
from lwd.envs.metaworld.family import FAMILY
env = FAMILY.make("state", "drawer-close")
env.reset(seed=0)
pictures = [env.render()]
for _ in range(40):
    env.step([0, 1, -1, 0])
pictures.append(env.render())
env.close()
np.save(sys.argv[1], pictures)
"""


def test_pictures(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("pictures") / "pictures.npy"
    done = subprocess.run([sys.executable, "-c", _DRAW, str(path)], capture_output=True, text=True)
    if "MuJoCo cannot draw here" in done.stderr:
        pytest.skip("no OpenGL without a screen here: " + done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    first, second = np.load(path).astype(int)
    assert first.shape == (256, 256, 3)
    assert (np.abs(first - second).max(axis=2) > 30).mean() > 0.02  # the arm has moved
    red = (first[..., 0] > 1.5 * first[..., 1]) & (first[..., 0] > 60)
    assert 0.03 < red.mean() < 0.5  # the arm
    wall, table = first[:40].reshape(-1, 3), first[-60:].reshape(-1, 3)
    assert np.abs(np.median(wall, axis=0) - 127).max() < 25  # grey above...
    assert np.median(table[:, 0] - table[:, 2]) > 20  # ...and wood below: not on its head
