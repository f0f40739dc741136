"""Raw units in, network features out, and back: the only place where anything is scaled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lwd.episodes import Episodes

CONSTANT = 1e-6  # half of a range, raw units; a dimension that varies less is constant
NARROWEST = 1e-4  # half of a range, raw units; a dimension that varies less is scaled as if it varied so much
# Both are shares of the widest dimension where that is narrower than 1: data in small units is not constant.
FARTHEST = 5.0  # features are clipped to this: five times the range of the data


class Normalizer(nn.Module):
    """Raw observations and actions <-> features.

    Angles become cosine and sine (so that 0 and 2*pi are the same point). Other dimensions are scaled to [-1, 1] by the range seen in the
    data. A dimension that hardly varies is not blown up (`NARROWEST`), a constant one becomes 0, and features far outside the data are
    clipped (`FARTHEST`). Statistics are buffers, hence in the checkpoint.

    Args:
        obs_dim: Do, raw observation dimensions.
        action_dim: Da, raw action dimensions.
        angles: observation dimensions in radians.
        action_low: legal action range, raw units; decoded actions are clipped to it. None: no clipping.
        action_high: see `action_low`.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        angles: Sequence[int] = (),
        action_low: Sequence[float] | None = None,
        action_high: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        linear = [i for i in range(obs_dim) if i not in angles]
        self.obs_dim = obs_dim
        self.feature_dim = len(linear) + 2 * len(angles)
        self.register_buffer("linear", torch.tensor(linear, dtype=torch.long), persistent=False)
        self.register_buffer("angular", torch.tensor(list(angles), dtype=torch.long), persistent=False)
        self.register_buffer("obs_center", torch.zeros(len(linear)))
        self.register_buffer("obs_scale", torch.ones(len(linear)))  # features = (raw - center) * scale
        self.register_buffer("action_center", torch.zeros(action_dim))
        self.register_buffer("action_half", torch.ones(action_dim))  # raw = feature * half + center
        low = torch.full((action_dim,), -torch.inf) if action_low is None else torch.tensor(action_low, dtype=torch.float32)
        high = torch.full((action_dim,), torch.inf) if action_high is None else torch.tensor(action_high, dtype=torch.float32)
        self.register_buffer("action_low", low)
        self.register_buffer("action_high", high)
        self.linear: Tensor
        self.angular: Tensor
        self.obs_center: Tensor
        self.obs_scale: Tensor
        self.action_center: Tensor
        self.action_half: Tensor
        self.action_low: Tensor
        self.action_high: Tensor

    def fit(self, episodes: Episodes) -> None:
        """Take the ranges of a data set."""
        obs = torch.from_numpy(episodes.obs)[:, self.linear.cpu()]
        low, high = obs.amin(0), obs.amax(0)
        half = (high - low) / 2
        self.obs_center.copy_((high + low) / 2)
        widest = min(1.0, float(half.max())) if len(half) else 1.0
        scale = 1 / half.clamp_min(max(NARROWEST * widest, 1e-30))
        self.obs_scale.copy_(torch.where(half > CONSTANT * widest, scale, torch.zeros_like(half)))
        action = torch.from_numpy(episodes.action)
        low, high = action.amin(0), action.amax(0)
        self.action_center.copy_((high + low) / 2)
        self.action_half.copy_((high - low) / 2)  # a constant action has half 0: its feature is 0, and it decodes to the constant

    def encode_obs(self, obs: Tensor) -> Tensor:
        """(..., Do) raw -> (..., F): scaled dimensions in their order, then cosines, then sines of the angles."""
        scaled = ((obs[..., self.linear] - self.obs_center) * self.obs_scale).clamp(-FARTHEST, FARTHEST)
        if not len(self.angular):
            return scaled
        angle = obs[..., self.angular]
        return torch.cat([scaled, angle.cos(), angle.sin()], -1)

    def encode_action(self, action: Tensor) -> Tensor:
        """(..., Da) raw -> (..., Da) in [-1, 1]."""
        return (action - self.action_center) / torch.where(self.action_half > 1e-6, self.action_half, torch.ones_like(self.action_half))

    def decode_action(self, feature: Tensor) -> Tensor:
        """(..., Da) network output -> raw action, clipped to the legal range."""
        return torch.clamp(feature * self.action_half + self.action_center, self.action_low, self.action_high)
