"""The diffusion model of a vector, be it a latent or a chunk of actions: denoiser, training noise, sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from lwd.config import DiffusionConfig, EvalSettings, Sampler, Source, check_sampler, require
from lwd.nn import transformer, unet1d
from lwd.nn.residual_mlp import ResidualMLP
from lwd.nn.schedule import sampling_table, signal_share

Generators = torch.Generator | Sequence[torch.Generator] | None  # one for the batch, or one per row
AT_ONCE = 1024  # rows of steps and queries whose conditions are prepared together; for more there would be too much to keep


@dataclass(frozen=True)
class Sampling:
    """How a query denoises: see `lwd.config.EvalSettings`."""

    sampler: Sampler
    steps: int
    latent: Source = "model"

    @staticmethod
    def default(config: DiffusionConfig) -> Sampling:
        """The sampling that a config declares."""
        return Sampling(config.sampler or ("euler" if config.objective == "flow" else "ddim"), config.sampler_steps)

    def changed(self, config: DiffusionConfig, settings: EvalSettings) -> Sampling:
        """This sampling with what the settings of an evaluation change; `LWDError` for what the model cannot be sampled with."""
        sampler, steps = settings.sampler or self.sampler, settings.sampler_steps or self.steps
        check_sampler(config.objective, sampler)
        most = config.diffusion_steps
        require(1 <= steps <= most, f"the sampler takes between 1 and {most} steps (diffusion_steps), not {steps}")
        return Sampling(sampler, steps, settings.latent)

    @property
    def label(self) -> str:
        """Part of the name of a result, such as `ddim4`."""
        return f"{self.sampler}{self.steps}" if self.latent == "model" else self.latent


def make_denoiser(config: DiffusionConfig, size: int, cond: int, channels: int) -> nn.Module:
    """A network that maps (B, size) noisy vectors, (B,) times and (B, cond) conditions to (B, size). U-Net and transformer see the vector
    as a sequence of size / channels steps."""
    if config.denoiser == "mlp":
        return ResidualMLP(size, cond, config.denoiser_width, config.denoiser_depth)
    if config.denoiser == "transformer":
        sizes = transformer.SIZES[config.transformer_size]
        return transformer.SequenceTransformer(channels, size // channels, cond, *sizes)
    time_dim, down = unet1d.SIZES[config.unet_size]
    return unet1d.FoldedUNet(channels, cond, down, time_dim)


def noisy(config: DiffusionConfig, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(B, D) clean vectors -> noisy (B, D), times (B,), and the target (B, D) that the denoiser should predict.

    In a regression the denoiser sees zeros and predicts the clean vector. Flow matching has straight paths x_t = (1 - t) x + t noise with t
    uniform in [0, 1): the target is the velocity noise - x, and the denoiser is told t * diffusion_steps.
    """
    if config.objective == "regression":
        return torch.zeros_like(x), torch.zeros(len(x), device=x.device), x
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    if config.objective == "flow":
        t = torch.rand((len(x), 1), generator=generator, device=x.device)
        return torch.lerp(x, noise, t), t[:, 0] * config.diffusion_steps, noise - x
    step = torch.randint(config.diffusion_steps, (len(x),), generator=generator, device=x.device)
    share = _share_on(config.diffusion_steps, x.device)[step][:, None]
    signal, rest = share.sqrt().to(x.dtype), (1 - share).sqrt().to(x.dtype)
    target = {"epsilon": noise, "sample": x, "v_prediction": signal * noise - rest * x}[config.prediction]
    return signal * x + rest * noise, step, target


@lru_cache(maxsize=16)
def _share_on(steps: int, device: torch.device) -> Tensor:
    """(steps,) shares of the signal on a device (in float32 where it has no float64)."""
    return torch.tensor(signal_share(steps), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


def denoising_loss(config: DiffusionConfig, denoiser: nn.Module, x: Tensor, cond: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """(B, D) clean vectors, (B, C) conditions -> mean squared error of the denoiser's prediction."""
    mixed, time, target = noisy(config, x, generator)
    loss = (denoiser(mixed, time, cond).float() - target).square().mean()
    return {"L_diffusion": loss, "loss": loss}


@torch.no_grad()
def sample(config: DiffusionConfig, denoiser: nn.Module, size: int, cond: Tensor, sampling: Sampling, generator: Generators) -> Tensor:
    """(B, C) conditions -> (B, size) clean vectors, of the type of `cond`. Nothing waits for the device between the steps."""
    shape = (len(cond), size)
    if config.objective == "regression":
        zeros = torch.zeros(shape, device=cond.device, dtype=cond.dtype)
        return denoiser(zeros, zeros[:, 0], cond).to(cond.dtype)
    table = sampling_table(config.objective, config.prediction, sampling.sampler, sampling.steps, config.diffusion_steps)
    times = torch.tensor([step.time for step in table], dtype=cond.dtype, device=cond.device)
    x = draw(shape, generator, cond.device).to(cond.dtype)
    known: list[Any] = [()] * len(table)
    if isinstance(denoiser, ResidualMLP) and len(times) * len(cond) <= AT_ONCE:  # half of the weights are then read once
        films = denoiser.conditions(times.repeat_interleave(len(cond)), cond.repeat(len(times), 1))
        known = [(own,) for own in films.unflatten(0, (len(times), -1)).unbind()]
    for number, step in enumerate(table):
        prediction = denoiser(x, times[number].expand(len(x)), cond, *known[number]).to(cond.dtype)
        clean = step.x0_x * x + step.x0_prediction * prediction
        clean = clean.clamp(-config.clip, config.clip) if config.clip else clean
        x = step.from_x * x + step.from_prediction * prediction + step.from_clean * clean
        if step.from_noise:
            x = x + step.from_noise * draw(shape, generator, cond.device)
    return x


def draw(shape: tuple[int, ...], generator: Generators | Iterator[Tensor], device: torch.device) -> Tensor:
    """Standard normal numbers on a device. With one generator per row, a row's numbers do not depend on the other rows. An iterator gives
    the numbers themselves, for each draw a tensor of that shape: in an exported graph they are an input."""
    if isinstance(generator, Iterator):
        return next(generator)
    if generator is None or isinstance(generator, torch.Generator):
        at = device if generator is None else generator.device
        return torch.randn(shape, generator=generator, device=at).to(device)
    return torch.cat([torch.randn((1, *shape[1:]), generator=g, device=g.device) for g in generator]).to(device)
