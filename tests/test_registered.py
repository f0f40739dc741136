"""Environments that gymnasium knows by an id: spaces, keys, scores, refusals, and the way from data to an evaluation."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from lwd.cli import main
from lwd.data.collect import collect
from lwd.data.formats.npz import load_npz, save_npz
from lwd.data.read import read
from lwd.envs.base import family
from lwd.envs.registered import registered
from lwd.envs.vector import ProcessVectorEnv
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError
from lwd.files import read_json

PENDULUM = "gymnasium:Pendulum-v1"
MODULE = """
    import gymnasium, numpy as np
    from gymnasium.spaces import Box, Dict, Discrete

    class Reach(gymnasium.Env):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 12}
        action_space = Box(-2.0, 3.0, (2,), np.float32)
        observation_space = Dict({
            "hand": Box(-9, 9, (2,)), "goal": Box(-9, 9, (1,)), "picture": Box(0, 255, (4, 4, 3), np.uint8), "phase": Discrete(3)
        })

        def __init__(self, render_mode=None, told="is_success"):
            self.render_mode, self.told = render_mode, told

        def seen(self):
            return {"hand": self.hand, "goal": self.goal, "picture": np.zeros((4, 4, 3), np.uint8), "phase": 0}

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.hand, self.goal = np.zeros(2), self.np_random.uniform(5, 9, 1)
            return self.seen(), {}

        def step(self, action):
            assert self.action_space.contains(action), action
            self.hand += action  # in place: what was returned before changes, too
            reached = self.hand[0] >= self.goal[0]
            return self.seen(), -1.0, reached, False, {self.told: reached}

        def render(self):
            return np.full((8, 8, 3), 7, np.uint8)

    class Bare(Reach):
        observation_space = Box(-9, 9, (2, 2))

    class Free(Reach):
        action_space = Box(-np.inf, 1.0, (2,), np.float32)

    for name in ("Reach", "Bare", "Free"):
        gymnasium.register(f"{name}-v0", entry_point=globals()[name], max_episode_steps=6)
