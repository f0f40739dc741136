"""Studies of many tasks: pooling by task, policies decoded from demonstrations, and the studies compute, snippets and decoder."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from numpy.typing import NDArray
from tyro.conf import CascadeSubcommandArgs, OmitSubcommandPrefixes

from conftest import tiny_method
from lwd.cli import Decode, Eval, Train, main
from lwd.config import Config, LWDConfig, MLPConfig, Stage
from lwd.data.episodes import Episodes, Meta
from lwd.data.npz import save_npz
from lwd.data.snippets import Snippets as Data
from lwd.decoded import Fixed, Replay, decode_run, random_snippets, recorded_actions, run_from_own_starts
from lwd.diagnose import diagnose
from lwd.errors import LWDError
from lwd.methods.base import make_method
from lwd.run import Run
from lwd.statistics import stratified_mean, wilson
from lwd.studies import pooling, separability
from lwd.studies.ablation import score_table
from lwd.studies.base import Study
from lwd.studies.compute import Compute
from lwd.studies.compute_tables import label
from lwd.studies.decoder import Decoder
from lwd.studies.multitask import Multitask
from lwd.studies.output import write_outputs
from lwd.studies.snippets import Snippets
from lwd.studies.tasks import Outcome, Task
from lwd.train import load_data, make_spec, train

FLAGS = (OmitSubcommandPrefixes, CascadeSubcommandArgs)
FAMILY = """
    import gymnasium, numpy as np
    from lwd.envs.base import EnvFamily

    class Spot(gymnasium.Env):
        '''A point on a line that must come to rest on a spot; the seed says where it starts.'''
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

        def __init__(self, task):
            self.spot = {"left": -1.0, "right": 1.0}[task]

        def reset(self, *, seed=None, options=None):
            self.x = np.random.default_rng(seed).uniform(-0.5, 0.5)
            return np.array([self.x, 1.0]), {}

        def step(self, action):
            self.x += 0.3 * float(action[0])
            return np.array([self.x, 1.0]), 0.0, False, False, {"success": float(abs(self.x - self.spot) < 0.01)}

    class Spots(EnvFamily):
        name = "spots"
        max_steps = 12
        action_low, action_high = (-1.0,), (1.0,)
        info_keys = ("success",)
        scores = {"success": "rate"}
        primary = "success"
        tasks = ("left", "right")
        batch = 3

        def make(self, obs, task=None):
            return Spot(task)

        def summarise(self, infos):
            return {"success": max(infos["success"])}

        def seeds(self, episodes):
            found = episodes.tags.get("seed")
            return None if found is None else found.astype(np.int64)

    FAMILY = Spots()
"""


@pytest.fixture
def spots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of the family above, known to child processes too."""
    (tmp_path / "spotbox").mkdir()
    (tmp_path / "spotbox" / "__init__.py").touch()
    (tmp_path / "spotbox" / "spots.py").write_text(textwrap.dedent(FAMILY))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "spotbox.spots"


def demonstrations(env: str, per_task: int = 6, steps: int = 12) -> Episodes:
    """Straight to the spot."""
    obs, action, task, seeds = [], [], [], []
    for name, spot in (("left", -1.0), ("right", 1.0)):
        for seed in range(40, 40 + per_task):
            x = np.random.default_rng(seed).uniform(-0.5, 0.5)
            for _ in range(steps):
                obs.append([x, 1.0])
                action.append([np.clip((spot - x) / 0.3, -1, 1)])
                x += 0.3 * action[-1][0]
            task.append(name)
            seeds.append(seed)
    meta = Meta(env, action_low=(-1.0,), action_high=(1.0,), description="synthetic: spots")
    ends = np.arange(1, len(task) + 1) * steps
    return Episodes(np.array(obs), np.array(action), ends, np.array(task), {"seed": np.array(seeds)}, meta)


def config(tmp_path: Path, episodes: Episodes, **changes: Any) -> Config:
    save_npz(episodes, tmp_path / "spots.npz")
    own: dict[str, Any] = {"horizon": 12, "starts": "first", "holdout": 0.34, "threads": 1, "device": "cpu", "method": tiny_method()}
    return Config(data=str(tmp_path / "spots.npz"), **{**own, "out": str(tmp_path / "run"), **changes})


