"""Sampling: the table of coefficients against an independent reference, exact distributions, and diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lwd.config import DiffusionPolicyConfig, LatentDPConfig, LWDConfig
from lwd.methods.diffusion import Sampling, noisy, sample

STEPS = [*range(1, 33), 50, 100]
KINDS = [("diffusion", p, s) for p in ("epsilon", "sample", "v_prediction") for s in ("ddpm", "ddim")] + [("flow", "v_prediction", "euler")]
MEAN, SPREAD = 0.7, 0.4  # of the known distribution


def share_of_signal(steps: int = 100) -> list[float]:
    """Written anew from the definition: cumulative products of 1 - beta, beta from a squared cosine, at most 0.999."""
    bar = [np.cos((t / steps + 0.008) / 1.008 * np.pi / 2) ** 2 for t in range(steps + 1)]
    shares, product = [], 1.0
    for t in range(steps):
        product *= 1 - min(1 - bar[t + 1] / bar[t], 0.999)
        shares.append(product)
    return shares


def reference(kind: tuple[str, str, str], steps: int, denoiser: Any, x: np.ndarray, noises: list[np.ndarray], clip: float) -> np.ndarray:
    """The update in float64 and plain formulas: predict the clean data, clip, and go to the level that the denoiser is told next."""
    objective, prediction, sampler = kind

    def clipped(clean: np.ndarray) -> np.ndarray:
        return np.clip(clean, -clip, clip) if clip else clean

    if objective == "flow":
        for i in range(steps):
            now, then = 1 - i / steps, 1 - (i + 1) / steps
            velocity = denoiser(x, now * 100)
            x = clipped(x - now * velocity) + then * velocity
        return x
    shares = share_of_signal()
    times = [int(np.round(100 - i * 100 / steps)) - 1 for i in range(steps)]
    for number, t in enumerate(times):
        a, b = shares[t], shares[times[number + 1]] if number + 1 < steps else 1.0
        p = denoiser(x, t)
        if prediction == "epsilon":
            noise, clean = p, (x - (1 - a) ** 0.5 * p) / a**0.5
        elif prediction == "sample":
            noise, clean = (x - a**0.5 * p) / (1 - a) ** 0.5, p
        else:
            noise, clean = (1 - a) ** 0.5 * x + a**0.5 * p, a**0.5 * x - (1 - a) ** 0.5 * p
        if sampler == "ddim":
            x = b**0.5 * clipped(clean) + (1 - b) ** 0.5 * noise
        else:  # the posterior of the step before, given x and the clean data
            mean = b**0.5 * (1 - a / b) / (1 - a) * clipped(clean) + (a / b) ** 0.5 * (1 - b) / (1 - a) * x
            x = mean + ((1 - b) / (1 - a) * (1 - a / b)) ** 0.5 * noises[number]
    return x


class Recorded(torch.nn.Module):
    """Any function of (x, time) as a denoiser; keeps the times that it was told."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.times = function, []

    def forward(self, x: Tensor, time: Tensor, cond: Tensor) -> Tensor:
        self.times.append(float(time[0]))
        return torch.from_numpy(self.function(x.numpy(), float(time[0])))


def settings(kind: tuple[str, str, str], clip: float) -> DiffusionPolicyConfig:
    return DiffusionPolicyConfig(objective=kind[0], prediction=kind[1], clip=clip)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_samples_equal_the_reference_at_every_number_of_steps(kind: tuple[str, str, str]) -> None:
    """With a denoiser that is wrong in a way that depends on x and on the time, so that every coefficient and clip matters."""

    def wrong(x: np.ndarray, time: float) -> np.ndarray:
        return 0.6 * x + 0.3 * np.sin(3 * x + 0.05 * time) - 0.2

    for steps in STEPS:
        for clip in (0.0, 1.0):
            generator = torch.Generator().manual_seed(steps)
            x = torch.randn((5, 3), generator=generator).double().numpy()
            noises = [torch.randn((5, 3), generator=generator).double().numpy() for _ in range(steps)]
            expected = reference(kind, steps, wrong, x, noises, clip)
            denoiser, cond = Recorded(wrong), torch.zeros((5, 1), dtype=torch.float64)
            sampling = Sampling(kind[2], steps)  # type: ignore[arg-type]
            found = sample(settings(kind, clip), denoiser, 3, cond, sampling, torch.Generator().manual_seed(steps))
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5, err_msg=f"{kind}, {steps} steps, clip {clip}")
            assert len(denoiser.times) == steps, "n steps ask the denoiser n times"