"""


@pytest.fixture
def reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The prefix of environments in a module that registers them."""
    (tmp_path / "reaching.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(str(tmp_path))
    return "gymnasium:reaching:"


def test_a_plain_environment() -> None:
    kind = family(PENDULUM)
    assert kind is family(PENDULUM) and kind.name == PENDULUM
    assert (kind.max_steps, kind.fps, kind.action_low, kind.action_high) == (200, 30, (-2.0,), (2.0,))
    assert (kind.obs_kinds, kind.scores, kind.primary, kind.parts("state")) == (("state",), {"return": "mean"}, "return", {})
    bare, env = gymnasium.make("Pendulum-v1"), kind.make("state")
    np.testing.assert_array_equal(env.reset(seed=3)[0], bare.reset(seed=3)[0])
    for action in (1.5, -7.0):
        seen, reward, *_ = bare.step(np.clip([action], -2, 2).astype(np.float32))
        obs, rewarded, terminated, truncated, info = env.step([action])
        np.testing.assert_array_equal(obs, seen)
        assert rewarded == pytest.approx(reward) and (terminated, truncated, info) == (False, False, {"success": 0.0})
    assert [env.step([0.0])[3] for _ in range(198)] == [False] * 197 + [True]
    assert env.render().shape == (500, 500, 3)
    with pytest.raises(LWDError, match=r"gymnasium:Pendulum-v1 has no observation 'pixels': choose one of state"):
        kind.make("pixels")


def test_keys_and_success(reach: str) -> None:
    kind = family(f"{reach}Reach-v0")
    assert kind.obs_kinds == ("goal+hand",) and kind.parts("goal+hand") == {"goal": 1, "hand": 2}
    assert (kind.scores, kind.primary, kind.info_keys) == ({"success": "rate", "return": "mean"}, "success", ("success",))
    assert kind.meta("hand").obs_kind == "hand" and (kind.max_steps, kind.fps) == (6, 12)
    env = kind.make("hand+goal")
    first, _ = env.reset(seed=1)
    assert env.observation_space.shape == (3,) and first[:2].tolist() == [0, 0] and first[2] >= 5
    rows = [env.step(np.array([9.0, -9.0])) for _ in range(3)]
    assert first[0] == 0 and rows[0][0].tolist() == [3, -2, first[2]]  # clipped, and not changed by later steps
    assert [row[4]["success"] for row in rows] == [float(row[0][0] >= first[2]) for row in rows] and rows[2][2]
    assert env.render().max() == 7
    assert kind.summarise({"reward": [-1.0, -1.0], "success": [1.0, 0.0]}) == {"success": 1.0, "return": -2.0}
    for unknown in ("state", "hand+picture", ""):
        with pytest.raises(LWDError, match=r"has no observation .*: join keys by \+, of goal, hand"):
            kind.check_obs_kind(unknown)
    found = []
    for workers in (0, 2):
        with ProcessVectorEnv(kind.name, "hand", 3, workers) as envs:
            envs.reset([4, 5, 6])
            found.append(np.hstack([envs.step(np.full((3, 2), 1.5))[0] for _ in range(5)]))
    np.testing.assert_array_equal(*found)
    assert family(f"{reach}Reach-v0").seeds(Episodes(np.zeros((2, 2)), np.zeros((2, 2)), np.array([2]))) is None


@pytest.mark.parametrize(
    ("id", "said"),
    {
        "CartPole-v1": r"its actions are no vectors of numbers, but Discrete\(2\)",
        "FrozenLake-v1": r"its observations are no vectors of numbers, but Discrete",
        "Nowhere-v7": r"gymnasium:Nowhere-v7 cannot be made \(Environment `Nowhere` doesn't exist.*gymnasium:MODULE:ID",
        "Pendulum-v99": "Environment version `v99`",
        "nosuchmodule:X-v0": "No module named 'nosuchmodule'",
        "": "Malformed environment ID",
    }.items(),
)
def test_what_cannot_be_used_is_told(id: str, said: str) -> None:
    with pytest.raises(LWDError, match=said) as caught:
        family(f"gymnasium:{id}")
    assert "\n" not in str(caught.value)


def test_other_refusals(reach: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LWDError, match="its observations are no vectors of numbers, but Box"):
        family(f"{reach}Bare-v0")
    with pytest.raises(LWDError, match=r"its actions have no bounds; register it with gymnasium\.wrappers\.RescaleAction"):
        family(f"{reach}Free-v0")
    registered.cache_clear()
    monkeypatch.setitem(sys.modules, "gymnasium.envs.mujoco.half_cheetah_v5", None)
    with pytest.raises(LWDError, match=r'pip install "latent-weight-diffusion\[mujoco\]"'):
        family("gymnasium:HalfCheetah-v5")


def test_environments_of_other_packages_are_found() -> None:
    pytest.importorskip("gymnasium_robotics")
    fetch = family("gymnasium:FetchReach-v4")
    assert fetch.parts(fetch.obs_kinds[0]) == {"achieved_goal": 3, "desired_goal": 3, "observation": 10} and fetch.primary == "success"


def swing(obs: np.ndarray) -> np.ndarray:
    """Adds energy, and balances when the rod is nearly up."""
    cosine, sine, speed = obs
    return np.array([-12 * sine - 3 * speed if cosine > 0.9 else (6 - speed**2 / 6 - 5 * cosine) * np.sign(speed)])


def test_from_a_policy_to_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    policies = {"swing": swing, "random": "uniform"}
    rows = collect(PENDULUM, tmp_path / "two", episodes=4, workers=1, progress=False, policies=policies)
    assert [row["task"] for row in rows] == ["swing", "random"]
    data = load_npz(tmp_path / "two" / "swing.npz")
    assert data.steps == 800 and data.tags["return"].mean() > load_npz(tmp_path / "two" / "random.npz").tags["return"].mean() + 300
    assert data.meta.description.startswith("synthetic: D4RL-style data regenerated from policies (swing swing, random uniform)")
    assert data.meta.env == PENDULUM and len(read(tmp_path / "two").tasks) == 2
    bare = Meta(action_low=(-2.0,), action_high=(2.0,), description="of unknown origin")
    save_npz(Episodes(data.obs, data.action, data.ends, meta=bare), tmp_path / "bare.npz")
    common = ["--debug", "--threads", "1", "--quiet"]
    assert main(["train", "mlp", "--data", "bare.npz", "--out", "runs/bare", *common]) == 0, capsys.readouterr().err
    assert main(["eval", "runs/bare", "--debug"]) == 2 and "say which with --env" in capsys.readouterr().err
    for other, said in (("gymnasium:MountainCarContinuous-v0", "this model has 3 numbers"), ("pusht", "an action of pusht has 2 numbers")):
        assert main(["eval", "runs/bare", "--env", other, "--debug"]) == 2 and said in capsys.readouterr().err
    assert main(["eval", "runs/bare", "--env", PENDULUM, "--debug"]) == 0, capsys.readouterr().err
    (result,) = (tmp_path / "runs" / "bare" / "eval").glob("*.json")
    found = read_json(result, "")
    assert found["env"] == PENDULUM and found["primary"] == "return" and -2500 < found["scores"]["return"]["mean"] < 0
