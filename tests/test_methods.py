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
from lwd.cli import main
from lwd.config import (
    METHODS,
    Config,
    DiffusionPolicyConfig,
    LatentDPConfig,
    MethodConfig,
    MLPConfig,
    RandomConfig,
    Stage,
    from_dict,
    to_dict,
)
from lwd.data.snippets import Snippets
from lwd.errors import LWDError
from lwd.methods.base import ENDLESS, ChunkController, Sampling, Spec, make_method
from lwd.methods.diffusion import denoising_loss, noisy, sample
from lwd.methods.lwd import LWD
from lwd.nn import transformer
from lwd.presets import PRESETS
from lwd.rollout import rollout
from lwd.run import Run
from lwd.train import load_data, load_method, train

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
    actions = torch.stack([controller.act(history[:, 0], t) for t in range(8)])
    assert actions.shape == (8, 3, 2) and actions.min() >= 0 and actions.max() <= 512
    again = method.plan(history[1:2], generator=[torch.Generator().manual_seed(1)])
    torch.testing.assert_close(again.act(history[1:2, 0], 0), actions[0, 1:2])  # a row does not depend on the others

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
    x = planner.plan(torch.tensor([[[250.0, 55.0]]])).act(torch.tensor([[250.0, 55.0]]), 0)[0, 0]
    assert 235 < x < 265


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


def test_a_chunk_that_the_unet_cannot_halve_is_refused() -> None:
    with pytest.raises(LWDError, match="6 steps are no multiple of 4"):
        make_method(DiffusionPolicyConfig(denoiser="unet"), replace(SPEC, horizon=6, length=6))


