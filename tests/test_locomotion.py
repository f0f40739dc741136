"""Runners and the Adroit hammer: the numbers of the simulators, feet and metrics, policies of others, and the data collected from them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from conftest import SHARED
from lwd.config import EvalSettings
from lwd.data.collect import collect
from lwd.data.formats.npz import load_npz
from lwd.data.read import read
from lwd.envs.base import called, family
from lwd.envs.behaviours import Expert, _Actor
from lwd.envs.policies import load
from lwd.errors import LWDError
from lwd.rollout import Scenario, rollout

TITLES = {"halfcheetah": "HalfCheetah-v5", "walker2d": "Walker2d-v5", "ant": "Ant-v5"}
EXPERTS = SHARED / "data" / "experts"
needs_experts = pytest.mark.skipif(not EXPERTS.is_dir(), reason=f"{EXPERTS} is not here: set LWD_SHARED")


def touching(model: Any, data: Any) -> set[str]:
    """Names of the geoms that touch the floor, as MuJoCo's own C interface tells them one by one."""
    names = set()
    for number in range(data.ncon):
        pair = [mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_GEOM, geom) for geom in data.contact[number].geom]
        names |= set(pair) if "floor" in pair else set()
    return names


@pytest.mark.parametrize("name", TITLES)
def test_runners_are_those_of_gymnasium_and_tell_their_feet(name: str) -> None:
    kind: Any = family(name)
    assert called(f"gymnasium:{TITLES[name]}") is kind
    bare, env = gymnasium.make(TITLES[name]).unwrapped, kind.make("state")
    other = kind.make("state")  # shares the model, and nothing else
    other.reset(seed=8)
    rng, seen, infos, lengths = np.random.default_rng(0), [], [], []
    for seed in (0, 1):
        np.testing.assert_array_equal(bare.reset(seed=seed)[0], env.reset(seed=seed)[0])
        lengths.append(0)
        for _ in range(120):
            lengths[-1] += 1
            action = rng.uniform(-1, 1, env.action_space.shape)
            other.step(-action)
            obs, reward, terminated, *_ = bare.step(action)
            own = env.step(action)
            np.testing.assert_array_equal(own[0], obs)
            assert own[1:4] == (pytest.approx(reward, abs=1e-12), terminated, False)
            down = touching(bare.model, bare.data)
            seen.append([float(geom in down) for geom in kind.feet.values()])
            infos.append([own[4][key] for key in kind.info_keys])
            if terminated:
                break
    np.testing.assert_array_equal(infos, seen)
    assert (np.mean(seen, 0) > 0).all() and (np.mean(seen, 0) < 1).all()
    assert (min(lengths) < 120) == (name != "halfcheetah")  # the others fall, or jump too high
    scores = kind.summarise({"reward": [1.0, 2.5], **{key: [0.0, 1.0] for key in kind.info_keys}})
    assert scores == {"return": 3.5, **dict.fromkeys(kind.info_keys, 0.5)} and list(scores) == list(kind.scores)


def test_an_early_end_is_an_end() -> None:
    class Still:
        history, horizon = 1, 1000

        def plan(self, history: torch.Tensor, task: Any = None, generator: Any = None) -> Any:
            return self

        def act(self, obs: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(obs), 6)

    records = rollout(Still(), Scenario("walker2d", "state", (3, 4)), EvalSettings(), workers=0)  # type: ignore[arg-type]
    assert all(episode["terminated"] and 5 < episode["steps"] < 300 for episode in records.episodes)
    assert all(0 < episode["contact_right"] <= 1 for episode in records.episodes)


@pytest.mark.parametrize("name", [*TITLES, "hammer"])
def test_states_can_be_restored(name: str) -> None:
    kind = family(name)
    try:
        env = kind.make("state")
    except LWDError as error:
        pytest.skip(str(error))
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (40, *env.action_space.shape))  # type: ignore[misc]
    env.reset(seed=1)
    for action in actions:
        env.step(action)
    state = kind.state(env)
    went = [env.step(action)[0] for action in actions[:10]]
    env.reset(seed=2, options={"state": state})
    np.testing.assert_allclose([env.step(action)[0] for action in actions[:10]], went, atol=1e-6)


