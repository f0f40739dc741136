"""The baselines, and what all methods have in common: they train, resume, plan and are rolled out by the same code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lwd
from conftest import tiny_method
from lwd.config import (
    METHODS,
    Config,
    DiffusionPolicyConfig,
    EvalSettings,
    LatentDPConfig,
    MethodConfig,
    MLPConfig,
    RandomConfig,
    Stage,
    from_dict,
    to_dict,
)
from lwd.data.formats.npz import save_npz
from lwd.data.prepare import load_data
from lwd.data.snippets import Snippets
from lwd.diagnose.baselines import action_errors
from lwd.episodes import Episodes
from lwd.errors import LWDError
from lwd.methods.base import ENDLESS, ChunkController, Spec, make_method
from lwd.methods.diffusion import Sampling, denoising_loss, sample
from lwd.methods.lwd import LWD
from lwd.nn import transformer
from lwd.presets import PRESETS
from lwd.training.run import Run
from lwd.training.train import load_method, run_data, train

STAGE = Stage(steps=20, batch=32, lr=1e-3, warmup=5)
SMALL: dict[str, Any] = {"denoiser_width": 32, "denoiser_depth": 1, "diffusion_steps": 20, "sampler_steps": 4}
TINY: dict[str, MethodConfig] = {
    "lwd": tiny_method(),
    "diffusion_policy": DiffusionPolicyConfig(diffusion=STAGE, **SMALL),
    "latent_dp": LatentDPConfig(autoencoder=STAGE, diffusion=STAGE, latent=8, encoder=(32,), decoder=(32,), **SMALL),
    "mlp": MLPConfig(cloning=STAGE, policy=(16, 16)),
    "random": RandomConfig(),
}
SPEC = Spec(2, 2, 8, 8, action_low=(0.0, 0.0), action_high=(512.0, 512.0))
PUSHT = Spec(5, 2, 16, 16)


def test_every_method_is_tested() -> None:
    assert set(TINY) == set(METHODS)


@pytest.mark.parametrize("name", TINY)
def test_trains_resumes_and_plans(tiny: Config, tmp_path: Path, name: str) -> None:
    config = replace(tiny, method=TINY[name])
    run = train(config, quiet=True)
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    assert run.config().method == TINY[name]
    before = {k: v.clone() for k, v in load_method(run).state_dict().items()}
    method = load_method(train(config, quiet=True))  # done: nothing happens
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())

    history = torch.tensor([[[250.0, 50.0]], [[250.0, 60.0]], [[240.0, 50.0]]])
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    controller = method.plan(history, generator=generators)
    actions = torch.stack([controller.act(history[:, 0], torch.full((3,), t)) for t in range(8)])
    assert actions.shape == (8, 3, 2) and actions.min() >= 0 and actions.max() <= 512
    again = method.plan(history[1:2], generator=[torch.Generator().manual_seed(1)])
    torch.testing.assert_close(
        again.act(history[1:2, 0], torch.zeros(1, dtype=torch.long)), actions[0, 1:2]
    )  # a row does not depend on the others

    planned = lwd.load(run.path, seed=0).plan(np.array([250.0, 50.0]))
    assert planned.act(np.array([250.0, 50.0]), 3).shape == (2,)
    if isinstance(controller, ChunkController):
        with pytest.raises(LWDError, match="not for t = 8"):
            planned.act(np.array([250.0, 50.0]), 8)
    else:
        assert controller.horizon == ENDLESS


def test_killed_baseline_continues_bit_for_bit(tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(tiny, method=TINY["latent_dp"])
    whole = load_method(train(config, quiet=True)).state_dict()
    killed = replace(config, out=str(tmp_path / "killed"))
    saves: list[int] = []
    save = Run.save

    def dying(self: Run, *arguments: Any) -> None:
        save(self, *arguments)
        saves.append(1)
        if len(saves) == 6:  # in the middle of the second stage
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        train(killed, quiet=True)
    monkeypatch.setattr(Run, "save", save)
    resumed = load_method(train(killed, quiet=True)).state_dict()
    assert all(torch.equal(v, whole[k]) for k, v in resumed.items())


@pytest.mark.parametrize("name", ["diffusion_policy", "latent_dp"])
def test_chunks_learn_the_two_modes(tiny: Config, name: str) -> None:
    """From the common start some chunks go left, some right, and none between (which is where the MLP goes)."""
    long = Stage(steps=1000, batch=64, lr=3e-3, warmup=20)
    method = replace(
        TINY[name],
        diffusion=long,
        denoiser_width=64,
        denoiser_depth=2,
        sampler_steps=10,
        **(  # type: ignore[arg-type]
            {"autoencoder": Stage(steps=600, batch=64, lr=2e-3), "beta": 1e-4} if name == "latent_dp" else {}
        ),
    )
    planner = load_method(train(replace(tiny, log_every=600, validate_every=600, checkpoint_every=600, method=method), quiet=True))
    controller = planner.plan(torch.tensor([250.0, 50.0]).expand(200, 1, 2), generator=torch.Generator().manual_seed(0))
    x = controller.actions[:, -1, 0]
    left, right = (x < 210).float().mean(), (x > 290).float().mean()
    assert left > 0.2 and right > 0.2 and left + right > 0.75


def test_the_mlp_averages_the_modes(tiny: Config) -> None:
    method = MLPConfig(cloning=Stage(steps=600, batch=256, lr=3e-3, warmup=20), policy=(32, 32), policy_noise=0.0)
    planner = load_method(train(replace(tiny, log_every=600, validate_every=600, checkpoint_every=600, method=method), quiet=True))
    x = planner.plan(torch.tensor([[[250.0, 55.0]]])).act(torch.tensor([[250.0, 55.0]]), torch.tensor([0]))[0, 0]
    assert 235 < x < 265


def test_an_mlp_with_phase_knows_when_to_turn(tmp_path: Path) -> None:
    """Nothing moves, and demonstrations go right for 8 steps, then left for 8: only the phase tells when. Reported errors see it, too."""
    turn = np.tile(np.repeat([[1.0], [-1.0]], 8, 0), (10, 1))
    random = np.random.default_rng(0).uniform(-1, 1, (10, 1, 1)).repeat(16, 1).reshape(-1, 1)
    save_npz(Episodes(random, turn, np.arange(16, 161, 16)), tmp_path / "turn.npz")
    obs, errors = torch.zeros(16, 1), {}
    for phase in (True, False):
        method = MLPConfig(cloning=Stage(steps=400, batch=64, lr=1e-2, warmup=5), policy=(64,), policy_noise=0.0, phase=phase)
        own: dict[str, Any] = {"data": str(tmp_path / "turn.npz"), "out": str(tmp_path / str(phase)), "precision": "32-true"}
        run = train(Config(**own, horizon=16, holdout=0.2, threads=1, log_every=400, validate_every=400, method=method), quiet=True)
        planner, held = load_method(run), run_data(run)[1]
        assert held is not None
        actions = planner.plan(obs[:, None]).act(obs, torch.arange(16))
        wrong = actions - torch.from_numpy(turn[:16]).float()
        errors[phase] = (
            float(wrong.square().mean().sqrt()),
            run.metrics()[-1]["held_out/policy_action_rmse"],
            action_errors(run, planner, held)["this run"][1],
        )
        if phase:
            with pytest.raises(LWDError, match="asked once, there, not every 4 steps"):
                planner.ask_for(EvalSettings(replan_every=4))
    assert max(errors[True]) < 0.5 and min(errors[False]) > 0.9


def test_executes_a_prefix_of_what_it_predicts() -> None:
    config = replace(DiffusionPolicyConfig(**SMALL), before=1, after=3, history=2)
    method = make_method(config, replace(SPEC, horizon=4, length=8))
    controller = method.plan(torch.rand(3, 2, 2), generator=torch.Generator().manual_seed(0))
    assert controller.actions.shape == (3, 7, 2)  # from the query on: 4 to be executed, 3 more


def test_diffusion_policy_has_the_size_of_the_paper() -> None:
    """Table 3, "l" on PushT: two past observations, sixteen predicted actions."""
    config = DiffusionPolicyConfig(denoiser="unet", unet_size="l", history=2)
    with torch.device("meta"):
        method = make_method(config, PUSHT)
    assert sum(p.numel() for p in method.get_submodule("denoiser").parameters()) / 1e6 == pytest.approx(65.35, abs=0.005)


def test_paper_presets_keep_the_table() -> None:
    config = PRESETS["paper/pusht-dp"][1]
    assert isinstance(config.method, DiffusionPolicyConfig)
    assert (config.method.denoiser, config.method.prediction, config.method.sampler) == ("unet", "epsilon", "ddpm")


@pytest.mark.parametrize("size", list(transformer.SIZES))
def test_transformers_have_the_sizes_of_table_4(size: Any) -> None:
    config = DiffusionPolicyConfig(denoiser="transformer", transformer_size=size)
    with torch.device("meta"):
        net = make_method(config, PUSHT).get_submodule("denoiser")
    _, width, layers, heads = transformer.SIZES[size]
    attention = [m for m in net.modules() if isinstance(m, torch.nn.MultiheadAttention)]
    assert len(attention) == layers and {m.num_heads for m in attention} == {heads} and {m.embed_dim for m in attention} == {width}


@pytest.mark.parametrize("denoiser", ["mlp", "unet", "transformer"])
def test_denoisers_know_the_order_of_a_chunk(denoiser: Any) -> None:
    """A denoiser that was fitted to one constant chunk gives it back, every action at its time."""
    torch.manual_seed(0)
    config = DiffusionPolicyConfig(denoiser=denoiser, unet_size="xs", transformer_size="xs", **SMALL)
    method = make_method(config, SPEC)
    target = torch.linspace(-0.9, 0.9, 16).reshape(1, 8, 2).expand(64, 8, 2)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    net = method.get_submodule("denoiser")
    for _ in range(150):
        optimizer.zero_grad()
        denoising_loss(config, net, target.transpose(1, 2).flatten(1), torch.zeros(64, 2), generator)["loss"].backward()
        optimizer.step()
    flat = sample(config, net, 16, torch.zeros(4, 2), Sampling("ddim", 10), torch.Generator().manual_seed(1))
    assert (flat.unflatten(1, (2, 8)).transpose(1, 2) - target[:4]).abs().mean() < 0.1


def test_a_chunk_is_entered_at_the_step_of_each_row() -> None:
    controller = ChunkController(torch.arange(12.0).reshape(2, 3, 2))
    assert controller.act(torch.zeros(2, 5), torch.tensor([2, 0])).tolist() == [[4.0, 5.0], [6.0, 7.0]]


def test_a_sampler_that_the_model_was_not_trained_for_is_refused(tiny: Config) -> None:
    flow = DiffusionPolicyConfig(diffusion=STAGE, objective="flow", **SMALL)
    method = load_method(train(replace(tiny, method=flow), quiet=True))
    assert method.sampling is not None and method.sampling.sampler == "euler"
    with pytest.raises(LWDError, match="ddim does not go with the objective flow"):
        method.sample_with(EvalSettings(sampler="ddim"))
    with pytest.raises(LWDError, match="between 1 and 20 steps"):
        method.sample_with(EvalSettings(sampler_steps=21))
    with pytest.raises(LWDError, match="no diffusion model"):
        make_method(TINY["mlp"], SPEC).sample_with(EvalSettings(sampler_steps=4))
    with pytest.raises(LWDError, match="has no latent"):
        make_method(TINY["diffusion_policy"], SPEC).sample_with(EvalSettings(latent="prior"))


# --- precision --------------------------------------------------------------------------------------------------------------------


def test_mixed_precision_is_really_used(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one device, too, where Fabric wraps nothing."""
    from lwd.nn.residual_mlp import ResidualMLP

    kinds: set[tuple[torch.dtype, bool]] = set()
    forward = ResidualMLP.forward

    def spy(self: ResidualMLP, *arguments: Any) -> torch.Tensor:
        out = forward(self, *arguments)
        kinds.add((out.dtype, torch.is_grad_enabled()))
        return out

    monkeypatch.setattr(ResidualMLP, "forward", spy)
    train(replace(tiny, precision="bf16-mixed", method=TINY["diffusion_policy"]), quiet=True)
    assert (torch.bfloat16, True) in kinds
    kinds.clear()
    train(replace(tiny, out=tiny.out + "32", method=TINY["diffusion_policy"]), quiet=True)
    assert {kind for kind, _ in kinds} == {torch.float32}


