"""The evaluator on real PushT with scripted planners: what it reports is what happened, and costs are those of one robot."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from conftest import reaching, tiny_method
from lwd import cli
from lwd.config import Config, EvalSettings, from_dict
from lwd.data.formats.npz import save_npz
from lwd.envs.base import family
from lwd.episodes import Spec
from lwd.errors import LWDError
from lwd.evaluate import evaluate, evaluate_run, result_name, scenario_of, write_result
from lwd.methods.base import Generators
from lwd.report.tables import tabulate, tabulate_tasks, terminal
from lwd.rollout import Scenario
from lwd.statistics import bootstrap_mean, wilson
from lwd.timing import first_observations, hardware, measure_cost, time_training
from lwd.training.run import Run
from lwd.training.train import load_method, train

QUERY, HIDDEN = 64, 16


class Steer:
    """Controller: a random small network in the observation, (B, 5) -> (B, 2) pixels."""

    def __init__(self, first: Tensor, second: Tensor, horizon: int) -> None:
        self.first, self.second, self.horizon = first, second, horizon

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        hidden = torch.tanh(torch.bmm(obs[:, None] / 512, self.first))
        return 256 + 200 * torch.tanh(torch.bmm(hidden, self.second))[:, 0]

    def update(self, rows: Tensor, new: Steer) -> None:
        self.first[rows], self.second[rows] = new.first, new.second


class SteerPlanner:
    """A planner with a cost that can be counted by hand; draws its weights from the generators."""

    def __init__(self, horizon: int = 10, history: int = 2, delay: float = 0.0) -> None:
        torch.manual_seed(0)
        self.horizon, self.history, self.delay = horizon, history, delay
        self.net = nn.Linear(history * 5, QUERY)
        self.batches: list[int] = []

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> Steer:
        assert history.shape[1:] == (self.history, 5) and isinstance(generator, list) and len(generator) == len(history)
        time.sleep(self.delay)
        self.batches.append(len(history))
        self.net(history.flatten(1))
        draw = [(torch.randn(5, HIDDEN, generator=g), torch.randn(HIDDEN, 2, generator=g)) for g in generator]
        return Steer(torch.stack([a for a, _ in draw]), torch.stack([b for _, b in draw]), self.horizon)


class Stay:
    """Planner and controller in one: never moves."""

    history, horizon = 1, 10

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> Stay:
        return self

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        return obs[:, :2]

    def update(self, rows: Tensor, new: Stay) -> None:
        pass


def assess(planner: Any, seeds: Sequence[int] = range(100, 104), workers: int = 0, **settings: Any) -> dict[str, Any]:
    options = {key: settings.pop(key) for key in ("name", "sampling") if key in settings}
    how = EvalSettings(**{"max_steps": 25, **settings})
    return evaluate(planner, Scenario("pusht", "state", tuple(seeds)), how, workers=workers, **options)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return assess(SteerPlanner(), disturb="displace:50", sampling={"sampler": "ddim", "steps": 10})


def test_result_says_what_was_run(result: dict[str, Any]) -> None:
    assert (result["version"], result["env"], result["obs_kind"], result["primary"]) == (3, "pusht", "state", "max_overlap")
    assert (result["replan_every"], result["disturb"], result["delay"], result["max_steps"]) == (10, "displace:50", 0, 25)
    assert (result["episodes"], result["seed_start"], result["sampling"]) == (4, 100, {"sampler": "ddim", "steps": 10})
    expected = EvalSettings(replan_every=10, disturb="displace:50", max_steps=25, episodes=4, seed_start=100)
    assert from_dict(EvalSettings, json.loads(json.dumps(result["settings"]))) == expected
    assert result["name"] == "h10_displace50_n4_s100" and assess(Stay(), name="mine", max_steps=2)["name"] == "mine"
    assert result["hardware"]["cpu"] and result["hardware"]["cores"] >= 1 and result["hardware"]["device"] == "cpu"
    assert result["queries_per_episode"] == 3
    assert [(r["seed"], r["queried_at"]) for r in result["records"]] == [(seed, [0, 10, 20]) for seed in (100, 101, 102, 103)]


def test_scores_are_those_of_the_records_with_their_intervals(result: dict[str, Any]) -> None:
    overlaps = [r["max_overlap"] for r in result["records"]]
    expected = bootstrap_mean(overlaps)
    score = result["scores"]["max_overlap"]
    assert (score["mean"], score["low"], score["high"], score["kind"]) == (expected.mean, expected.low, expected.high, "mean")
    rate = result["scores"]["success"]
    assert rate["kind"] == "rate" and rate["high"] == wilson(0, 4).high
    assert set(result["scores"]) == {"max_overlap", "success", "final_coverage"} and result["primary"] == "max_overlap"


def test_flops_are_those_counted_by_hand(result: dict[str, Any]) -> None:
    query, policy = 2 * 10 * QUERY, 2 * (5 * HIDDEN + HIDDEN * 2)
    assert result["flops_per_step"] == {"query": query / 10, "policy": policy, "amortised_total": query / 10 + policy}


def test_costs_are_measured_on_a_batch_of_one() -> None:
    planner = SteerPlanner(delay=0.01)
    cost = measure_cost(planner, torch.rand(3, 5) * 512, 4)
    assert set(planner.batches) == {1} and len(planner.batches) > 24
    assert 10 <= cost["ms_per_query"]["p50"] <= cost["ms_per_query"]["p95"]
    assert 0 < cost["ms_per_control_step"]["p50"] < 10
    assert cost["flops_per_step"]["query"] == 2 * 10 * QUERY / 4


def test_same_settings_same_scores_whatever_the_workers() -> None:
    first, second = assess(SteerPlanner(), workers=0), assess(SteerPlanner(), workers=2)
    assert first["records"] == second["records"] and first["scores"] == second["scores"]
    assert assess(SteerPlanner(), sampler_seed=1)["records"] != first["records"]


def test_result_is_plain_json_on_disk_and_reads_back(result: dict[str, Any], tmp_path: Path) -> None:
    path = write_result(result, tmp_path / "eval")
    assert path.name == "h10_displace50_n4_s100.json" and [p.name for p in path.parent.iterdir()] == [path.name]
    assert json.loads(path.read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON")) == result
    single = assess(Stay(), seeds=[7], max_steps=2)
    assert single["scores"]["max_overlap"]["low"] is None
    assert "no interval" in " ".join(tabulate([single]).rows[0])


def test_tables_hold_the_intervals(result: dict[str, Any]) -> None:
    score = result["scores"]["max_overlap"]
    text = f"{score['mean']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"
    for results in ([result], [result, result]):
        stream = io.StringIO()
        Console(file=stream, width=200).print(terminal(tabulate(results, "PushT")))
        assert text in stream.getvalue() and "h10_displace50_n4_s100" in stream.getvalue()
        assert "too narrow" in " ".join(stream.getvalue().split())  # four episodes


def test_names_are_made_of_the_settings() -> None:
    settings = EvalSettings(replan_every=16, disturb="displace:2.5", episodes=50)
    assert result_name(settings) == "h16_displace2.5_n50_s100000"
    assert result_name(settings, "ddim10") == "h16_displace2.5_n50_s100000_ddim10"
    assert result_name(EvalSettings(replan_every=16, delay=8, episodes=50)) == "h16_none_delay8_n50_s100000"


def test_mistakes_are_told() -> None:
    with pytest.raises(LWDError, match="seed"):
        assess(Stay(), seeds=[])
    with pytest.raises(LWDError, match=r"a query every 11 steps .* made for 10"):
        assess(SteerPlanner(), replan_every=11)


PLAYROOM = """
import gymnasium, numpy as np
from lwd.envs.base import EnvFamily