def test_pooling_by_task() -> None:
    rng = np.random.default_rng(0)
    rates = {"easy": 0.9, "hard": 0.3}
    scores = {s: {(t, 100 + i): float(rng.random() < p) for t, p in rates.items() for i in range(16)} for s in range(3)}
    groups = [[v for (t, _), v in row.items() if t == task] for row in scores.values() for task in rates]
    found, expected = pooling.pooled(scores, "rate"), stratified_mean(groups)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((expected.mean, expected.low, expected.high))
    together = wilson(round(sum(map(sum, groups))), 96)
    assert found["high"] - found["low"] < together.high - together.low, "how much tasks differ is no uncertainty"
    assert found["episodes"] == 96 and list(found["per_seed"].values()) == pytest.approx(
        [np.mean(groups[2 * s : 2 * s + 2]) for s in range(3)]
    )
    assert found["over_trainings"]["low"] <= found["mean"] <= found["over_trainings"]["high"]
    uneven = {0: {("a", 1): 1.0, ("b", 1): 0.0, ("b", 2): 0.0, ("b", 3): 0.0}}
    assert pooling.pooled(uneven, "rate")["mean"] == 0.5, "every task counts the same"
    perfect = {s: {(t, i): 1.0 for t in rates for i in range(16)} for s in range(3)}
    ends = pooling.pooled(perfect, "rate")
    assert ends["high"] == 1.0 and ends["low"] == pytest.approx(wilson(96, 96).low)
    moved = {s: {e: v + (s - 1) * 0.5 for e, v in row.items()} for s, row in perfect.items()}  # trainings that differ, and nothing else
    apart = pooling.pooled(moved)
    assert apart["over_trainings"]["high"] - apart["over_trainings"]["low"] > 0.5 > apart["high"] - apart["low"]


def test_pooled_over_trainings_resamples_within_tasks() -> None:
    """Two tasks of constant but different scores: nothing varies within a task, so nothing can come out but the mean."""
    scores = {s: {(t, i): value for t, value in (("a", 0.2), ("b", 0.8)) for i in range(5)} for s in range(2)}
    assert pooling.pooled(scores)["over_trainings"] == pytest.approx({"low": 0.5, "high": 0.5})
    same = pooling.difference(scores, scores)
    assert (same["mean"], same["low"], same["high"], same["pairs"]) == (0.0, 0.0, 0.0, 20)


def test_one_task_is_pooled_as_before() -> None:
    rng = np.random.default_rng(1)
    plain = {s: {i: float(rng.integers(2)) for i in range(20)} for s in range(3)}
    tagged = {s: {("reach", i): v for i, v in row.items()} for s, row in plain.items()}
    for kind in ("mean", "rate"):
        assert pooling.pooled(plain, kind) == pooling.pooled(tagged, kind)
    assert pooling.pooled(plain, "rate")["low"] == wilson(round(sum(v for row in plain.values() for v in row.values())), 60).low


def test_demonstrations(tmp_path: Path, spots: str) -> None:
    episodes = demonstrations(spots)
    small = config(tmp_path, episodes, demonstrations=2, holdout=0.25)
    training, held = load_data(small)
    kept = sorted((str(t), int(s)) for part in (training, held) for t, s in zip(part.task, part.tags["seed"], strict=True))
    assert kept == [("left", 40), ("left", 41), ("right", 40), ("right", 41)]
    with pytest.raises(LWDError, match="6 demonstrations of left, fewer than --demonstrations 7"):
        load_data(replace(small, demonstrations=7))
    with pytest.raises(LWDError, match="negative"):
        replace(small, demonstrations=-1)
    train(small, quiet=True)
    with pytest.raises(LWDError, match="other data"):
        train(replace(small, demonstrations=3), quiet=True)
    with pytest.raises(LWDError, match="demonstrations"):
        save_npz(episodes.select([0, 1, 6, 7]), tmp_path / "spots.npz")
        train(replace(small, demonstrations=0), quiet=True)  # the same episodes, by another setting


