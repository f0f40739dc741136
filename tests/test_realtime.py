"""Real-time control: the same actions as the loop of `lwd eval`, a robot that goes on whatever fails, and other libraries' loops."""

from __future__ import annotations

import json
import runpy
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread, active_count
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image

import lwd
from conftest import tiny_config, tiny_method
from lwd.cli import main
from lwd.control import ControlLoop
from lwd.data.formats.npz import save_npz
from lwd.data.read import read
from lwd.deploy import AsyncController
from lwd.deploy.adapters import StableBaselines, robomimic_policy
from lwd.deploy.histogram import Histogram
from lwd.envs.base import family
from lwd.errors import LWDError
from lwd.training.run import Run
from lwd.training.train import load_method, train
from test_world import WORLD

OBSERVE = AsyncController.observe


class Answer:
    """A policy that returns its number and its age; `ends` after some steps; `fails` in its own way."""

    def __init__(self, number: float, ends: int = 1 << 30, fails: Callable[[int], Any] = lambda t: None) -> None:
        self.number, self.ends, self.fails = number, ends, fails

    def act(self, obs: Any, t: int) -> Any:
        if t >= self.ends:
            raise LWDError("this plan has come to its end")
        return np.array([self.number, t]) if (bad := self.fails(t)) is None else bad


def made(*policies: Any) -> Callable[[Any], Any]:
    """A generator that returns these one after the other, or raises those that are exceptions, and then fails."""
    left = iter(policies)

    def generator(obs: Any) -> Any:
        policy = next(left, LWDError("nothing is left"))
        if isinstance(policy, Exception):
            raise policy
        return policy

    return generator


def steps(controller: AsyncController, count: int) -> list[list[float] | None]:
    """Actions of steps with new observations."""
    found = [controller.step(np.zeros(2)) for _ in range(count)]
    return [None if action is None else action.tolist() for action in found]


@pytest.mark.parametrize(("every", "delay", "watched"), [(4, 0, True), (8, 3, False), (5, 5, False)])
def test_it_does_what_the_loop_of_eval_does(trained: Path, every: int, delay: int, watched: bool) -> None:
    """Same ages, takeovers and draws; the monitor is told the same."""
    walk = 250 + 20 * np.cumsum(np.random.default_rng(0).standard_normal((40, 2)), 0, dtype=np.float32)
    told: list[list[list[Any]]] = [[], []]

    def jumped(who: int, obs: Any, action: Any, following: Any, t: Any, tasks: Any) -> Any:
        told[who].append([np.asarray(value).tolist() for value in (obs, following, t)])
        return abs(following - obs)[:, 0] > 30

    loop, own = (
        ControlLoop(load_method(Run(trained)), every, delay=delay, generators=torch.Generator().manual_seed(0)),
        lwd.load(trained, seed=0),
    )
    controller = AsyncController(own.plan, 10, replan_every=every, delay=delay, takes=delay)
    if watched:
        loop.monitor, controller.monitor = partial(jumped, 0), partial(jumped, 1)
    with torch.no_grad():
        wanted = [loop.act(torch.from_numpy(obs[None]))[0].numpy() for obs in walk]
    found = [controller.step(obs) for obs in walk]
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    counts = controller.counts
    assert told[0] == told[1] and (counts["alarms"] > 3) == watched
    assert counts["asked"] == len(loop.plan_ms) and counts["late"] == counts["failed"] == counts["safe"] == 0


def test_history_is_what_was_seen() -> None:
    """At first the observation stands for its own past."""
    asked: list[Any] = []
    controller = AsyncController(lambda obs: asked.append(obs.tolist()) or Answer(1), 10, history=2, replan_every=2)  # type: ignore[func-returns-value]
    for x in range(3):
        controller.step([x, 0])
    assert asked == [[[0, 0], [0, 0]], [[1, 0], [2, 0]]]


def test_ages_takeovers_and_lateness() -> None:
    """A policy that is ready sooner waits, one that is late takes over as soon as it is there; ages count from observations."""
    sooner = AsyncController(made(Answer(1), Answer(2)), 10, replan_every=4, delay=3, takes=1)
    assert steps(sooner, 9) == [*([1, t] for t in range(7)), [2, 3], [2, 4]] and sooner.counts["late"] == 0
    late = AsyncController(made(Answer(1), Answer(2)), 10, replan_every=4, delay=1, takes=3)
    assert steps(late, 8) == [*([1, t] for t in range(7)), [2, 3]] and late.counts["late"] == 1