class Room(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Box(0.0, 512.0, (2,))

    def __init__(self, goal):
        self.goal = goal

    def reset(self, *, seed=None, options=None):
        self.position = np.random.default_rng(seed).uniform(240, 260, 2)
        return self.position.copy(), {}

    def step(self, action):
        self.position += 0.5 * (action - self.position)
        return self.position.copy(), 0.0, False, False, {"near": float(abs(self.position[0] - self.goal) < 100)}

    def render(self):
        return np.full((32, 32, 3), 255 * (self.goal > 256), np.uint8)

class Playroom(EnvFamily):
    name = "playroom"
    max_steps = 12
    action_low, action_high = (0.0, 0.0), (512.0, 512.0)
    info_keys = trace = ("near",)
    scores, primary = {"reached": "rate"}, "reached"
    tasks, task_sets = ("go left", "right"), {"both": ("go left", "right")}

    def make(self, obs_kind, task=None):
        return Room({"go left": 100.0, "right": 400.0}[task])

    def summarise(self, infos):
        return {"reached": max(infos["near"])}

    def curve(self, episode):
        return episode["near"]

FAMILY = Playroom()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A tiny run of a model of two tasks, in a simulator of one's own."""
    folder = tmp_path_factory.mktemp("playroom")
    (folder / "playroom.py").write_text(PLAYROOM)
    data = reaching()
    tasks = np.array(["right", "go left"] * (len(data) // 2))
    save_npz(replace(data, task=tasks, meta=replace(data.meta, env="playroom")), folder / "data.npz")
    config = Config(data=str(folder / "data.npz"), out=str(folder / "run"), horizon=8, threads=1, precision="32-true", method=tiny_method())
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield train(config, quiet=True)


def test_a_run_is_evaluated_in_all_its_tasks(run: Run) -> None:
    progress: list[tuple[int, int]] = []
    result, path, videos = evaluate_run(run, EvalSettings(episodes=3), workers=0, progress=lambda *done: progress.append(done))
    assert path == run.path / "eval" / "h8_none_n3_s100000.json" and json.loads(path.read_text()) == result and videos == []
    assert list(result["tasks"]) == ["go left", "right"] and [own["episodes"] for own in result["tasks"].values()] == [3, 3]
    assert [r["seed"] for r in result["records"]] == [100_000, 100_001, 100_002] * 2
    assert result["scores"]["reached"]["mean"] == pytest.approx(np.mean([own["reached"]["mean"] for own in result["tasks"].values()]))
    assert result["settings"]["episodes"] == 3 and result["sampling"]["steps"] == 4 and progress[-1] == (12, 12)
    assert [row[0] for row in sorted(tabulate_tasks(result).rows)] == ["go left", "right"]
    again, _, _ = evaluate_run(run, EvalSettings(episodes=3), workers=2)
    assert again["records"] == result["records"]


def test_other_settings_have_other_names(run: Run) -> None:
    def stem(**settings: Any) -> str:
        return evaluate_run(run, EvalSettings(**{"episodes": 1, **settings}), workers=0)[1].stem.removeprefix("h8_none_n1_s100000")

    assert stem() == "" == stem(sampler="ddim", sampler_steps=4)  # what the run does anyway
    assert stem(sampler_steps=2) == "_ddim2" and stem(latent="prior") == "_prior"
    assert stem(sampler_seed=1) == "_draw1" and stem(max_steps=5) == "_5steps"
    assert stem(ensemble=4) == "_mean4" and stem(temporal=True, ensemble=2, sampler_steps=2) == "_ddim2-mean2-temporal"
    assert stem(tasks=("right",)) == "_right" and stem(tasks=("both",)).startswith("_2tasks-")  # a space makes no good file name
    assert evaluate_run(run, EvalSettings(episodes=1), name="mine", workers=0)[1].name == "mine.json"
    with pytest.raises(LWDError, match="file name"):
        evaluate_run(run, EvalSettings(), name="../mine")


def test_an_evaluation_is_disturbed_delayed_and_wrapped_as_asked(run: Run) -> None:
    """What the settings ask for changes what happens, and the result says so."""

    def evaluated(**settings: Any) -> dict[str, Any]:
        return evaluate_run(run, EvalSettings(**{"episodes": 2, "replan_every": 4, "tasks": ("right",), **settings}), workers=0)[0]

    plain, late = evaluated(), evaluated(delay=3)
    assert late["name"].startswith("h4_none_delay3_n2") and (late["delay"], plain["delay"]) == (3, 0)
    assert [e["ages"] for e in plain["records"]] == [[0, 1, 2, 3] * 3] * 2
    assert [e["ages"] for e in late["records"]] == [[0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 3]] * 2
    assert [e["causes"] for e in late["records"]] == [["start", "interval", "interval"]] * 2
    noisy = evaluated(disturb="sensor-noise:20")
    assert noisy["name"].startswith("h4_sensor-noise20_n2") and noisy["disturb"] == "sensor-noise:20"
    query, mean = plain["flops_per_step"]["query"], evaluated(ensemble=3)
    assert mean["flops_per_step"]["query"] == pytest.approx(3 * query), "three policies cost three times as much"
    assert from_dict(EvalSettings, json.loads(json.dumps(mean["settings"]))).ensemble == 3
    assert "delay 3" in tabulate([late]).rows[0][2] and "delay" not in tabulate([plain]).rows[0][2]
    with pytest.raises(LWDError, match="playroom has no disturbance 'displace', it has: action-noise"):
        evaluated(disturb="displace:50")


def test_videos_of_several_tasks_do_not_overwrite_each_other(run: Run) -> None:
    _, _, videos = evaluate_run(run, EvalSettings(episodes=2, replan_every=4, max_steps=6), name="film", video=4, workers=0)
    left, right = ([run.path / "videos" / f"film_{task}_{seed}.gif" for seed in (100_000, 100_001)] for task in ("go%20left", "right"))
    assert videos == [*left, *right] and all(path.exists() for path in videos)
    for path in videos:
        with Image.open(path) as picture:
            bright = np.asarray(picture.convert("RGB"), int)[4:28, 4:28].mean() > 128
        assert bright == ("right" in path.name)


def test_who_has_nothing_to_run_in_is_told(run: Run, trained: Path) -> None:
    with pytest.raises(LWDError, match="names no environment"):
        evaluate_run(Run(trained), EvalSettings())
    with pytest.raises(LWDError, match="playroom has no task 'up'; it has both, go left, right"):
        evaluate_run(run, EvalSettings(tasks=("up",)))
    one = Spec(2, 2, 8, 8, env="playroom", tasks=("right",))
    with pytest.raises(LWDError, match="does not know the task go left: it knows right"):
        scenario_of(one, EvalSettings(tasks=("both",)))
    assert scenario_of(one, EvalSettings(seed_start=3)) == Scenario("playroom", "state", tuple(range(3, 53)), ("right",) * 50)


def test_an_unfinished_run_is_not_evaluated(run: Run, tmp_path: Path) -> None:
    half = Run(shutil.copytree(run.path, tmp_path / "half"))
    folder = half.latest()
    assert folder is not None
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "done": ["autoencoder"]}))
    with pytest.raises(LWDError, match=r"not trained to its end \(diffusion is missing\).*`lwd train`"):
        evaluate_run(half, EvalSettings())