# --- other sources of latents -------------------------------------------------------------------------------------------------------


def test_latents_come_from_where_they_should(tiny: Config) -> None:
    method = load_method(train(replace(tiny, method=tiny_method(beta=1e-3)), quiet=True))
    assert isinstance(method, LWD)
    history = torch.tensor([[[250.0, 50.0]]]).expand(4000, 1, 2)

    def latents(source: Any) -> torch.Tensor:
        method.sample_with(EvalSettings(latent=source))
        return method.plan(history, generator=torch.Generator().manual_seed(0)).latent

    own = method.sampling
    prior = latents("prior")
    torch.testing.assert_close(prior.T.cov(), torch.eye(8), atol=0.12, rtol=0)
    training, _ = load_data(tiny)
    data = Snippets(training, method.normalizer, method.spec.length)
    mean, logvar = method.encode_all(data)
    drawn = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    fitted = latents("gaussian")
    scale = drawn.T.cov().diag().mean()
    assert (fitted.T.cov() - drawn.T.cov()).abs().max() < 0.25 * scale
    torch.testing.assert_close(fitted.mean(0), mean.mean(0), atol=float(0.1 * scale.sqrt()), rtol=0)
    assert own is not None and own.latent == "model"


def test_regression_is_one_pass_and_has_no_chance_in_it(tiny: Config) -> None:
    method = load_method(train(replace(tiny, method=tiny_method(objective="regression")), quiet=True))
    calls: list[int] = []
    method.get_submodule("denoiser").register_forward_hook(lambda *_: calls.append(1))
    history = torch.tensor([[[250.0, 50.0]]])
    first, second = (method.plan(history, generator=torch.Generator().manual_seed(i)).latent for i in (0, 1))
    assert torch.equal(first, second) and len(calls) == 2


