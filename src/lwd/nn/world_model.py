"""World model: observation and action -> next observation (sections 3.2 and 4: MLP 2x1024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lwd.nn.mlp import mlp


class WorldModel(nn.Module):
    """Predicts the change of the features; a Gaussian with fixed variance around it.

    Args:
        feature: F, observation features.
        action: Da.
        hidden: layer sizes.
    """

    def __init__(self, feature: int, action: int, hidden: tuple[int, ...] = (1024, 1024)) -> None:
        super().__init__()
        self.net = mlp([feature + action, *hidden, feature])
        self.register_buffer("delta_scale", torch.ones(feature))  # typical one-step change, so that the network's target is of order one
        self.delta_scale: Tensor

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """(..., F), (..., Da) -> mean of the next features (..., F)."""
        return obs + self.delta_scale * self.net(torch.cat([obs, action], -1))
