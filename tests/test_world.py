"""The world model and the progress value: what they learn, what is imagined with them, and the planners and the monitor that use it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lwd
from conftest import reaching, tiny_config
from lwd.cli import main
from lwd.config import Config, EvalSettings, Improved, LWDConfig, MLPConfig, Stage, WorldStage
from lwd.data.formats.npz import save_npz
from lwd.data.normalizer import Normalizer
from lwd.diagnose.links import diagnose
from lwd.diagnose.world import world_links
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError
from lwd.evaluate import evaluate_run
from lwd.methods.base import ChunkController, Generators, Method
from lwd.methods.world import TRUST, World
from lwd.methods.wrappers import IMAGINED, Ensemble, Imagining, Surprise, TemporalEnsemble, imagining, monitored, wrapped
from lwd.nn.mlp import EnsembleMLP
from lwd.timing import measure_cost
from lwd.training.run import Run
from lwd.training.train import load_method, train

WORLD = WorldStage(steps=400, batch=64, hidden=(32, 32), value_hidden=(32,), ahead=4, lr=3e-3, warmup=10)
GOAL = np.array([400.0, 400.0])


def walking(episodes: int = 24) -> Episodes:
    """A point that walks from anywhere to one goal, with noise in its actions, until it is there. Raw units of hundreds."""
    rng, obs, action, ends = np.random.default_rng(0), [], [], []
    for _ in range(episodes):
        position = rng.uniform(0, 500, 2)
        while np.linalg.norm(position - GOAL) > 20 or not obs or len(obs) - (ends[-1] if ends else 0) < 2:
            step = GOAL - position
            target = position + 40 * step / max(np.linalg.norm(step), 40) + rng.normal(size=2) * 15
            obs.append(position)
            action.append(target)
            position = position + 0.5 * (target - position)
        ends.append(len(obs))
    meta = Meta(action_low=(0.0, 0.0), action_high=(512.0, 512.0), description="synthetic: a walk")
    return Episodes(np.array(obs), np.clip(np.array(action), 0, 512), np.array(ends), meta=meta)


def world_config(folder: Path, **changes: Any) -> Config:
    """An MLP of 20 steps beside a world model that has learned what actions do in `walking`."""
    save_npz(walking(), folder / "data.npz")
    method = MLPConfig(cloning=Stage(steps=20, batch=64, warmup=5), policy=(16, 16), policy_noise=0.0, imagine=True, world=WORLD)
    config = Config(data=str(folder / "data.npz"), out=str(folder / "run"), horizon=8, holdout=0.2, precision="32-true", threads=1)
    return replace(config, method=replace(method, **changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Tests must not change it."""
    return train(world_config(tmp_path_factory.mktemp("world")), quiet=True)


@pytest.fixture
def method(run: Run) -> Method:
    return load_method(run)


def next_to(obs: Tensor, action: Tensor) -> Tensor:
    """What happens in `walking`, raw units."""
    return obs + 0.5 * (action - obs)


# --- what is learned --------------------------------------------------------------------------------------------------------------------


def test_an_ensemble_is_so_many_perceptrons() -> None:
    torch.manual_seed(0)
    ensemble, x = EnsembleMLP(3, [4, 8, 2]), torch.randn(3, 5, 4)
    for member in range(3):
        (w1, w2), (b1, b2) = ([p[member] for p in part] for part in (ensemble.weights, ensemble.biases))
        assert torch.allclose(ensemble(x)[member], torch.relu(x[member] @ w1 + b1) @ w2 + b2, atol=1e-6)
    assert len(set(ensemble.weights[0][:, 0, 0].tolist())) == 3, "members differ from the start"


def test_it_is_a_stage_of_its_own_before_all_else(run: Run) -> None:
    assert list(run.config().method.stages) == run.state()["done"] == ["world", "cloning"]
    lines = [line for line in run.metrics() if line["stage"] == "world"]
    assert {"L_world", "L_value", "held_out/world_error_4", "held_out/value_rmse_steps"} <= set(lines[-1])
    assert lines[-1]["L_world"] < 0.2 * lines[0]["L_world"]


def test_it_learns_what_actions_do_and_how_far_it_still_is(run: Run, method: Method) -> None:
    world, encode = method.world, method.normalizer.encode_obs
    assert world is not None
    obs, action = torch.tensor([[250.0, 60.0], [330.0, 230.0]]), torch.tensor([[255.0, 110.0], [335.0, 274.0]])
    with torch.no_grad():
        expected = world.step(encode(obs), method.normalizer.encode_action(action))
        reached = method.normalizer.decode_obs(expected.mean(0))
        left = world.remaining(encode(torch.tensor([[20.0, 20.0], [250.0, 250.0], [390.0, 380.0]]))).mean(0).tolist()
    assert expected.shape == (3, 2, 2)
    assert (reached - next_to(obs, action)).norm(dim=-1).max() < 0.5 * (next_to(obs, action) - obs).norm(dim=-1).min()
    assert left[0] > left[1] + 5 > left[2] + 10 and abs(left[2]) < 4, "20 raw units a step"
    assert float(world.doubt) > 0