def test_a_failed_generation_leaves_the_running_policy_in_charge() -> None:
    """It is counted with its reason, and the next one is made from the newest observation."""
    controller = AsyncController(made(Answer(1), OSError("no route"), Answer(2)), 10, replan_every=3)
    assert steps(controller, 6) == [[1, 0], [1, 1], [1, 2], [1, 3], [2, 0], [2, 1]]
    assert controller.counts["failed"] == 1 and controller.summary()["reasons"] == {"generation: no route": 1}
    never = AsyncController(made(), 10, safe=(7, 7))
    assert steps(never, 3) == [[7, 7]] * 3 and never.counts["failed"] == 3 and never.counts["safe"] == 0
    assert steps(AsyncController(made(), 10), 3) == [None] * 3  # nothing is sent before it is known what


def test_blending_passes_from_one_policy_to_the_next() -> None:
    """Over three steps, by quarters; a former policy that comes to its end is left out."""
    for ends, wanted in ((100, [1.5, 2, 2.5, 3]), (6, [1.5, 2, 3, 3]), (4, [3] * 4)):
        controller = AsyncController(made(Answer(1, ends), Answer(3)), 10, replan_every=4, blend=3)
        assert [action[0] for action in steps(controller, 8) if action] == [1] * 4 + wanted


def test_the_watchdog() -> None:
    """No observation, an exception, a number that is not finite: the safe action; without one, the last action again."""
    controller = AsyncController(made(Answer(1)), 10, replan_every=100, patience=2, safe=(0, 0))
    seen = [np.zeros(2), None, None, None, np.zeros(2)]
    assert [action.tolist() for obs in seen if (action := controller.step(obs)) is not None] == [[1, 0], [1, 1], [0, 0], [0, 0], [1, 4]]
    assert controller.counts["safe"] == 2

    def fails(t: int) -> Any:
        if t == 1:
            raise ZeroDivisionError
        return [np.nan, 0] if t == 2 else None

    for safe, replaced in (((9, 9), [9, 9]), (None, [1, 0])):
        controller = AsyncController(made(Answer(1, fails=fails)), 10, replan_every=100, safe=safe)
        assert steps(controller, 4) == [[1, 0], replaced, replaced, [1, 3]]
        assert controller.reasons == {
            "action: ZeroDivisionError": 1,
            "action: the action is not finite": 1,
            "generation: nothing is left": 2,
        }


def test_it_refuses_what_cannot_be() -> None:
    for bad in ({"rate": 0}, {"rate": np.nan}, {"rate": 1, "delay": -1}, {"rate": 1, "patience": 0}):
        with pytest.raises(LWDError, match="rate, patience and history must be above 0"):
            AsyncController(made(), **bad)
    with pytest.raises(OSError):
        AsyncController(made(), 10, priority=1000).run(print, 1)


def test_the_histogram() -> None:
    """Percentiles to 2 %, whatever the range."""
    own, values = Histogram(), np.random.default_rng(0).lognormal(-7, 1, 5000)
    for value in values:
        own.add(value)
    own.add(0.0)
    found = own.summary()
    for name, q in (("p50", 50), ("p99", 99), ("p99.9", 99.9), ("max", 100)):
        assert found[name] == pytest.approx(1e6 * np.percentile(values, q), rel=0.05)
    assert own.below(np.median(values)) == pytest.approx(2500, rel=0.05) and found["n"] == 5001


def test_in_real_time() -> None:
    """A thread at 200 Hz whose generator takes 30 ms, and fails one time in three: steps lie on a grid, the newest observation is used."""
    numbers: list[int] = []

    def generator(obs: Any) -> Answer:
        numbers.append(int(obs[0]))
        time.sleep(0.03)
        if len(numbers) % 3 == 0:
            raise OSError("no route")
        return Answer(obs[0])

    sent: list[Any] = []
    controller = AsyncController(generator, 200, safe=(-1, -1))

    def send(action: Any) -> None:
        sent.append(action.tolist())
        controller.observe([len(sent), 0])

    controller.observe([0, 0])
    begin, thread, threads = time.perf_counter(), Thread(target=controller.run, args=(send,)), active_count()
    thread.start()
    time.sleep(0.5)
    controller.stop()
    seconds = time.perf_counter() - begin
    thread.join()
    told = controller.summary()
    assert active_count() == threads  # the last generation was waited for
    assert told["steps"] + told["missed"] == pytest.approx(200 * seconds, abs=10)  # a busy machine is late by some steps
    assert sent[0] == sent[-1] == [-1, -1] and len(sent) == told["steps"] + 1
    assert told["failed"] >= 1 and told["swapped"] >= 2 and told["asked"] - told["failed"] - told["swapped"] in (0, 1)
    assert told["generation_us"]["p50"] > 29e3 and told["latency_us"]["n"] == told["steps"]
    used = [int(action[0]) for action in sent if action[0] >= 0]
    assert used == sorted(used) and set(used) <= set(numbers)  # each policy is younger than the one before it
    assert all(action[1] >= 5 for action in sent if action[0] > 0)  # 30 ms are six steps, which the age counts


