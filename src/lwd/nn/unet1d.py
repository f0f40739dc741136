"""Conditional 1-D U-Net with FiLM (appendix J.1, Table 3), and a fold that lets it denoise a latent vector."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lwd.nn.time_embedding import TimeEmbedding

SIZES: dict[str, tuple[int, tuple[int, ...]]] = {  # Table 3: step embedding, channels per level; kernel 5
    "xs": (64, (16, 32, 64)),
    "s": (256, (32, 64, 128)),
    "m": (256, (128, 256, 256)),
    "l": (256, (256, 512, 1024)),
    "xl": (512, (512, 1024, 2048)),
}


class UNet1d(nn.Module):
    """Convolutions along a sequence, conditioned in every residual block by FiLM on (time embedding, condition).

    `channels` are those of the sequence, `cond` is C, and `down` the channels per level: each level but the last halves the length.
    """

    def __init__(self, channels: int, cond: int, down: Sequence[int] = (128, 256, 256), time_dim: int = 256) -> None:
        super().__init__()
        self.time = TimeEmbedding(time_dim)
        c = cond + time_dim
        dims = [channels, *down]
        pairs = list(itertools.pairwise(dims))

        def res(a: int, b: int) -> _Residual:
            return _Residual(a, b, c)

        self.down = nn.ModuleList()
        for i, (a, b) in enumerate(pairs):
            shrink = nn.Conv1d(b, b, 3, 2, 1) if i < len(pairs) - 1 else nn.Identity()
            self.down.append(nn.ModuleList([res(a, b), res(b, b), shrink]))
        self.mid = nn.ModuleList([res(dims[-1], dims[-1]), res(dims[-1], dims[-1])])
        self.up = nn.ModuleList()
        for a, b in reversed(pairs[1:]):
            self.up.append(nn.ModuleList([res(2 * b, a), res(a, a), nn.ConvTranspose1d(a, a, 4, 2, 1)]))
        self.final = nn.Sequential(_conv_norm(down[0], down[0]), nn.Conv1d(down[0], channels, 1))

    def forward(self, x: Tensor, step: Tensor, cond: Tensor) -> Tensor:
        """(B, channels, L) with L divisible by 2^(levels - 1), (B,) steps, (B, C) -> (B, channels, L)."""
        c = torch.cat([self.time(step), cond], -1)
        skips = []
        for level in self.down:
            assert isinstance(level, nn.ModuleList)
            x = level[1](level[0](x, c), c)
            skips.append(x)
            x = level[2](x)
        for block in self.mid:
            x = block(x, c)
        for level in self.up:
            assert isinstance(level, nn.ModuleList)
            x = level[0](torch.cat([x, skips.pop()], 1), c)
            x = level[2](level[1](x, c))
        return self.final(x)


class FoldedUNet(nn.Module):
    """A U-Net over a latent vector (B, Z), folded to `channels` x (Z / channels), which must be divisible by 4 (three levels).

    One channel is the paper's literal reading and the most expensive; 16 cost as much as Diffusion Policy's own net.
    """

    def __init__(self, channels: int, cond: int, down: Sequence[int], time_dim: int) -> None:
        super().__init__()
        self.channels = channels
        self.net = UNet1d(channels, cond, down, time_dim)

    def forward(self, z: Tensor, step: Tensor, cond: Tensor) -> Tensor:
        """(B, Z), (B,), (B, C) -> (B, Z)."""
        return self.net(z.unflatten(1, (self.channels, -1)), step, cond).flatten(1)


class _Residual(nn.Module):
    def __init__(self, a: int, b: int, cond: int) -> None:
        super().__init__()
        self.first = _conv_norm(a, b)
        self.second = _conv_norm(b, b)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(cond, 2 * b))
        self.skip = nn.Conv1d(a, b, 1) if a != b else nn.Identity()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.film(c).unsqueeze(-1).chunk(2, 1)
        return self.second(scale * self.first(x) + shift) + self.skip(x)


def _conv_norm(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(a, b, 5, padding=2), nn.GroupNorm(8, b), nn.Mish())