# --- flow matching and warm start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 100])
def test_flow_recovers_a_known_distribution(steps: int) -> None:
    """Data N(m, s^2): the exact velocity field is known. A hundred Euler steps recover it; one step lands on the mean."""
    m, s = 0.7, 0.3
    config = DiffusionPolicyConfig(objective="flow", diffusion_steps=100)

    class Exact(torch.nn.Module):
        def forward(self, x: torch.Tensor, step: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
            t = (step / 100)[:, None]
            # x_t = (1 - t) x0 + t e is Gaussian; the velocity is E[e - x0 | x_t]
            variance = (1 - t) ** 2 * s**2 + t**2
            gain = (t - (1 - t) * s**2) / variance
            return -m + gain * (x - (1 - t) * m)

    z = sample(config, Exact(), 3, torch.zeros(4000, 1), Sampling("euler", steps), torch.Generator().manual_seed(0))
    assert z.mean() == pytest.approx(m, abs=0.03)
    assert z.std() == pytest.approx(s if steps == 100 else 0.0, abs=0.02)


def test_flow_targets_point_from_data_to_noise() -> None:
    config = DiffusionPolicyConfig(objective="flow")
    x = torch.zeros(1000, 2)
    mixed, step, target = noisy(config, x, torch.Generator().manual_seed(0))
    t = (step / config.diffusion_steps)[:, None]
    torch.testing.assert_close(mixed, t * target)  # with x = 0, the velocity is the noise
    assert t.min() >= 0 and t.max() < 1 and t.std() == pytest.approx(12**-0.5, abs=0.02)


def test_samplers_and_objectives_that_do_not_go_together_are_refused(tiny: Config) -> None:
    run = train(replace(tiny, method=replace(TINY["diffusion_policy"], objective="flow")), quiet=True)  # type: ignore[call-arg]
    method = load_method(run)
    assert method.sampling is not None and method.sampling.sampler == "euler"
    method.sample_with("ddim")
    with pytest.raises(LWDError, match="does not go with the objective flow"):
        method.plan(torch.zeros(1, 1, 2))
    with pytest.raises(LWDError, match="no diffusion model"):
        make_method(TINY["mlp"], SPEC).sample_with(steps=4)


@pytest.mark.parametrize("objective", ["diffusion", "flow"])
def test_a_warm_start_stays_near_the_previous_latent_and_costs_less(tiny: Config, objective: Any) -> None:
    method = load_method(train(replace(tiny, method=tiny_method(objective=objective, sampler_steps=10)), quiet=True))
    calls: list[int] = []
    method.get_submodule("denoiser").register_forward_hook(lambda *_: calls.append(1))
    history = torch.tensor([[[250.0, 50.0]]]).expand(64, 1, 2)
    first = method.plan(history, generator=torch.Generator().manual_seed(0)).latent

    def distance(warm: float) -> float:
        method.sample_with(warm=warm)
        calls.clear()
        second = method.plan(history, generator=torch.Generator().manual_seed(1), previous=first).latent
        return float((second - first).square().mean().sqrt())

    far, steps = distance(0.0), len(calls)
    near, fewer = distance(0.2), len(calls)
    assert (steps, fewer) == (10, 2)
    assert near < 0.7 * far


def test_a_rollout_hands_latents_on_to_the_episodes_still_running() -> None:
    class Spy:
        """Plans latents that name their episode; one coordinate of the action is the episode's own, so that they end at different times."""

        history, horizon = 1, 2

        def __init__(self) -> None:
            self.pairs: list[tuple[torch.Tensor | None, int]] = []

        def plan(self, history: Any, task: Any = None, generator: Any = None, previous: Any = None) -> Any:
            self.pairs.append((previous, len(history)))
            marks = torch.tensor([[float(g.initial_seed() % 1000)] for g in generator])
            controller = ChunkController(torch.full((len(history), 2, 2), 256.0), marks)
            if previous is not None:
                assert torch.equal(previous, marks), "every row gets its own latent back"
            return controller

    spy = Spy()
    rollout(spy, "pusht", "state", [1, 2, 3], max_steps=6, workers=0)
    assert [p is None for p, _ in spy.pairs] == [True, False, False]


# --- precision, command line --------------------------------------------------------------------------------------------------------


def test_mixed_precision_is_really_used(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one device, too, where Fabric wraps nothing."""
    from lwd.nn.denoiser import ResidualMLP

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


def test_baselines_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    small = ["--method.diffusion.steps", "4", "--method.denoiser-width", "32", "--method.denoiser-depth", "1", "--horizon", "8"]
    assert main(["train", "pusht-dp", "--out", out, "--quiet", *small]) == 0
    assert main(["eval", out, "--episodes", "2", "--horizon", "4", "--steps", "2", "--workers", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert result["sampler"]["steps"] == 2 and result["queries_per_episode"] > 50
    assert main(["eval", out, "--episodes", "2", "--horizon", "9", "--workers", "0", "--json"]) == 2
    assert "controllers made for as many" in capsys.readouterr().err
    assert main(["diagnose", out]) == 2
    assert "links of LWD" in capsys.readouterr().err
    assert main(["info", out, "--json"]) == 0
    assert "generated policy" not in json.loads(capsys.readouterr().out)["parameters"]


# --- other sources of latents -------------------------------------------------------------------------------------------------------


def test_latents_come_from_where_they_should(tiny: Config) -> None:
    method = load_method(train(replace(tiny, method=tiny_method(beta=1e-3)), quiet=True))
    assert isinstance(method, LWD)
    history = torch.tensor([[[250.0, 50.0]]]).expand(4000, 1, 2)

    def latents(source: Any) -> torch.Tensor:
        method.sample_with(latent=source)
        return method.plan(history, generator=torch.Generator().manual_seed(0)).latent

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
    with pytest.raises(LWDError, match="has no latent"):
        make_method(TINY["diffusion_policy"], SPEC).sample_with(latent="prior")


def test_regression_is_one_pass_and_has_no_chance_in_it(tiny: Config) -> None:
    method = load_method(train(replace(tiny, method=tiny_method(objective="regression")), quiet=True))
    calls: list[int] = []
    method.get_submodule("denoiser").register_forward_hook(lambda *_: calls.append(1))
    history = torch.tensor([[[250.0, 50.0]]])
    first, second = (method.plan(history, generator=torch.Generator().manual_seed(i)).latent for i in (0, 1))
    assert torch.equal(first, second) and len(calls) == 2


def test_an_autoencoder_serves_several_runs(tiny: Config, tmp_path: Path) -> None:
    base = train(tiny, quiet=True)
    config = replace(tiny, out=str(tmp_path / "other"), method=tiny_method(autoencoder_from=str(base.path), denoiser_width=48))
    run = train(config, quiet=True)
    a, b = load_method(base).state_dict(), load_method(run).state_dict()
    same = {k: torch.equal(v, b[k]) for k, v in a.items() if v.shape == b[k].shape}
    assert all(equal for k, equal in same.items() if k.split(".")[0] in ("encoder", "decoder", "world_model", "normalizer"))
    assert {line["stage"] for line in run.metrics()} == {"diffusion"}
    train(config, quiet=True)  # finished: nothing happens
    for other, reason in (
        (replace(config, method=replace(config.method, beta=1.0)), "another autoencoder \\(beta\\)"),  # type: ignore[call-arg]
        (replace(config, horizon=4), "another autoencoder \\(horizon\\)"),
        (replace(config, method=replace(TINY["latent_dp"], autoencoder_from=str(base.path))), "another autoencoder"),  # type: ignore[call-arg]
    ):
        with pytest.raises(LWDError, match=reason):
            train(replace(other, out=str(tmp_path / "refused")), quiet=True)
        assert not (tmp_path / "refused" / "config.json").exists()
