"""Results of studies: pooling of tidy rows, views, figures by what they show, and one real tiny study from command to Markdown."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lwd.cli import main
from lwd.report import grids
from lwd.report.tables import Table
from lwd.statistics import Interval, stratified_mean, wilson
from lwd.studies.jobs import Plan
from lwd.studies.results import Results, difference, pool
from lwd.studies.study import Drawing, Options

AXES = ["--axes", "source=gaussian,diffusion", "replan_every=16,32", "disturb=none"]


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished `lwd study latent --debug`: one training, four evaluations."""
    pytest.importorskip("gym_pusht")
    out = tmp_path_factory.mktemp("studies") / "latent"
    assert main(["study", "latent", "--debug", *AXES, "--out", str(out)]) == 0
    return out


# --- a real study -----------------------------------------------------------------------------------------------------------------------


def test_a_study_from_command_to_page(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads((done / "latent.json").read_text())
    assert (result["study"], result["env"], result["score"], result["failures"]) == ("latent", "pusht", "max_overlap", [])
    rows = pd.DataFrame(result["episodes"])
    assert len(rows) == 2 * 2 * 2 and set(rows["environment_seed"]) == {100_000, 100_001}
    for entry in result["pooled"]:
        own = rows[(rows["source"] == entry["source"]) & (rows["replan_every"] == entry["replan_every"])]
        assert entry["scores"]["max_overlap"]["mean"] == pytest.approx(own["max_overlap"].mean())
        assert entry["values"]["query_flops"]["mean"] > 0
    table = result["tables"][0]
    assert table["columns"] == ["replan every", "gaussian", "diffusion"] and [row[0] for row in table["rows"]] == ["16", "32"]
    for entry in result["pooled"]:
        cell = next(row for row in table["rows"] if row[0] == str(entry["replan_every"]))[table["columns"].index(entry["source"])]
        assert cell.strip("*") == str(Interval.from_dict(entry["scores"]["max_overlap"]))
    paired = rows.pivot_table(index=["replan_every", "environment_seed"], columns="source", values="max_overlap")
    for apart in result["differences"]:
        own = paired.loc[apart["replan_every"]]
        assert apart["mean"] == pytest.approx((own["diffusion"] - own["gaussian"]).mean()) and apart["pairs"] == 2
    text = (done / "latent.md").read_text()
    assert "diffusion minus the others" in text and "latent.png" in text and "synthetic" in text
    assert (done / "latent.png").stat().st_size > 5000
    assert len(list((done / "runs").iterdir())) == 1, "both sources are drawn from one run"

    stamps = {path: path.stat().st_mtime_ns for path in (done / "jobs").iterdir()}
    capsys.readouterr()
    assert main(["study", "latent", "--debug", *AXES, "--out", str(done), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["pooled"] == result["pooled"] and "episodes" not in printed
    assert {path: path.stat().st_mtime_ns for path in (done / "jobs").iterdir()} == stamps, "nothing was run again"
    assert main(["study", "latent", "--debug", *AXES, "--out", str(done), "--plan", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["jobs"].values()) == [True] * 5


def test_a_study_without_jobs_measures_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gym_pusht")
    assert main(["study", "cost", "--debug", "--axes", "method=mlp,dp", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "cost.json").read_text())
    stages, use = result["tables"]
    assert [row[0] for row in stages["rows"]] == ["mlp, 32 steps, cloning", "dp, 16 steps, diffusion", "dp, 32 steps, diffusion"]
    per_step = {(row["method"], row["replan_every"]): row["step_flops"] for row in result["cells"]}
    assert per_step["dp", 16] > per_step["mlp", 16] == per_step["mlp", 32] > 0
    assert [row[:2] for row in use["rows"]] == [["mlp", "16"], ["mlp", "32"], ["dp", "16"], ["dp", "32"]]
    assert (tmp_path / "cost.png").exists() and "FLOPs of a step are counted" in (tmp_path / "cost.md").read_text()


# --- pooling ----------------------------------------------------------------------------------------------------------------------------


def frame(scores: Mapping[int, Mapping[Any, float]]) -> pd.DataFrame:
    """Rows of episodes from training seed -> environment seed, or (task, environment seed) -> score."""
    rows = [(seed, *(key if isinstance(key, tuple) else ("", key)), value) for seed, own in scores.items() for key, value in own.items()]
    return pd.DataFrame(rows, columns=["training_seed", "task", "environment_seed", "score"])


def test_pooled_intervals() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.1, (3, 60))
    scores = {seed: {100 + i: float(v) for i, v in enumerate(row)} for seed, row in enumerate(values)}
    found = pool(frame(scores), "score")
    assert found["mean"] == pytest.approx(values.mean()) and found["episodes"] == 180
    half = 1.96 * np.sqrt((values.var(1) / 60).sum()) / 3
    assert found["high"] - found["mean"] == pytest.approx(half, rel=0.05) and found["mean"] - found["low"] == pytest.approx(half, rel=0.05)
    moved = pool(frame({seed: {env: v + 0.2 * seed for env, v in row.items()} for seed, row in scores.items()}), "score")
    assert moved["over_trainings"]["high"] - moved["over_trainings"]["low"] > 3 * (moved["high"] - moved["low"])
    rate = pool(frame({0: {1: 1.0, 2: 0.0}, 1: {1: 0.0, 2: 0.0}}), "score", "rate")
    assert rate["mean"] == 0.25 and rate["low"] == pytest.approx(0.0456, abs=1e-3) and rate["high"] == pytest.approx(0.6994, abs=1e-3)
    assert pool(frame({0: {1: 0.2, 2: 0.4}}), "score")["over_trainings"] == {"low": None, "high": None}


def test_pooling_by_task() -> None:
    rng, rates = np.random.default_rng(0), {"easy": 0.9, "hard": 0.3}
    scores = {s: {(t, 100 + i): float(rng.random() < p) for t, p in rates.items() for i in range(16)} for s in range(3)}
    groups = [[v for (t, _), v in row.items() if t == task] for row in scores.values() for task in rates]
    found, expected = pool(frame(scores), "score", "rate"), stratified_mean(groups)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((expected.mean, expected.low, expected.high))
    together = wilson(round(sum(map(sum, groups))), 96)
    assert found["high"] - found["low"] < together.high - together.low, "how much tasks differ is no uncertainty"
    assert found["over_trainings"]["low"] <= found["mean"] <= found["over_trainings"]["high"]
    uneven = {0: {("a", 1): 1.0, ("b", 1): 0.0, ("b", 2): 0.0, ("b", 3): 0.0}}
    assert pool(frame(uneven), "score", "rate")["mean"] == 0.5, "every task counts the same"
    constant = {s: {(t, i): value for t, value in (("a", 0.2), ("b", 0.8)) for i in range(5)} for s in range(2)}
    assert pool(frame(constant), "score")["over_trainings"] == pytest.approx({"low": 0.5, "high": 0.5})


def test_published_intervals_stay() -> None:
    """Rows of the published horizon study give its published intervals."""
    path = Path(__file__).parents[1] / "docs" / "results" / "horizon" / "horizon.json"
    published = json.loads(path.read_text())
    axes = ["method", "horizon", "perturbation"]
    for entry in [e for e in published["pooled"] if e["method"] in ("lwd", "random")][::4]:
        cells = [cell for cell in published["cells"] if all(cell[axis] == entry[axis] for axis in axes)]
        scores = {cell["seed"]: {record["seed"]: record[published["score"]] for record in cell["records"]} for cell in cells}
        found, old = pool(frame(scores), "score"), entry["scores"][published["score"]]
        assert [found[key] for key in ("mean", "low", "high")] == pytest.approx([old[key] for key in ("mean", "low", "high")])
        assert found["over_trainings"] == pytest.approx(old["over_trainings"])


def test_paired_difference() -> None:
    first = frame({0: {1: 0.5, 2: 0.7, 3: 0.9}, 1: {1: 0.6, 2: 0.8}})
    second = frame({0: {1: 0.4, 2: 0.6, 9: 0.0}, 1: {1: 0.5, 2: 0.7}, 2: {1: 0.0}})
    found = difference(first, second, "score")
    assert found is not None and found["mean"] == pytest.approx(0.1) and found["pairs"] == 4 and found["low"] == pytest.approx(0.1)
    assert difference(first, frame({5: {1: 0.0}}), "score") is None


# --- views ------------------------------------------------------------------------------------------------------------------------------


def results_of(name: str, score: Any, *axes: str, cost: Any = lambda values: 1e6, seeds: int = 2, tasks: Iterable[str] = ("",)) -> Results:
    """Results of a study whose episodes have given scores: `score(axes, training seed)` and a little for every other environment."""
    study = importlib.import_module(f"lwd.studies.{name}").STUDY
    plan = Plan(name, study, Options(axes=axes, seeds=seeds, out="unused"))
    cells, episodes = [], []
    for cell in plan.cells:
        labels = {**cell.values, "training_seed": cell.seed}
        costs = {"step_flops": cost(cell.values), "query_flops": 1e7, "ms_per_query": 2.0 + cell.seed, "ms_per_control_step": 0.1}
        costs["queries_per_episode"] = 300 / cell.values.get("replan_every", 16)
        cells.append({**labels, "run": "run", **costs, "seconds_per_episode": 0.5, "links.rate": 10.0 + cell.seed, "links.moved": None})
        for task in tasks:
            episodes += [
                {**labels, "task": task, "environment_seed": e, "success": score(cell.values, cell.seed) + 0.02 * (e % 2)} for e in range(4)
            ]
    facts = {"data": {"description": "synthetic", "episodes": 90, "held_out": 10}}
    return Results(plan, pd.DataFrame(cells), pd.DataFrame(episodes), "success", {"success": "mean"}, facts)


def test_views_of_the_horizon_study() -> None:
    def score(values: Mapping[str, Any], seed: int) -> float:
        base = {"lwd": 0.9 - values["replan_every"] / 1000, "dp": 0.92 - values["replan_every"] / 200, "random": 0.1}[values["method"]]
        return base - 0.05 * (values["disturb"] != "none")

    def cost(values: Mapping[str, Any]) -> float:
        return {"lwd": 1e6, "dp": 3.2e7, "random": 0.0}[values["method"]] / values["replan_every"]

    results = results_of("horizon", score, "method=lwd,dp,random", "replan_every=16,32", "disturb=none,displace:50", "delay=0", cost=cost)
    views = [view for view in results.plan.study.views if getattr(view, "__name__", "") != "film"]
    made = [item for view in views for item in view(results)]
    tables = {item.title: item for item in made if isinstance(item, Table)}
    assert tables["success"].columns == ["replan every", "disturb", "lwd", "dp", "random"]
    assert tables["success"].rows[0][:3] == ["16", "none", "**0.89 [0.89, 0.90]**"] and tables["success"].rows[1][0] == "16"
    assert tables["lwd minus the others"].rows[0][3].startswith("0.78 [0.78, 0.78] †")
    cost = {tuple(row[:2]): row[3] for row in tables["cost"].rows}
    assert (cost["lwd", "16"], cost["dp", "16"], cost["random", "32"]) == ("0.0625", "2", "0")
    cheapest = next(table for title, table in tables.items() if title.startswith("The largest"))
    assert cheapest.rows[0] == ["none", "dp, every 16: 0.85, 2 MFLOP", "lwd", "every 32: 0.88, 0.0312 MFLOP", "64"]
    drawn = {item.name: item.figure for item in made if isinstance(item, Drawing)}
    still, pushed = drawn["figure3"].axes
    assert (still.get_title("left"), pushed.get_title("left")) == ("none", "displace:50")
    assert [line.get_label() for line in still.lines] == ["lwd", "dp", "random"] and still.get_xlabel() == "steps between queries"
    assert list(still.lines[0].get_xdata()) == [16, 32] and list(still.lines[0].get_ydata()) == pytest.approx([0.894, 0.878])
    assert len(still.collections) > 3, "bands of the trainings and of the episodes"
    for name, xlabel in (
        ("queries", "queries per episode"),
        ("flops", "FLOPs per environment step"),
        ("figure20", "seconds of computation"),
    ):
        assert {text.get_text() for text in drawn[name].axes[0].texts} == {"16", "32"} and xlabel in drawn[name].axes[0].get_xlabel()
        assert [axes.get_title("left") for axes in drawn[name].axes] == ["none", "displace:50"]
    assert not any(title.startswith("What a delay costs") for title in tables), "no delay, no table"
    assert [text.get_text() for text in drawn["figure20"].legends[0].texts] == ["lwd", "dp", "random"]


def test_a_table_tells_what_a_delay_costs() -> None:
    def score(values: Mapping[str, Any], seed: int) -> float:
        return 0.9 - 0.01 * values["delay"] * (1 if values["method"] == "lwd" else 3) - 0.1 * (values["disturb"] != "none")

    axes = ("method=lwd,lwd-fast,dp", "replan_every=8,16", "disturb=none,displace:25", "delay=0,8")
    results = results_of("horizon", score, *axes)
    made = [item for view in results.plan.study.views if getattr(view, "__name__", "") != "film" for item in view(results)]
    table = next(item for item in made if isinstance(item, Table) and item.title == "What a delay costs")
    assert table.columns == ["method", "replan every", "disturb", "delay", "with it − without"]
    found = sorted((row[0], int(row[1]), *row[2:4]) for row in table.rows)
    assert found == [(m, n, d, "8") for m in ("dp", "lwd") for n in (8, 16) for d in ("displace:25", "none")]
    assert {row[0]: row[4].split()[0] for row in table.rows} == {"lwd": "-0.08", "dp": "-0.24"}
    drawn = {item.name: item.figure for item in made if isinstance(item, Drawing)}
    assert len(drawn["figure3"].axes) == 2, "only what was not delayed is drawn against the interval"
    assert [axes.get_title("left") for axes in drawn["flops"].axes] == [f"{d}, delay {n}" for d in ("none", "displace:25") for n in (0, 8)]


def test_no_interval_is_good_enough() -> None:
    from lwd.studies.horizon import cheapest

    def rows(*axes: str, **score: float) -> list[Any]:
        results = results_of(
            "horizon", lambda values, seed: score[values["method"].replace("-", "_")], *axes, "replan_every=16", "disturb=none", "delay=0"
        )
        return [row for table in cheapest(results) for row in table.rows]

    found = rows("method=dp,lwd,lwd-fast", dp=0.9, lwd=0.8, lwd_fast=0.86)
    assert [(row[2], row[3].split(":")[0], row[4]) for row in found] == [("lwd", "none", "–"), ("lwd-fast", "every 16", "1")]
    assert rows("method=lwd", lwd=0.8) == []


def test_the_comparison_of_the_compute_study() -> None:
    means = {"lwd-128": 0.87, "lwd-256": 0.90, "dp-xs-32": 0.70, "dp-s-32": 0.88, "mlp-128": 0.80}
    flops = {"lwd-128": 1e5, "lwd-256": 3e5, "dp-xs-32": 1e6, "dp-s-32": 4.5e6, "mlp-128": 5e4}
    results = results_of(
        "compute",
        lambda values, seed: means[values["model"]],
        f"model={','.join(means)}",
        cost=lambda v: flops[v["model"]],
        tasks=("reach", "push"),
    )
    made = [item for view in results.plan.study.views for item in view(results)]
    table = next(item for item in made if isinstance(item, Table) and item.title == "how many times as many FLOPs")
    (row,) = table.rows
    assert row[1] == "lwd-256: 0.91 at 0.3 MFLOP" and row[2] == "dp-s-32: 0.89 at 4.5 MFLOP" and row[3] == "15"
    assert row[4] == "0.02 [0.02, 0.02]"
    by_task = next(item for item in made if isinstance(item, Table) and item.title == "success by task")
    assert by_task.columns[1:] == list(means) and {row[0] for row in by_task.rows} == {"reach", "push"}
    figure = next(item.figure for item in made if isinstance(item, Drawing))
    (axes,) = figure.axes
    assert axes.get_xlabel() == "FLOPs per environment step" and {text.get_text() for text in axes.texts} == {
        "128",
        "256",
        "xs, 32",
        "s, 32",
    }
    assert [text.get_text() for text in figure.legends[0].texts] == ["LWD", "DP, U-Net", "MLP"]
    assert [grids.short(tick) for tick in (32.0, 1e-6, 5e5, 7_799_660.0)] == ["32", "1e-6", "500k", "7.8M"]


def test_what_was_measured_in_trainings() -> None:
    results = results_of("kl", lambda values, seed: 0.5 + 4e3 * values["beta"], "beta=1e-6,1e-5")
    made = [item for view in results.plan.study.views[:-1] for item in view(results)]
    links = next(item for item in made if isinstance(item, Table) and item.title == "what the latent holds")
    rate = next(number for number, name in enumerate(links.columns) if name.startswith("rate"))
    assert [row[rate] for row in links.rows] == ["10.5 (10 to 11)"] * 2, "mean over trainings, least and most"
    lines = next(item.figure for item in made if isinstance(item, Drawing) and item.name == "figure12-score").axes[0].lines
    assert [line.get_label() for line in lines] == ["none", "displace:50"] and list(lines[0].get_ydata()) == pytest.approx([0.514, 0.55])


def test_what_a_world_model_adds() -> None:
    chosen = "method=lwd,lwd-rollout1,lwd-improved,dp,mlp-improved"
    results = results_of("worldmodel", lambda values, seed: 0.5 + 0.2 * ("improved" in values["method"]), chosen)
    made = [item for view in results.plan.study.views for item in view(results)]
    table = next(item for item in made if isinstance(item, Table) and "lwd-improved" in item.columns)
    assert list(table.columns[2:]) == chosen.removeprefix("method=").split(",")
    assert table.rows[-1][5] == "–", "its chunks have 16 steps, and are not asked every 32"
    assert "**" in table.rows[0][4] and "**" not in table.rows[0][2]
    assert any(isinstance(item, Drawing) and item.name == "worldmodel" for item in made)
    assert any(isinstance(item, Table) and item.title == "minutes of training" for item in made)


def test_demonstrations_and_noise_of_the_multitask_study() -> None:
    def score(values: Mapping[str, Any], seed: int) -> float:
        return 0.9 - values["noise"] - (0.1 if values["demonstrations"] else 0.0)

    results = results_of("multitask", score, "demonstrations=0,5,10", "noise=0,0.3", "method=lwd,mlp", tasks=("reach", "push"))
    assert len(results.plan.cells) == 2 * (2 * 2 + 2 * 2), "few demonstrations are evaluated without noise only"
    drawn = {item.name: item.figure for view in results.plan.study.views for item in view(results) if isinstance(item, Drawing)}
    assert list(drawn["demonstrations"].axes[0].lines[0].get_xdata()) == [5, 10]
    assert list(drawn["noise"].axes[0].lines[0].get_ydata()) == pytest.approx([0.91, 0.61])
    quiet, noisy = drawn["compute"].axes
    assert {text.get_text() for text in quiet.texts} == {"lwd", "mlp"} and len(noisy.texts) == 2, (
        "all demonstrations, a panel for each noise"
    )
    few = results_of("multitask", score, "demonstrations=5", "method=lwd,mlp", tasks=("reach",))
    assert "compute" not in {item.name for view in few.plan.study.views for item in view(few) if isinstance(item, Drawing)}


# --- figures ----------------------------------------------------------------------------------------------------------------------------


def test_maps_of_latents_by_task_and_by_progress() -> None:
    rng = np.random.default_rng(0)
    codes, tasks = rng.normal(size=(60, 4)) * [3, 1, 0.1, 0.1], np.repeat(["push", "reach"], 30)
    figure = grids.maps({"whole": (codes, tasks), "short": (codes, tasks)})
    assert [text.get_text() for text in figure.legends[0].texts] == ["push", "reach"]
    assert figure.axes[0].get_title("left") == "whole" and "of variance" in figure.axes[0].get_xlabel()
    widths = [np.ptp(np.asarray(c.get_offsets())[:, 0]) for c in figure.axes[0].collections]
    heights = [np.ptp(np.asarray(c.get_offsets())[:, 1]) for c in figure.axes[0].collections]
    assert min(widths) > max(heights), "the first component is the widest"
    shaded = grids.maps({f"β = {i}": (codes, np.linspace(0, 1, 60)) for i in range(4)}, label="start")
    assert sum(axes.get_visible() for axes in shaded.axes) == 4 + 1 and any(axes.get_ylabel() == "start" for axes in shaded.axes)


def test_film_strips() -> None:
    rows = {"lwd": [np.zeros((8, 12, 3), np.uint8)] * 3, "dp": [np.zeros((8, 12, 3), np.uint8)] * 3}
    figure = grids.film_rows(rows, "a title")
    assert [axes.get_ylabel() for axes in figure.axes] == ["lwd", "dp"] and figure.get_suptitle() == "a title"
