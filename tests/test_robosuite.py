"""Robosuite: the same physics as robosuite's own, starts by seed alone, nudges, operators whose episodes can be replayed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest

pytest.importorskip("robosuite")

from lwd.data.collect import collect
from lwd.data.formats.npz import load_npz
from lwd.envs.base import called, family
from lwd.envs.disturb import Nudge
from lwd.envs.robosuite.expert import RANGE, Expert
from lwd.envs.robosuite.operators import HABITS
from lwd.envs.vector import ProcessVectorEnv
from lwd.errors import LWDError

SIZES = {"lift": 19, "can": 23}


@pytest.fixture(scope="module", params=["lift", "can"])
def env(request: pytest.FixtureRequest) -> Iterator[gymnasium.Env]:
    made = family(request.param).make("state")
    yield made
    made.close()


@pytest.fixture(scope="module")
def lift() -> Iterator[gymnasium.Env]:
    made = family("lift").make("state")
    yield made
    made.close()


def moves(steps: int, seed: int = 0) -> np.ndarray:
    """Commands that wander slowly, (steps, 7), float32."""
    walk = np.cumsum(np.random.default_rng(seed).uniform(-0.3, 0.3, (steps, 7)), axis=0)
    return walk.clip(-1, 1).astype(np.float32)


def run(env: gymnasium.Env, seed: int, steps: int = 8) -> np.ndarray:
    return np.array([env.reset(seed=seed)[0], *(env.step(action)[0] for action in moves(steps, seed))])


def test_physics_and_observations_are_those_of_robosuite(env: gymnasium.Env) -> None:
    """Against another environment of the same class that robosuite itself steps, with all that it observes."""
    own = family("lift" if env.observation_space.shape == (19,) else "can")
    reference = own.make("state").unwrapped.inner  # type: ignore[attr-defined]
    for observable in reference._observables.values():
        observable.set_enabled(True)
    before = np.random.get_state()[1].copy()
    ours = run(env, 3, 60)
    assert (np.random.get_state()[1] == before).all(), "the generator of the user's program is left alone"
    np.random.seed(3)
    theirs = [reference.reset()]
    theirs += [reference.step(action.astype(np.float64))[0] for action in moves(60, 3)]
    np.random.seed()
    keys = ("object-state", "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
    rows = np.array([np.concatenate([seen[key] for key in keys]) for seen in theirs])
    np.testing.assert_array_equal(ours[1:], rows[1:])
    unseen = slice(0, 7) if own.name == "can" else slice(0, 0)  # robosuite's first relative pose is zeros
    assert ours.shape[1] == SIZES[own.name] and not rows[0, unseen].any()
    np.testing.assert_array_equal(np.delete(ours[0], unseen), np.delete(rows[0], unseen))
    np.testing.assert_allclose(env.reset(seed=3)[0][unseen], ours[1][unseen], atol=0.05)


def test_a_seed_fixes_the_episode_in_any_order_and_process(env: gymnasium.Env) -> None:
    name = "lift" if env.observation_space.shape == (19,) else "can"
    first, second, again = run(env, 5), run(env, 6), run(env, 5)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first[0] - second[0]).max() > 0.005
    actions = moves(8, 5)
    for workers, seeds in ((0, [6, 5]), (1, [5, 6]))[: 2 if name == "lift" else 1]:  # a process takes seconds to begin
        with ProcessVectorEnv(name, "state", 2, workers) as envs:
            rows = [envs.reset(seeds)[0], *(envs.step([action, action])[0] for action in actions)]
        np.testing.assert_array_equal(np.array(rows)[:, seeds.index(5)], first)


def test_environments_share_a_model_and_a_cube_size(lift: gymnasium.Env) -> None:
    other = family("lift").make("robot0_eef_pos")
    one, two = (made.unwrapped.inner for made in (lift, other))  # type: ignore[attr-defined]
    assert one.sim.model._model is two.sim.model._model
    np.testing.assert_array_equal(one.cube.size, two.cube.size)


def test_without_a_seed_episodes_differ_but_follow_the_last_seed(lift: gymnasium.Env) -> None:
    starts = []
    for _ in range(2):
        lift.reset(seed=1)
        starts.append([lift.reset()[0] for _ in range(2)])
    np.testing.assert_array_equal(*starts)
    assert np.abs(starts[0][0] - starts[0][1]).max() > 0.005


def test_actions_are_clipped_float32(lift: gymnasium.Env) -> None:
    results = []
    for action in ([3.0, -9.0, 0.1, 0, 0, 0, -5], [1.0, -1.0, float(np.float32(0.1)), 0, 0, 0, -1]):
        lift.reset(seed=0)
        results.append(np.array([lift.step(action)[0] for _ in range(4)]))
    np.testing.assert_array_equal(*results)
    way = results[0][-1, 10:13] - lift.reset(seed=0)[0][10:13]
    np.testing.assert_allclose(way, [0.036, -0.036, 0], atol=0.004)  # a full command is 1.3 cm a step, once the arm is under way


def test_states_are_restored(env: gymnasium.Env) -> None:
    own = family("lift" if env.observation_space.shape == (19,) else "can")
    env.reset(seed=2)
    grasp = moves(30, 2)
    grasp[:, 6] = 1
    for action in grasp:
        seen = env.step(action)[0]
    state = own.state(env)
    assert state is not None and state.size == env.unwrapped.inner.sim.get_state().flatten().size + 2  # type: ignore[attr-defined]
    ahead = [env.step(action)[0] for action in grasp[:3]]
    start = env.reset(seed=2, options={"state": state})[0]
    # the hand moved in the last 2 ms, and what is seen is from before; the solver's last solution is not in a state
    np.testing.assert_allclose(start, seen, atol=2e-3)
    np.testing.assert_allclose([env.step(action)[0] for action in grasp[:3]], ahead, atol=3e-3)
    bare = env.reset(seed=9, options={"state": state[:-2]})[0]  # as robomimic's files hold it
    np.testing.assert_array_equal(bare, start)


def test_success_ends_the_episode(lift: gymnasium.Env) -> None:
    lift.reset(seed=0)
    inner = lift.unwrapped.inner  # type: ignore[attr-defined]
    inner.sim.data.set_joint_qpos("cube_joint0", np.array([0.2, 0, 0.95, 1, 0, 0, 0]))
    assert lift.step(np.zeros(7))[1:] == (1.0, True, False, {"success": 1.0})
    own = family("lift")
    assert own.summarise({"success": [0.0, 1.0], "reward": [0.0, 1.0]}) == {"success": 1.0} and own.max_steps == 400
    assert called("robosuite:PickPlaceCan") is family("can") and own.primary == "success"


@pytest.mark.parametrize("name", ["lift", "can"])
def test_observation_keys(name: str) -> None:
    own = family(name)
    made = own.make("+".join(own.keys))  # type: ignore[attr-defined]
    offered = {key for key, observable in made.unwrapped.inner._observables.items() if observable.is_active()}  # type: ignore[attr-defined]
    assert {"object", *offered} == set(own.keys)  # type: ignore[attr-defined]
    seen = made.reset(seed=0)[0]
    assert seen.shape == (sum(own.keys.values()),) == (len(own.dimensions("+".join(own.keys))),)  # type: ignore[attr-defined]
    few = own.make("robot0_gripper_qpos+object")
    at = dict(zip(own.keys, np.cumsum([0, *own.keys.values()]), strict=False))  # type: ignore[attr-defined]
    parts = [seen[at[key] : at[key] + own.keys[key]] for key in ("robot0_gripper_qpos", "object")]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(few.reset(seed=0)[0], np.concatenate(parts))
    assert own.dimensions("state")[:3] == {"lift": ("cube_pos x", "cube_pos y", "cube_pos z")}.get(name, own.dimensions("object")[:3])
    with pytest.raises(LWDError, match=rf"{name} has no observation 'robot1': choose \"state\", or join with \"\+\" some of object, "):
        own.check_obs_kind("object+robot1")
    with pytest.raises(LWDError, match="names a key twice"):
        own.check_obs_kind("object+object")


class Recorder(gymnasium.Env):
    """Remembers its actions; nothing else."""

    def __init__(self) -> None:
        self.actions: list[np.ndarray] = []
        self.observation_space = self.action_space = gymnasium.spaces.Box(-1, 1, (7,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        return np.zeros(7), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.actions.append(action)
        return np.zeros(7), 0.0, False, False, {}


def nudges(magnitude: float, seed: int, steps: int = 3000) -> np.ndarray:
    """What is added to the command in each step, (steps, 7)."""
    env = Nudge(Recorder(), magnitude)
    env.reset(seed=seed)
    for _ in range(steps):
        env.step(np.full(7, 0.25))
    return np.array(env.env.actions) - 0.25  # type: ignore[attr-defined]


def test_nudges() -> None:
    small, large = nudges(0.5, 1), nudges(2.0, 1)
    np.testing.assert_allclose(4 * small, large, atol=1e-12)  # the same steps, in the same directions
    hit = small[:, :6].any(axis=1)
    assert hit.mean() == pytest.approx(0.1, abs=0.02) and not small[:, 6].any(), "the grip is left alone"
    assert np.abs(small).max() <= 0.5 and small[hit, :6].std() == pytest.approx(0.5 / 3**0.5, rel=0.1)
    assert np.abs(small - nudges(0.5, 2)).max() > 0.1 and not nudges(0.0, 1).any()


def test_the_family_is_nudged(lift: gymnasium.Env) -> None:
    own, still = family("lift"), run(lift, 5, 30)
    nudged = [run(own.disturb(lift, "nudge:1", "state"), 5, 30) for _ in range(2)]
    np.testing.assert_array_equal(*nudged)
    assert np.abs(nudged[0] - still)[:, 10:13].max() > 1e-3
    with pytest.raises(LWDError, match="metaworld has no disturbance 'nudge'"):
        family("metaworld").check_disturbance("nudge:1")


def test_missing_simulator_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lwd.envs.robosuite.simulator", raising=False)
    monkeypatch.setitem(sys.modules, "robosuite", None)
    with pytest.raises(LWDError, match=r'the robosuite simulator is not installed .* pip install "latent-weight-diffusion\[robosuite\]"'):
        family("can").make("state")


def test_collected_episodes_can_be_replayed(tmp_path: Path) -> None:
    for name, operator, number in (("lift", "worse-2", 5), ("can", "better-1", 0)):
        (row,) = collect(name, tmp_path / name, episodes=1, workers=1, progress=False, operators=operator, seed=7)
        data = load_npz(tmp_path / name / f"{operator}.npz")
        assert row["task"] == operator and data.meta == Expert(name).meta(7), "what all files of an environment say"
        assert data.meta.env == name and "synthetic: scripted operators" in data.meta.description
        tags = {"operator": operator, "proficiency": operator[:-2], "seed": number * RANGE + 7, "success": True}
        assert {key: values[0] for key, values in data.tags.items()} == tags
        env = family(name).make("state")
        seen = [env.reset(seed=int(family(name).seeds(data)[0]))[0]]  # type: ignore[index]
        for action in data.action:
            obs, _, success, _, _ = env.step(action)
            seen.append(obs)
        assert success, "it ends with success"
        np.testing.assert_array_equal(np.array(seen[:-1], np.float32), data.obs)
        assert np.abs(data.action).max() <= 1 and set(data.action[:, 6]) == {-1.0, 1.0}


def test_operators_are_chosen_by_name_or_proficiency() -> None:
    assert Expert("can").parts == list(HABITS) and len(HABITS) == 6
    assert Expert("can", operators="okay-2, better").parts == ["better-1", "better-2", "okay-2"]
    with pytest.raises(LWDError, match="there is no operator best: choose among better-1, "):
        Expert("can", operators="best,okay").parts  # noqa: B018
    with pytest.raises(LWDError, match="each operator has 10000, from 0: choose another seed or fewer episodes"):
        Expert("lift").check(9_950, 120)
    assert 6 * RANGE <= 100_000
