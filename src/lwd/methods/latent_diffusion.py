"""The diffusion model of latents: schedule (diffusers), denoiser, training noise, sampling. Works on standardised latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from lwd.config import LWDConfig, Sampler, require
from lwd.methods.base import Generators
from lwd.nn.denoiser import ResidualMLP
from lwd.nn.unet1d import SIZES, FoldedUNet


@dataclass(frozen=True)
class Sampling:
    """How a query denoises.

    Args:
        sampler: ddpm (the paper's, ancestral), ddim (deterministic) or dpm++ (DPM-Solver++, second order).
        steps: denoising steps.
        temperature: scale of the noise that sampling starts from; below 1 samples crowd towards the mode.
    """

    sampler: Sampler
    steps: int
    temperature: float = 1.0

    @staticmethod
    def default(config: LWDConfig) -> Sampling:
        """The config's own."""
        return Sampling(config.sampler, config.sampler_steps)


def make_denoiser(config: LWDConfig, cond: int) -> nn.Module:
    """(B, Z) noisy latents, (B,) steps, (B, cond) -> (B, Z)."""
    if config.denoiser == "mlp":
        return ResidualMLP(config.latent, cond, config.denoiser_width, config.denoiser_depth, dropout=config.dropout)
    time_dim, down = SIZES[config.unet_size]
    return FoldedUNet(config.latent, cond, config.unet_fold, down, time_dim)


def noise_latents(config: LWDConfig, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(B, Z) clean -> noisy (B, Z), steps (B,), and the target (B, Z) that the denoiser should predict."""
    scheduler = _scheduler("ddpm", config.diffusion_steps, config.prediction, config.clip)
    noise = torch.randn(z.shape, generator=generator, device=z.device)
    step = torch.randint(config.diffusion_steps, (len(z),), generator=generator, device=z.device)
    noisy = scheduler.add_noise(z, noise, step)
    if config.prediction == "epsilon":
        return noisy, step, noise
    if config.prediction == "sample":
        return noisy, step, z
    return noisy, step, scheduler.get_velocity(z, noise, step)


@torch.no_grad()
def sample_latents(config: LWDConfig, denoiser: nn.Module, cond: Tensor, sampling: Sampling, generator: Generators) -> Tensor:
    """(B, C) conditions -> (B, Z) standardised latents.

    Args:
        config: of the method.
        denoiser: trained.
        cond: (B, C).
        sampling: sampler and steps.
        generator: one for the batch, or one per row.
    """
    require(
        1 <= sampling.steps <= config.diffusion_steps,
        f"the sampler takes between 1 and {config.diffusion_steps} steps (diffusion_steps), not {sampling.steps}",
    )
    from diffusers.utils.torch_utils import randn_tensor

    generators: Any = list(generator) if generator is not None and not isinstance(generator, torch.Generator) else generator
    scheduler = _scheduler(sampling.sampler, config.diffusion_steps, config.prediction, config.clip)
    scheduler.set_timesteps(sampling.steps, device=cond.device)
    z = sampling.temperature * randn_tensor((len(cond), config.latent), generator=generators, device=cond.device, dtype=cond.dtype)
    extra = {} if sampling.sampler == "dpm++" else {"generator": generators}
    for step in scheduler.timesteps:
        predicted = denoiser(z, step.expand(len(z)), cond)
        if sampling.sampler == "dpm++" and config.prediction == "sample" and config.clip:
            predicted = predicted.clamp(-config.clip, config.clip)  # this scheduler has no clip of its own
        z = scheduler.step(predicted, step, z, **extra).prev_sample
    return z


@lru_cache(maxsize=16)
def _scheduler(sampler: Sampler, steps: int, prediction: str, clip: float) -> Any:
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    common: dict[str, Any] = {"num_train_timesteps": steps, "beta_schedule": "squaredcos_cap_v2", "prediction_type": prediction}
    clipping = {"clip_sample": clip > 0, "clip_sample_range": clip or 1.0}
    # "trailing" grids begin at the last step, where the forward process ends; "leading" ones would begin short of pure noise
    if sampler == "ddpm":
        return DDPMScheduler(**common, **clipping, timestep_spacing="trailing")
    if sampler == "ddim":
        return DDIMScheduler(**common, **clipping, timestep_spacing="trailing")
    return DPMSolverMultistepScheduler(**common, timestep_spacing="trailing", final_sigmas_type="zero")
