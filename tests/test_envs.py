"""Simulators: PushT's numbers against gym-pusht's, its symmetry, its observations, and perturbations."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from lwd.envs.base import EnvFamily, families, family, recognise
from lwd.envs.perturb import Perturb
from lwd.envs.pusht import geometry
from lwd.envs.pusht.family import FAMILY
from lwd.episodes import Episodes
from lwd.errors import LWDError

CENTRE = np.array([120.0, 130.0, 250.0, 240.0, 0.7])


def pusher(env: gymnasium.Env, rng: np.random.Generator) -> np.ndarray:
    """An action that keeps touching the block: near its middle."""
    return np.clip(geometry.block_points(geometry.get_state(env)[2:]).mean(axis=0) + rng.normal(0, 60, 2), 60, 450)


def episodes(obs: np.ndarray, kind: str = "state") -> Episodes:
    half = len(obs) // 2
    return Episodes(obs, obs[:, -2:] if kind == "keypoints" else obs[:, :2], np.array([half, len(obs)]), meta=FAMILY.meta(kind))


def random_states(count: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.concatenate([rng.uniform(50, 450, (count, 4)), rng.uniform(0, 2 * np.pi, (count, 1))], axis=1)


def test_pusht_equals_gym_pusht() -> None:
    gym_pusht = pytest.importorskip("gym_pusht.envs.pusht")
    ours, theirs, rng = FAMILY.make("state"), gym_pusht.PushTEnv(obs_type="state"), np.random.default_rng(0)
    covered = 0
    for seed in range(4):
        np.testing.assert_array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
        if seed % 2:  # near the goal, where coverage is at stake
            for env in (ours, theirs):
                geometry.set_state(env, CENTRE)
        for _ in range(100):
            action = pusher(ours, rng)
            obs, reward, terminated, _, info = ours.step(action)
            expected, expected_reward, expected_end, _, expected_info = theirs.step(action)
            np.testing.assert_array_equal(obs, expected)
            assert info["coverage"] == pytest.approx(expected_info["coverage"], abs=1e-9)
            assert reward == pytest.approx(expected_reward, abs=1e-9) and terminated == expected_end
            covered += info["coverage"] > 0.1
        points = theirs.get_keypoints(theirs._block_shapes).flatten()
        np.testing.assert_allclose(geometry.state_to_keypoints(obs[None])[0], [*points, *theirs.agent.position], atol=1e-4)
    assert covered > 20  # else the comparison of coverage would be empty


def test_a_set_state_is_exact_and_forgets_the_past() -> None:
    futures = []
    for disturb in (False, True):
        env, rng = FAMILY.make("keypoints"), np.random.default_rng(1)
        env.reset(seed=5)
        for _ in range(40 if disturb else 0):
            env.step(pusher(env, rng))
        obs, _ = env.reset(options={"state": CENTRE})
        np.testing.assert_allclose(geometry.get_state(env), CENTRE, atol=1e-12)
        np.testing.assert_allclose(obs, geometry.state_to_keypoints(CENTRE[None])[0], atol=1e-9)
        rng = np.random.default_rng(2)
        futures.append([env.step(pusher(env, rng))[0] for _ in range(30)])
    np.testing.assert_array_equal(futures[0], futures[1])


def test_mirrored_actions_give_the_mirrored_episode() -> None:
    env, reflected, rng = FAMILY.make("state"), FAMILY.make("state"), np.random.default_rng(0)
    start = np.array([180.0, 330.0, 256.0, 230.0, 0.9])
    env.reset(options={"state": start})
    reflected.reset(options={"state": geometry.mirror_state(start)})
    covered = moved = 0.0
    for _ in range(30):
        target = np.array([256.0, 256.0]) + rng.normal(0, 25, 2)  # away from the walls, in contact
        obs, *_, info = env.step(target)
        other, *_, other_info = reflected.step(geometry.mirror_points(target))
        corners = geometry.block_points(obs[2:])
        assert corners.min() > 15 and corners.max() < 495
        expected, reached = geometry.state_to_keypoints(np.stack([geometry.mirror_state(obs), other]))
        np.testing.assert_allclose(reached, expected, atol=1e-6)
        assert other_info["coverage"] == pytest.approx(info["coverage"], abs=1e-8)
        covered = max(covered, info["coverage"])
        moved = max(moved, float(np.linalg.norm(obs[2:4] - start[2:4])))
    assert covered > 0.2 and moved > 10


def test_mirror_of_episodes_agrees_between_observations() -> None:
    states = episodes(random_states(40))
    mirrored = FAMILY.mirror(states)
    points = FAMILY.mirror(FAMILY.convert(states, "keypoints"))
    np.testing.assert_allclose(points.obs, FAMILY.convert(mirrored, "keypoints").obs, atol=2e-3)  # float32 angles
    np.testing.assert_array_equal(mirrored.ends, states.ends)
    assert mirrored.tags["mirrored"].all() and not FAMILY.mirror(mirrored).tags["mirrored"].any()
    np.testing.assert_allclose(FAMILY.mirror(mirrored).obs, states.obs, atol=1e-4)


def test_convert_and_its_refusals() -> None:
    states = episodes(random_states(8))
    points = FAMILY.convert(states, "keypoints")
    assert points.obs.shape == (8, 18) and points.meta.obs_kind == "keypoints" and points.meta.angles == ()
    assert FAMILY.convert(points, "keypoints") is points
    with pytest.raises(LWDError, match="cannot be computed"):
        FAMILY.convert(points, "state")
    with pytest.raises(LWDError, match="choose one of state, keypoints"):
        FAMILY.convert(states, "pixels")


def test_undeclared_data_are_recognised_by_the_family_that_they_are_of() -> None:
    states, action = random_states(8), np.full((8, 2), 300.0)
    meta = recognise(states, action, "somewhere")
    assert meta is not None and meta == FAMILY.meta("state", "somewhere") and meta.angles == (4,)
    points = recognise(geometry.state_to_keypoints(states), action)
    assert points is not None and (points.env, points.obs_kind) == ("pusht", "keypoints")
    for obs, acted in ((states / 512, action), (states - 600, action), (states, np.zeros((8, 3))), (np.zeros((8, 39)), np.zeros((8, 28)))):
        assert recognise(obs, acted) is None


def test_every_dimension_of_the_families_has_a_name() -> None:
    for name in families():
        kind = family(name)
        assert len(kind.action_dimensions) == len(kind.action_low) == len(kind.action_high)
        task = kind.tasks[0] if kind.tasks else None
        for obs_kind in kind.obs_kinds:
            names = kind.dimensions(obs_kind)
            assert len(set(names)) == len(names)
            try:
                env = kind.make(obs_kind, task)
            except LWDError as error:
                assert "pip install" in str(error)  # the simulator is not here
                continue
            assert env.observation_space.shape == (len(names),)
            env.close()


def test_what_a_plain_family_need_not_say() -> None:
    class Plain(EnvFamily):
        name, action_low, action_high = "plain", (-1.0,), (1.0,)

        def make(self, obs_kind: str, task: str | None = None) -> gymnasium.Env:
            raise NotImplementedError

    kind, data = Plain(), Episodes(np.zeros((4, 1)), np.zeros((4, 1)), np.array([4]))
    assert kind.summarise({"reward": [1.0, 2.5]}) == {"return": 3.5} and kind.curve({}) == [] and kind.dimensions("state") == ()
    assert kind.convert(data, "state") is data and kind.mirror(data) is None and kind.states(data) is None and kind.seeds(data) is None
    assert kind.recognise(data.obs, data.action) is None and kind.expert == ""
    with pytest.raises(LWDError, match="plain has no task 'lift'; it has none: it is one task"):
        kind.task_names(["lift"])


def test_unknown_and_missing_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pusht" in families()
    with pytest.raises(LWDError, match=r"unknown environment 'pushed': known ones are .*pusht"):
        family("pushed")
    monkeypatch.setitem(sys.modules, "gym_pusht.envs.pusht", None)
    monkeypatch.delitem(sys.modules, "lwd.envs.pusht.simulator", raising=False)
    with pytest.raises(LWDError, match=r'pip install "latent-weight-diffusion\[pusht\]"'):
        family("pusht").make("state")


class Recorder(gymnasium.Env):
    """Remembers its displacements; nothing else."""

    def __init__(self) -> None:
        self.moves: list[np.ndarray] = []
        self.observation_space = self.action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.moves = []
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(1), 0.0, False, False, {}

    def displace(self, vector: np.ndarray) -> np.ndarray:
        self.moves.append(vector)
        return vector


def displacements(magnitude: float, seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    base = Recorder()
    env = Perturb(base, magnitude)
    env.reset(seed=seed)
    hits = np.array([env.step(0)[-1]["displaced"] for _ in range(steps)])
    return hits, np.array(base.moves)


def test_perturbations_have_the_promised_distribution() -> None:
    hits, moves = displacements(50.0, 0, 20_000)
    assert set(hits) == {0.0, 1.0} and hits.sum() == len(moves)
    assert abs(hits.mean() - 0.1) < 4 * np.sqrt(0.09 / len(hits))
    assert np.abs(moves).max() <= 50
    for axis in moves.T:  # quarters of a uniform distribution
        counts = np.histogram(axis, 4, (-50, 50))[0]
        assert np.abs(counts - len(moves) / 4).max() < 4 * np.sqrt(len(moves) * 3 / 16)
    assert abs(np.corrcoef(moves.T)[0, 1]) < 4 / np.sqrt(len(moves))


def test_perturbations_follow_the_seed_and_scale_with_the_magnitude() -> None:
    (hits, moves), (again, half), (other, _) = displacements(50.0, 7, 500), displacements(25.0, 7, 500), displacements(50.0, 8, 500)
    np.testing.assert_array_equal(hits, again)
    np.testing.assert_allclose(moves, 2 * half)
    assert (hits != other).any()


def test_a_perturbed_block_stays_within_the_walls() -> None:
    env = Perturb(FAMILY.make("state"), 400.0, probability=1.0)
    obs, _ = env.reset(seed=0, options={"state": [30.0, 30.0, 256.0, 200.0, 2.0]})
    seen = []
    for _ in range(60):
        obs, *_ = env.step(obs[:2])
        corners = geometry.block_points(obs[2:])
        assert corners.min() > 4 and corners.max() < 507  # physics lets a corner sink a little into a wall that it is pushed against
        seen.append(obs[2:4])
    assert np.ptp(seen, axis=0).min() > 200
    raw = FAMILY.make("state")
    raw.reset(options={"state": CENTRE})
    np.testing.assert_allclose(raw.unwrapped.displace((3.0, -4.0)), (3, -4))  # type: ignore[attr-defined]
    raw.unwrapped.displace((1000.0, -1000.0))  # type: ignore[attr-defined]
    corners = geometry.block_points(geometry.get_state(raw)[2:])
    assert corners[:, 0].max() == pytest.approx(geometry.WALLS[1]) and corners[:, 1].min() == pytest.approx(geometry.WALLS[0])


def test_what_cannot_be_perturbed_is_refused() -> None:
    class Plain(gymnasium.Env):
        pass

    with pytest.raises(LWDError, match="displace"):
        Perturb(Plain(), 1.0)
    with pytest.raises(LWDError, match="probability"):
        Perturb(Recorder(), 1.0, probability=2.0)