def test_eval_on_the_command_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", str(run.path), "--debug", "--replan-every", "4", "--tasks", "right", "--video", "1", "--workers", "0"]
    assert cli.main([*words, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["replan_every"] == 4 and summary["episodes"] == 2 and "records" not in summary
    assert Path(summary["path"]).exists() and [Path(video).exists() for video in summary["videos"]] == [True]
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    assert summary["name"] in shown.out.replace("\n", "") and str(Path(summary["path"]).name) in shown.out and "Traceback" not in shown.err
    assert cli.main(["eval", str(run.path), "--tasks", "up"]) == 2
    assert "has no task 'up'" in capsys.readouterr().err


def test_first_observations_are_those_of_the_first_task(run: Run) -> None:
    first = first_observations(Scenario("playroom", "state", (5, 6, 5, 6), ("right", "right", "go left", "go left")), count=2)
    env = family("playroom").make("state", "right")
    np.testing.assert_allclose(first, [env.reset(seed=seed)[0] for seed in (5, 6)], rtol=1e-6)
    assert first.dtype == torch.float32


def test_training_steps_are_timed(run: Run) -> None:
    timed = time_training(run.config(), steps=3)
    assert set(timed["stages"]) == {"autoencoder", "diffusion"} and timed["parameters"] == load_method(run).parameter_counts()
    for stage, own in timed["stages"].items():
        assert (own["steps"], own["batch"]) == (20, run.config().method.stages[stage].batch) and own["flops_per_step"] > 0
        assert own["seconds"] == pytest.approx(own["prepare_seconds"] + own["steps"] * own["ms_per_step"] / 1e3)
    assert torch.get_num_threads() == 1


def test_hardware_is_json() -> None:
    assert json.loads(json.dumps(hardware()))["torch"] == torch.__version__
    assert np.isfinite(hardware()["threads"])
