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
from lwd.methods.base import ENDLESS, Rows, with_phase
from lwd.methods.diffusion import draw
from lwd.methods.improvement import ImprovedMethod, Reaction
from lwd.methods.latent import LatentMethod
from lwd.nn.hypernetwork import SIZES, make_decoder
from lwd.nn.policy import PolicyShape
from lwd.nn.world_model import WorldModel


class PolicyController(Rows):
    """B generated closed-loop policies, in raw units: their weights (B, P), the latents (B, Z) that they were decoded from, and the steps
    (B,) over which each one's phase goes from 0 to 1. A policy that acts for longer stays at phase 1; of those without phase it is None."""

    horizon, tensors = ENDLESS, ("weights", "latent", "ends")

    def __init__(self, shape: PolicyShape, weights: Tensor, latent: Tensor, normalizer: Normalizer, ends: Tensor | None = None) -> None:
        self.shape, self.weights, self.latent, self.normalizer, self.ends = shape, weights, latent, normalizer, ends

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        """(B, Do) raw observations, steps since the query (B,) -> (B, Da) raw actions."""
        x = self.normalizer.encode_obs(obs.to(self.weights.device, torch.float32))
        if self.ends is not None:
            x = with_phase(x, (t.to(x.device) / self.ends).clamp_max(1))
        return self.normalizer.decode_action(self.shape.apply(self.weights, x.unsqueeze(1)).squeeze(1))


