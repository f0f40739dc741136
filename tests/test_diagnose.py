"""Where a pipeline fails: links of the chain, decoded policies, baselines, and how well latents tell tasks apart."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import reaching, tiny_method
from lwd.cli import main
from lwd.config import Config, EvalSettings, MLPConfig, Stage
from lwd.data.formats.npz import save_npz
from lwd.data.normalizer import Normalizer
from lwd.data.snippets import Snippets
from lwd.diagnose.baselines import FOLDER, action_errors, tabulate_errors
from lwd.diagnose.decoded import Fixed, decode_run, own_scenario, random_snippets
from lwd.diagnose.links import Chain, diagnose, link, measure_links
from lwd.diagnose.separability import by_episode, encoded, separability
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError
from lwd.methods.base import ChunkController
from lwd.rollout import rollout
from lwd.training.run import Run
from lwd.training.train import load_method, run_data, train

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
        name = "spotbox_diagnose.spots"
        max_steps = 12
        action_low, action_high = (-1.0,), (1.0,)
        info_keys = ("success",)
        scores = {"success": "rate"}
        primary = "success"
        tasks = ("left", "right")
        batch = 3

        def make(self, obs_kind, task=None):
            return Spot(task)

        def summarise(self, infos):
            return {"success": max(infos["success"])}

        def seeds(self, episodes):
            found = episodes.tags.get("seed")
            return None if found is None else found.astype(np.int64)

    FAMILY = Spots()
"""
SPOTS = "spotbox_diagnose.spots"


