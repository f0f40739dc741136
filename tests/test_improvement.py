"""Learning in imagination: policies get better by it where cloning is poor, and what it does not train stays as it is."""

from __future__ import annotations

import json
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import reaching, tiny_config, tiny_method
from lwd.cli import main
from lwd.config import Config, DiffusionPolicyConfig, ImprovementStage, MLPConfig, Stage
from lwd.data.formats.npz import save_npz
from lwd.episodes import Spec
from lwd.errors import LWDError, LWDWarning
from lwd.methods.base import make_method
from lwd.methods.lwd import LWD
from lwd.methods.mlp import MLP
from lwd.training.run import Run
from lwd.training.train import load_method, train
from test_world import GOAL, WORLD, next_to, walking, world_config

SPEC = Spec(2, 2, 8, 8, action_low=(0.0, 0.0), action_high=(512.0, 512.0))
IMPROVEMENT = ImprovementStage(steps=200, batch=32, lr=1e-3, warmup=5, ahead=8, detour=4, weight=1.0, near=0.1)


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An MLP that has hardly been trained, and a world model that has. Tests must not change it."""
    return train(world_config(tmp_path_factory.mktemp("cloned")), quiet=True)


def improved(run: Run, out: Path, **changes: Any) -> Config:
    config = run.config()
    method = replace(config.method, improve=True, stages_from=str(run.path), improvement=replace(IMPROVEMENT, **changes))
    return replace(config, out=str(out), method=method)


def distance(run: Run, steps: int) -> float:
    """How far from the goal the policy is after some steps in the real `walking`."""
    method, obs = load_method(run), torch.tensor([[250.0, 60.0], [40.0, 400.0], [60.0, 50.0], [420.0, 110.0]])
    with torch.no_grad():
        controller = method.plan(obs[:, None], None, torch.Generator().manual_seed(0))
        for t in range(steps):
            obs = next_to(obs, controller.act(obs, torch.full((4,), t)))
    return float((obs - torch.tensor(GOAL)).norm(dim=-1).mean())


def test_policies_get_better_in_imagination_alone(cloned: Run, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 400, "lr": 3e-3}
    better, continued = (train(improved(cloned, tmp_path / f"{w}", weight=w, **settings), quiet=True) for w in (5.0, 0.0))
    assert better.state()["done"] == ["world", "cloning", "improvement"]
    own, other = better.metrics()[-1], continued.metrics()[-1]
    assert own["held_out/L_V"] < other["held_out/L_V"] and own["held_out/L_BC"] > other["held_out/L_BC"]
    assert distance(better, 8) < 0.5 * distance(continued, 8), "it was never in the real world, and is sooner at the goal there"


def test_a_poor_world_model_is_told_before_it_does_harm(cloned: Run, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LWDWarning)
        train(improved(cloned, tmp_path / "good", steps=1), quiet=True)
    (tmp_path / "untrained").mkdir()
    config = world_config(tmp_path / "untrained")
    poor = train(replace(config, method=replace(config.method, world=replace(config.method.world, steps=1))), quiet=True)
    with pytest.warns(LWDWarning, match=r"steps ahead the world model is off by .* compare with a run without it"):
        train(improved(poor, tmp_path / "poor", steps=1), quiet=True)


def test_a_run_with_a_world_model_may_be_taken_over_without_it(tmp_path: Path) -> None:
    run = train(lwd_config(tmp_path), quiet=True)
    plain = replace(
        run.config(), out=str(tmp_path / "plain"), method=replace(run.config().method, imagine=False, stages_from=str(run.path))
    )
    other = train(plain, quiet=True)
    assert other.state()["done"] == ["autoencoder", "diffusion"] and load_method(other).world is None


def test_the_world_model_stays(cloned: Run, tmp_path: Path) -> None:
    better = train(improved(cloned, tmp_path / "better", steps=5), quiet=True)
    before, after = (load_method(run).state_dict() for run in (cloned, better))
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"policy"}


def lwd_config(folder: Path, **changes: Any) -> Config:
    config = tiny_config(folder)
    small = replace(WORLD, steps=20)
    return replace(config, method=tiny_method(world_model=False, phase=True, span=2, imagine=True, world=small, **changes))


@pytest.mark.filterwarnings("ignore::lwd.errors.LWDWarning")
def test_of_lwd_the_decoder_alone_is_improved(tmp_path: Path) -> None:
    run = train(lwd_config(tmp_path), quiet=True)
    config = improved(run, tmp_path / "better", steps=5)
    better = train(config, quiet=True)
    before, after = (load_method(run).state_dict() for run in (run, better))
    assert {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])} == {"decoder"}
    again = train(replace(config, out=str(tmp_path / "again")), quiet=True)
    assert all(torch.equal(value, after[name]) for name, value in load_method(again).state_dict().items())


def test_a_share_of_the_imagined_policies_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    episodes = reaching()
    for share in (0.0, 0.5, 1.0):
        method = make_method(tiny_method(imagine=True, improve=True, world=WORLD, improvement=replace(IMPROVEMENT, sampled=share)), SPEC)
        assert isinstance(method, LWD)
        method.normalizer.fit(episodes)
        data = method.snippets(episodes)
        drawn = method.sample
        monkeypatch.setattr(method, "sample", lambda cond, generator, own=drawn: counts.append(len(cond)) or own(cond, generator))
        generator = torch.Generator().manual_seed(0)
        losses = method.loss("improvement", data.sample(8, generator), 0, generator)
        losses["loss"].backward()
        assert all(p.grad is not None for p in method.decoder.parameters()), "the gradient flows through the imagined episodes"
    assert counts == [4, 8]


def test_near_the_goal_cloning_alone_decides() -> None:
    episodes = walking()
    method = make_method(world_config_method(near=10.0), SPEC)
    assert isinstance(method, MLP)
    method.normalizer.fit(episodes)
    generator = torch.Generator().manual_seed(0)
    losses = method.loss("improvement", method.snippets(episodes).sample(16, generator), 0, generator)
    assert float(losses["L_V"].detach()) == 0.0 and float(losses["L_BC"].detach()) > 0


def test_imagined_episodes_of_a_policy_with_phase_go_on_from_its_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """The phase is that of the imagined step: steps since the beginning of the episode, over the horizon."""
    episodes, seen = walking(), list[torch.Tensor]()
    method = make_method(replace(world_config_method(ahead=3), phase=True), SPEC)
    assert isinstance(method, MLP)
    method.normalizer.fit(episodes)
    data, generator, plain = method.snippets(episodes), torch.Generator().manual_seed(0), method.react
    monkeypatch.setattr(method, "react", lambda condition, age: seen.append(age) or plain(condition, age))
    batch = data.sample(16, generator)
    method.loss("improvement", batch, 0, generator)["loss"].backward()
    age = batch.start - torch.from_numpy(episodes.starts)[torch.searchsorted(torch.from_numpy(episodes.ends), batch.start, right=True)]
    assert torch.equal(seen[0], age), "those of the cloning error"
    assert len(seen) == 4 and all(torch.equal(seen[i + 1], seen[1] + i) for i in range(3))
    assert (seen[1] >= age).all() and (seen[1] < age + SPEC.horizon).all() and (seen[1] > age).any()


def world_config_method(**changes: Any) -> Any:
    return MLPConfig(policy=(16, 16), imagine=True, improve=True, world=WORLD, improvement=replace(IMPROVEMENT, **changes))


def test_a_killed_improvement_resumes_exactly(cloned: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(improved(cloned, tmp_path / "whole", steps=20), checkpoint_every=5)
    whole = load_method(train(config, quiet=True)).state_dict()
    part, calls = replace(config, out=str(tmp_path / "part")), [0]
    plain = MLP.loss

    def interrupted(self: MLP, stage: str, *rest: Any) -> Any:
        calls[0] += stage == "improvement"
        if calls[0] == 9:
            signal.raise_signal(signal.SIGINT)
        return plain(self, stage, *rest)

    monkeypatch.setattr(MLP, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(part, quiet=True)
    assert Run(part.out).state()["step"] == 9
    resumed = load_method(train(part, quiet=True)).state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_the_command_improves_a_run_that_has_no_world_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, config = tmp_path / "better", tiny_config(tmp_path)
    train(replace(config, method=replace(config.method, world=replace(WORLD, steps=20))), quiet=True)
    code = main(["improve", config.out, "--out", str(out), "--steps", "5", "--quiet", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 0 and told["done"] == ["autoencoder", "diffusion", "world", "improvement"] and told["run"] == str(out)
    assert Run(out).config().method.improvement.steps == 5  # type: ignore[attr-defined]
    assert main(["improve", str(out)]) == 2
    assert "is improved already" in capsys.readouterr().err


def test_what_cannot_be_improved_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_npz(reaching(), tmp_path / "data.npz")
    stage = Stage(steps=3, batch=8, warmup=1)
    method = DiffusionPolicyConfig(diffusion=stage, denoiser_width=32, denoiser_depth=1, diffusion_steps=20, sampler_steps=4)
    config = Config(data=str(tmp_path / "data.npz"), out=str(tmp_path / "dp"), horizon=8, threads=1, precision="32-true", method=method)
    train(config, quiet=True)
    assert main(["improve", str(tmp_path / "dp")]) == 2
    assert "has chunks of actions" in capsys.readouterr().err and not (tmp_path / "dp-improved").exists()
    for wrong in ({"ahead": 0}, {"sampled": 2.0}, {"detour": -1}, {"weight": -1.0}):
        with pytest.raises(LWDError, match="improvement"):
            ImprovementStage(**wrong)  # type: ignore[arg-type]
