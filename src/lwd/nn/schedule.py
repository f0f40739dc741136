"""Noise schedules, and sampling as one table of coefficients: the same table drives torch, an exported graph, or numpy.

Every sampler here makes the same update, with numbers that depend on the step alone:

    clean ← clip(x0_x · x + x0_prediction · prediction)
    x     ← from_x · x + from_prediction · prediction + from_clean · clean + from_noise · noise
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """One denoising step: what the denoiser is told (`time`), and the coefficients of the update above."""

    time: float
    x0_x: float
    x0_prediction: float
    from_x: float
    from_prediction: float
    from_clean: float
    from_noise: float


@lru_cache(maxsize=16)
def signal_share(steps: int) -> Array:
    """Squared-cosine schedule (section 4): the share of signal variance (steps,) after each step of the forward process.

    The noise added by one step is capped at 0.999, so that the last entry stays above 0.
    """
    edges = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - edges[1:] / edges[:-1], 0.999))


@lru_cache(maxsize=64)
def sampling_table(objective: str, prediction: str, sampler: str, steps: int, diffusion_steps: int) -> tuple[Step, ...]:
    """The steps of a sampler, from noise to data.

    The grid of diffusion begins at the last step, where the forward process ends, and is spread evenly ("trailing"). Each update goes to
    exactly the step that the denoiser is told next, and the last one to clean data.

    Args:
        objective: "diffusion" or "flow".
        prediction: what a diffusion denoiser predicts: "epsilon", "sample" or "v_prediction". Flow matching predicts the velocity.
        sampler: "ddpm", "ddim", or "euler" for flow matching.
        steps: n, 1 <= n <= diffusion_steps.
        diffusion_steps: steps of the forward process.
    """
    if objective == "flow":
        return tuple(_flow_step(1 - i / steps, 1 - (i + 1) / steps, diffusion_steps) for i in range(steps))
    share = signal_share(diffusion_steps)
    times = np.round(diffusion_steps - np.arange(steps) * diffusion_steps / steps).astype(int) - 1
    after = [*(float(share[t]) for t in times[1:]), 1.0]
    make = _ddim_step if sampler == "ddim" else _ddpm_step
    return tuple(make(float(t), prediction, float(share[t]), target) for t, target in zip(times, after, strict=True))


def _flow_step(level: float, target: float, diffusion_steps: int) -> Step:
    """Euler step of flow matching between two noise levels of the straight path x = (1 - level) · data + level · noise."""
    return Step(level * diffusion_steps, 1.0, -level, 0.0, target, 1.0, 0.0)


def _readings(prediction: str, share: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Clean data and noise as combinations of (x, prediction)."""
    signal, noise = share**0.5, (1 - share) ** 0.5
    if prediction == "epsilon":
        return (1 / signal, -noise / signal), (0.0, 1.0)
    if prediction == "sample":
        return (0.0, 1.0), (1 / noise, -signal / noise)
    return (signal, -noise), (noise, signal)


def _ddim_step(time: float, prediction: str, share: float, target: float) -> Step:
    """DDIM without added noise: the predicted clean data and the predicted noise, mixed for the next step."""
    clean, noise = _readings(prediction, share)
    rest = (1 - target) ** 0.5
    return Step(time, *clean, rest * noise[0], rest * noise[1], target**0.5, 0.0)


def _ddpm_step(time: float, prediction: str, share: float, target: float) -> Step:
    """Ancestral sampling: mean and variance of the step before, given x and the predicted clean data."""
    clean, _ = _readings(prediction, share)
    kept = share / target
    lost = 1 - kept
    from_clean, from_x = target**0.5 * lost / (1 - share), kept**0.5 * (1 - target) / (1 - share)
    return Step(time, *clean, from_x, 0.0, from_clean, ((1 - target) / (1 - share) * lost) ** 0.5)