def test_the_hammer_and_its_metrics() -> None:
    pytest.importorskip("gymnasium_robotics")
    kind = family("hammer")
    assert called("gymnasium:AdroitHandHammer-v1") is kind
    env: Any = kind.make("state")
    first, _ = env.reset(seed=5)
    infos: dict[str, list[float]] = {key: [] for key in ("reward", *kind.info_keys)}
    seen = []
    for depth in (0.0, 0.05, 0.088):  # of the nail, which moves along one axis: it is in at 0.091
        state = kind.state(env)
        assert state is not None
        state[26] = depth
        state[29] += 0.05  # the hammer, upwards
        env.reset(options={"state": state})
        obs, reward, _, _, info = env.step(np.zeros(26))
        seen.append(obs)
        for key, value in {"reward": reward, **info}.items():
            infos[key].append(value)
    rows, distance = np.array(seen), np.array(infos["distance"])
    np.testing.assert_allclose(distance, 0.091 - rows[:, 26], atol=1e-3)
    assert infos["success"] == (distance < 0.01).astype(float).tolist() == [0, 0, 1]
    np.testing.assert_array_equal(infos["height"], rows[:, 38])
    np.testing.assert_array_equal(infos["impact"], rows[:, 45])
    bare, other = gymnasium.make("AdroitHandHammer-v1").unwrapped, kind.make("state")
    np.testing.assert_array_equal(bare.reset(seed=6)[0], env.reset(seed=6)[0])
    other.reset(seed=7)  # takes turns with the first in one simulation, with another board
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 26)):
        other.step(-action)
        obs, reward, _, _, info = env.step(action)
        wanted = bare.step(action)
        np.testing.assert_array_equal(obs, wanted[0])
        assert reward == pytest.approx(wanted[1], abs=1e-12) and info["success"] == wanted[4]["success"]
    infos |= {"height": [0.03, 0.05, 0.07], "impact": [0.2, 0.9, 0.7]}
    scores = kind.summarise(infos)
    expected = {"success": 1, "object_height": 0.05, "max_impact": 0.9, "contact_ratio": 1 / 3, "manipulation": 2 / 3}
    assert {key: scores[key] for key in expected} == pytest.approx(expected)
    assert scores["alignment_error"] == pytest.approx(distance.mean()) and list(scores) == list(kind.scores)
    again, _ = env.reset(seed=5)
    np.testing.assert_array_equal(again, first)  # the board stands where the seed puts it


# --- policies of others -----------------------------------------------------------------------------------------------------------------

LOW, HIGH = np.array([-1.0, -2.0]), np.array([1.0, 4.0])


def networks(layout: str) -> tuple[dict[str, Any], Callable[[torch.Tensor], torch.Tensor], np.ndarray]:
    """Arrays of a file with random weights, the same policy in torch (mean action), and its standard deviations before squashing."""
    torch.manual_seed(0)
    hidden, head, spread = [torch.nn.Linear(3, 8), torch.nn.Linear(8, 5)], torch.nn.Linear(5, 2), torch.tensor([-1.0, -3.0])
    arrays: dict[str, Any] = {"log_std": spread}
    if layout == "mjrl":
        scales = {"in_shift": torch.randn(3), "in_scale": torch.rand(3), "out_shift": torch.randn(2), "out_scale": torch.rand(2)}
        arrays |= scales | {
            f"{part[0]}{i}": getattr(own, n) for i, own in enumerate([*hidden, head]) for n, part in {"weight": "W", "bias": "b"}.items()
        }
    else:
        prefix, last = ("actor.latent_pi", "actor.mu") if layout == "sac" else ("mlp_extractor.policy_net", "action_net")
        own = {f"{prefix}.0": hidden[0], f"{prefix}.2": hidden[1], last: head}
        arrays |= {f"{name}.{part}": value for name, layer in own.items() for part, value in layer.state_dict().items()}
    if layout == "sac":
        del arrays["log_std"]
        arrays |= {"actor.log_std.weight": torch.zeros(2, 5), "actor.log_std.bias": spread}
    if layout == "ppo":
        arrays |= {"obs_mean": torch.randn(3), "obs_var": torch.rand(3), "clip_obs": torch.tensor(1.5), "eps": torch.tensor(1e-8)}
    arrays = {key: value.detach().numpy() for key, value in arrays.items()}

    def mean(obs: torch.Tensor) -> torch.Tensor:
        x = obs
        if layout == "mjrl":
            x = (obs - scales["in_shift"]) / (scales["in_scale"] + 1e-8)
        elif layout == "ppo":
            x = ((obs - torch.tensor(arrays["obs_mean"])) / torch.tensor(arrays["obs_var"]).sqrt()).clip(-1.5, 1.5)
        for layer in hidden:
            x = (torch.relu if layout == "sac" else torch.tanh)(layer(x))
        x = head(x)
        if layout == "mjrl":
            return x * scales["out_scale"] + scales["out_shift"]
        return torch.tensor(LOW) + (torch.tanh(x) + 1) / 2 * torch.tensor(HIGH - LOW) if layout == "sac" else x

    return arrays, mean, spread.exp().numpy()