@pytest.fixture(scope="module", autouse=True)
def spots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The family above, known to child processes too."""
    folder = tmp_path_factory.mktemp("families")
    (folder / "spotbox_diagnose").mkdir()
    (folder / "spotbox_diagnose" / "__init__.py").touch()
    (folder / "spotbox_diagnose" / "spots.py").write_text(textwrap.dedent(FAMILY))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder))
        yield SPOTS


def demonstrations(per_task: int = 6, steps: int = 12) -> Episodes:
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
    meta = Meta(SPOTS, action_low=(-1.0,), action_high=(1.0,), description="synthetic: spots")
    ends = np.arange(1, len(task) + 1) * steps
    return Episodes(np.array(obs), np.array(action), ends, np.array(task), {"seed": np.array(seeds)}, meta)


def config(folder: Path, episodes: Episodes, **changes: Any) -> Config:
    save_npz(episodes, folder / "spots.npz")
    own: dict[str, Any] = {"horizon": 12, "starts": "first", "holdout": 0.34, "threads": 1, "device": "cpu", "method": tiny_method()}
    return Config(data=str(folder / "spots.npz"), **{**own, "out": str(folder / "run"), **changes})


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory, spots: str) -> Run:
    """A run whose decoded policies solve the task of the demonstration that they are decoded from."""
    method = tiny_method(autoencoder=Stage(steps=400, batch=16, lr=5e-3, warmup=5), world_model=False)
    return train(config(tmp_path_factory.mktemp("solved"), demonstrations(12), method=method), quiet=True)


def test_replay_from_own_starts() -> None:
    episodes = demonstrations()
    chosen = np.array([7, 0, 3, 9, 10])  # two parts: a batch is three

    def replayed(shown: Episodes) -> list[float]:
        scenario, settings = own_scenario(shown, chosen), EvalSettings(replan_every=12)
        actions = torch.from_numpy(shown.action).reshape(-1, 12, 1)[chosen]
        records = rollout(lambda part: Fixed(lambda: ChunkController(actions[part]), 12), scenario, settings, workers=0)
        assert [e["task"] for e in records.episodes] == ["right", "left", "left", "right", "right"]
        return [e["success"] for e in records.episodes]

    assert replayed(episodes) == [1.0] * 5
    wrong = replace(episodes, tags={"seed": episodes.tags["seed"] + 1})
    assert sum(replayed(wrong)) == 0, "from another start the same actions miss the spot"
    with pytest.raises(LWDError, match="does not say from which seed"):
        replayed(replace(episodes, tags={}))


@pytest.mark.parametrize(("length", "room"), [(5, 8), (12, 1), (20, 1)])
def test_random_snippets_stay_inside_their_episode(length: int, room: int) -> None:
    episodes, normalizer = demonstrations(), Normalizer(2, 1)
    normalizer.fit(episodes)
    chosen, generator = torch.tensor([4, 1]).repeat(200), torch.Generator().manual_seed(0)
    offset = random_snippets(Snippets(episodes, normalizer, length), chosen, generator) - torch.from_numpy(episodes.starts)[chosen]
    assert sorted(set(offset.tolist())) == list(range(room)), "every start from which the whole snippet is recorded"


def test_decode(solved: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", str(solved.path), "--episodes", "3", "--workers", "0", "--json", "--name", "mine"]) == 0
    shown = json.loads(capsys.readouterr().out)
    result = json.loads((solved.path / "eval" / "mine.json").read_text())
    assert shown["scores"] == result["scores"] and "records" not in shown
    held = run_data(solved)[1]
    assert held is not None and held.task is not None
    starts = {(str(t), int(s)) for t, s in zip(held.task, held.tags["seed"], strict=True)}
    assert len(result["records"]) == 6 and {(r["task"], r["seed"]) for r in result["records"]} < starts
    assert result["scores"]["success"]["mean"] >= 0.5, "which side it is to be stands in the encoded demonstration only"
    kept = result["decoded"]
    assert kept["reconstruction_rmse"] < 0.3 and kept["length"] == 12
    assert kept["parameters"]["generated policy"] == 2 * 16 + 16 + 17 * 16 + 17
    assert main(["decode", str(solved.path), "--episodes", "1", "--workers", "0", "--steps", "5"]) == 0
    out = capsys.readouterr().out
    assert "by task" in out and "decoded_h5_n1" in out
    assert main(["decode", str(solved.path), "--episodes", "0"]) == 2 and "--episodes" in capsys.readouterr().err
    assert main(["decode", str(solved.path), "--name", "a/b"]) == 2 and "slash" in capsys.readouterr().err
    assert main(["diagnose", str(solved.path), "--device", "tpu"]) == 2 and "no device" in capsys.readouterr().err


def test_links_of_a_run_that_decodes_well(solved: Run) -> None:
    result = diagnose(solved, rollouts=4, samples=64)
    links = {link["name"]: link for link in result["links"]}
    own, permuted = links["action error, decoded from the posterior mean"], links["action error with a permuted latent"]
    assert own["value"] < 0.5 * own["against"] and permuted["value"] > 1.5 * own["value"], "the policy follows its latent"
    fifth = [name for name, link in links.items() if link["number"] == 5]
    assert [name.split(", ")[1] for name in fifth] == ["replayed actions", "decoded policy", "sampled policy"]
    replayed = links["success from 4 held-out starts, replayed actions"]
    assert (replayed["value"], replayed["against"], replayed["verdict"]) == (1.0, 1.0, "ok")
    assert all(links[name]["verdict"] in ("ok", "weak", "broken") for name in fifth)
    assert 6 not in {link["number"] for link in result["links"]}, "this run has no world model"
    assert diagnose(solved, rollouts=0, samples=64) == {**result, "links": [x for x in result["links"] if x["number"] != 5]} | {
        "first_broken": next((x["name"] for x in result["links"] if x["number"] != 5 and x["verdict"] == "broken"), None)
    }, "the same seed measures the same"
    measured = measure_links(solved)
    assert measured["final_state"] is not None and measured["replayed"] == 1.0 and measured["one_step"] is None


def test_links_without_a_simulator(trained: Path) -> None:
    result = diagnose(Run(trained), samples=64)
    assert {link["number"] for link in result["links"]} == {1, 2, 3, 4, 6}
    measured = measure_links(Run(trained))
    assert measured["final_state"] is None and measured["one_step"] is not None and (measured["rate"] or 0) > 0


def test_the_chain_tells_the_sampler_the_tasks(solved: Run) -> None:
    """Which way to go stands in the task's name: with the wrong names, the sampled latents are others."""
    method, (training, held) = load_method(solved), run_data(solved)
    assert held is not None and held.task is not None
    other = replace(held, task=np.where(held.task == "left", "right", "left"))
    right, wrong = (Chain(method, training, part, 256, 0, True).snippets()[-4] for part in (held, other))  # type: ignore[arg-type]
    assert right["name"] == "first action of sampled policies" and right["value"] != wrong["value"] and right["against"] == wrong["against"]


def test_judgement() -> None:
    verdicts = [link(1, "x", 0.0, "raw", None, judged)["verdict"] for judged in (None, (0.5, 0.5, 1.0), (0.7, 0.5, 1.0), (1.0, 0.5, 1.0))]
    assert verdicts == ["-", "ok", "weak", "broken"]


def test_nothing_held_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(config(tmp_path, demonstrations(3), holdout=0.0), quiet=True)
    for words in (["diagnose", str(run.path)], ["decode", str(run.path)]):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert "nothing is held out to measure on" in err and "--holdout 0.05" in err
    assert list(separability(run.path)) == ["training"]
    assert main(["report", str(run.path), "--quiet"]) == 0
    assert "No episode was held out" in (run.path / "report.md").read_text()


