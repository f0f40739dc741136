"""The evaluator on real PushT with scripted planners: what it reports is what happened, and costs are those of one robot."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from lwd.errors import LWDError
from lwd.evaluate import compare, evaluate, hardware, measure_cost, result_name, write_result
from lwd.methods.base import Generators
from lwd.statistics import bootstrap_mean, wilson
from lwd.tables import render, tabulate

QUERY, HIDDEN = 64, 16


class Steer:
    """Controller: a random small network in the observation, (B, 5) -> (B, 2) pixels."""

    def __init__(self, first: Tensor, second: Tensor, horizon: int) -> None:
        self.first, self.second, self.horizon = first, second, horizon

    def act(self, obs: Tensor, t: int) -> Tensor:
        hidden = torch.tanh(torch.bmm(obs[:, None] / 512, self.first))
        return 256 + 200 * torch.tanh(torch.bmm(hidden, self.second))[:, 0]


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

    def act(self, obs: Tensor, t: int) -> Tensor:
        return obs[:, :2]


def assess(planner: Any, **settings: Any) -> dict[str, Any]:
    return evaluate(planner, **{"env": "pusht", "obs": "state", "seeds": range(100, 104), "max_steps": 25, "workers": 0, **settings})


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return assess(SteerPlanner(), perturbation=50.0, sampler={"sampler": "ddim", "steps": 10})


def test_result_says_what_was_run(result: dict[str, Any]) -> None:
    assert (result["version"], result["env"], result["obs"], result["horizon"], result["perturbation"]) == (1, "pusht", "state", 10, 50.0)
    assert (result["episodes"], result["seed_start"], result["max_steps"]) == (4, 100, 25)
    assert result["sampler"] == {"sampler": "ddim", "steps": 10}
    assert result["name"] == "h10_p50_n4_s100"
    assert result["hardware"]["cpu"] and result["hardware"]["cores"] >= 1 and result["hardware"]["device"] == "cpu"
    assert result["queries_per_episode"] == 3
    assert [r["seed"] for r in result["records"]] == [100, 101, 102, 103]


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
    cost = measure_cost(planner, torch.rand(3, 5) * 512, horizon=4)
    assert set(planner.batches) == {1} and len(planner.batches) > 24
    assert 10 <= cost["ms_per_query"]["p50"] <= cost["ms_per_query"]["p95"]
    assert 0 < cost["ms_per_control_step"]["p50"] < 10
    assert cost["flops_per_step"]["query"] == 2 * 10 * QUERY / 4


def test_same_settings_same_scores_whatever_the_workers() -> None:
    first, second = assess(SteerPlanner(), workers=0), assess(SteerPlanner(), workers=2)
    assert first["records"] == second["records"] and first["scores"] == second["scores"]
    assert assess(SteerPlanner(), sampler_seed=1)["records"] != first["records"]


def test_pictures_reach_the_one_who_asks() -> None:
    seen: list[Any] = []
    assess(Stay(), seeds=[1, 2], max_steps=3, record_frames=1, inspect=seen.append)
    assert list(seen[0].frames) == [0] and len(seen[0].frames[0]) == 4


def test_result_is_plain_json_on_disk_and_reads_back(result: dict[str, Any], tmp_path: Path) -> None:
    path = write_result(result, tmp_path / "eval")
    assert path.name == "h10_p50_n4_s100.json" and [p.name for p in path.parent.iterdir()] == [path.name]
    assert json.loads(path.read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON")) == result
    single = assess(Stay(), seeds=[7], max_steps=2)
    assert single["scores"]["max_overlap"]["low"] is None
    assert "no interval" in tabulate([single])[1][0][4]


def test_comparison_is_paired_by_seed(result: dict[str, Any]) -> None:
    shuffled = {**result, "records": result["records"][::-1]}
    assert all(i.mean == i.low == i.high == 0 for i in compare(result, shuffled).values())
    better = {**result, "records": [{**r, "max_overlap": r["max_overlap"] + 0.1} for r in result["records"]]}
    assert math.isclose(compare(better, result)["max_overlap"].low, 0.1, abs_tol=1e-9)
    with pytest.raises(LWDError, match="same seeds"):
        compare(result, {**result, "records": result["records"][:2]})


def test_tables_hold_the_intervals(result: dict[str, Any]) -> None:
    columns, rows = tabulate([result, result])
    assert all(len(row) == len(columns) for row in rows)
    score = result["scores"]["max_overlap"]
    text = f"{score['mean']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"
    assert text in rows[0]
    for results in ([result], [result, result]):
        stream = io.StringIO()
        Console(file=stream, width=200).print(render(results, "PushT"))
        assert text in stream.getvalue() and "h10_p50_n4_s100" in stream.getvalue()
        assert "too narrow" in " ".join(stream.getvalue().split())  # four episodes


def test_names_are_file_names() -> None:
    assert result_name(horizon=16, perturbation=0.0, episodes=50, seed_start=100000) == "h16_p0_n50_s100000"
    assert result_name(horizon=16, perturbation=50.0, episodes=50, seed_start=100000, label="ddim10") == "h16_p50_n50_s100000_ddim10"
    assert result_name(horizon=1, perturbation=2.5, episodes=1, seed_start=0, label="dpm++5") == "h1_p2.5_n1_s0_dpm++5"
    with pytest.raises(LWDError, match="file name"):
        result_name(horizon=1, perturbation=0, episodes=1, seed_start=0, label="../x")


def test_mistakes_are_told() -> None:
    with pytest.raises(LWDError, match="seed"):
        assess(Stay(), seeds=[])
    with pytest.raises(LWDError, match="unknown environment"):
        assess(Stay(), env="nowhere")


def test_hardware_is_json() -> None:
    assert json.loads(json.dumps(hardware()))["torch"] == torch.__version__
    assert np.isfinite(hardware()["threads"])