def test_replay_from_own_starts(spots: str) -> None:
    episodes = demonstrations(spots)
    chosen = np.array([7, 0, 3, 9, 10])  # two parts: a batch is three

    def replayed(shown: Episodes) -> list[float]:
        asked: list[int] = []

        def planner(part: NDArray[np.int64]) -> Fixed:
            asked.extend(part)
            return Fixed(Replay(recorded_actions(shown, part, 12)), 12)

        records = run_from_own_starts(planner, shown, chosen, workers=0)
        assert asked == chosen.tolist()
        assert [(e["task"], e["seed"]) for e in records.episodes] == [(shown.task[i], shown.tags["seed"][i]) for i in chosen]
        return [e["success"] for e in records.episodes]

    assert replayed(episodes) == [1.0] * 5
    wrong = replace(episodes, tags={"seed": episodes.tags["seed"] + 1})
    assert sum(replayed(wrong)) == 0, "from another start the same actions miss the spot"
    with pytest.raises(LWDError, match="does not say from which seed"):
        replayed(replace(episodes, tags={}))
    longer = recorded_actions(episodes, np.array([1]), 15)
    assert longer.shape == (1, 15, 1) and (longer[0, 11:] == longer[0, 11]).all()


@pytest.mark.parametrize(("length", "room"), [(5, 8), (12, 1), (20, 1)])
def test_random_snippets(length: int, room: int, spots: str, tmp_path: Path) -> None:
    episodes = demonstrations(spots)
    method = make_method(tiny_method(), make_spec(config(tmp_path, episodes), episodes))
    data = Data(episodes, method.normalizer, length)
    chosen, generator = torch.tensor([4, 1]).repeat(200), torch.Generator().manual_seed(0)
    offset = random_snippets(data, chosen, generator) - torch.from_numpy(episodes.starts)[chosen]
    assert sorted(set(offset.tolist())) == list(range(room)), "every start from which the whole snippet is recorded"


def test_decode(tmp_path: Path, spots: str, capsys: Any) -> None:
    own = config(
        tmp_path,
        demonstrations(spots, 12),
        method=tiny_method(autoencoder=Stage(steps=400, batch=16, lr=5e-3, warmup=5), world_model=False),
    )
    run = train(own, quiet=True)
    assert main(["decode", str(run.path), "--episodes", "3", "--workers", "0", "--json", "--name", "mine"]) == 0
    shown = json.loads(capsys.readouterr().out)
    result = json.loads((run.path / "eval" / "mine.json").read_text())
    assert shown["scores"] == result["scores"] and "records" not in shown
    held = load_data(own)[1]
    starts = {(str(t), int(s)) for t, s in zip(held.task, held.tags["seed"], strict=True)}
    assert len(result["records"]) == 6 and {(r["task"], r["seed"]) for r in result["records"]} < starts
    assert result["scores"]["success"]["mean"] >= 0.5, "which side it is to be stands in the encoded demonstration only"
    kept = result["decoded"]
    assert (
        kept["reconstruction_rmse"] < 0.3 and kept["length"] == 12 and kept["parameters"]["generated policy"] == 2 * 16 + 16 + 17 * 16 + 17
    )
    rungs = {r["name"]: r for r in diagnose(Run(run.path), rollouts=4, samples=8)["rungs"] if r["rung"] == 5}
    assert [name.split(", ")[1] for name in rungs] == ["replayed actions", "decoded policy", "sampled policy"]
    replayed = rungs["success from 4 held-out starts, replayed actions"]
    assert (replayed["value"], replayed["against"], replayed["verdict"]) == (1.0, 1.0, "ok")
    assert all(r["verdict"] in ("ok", "weak", "broken") for r in rungs.values())
    with pytest.raises(LWDError, match="--episodes"):
        decode_run(run.path, episodes=0)
    save_npz(demonstrations(spots, 11), tmp_path / "spots.npz")
    with pytest.raises(LWDError, match="not the data"):
        decode_run(run.path)


def test_decode_refuses(tmp_path: Path, spots: str) -> None:
    episodes = demonstrations(spots)
    whole = train(config(tmp_path, episodes, holdout=0.0), quiet=True)
    with pytest.raises(LWDError, match="--holdout"):
        decode_run(whole.path)
    cloned = train(config(tmp_path, episodes, out=str(tmp_path / "mlp"), method=MLPConfig(cloning=Stage(5, 8, 1e-3))), quiet=True)
    with pytest.raises(LWDError, match="run of mlp"):
        decode_run(cloned.path)


