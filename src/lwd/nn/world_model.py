"""World model: history of observations and actions -> next observation (sections 3.2 and 4: MLP 2x1024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lwd.nn.mlp import mlp


class WorldModel(nn.Module):
    """Predicts the change of the F features: the mean of a Gaussian with fixed variance. It sees H (`history`) steps, the present one
    included."""

    def __init__(self, feature: int, action: int, hidden: tuple[int, ...] = (1024, 1024), history: int = 1) -> None:
        super().__init__()
        self.history = history
        self.net = mlp([history * (feature + action), *hidden, feature])
        self.register_buffer("delta_scale", torch.ones(feature))  # typical one-step change, so that the network's target is of order one
        self.delta_scale: Tensor

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """(..., H, F), (..., H, Da), oldest first -> mean of the next features (..., F)."""
        return obs[..., -1, :] + self.delta_scale * self.net(torch.cat([obs.flatten(-2), action.flatten(-2)], -1))