@pytest.mark.parametrize("layout", ["sac", "ppo", "mjrl"])
def test_weights_act_as_in_torch(layout: str, tmp_path: Path) -> None:
    arrays, mean, deviations = networks(layout)
    np.savez(tmp_path / "own.npz", **arrays)
    rng, obs = np.random.default_rng(0), np.random.default_rng(1).normal(0, 2, (20, 3))
    still = load("own.npz@0", tmp_path, LOW, HIGH)
    assert still.inputs == 3
    with torch.no_grad():
        wanted = mean(torch.tensor(obs, dtype=torch.float32)).numpy()
    np.testing.assert_allclose([still.draw(row, rng) for row in obs], wanted, atol=1e-5)
    for name, factor in {"own.npz": 1, "own.npz@2": 2}.items():
        policy = load(name, tmp_path, LOW, HIGH)
        drawn, centre = np.array([policy.draw(obs[0], rng) for _ in range(4000)]), wanted[0]
        if layout == "sac":  # before squashing
            drawn, centre = (np.arctanh((2 * x - LOW - HIGH) / (HIGH - LOW)) for x in (drawn, centre))
        np.testing.assert_allclose(drawn.mean(0), centre, atol=0.05)
        np.testing.assert_allclose(drawn.std(0), factor * deviations, rtol=0.06)
    other = load("own.npz@tanh@0" if layout == "sac" else "own.npz@relu@0", tmp_path, LOW, HIGH)
    assert np.abs(other.draw(obs[0], rng) - wanted[0]).max() > 1e-3


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    arrays, _, _ = networks("ppo")
    path = tmp_path / "bad.npz"

    def refused(said: str, name: str = "bad.npz", **changes: Any) -> None:
        np.savez(path, **{key: value for key, value in {**arrays, **changes}.items() if value is not None})
        with pytest.raises(LWDError, match=said) as caught:
            load(name, tmp_path, LOW, HIGH)
        assert "\n" not in str(caught.value)

    refused(r"bad.npz has no action_net.weight: it has action_net.bias, clip_obs", **{"action_net.weight": None})
    refused(r"bad.npz has no mlp_extractor.policy_net.2.bias", **{"mlp_extractor.policy_net.2.bias": None})
    refused(
        r"action_net.weight is float64 of shape \(3, 5\), which should be numbers of shape \(2, 5\)",
        **{"action_net.weight": np.ones((3, 5))},
    )
    refused(r"policy_net.2.weight .*of shape \(5, 9\), .* \('any', 8\)", **{"mlp_extractor.policy_net.2.weight": np.ones((5, 9))})
    refused(r"obs_mean is .* of shape \(4,\)", obs_mean=np.ones(4))
    refused("log_std has values that are not finite", log_std=np.array([0.0, np.nan]))
    refused(r"log_std is <U1 of shape \(2,\)", log_std=np.array(["a", "b"]))
    refused("bad.npz cannot be read as weights: it is damaged, pickled, or no .npz file", log_std=np.array([None, {}]))
    refused("holds no standard deviation to multiply: leave out @2", "bad.npz@2", log_std=None)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(LWDError, match="cannot be read as weights"):
        load("bad.npz", tmp_path, LOW, HIGH)
    for name in ("absent.npz", "absent.zip"):
        with pytest.raises(LWDError, match=f"{name} is missing"):
            load(name, tmp_path, LOW, HIGH)
    for name in ("bad.npz@fast", "bad", "uniform@2", "tests.x:y@0"):
        with pytest.raises(LWDError, match="is no policy: FILE"):
            load(name, tmp_path, LOW, HIGH)


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_zips_of_stable_baselines(algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("stable_baselines3")
    model = getattr(library, algorithm)("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [16]}, seed=0, device="cpu")
    model.save(tmp_path / "own")
    np.savez(tmp_path / "own.npz", **{key: value.numpy() for key, value in model.policy.state_dict().items()})
    low, high, rng = np.array([-2.0]), np.array([2.0]), np.random.default_rng(0)
    zipped, weights = (load(f"own.{kind}@0", tmp_path, low, high) for kind in ("zip", "npz"))
    assert zipped.inputs == weights.inputs == 3
    for obs in rng.normal(size=(5, 3)):
        np.testing.assert_allclose(zipped.draw(obs, rng), weights.draw(obs, rng), atol=1e-5)
        np.testing.assert_allclose(zipped.draw(obs, rng), model.predict(obs, deterministic=True)[0])
    sampled = load("own.zip", tmp_path, low, high)
    drawn = [[sampled.draw(np.zeros(3), np.random.default_rng(seed))[0] for _ in range(2)] for seed in (1, 1, 2)]  # type: ignore[index]
    assert drawn[0] == drawn[1] != drawn[2]
    (tmp_path / "broken.zip").write_bytes((tmp_path / "own.zip").read_bytes()[:500])
    with pytest.raises(LWDError, match=r"broken.zip cannot be read as a policy of Stable-Baselines3"):
        load("broken.zip", tmp_path, low, high)
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(LWDError, match=r'pip install "latent-weight-diffusion\[sb3\]"'):
        load("own.zip", tmp_path, low, high)


def test_functions_as_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "class Own:\n    def predict(self, obs):\n        return obs[:2] * 2, None\nown = Own()\nconstant = 3\n"
    (tmp_path / "my_policies.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    policy = load("my_policies:own", Path(), LOW, HIGH)
    assert policy.inputs == 0 and list(policy.draw(np.arange(3.0), np.random.default_rng(0))) == [0.0, 2.0]  # type: ignore[arg-type]
    for name, said in {
        "my_policies:other": "has no attribute 'other'",
        "nowhere:f": "No module named",
        "my_policies:constant": "neither a fun",
    }.items():
        with pytest.raises(LWDError, match=said):
            load(name, Path(), LOW, HIGH)
    sys.modules.pop("my_policies")


# --- collecting -------------------------------------------------------------------------------------------------------------------------


def kick(obs: np.ndarray) -> np.ndarray:
    return np.sin(4 * obs[2:8])


def few(env: str, out: Path, policies: Any, **changes: Any) -> list[dict[str, Any]]:
    return collect(env, out, **{"episodes": 2, "workers": 1, "progress": False, **changes}, policies=policies)


def test_collected_episodes_can_be_replayed(tmp_path: Path) -> None:
    few("walker2d", tmp_path / "w", {"kick": kick, "random": "uniform"}, seed=40)
    few("walker2d", tmp_path / "w", {"kick": kick, "random": "uniform"}, seed=40, episodes=3)
    data, kind = read(tmp_path / "w"), family("walker2d")
    assert data.tasks == ("kick", "random") and data.tags["seed"].tolist() == [40, 41, 42] * 2
    assert data.task is not None and data.tags["behaviour"].tolist() == data.task.tolist()
    assert data.meta.description == "synthetic: D4RL-style data regenerated from policies (kick kick, random uniform), seeds from 40"
    assert kind.seeds(data) is not None
    env = kind.make("state")
    for episode, (start, end) in enumerate(pairwise([0, *data.ends])):
        obs, infos = [env.reset(seed=int(data.tags["seed"][episode]))[0]], []
        for action in data.action[start:end]:
            seen, reward, terminated, _, info = env.step(action)
            obs.append(seen)
            infos.append({"reward": reward, **info})
        assert terminated  # the fall is the end
        np.testing.assert_array_equal(np.array(obs[:-1], np.float32), data.obs[start:end])
        scores = kind.summarise({key: [info[key] for info in infos] for key in infos[0]})
        assert scores == {key: data.tags[key][episode] for key in kind.scores}
    whole = load_npz(tmp_path / "w" / "random.npz")
    few("walker2d", tmp_path / "again", {"random": "uniform"}, seed=40, episodes=3)
    assert load_npz(tmp_path / "again" / "random.npz").fingerprint() == whole.fingerprint()


def test_what_cannot_be_collected_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for said, env, policies in (
        (r"for ant --policies is BEHAVIOUR=POLICY,..., or a directory with Ant_trpo_final.npz, Ant_ars_best.npz, not ''", "ant", ""),
        ("for ant --policies is BEHAVIOUR=POLICY,..., not 'a=uniform,b'", "ant", "a=uniform,b"),
        ("because no public policies of it are known, not '.'", "gymnasium:Pendulum-v1", "."),
        (r"HalfCheetah_tqc_final.npz is missing", "halfcheetah", str(tmp_path)),
        ("the policy of kick returned .* but an action has 8 finite numbers", "ant", {"kick": kick}),
        ("the policy of own takes 3 numbers, but halfcheetah observes 17", "halfcheetah", f"own={tmp_path / 'own.npz'}@0"),
    ):
        arrays, _, _ = networks("ppo")
        wide = {"action_net.weight": np.ones((6, 5)), "action_net.bias": np.ones(6), "log_std": np.ones(6)}
        np.savez(tmp_path / "own.npz", **{**arrays, **wide})
        with pytest.raises(LWDError, match=said):
            few(env, tmp_path / "out", policies)
    with pytest.raises(LWDError, match="those from 100000 are for evaluation"):
        few("halfcheetah", tmp_path / "out", {"random": "uniform"}, seed=99_999)
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "gymnasium.envs.mujoco.half_cheetah_v5", None)
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    for env, extra in {"halfcheetah": "mujoco", "hammer": "adroit"}.items():
        with pytest.raises(LWDError, match=rf'pip install "latent-weight-diffusion\[{extra}\]"'):
            few(env, tmp_path / "out", {"random": "uniform"})


@needs_experts
@pytest.mark.parametrize(
    ("env", "source", "steps", "least"),
    [
        ("halfcheetah", "mujoco/HalfCheetah_tqc_final.npz@0", 1000, 11500),
        ("halfcheetah", "mujoco/HalfCheetah_ppo_final.npz@relu@0", 300, 1400),
        ("walker2d", "mujoco/Walker2d_ppo_final.npz", 200, 400),  # with the time that is left
        ("ant", "mujoco/Ant_ars_best.npz", 200, 380),  # linear, and with zeros for contact forces
    ],
)
def test_public_policies_run(env: str, source: str, steps: int, least: float) -> None:
    actor = _Actor(Expert(env, {"own": str(EXPERTS / source)}), "own")
    rewards = [reward for _, _, reward, _ in islice(actor.steps(3), steps)]
    assert len(rewards) == steps and sum(rewards) > least


@needs_experts
def test_hammer_behaviours(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    rows = few("hammer", tmp_path, str(EXPERTS / "adroit"), episodes=3)
    assert [row["task"] for row in rows] == ["expert", "medium", "random"] and all(row["attempts"] == 3 for row in rows)
    data = read(tmp_path)
    assert (
        data.lengths.tolist() == [200] * 9 and "regenerated from public policies (expert hammer_dapg_policy.npz, " in data.meta.description
    )
    assert data.tags["success"][:3].mean() > 0.6 and not data.tags["success"][6:].any()
    assert data.tags["object_height"][:3].mean() > 0.15 > 0.04 > data.tags["object_height"][6:].max()