def test_separability() -> None:
    rng = np.random.default_rng(0)
    episode = np.tile(np.arange(24), 5)
    task = np.array(["a", "b"])[episode % 2]
    apart = rng.normal(size=(120, 4)) * 0.1 + (task == "a")[:, None]
    found = separability.by_episode(apart, task, episode)
    assert [row[:2] for row in found["neighbours"]] == [["ab"[e % 2], e] for e in range(24)]
    assert {row[2] for row in found["neighbours"]} == {1.0} and min(row[2] for row in found["silhouette"]) > 0.8
    mixed = separability.by_episode(rng.normal(size=(24, 4))[episode], task, episode)  # a demonstration's snippets are all the same
    assert np.mean([row[2] for row in mixed["neighbours"]]) < 0.8, "its own twins would tell the task of every one of them"
    assert abs(np.mean([row[2] for row in mixed["silhouette"]])) < 0.2
    assert separability.by_episode(apart, np.full(120, "a"), episode) == {}
    few = separability.by_episode(apart[:3], np.array(["a", "a", "b"]), np.arange(3))
    assert "neighbours" not in few, "one demonstration of a task cannot stand on both sides"


def test_pooled_separability() -> None:
    def row(length: int, seed: int, value: float) -> dict[str, Any]:
        part = {"neighbours": [[t, e, value] for t in "ab" for e in range(4)]}
        return {"length": length, "seed": seed, "training": part, "held_out": {}}

    found = separability.pooled_separability([row(500, 0, 1.0), row(50, 0, 0.5), row(500, 1, 0.9)], "length")
    assert [(r["length"], r["part"], r["measure"], round(r["mean"], 6)) for r in found] == [
        (500, "training", "neighbours", 0.95),
        (50, "training", "neighbours", 0.5),
    ]
    assert found[0]["per_seed"] == pytest.approx({"0": 1.0, "1": 0.9})


def config_of(task: Task) -> Config:
    assert task.argv[0] == "train"
    return tyro.cli(Train, args=list(task.argv[1:]), config=FLAGS).config


@pytest.mark.parametrize(
    ("kind", "preset"), [(Compute, "cpu"), (Compute, "paper"), (Compute, "debug"), (Snippets, "cpu"), (Decoder, "cpu")]
)
def test_grids(kind: Any, preset: str, tmp_path: Path) -> None:
    study = tyro.cli(kind, args=["--preset", preset, "--seeds", "1", "--out", str(tmp_path), "--demonstrations", "5"])
    tasks, cells = study.grid()
    assert len({task.name for task in tasks}) == len(tasks) == len({task.output for task in tasks})
    assert {cell.task.name for cell in cells} == {task.name for task in tasks if task.kind == "eval"}
    trainings = [task for task in tasks if task.kind == "train"]
    for task in trainings[:: 1 if len(trainings) < 5 else 4]:  # parsing costs a quarter of a second
        own = config_of(task)
        assert Path(own.out) == task.run and own.demonstrations == 5 and own.data == study.data
    for task in [task for task in tasks if task.kind == "eval"][::5]:
        verb: Any = tyro.cli(Decode if task.argv[0] == "decode" else Eval, args=list(task.argv[1:]), config=FLAGS)
        assert verb.episodes == 16 and verb.name in task.output.name


