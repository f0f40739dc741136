"""The diffusion model of a vector, be it a latent or a chunk of actions: schedule (diffusers), denoiser, training noise, sampling."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from lwd.config import DiffusionConfig, Sampler, require
from lwd.methods.base import Generators, Sampling
from lwd.nn import transformer, unet1d
from lwd.nn.denoiser import ResidualMLP


def make_denoiser(config: DiffusionConfig, size: int, cond: int, channels: int) -> nn.Module:
    """(B, size) noisy vectors, (B,) steps, (B, cond) -> (B, size).

    Args:
        config: of the method.
        size: of the vectors.
        cond: C, features of the condition.
        channels: U-Net and transformer see the vector as a sequence of size / channels steps of so many channels.
    """
    if config.denoiser == "mlp":
        return ResidualMLP(size, cond, config.denoiser_width, config.denoiser_depth, dropout=config.dropout)
    length = size // channels
    if config.denoiser == "transformer":
        return transformer.SequenceTransformer(channels, length, cond, *transformer.SIZES[config.transformer_size], dropout=config.dropout)
    require(length % 4 == 0, f"the U-Net halves its sequence twice: {length} steps are no multiple of 4; choose another length or denoiser")
    time_dim, down = unet1d.SIZES[config.unet_size]
    return unet1d.FoldedUNet(size, cond, channels, down, time_dim)


def noisy(config: DiffusionConfig, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(B, D) clean -> noisy (B, D), steps (B,), and the target (B, D) that the denoiser should predict.

    Regression: nothing is noised, the denoiser sees zeros and predicts the clean vector.
    Flow matching: straight paths x_t = (1 - t) x + t noise with t uniform in [0, 1); the target is the velocity noise - x, and the
    denoiser is told t * diffusion_steps.
    """
    if config.objective == "regression":
        return torch.zeros_like(x), torch.zeros(len(x), device=x.device), x
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    if config.objective == "flow":
        t = torch.rand((len(x), 1), generator=generator, device=x.device)
        return torch.lerp(x, noise, t), t[:, 0] * config.diffusion_steps, noise - x
    scheduler = _scheduler("ddpm", config.diffusion_steps, config.prediction, config.clip)
    step = torch.randint(config.diffusion_steps, (len(x),), generator=generator, device=x.device)
    mixed = scheduler.add_noise(x, noise, step)
    if config.prediction == "epsilon":
        return mixed, step, noise
    if config.prediction == "sample":
        return mixed, step, x
    return mixed, step, scheduler.get_velocity(x, noise, step)


def denoising_loss(config: DiffusionConfig, denoiser: nn.Module, x: Tensor, cond: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """(B, D) clean vectors, (B, C) -> mean squared error of the denoiser's prediction."""
    mixed, step, target = noisy(config, x, generator)
    loss = (denoiser(mixed, step, cond).float() - target).square().mean()
    return {"L_diffusion": loss, "loss": loss}


@torch.no_grad()
def sample(
    config: DiffusionConfig,
    denoiser: nn.Module,
    size: int,
    cond: Tensor,
    sampling: Sampling,
    generator: Generators,
    previous: Tensor | None = None,
) -> Tensor:
    """(B, C) conditions -> (B, size) clean vectors.

    Args:
        config: of the method.
        denoiser: trained.
        size: D.
        cond: (B, C).
        sampling: sampler and steps.
        generator: one for the batch, or one per row.
        previous: (B, D) clean vectors of the last query; used when `sampling.warm` is above 0.

    Raises:
        LWDError: a number of steps that the schedule does not have, or a sampler that the objective does not go with.
    """
    if config.objective == "regression":
        zeros = torch.zeros((len(cond), size), device=cond.device)
        return denoiser(zeros, zeros[:, 0], cond).float()
    require(
        1 <= sampling.steps <= config.diffusion_steps,
        f"the sampler takes between 1 and {config.diffusion_steps} steps (diffusion_steps), not {sampling.steps}",
    )
    require(
        (sampling.sampler == "euler") == (config.objective == "flow"),
        f"the sampler {sampling.sampler} does not go with the objective {config.objective}: flow is sampled with euler, diffusion without",
    )
    generators: Any = list(generator) if generator is not None and not isinstance(generator, torch.Generator) else generator
    scheduler = _scheduler(sampling.sampler, config.diffusion_steps, config.prediction, config.clip)
    scheduler.set_timesteps(sampling.steps, device=cond.device)
    x = sampling.temperature * draw((len(cond), size), generators, cond.device)
    steps = scheduler.timesteps
    if sampling.warm and previous is not None:
        steps = steps[len(steps) - max(1, round(sampling.warm * len(steps))) :]
        x = _mix(config, scheduler, previous, x, steps[:1])
    extra = {"generator": generators} if sampling.sampler in ("ddpm", "ddim") else {}
    for step in steps:
        predicted = denoiser(x, step.expand(len(x)), cond)
        if sampling.sampler == "dpm++" and config.prediction == "sample" and config.clip:
            predicted = predicted.clamp(-config.clip, config.clip)  # this scheduler has no clip of its own
        x = scheduler.step(predicted, step, x, **extra).prev_sample
    return x


def draw(shape: tuple[int, ...], generator: Generators, device: torch.device) -> Tensor:
    """Standard normal numbers, with one generator for all rows or one per row."""
    from diffusers.utils.torch_utils import randn_tensor

    generators: Any = list(generator) if generator is not None and not isinstance(generator, torch.Generator) else generator
    return randn_tensor(shape, generator=generators, device=device)


def _mix(config: DiffusionConfig, scheduler: Any, clean: Tensor, noise: Tensor, step: Tensor) -> Tensor:
    """(B, D) clean vectors with the noise that belongs to one step of the sampler."""
    if config.objective == "flow":
        return torch.lerp(clean, noise, step / config.diffusion_steps)
    return scheduler.add_noise(clean, noise, step.long().expand(len(clean)))


@lru_cache(maxsize=16)
def _scheduler(sampler: Sampler, steps: int, prediction: str, clip: float) -> Any:
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

    common: dict[str, Any] = {"num_train_timesteps": steps, "beta_schedule": "squaredcos_cap_v2", "prediction_type": prediction}
    clipping = {"clip_sample": clip > 0, "clip_sample_range": clip or 1.0}
    # "trailing" grids begin at the last step, where the forward process ends; "leading" ones would begin short of pure noise
    if sampler == "euler":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=steps)
    if sampler == "ddpm":
        return DDPMScheduler(**common, **clipping, timestep_spacing="trailing")
    if sampler == "ddim":
        return DDIMScheduler(**common, **clipping, timestep_spacing="trailing")
    return DPMSolverMultistepScheduler(**common, timestep_spacing="trailing", final_sigmas_type="zero")
