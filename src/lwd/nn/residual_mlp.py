"""A residual MLP with FiLM conditioning that denoises a vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lwd.nn.time_embedding import TimeEmbedding


class ResidualMLP(nn.Module):
    """FiLM-conditioned residual MLP over a vector of size Z (`latent`), with C features as its condition (`cond`)."""

    def __init__(self, latent: int, cond: int, width: int = 512, depth: int = 4, time_dim: int = 128) -> None:
        super().__init__()
        self.time = TimeEmbedding(time_dim)
        self.cond = nn.Sequential(nn.Linear(cond + time_dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.inp = nn.Linear(latent, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, latent)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def conditions(self, step: Tensor, cond: Tensor) -> Tensor:
        """(B,) diffusion steps, (B, C) condition -> (B, depth, 2 width): scales and shifts of all blocks. They do not depend on what is
        denoised, so that those of all steps of a query can be had at once."""
        c = self.cond(torch.cat([cond, self.time(step)], -1))
        films: list[Any] = [block.film for block in self.blocks]
        return torch.stack([film(c) for film in films], 1)

    def forward(self, z: Tensor, step: Tensor, cond: Tensor, known: Tensor | None = None) -> Tensor:
        """(B, Z) noisy latents, (B,) diffusion steps, (B, C) condition -> (B, Z). `known` are the `conditions`, if they are known."""
        films = self.conditions(step, cond) if known is None else known
        h = self.inp(z)
        for block, film in zip(self.blocks, films.unbind(1), strict=True):
            h = block(h, film)
        return self.out(self.norm(h))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(width, 2 * width)
        self.a = nn.Linear(width, width)
        self.b = nn.Linear(width, width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)

    def forward(self, h: Tensor, film: Tensor) -> Tensor:
        scale, shift = film.chunk(2, -1)
        x = self.norm(h) * (1 + scale) + shift
        return h + self.b(torch.nn.functional.silu(self.a(torch.nn.functional.silu(x))))