def test_compute_grid(tmp_path: Path) -> None:
    tasks, cells = Compute(out=str(tmp_path), seeds=1, perturbations=(0.0, 0.3), models=("lwd-512", "dp-m-128", "dp-mlp-32")).grid()
    assert [task.name for task in tasks if task.kind == "train"] == ["lwd-512-s0", "dp-m-128-s0", "dp-mlp-32-s0"] and len(cells) == 6
    large = config_of(tasks[3])
    assert (large.horizon, large.starts, large.method.denoiser, large.method.unet_size) == (128, "every", "unet", "m")  # type: ignore[attr-defined]
    asked = tyro.cli(Eval, args=list(tasks[5].argv[1:]), config=FLAGS)
    assert (asked.horizon, asked.perturbation, asked.tasks) == (64, 0.3, ())
    some = Compute(out=str(tmp_path), seeds=1, models=("mlp-128",), tasks=("reach-v3", "door-open")).grid()[0][1]
    assert tyro.cli(Eval, args=list(some.argv[1:]), config=FLAGS).tasks == ("reach", "door-open") and "reach+door-open" in some.output.name
    ten = Compute(out=str(tmp_path), seeds=1, models=("mlp-128",), tasks=("ten",)).grid()[0][1]
    assert "10tasks-" in ten.output.name
    tasks, cells = Compute(out=str(tmp_path), seeds=1, models=("lwd-128", "mlp-128"), tasks=("reach",), steps=(2, 16)).grid()
    assert [label(c.labels) for c in cells] == ["lwd-128 (2)", "lwd-128 (16)", "mlp-128"], "an MLP has no denoising steps"
    two = tyro.cli(Eval, args=list(tasks[1].argv[1:]), config=FLAGS)
    assert two.steps == 2 and len({task.output for task in tasks}) == len(tasks)
    fast = config_of(Compute(out=str(tmp_path), seeds=1, models=("lwd-fast-64",)).grid()[0][0]).method
    assert isinstance(fast, LWDConfig) and (fast.policy, fast.denoiser_width) == ((64, 64), 128)
    assert not any("fast" in name for name in Compute(out=str(tmp_path)).recipe.models)
    tasks, cells = Compute(out=str(tmp_path), seeds=1, models=("dp-mlp-32-every-4", "dp-mlp-32")).grid()
    assert [task.name for task in tasks if task.kind == "train"] == ["dp-mlp-32-s0"], "one training"
    assert [tyro.cli(Eval, args=list(cell.task.argv[1:]), config=FLAGS).horizon for cell in cells] == [4, 16]
    paper = config_of(Compute(preset="paper", out=str(tmp_path), seeds=1, models=("lwd-256",)).grid()[0][0])
    m = paper.method
    assert isinstance(m, LWDConfig)
    assert (paper.horizon, m.latent, m.decoder, m.policy, m.beta, m.reduction) == (500, 256, "xs", (256, 256), 1e-6, "sum")
    assert (m.autoencoder.batch, m.autoencoder.lr, m.denoiser, m.unet_size, m.sampler_steps) == (32, 3e-4, "unet", "m", 100)
    assert (m.stride, m.bc_steps, m.policy_noise, m.world_model) == (1, 0, 0.0, False)
    for change, message in (
        ({"models": ("lwd-64",)}, "there is no lwd-64"),
        ({"tasks": ("fly",)}, "no task 'fly'"),
        ({"perturbations": (-1.0,)}, "none negative"),
        ({"steps": (0, 2)}, "at least 1, none twice, not 0, 2"),
        ({"demonstrations": -2}, "negative"),
    ):
        with pytest.raises(LWDError, match=message):
            Compute(out=str(tmp_path), **change).grid()  # type: ignore[arg-type]


def test_lengths_and_sizes(tmp_path: Path) -> None:
    whole, short = (config_of(task) for task in Snippets(out=str(tmp_path), seeds=1).grid()[0][::2])
    assert (whole.horizon, whole.starts, short.horizon, short.starts) == (500, "first", 50, "every")
    assert whole.holdout == short.holdout > 0 and whole.method.autoencoder == short.method.autoencoder  # type: ignore[attr-defined]
    assert whole.method.diffusion.steps == 1, "nothing is sampled"  # type: ignore[attr-defined]
    assert (whole.method.stride, short.method.stride) == (5, 1)  # type: ignore[attr-defined]
    sizes = [config_of(task).method.decoder for task in Decoder(out=str(tmp_path), seeds=1, lengths=(50,)).grid()[0][::2]]  # type: ignore[attr-defined]
    assert sizes == ["xs", "s", "m", "l"]
    for study, message in (
        (Snippets(length=500), "below 500"),
        (Snippets(length=1), "2 to 500"),
        (Decoder(sizes=("xxl",)), "there is no xxl"),
        (Decoder(lengths=(50, 50)), "twice"),
        (Decoder(lengths=(501,)), "2 to 500"),
    ):
        with pytest.raises(LWDError, match=message):
            study.grid()


