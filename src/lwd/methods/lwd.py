"""Latent Weight Diffusion (section 3): encode a snippet, decode a policy, imitate; then learn to sample the latents.

The file follows section 3.2: decoder, L_BC, L_RO, L_TF, L_KL. Encoder and latent diffusion model are those of `lwd.methods.latent`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lwd.config import LWDConfig
from lwd.data.normalizer import Normalizer
from lwd.data.snippets import Batch, Snippets
from lwd.methods.base import ENDLESS, normal
from lwd.methods.latent import LatentMethod
from lwd.nn.hypernetwork import SIZES, Hypernetwork
from lwd.nn.policy import PolicyShape
from lwd.nn.world_model import WorldModel


class PolicyController:
    """B generated closed-loop policies, in raw units.

    Attributes:
        weights: (B, P) one weight set per controller.
        latent: (B, Z) the latents that they were decoded from.
    """

    horizon = ENDLESS

    def __init__(self, shape: PolicyShape, weights: Tensor, latent: Tensor, normalizer: Normalizer) -> None:
        self.shape, self.weights, self.latent, self.normalizer = shape, weights, latent, normalizer

    def act(self, obs: Tensor, t: int = 0) -> Tensor:
        """(B, Do) raw observations -> (B, Da) raw actions. `t` is ignored: the policy is a function of what it sees."""
        return self.act_many(obs.unsqueeze(1)).squeeze(1)

    def act_many(self, obs: Tensor) -> Tensor:
        """(B, T, Do) -> (B, T, Da): each policy on T observations."""
        x = self.normalizer.encode_obs(obs.to(self.weights.device, torch.float32))
        return self.normalizer.decode_action(self.shape.apply(self.weights, x))


class LWD(LatentMethod):
    """The method: the decoder is a hypernetwork, the controller a policy.

    Args:
        config: settings.
        spec: dimensions and declarations of the data.
    """

    config: LWDConfig

    def build(self) -> None:
        """Hypernetwork and world model."""
        config, features, actions = self.config, self.normalizer.feature_dim, self.spec.action_dim
        self.shape = PolicyShape([features, *config.policy, actions], config.activation)
        self.decoder = Hypernetwork(config.latent, self.shape, SIZES[config.decoder])
        self.world_model = WorldModel(features, actions, config.world_model_hidden) if config.world_model else None

    @property
    def policy_parameters(self) -> int:
        """P, weights of a generated policy."""
        return self.shape.count

    # --- stage 1: autoencoder and world model -------------------------------------------------------------------------------------

    def autoencoder_loss(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_BC + L_RO + L_TF + L_KL of Eq. 5, each under its name; `loss` is their sum."""
        c = self.config
        mean, logvar = self.posterior(batch.obs, batch.action)
        z = mean + (0.5 * logvar).exp() * normal(mean.shape, generator, mean.device)
        weights = self.generate(z)

        obs, action = _some_steps(c.bc_steps, generator, batch.obs, batch.action)
        seen = obs + c.policy_noise * normal(obs.shape, generator, obs.device) if c.policy_noise else obs
        losses = {"L_BC": self._reduce((self.act(weights, seen) - action).square())}
        if self.world_model is not None:
            obs, action, following, real = _some_steps(c.world_model_steps, generator, batch.obs, batch.action, batch.following, batch.real)
            change = (self.world_model(obs, action) - following) / self.world_model.delta_scale
            losses["L_TF"] = self._reduce(change.float().square(), real)
            if step >= c.rollout_warmup:
                losses["L_RO"] = c.rollout_weight * self._rollout_loss(weights, obs, action, batch)
        kl = self.kl(mean, logvar)
        losses["L_KL"] = c.beta * kl
        losses["loss"] = torch.stack(list(losses.values())).sum()
        return {**losses, "rate_nats": kl.detach() / 2}

    def _rollout_loss(self, weights: Tensor, obs: Tensor, action: Tensor, batch: Batch) -> Tensor:
        """KL of two Gaussians of fixed variance: squared distance of the next states that the frozen world model predicts for the policy's
        action and for the recorded one. With `imagination` k > 1 both go on for k steps from a random step: the policy on its own
        imagined states, through which the gradient flows."""
        assert self.world_model is not None
        k, scale = self.config.imagination, self.world_model.delta_scale
        frozen = {name: value.detach() for name, value in self.world_model.state_dict(keep_vars=True).items()}

        def imagine(state: Tensor, chosen: Tensor) -> Tensor:
            assert self.world_model is not None
            return functional_call(self.world_model, frozen, (state, chosen)).float()

        if k == 1:
            with torch.no_grad():
                target = imagine(obs, action)
            return self._reduce(((imagine(obs, self.act(weights, obs)) - target) / scale).square())
        windows = batch.obs.shape[1] - k + 1
        count = min(windows, self.config.world_model_steps or windows)
        first = torch.linspace(0, windows - 1, count, device=obs.device).long()
        state = target = batch.obs[:, first]
        total = state.new_zeros(())
        for i in range(k):
            with torch.no_grad():
                target = imagine(target, batch.action[:, first + i])
            state = imagine(state, self.act(weights, state))
            total = total + self._reduce(((state - target) / scale).square())
        return total / k

    def generate(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, P) policy weights, in float32 whatever the precision of training."""
        with torch.autocast(z.device.type, enabled=False):
            return self.decoder(z.float())

    def act(self, weights: Tensor, obs: Tensor) -> Tensor:
        """(B, P) weights on (B, T, F) features -> (B, T, Da), in float32."""
        with torch.autocast(obs.device.type, enabled=False):
            return self.shape.apply(weights, obs.float())

    def decoded(self, latent: Tensor, batch: Batch) -> Tensor:
        """(B, Z) latents -> (B, T, Da): what their policies do on the observations of B snippets."""
        return self.act(self.generate(latent), batch.obs)

    def prepare(self, stage: str, data: Snippets) -> None:
        """Stage 1 measures one-step changes, the world model's unit."""
        super().prepare(stage, data)
        if stage == "autoencoder" and self.world_model is not None:
            inside = torch.arange(len(data.obs), device=data.obs.device)
            inside = inside[inside < data.last]
            change = (data.obs[inside + 1] - data.obs[inside]).std(0)
            self.world_model.delta_scale.copy_(change.clamp_min(1e-4))

    def groups(self, stage: str) -> dict[str, tuple[list[nn.Parameter], float]]:
        """The world model has its own optimiser (section 3.2)."""
        groups = super().groups(stage)
        if stage == "autoencoder" and self.world_model is not None:
            groups["world_model"] = (list(self.world_model.parameters()), self.config.world_model_lr)
        return groups

    # --- inference ----------------------------------------------------------------------------------------------------------------

    def controller(self, latent: Tensor) -> PolicyController:
        """(B, Z) latents, in the encoder's units -> B policies."""
        return PolicyController(self.shape, self.decoder(latent), latent, self.normalizer)


def _some_steps(count: int, generator: torch.Generator, *tensors: Tensor) -> list[Tensor]:
    """The same `count` random time steps of several (B, T, ...) tensors; all of them when count is 0."""
    length = tensors[0].shape[1]
    if not count or count >= length:
        return list(tensors)
    keep = torch.randperm(length, generator=generator, device=tensors[0].device)[:count]
    return [t[:, keep] for t in tensors]


METHOD = LWD
