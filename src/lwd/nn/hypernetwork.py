"""Latent -> every weight and bias of a policy: the paper's hypernetwork (appendix J.3, Table 5), and low-rank changes to a shared one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lwd.nn.mlp import mlp
from lwd.nn.policy import PolicyShape

SIZES: dict[str, tuple[int, ...]] = {"xs": (50, 50), "s": (100, 100), "m": (200, 200), "l": (400, 400)}  # Table 5
RANK = 8  # of what low-rank decoders add to a matrix


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


class LowRank(nn.Module):
    """One policy for all latents, `base` (P,), and what a latent adds to it: trunk MLP, and a head that emits u (in, R), v (R, out) and
    c (out,) for each layer with a matrix W (in, out) and a bias b (out,) -> W + u v / sqrt(in), b + c. At first what is added has `gain`
    times the usual spread of a layer's weights.

    What comes out are policies like any other: to run one costs the same, however it was decoded."""

    def __init__(self, latent: int, shape: PolicyShape, layers: Sequence[int], gain: float = 0.3) -> None:
        super().__init__()
        self.shape, self.base = shape, nn.Parameter(shape.initial())
        self.trunk = nn.Sequential(*mlp([latent, *layers]), nn.ReLU())
        self.sizes = [RANK * (a + b) + b for a, b in shape.pairs]
        self.head = nn.Linear(layers[-1], sum(self.sizes))
        factor = (gain / RANK**0.5) ** 0.5  # of u and v: their product then has the spread `gain`
        spread = [torch.cat([torch.full((RANK * (a + b),), factor), torch.full((b,), gain / a**0.5)]) for a, b in shape.pairs]
        with torch.no_grad():
            self.head.bias.normal_().mul_(torch.cat(spread))  # u = v = 0 would be a saddle
            self.head.weight.normal_().mul_(torch.cat(spread)[:, None] / layers[-1] ** 0.5)

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, P) policy weights."""
        found = list[Tensor]()
        changes = self.head(self.trunk(z)).split(self.sizes, 1)
        for (a, b), (matrix, bias), change in zip(self.shape.pairs, self.shape.split(self.base[None]), changes, strict=True):
            u, v, shift = change.split([a * RANK, RANK * b, b], 1)
            added = u.unflatten(1, (a, RANK)) @ v.unflatten(1, (RANK, b)) / a**0.5
            found += [(matrix + added).flatten(1), bias + shift]
        return torch.cat(found, 1)


def make_decoder(kind: str, latent: int, shape: PolicyShape, layers: Sequence[int]) -> nn.Module:
    """The decoder of a kind, full or low-rank. `layers` are those of its trunk."""
    return (Hypernetwork if kind == "full" else LowRank)(latent, shape, layers)
