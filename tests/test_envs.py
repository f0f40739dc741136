"""Simulators: PushT's numbers against gym-pusht's, its symmetry, its observations, and disturbances."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from lwd.config import parse_disturbance
from lwd.envs.base import EnvFamily, families, family, recognise
from lwd.envs.disturb import DISTURBANCES, Displace, Drift, Dynamic, SensorNoise
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


# --- disturbances -----------------------------------------------------------------------------------------------------------------------


class Recorder(gymnasium.Env):
    """Remembers its displacements and its actions; nothing else."""

    def __init__(self) -> None:
        self.moves: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.observation_space = self.action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.moves, self.actions = [], []
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.actions.append(action)
        return np.zeros(1), 0.0, False, False, {}

    def displace(self, vector: np.ndarray) -> np.ndarray:
        self.moves.append(vector)
        return vector


def displacements(magnitude: float, seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    base = Recorder()
    env = Displace(base, magnitude)
    env.reset(seed=seed)
    hits = np.array([env.step(0)[-1]["displaced"] for _ in range(steps)])
    return hits, np.array(base.moves)


def test_displacements_have_the_promised_distribution() -> None:
    hits, moves = displacements(50.0, 0, 20_000)
    assert set(hits) == {0.0, 1.0} and hits.sum() == len(moves)
    assert abs(hits.mean() - 0.1) < 4 * np.sqrt(0.09 / len(hits))
    assert np.abs(moves).max() <= 50
    for axis in moves.T:  # quarters of a uniform distribution
        counts = np.histogram(axis, 4, (-50, 50))[0]
        assert np.abs(counts - len(moves) / 4).max() < 4 * np.sqrt(len(moves) * 3 / 16)
    assert abs(np.corrcoef(moves.T)[0, 1]) < 4 / np.sqrt(len(moves))


def test_displacements_follow_the_seed_and_scale_with_the_magnitude() -> None:
    (hits, moves), (again, half), (other, _) = displacements(50.0, 7, 500), displacements(25.0, 7, 500), displacements(50.0, 8, 500)
    np.testing.assert_array_equal(hits, again)
    np.testing.assert_allclose(moves, 2 * half)
    assert (hits != other).any()


def test_a_displaced_block_stays_within_the_walls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Displace, "probability", 1.0)
    env = Displace(FAMILY.make("state"), 400.0)
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


def watch(disturbance: str, seed: int = 3, steps: int = 20, kind: str = "state") -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """What is observed, (steps + 1, Do), the simulator's states, (steps + 1, 5), and the infos, when the agent keeps off the block."""
    env = FAMILY.disturb(FAMILY.make(kind), disturbance, kind)
    seen = [env.reset(seed=seed, options={"state": [480.0, 480.0, 230.0, 230.0, 0.7]})[0]]
    states, infos = [FAMILY.state(env)], []
    for _ in range(steps):
        obs, *_, info = env.step(np.array([470.0, 485.0]))
        seen.append(obs)
        states.append(FAMILY.state(env))
        infos.append(info)
    return np.array(seen), np.array(states), infos


def test_the_block_drifts_at_its_speed_and_turns_slowly() -> None:
    _, states, infos = watch("drift:2")
    moves = np.diff(states[:, 2:4], axis=0)
    np.testing.assert_allclose(np.linalg.norm(moves, axis=1), 2, rtol=1e-9)
    assert not np.diff(states[:, 4]).any() and not any("displaced" in info for info in infos)

    base = Recorder()
    env = Drift(base, 1.0)
    first = []
    for seed in range(40):
        env.reset(seed=seed)
        for _ in range(200):
            env.step(0)
        angle = np.unwrap(np.arctan2(*np.array(base.moves).T[::-1]))
        turns = np.diff(angle)
        assert turns.std() == pytest.approx(0.1, rel=0.25) and np.abs(turns).max() < 0.5
        first.append(angle[0] % (2 * np.pi))
    assert np.histogram(first, 4, (0, 2 * np.pi))[0].min() > 2, "it may start in any direction"


def test_a_drifting_block_stays_within_the_walls() -> None:
    env = FAMILY.disturb(FAMILY.make("state"), "drift:40", "state")
    obs, _ = env.reset(seed=1, options={"state": [30.0, 30.0, 256.0, 256.0, 2.0]})
    for _ in range(40):
        obs, *_ = env.step(obs[:2])
        corners = geometry.block_points(obs[2:])
        assert corners.min() > 4 and corners.max() < 507