def written(
    study: Study, score: Callable[[dict[str, Any], str, int], float], flops: Callable[[dict[str, Any]], float]
) -> tuple[dict[str, Any], str]:
    """JSON and markdown that a study makes of results with this success of (labels, task, number of the episode)."""
    tasks, cells = study.grid()
    for task in tasks:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        task.stamp.write_text(json.dumps({"argv": list(task.argv), "recipe": task.recipe, "seconds": 1.0}))
        if task.kind == "train":
            folder = task.run / "checkpoints" / "one"
            folder.mkdir(parents=True)
            stages = {"autoencoder": 1.0, "diffusion": 1.0}
            method = {"name": "lwd", **{name: {"steps": 5} for name in stages}}
            data = {"description": "synthetic: fake", "episodes": 38, "held_out": 2}
            (task.run / "config.json").write_text(json.dumps({"config": {"seed": 0, "method": method}, "data": data}))
            (folder / "state.json").write_text(json.dumps({"done": list(stages), "seconds": stages}))
            (task.run / "checkpoints" / "latest.json").write_text(json.dumps({"checkpoint": "one"}))
    for cell in cells:
        labels = dict(cell.labels)
        records = [
            {"task": t, "seed": 7 + i, "steps": 500, "success": score(labels, t, i), "final_success": 0.0}
            for t in ("reach", "push")
            for i in range(4)
        ]
        size = {"xs": 4e6, "s": 8e6, "m": 16e6, "l": 31e6}[labels.get("decoder", "xs")]
        kept = {"length": labels.get("length"), "reconstruction_rmse": 0.1 + cell.seed / 10, "rate_nats": 12.0}
        kept["parameters"] = {"decoder": size, "generated policy": 77060}
        result = {
            "name": "x", "env": "metaworld", "obs": "state", "max_steps": 500, "sampler": {}, "primary": "success", "lwd": "0",
            "records": records, "hardware": {"cpu": "fake", "device": "cpu"}, "queries_per_episode": 2.0,
            "ms_per_query": {"p50": 2.0}, "ms_per_control_step": {"p50": 0.1},
            "flops_per_step": {"query": 1.0, "policy": 1.0, "amortised_total": flops(labels)},
            "scores": {"success": {"kind": "rate"}, "final_success": {"kind": "rate"}}, "decoded": kept,
        }  # fmt: skip
        cell.task.output.parent.mkdir(parents=True, exist_ok=True)
        cell.task.output.write_text(json.dumps(result))
    found = write_outputs(study, cells, {task.name: Outcome("done", 1.0) for task in tasks})
    text = (study.directory / f"{study.name}.md").read_text()
    pictures = list(study.directory.glob("*.png"))
    assert pictures and all(picture.stat().st_size > 3000 and picture.name in text for picture in pictures)
    assert json.loads((study.directory / f"{study.name}.json").read_text())["cells"][0]["records"]
    return found, text


def test_compute_from_fake_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "RESAMPLES", 200)
    models = ("lwd-128", "lwd-256", "dp-xs-32", "dp-s-32", "dp-s-128", "dp-mlp-32", "mlp-128")
    solved = {"lwd-128": 3, "lwd-256": 3, "dp-xs-32": 1, "dp-s-32": 3, "dp-s-128": 3, "dp-mlp-32": 4, "mlp-128": 0}  # of four
    cost = {"lwd-128": 2e5, "lwd-256": 5e5, "dp-xs-32": 1e6, "dp-s-32": 8e6, "dp-s-128": 9e6, "dp-mlp-32": 1e7, "mlp-128": 4e4}
    study = Compute(out=str(tmp_path), seeds=2, episodes=4, models=models)
    result, text = written(
        study,
        lambda labels, task, i: float(i < solved[labels["model"]]),
        lambda labels: cost[labels["model"]],
    )
    assert result["score"] == "success"
    unet, mlp = result["comparisons"]
    assert (unet["lwd"], unet["dp"], unet["ratio"]) == ("lwd-128", "dp-s-32", 40.0), "the cheapest of equally good ones, on both sides"
    assert unet["difference"]["mean"] == 0.0 and unet["difference"]["pairs"] == 16
    assert (mlp["dp"], mlp["ratio"], mlp["difference"]["mean"]) == ("dp-mlp-32", 50.0, -0.25)
    assert "**40 times as many** FLOPs. LWD minus DP, in pairs: 0.00 [0.00, 0.00]" in text and "**50 times as many**" in text
    entry = next(entry for entry in result["pooled"] if entry["model"] == "dp-xs-32")
    assert entry["tasks"]["reach"]["mean"] == 0.25 and entry["tasks"]["reach"]["low"] == pytest.approx(wilson(2, 8).low)
    assert "| mlp-128 |" in text and "| push |" in text and (tmp_path / "figure6.png").exists()
    steps = Compute(out=str(tmp_path / "steps"), seeds=1, episodes=4, models=("lwd-128", "dp-s-32"), steps=(2, 16))
    result, text = written(
        steps, lambda labels, task, i: float(i < (4 if labels["steps"] == 2 else 3)), lambda labels: cost[labels["model"]] * labels["steps"]
    )
    (best,) = result["comparisons"]
    assert (best["lwd"], best["dp"], best["ratio"]) == ("lwd-128 (2)", "dp-s-32 (2)", 40.0)
    assert "| model | push | reach |" in text and "| dp-s-32 (16) | 0.75 [" in text, "a row per model and number of steps"
    alone = Compute(out=str(tmp_path / "alone"), seeds=1, episodes=4, models=("mlp-128",))
    assert written(alone, lambda *_: 1.0, lambda _: 1e4)[0]["comparisons"] == []


