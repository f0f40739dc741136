"""Transformer denoiser of a short sequence (Table 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lwd.nn.time_embedding import TimeEmbedding

SIZES: dict[str, tuple[int, int, int, int]] = {  # Table 4: step embedding, model dimension, layers, heads
    "xs": (64, 64, 3, 2),
    "s": (128, 128, 4, 4),
    "m": (256, 256, 6, 8),
    "l": (256, 512, 8, 8),
    "xl": (512, 768, 12, 12),
}


class SequenceTransformer(nn.Module):
    """Pre-norm transformer over the steps of a sequence; two tokens in front of it carry the diffusion step and the condition.

    Every step attends to every other: a chunk is executed only when it is whole, so nothing is gained by causality. The sequence has
    `length` (L) steps of `channels`, and `cond` is C.
    """

    def __init__(self, channels: int, length: int, cond: int, time: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.channels, self.length = channels, length
        self.time = nn.Sequential(TimeEmbedding(time), nn.Linear(time, width))
        self.cond = nn.Linear(cond, width)
        self.inp = nn.Linear(channels, width)
        self.position = nn.Parameter(0.02 * torch.randn(2 + length, width))
        block = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, step: Tensor, cond: Tensor) -> Tensor:
        """(B, channels * L) vectors, channel by channel, (B,) steps, (B, C) -> (B, channels * L)."""
        sequence = self.inp(x.unflatten(1, (self.channels, self.length)).transpose(1, 2))
        tokens = torch.cat([self.time(step).unsqueeze(1), self.cond(cond).unsqueeze(1), sequence], 1) + self.position
        return self.out(self.norm(self.blocks(tokens))[:, 2:]).transpose(1, 2).flatten(1)
