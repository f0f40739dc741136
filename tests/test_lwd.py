"""The method: losses by their definitions, latents that matter, samples that hit the data."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import lwd
from conftest import reaching, tiny_method
from lwd.config import Config, Stage
from lwd.data.snippets import Snippets
from lwd.errors import LWDError
from lwd.methods.base import Sampling, Spec
from lwd.methods.diffusion import sample
from lwd.methods.lwd import LWD
from lwd.train import train


def build(**changes: object) -> tuple[LWD, Snippets]:
    torch.manual_seed(0)
    episodes = reaching()
    method = LWD(tiny_method(**changes), Spec(2, 2, 8, 8, action_low=(0.0, 0.0), action_high=(512.0, 512.0)))
    method.normalizer.fit(episodes)
    data = Snippets(episodes, method.normalizer, 8)
    method.prepare("autoencoder", data)
    return method, data


def test_losses_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    method, data = build(rollout_warmup=0, world_model_steps=0, beta=0.5)
    batch = data.at(torch.tensor([0, 25, 39]))  # the last start is an episode's last step: no transition of it is real
    losses = method.loss("autoencoder", batch, 0, generator)
    generator.manual_seed(0)
    mean, logvar = method.posterior(batch.obs, batch.action)
    z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
    action = method.shape.apply(method.decoder(z), batch.obs)
    torch.testing.assert_close(losses["L_BC"], (action - batch.action).square().mean())
    torch.testing.assert_close(losses["L_KL"], 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(1).mean())
    model = method.world_model
    assert model is not None
    errors = ((model(batch.obs, batch.action) - batch.following) / model.delta_scale).square()
    assert batch.real[2].sum() == 0 and batch.real[0].all()
    torch.testing.assert_close(losses["L_TF"], errors[batch.real].mean())
    apart = (model(batch.obs, action) - model(batch.obs, batch.action)) / model.delta_scale
    torch.testing.assert_close(losses["L_RO"], method.config.rollout_weight * apart.square().mean())
    torch.testing.assert_close(losses["loss"], sum(losses[k] for k in ("L_BC", "L_RO", "L_TF", "L_KL")))


@pytest.mark.parametrize("imagination", [1, 4])
def test_rollout_loss_shapes_the_policy_and_not_the_world_model(imagination: int) -> None:
    method, data = build(rollout_warmup=0, imagination=imagination)
    losses = method.loss("autoencoder", data.sample(8, torch.Generator().manual_seed(0)), 0, torch.Generator().manual_seed(0))
    losses["L_RO"].backward()
    assert method.world_model is not None
    assert all(p.grad is None for p in method.world_model.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.decoder.parameters())


def test_sum_reduction_is_the_papers() -> None:
    method, data = build(world_model=False)
    batch = data.at(torch.tensor([0, 25]))
    losses = [
        replace_config(method, reduction=r).loss("autoencoder", batch, 0, torch.Generator().manual_seed(0))["L_BC"] for r in ("mean", "sum")
    ]
    torch.testing.assert_close(losses[1], losses[0] * 8 * 2)


def replace_config(method: LWD, **changes: object) -> LWD:
    method.config = replace(method.config, **changes)  # type: ignore[arg-type]
    return method


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_every_sampler_recovers_a_known_distribution(prediction: str, sampler: str) -> None:
    """With the exact denoiser of N(m, s^2), samples have that mean and deviation."""
    config = tiny_method(prediction=prediction, diffusion_steps=100, clip=0.0)
    m, s = 0.7, 0.4
    betas = torch.from_numpy(np.asarray(_alphas(100)))

    class Exact(torch.nn.Module):
        def forward(self, z: torch.Tensor, step: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
            a = betas[step.long()].float()[:, None]
            x0 = m + a.sqrt() * s**2 / (a * s**2 + 1 - a) * (z - a.sqrt() * m)
            eps = (z - a.sqrt() * x0) / (1 - a).sqrt()
            return {"epsilon": eps, "sample": x0, "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * x0}[prediction]

    # epsilon loses all precision at the last step of the cosine schedule: its grids are tested at the paper's full length only
    steps = 100 if prediction == "epsilon" or sampler == "ddpm" else 25
    z = sample(config, Exact(), config.latent, torch.zeros(4000, 1), Sampling(sampler, steps), torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert z.mean() == pytest.approx(m, abs=0.04)
    assert z.std() == pytest.approx(s, rel=0.12)


def _alphas(steps: int) -> list[float]:
    """Cumulative alphas of the squared-cosine schedule."""
    bar = [np.cos((t / steps + 0.008) / 1.008 * np.pi / 2) ** 2 for t in range(steps + 1)]
    return list(np.cumprod([1 - min(1 - bar[t + 1] / bar[t], 0.999) for t in range(steps)]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the two goals, trained for a few seconds."""
    from lwd.data.npz import save_npz

    folder = tmp_path_factory.mktemp("two_goals")
    save_npz(reaching(40, 20), folder / "data.npz")
    method = tiny_method(
        autoencoder=Stage(800, 64, 3e-3, warmup=50),
        diffusion=Stage(1000, 128, 2e-3, warmup=50),
        beta=3e-6,
        policy=(32, 32),
        encoder=(64, 64),
        world_model=False,
        denoiser_width=64,
        denoiser_depth=2,
        diffusion_steps=50,
        sampler_steps=10,
    )
    config = Config(data=str(folder / "data.npz"), out=str(folder / "run"), horizon=12, threads=1, precision="32-true", method=method)
    return train(config, quiet=True).path