def test_a_driver_that_fails_ends_it_with_the_safe_action() -> None:
    sent: list[Any] = []

    def send(action: Any) -> None:
        sent.append(action.tolist())
        if len(sent) == 3:
            raise OSError("the cable is out")

    controller = AsyncController(made(Answer(1)), 100, safe=(0, 0))
    controller.observe([0, 0])
    with pytest.raises(OSError, match="the cable is out"):
        controller.run(send)
    assert len(sent) == 4 and sent[-1] == [0, 0]
    assert controller.step([0, 0]) is not None  # step by step again


@pytest.fixture(scope="module")
def pusht(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on PushT with a world model, hardly trained."""
    folder = tmp_path_factory.mktemp("pusht")
    config = replace(tiny_config(folder), method=tiny_method(imagine=True, world=replace(WORLD, steps=20)))
    save_npz(read("embedded").select(range(8)), Path(config.data))
    return train(config, quiet=True).path


def test_play_writes_a_video_and_tells_the_timing(pusht: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["play", str(pusht), "--rate", "50", "--replan-every", "8", "--delay", "4", "--max-steps", "40", "--disturb", "displace:50"]
    assert main([*words, "--monitor", "0.01", "--video", str(tmp_path / "out.gif"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["steps"] >= 40 and told["swapped"] > 1 and told["alarms"] > 0 and 0 <= told["scores"]["max_overlap"] <= 1
    with Image.open(tmp_path / "out.gif") as picture:
        assert 2 <= picture.n_frames <= 20 and picture.size == (384, 384)  # type: ignore[attr-defined]  # equal ones are one


def test_play_in_a_window(pusht: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    shown: list[Any] = []
    monkeypatch.setattr(pygame.display, "flip", lambda: shown.append(pygame.surfarray.array3d(pygame.display.get_surface())))
    assert main(["play", str(pusht), "--rate", "25", "--max-steps", "5"]) == 0
    out = capsys.readouterr().out
    assert len(shown) == 5 and np.ptp(shown[0]) > 100 and "max overlap" in out and "at 25 per second" in out
    pygame.display.quit()
    monkeypatch.setenv("SDL_VIDEODRIVER", "nowhere")
    assert main(["play", str(pusht)]) == 2 and "write a video instead, with --video" in capsys.readouterr().err


def test_ctrl_c_ends_play_in_good_order(
    pusht: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was seen until then is written and told."""
    seen: list[Any] = []

    def observe(self: AsyncController, obs: Any) -> None:
        seen.append(obs)
        if len(seen) == 5:
            signal.raise_signal(signal.SIGINT)
        OBSERVE(self, obs)

    monkeypatch.setattr(AsyncController, "observe", observe)
    assert main(["play", str(pusht), "--rate", "50", "--video", str(tmp_path / "out.gif")]) == 0
    assert len(seen) == 5 and "at 50 per second" in capsys.readouterr().out and (tmp_path / "out.gif").exists()


def test_the_ros_node_with_a_stand_in_for_rclpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Observations of a topic become actions on another one, until the node is destroyed."""
    published: list[Any] = []

    class Node:
        def __init__(self, name: str) -> None: ...

        def declare_parameter(self, name: str, value: Any) -> Any:
            return SimpleNamespace(value=value)

        def create_publisher(self, kind: Any, topic: str, depth: int) -> Any:
            return SimpleNamespace(publish=lambda message: published.append((topic, message.data)))

        def create_subscription(self, kind: Any, topic: str, callback: Any, depth: int) -> None:
            assert topic == "observation"
            self.callback = callback

        def get_logger(self) -> Any:
            return SimpleNamespace(info=lambda text: published.append(text))

        def destroy_node(self) -> None: ...

    def spin(node: Any) -> None:
        while len(published) < 5:
            node.callback(SimpleNamespace(data=[1.0, 2.0]))
            time.sleep(0.01)
        raise KeyboardInterrupt

    rclpy = ModuleType("rclpy")
    vars(rclpy).update(init=lambda: None, spin=spin)
    modules = {"rclpy": rclpy, "rclpy.node": SimpleNamespace(Node=Node), "std_msgs.msg": SimpleNamespace(Float64MultiArray=SimpleNamespace)}
    for name, module in {**modules, "std_msgs": ModuleType("std_msgs")}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("lwd.deploy.RemoteGenerator", lambda url, token: lambda obs: Answer(obs[1]))
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "ros2_node.py"), run_name="__main__")
    assert [topic for topic, _ in published[:5]] == ["action"] * 5 and "'swapped'" in published[-1]
    assert published[0] == ("action", [2.0, 0.0])


class Recorder:
    """What a generator was asked, and policies that show it: the action is the age and the first number of the plan's observation."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def __call__(self, obs: Any) -> Any:
        self.asked.append(float(obs[0]))
        return Answer(0.01 * len(self.asked))


def test_stable_baselines_evaluates_a_policy() -> None:
    """Its real `evaluate_policy`, with several environments: a new policy for each episode, and every so many steps."""
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    vectors = pytest.importorskip("stable_baselines3.common.vec_env")

    def pendulum() -> gymnasium.Env:
        return gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("Pendulum-v1", max_episode_steps=20))

    generator = Recorder()
    model = StableBaselines(lambda obs: _First(generator(obs)), replan_every=8)
    envs = vectors.VecMonitor(vectors.DummyVecEnv([pendulum, pendulum]))
    returns, lengths = evaluation.evaluate_policy(model, envs, n_eval_episodes=4, return_episode_rewards=True)
    assert lengths == [20] * 4 and len(returns) == 4
    assert len(generator.asked) == 4 * 3  # 20 steps are three policies
    single, state = model.predict(np.zeros(3), deterministic=True)
    assert single.shape == (1,) and state is None
    ages = [model.predict(np.zeros(3))[0][0] for _ in range(9)]
    assert ages[:3] == [1, 2, 3]


