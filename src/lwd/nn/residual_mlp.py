"""A residual MLP with FiLM conditioning that denoises a vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lwd.nn.time_embedding import TimeEmbedding


class ResidualMLP(nn.Module):
    """FiLM-conditioned residual MLP over a vector of size Z (`latent`), with C features as its condition (`cond`)."""

    def __init__(self, latent: int, cond: int, width: int = 512, depth: int = 4, time_dim: int = 128, dropout: float = 0.0) -> None:
        super().__init__()
        self.time = TimeEmbedding(time_dim)
        self.cond = nn.Sequential(nn.Linear(cond + time_dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.inp = nn.Linear(latent, width)
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, latent)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor, step: Tensor, cond: Tensor) -> Tensor:
        """(B, Z) noisy latents, (B,) diffusion steps, (B, C) condition -> (B, Z)."""
        c = self.cond(torch.cat([cond, self.time(step)], -1))
        h = self.inp(z)
        for block in self.blocks:
            h = block(h, c)
        return self.out(self.norm(h))


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(width, 2 * width)
        self.a = nn.Linear(width, width)
        self.b = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.film(c).chunk(2, -1)
        x = self.norm(h) * (1 + scale) + shift
        return h + self.b(self.dropout(torch.nn.functional.silu(self.a(torch.nn.functional.silu(x)))))