def test_an_autoencoder_serves_several_runs(tiny: Config, tmp_path: Path) -> None:
    base = train(tiny, quiet=True)
    config = replace(tiny, out=str(tmp_path / "other"), method=tiny_method(stages_from=str(base.path), denoiser_width=48, denoiser_depth=2))
    run = train(config, quiet=True)
    a, b = load_method(base).state_dict(), load_method(run).state_dict()
    same = {k: torch.equal(v, b[k]) for k, v in a.items() if v.shape == b[k].shape}
    assert all(equal for k, equal in same.items() if k.split(".")[0] in ("encoder", "decoder", "world_model", "normalizer"))
    assert {line["stage"] for line in run.metrics()} == {"diffusion"}
    train(config, quiet=True)  # finished: nothing happens
    for other, reason in (
        (replace(config, method=replace(config.method, beta=1.0)), "other stages \\(beta\\)"),  # type: ignore[call-arg]
        (replace(config, horizon=4), "other stages \\(horizon\\)"),
        (replace(config, starts="first"), "other stages \\(starts\\)"),
        (replace(config, method=replace(TINY["latent_dp"], stages_from=str(base.path))), "other stages"),  # type: ignore[call-arg]
    ):
        with pytest.raises(LWDError, match=reason):
            train(replace(other, out=str(tmp_path / "refused")), quiet=True)
        assert not (tmp_path / "refused" / "config.json").exists()
