"""Latent Weight Diffusion (section 3): encode a snippet, decode a policy, imitate; then learn to sample the latents.

The file follows section 3.2: encoder, decoder, L_BC, L_RO, L_TF, L_KL, then the latent diffusion model, then `plan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lwd.config import LWDConfig
from lwd.data.normalizer import Normalizer
from lwd.data.snippets import Batch, Snippets
from lwd.errors import LWDError
from lwd.methods.base import ENDLESS, Generators
from lwd.methods.latent_diffusion import Sampling, make_denoiser, noise_latents, sample_latents
from lwd.nn.hypernetwork import SIZES, Hypernetwork
from lwd.nn.mlp import mlp
from lwd.nn.policy import PolicyShape
from lwd.nn.world_model import WorldModel


@dataclass(frozen=True)
class Spec:
    """What a method must know of the data to be built, kept in the run's config: no data is needed to load a model."""

    obs_dim: int
    action_dim: int
    horizon: int
    length: int
    env: str | None = None
    obs: str = "state"
    angles: tuple[int, ...] = ()
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    tasks: tuple[str, ...] = ()


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


class LWD(nn.Module):
    """The method. All inputs of the losses are features (normalised); `plan` and `encode` speak raw units.

    Args:
        config: settings.
        spec: dimensions and declarations of the data.
    """

    stages = ("autoencoder", "diffusion")

    def __init__(self, config: LWDConfig, spec: Spec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.horizon, self.history = spec.horizon, config.history
        self.sampling = Sampling.default(config)
        self.normalizer = Normalizer(spec.obs_dim, spec.action_dim, spec.angles, spec.action_low, spec.action_high)
        features, actions, z = self.normalizer.feature_dim, spec.action_dim, config.latent
        self.encoded_steps = len(range(0, spec.length, config.stride))
        self.shape = PolicyShape([features, *config.policy, actions], config.activation)
        self.encoder = mlp([self.encoded_steps * (features + actions), *config.encoder, 2 * z])
        self.decoder = Hypernetwork(z, self.shape, SIZES[config.decoder])
        self.world_model = WorldModel(features, actions, config.world_model_hidden) if config.world_model else None
        self.denoiser = make_denoiser(config, features * config.history + len(spec.tasks))
        self.register_buffer("latent_mean", torch.zeros(z))
        self.register_buffer("latent_std", torch.ones(z))
        self.latent_mean: Tensor
        self.latent_std: Tensor
        self._codes: tuple[Tensor, Tensor] | None = None  # posterior mean and log-variance of every start row, for stage 2

    # --- stage 1: autoencoder and world model -------------------------------------------------------------------------------------

    def posterior(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B, T, Da) -> mean and log-variance of q(z | snippet), each (B, Z)."""
        snippet = torch.cat([obs, action], -1)[:, :: self.config.stride]
        mean, logvar = self.encoder(snippet.flatten(1)).chunk(2, -1)
        return mean.float(), logvar.float().clamp(-14, 4)

    def autoencoder_loss(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_BC + L_RO + L_TF + L_KL of Eq. 5, each under its name; `loss` is their sum."""
        c = self.config
        mean, logvar = self.posterior(batch.obs, batch.action)
        z = mean + (0.5 * logvar).exp() * _normal(mean.shape, generator, mean.device)
        weights = self.generate(z)

        obs, action = _some_steps(c.bc_steps, generator, batch.obs, batch.action)
        seen = obs + c.policy_noise * _normal(obs.shape, generator, obs.device) if c.policy_noise else obs
        losses = {"L_BC": self._reduce((self.act(weights, seen) - action).square())}
        if self.world_model is not None:
            obs, action, following, real = _some_steps(c.world_model_steps, generator, batch.obs, batch.action, batch.following, batch.real)
            change = (self.world_model(obs, action) - following) / self.world_model.delta_scale
            losses["L_TF"] = self._reduce(change.float().square(), real)
            if step >= c.rollout_warmup:
                losses["L_RO"] = c.rollout_weight * self._rollout_loss(weights, obs, action, batch)
        kl = (logvar.exp() + mean.square() - 1 - logvar).sum(-1).mean()
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

    def _reduce(self, error: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D) squared errors, optional (B, T) mask -> scalar, by the configured reduction."""
        if mask is not None:
            error = error * mask.unsqueeze(-1)
        if self.config.reduction == "sum":
            return error.sum((1, 2)).mean()
        return error.mean() if mask is None else error.sum() / (mask.sum().clamp_min(1) * error.shape[-1])

    # --- stage 2: latent diffusion ------------------------------------------------------------------------------------------------

    def condition(self, history: Tensor, task: Tensor | None = None) -> Tensor:
        """(B, K, F) features, (B,) task indices -> (B, C)."""
        cond = history.flatten(1)
        if self.spec.tasks:
            if task is None:
                raise LWDError(f"this model generates for several tasks: say which, one of {', '.join(self.spec.tasks)}")
            cond = torch.cat([cond, nn.functional.one_hot(task, len(self.spec.tasks)).to(cond.dtype)], -1)
        return cond

    @torch.no_grad()
    def encode_all(self, data: Snippets, chunk: int = 4096) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance of every start row, each (N, Z)."""
        parts = []
        for start in torch.arange(data.count, device=data.obs.device).split(chunk):
            batch = data.at(start)
            parts.append(self.posterior(batch.obs, batch.action))
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def prepare(self, stage: str, data: Snippets) -> None:
        """Before a stage starts or continues: stage 1 measures one-step changes, stage 2 encodes the data and standardises its latents."""
        if stage == "autoencoder":
            if self.world_model is not None:
                inside = torch.arange(data.count, device=data.obs.device)
                inside = inside[inside < data.last]
                change = (data.obs[inside + 1] - data.obs[inside]).std(0)
                self.world_model.delta_scale.copy_(change.clamp_min(1e-4))
            return
        mean, logvar = self.encode_all(data)
        self._codes = (mean, logvar)
        self.latent_mean.copy_(mean.mean(0))
        self.latent_std.copy_((mean.var(0) + logvar.exp().mean(0)).sqrt().clamp_min(1e-6))

    def diffusion_loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Denoising loss on standardised latents, freshly sampled from their posteriors."""
        assert self._codes is not None, "prepare('diffusion', data) encodes the data first"
        mean, logvar = (c[batch.start] for c in self._codes)
        z = mean + (0.5 * logvar).exp() * _normal(mean.shape, generator, mean.device)
        z = (z - self.latent_mean) / self.latent_std
        history = batch.data.history(batch.start, self.history)
        if self.config.condition_noise:
            history = history + self.config.condition_noise * _normal(history.shape, generator, history.device)
        task = None if batch.data.task is None else batch.data.task[batch.start]
        noisy, step, target = noise_latents(self.config, z, generator)
        predicted = self.denoiser(noisy, step, self.condition(history, task if self.spec.tasks else None))
        loss = (predicted.float() - target).square().mean()
        return {"L_diffusion": loss, "loss": loss}

    # --- the interface of the trainer ---------------------------------------------------------------------------------------------

    def loss(self, stage: str, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses of one stage; the trainer minimises `loss`."""
        if stage == "autoencoder":
            return self.autoencoder_loss(batch, step, generator)
        return self.diffusion_loss(batch, generator)

    def groups(self, stage: str) -> dict[str, tuple[list[nn.Parameter], float]]:
        """Optimisers of a stage: name -> (parameters, learning rate). The world model has its own (section 3.2)."""
        if stage == "diffusion":
            return {"denoiser": (list(self.denoiser.parameters()), self.config.diffusion.lr)}
        groups = {"autoencoder": ([*self.encoder.parameters(), *self.decoder.parameters()], self.config.autoencoder.lr)}
        if self.world_model is not None:
            groups["world_model"] = (list(self.world_model.parameters()), self.config.world_model_lr)
        return groups

    @torch.no_grad()
    def validate(self, stage: str, data: Snippets, generator: torch.Generator) -> dict[str, float]:
        """Measurements on held-out snippets, by name: action error in raw units (root mean square)."""
        size = 512 if stage == "autoencoder" else 128  # a query may cost a hundred passes through a large network
        batch = data.at(torch.randint(data.count, (size,), generator=generator, device=data.obs.device))
        if stage == "autoencoder":
            mean, logvar = self.posterior(batch.obs, batch.action)
            z = mean + (0.5 * logvar).exp() * _normal(mean.shape, generator, mean.device)
        else:
            cond = self.condition(data.history(batch.start, self.history), None if data.task is None else data.task[batch.start])
            z = sample_latents(self.config, self.denoiser, cond, self.sampling, generator)
            z = z * self.latent_std + self.latent_mean
        error = (self.shape.apply(self.decoder(z), batch.obs) - batch.action) * self.normalizer.action_half
        first = error[:, self.config.before]
        name = "reconstruction" if stage == "autoencoder" else "sampled"
        return {
            f"{name}_action_rmse": error.square().mean().sqrt().item(),
            f"{name}_first_action_rmse": first.square().mean().sqrt().item(),
        }

    # --- inference ----------------------------------------------------------------------------------------------------------------

    def controller(self, latent: Tensor) -> PolicyController:
        """(B, Z) latents, in the encoder's units -> B policies."""
        return PolicyController(self.shape, self.decoder(latent), latent, self.normalizer)

    @torch.no_grad()
    def plan(
        self,
        history: Tensor,
        task: Sequence[str] | None = None,
        generator: Generators = None,
    ) -> PolicyController:
        """Sample one policy per row (section 3.2): denoise a latent given the state, by `self.sampling`, and decode it.

        Args:
            history: (B, K, Do) raw observations, oldest first.
            task: B task names when the model was trained on several.
            generator: see `Planner.plan`.

        Raises:
            LWDError: wrong shape, or a task that the model does not know.
        """
        if history.ndim != 3 or history.shape[1:] != (self.history, self.spec.obs_dim):
            raise LWDError(f"plan needs observations of shape (batch, {self.history}, {self.spec.obs_dim}), not {tuple(history.shape)}")
        features = self.normalizer.encode_obs(history.to(self.latent_mean.device, torch.float32))
        cond = self.condition(features, self._task_index(task))
        z = sample_latents(self.config, self.denoiser, cond, self.sampling, generator)
        return self.controller(z * self.latent_std + self.latent_mean)

    def _task_index(self, task: Sequence[str] | None) -> Tensor | None:
        if task is None or not self.spec.tasks:
            return None
        unknown = sorted(set(task) - set(self.spec.tasks))
        if unknown:
            raise LWDError(f"this model does not know the task {', '.join(unknown)}; it knows {', '.join(self.spec.tasks)}")
        return torch.tensor([self.spec.tasks.index(t) for t in task], device=self.latent_mean.device)


def _normal(shape: Any, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=generator, device=device)


def _some_steps(count: int, generator: torch.Generator, *tensors: Tensor) -> list[Tensor]:
    """The same `count` random time steps of several (B, T, ...) tensors; all of them when count is 0."""
    length = tensors[0].shape[1]
    if not count or count >= length:
        return list(tensors)
    keep = torch.randperm(length, generator=generator, device=tensors[0].device)[:count]
    return [t[:, keep] for t in tensors]