class _First:
    """The age alone, as an action of one dimension."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def act(self, obs: Any, t: int) -> Any:
        return self.policy.act(obs, t)[1:]


def test_dictionaries_are_joined_by_the_keys_of_the_family() -> None:
    kind, generator = family("lift"), Recorder()
    parts = kind.parts("state")
    policy = robomimic_policy(generator, replan_every=2, keys=list(parts))
    obs = {key: np.full(size, i, np.float64) for i, (key, size) in enumerate(parts.items())} | {"image": np.zeros((3, 8, 8))}
    policy.start_episode()
    assert [policy(obs)[1] for _ in range(3)] == [0, 1, 0]
    policy.start_episode()
    assert policy(ob=obs, goal=None)[1] == 0 and len(generator.asked) == 3
    with pytest.raises(LWDError, match="is a dictionary of image: give the adapter the keys"):
        policy({"image": np.zeros(3)})


def test_robomimic_rolls_a_policy_out() -> None:
    """Its real loop, which insists on its own class."""
    pytest.importorskip("robomimic.utils.train_utils")
    from robomimic.envs.env_base import EnvBase
    from robomimic.utils.train_utils import run_rollout

    class World(EnvBase):
        """Counts steps."""

        steps = 0

    methods: dict[str, Any] = {name: lambda self, *a, **k: None for name in EnvBase.__abstractmethods__}
    methods |= {"reset": lambda self: {"x": np.zeros(2)}, "is_success": lambda self: {"task": False}, "is_done": lambda self: False}

    def step(self: Any, action: Any) -> Any:
        self.steps += 1
        return {"x": np.full(2, self.steps)}, float(action[1]), False, {}

    env = type("Made", (World,), {**methods, "step": step, "__init__": lambda self: None})()
    found = run_rollout(robomimic_policy(Recorder(), 4, ["x"]), env, horizon=6)
    assert found["Return"] == 0 + 1 + 2 + 3 + 0 + 1 and found["Horizon"] == 6