def test_what_cannot_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cloned = train(config(tmp_path, demonstrations(3), starts="every", method=MLPConfig(cloning=Stage(5, 8, 1e-3))), quiet=True)
    assert main(["diagnose", str(cloned.path)]) == 2 and "run of mlp" in capsys.readouterr().err
    with pytest.raises(LWDError, match="run of mlp"):
        decode_run(cloned.path)
    for words, sentence in ((["--samples", "1"], "at least 2"), (["--rollouts", "-1"], "negative")):
        assert main(["diagnose", str(cloned.path), *words]) == 2
        assert sentence in capsys.readouterr().err
    save_npz(demonstrations(4), tmp_path / "spots.npz")
    assert main(["report", str(cloned.path), "--quiet"]) == 0, "a run whose data has changed still has a report"
    assert "Nothing could be measured on the data" in (cloned.path / "report.md").read_text()


def test_separability() -> None:
    rng = np.random.default_rng(0)
    episode = np.tile(np.arange(24), 5)
    task = np.array(["a", "b"])[episode % 2]
    apart = rng.normal(size=(120, 4)) * 0.1 + (task == "a")[:, None]
    found = by_episode(apart, task, episode)
    assert [row[:2] for row in found["neighbours"]] == [["ab"[e % 2], e] for e in range(24)]
    assert {row[2] for row in found["neighbours"]} == {1.0} and min(row[2] for row in found["silhouette"]) > 0.8
    mixed = by_episode(rng.normal(size=(24, 4))[episode], task, episode)  # a demonstration's snippets are all the same
    assert np.mean([row[2] for row in mixed["neighbours"]]) < 0.8, "its own twins would tell the task of every one of them"
    assert abs(np.mean([row[2] for row in mixed["silhouette"]])) < 0.2
    assert by_episode(apart, np.full(120, "a"), episode) == {}
    few = by_episode(apart[:3], np.array(["a", "a", "b"]), np.arange(3))
    assert "neighbours" not in few, "one demonstration of a task cannot stand on both sides"


def test_separability_of_a_run(solved: Run, trained: Path) -> None:
    found = separability(solved.path)
    assert np.mean([row[2] for row in found["held_out"]["neighbours"]]) > 0.9, "left and right have other policies"
    points = encoded(trained)
    assert len(points.codes) == len(points.progress) == 10 * len(set(points.episode)) and set(points.label) == {""}
    assert 0 <= points.progress.min() < 0.2 and 0.4 < points.progress.max() <= 1


def test_action_errors_beside_the_baselines(tmp_path: Path) -> None:
    save_npz(reaching(20), tmp_path / "data.npz")
    method = tiny_method(autoencoder=Stage(300, 32, 5e-3, warmup=5), diffusion=Stage(300, 32, 5e-3, warmup=5), world_model=False)
    run = train(
        Config(data=str(tmp_path / "data.npz"), out=str(tmp_path / "run"), horizon=8, holdout=0.2, threads=1, method=method), quiet=True
    )
    held = run_data(run)[1]
    assert held is not None
    errors = action_errors(run, load_method(run), held)
    assert set(errors) == {"this run", "one MLP policy", "repeat the last action"}
    # of all steps that have one before them: there are fewer than 256, so that every one of them is asked
    steps = [(e, t) for e in range(len(held)) for t in range(1, 20)]
    ends, squares = held.starts, []
    for episode, t in steps:
        own = held.action[ends[episode] : ends[episode] + 20]
        squares += [np.square(own[t + k] - own[t - 1]).mean() for k in range(8) if t + k < 20]
    assert errors["repeat the last action"][1] == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-4)
    assert errors["one MLP policy"][1] < errors["repeat the last action"][1], "it has learned where to go"
    assert errors["this run"][1] < 2 * errors["repeat the last action"][1]
    assert Run(run.path / FOLDER).config().method.cloning.steps == 600, "as many steps as both stages"  # type: ignore[attr-defined]
    written = [path.stat().st_mtime_ns for path in (run.path / FOLDER / "checkpoints").rglob("model.safetensors")]
    assert action_errors(run, load_method(run), held) == errors
    assert [p.stat().st_mtime_ns for p in (run.path / FOLDER / "checkpoints").rglob("model.safetensors")] == written, (
        "kept, not trained anew"
    )
    table = tabulate_errors(errors, 8)
    assert [float(row[2]) for row in table.rows] == sorted(float(row[2]) for row in table.rows) and table.columns[2] == "all 8 steps"


def test_action_errors_of_whole_episodes(solved: Run) -> None:
    held = run_data(solved)[1]
    assert held is not None
    assert set(action_errors(solved, load_method(solved), held)) == {"this run", "one MLP policy"}, "nothing comes before a first step"
