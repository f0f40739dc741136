"""Raw units in, network features out, and back: the only place where anything is scaled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lwd.config import Scaling
from lwd.episodes import Episodes

CONSTANT = 1e-6  # half of a range, raw units; a dimension that varies less is constant
NARROWEST = 1e-4  # half of a range, raw units; a dimension that varies less is scaled as if it varied so much
# Both are shares of the widest dimension where that is narrower than 1: data in small units is not constant.
FARTHEST = 5.0  # features are clipped to this: five times the range of the data
Limit = Sequence[float] | None


class Normalizer(nn.Module):
    """Raw observations and actions <-> features.

    Angles become cosine and sine (so that 0 and 2*pi are the same point). Other dimensions are scaled to [-1, 1] by the range seen in the
    data, or by their standard deviation. A dimension that hardly varies is not blown up (`NARROWEST`), a constant one becomes 0, and
    features far outside the data are clipped (`FARTHEST`). Statistics are buffers, hence in the checkpoint.

    Args:
        obs_dim: Do, raw observation dimensions, those of `angles` in radians.
        action_dim: Da, raw action dimensions. Decoded actions are clipped to `action_low` and `action_high`, raw units, where given.
    """

    linear: Tensor
    angular: Tensor
    obs_center: Tensor
    obs_scale: Tensor
    action_center: Tensor
    action_half: Tensor
    action_low: Tensor
    action_high: Tensor

    def __init__(
        self, obs_dim: int, action_dim: int, angles: Sequence[int] = (), action_low: Limit = None, action_high: Limit = None
    ) -> None:
        super().__init__()
        linear = [i for i in range(obs_dim) if i not in angles]
        self.obs_dim = obs_dim
        self.feature_dim = len(linear) + 2 * len(angles)
        for name, dimensions in (("linear", linear), ("angular", list(angles))):
            self.register_buffer(name, torch.tensor(dimensions, dtype=torch.long), persistent=False)
        for name, size in (("obs_center", len(linear)), ("action_center", action_dim)):
            self.register_buffer(name, torch.zeros(size))
        self.register_buffer("obs_scale", torch.ones(len(linear)))  # features = (raw - center) * scale
        self.register_buffer("action_half", torch.ones(action_dim))  # raw = feature * half + center
        for name, limit, none in (("action_low", action_low, -torch.inf), ("action_high", action_high, torch.inf)):
            self.register_buffer(name, torch.tensor([none] * action_dim if limit is None else limit, dtype=torch.float32))

    def fit(self, episodes: Episodes, scaling: Scaling = "range") -> None:
        """Take the ranges of a data set; with the scaling "deviation", for observations their means and twice their standard deviations,
        which a few extreme values do not widen."""
        obs = torch.from_numpy(episodes.obs)[:, self.linear.cpu()]
        low, high = obs.amin(0), obs.amax(0)
        half, center = (high - low) / 2, (high + low) / 2
        if scaling == "deviation":
            half, center = 2 * obs.std(0), obs.mean(0)
        self.obs_center.copy_(center)
        widest = min(1.0, float(half.max())) if len(half) else 1.0
        scale = 1 / half.clamp_min(max(NARROWEST * widest, 1e-30))
        self.obs_scale.copy_(torch.where(half > CONSTANT * widest, scale, torch.zeros_like(half)))
        action = torch.from_numpy(episodes.action)
        low, high = action.amin(0), action.amax(0)
        self.action_center.copy_((high + low) / 2)
        self.action_half.copy_((high - low) / 2)  # a constant action has half 0: its feature is 0, and it decodes to the constant

    def encode_obs(self, obs: Tensor) -> Tensor:
        """(..., Do) raw -> (..., F): scaled dimensions in their order, then cosines, then sines of the angles."""
        if not len(self.angular):
            return ((obs - self.obs_center) * self.obs_scale).clamp(-FARTHEST, FARTHEST)
        scaled, angle = ((obs[..., self.linear] - self.obs_center) * self.obs_scale).clamp(-FARTHEST, FARTHEST), obs[..., self.angular]
        return torch.cat([scaled, angle.cos(), angle.sin()], -1)

    def decode_obs(self, feature: Tensor) -> Tensor:
        """(..., F) -> (..., Do) raw: the inverse, up to what was clipped. A constant dimension is decoded to its constant."""
        count, angles = len(self.linear), len(self.angular)
        scale = torch.where(self.obs_scale > 0, self.obs_scale, torch.ones_like(self.obs_scale))
        raw = feature.new_empty((*feature.shape[:-1], self.obs_dim))
        raw[..., self.linear] = feature[..., :count] / scale + self.obs_center
        if angles:
            cos, sin = feature[..., count : count + angles], feature[..., count + angles :]
            raw[..., self.angular] = torch.atan2(sin, cos) % (2 * math.pi)
        return raw

    def encode_action(self, action: Tensor) -> Tensor:
        """(..., Da) raw -> (..., Da) in [-1, 1]."""
        return (action - self.action_center) / torch.where(self.action_half > 1e-6, self.action_half, torch.ones_like(self.action_half))

    def decode_action(self, feature: Tensor) -> Tensor:
        """(..., Da) network output -> raw action, clipped to the legal range."""
        return torch.clamp(feature * self.action_half + self.action_center, self.action_low, self.action_high)