def test_snippets_from_fake_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "RESAMPLES", 200)
    rng, asked = np.random.default_rng(0), []

    def found(run: Path, device: str) -> dict[str, Any]:
        asked.append(run.name)
        value = 1.0 if run.name.startswith("length500") else 0.4
        return {"training": {"neighbours": [[t, e, value] for t in ("reach", "push") for e in range(3)]}, "held_out": {}}

    def codes(run: Path, device: str) -> separability.Codes:
        return rng.normal(size=(30, 3)), np.array(["reach", "push", "sweep"] * 10), np.arange(30)

    monkeypatch.setattr(separability, "separability", found)
    monkeypatch.setattr(separability, "encoded", codes)
    study = Snippets(out=str(tmp_path), seeds=2, length=25)
    result, text = written(study, lambda labels, task, i: float(labels["length"] == 500 or i == 0), lambda _: 1e5)
    assert [(e["length"], e["scores"]["success"]["mean"]) for e in result["pooled"]] == [(500, 1.0), (25, 0.25)]
    assert result["differences"][0]["mean"] == 0.75 and "whole episodes minus the others" in text
    assert "| snippets of 25 steps, training | – | 0.400 [0.400, 0.400] |" in text and "0.150 (0.100 to 0.200)" in text
    assert (tmp_path / "figure10.png").exists() and (tmp_path / "figure11.png").exists()
    study.extras(result)
    assert len(asked) == 4, "what was measured is kept"


def test_decoder_from_fake_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "RESAMPLES", 200)
    study = Decoder(out=str(tmp_path), seeds=2, sizes=("l", "xs"))
    result, text = written(
        study, lambda labels, task, i: float(labels["length"] == 500 or i < (3 if labels["decoder"] == "l" else 1)), lambda _: 1e5
    )
    means = {(e["length"], e["decoder"]): e["scores"]["success"]["mean"] for e in result["pooled"]}
    assert means == {(500, "l"): 1.0, (500, "xs"): 1.0, (50, "l"): 0.75, (50, "xs"): 0.25}
    assert "| length | xs | l |" in text and "| snippets of 50 steps, l | 31.00 | 77.1 | 0.150 (0.100 to 0.200) |" in text
    assert (tmp_path / "figure15.png").exists()


def test_multitask_grid(tmp_path: Path) -> None:
    study = Multitask(out=str(tmp_path), seeds=1, methods=("lwd", "mlp-large"), demonstrations=(5, 20), perturbations=(0.0, 0.3))
    tasks, cells = study.grid()
    assert [t.name for t in tasks if t.kind == "train"] == [
        "lwd-s0",
        "mlp-large-s0",
        "lwd-d20-s0",
        "mlp-large-d20-s0",
        "lwd-d5-s0",
        "mlp-large-d5-s0",
    ]
    noisy = [(c.labels["method"], c.labels["demonstrations"]) for c in cells if c.labels["perturbation"] == 0.3]
    assert noisy == [("lwd", "all"), ("mlp-large", "all")] and len(cells) == 8
    few = config_of(next(task for task in tasks if task.name == "lwd-d5-s0"))
    assert few.demonstrations == 5 and few.horizon == 500 and few.starts == "first"
    sizes = {}
    for recipe in ("cpu", "mt50"):
        for name in ("lwd", "mlp", "mlp-large"):
            own = config_of(Multitask(preset=recipe, out=str(tmp_path), seeds=1, methods=(name,)).grid()[0][0])  # type: ignore[arg-type]
            method = make_method(own.method, make_spec(own, demonstrations("metaworld", 2)))
            sizes[recipe, name] = method.policy_parameters
            if recipe == "mt50":
                assert own.method.cloning.steps == 50_000 if isinstance(own.method, MLPConfig) else own.method.decoder == "s"  # type: ignore[attr-defined]
    assert 9.5 < sizes["cpu", "mlp-large"] / sizes["cpu", "mlp"] < 11.5 and sizes["cpu", "mlp"] == sizes["mt50", "mlp"]
    for change, message in (
        ({"methods": ("dp",)}, "there is no dp"),
        ({"demonstrations": (0,)}, "at least 1"),
        ({"perturbations": (-0.1,)}, "none negative"),
    ):
        with pytest.raises(LWDError, match=message):
            Multitask(out=str(tmp_path), **change).grid()  # type: ignore[arg-type]