def test_steps_that_remain_to_the_goal() -> None:
    episodes = reaching(4, 10)
    normalizer = Normalizer(2, 2)
    normalizer.fit(episodes)

    def left(**tags: list[float] | list[bool]) -> Tensor:
        labelled = replace(episodes, tags={name: np.array(values) for name, values in tags.items()})
        return lwd.data.snippets.Snippets(labelled, normalizer, 4).left

    plain = left()
    assert plain[:11].tolist() == [9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0, 9]
    late = torch.tensor([0.0] * 10 + [10.0] * 10 + [0.0] * 20)
    assert torch.equal(left(success=[True, False, True, True]) - plain, late), "what failed is far from its goal"
    assert torch.equal(left(success_step=[9, -1, 9, 9]) - plain, late) and torch.equal(left(success_step=[9, np.nan, 9, 9]) - plain, late)
    reached = left(success_step=[4, -1, 9, 0], success=[True, False, True, True])
    assert reached[:10].tolist() == [4.0, 3, 2, 1, 0, 0, 0, 0, 0, 0] and reached[30:].sum() == 0, "the goal is reached before the end"
    assert torch.equal(reached[10:30], (plain + late)[10:30])


def test_a_world_of_several_tasks_is_told_the_task() -> None:
    torch.manual_seed(0)
    world = World(2, 2, 3, WORLD)
    obs, action = torch.randn(4, 2), torch.randn(4, 2)
    one, other = (world.step(obs, action, torch.full((4,), task)) for task in (0, 2))
    assert one.shape == (3, 4, 2) and not torch.allclose(one, other)
    assert not torch.allclose(world.remaining(obs, torch.zeros(4, dtype=torch.long)), world.remaining(obs, torch.ones(4, dtype=torch.long)))


def test_raw_observations_survive_the_way_there_and_back() -> None:
    rng = np.random.default_rng(0)
    obs = np.concatenate([rng.uniform(-3, 900, (40, 2)), rng.uniform(0, 2 * np.pi, (40, 1)), np.full((40, 1), 7.0)], 1)
    normalizer = Normalizer(4, 1, angles=(2,))
    normalizer.fit(Episodes(obs, rng.normal(size=(40, 1)), np.array([40])))
    raw = torch.from_numpy(obs).float()
    assert torch.allclose(normalizer.decode_obs(normalizer.encode_obs(raw)), raw, rtol=1e-4, atol=1e-3)


# --- what is imagined -------------------------------------------------------------------------------------------------------------------


def test_imagination_goes_on_in_closed_loop(method: Method) -> None:
    world = method.world
    assert world is not None
    seen: list[Tensor] = []

    def act(obs: Tensor, t: int) -> Tensor:
        seen.append(obs)
        return 0.5 * obs + t

    start = torch.tensor([[0.1, -0.8], [0.0, 0.2]])
    with torch.no_grad():
        imagined, x = world.imagine(act, start, 3), start
        for t in range(3):
            assert torch.allclose(seen[t], x)
            x = world.step(x, 0.5 * x + t).mean(0)
    assert imagined.path.shape == (4, 2, 2) and torch.allclose(imagined.path[-1], x)