def test_a_dynamic_block_moves_along_both_axes_at_every_step() -> None:
    _, states, infos = watch("dynamic:1.5")
    np.testing.assert_allclose(np.diff(states[:, 2:4], axis=0), 1.5, rtol=1e-9)
    assert not np.diff(states[:, 4]).any() and not any("displaced" in info for info in infos)


def test_sensor_noise_changes_what_is_seen_and_not_the_world() -> None:
    still, states, _ = watch("none", steps=400)
    np.testing.assert_array_equal(still, states)
    seen, same, _ = watch("sensor-noise:6", steps=400)
    np.testing.assert_array_equal(same, states)
    error = seen - same
    assert error[0].any(), "the first observation is noisy, too"
    np.testing.assert_allclose(error.std(axis=0), [6, 6, 6, 6, 6 / 60], rtol=0.15)
    assert np.abs(error.mean(axis=0) / [6, 6, 6, 6, 0.1]).max() < 0.2
    assert np.abs(np.corrcoef(error[1:].T, error[:-1].T) - np.eye(10)).max() < 0.25, "dimensions and steps are independent"
    points, turned, _ = watch("sensor-noise:6", steps=100, kind="keypoints")
    error = points - geometry.state_to_keypoints(turned)
    np.testing.assert_allclose(error.std(axis=0), 6, rtol=0.3)


def test_action_noise_changes_what_is_done() -> None:
    base = Recorder()
    env = DISTURBANCES["action-noise"](base, 0.2)
    env.reset(seed=0)
    for _ in range(500):
        env.step([0.5, -0.5])
    error = np.array(base.actions) - [0.5, -0.5]
    np.testing.assert_allclose(error.std(axis=0), 0.2, rtol=0.15)
    seen, states, _ = watch("action-noise:20")
    np.testing.assert_array_equal(seen, states)
    still = watch("none")[1]
    assert np.abs(states - still)[5:, :2].max() > 3 and np.array_equal(states[:, 2:], still[:, 2:])


@pytest.mark.parametrize("disturbance", ["displace:30", "drift:3", "dynamic:1", "action-noise:10", "sensor-noise:4"])
def test_a_seed_gives_the_same_disturbance_again(disturbance: str) -> None:
    first, again, other = watch(disturbance, 3), watch(disturbance, 3), watch(disturbance, 4)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert np.array_equal(first[0], other[0]) == (disturbance == "dynamic:1"), "all but the steady one are random"
    assert not np.array_equal(first[0], watch("none", 3)[0])
    assert all(("displaced" in info) == disturbance.startswith("displace") for info in first[2])


def test_a_disturbance_is_a_name_and_a_magnitude() -> None:
    assert parse_disturbance("none") == ("none", 0.0) and parse_disturbance("drift:2.5") == ("drift", 2.5)
    for text in (
        "",
        "displace",
        "displace:",
        ":5",
        "none:0",
        "none:",
        "displace:-1",
        "displace:nan",
        "displace:inf",
        "displace:x",
        "displace:1:2",
    ):
        with pytest.raises(LWDError, match="a disturbance is none or NAME:MAGNITUDE, such as displace:50"):
            parse_disturbance(text)
    for kind in map(family, families()):
        assert set(kind.disturbances) <= set(DISTURBANCES)
    assert FAMILY.check_disturbance("none") == ("none", 0.0) and FAMILY.check_disturbance("dynamic:1") == ("dynamic", 1.0)
    env = FAMILY.make("state")
    assert FAMILY.disturb(env, "none", "state") is env
    with pytest.raises(LWDError, match=r"pusht has no disturbance 'wind', it has: displace \(pixels: .*\); drift \(pixels .*\); dynamic"):
        FAMILY.disturb(env, "wind:3", "state")


def test_what_cannot_be_displaced_is_refused() -> None:
    class Plain(gymnasium.Env):
        pass

    for kind in (Displace, Drift, Dynamic):
        with pytest.raises(LWDError, match="Plain cannot be displaced: it has no method `displace`"):
            kind(Plain(), 1.0)
    SensorNoise(Plain(), 1.0)  # needs nothing of it
