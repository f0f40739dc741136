"""Studies: the task graph (order, resume, failure, kill, Ray), pooling, and what comes out; mostly with a command that imitates lwd."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import tyro

from lwd.config import Config
from lwd.errors import LWDError
from lwd.presets import PRESETS
from lwd.studies import estimate, figures, pooling
from lwd.studies.base import Cell, Study
from lwd.studies.estimate import Cost
from lwd.studies.files import training_progress
from lwd.studies.horizon import RECIPES, Horizon, cheapest
from lwd.studies.progress import remaining
from lwd.studies.tasks import Outcome, Task, execute, run_command
from lwd.studies.workers import Flag, LocalWorkers, study_lock

# Imitates `lwd train` and `lwd eval`. Scores are a function of method, horizon, perturbation, training seed and environment seed. What it
# did is appended to $FAKE_LOG; tasks named in $FAKE_FAIL fail; every command takes $FAKE_SLEEP seconds; with $FAKE_MEET trainings end only
# after that many have begun.
FAKE = r"""
import json, os, signal, sys, time
from pathlib import Path

verb, words = sys.argv[1], sys.argv[2:]
option = lambda name: words[words.index(name) + 1]
run = Path(option("--out") if verb == "train" else words[0])
name = run.name if verb == "train" else run.name + "-" + option("--name")

def note(text):
    with open(os.environ["FAKE_LOG"], "a") as file:
        file.write(text + " " + name + "\n")

signal.signal(signal.SIGTERM, lambda *_: (note("asked"), sys.exit(130)))
note("begin")
time.sleep(float(os.environ.get("FAKE_SLEEP", "0")))
while verb == "train" and Path(os.environ["FAKE_LOG"]).read_text().count("begin") < int(os.environ.get("FAKE_MEET", "0")):
    time.sleep(0.05)
if name in os.environ.get("FAKE_FAIL", "").split(","):
    print("first line\nthe disk is on fire", flush=True)
    sys.exit(3)
if verb == "train":
    (run / "checkpoints" / "one").mkdir(parents=True, exist_ok=True)
    data = {"path": "x", "description": "synthetic: fake", "episodes": 4}
    (run / "config.json").write_text(json.dumps({"config": {"method": {"diffusion": {"steps": 5}}}, "data": data}))
    (run / "checkpoints" / "one" / "state.json").write_text(json.dumps({"done": ["diffusion"], "seconds": {"diffusion": 2.0}}))
    (run / "checkpoints" / "latest.json").write_text(json.dumps({"checkpoint": "one"}))
else:
    method, horizon, seed = run.name.split("-")[0], int(option("--horizon")), int(run.name[-1])
    perturbation, first = float(option("--perturbation")), int(option("--seed-start"))
    base = {"lwd": 0.9 - horizon / 1000, "dp": 0.92 - horizon / 200, "random": 0.1}[method] - perturbation / 1000
    records = [
        {"seed": first + i, "steps": 100, "max_overlap": base + 0.02 * (i % 2) + 0.01 * seed, "success": float(i == 0), "trace": [0.1]}
        for i in range(int(option("--episodes")))
    ]
    flops = {"lwd": 1e6, "dp": 3.2e7, "random": 0}[method]
    result = {
        "name": option("--name"), "env": "pusht", "obs": "state", "max_steps": 100, "sampler": {}, "primary": "max_overlap", "lwd": "0",
        "records": records, "hardware": {"cpu": "fake", "device": "cpu"}, "queries_per_episode": 2.0,
        "ms_per_query": {"p50": 500.0 + seed}, "ms_per_control_step": {"p50": 1.0},
        "flops_per_step": {"query": flops, "policy": 0.0, "amortised_total": flops / horizon},
        "scores": {"max_overlap": {"kind": "mean"}, "success": {"kind": "rate"}},
    }
    (run / "eval").mkdir(exist_ok=True)
    (run / "eval" / (option("--name") + ".json")).write_text(json.dumps(result))
