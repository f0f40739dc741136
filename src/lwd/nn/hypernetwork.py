"""Latent -> every weight and bias of a policy (appendix J.3, Table 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lwd.nn.mlp import mlp
from lwd.nn.policy import PolicyShape

SIZES: dict[str, tuple[int, ...]] = {"xs": (50, 50), "s": (100, 100), "m": (200, 200), "l": (400, 400)}  # Table 5


class Hypernetwork(nn.Module):
    """Trunk MLP, then one linear head that emits all policy weights.

    The head's bias starts as one ordinary freshly initialised policy, and its matrix so small that a unit change of the latent moves
    every weight by a fraction of its layer's usual spread: training starts from policies that work like any other new MLP.
    `gain` is the spread of the generated weights over latents at initialisation, relative to the usual spread of a layer.
    """

    def __init__(self, latent: int, shape: PolicyShape, layers: tuple[int, ...], gain: float = 0.3) -> None:
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