def walk(run: Path, seed: int = 0, episodes: int = 64) -> np.ndarray:
    """Where 64 episodes from the same start end when a policy is generated every 12 steps."""
    generator = lwd.load(run, seed=seed)
    position = np.full((episodes, 2), (250.0, 50.0), np.float32)
    for t in range(24):
        if t % 12 == 0:
            controller = generator.plan(position)
        position = position + 0.5 * (controller.act(position, t % 12) - position)
    return position


@pytest.mark.parametrize(
    "changes",
    [
        {"history": 2, "condition_noise": 0.01},
        {"denoiser": "unet", "unet_size": "xs", "latent": 32, "unet_fold": 8},
        {"prediction": "epsilon", "sampler": "ddpm", "sampler_steps": 20},
        {"imagination": 3, "world_model_steps": 0},
        {"bc_steps": 3, "stride": 2, "before": 2, "after": 3, "dropout": 0.1, "activation": "tanh"},
    ],
)
def test_every_option_trains_and_plans(tiny: Config, changes: dict) -> None:
    run = train(replace(tiny, method=tiny_method(**changes)), quiet=True)
    generator = lwd.load(run.path)
    history = np.full((3, changes.get("history", 1), 2), 100.0)
    assert generator.plan(history).act(history[:, -1]).shape == (3, 2)
    assert generator.plan(history[0, -1]).act(history[0, -1]).shape == (2,), "without a past, the present is taken for it"


def test_generated_policies_reach_both_goals(trained: Path) -> None:
    end = walk(trained)
    left, right = end[:, 0] < 200, end[:, 0] > 300
    assert left.mean() > 0.15 and right.mean() > 0.15, "both modes of the demonstrations are sampled"
    assert (left | right).mean() > 0.8, "few policies go between the goals, where no demonstration went"
    assert np.median(end[:, 1]) > 250


def test_latent_matters(trained: Path) -> None:
    generator = lwd.load(trained, seed=1)
    obs = torch.tensor([[250.0, 50.0]]).repeat(32, 1)
    policies = generator.plan(obs).policies
    chosen = policies.act(obs)
    permuted = type(policies)(policies.shape, policies.weights.roll(1, 0), policies.latent, policies.normalizer).act(obs)
    assert (chosen - permuted).abs().mean() > 2


def test_public_interface_speaks_what_it_is_asked_in(trained: Path) -> None:
    generator = lwd.load(trained, seed=0)
    single = generator.plan(np.array([250.0, 50.0]))
    action = single.act(np.array([250.0, 50.0]), t=0)
    assert isinstance(action, np.ndarray) and action.shape == (2,) and ((action >= 0) & (action <= 512)).all()
    batch = generator.plan(torch.tensor([[250.0, 50.0]] * 3))
    assert isinstance(batch.act(torch.tensor([[250.0, 50.0]] * 3)), torch.Tensor)
    assert single.horizon == 12
    with pytest.raises(LWDError, match=r"shape \(batch, 1, 2\)"):
        generator.plan(np.zeros(3))
    with pytest.raises(LWDError, match="NaN"):
        generator.plan(np.array([np.nan, 0.0]))
    with pytest.raises(LWDError, match="shape"):
        batch.act(torch.zeros(2, 2))


def test_same_seed_same_policy_and_rows_do_not_depend_on_others(trained: Path) -> None:
    method = lwd.load(trained).method
    obs = torch.rand(4, 1, 2) * 300

    def plan(rows: list[int]) -> torch.Tensor:
        return method.plan(obs[rows], None, [torch.Generator().manual_seed(r) for r in rows]).latent

    torch.testing.assert_close(plan([0, 1, 2, 3])[2:], plan([2, 3]), atol=1e-5, rtol=1e-5)
    a, b = (lwd.load(trained, seed=5).plan(obs[0, 0]).policies.latent for _ in range(2))
    assert torch.equal(a, b)


def test_public_names_are_what_users_mean() -> None:
    script = (
        "import sys, lwd; assert 'torch' not in sys.modules; import lwd.api, lwd.rollout, lwd.evaluate\n"
        "assert all(hasattr(lwd, name) for name in lwd.__all__) and len(lwd.__all__) <= 15\n"
        "assert callable(lwd.train) and callable(lwd.evaluate) and callable(lwd.rollout) and callable(lwd.load)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