note("end")
"""


@dataclass
class Small(Study):
    """One training and two evaluations of it per seed."""

    name: ClassVar[str] = "small"

    def grid(self) -> tuple[list[Task], list[Cell]]:
        tasks, cells = [], []
        for seed in range(self.seeds):
            training = self.training(f"lwd-s{seed}", "pusht", seed)
            tests = [self.evaluation(training, horizon=16, perturbation=p) for p in (0.0, 50.0)]
            tasks += [training, *tests]
            cells += [Cell({"perturbation": p}, seed, task) for p, task in zip((0.0, 50.0), tests, strict=True)]
        return tasks, cells


class Silent:
    """Sees what a progress view sees."""

    def __init__(self) -> None:
        self.started_names: list[str] = []

    def started(self, task: Task) -> None:
        self.started_names.append(task.name)

    def ended(self, task: Task, outcome: Outcome) -> None:
        pass

    def tick(self, running: Any) -> None:
        pass


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The imitation in place of lwd; its journal."""
    script, journal = tmp_path / "fake.py", tmp_path / "journal"
    script.write_text(FAKE)
    monkeypatch.setattr(Study, "prefix", ("-S", str(script)))
    monkeypatch.setenv("FAKE_LOG", str(journal))
    return journal


def lines(journal: Path, word: str = "") -> list[str]:
    return [line for line in journal.read_text().splitlines() if line.startswith(word)] if journal.exists() else []