def test_multitask_from_fake_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "RESAMPLES", 200)
    study = Multitask(out=str(tmp_path), seeds=2, methods=("lwd", "mlp"), demonstrations=(5,), perturbations=(0.0, 0.3))

    def score(labels: dict[str, Any], task: str, i: int) -> float:
        limit = 4 if labels["method"] == "lwd" else 2
        limit -= (labels["demonstrations"] == 5) + (labels["perturbation"] > 0)
        return float(i < (limit if task == "reach" else 1))

    result, text = written(study, score, lambda labels: 1e5)
    means = {(e["method"], e["demonstrations"], e["perturbation"]): e["scores"]["success"]["mean"] for e in result["pooled"]}
    assert means["lwd", "all", 0.0] == 0.625 and means["lwd", "all", 0.3] == 0.5 and means["lwd", 5, 0.0] == 0.5
    assert means["mlp", "all", 0.0] == 0.375 and len(means) == 6
    assert result["differences"][0]["mean"] == 0.25 and "lwd minus the others" in text
    assert "mean over 2 tasks" in text and "| push | 0.25 [" in text and "| reach | 1.00 [0.68, 1.00] | 0.50 [0.22, 0.78] |" in text
    assert {p.name for p in tmp_path.glob("*.png")} == {"noise.png", "demonstrations.png"}


def test_rows_are_in_order_of_size_and_words_come_last() -> None:
    whole = {"mean": 1.0, "low": 1.0, "high": 1.0}
    entries = [{"n": n, "noise": noise, "m": "lwd", "scores": {"s": whole}} for n in (10, "all", 5) for noise in (0.1, 0.0)]
    table = score_table({"pooled": entries, "score": "s"}, ("n", "noise"), "{}, {:g}", "m")
    assert [row[0] for row in table.rows] == ["5, 0", "5, 0.1", "10, 0", "10, 0.1", "all, 0", "all, 0.1"]


@pytest.mark.parametrize("plan", [False, True])
def test_missing_data_is_said_before_anything_starts(tmp_path: Path, plan: bool) -> None:
    study = Snippets(data="data/metaworld-nowhere", out=str(tmp_path / "study"), seeds=1, plan=plan)
    with pytest.raises(LWDError, match="no such directory; make it:  lwd data collect metaworld --tasks nowhere"):
        study()
    assert not (tmp_path / "study").exists()


def test_debug_study_end_to_end(tmp_path: Path, spots: str) -> None:
    save_npz(demonstrations(spots, 9), tmp_path / "spots.npz")
    study = Snippets(preset="debug", data=str(tmp_path / "spots.npz"), out=str(tmp_path / "study"), seeds=1, episodes=2, length=6, jobs=2)
    study()
    result = json.loads((tmp_path / "study" / "snippets.json").read_text())
    assert [(cell["length"], len(cell["records"]), cell["decoded"]["length"]) for cell in result["cells"]] == [(500, 4, 500), (6, 4, 6)]
    parts = {(row["length"], row["part"], row["measure"]) for row in result["separability"]}
    assert parts == {(n, part, name) for n in (500, 6) for part in ("training", "held_out") for name in ("silhouette", "neighbours")}
    assert result["differences"][0]["pairs"] == 4
    again = study.execute(study.grid()[0])
    assert not any(outcome.fresh for outcome in again.values())
