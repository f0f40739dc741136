"""The generated policy: an MLP whose weights come in a batch, one set per sample (section 4: two hidden layers of 256)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class PolicyShape:
    """The layout of one policy's weights in a flat vector: per layer the matrix (in, out), then the bias (out)."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.pairs = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        self.count = sum(a * b + b for a, b in self.pairs)  # P, weights and biases

    def split(self, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(B, P) -> per layer ((B, in, out), (B, out)): views, nothing is copied."""
        # one split: its gradient is one concatenation, where a slice per layer would each fill a whole (B, P) tensor with zeros
        parts = weights.split([n for a, b in self.pairs for n in (a * b, b)], dim=1)
        return [(m.unflatten(1, pair), v) for pair, m, v in zip(self.pairs, parts[::2], parts[1::2], strict=True)]

    def apply(self, weights: Tensor, x: Tensor) -> Tensor:
        """(B, P) weight sets on (B, T, in) inputs -> (B, T, out): one batched product a layer."""
        for i, (matrix, bias) in enumerate(self.split(weights)):
            x = torch.baddbmm(bias.unsqueeze(1), x, matrix)
            if i < len(self.pairs) - 1:
                x = torch.relu(x)
        return x

    def initial(self, generator: torch.Generator | None = None) -> Tensor:
        """(P,) a freshly initialised policy (uniform, fan-in)."""
        parts = []
        for a, b in self.pairs:
            bound = 1 / math.sqrt(a)
            parts.append((torch.rand(a * b, generator=generator) * 2 - 1) * bound * math.sqrt(3 / 2))
            parts.append((torch.rand(b, generator=generator) * 2 - 1) * bound)
        return torch.cat(parts)

    def spread(self) -> Tensor:
        """(P,) standard deviation that fits each weight's layer: 1 / sqrt(fan-in)."""
        return torch.cat([torch.full((a * b + b,), 1 / math.sqrt(a)) for a, b in self.pairs])