def exact(kind: tuple[str, str, str]) -> Any:
    """What a perfect denoiser of N(MEAN, SPREAD^2) predicts."""
    shares = share_of_signal()

    def predict(x: np.ndarray, time: float) -> np.ndarray:
        if kind[0] == "flow":
            t = time / 100
            gain = (t - (1 - t) * SPREAD**2) / ((1 - t) ** 2 * SPREAD**2 + t**2)
            return -MEAN + gain * (x - (1 - t) * MEAN)
        a = shares[int(time)]
        clean = MEAN + a**0.5 * SPREAD**2 / (a * SPREAD**2 + 1 - a) * (x - a**0.5 * MEAN)
        noise = (x - a**0.5 * clean) / (1 - a) ** 0.5
        return {"epsilon": noise, "sample": clean, "v_prediction": a**0.5 * noise - (1 - a) ** 0.5 * clean}[kind[1]]

    return predict


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_perfect_denoiser_gives_the_right_mean_at_every_number_of_steps(kind: tuple[str, str, str]) -> None:
    for steps in STEPS:
        denoiser, cond = Recorded(exact(kind)), torch.zeros((60_000, 1), dtype=torch.float64)
        z = sample(settings(kind, 0.0), denoiser, 1, cond, Sampling(kind[2], steps), torch.Generator().manual_seed(1))  # type: ignore[arg-type]
        assert z.mean() == pytest.approx(MEAN, abs=0.005), steps
        if steps == 100:
            assert z.std() == pytest.approx(SPREAD, rel=0.05)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_equal_to_diffusers_where_the_steps_divide_the_schedule(prediction: str, sampler: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    kind = {"ddpm": diffusers.DDPMScheduler, "ddim": diffusers.DDIMScheduler}[sampler]
    scheduler = kind(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction,
        clip_sample=True,
        clip_sample_range=1.0,
        timestep_spacing="trailing",
    )
    for steps in (1, 2, 4, 5, 10, 20, 25, 50, 100):
        net = torch.nn.Linear(3, 3).requires_grad_(False)

        def predict(x: Tensor, time: Tensor, cond: Tensor, net: torch.nn.Linear = net) -> Tensor:
            return net(x) * (0.5 + time[:, None] / 200)

        generator = torch.Generator().manual_seed(0)
        x = torch.randn((4, 3), generator=generator)
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            x = scheduler.step(predict(x, t.float().expand(4), x), t, x, generator=generator).prev_sample
        config = settings(("diffusion", prediction, sampler), 1.0)
        module = torch.nn.Module()
        module.forward = predict  # type: ignore[method-assign]
        found = sample(config, module, 3, torch.zeros(4, 1), Sampling(sampler, steps), torch.Generator().manual_seed(0))  # type: ignore[arg-type]
        torch.testing.assert_close(found, x, atol=2e-3 if prediction == "epsilon" else 1e-4, rtol=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_training_noise_is_that_of_diffusers(prediction: Any) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")
    config, x = LWDConfig(prediction=prediction), torch.randn(64, 5)
    mixed, step, target = noisy(config, x, torch.Generator().manual_seed(0))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixed, scheduler.add_noise(x, noise, step), atol=1e-5, rtol=1e-5)
    expected = {"epsilon": noise, "sample": x, "v_prediction": scheduler.get_velocity(x, noise, step)}[prediction]
    torch.testing.assert_close(target, expected, atol=1e-5, rtol=1e-5)


def test_flow_targets_point_from_data_to_noise() -> None:
    config = DiffusionPolicyConfig(objective="flow")
    x = torch.zeros(1000, 2)
    mixed, step, target = noisy(config, x, torch.Generator().manual_seed(0))
    t = (step / config.diffusion_steps)[:, None]
    torch.testing.assert_close(mixed, t * target)  # with x = 0, the velocity is the noise
    assert t.min() >= 0 and t.max() < 1 and t.std() == pytest.approx(12**-0.5, abs=0.02)


def test_one_generator_per_row_makes_rows_independent() -> None:
    config, cond = LatentDPConfig(sampler="ddpm"), torch.zeros(3, 1)
    net = torch.nn.Linear(2, 2).requires_grad_(False)
    module = torch.nn.Module()
    module.forward = lambda x, time, cond: net(x)  # type: ignore[method-assign]

    def draw(rows: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(r) for r in rows]
        return sample(config, module, 2, cond[rows], Sampling("ddpm", 10), generators)

    torch.testing.assert_close(draw([0, 1, 2])[1:], draw([1, 2]))