def test_imagination_is_cut_where_the_members_disagree(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    world = method.world
    assert world is not None
    limit = TRUST * float(world.doubt)
    doubts = iter([torch.tensor([0.5, 0.5]) * limit, torch.tensor([0.5, 2.0]) * limit, torch.tensor([0.5, 0.5]) * limit])
    monkeypatch.setattr(world, "disagreement", lambda each: next(doubts))
    with torch.no_grad():
        imagined = world.imagine(lambda obs, t: torch.ones_like(obs), torch.zeros(2, 2), 3)
        ends = torch.stack([imagined.path[3, 0], imagined.path[1, 1]])
        assert imagined.steps.tolist() == [3, 1], "the second is not known after its first step, whatever comes later"
        assert torch.allclose(imagined.total, imagined.steps + world.pessimistic(ends))


class Guides:
    """A planner whose chunks go on to the goal of `walking`, or stay: which, the generators say."""

    history, horizon = 1, 8

    def plan(self, history: Tensor, task: Any = None, generator: Generators = None) -> ChunkController:
        assert isinstance(generator, list)
        obs, aims = history[:, -1], []
        for row, own in enumerate(generator):
            kind = int(torch.randint(2, (1,), generator=own))
            aims.append(obs[row] + kind * (torch.tensor(GOAL).float() - obs[row]))
        here, chunk = obs, []
        for _ in range(8):
            target = here + 0.3 * (torch.stack(aims) - here)
            chunk.append(target)
            here = next_to(here, target)
        return ChunkController(torch.stack(chunk, 1))


def test_the_best_of_several_is_chosen_row_by_row(method: Method) -> None:
    method.plan = Guides().plan  # type: ignore[assignment, method-assign]
    history = torch.tensor([[[250.0, 50.0]], [[300.0, 160.0]], [[55.0, 245.0]]])
    seeds = [torch.Generator().manual_seed(number) for number in (0, 1, 2)]
    with torch.inference_mode():
        chosen = Imagining(method, 8, 8).plan(history, None, seeds)
    end = chosen.actions[:, -1]
    assert chosen.actions.shape == (3, 8, 2)
    assert bool(((end - history[:, 0]).norm(dim=-1) > 60).all()), "of eight draws one goes on, and going on makes progress"
    one = Imagining(method, 1, 8)
    with torch.inference_mode():
        alone = one.plan(history, None, [torch.Generator().manual_seed(number) for number in (0, 1, 2)])
        plain = method.plan(history, None, [torch.Generator().manual_seed(number) for number in (0, 1, 2)])
    assert torch.equal(alone.actions, plain.actions), "of one there is nothing to choose"
    futures, best = one.considered()
    assert futures.shape == (3, 1, 9, 2) and best.tolist() == [0, 0, 0] and torch.allclose(futures[:, 0, 0], history[:, 0], atol=1e-2)


def test_wrappers_stand_inside_each_other(method: Method) -> None:
    how = EvalSettings(imagine=3, ensemble=2, temporal=True, replan_every=40)
    planner: Any = wrapped(method, how)
    assert isinstance(planner, TemporalEnsemble) and isinstance(planner.planner, Ensemble)
    inner = imagining(planner)
    assert inner is planner.planner.planner and isinstance(inner, Imagining) and (inner.count, inner.steps) == (3, IMAGINED)
    assert imagining(wrapped(method, EvalSettings(imagine=3, imagine_steps=5))).steps == 5  # type: ignore[union-attr]
    assert imagining(wrapped(method, EvalSettings())) is None
    history = torch.full((2, 1, 2), 250.0)
    with torch.inference_mode():
        assert planner.plan(history, None, [torch.Generator(), torch.Generator()]).act(history[:, 0], torch.zeros(2).long()).shape == (2, 2)


def test_the_monitor_is_surprised_where_the_world_departs(method: Method) -> None:
    monitor = Surprise(method, 0.15)
    obs, action = torch.tensor([[250.0, 60.0]] * 2), torch.tensor([[270.0, 95.0]] * 2)
    following = next_to(obs, action)
    following[1, 0] += 100  # of a range of 500: 0.4 in normalised units
    with torch.inference_mode():
        assert monitor(obs, action, following, torch.zeros(2).long()).tolist() == [False, True]
    assert monitored(method, EvalSettings()) is None and isinstance(monitored(method, EvalSettings(monitor=0.15)), Surprise)


def test_without_a_world_model_imagination_is_refused(trained: Path, run: Run) -> None:
    for settings, option in ((EvalSettings(imagine=4), "--imagine"), (EvalSettings(monitor=0.2), "--monitor")):
        with pytest.raises(LWDError, match=f"{option} needs a world model.*lwd improve"):
            (wrapped if settings.imagine else monitored)(load_method(Run(trained)), settings)
    with pytest.raises(LWDError, match="--imagine needs a world model"):
        lwd.load(trained, imagine=4)
    with pytest.raises(LWDError, match="--imagine-steps needs --imagine"):
        EvalSettings(imagine_steps=4)
    with pytest.raises(LWDError, match="--monitor is a distance"):
        EvalSettings(monitor=-1)


def test_an_agent_imagines_and_is_surprised(run: Run) -> None:
    agent = lwd.load(run.path, imagine=4, seed=0).agent(replan_every=8, monitor=0.3)
    obs = np.array([[250.0, 260.0], [255.0, 250.0]], np.float32)
    action = agent.act(obs)
    assert action.shape == (2, 2) and agent.causes == ["start", "start"]
    moved = obs + 0.5 * (action - obs)
    moved[1, 0] -= 150
    agent.act(moved)
    assert agent.causes == ["", "monitor"]


def test_what_imagining_costs_is_counted(method: Method) -> None:
    obs = torch.full((1, 2), 250.0)
    plain = measure_cost(method, obs, 8)
    dear = measure_cost(wrapped(method, EvalSettings(imagine=4, replan_every=8)), obs, 8, monitor=Surprise(method, 0.1))
    told = dear["imagination"]
    step = 3 * 2 * (4 * 32 + 32 * 32 + 32 * 2)  # three members: a product of 4 x 32, of 32 x 32 and of 32 x 2
    value = 3 * 2 * (2 * 32 + 32 * 1)
    policy = plain["flops_per_step"]["policy"]
    assert (told["candidates"], told["steps"]) == (4, 8) and told["flops"] == 4 * (8 * (step + policy) + value)
    assert dear["flops_per_step"]["policy"] == policy + step, "the monitor looks at every step"
    assert dear["flops_per_step"]["query"] == pytest.approx((8 * plain["flops_per_step"]["query"] + told["flops"]) / 8)
    assert "imagination" not in plain


# --- in evaluation and diagnosis --------------------------------------------------------------------------------------------------------


def test_evaluation_with_imagination_a_monitor_and_ghosts(tmp_path: Path) -> None:
    config = replace(tiny_config(tmp_path), data="embedded", demonstrations=6, obs_kind="keypoints", horizon=8)
    small = WorldStage(steps=60, batch=32, hidden=(16,), value_hidden=(16,), warmup=5)
    run = train(replace(config, method=replace(config.method, imagine=True, world=small)), quiet=True)
    how = EvalSettings(episodes=2, max_steps=20, imagine=3, monitor=0.01, disturb="displace:50")
    result, path, videos = evaluate_run(run, how, video=1, workers=0)
    assert path.stem == "h8_displace50_n2_s100000_imagine3-monitor0.01-20steps" and len(videos) == 1
    assert result["imagination"]["candidates"] == 3 and result["imagination"]["steps"] == 8
    causes = [cause for episode in result["records"] for cause in episode["causes"]]
    assert "monitor" in causes, "a distance of 0.01 is reached at once by so poor a model"
    steps = sum(episode["steps"] for episode in result["records"])
    queries = sum(episode["queries"] for episode in result["records"])
    flops = result["flops_per_step"]
    assert flops["query"] * steps / queries > result["imagination"]["flops"], "queries that a monitor has caused count"
    again = evaluate_run(run, how, workers=0)[0]
    assert [e["max_overlap"] for e in again["records"]] == [e["max_overlap"] for e in result["records"]]


def test_ghosts_are_drawn_until_the_next_query() -> None:
    from lwd.report.video import annotate

    frames = [np.full((96, 96, 3), 255, np.uint8)] * 4
    places = np.array([[[0.1, 0.1], [0.9, 0.1]], [[0.1, 0.5], [0.9, 0.5]]])
    plain, drawn = annotate(frames, {}), annotate(frames, {}, (), {1: (places, 1)})
    assert np.array_equal(plain[0], drawn[0])
    blue = drawn[2][48, 48].astype(int)
    assert blue[2] > blue[0] + 60 and not np.array_equal(drawn[3][9, 48], plain[3][9, 48]), "the chosen one is blue, the other one grey"


def test_diagnose_shows_world_model_and_value(run: Run, method: Method, capsys: pytest.CaptureFixture[str]) -> None:
    result = diagnose(run)
    links = {own["name"]: own for own in result["links"]}
    assert {own["number"] for own in links.values()} == {7} and links["world model, 1 step, against no change"]["verdict"] == "ok"
    ahead = links["world model, 8 steps, against no change"]
    assert ahead["value"] < ahead["against"] and any(name.startswith("largest error, dimension ") for name in links)
    assert -1 <= links["rank correlation of disagreement and error, 8 steps"]["value"] <= 1
    assert links["progress value, remaining steps"]["value"] < links["progress value, remaining steps"]["against"]
    assert sum("third of a demonstration" in name for name in links) == 3
    assert isinstance(method.config, Improved) and "prefer" not in ahead["advice"]
    method.config = replace(method.config, improve=True)
    warned = [own["name"] for own in world_links(method, walking()) if "prefer the run they come from" in own["advice"]]
    assert warned == ["world model, 8 steps, against no change"], "whoever improved with it is told"
    method.world = None
    assert world_links(method, walking()) == []
    assert main(["diagnose", str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["links"][0]["number"] == 7


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(LWDError, match="at least 1"):
        WorldStage(members=0)
    with pytest.raises(LWDError, match="improve needs a world model"):
        LWDConfig(improve=True)
    assert "world" not in LWDConfig().stages and next(iter(LWDConfig(imagine=True).stages)) == "world"