class LWD(ImprovedMethod, LatentMethod):
    """The method: the decoder is a hypernetwork, the controller a policy."""

    config: LWDConfig

    def build(self) -> None:
        """Hypernetwork and world model."""
        config, features, actions = self.config, self.normalizer.feature_dim, self.spec.action_dim
        self.shape = PolicyShape([features + config.phase, *config.policy, actions])
        self.decoder = make_decoder(config.hypernetwork, config.latent + self.told, self.shape, SIZES[config.decoder])
        self.world_model: WorldModel | None = None
        if config.world_model:
            self.world_model = WorldModel(features, actions, config.world_model_hidden, config.world_model_history)

    @property
    def policy_parameters(self) -> int:
        """P, weights of a generated policy."""
        return self.shape.count

    def autoencoder_loss(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_BC + L_RO + L_TF + L_KL of Eq. 5 (L_RO after its warm-up, L_RO and L_TF with a world model); `loss` is their sum."""
        config = self.config
        mean, logvar = self.posterior(self._encoded(batch, generator))
        z = mean + (0.5 * logvar).exp() * draw(mean.shape, generator, mean.device)
        weights = self.generate(self.tell(z, batch.horizon))
        zero = mean.new_zeros(())

        L_BC = self._cloning(weights, batch, generator)
        L_RO = L_TF = zero
        if self.world_model is not None:
            L_TF, wm_rows, wm_real = self._teacher_forcing(batch, generator)
            if step >= config.rollout_warmup:
                L_RO = config.rollout_weight * self._rollout_loss(weights, batch, wm_rows, wm_real, generator)

        kl = self.kl(mean, logvar)
        L_KL = config.beta * self.kl(mean, logvar, batch.horizon)

        loss = L_BC + L_RO + L_TF + L_KL
        named = {"L_BC": L_BC, "L_RO": L_RO, "L_TF": L_TF, "L_KL": L_KL}
        shown = {name: value for name, value in named.items() if value is not zero}
        return {**shown, "loss": loss, "rate_nats": kl.detach() / 2}

    def _cloning(self, weights: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        """L_BC of policies (B, P) on their snippets, at some steps, with noise on what they see."""
        config, seen_at = self.config, batch.jittered(generator)
        obs, action, phase = _some_steps(config.bc_steps, generator, seen_at.obs, seen_at.action, seen_at.phase)
        seen = obs + config.policy_noise * draw(obs.shape, generator, obs.device) if config.policy_noise else obs
        return self.reduce((self.act(weights, seen, phase) - action).square())

    def reacting(self, batch: Batch, obs: Tensor, begun: Tensor, generator: torch.Generator) -> tuple[Tensor, Reaction]:
        """L_BC, and policies for the imagined episodes: those of the snippets, and a share that is sampled for where the episode starts."""
        with torch.no_grad():
            mean, logvar = self.posterior(self._encoded(batch, generator))
            z = mean + (0.5 * logvar).exp() * draw(mean.shape, generator, mean.device)
        weights = self.generate(self.tell(z, batch.horizon))
        L_BC, count = self._cloning(weights, batch, generator), round(self.settings.sampled * len(obs))
        if count:
            task = self.tasks_of(batch)
            cond = self.condition(obs[:count, None].expand(-1, self.history, -1), None if task is None else task[:count])
            with torch.autocast(obs.device.type, enabled=False):  # frozen weights would be cast anew at every denoising step
                drawn = self.sample(self.tell(cond, batch.horizon[:count]), generator)
            weights = torch.cat([self.generate(self.tell(drawn, batch.horizon[:count])), weights[count:]])
            begun = torch.where(torch.arange(len(begun), device=begun.device) < count, 0, begun)

        def act(seen: Tensor, i: int) -> Tensor:
            return self.act(weights, seen[:, None], ((begun + i) / batch.horizon)[:, None]).squeeze(1)

        return L_BC, act

    def _encoded(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The snippets whose latents the policies are decoded from: a share of them are others of the same task."""
        if not self.config.shared:
            return batch
        others = batch.data.siblings(batch.start, generator)
        swap = torch.rand(len(others), generator=generator, device=others.device) < self.config.shared
        return Batch(batch.data, torch.where(swap, others, batch.start), batch.horizon)

    def _teacher_forcing(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """L_TF at some steps of each snippet: the world model against the recorded next observation, in units of one-step changes. Also
        the rows (B, k) that it looked at, and which of them have a successor (B, k)."""
        assert self.world_model is not None
        wm_rows, following, real = _some_steps(self.config.world_model_steps, generator, batch.rows, batch.following, batch.real)
        wm_obs, wm_action = self._history(batch.data, wm_rows)
        change = (self.world_model(wm_obs, wm_action) - following) / self.world_model.delta_scale
        return self.reduce(change.float().square(), real), wm_rows, real

    def _rollout_loss(self, weights: Tensor, batch: Batch, rows: Tensor, real: Tensor, generator: torch.Generator) -> Tensor:
        """L_RO / rollout_weight: the KL of two Gaussians with a fixed variance, which is a squared distance of their means.

        The means are the next states that the frozen world model predicts for the policy's action and for the recorded one. With
        `rollout_steps` k > 1 both go on for k steps from random steps of the snippet: the policy on its own imagined states, through which
        the gradient flows. Steps without a recorded successor are left out.
        """
        assert self.world_model is not None
        k, scale, last = self.config.rollout_steps, self.world_model.delta_scale, batch.data.last[batch.start][:, None]
        if k > 1:
            windows = batch.rows.shape[1] - k + 1
            count = min(windows, self.config.world_model_steps or windows)
            first = torch.randperm(windows, generator=generator, device=rows.device)[:count]
            rows, real = batch.rows[:, first], batch.real[:, first]
        begun = (rows - batch.start[:, None]) / batch.horizon[:, None]  # phases
        past_obs, past_action = self._history(batch.data, rows)
        real_obs, real_action = past_obs, past_action
        total = past_obs.new_zeros(())
        for i in range(k):
            chosen = self.act(weights, past_obs[..., -1, :], begun + i / batch.horizon[:, None])
            if i:
                real = rows + i < last
                real_action = _append(real_action, batch.data.action[torch.minimum(rows + i, last)])
                past_action = _append(past_action, chosen)
            else:
                past_action = torch.cat([past_action[..., :-1, :], chosen.unsqueeze(-2)], -2)
            with torch.no_grad():
                target = self._frozen(real_obs, real_action)
            reached = self._frozen(past_obs, past_action)
            total = total + self.reduce(((reached - target) / scale).square(), real)
            past_obs, real_obs = _append(past_obs, reached), _append(real_obs, target)
        return total / k

    def _frozen(self, obs: Tensor, action: Tensor) -> Tensor:
        """The world model's prediction, through which gradients flow but not into it."""
        assert self.world_model is not None
        weights = {name: value.detach() for name, value in self.world_model.state_dict(keep_vars=True).items()}
        return functional_call(self.world_model, weights, (obs, action)).float()

    def _history(self, data: Snippets, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(...) rows -> (..., H, F) and (..., H, Da): what the world model sees at those steps."""
        assert self.world_model is not None
        past = data.past(rows, self.world_model.history)
        return data.obs[past], data.action[past]

    @torch.no_grad()
    def imagine(self, data: Snippets, start: Tensor, steps: int) -> Tensor:
        """Open loop through the world model: (M,) start rows -> (M, F) features after `steps` recorded actions."""
        assert self.world_model is not None
        obs, action = self._history(data, start)
        for t in range(steps):
            if t:
                action = _append(action, data.action[start + t])
            obs = _append(obs, self.world_model(obs, action))
        return obs[:, -1]

    def generate(self, z: Tensor) -> Tensor:
        """(B, Z) with the horizon where that varies (`tell`) -> (B, P) policy weights, in float32 whatever the precision of training."""
        with torch.autocast(z.device.type, enabled=False):
            return self.decoder(z.float())

    def act(self, weights: Tensor, obs: Tensor, phase: Tensor) -> Tensor:
        """(B, P) weights on (B, T, F) features at phases (B, T) -> (B, T, Da), in float32."""
        with torch.autocast(obs.device.type, enabled=False):
            return self.shape.apply(weights, with_phase(obs.float(), phase.clamp(0, 1)) if self.config.phase else obs.float())

    def decoded(self, latent: Tensor, batch: Batch, obs: Tensor | None = None) -> Tensor:
        """(B, Z) latents -> (B, T, Da): what their policies do on the observations of B snippets, or on other ones (B, T, F)."""
        return self.act(self.generate(self.tell(latent, batch.horizon)), batch.obs if obs is None else obs, batch.phase)

    def prepare(self, stage: str, data: Snippets) -> None:
        """Stage 1 measures one-step changes (root mean square), the world model's unit."""
        super().prepare(stage, data)
        if stage == "autoencoder" and self.world_model is not None:
            inside = torch.arange(len(data.obs), device=data.obs.device)
            inside = inside[inside < data.last]
            change = (data.obs[inside + 1] - data.obs[inside]).square().mean(0).sqrt()
            self.world_model.delta_scale.copy_(change.clamp_min(1e-4))

    def groups(self, stage: str) -> dict[str, tuple[list[nn.Parameter], float]]:
        """The world model has its own optimiser (section 3.2)."""
        if stage == self.trained:  # the latents, and what samples them, stay
            return {"decoder": (list(self.decoder.parameters()), self.config.improvement.lr)}
        groups = super().groups(stage)
        if stage == "autoencoder" and self.world_model is not None:
            groups["world_model"] = (list(self.world_model.parameters()), self.config.world_model_lr)
        return groups

    def controller(self, latent: Tensor, horizon: Tensor | None = None) -> PolicyController:
        """(B, Z) latents, in the encoder's units, of horizons (B,), by default the one that is asked for -> B policies."""
        ends = latent.new_full((len(latent),), self.asked) if horizon is None else horizon
        weights = self.decoder(self.tell(latent, ends))
        return PolicyController(self.shape, weights, latent, self.normalizer, ends if self.config.phase else None)


def _some_steps(count: int, generator: torch.Generator, *tensors: Tensor) -> list[Tensor]:
    """The same `count` random time steps of several (B, T, ...) tensors; all of them when count is 0."""
    length = tensors[0].shape[1]
    if not count or count >= length:
        return list(tensors)
    keep = torch.randperm(length, generator=generator, device=tensors[0].device)[:count]
    return [t[:, keep] for t in tensors]


def _append(history: Tensor, newest: Tensor) -> Tensor:
    """(..., H, D) history and the newest entry (..., D) -> the history one step later."""
    return torch.cat([history[..., 1:, :], newest.unsqueeze(-2)], -2)


METHOD = LWD