def test_order_and_resume(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Small(out=str(tmp_path / "study"), seeds=2, jobs=2)
    tasks, _ = study.grid()
    outcomes = study.execute(tasks)
    assert [o.state for o in outcomes.values()] == ["done"] * 6 and all(o.fresh for o in outcomes.values())
    journal = lines(fake)
    for task in tasks:
        assert all(journal.index(f"end {need}") < journal.index(f"begin {task.name}") for need in task.needs)
    again = study.execute(tasks)
    assert not any(o.fresh for o in again.values()) and lines(fake) == journal, "what is finished is not run again"
    tasks[1].output.unlink()  # one result is lost
    assert [name for name, o in study.execute(tasks).items() if o.fresh] == [tasks[1].name]
    more = Small(out=str(tmp_path / "study"), seeds=2, jobs=2, episodes=7)
    assert [o.fresh for o in more.execute(more.grid()[0]).values()] == [False, True, True] * 2, "other settings: new evaluations only"
    elsewhere = Small(out=str(tmp_path / "study"), seeds=2, data="elsewhere")
    assert elsewhere.grid()[0][0].finished() is None, "other data: `lwd train` is asked, and decides whether they are the same"
    other_device = Small(out=str(tmp_path / "study"), seeds=2, device="mps").grid()[0]
    assert other_device[0].finished() is not None and other_device[1].finished() is None, "a device changes timings, not trainings"
    monkeypatch.setitem(PRESETS, "pusht", ("changed", Config(horizon=7)))
    assert study.grid()[0][0].finished() is None, "the preset has changed: `lwd train` is asked, and refuses"


def test_a_failure_is_reported_and_the_rest_goes_on(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("FAKE_FAIL", "lwd-s0,lwd-s1-h16_p0_n50_s100000")
    study = Small(out=str(tmp_path / "study"), seeds=2, jobs=1)
    with pytest.raises(LWDError, match=r"4 of 6 tasks have no result: lwd-s0 \(failed\).*and 1 more.*logs"):
        study()
    shown = capsys.readouterr().out
    assert (
        "the disk is on fire" in shown and "study/logs/lwd-s0.log" in shown and "skipped  lwd-s0-h16_p0_n50_s100000: lwd-s0 failed" in shown
    )
    result = json.loads((tmp_path / "study" / "small.json").read_text())
    assert [(f["task"], f["state"]) for f in result["failures"]] == [
        ("lwd-s0", "failed"),
        ("lwd-s0-h16_p0_n50_s100000", "skipped"),
        ("lwd-s0-h16_p50_n50_s100000", "skipped"),
        ("lwd-s1-h16_p0_n50_s100000", "failed"),
    ]
    assert len(result["cells"]) == 1 and "4 of 6 tasks have no result" in (tmp_path / "study" / "small.md").read_text()
    monkeypatch.setenv("FAKE_FAIL", "")
    study()
    assert len(json.loads((tmp_path / "study" / "small.json").read_text())["cells"]) == 4


def test_what_a_command_did_not_write_has_failed(tmp_path: Path) -> None:
    study = Small(out=str(tmp_path / "study"), seeds=1)
    task = study.grid()[0][0]
    with study_lock(tmp_path / "study") as keep:
        outcome = execute([task], LocalWorkers(1, ("-c", "pass"), keep), Silent())[task.name]
    assert outcome.state == "failed" and "did not write" in outcome.note


RUN = """
import sys
sys.path.insert(0, {tests!r})
from test_studies import Small
from lwd.studies.base import Study
Study.prefix = ("-S", {script!r})
Small(out={out!r}, seeds=2, jobs=2, ray={ray!r})()
"""


def start(fake: Path, tmp_path: Path, sleep: float, ray: str = "") -> subprocess.Popen[str]:
    """The study as a process of its own."""
    code = RUN.format(tests=str(Path(__file__).parent), script=str(tmp_path / "fake.py"), out=str(tmp_path / "study"), ray=ray)
    environment = {**os.environ, "FAKE_SLEEP": str(sleep), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


def test_a_killed_study_leaves_nothing_running_and_continues(fake: Path, tmp_path: Path) -> None:
    study = Small(out=str(tmp_path / "study"), seeds=2, jobs=2)
    process = start(fake, tmp_path, sleep=1.0)
    wait_for(lambda: len(lines(fake, "end")) >= 2 and len(lines(fake, "begin")) >= 4)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if sys.platform == "linux":
        with study_lock(tmp_path / "study"):  # free only when the last child has ended: none goes on by itself
            ended = len(lines(fake, "end"))
        assert ended < 6
    kept = [task.name for task in study.grid()[0] if task.finished() is not None]
    assert kept, "what was finished is kept"
    outcomes = study.execute(study.grid()[0])
    assert {o.state for o in outcomes.values()} == {"done"}
    assert sorted(name for name, o in outcomes.items() if not o.fresh) == sorted(kept)


def test_sigterm_asks_the_tasks_to_end(fake: Path, tmp_path: Path) -> None:
    process = start(fake, tmp_path, sleep=60.0)
    wait_for(lambda: len(lines(fake, "begin")) == 2)
    process.terminate()
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "the same command continues" in output
    assert len(lines(fake, "asked")) == 2 and not lines(fake, "end")


def test_a_flag_stops_tasks_elsewhere(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SLEEP", "60")
    task, flag = Small(out=str(tmp_path / "study"), seeds=1).grid()[0][0], Flag(tmp_path / "stop", every=0.0)
    with ThreadPoolExecutor() as pool:
        code = pool.submit(run_command, (*Study.prefix, *task.argv), task.log, str(tmp_path), flag)
        wait_for(lambda: lines(fake, "begin"))
        flag.raise_to(1)
        assert code.result(60) == 130 and lines(fake, "asked")
    assert run_command((*Study.prefix, *task.argv), task.log, str(tmp_path), flag) == -signal.SIGTERM, "nothing more is started"
    assert len(lines(fake, "begin")) == 1


def test_ray(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("FAKE_MEET", "2")  # hangs unless two tasks run at a time
    process = start(fake, tmp_path, sleep=0.0, ray="local")
    try:
        output, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, output
    assert len(lines(fake, "end")) == 6 and (tmp_path / "study" / "small.json").exists()


def test_one_study_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")
    monkeypatch.setattr("lwd.studies.workers.PATIENCE", 0.0)
    with study_lock(tmp_path), pytest.raises(LWDError, match="another process runs the study"), study_lock(tmp_path):
        pass


def test_pooled_intervals() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0.5, 0.1, (3, 60))
    scores = {seed: {100 + i: float(v) for i, v in enumerate(row)} for seed, row in enumerate(values)}
    found = pooling.pooled(scores)
    assert found["mean"] == pytest.approx(values.mean()) and found["episodes"] == 180
    assert list(found["per_seed"].values()) == pytest.approx(values.mean(1))
    half = 1.96 * np.sqrt((values.var(1) / 60).sum()) / 3  # of a mean of three independent means
    assert found["high"] - found["mean"] == pytest.approx(half, rel=0.05) and found["mean"] - found["low"] == pytest.approx(half, rel=0.05)
    moved = {seed: {env: v + 0.2 * seed for env, v in row.items()} for seed, row in scores.items()}  # trainings that differ
    wide, narrow = pooling.pooled(moved), pooling.pooled(moved)
    assert wide["over_trainings"]["high"] - wide["over_trainings"]["low"] > 3 * (narrow["high"] - narrow["low"])
    rate = pooling.pooled({0: {1: 1.0, 2: 0.0}, 1: {1: 0.0, 2: 0.0}}, "rate")
    assert rate["mean"] == 0.25 and rate["low"] == pytest.approx(0.0456, abs=1e-3) and rate["high"] == pytest.approx(0.6994, abs=1e-3)
    assert pooling.pooled({0: {1: 0.2, 2: 0.4}})["over_trainings"] == {"low": None, "high": None}, "one training says nothing about others"
    with pytest.raises(LWDError):
        pooling.pooled({})


def test_paired_difference() -> None:
    first = {0: {1: 0.5, 2: 0.7, 3: 0.9}, 1: {1: 0.6, 2: 0.8}}
    second = {0: {1: 0.4, 2: 0.6, 9: 0.0}, 1: {1: 0.5, 2: 0.7}, 2: {1: 0.0}}
    found = pooling.difference(first, second)
    assert found["mean"] == pytest.approx(0.1) and found["pairs"] == 4 and found["low"] == pytest.approx(0.1)
    assert pooling.disjoint({"low": 0.5, "high": 0.6}, {"low": 0.1, "high": 0.4})
    assert not pooling.disjoint({"low": 0.3, "high": 0.6}, {"low": 0.1, "high": 0.4})
    assert not pooling.disjoint({"low": None, "high": None}, {"low": 0.1, "high": 0.4})
    with pytest.raises(LWDError, match="paired"):
        pooling.difference(first, {5: {1: 0.0}})


def test_horizon_from_fake_results(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "film", lambda run, **_: [np.zeros((8, 8, 3), np.uint8)] * 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    out = tmp_path / "study"
    words = ["--methods", "lwd", "dp,random", "--horizons", "16,32", "--perturbations", "0", "50", "--seeds", "2", "--episodes", "4"]
    study = tyro.cli(Horizon, args=[*words, "--out", str(out)])
    assert study.methods == ("lwd", "dp", "random") and study.horizons == (16, 32) and study.perturbations == (0.0, 50.0)
    study()
    result = json.loads((out / "horizon.json").read_text())
    assert len(result["cells"]) == (2 * 2 + 1) * 4 and result["cells"][0]["records"][1]["max_overlap"] == pytest.approx(0.904)
    trained = [Path(line.split()[1]).name for line in lines(fake, "begin") if "_" not in line]
    assert sorted(trained) == sorted([*(f"{m}-s{s}" for m in ("lwd", "dp-h16", "dp-h32") for s in (0, 1)), "random-s0"])
    pooled = {(e["method"], e["horizon"], e["perturbation"]): e for e in result["pooled"]}
    lwd, dp = pooled["lwd", 32, 50.0], pooled["dp", 32, 50.0]
    assert lwd["scores"]["max_overlap"]["mean"] == pytest.approx(0.868 - 0.05 + 0.01 + 0.005)
    assert lwd["scores"]["success"]["mean"] == 0.25 and lwd["seeds"] == [0, 1]
    assert lwd["seconds_per_episode"] == pytest.approx((500.5 * 2 + 1.0 * 100) / 1e3)
    apart = next(d for d in result["differences"] if (d["method"], d["horizon"], d["perturbation"]) == ("dp", 32, 50.0))
    assert apart["mean"] == pytest.approx(lwd["scores"]["max_overlap"]["mean"] - dp["scores"]["max_overlap"]["mean"])
    assert apart["pairs"] == 8 and apart["disjoint"] and apart["low"] == pytest.approx(apart["mean"])
    assert [row["dp_over"] for row in result["flops"]] == [{"lwd": pytest.approx(32)}] * 2
    best = result["cheapest"][0]  # DP's best: 0.84 + 0.015 at horizon 16; LWD has 0.868 + 0.015 at 32
    assert (best["dp_horizon"], best["method"], best["horizon"], best["dp_over"]) == (16, "lwd", 32, pytest.approx(64))
    text = (out / "horizon.md").read_text()
    assert "| 50 px, 32 steps | **0.83 [" in text and "synthetic" in text and "`**`" in text
    for name in ("figure3.png", "figure20.png", "figure4.png"):
        assert (out / name).stat().st_size > 5000 or name == "figure4.png"
        assert name in text


def test_no_horizon_is_good_enough() -> None:
    def entry(method: str, score: float) -> dict[str, Any]:
        return {
            "method": method,
            "horizon": 16,
            "perturbation": 0.0,
            "scores": {"s": {"mean": score}},
            "flops_per_step": {"amortised_total": 2.0},
        }

    rows = cheapest([entry("dp", 0.9), entry("lwd-fast", 0.86), entry("lwd", 0.8)], "s")
    assert [(row["method"], row["horizon"], row["dp_over"]) for row in rows] == [("lwd", None, None), ("lwd-fast", 16, 1.0)]
    assert cheapest([entry("lwd", 0.8)], "s") == []


def test_the_fast_arm_takes_over_the_autoencoder(tmp_path: Path) -> None:
    def trainings(*methods: str) -> dict[str, Any]:
        tasks, _ = Horizon(methods=methods, out=str(tmp_path), seeds=2).grid()
        return {task.name: task for task in tasks if task.kind == "train"}

    both = trainings("lwd", "lwd-fast")
    assert list(both) == ["lwd-s0", "lwd-fast-s0", "lwd-s1", "lwd-fast-s1"]
    fast = both["lwd-fast-s1"]
    assert fast.needs == ("lwd-s1",)
    assert fast.argv[fast.argv.index("--method.autoencoder-from") + 1] == str(tmp_path / "runs" / "lwd-s1")
    assert "--method.autoencoder-from" not in trainings("lwd-fast")["lwd-fast-s1"].argv, "alone it trains its own"
    assert set(RECIPES["paper"].arms) == {"lwd", "dp", "ldp", "mlp", "random"}
    for preset, recipe in RECIPES.items():
        tasks, _ = Horizon(preset=cast(Any, preset), out=str(tmp_path)).grid()
        assert {task.arm for task in tasks} == set(recipe.arms), "by default everything"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("lwd", "ppo")}, "there is no ppo"),
        ({"methods": ("lwd-fast",), "preset": "paper"}, "there is no lwd-fast"),
        ({"horizons": (16, 16)}, "twice"),
        ({"horizons": (0,)}, "at least 1"),
        ({"perturbations": (-1.0,)}, "negative"),
        ({"seeds": 0}, "at least 1"),
        ({"jobs": 0}, "--jobs"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(LWDError, match=message):
        Horizon(out=str(tmp_path), **change)()


def test_plan_and_the_question_before_a_long_study(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    cost = Cost(training=7200.0, per_step={"diffusion": 72.0}, steps={"diffusion": 100_000}, plan=1.0, step=0.1, single=0.01, max_steps=300)
    assert cost.evaluation(128) == pytest.approx(3 + 30 + 0.33)
    monkeypatch.setattr(estimate, "measure_arm", lambda study, task: cost)
    out = str(tmp_path / "study")
    Horizon(out=out, methods=("lwd", "dp"), horizons=(16, 32), perturbations=(0.0,), seeds=1, jobs=2, plan=True)()
    shown = capsys.readouterr().out
    assert shown.count("to do") == 7 and "dp: 2 trainings of 2 h 0 min (diffusion 100,000 steps of 72 ms), 2 evaluations" in shown
    assert "about 3 h 1 min with 2 at a time" in shown and not lines(fake)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(LWDError, match="--yes"):
        Horizon(preset="paper", out=str(tmp_path / "paper"), jobs=1)()
    assert "lwd: 12 trainings" in capsys.readouterr().err and not lines(fake)


def test_progress_and_remaining_time(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    assert training_progress(run) == (0.0, "")
    method = {"autoencoder": {"steps": 100}, "diffusion": {"steps": 300}, "beta": 1.0}
    (run / "config.json").write_text(json.dumps({"config": {"method": method}}))
    (run / "metrics.jsonl").write_text('{"stage": "autoencoder", "step": 20}\n{"stage": "autoencoder", "step": 40}\n{"stage": "auto')
    assert training_progress(run) == (0.1, "autoencoder 40/100")
    study = Small(out=str(tmp_path), seeds=2)
    tasks, _ = study.grid()
    assert remaining(tasks, {}, {}, 2) is None
    outcomes = {tasks[0].name: Outcome("done", 100.0), tasks[1].name: Outcome("done", 10.0)}
    assert remaining(tasks, outcomes, {tasks[3].name: 60.0}, 2) == pytest.approx((40 + 3 * 10) / 2)


def test_film_frames() -> None:
    assert figures.spaced(9, 3, []) == [0, 4, 8]
    assert figures.spaced(9, 3, [1, 5, 8]) == [0, 5, 8]
    assert figures.spaced(1, 1, []) == [0]


def test_a_legend_stays_within_its_figure() -> None:
    figure, panels = figures._panels(["one", "two"], width=9.2)
    for number in range(10):
        panels["one"].plot([0], [number], label=f"button-press-topdown-wall-{number}")
    figures._legend(figure, panels["one"])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and len(legend.texts) == 10
    assert box.width > figure.bbox.width / 2, "as many columns as fit"


def test_debug_study_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("gym_pusht")
    out = tmp_path / "study"
    Horizon(preset="debug", methods=("lwd", "random"), horizons=(16,), perturbations=(50.0,), seeds=1, episodes=2, jobs=2, out=str(out))()
    result = json.loads((out / "horizon.json").read_text())
    assert [(cell["method"], len(cell["records"])) for cell in result["cells"]] == [("lwd", 2), ("random", 2)]
    assert result["cells"][0]["training_seconds"].keys() == {"autoencoder", "diffusion"}
    assert all((out / name).exists() for name in ("horizon.md", "figure3.png", "figure4.png", "figure20.png"))
