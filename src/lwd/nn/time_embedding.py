"""Embedding of the diffusion step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Diffusion step (B,) -> (B, dim): sinusoids, then a small MLP (as in the conditional U-Net of Diffusion Policy)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.net = nn.Sequential(nn.Linear(dim, dim * 4), nn.Mish(), nn.Linear(dim * 4, dim))
        half = dim // 2
        self.register_buffer("frequencies", torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1))), persistent=False)
        self.frequencies: Tensor

    def forward(self, step: Tensor) -> Tensor:
        """(B,) -> (B, dim)."""
        phase = step.to(torch.float32)[:, None] * self.frequencies
        return self.net(torch.cat([phase.sin(), phase.cos()], -1))
