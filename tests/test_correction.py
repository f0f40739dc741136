"""The correction of chunks: it starts from nothing, learns what a chunk cannot know, and is a stage like the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lwd
from conftest import reaching
from lwd.config import Config, DiffusionPolicyConfig, LatentDPConfig, Stage, from_dict, to_dict
from lwd.data.formats.npz import save_npz
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError
from lwd.methods.base import ChunkController, Method, Spec, make_method
from lwd.methods.correction import CorrectedController, CorrectionHead
from lwd.training.run import Run
from lwd.training.train import load_method, train

STAGE = Stage(steps=20, batch=32, lr=1e-3, warmup=5)
SMALL: dict[str, Any] = {"denoiser_width": 32, "denoiser_depth": 1, "diffusion_steps": 20, "sampler_steps": 4}
HEAD: dict[str, Any] = {"correction": STAGE, "correction_hidden": (32,)}
PLAIN = {
    "dp": DiffusionPolicyConfig(diffusion=STAGE, **HEAD, **SMALL),
    "ldp": LatentDPConfig(autoencoder=STAGE, diffusion=STAGE, latent=8, encoder=(32,), decoder=(32,), **HEAD, **SMALL),
}
CORRECTED = {name: replace(config, correct=True) for name, config in PLAIN.items()}
SPEC = Spec(2, 2, 8, 8, action_low=(0.0, 0.0), action_high=(512.0, 512.0))


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in load_method(run).state_dict().items()}


def chunks_of(method: Method, history: torch.Tensor, seed: int = 0) -> tuple[ChunkController, CorrectedController]:
    """The same chunks without and with their correction."""
    settings: Any = method.config
    corrected = method.plan(history, generator=torch.Generator().manual_seed(seed))
    method.settings = replace(settings, correct=False)  # type: ignore[assignment]
    try:
        plain = method.plan(history, generator=torch.Generator().manual_seed(seed))
    finally:
        method.settings = settings
    assert isinstance(plain, ChunkController) and isinstance(corrected, CorrectedController)
    return plain, corrected


@pytest.mark.parametrize("name", PLAIN)
def test_the_correction_is_the_last_stage_and_only_if_it_is_wanted(name: str) -> None:
    assert list(CORRECTED[name].stages) == [*PLAIN[name].stages, "correction"]
    assert (
        "head" not in make_method(PLAIN[name], SPEC).parameter_counts() and "head" in make_method(CORRECTED[name], SPEC).parameter_counts()
    )
    config = Config(method=CORRECTED[name], horizon=8)
    assert from_dict(Config, to_dict(config)) == config


@pytest.mark.parametrize("name", CORRECTED)
def test_a_head_of_zeros_leaves_the_chunk_alone(name: str) -> None:
    torch.manual_seed(0)
    method = make_method(CORRECTED[name], SPEC)
    method.normalizer.fit(reaching())
    history = torch.tensor([[[250.0, 50.0]], [[240.0, 200.0]], [[150.0, 300.0]]])
    plain, corrected = chunks_of(method, history)
    assert plain.horizon == corrected.horizon == 8
    for t in range(8):
        ages = torch.tensor([t, 7 - t, t])
        torch.testing.assert_close(corrected.act(history[:, 0] + 9 * t, ages), plain.act(history[:, 0], ages), atol=1e-2, rtol=1e-4)
    with torch.no_grad():
        list(method.head.parameters())[-1].copy_(torch.tensor([0.1, -0.2]))  # type: ignore[union-attr, operator]
    moved = corrected.act(history[:, 0], torch.tensor([2, 3, 4])) - plain.act(history[:, 0], torch.tensor([2, 3, 4]))
    torch.testing.assert_close(moved, (torch.tensor([[0.1, -0.2]]) * method.normalizer.action_half).expand(3, 2), atol=1e-2, rtol=1e-4)


def test_the_head_sees_observation_chunk_and_index_of_each_row() -> None:
    torch.manual_seed(0)
    method = make_method(replace(CORRECTED["dp"], before=1, after=3, history=2), replace(SPEC, horizon=4, length=8))
    method.normalizer.fit(reaching())
    with torch.no_grad():
        for parameter in method.head.parameters():  # type: ignore[union-attr]
            parameter.normal_(std=0.1)
    history = torch.rand(3, 2, 2) * 400
    controller = method.plan(history, generator=[torch.Generator().manual_seed(i) for i in range(3)])
    assert controller.horizon == 7, "from the query on"
    obs, t = history[:, -1], torch.tensor([1, 4, 6])
    action = controller.act(obs, t)
    assert ((controller.act(obs + 5, t) - action).abs().max(1).values > 0.1).all(), "another observation"
    assert ((controller.act(obs, t - 1) - action).abs().max(1).values > 0.1).all(), "another step"
    alone = method.plan(history[1:2], generator=[torch.Generator().manual_seed(1)])
    torch.testing.assert_close(alone.act(obs[1:2], t[1:2]), action[1:2], atol=1e-3, rtol=1e-4)
    new = method.plan(history[:2] + 30, generator=torch.Generator().manual_seed(9))
    controller.update(torch.tensor([2, 0]), new)
    assert torch.equal(controller.act(obs, t)[1], action[1])
    torch.testing.assert_close(controller.act(obs, t)[[2, 0]], new.act(obs[[2, 0]], t[[2, 0]]), atol=1e-3, rtol=1e-4)


def test_the_head_is_told_the_place_in_the_chunk() -> None:
    torch.manual_seed(0)
    head = CorrectionHead(2, 8, 2, (16,))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    still = torch.full((8, 8, 2), 0.3)  # whose action now is the same at every step
    assert len(head(torch.zeros(8, 2), still, torch.arange(8)).unique(dim=0)) == 8


@pytest.mark.parametrize("before", [0, 2])
def test_the_loss_compares_the_chunk_with_what_was_demonstrated_then(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method = make_method(replace(CORRECTED["dp"], before=before), replace(SPEC, length=8 + before))
    episodes = reaching(3, 10)
    method.normalizer.fit(episodes)
    data = method.snippets(episodes)
    ramp = torch.arange(8.0 + before)[:, None].expand(-1, 2) / 10  # every chunk of the base
    monkeypatch.setattr(method, "chunk", lambda cond, generator: cond.sum(-1)[:, None, None] + ramp.expand(len(cond), -1, -1))
    method.prepare("correction", data)
    generator = torch.Generator().manual_seed(0)
    found = method.loss("correction", data.sample(64, torch.Generator()), 0, generator)
    generator.manual_seed(0)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    start = order[torch.randint(30, (64,), generator=generator)]
    index = torch.randint(8, (64,), generator=generator)
    planned = data.obs[start].sum(-1, keepdim=True) + (before + index[:, None]) / 10
    demonstrated = data.action[torch.minimum(start + index, start // 10 * 10 + 9)]  # beyond its end an episode holds the last action
    torch.testing.assert_close(found["loss"], (planned - demonstrated).square().mean())


# --- training ---------------------------------------------------------------------------------------------------------------------------


def tracking(episodes: int = 30, length: int = 16, seed: int = 0) -> Episodes:
    """A target that jumps at every step and an action that follows it: what a chunk cannot foresee."""
    rng = np.random.default_rng(seed)
    obs = rng.uniform(100, 400, (episodes * length, 2))
    meta = Meta(action_low=(0.0, 0.0), action_high=(512.0, 512.0), description="synthetic: jumps")
    return Episodes(obs, obs[:, ::-1] + 20, length * np.arange(1, episodes + 1), meta=meta)


@pytest.mark.parametrize("name", CORRECTED)
def test_a_correction_learns_what_the_chunk_cannot_know(name: str, tiny: Config, tmp_path: Path) -> None:
    save_npz(tracking(), tmp_path / "jumps.npz")
    own = replace(CORRECTED[name], correction=Stage(steps=400, batch=128, lr=3e-3, warmup=10), correction_noise=0.01)
    config = replace(tiny, data=str(tmp_path / "jumps.npz"), out=str(tmp_path / "jumps"), method=own, checkpoint_every=400)
    run = train(config, quiet=True)
    method, test = load_method(run), tracking(4, seed=1)
    obs, action = (torch.from_numpy(x).reshape(4, 16, 2)[:, :8] for x in (test.obs, test.action))
    plain, corrected = chunks_of(method, obs[:, :1])
    errors = []
    for controller in (plain, corrected):
        found = torch.stack([controller.act(obs[:, t], torch.full((4,), t)) for t in range(8)], 1)
        errors.append((found - action).square().mean().sqrt().item())
    assert errors[0] > 50 > 2 * errors[1], "pixels"
    lines = [line for line in run.metrics() if line["stage"] == "correction"]
    assert lines[-1]["L_correction"] < 0.2 * lines[0]["L_correction"]
    measured = [line["held_out/corrected_action_rmse"] for line in lines if "held_out/corrected_action_rmse" in line]
    assert measured[-1] < 25 < measured[0]
    agent = lwd.load(run.path, seed=0).agent(4)
    agent.act(np.array([150.0, 300.0]))
    assert agent.act(np.array([300.0, 150.0])) == pytest.approx([170, 320], abs=40), "at age 1 it does what the new observation asks for"


@pytest.mark.parametrize("name", CORRECTED)
def test_a_killed_correction_continues_bit_for_bit(name: str, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(tiny, method=replace(CORRECTED[name], correction_noise=0.1))
    whole = weights(train(config, quiet=True))
    killed = replace(config, out=str(tmp_path / "killed"))
    stages, save = list[str](), Run.save

    def dying(self: Run, model: Any, training: Any, state: dict[str, Any]) -> None:
        save(self, model, training, state)
        stages.append(state["stage"])
        if stages.count("correction") == 2:  # in the middle of the stage
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        train(killed, quiet=True)
    monkeypatch.setattr(Run, "save", save)
    assert Run(killed.out).done == {*CORRECTED[name].stages} - {"correction"}
    torch.manual_seed(99)
    resumed = weights(train(killed, quiet=True))
    assert resumed.keys() == whole.keys() and all(torch.equal(value, whole[key]) for key, value in resumed.items())


@pytest.mark.parametrize("name", CORRECTED)
def test_the_base_is_not_changed_by_its_correction(name: str, tiny: Config, tmp_path: Path) -> None:
    """Trained in one go or from the stages of another run, the base is that of a run without a correction."""
    base = train(replace(tiny, method=PLAIN[name]), quiet=True)
    plain = weights(base)
    together = weights(train(replace(tiny, out=str(tmp_path / "together"), method=CORRECTED[name]), quiet=True))
    config = replace(
        tiny, out=str(tmp_path / "later"), method=replace(CORRECTED[name], stages_from=str(base.path), correction_hidden=(16, 16))
    )
    run = train(config, quiet=True)
    later = weights(run)
    assert {line["stage"] for line in run.metrics()} == {"correction"} and run.done == set(CORRECTED[name].stages)
    heads = {key for key in together if key.startswith("head.")}
    assert together.keys() - heads == plain.keys() == later.keys() - {key for key in later if key.startswith("head.")}
    for key, value in plain.items():
        assert torch.equal(together[key], value) and torch.equal(later[key], value), key
    assert all(later[key].any() for key in later if key.startswith("head.") and key.endswith("weight")), "the head was trained"
    train(config, quiet=True)  # finished: nothing happens
    assert all(torch.equal(value, later[key]) for key, value in weights(run).items())


def test_stages_that_do_not_fit_are_refused(tiny: Config, tmp_path: Path) -> None:
    base = train(replace(tiny, method=PLAIN["dp"]), quiet=True)
    corrected = replace(CORRECTED["dp"], stages_from=str(base.path))
    config = replace(tiny, out=str(tmp_path / "refused"), method=corrected)
    for other, reason in (
        (replace(config, method=replace(corrected, denoiser_width=48)), r"has other stages \(denoiser_width\)"),
        (replace(config, horizon=4), r"has other stages \(horizon\)"),
        (replace(config, method=replace(CORRECTED["ldp"], stages_from=str(base.path))), "not trained to its end|has other stages"),
        (replace(config, method=replace(PLAIN["dp"], stages_from=str(base.path))), "all stages but the last, and diffusion_policy has 1"),
        (replace(config, method=replace(corrected, stages_from=str(tmp_path / "nowhere"))), "no run directory"),
    ):
        with pytest.raises(LWDError, match=reason):
            train(other, quiet=True)
        assert not (tmp_path / "refused" / "config.json").exists()
    save_npz(reaching(seed=3), tiny.data)
    with pytest.raises(LWDError, match="was trained on other data: its stages do not belong here"):
        train(config, quiet=True)
