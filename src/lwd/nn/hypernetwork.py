"""Latent -> every weight and bias of a policy: the paper's hypernetwork (appendix J.3, Table 5), and decoders that share a policy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lwd.nn.mlp import mlp
from lwd.nn.policy import PolicyShape

SIZES: dict[str, tuple[int, ...]] = {"xs": (50, 50), "s": (100, 100), "m": (200, 200), "l": (400, 400)}  # Table 5
RANK = 8  # of what low-rank decoders add to a matrix, or multiply it by


class Hypernetwork(nn.Module):
    """Trunk MLP, then one linear head that emits all policy weights.

    The head's bias starts as one ordinary freshly initialised policy, and its matrix so small that a unit change of the latent moves
    every weight by a fraction of its layer's usual spread: training starts from policies that work like any other new MLP.
    `gain` is the spread of the generated weights over latents at initialisation, relative to the usual spread of a layer.
    """

    def __init__(self, latent: int, shape: PolicyShape, layers: Sequence[int], gain: float = 0.3) -> None:
        super().__init__()
        self.shape = shape
        self.trunk = nn.Sequential(*mlp([latent, *layers]), nn.ReLU())
        self.head = nn.Linear(layers[-1], shape.count)
        with torch.no_grad():
            self.head.bias.copy_(shape.initial())
            self.head.weight.normal_().mul_(gain * shape.spread()[:, None] / layers[-1] ** 0.5)

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, P) policy weights."""
        return self.head(self.trunk(z))


class LayerHeads(nn.Module):
    """A hypernetwork of its own for each layer of the policy (the paper's future work)."""

    def __init__(self, latent: int, shape: PolicyShape, layers: Sequence[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Hypernetwork(latent, PolicyShape(pair), layers) for pair in shape.pairs)

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, P) policy weights."""
        return torch.cat([part(z) for part in self.parts], 1)


class SharedPolicy(nn.Module):
    """One policy for all latents, `base` (P,), and by how much that of a latent differs from it: trunk MLP, and a head that emits, for each
    layer with a matrix W (in, out) and a bias b (out),

    modulation: u (in, R), v (R, out), c (out) -> W * (1 + u v), b + c
    low-rank:   the same -> W + s u v, b + c, where s is the usual spread of the layer's weights
    film:       s, t (out) of hidden layers -> their output before the ReLU times 1 + s, plus t

    What comes out are policies like any other: to run one costs the same, however it was decoded."""

    def __init__(self, kind: str, latent: int, shape: PolicyShape, layers: Sequence[int], gain: float = 0.3) -> None:
        super().__init__()
        self.kind, self.shape = kind, shape
        self.base = nn.Parameter(shape.initial())
        self.trunk = nn.Sequential(*mlp([latent, *layers]), nn.ReLU())
        hidden = shape.pairs[:-1]
        self.sizes = [2 * b for _, b in hidden] if kind == "film" else [RANK * (a + b) + b for a, b in shape.pairs]
        self.head = nn.Linear(layers[-1], sum(self.sizes))
        spread = [torch.full((2 * b,), gain) for _, b in hidden] if kind == "film" else [_small(a, b, gain) for a, b in shape.pairs]
        with torch.no_grad():
            self.head.bias.normal_().mul_(0.0 if kind == "film" else torch.cat(spread))  # u = v = 0 would be a saddle
            self.head.weight.normal_().mul_(torch.cat(spread)[:, None] / layers[-1] ** 0.5)

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, P) policy weights."""
        changes, found = self.head(self.trunk(z)).split(self.sizes, 1), list[Tensor]()
        for i, (matrix, bias) in enumerate(self.shape.split(self.base[None])):
            if self.kind == "film" and i < len(changes):
                scale, shift = changes[i].chunk(2, 1)
                matrix, bias = matrix * (1 + scale[:, None]), bias * (1 + scale) + shift
            elif self.kind != "film":
                a, b = self.shape.pairs[i]
                u, v, shift = changes[i].split([a * RANK, RANK * b, b], 1)
                product = u.unflatten(1, (a, RANK)) @ v.unflatten(1, (RANK, b))
                matrix, bias = matrix * (1 + product) if self.kind == "modulation" else matrix + product / a**0.5, bias + shift
            found += [matrix.expand(len(z), -1, -1).flatten(1), bias.expand(len(z), -1)]
        return torch.cat(found, 1)


class Concatenated(nn.Module):
    """No hypernetwork at all: one policy, whose input is the observation and the latent. Of a latent that does not change, a policy's first
    bias is all that is its own."""

    def __init__(self, latent: int, shape: PolicyShape) -> None:
        super().__init__()
        self.shape, self.base = shape, nn.Parameter(shape.initial())
        self.first = nn.Linear(latent, shape.sizes[1], bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, P) policy weights."""
        before = self.shape.sizes[0] * self.shape.sizes[1]  # the first layer's matrix
        return self.base + nn.functional.pad(self.first(z), (before, self.shape.count - before - self.shape.sizes[1]))


def _small(a: int, b: int, gain: float) -> Tensor:
    """Spreads of u, v and c of a layer (a, b) at the start: the product of u and v then has the spread `gain`."""
    factor = (gain / RANK**0.5) ** 0.5
    return torch.cat([torch.full(((a + b) * RANK,), factor), torch.full((b,), gain / a**0.5)])


def make_decoder(kind: str, latent: int, shape: PolicyShape, layers: Sequence[int]) -> nn.Module:
    """The decoder of a kind: full, layers, modulation, low-rank, film or concatenation. `layers` are those of its trunk."""
    if kind == "full":
        return Hypernetwork(latent, shape, layers)
    if kind == "layers":
        return LayerHeads(latent, shape, layers)
    return Concatenated(latent, shape) if kind == "concatenation" else SharedPolicy(kind, latent, shape, layers)
