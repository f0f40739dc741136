"""What the methods with a latent share: an encoder of snippets (appendix J.2), and the diffusion of its latents (section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lwd.config import EvalSettings, LatentConfig
from lwd.data.snippets import Batch, Snippets
from lwd.methods.base import Method, Spec
from lwd.methods.diffusion import Generators, Sampling, denoising_loss, draw, make_denoiser, sample
from lwd.nn.mlp import mlp


class LatentMethod(Method):
    """Encoder and latent diffusion; a subclass has the decoder: `build`, `autoencoder_loss`, `decoded`, `controller`."""

    config: LatentConfig
    sampling: Sampling
    has_latent = True
    decoder: nn.Module

    def __init__(self, config: LatentConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.sampling = Sampling.default(config)
        features, actions, z = self.normalizer.feature_dim, spec.action_dim, config.latent
        self.span = getattr(config, "span", 1) if spec.starts == "every" else 1
        self.told = int(self.span > 1)  # numbers by which networks are told the horizon
        self.asked = float(spec.horizon)  # horizon of the next plans
        encoded_steps = len(range(0, spec.length, config.stride))
        self.encoder = mlp([encoded_steps * (features + actions) + self.told, *config.encoder, 2 * z])
        self.build()
        self.denoiser = make_denoiser(config, z, self.condition_dim, config.unet_fold)
        self.register_buffer("latent_mean", torch.zeros(z))
        self.register_buffer("latent_std", torch.ones(z))
        self.register_buffer("latent_cholesky", torch.eye(z))
        self.latent_mean: Tensor
        self.latent_std: Tensor
        self.latent_cholesky: Tensor  # of the covariance of standardised latents
        self._codes: tuple[Tensor, Tensor] | None = None  # posterior mean and log-variance of every start row, for stage 2

    def build(self) -> None:
        """Make `decoder` and what belongs to it."""
        raise NotImplementedError

    def tell(self, x: Tensor, horizon: Tensor) -> Tensor:
        """(B, D) with horizons (B,) -> (B, D + 1): where between the shortest (-1) and the longest (1) each lies. x itself without span."""
        if self.span == 1:
            return x
        return torch.cat([x, ((horizon / self.spec.horizon).log() / math.log(self.span)).to(x.dtype).unsqueeze(-1)], -1)

    @property
    def condition_dim(self) -> int:
        """C, with the horizon where it varies."""
        return super().condition_dim + self.told

    def condition_of(self, batch: Batch) -> Tensor:
        """(B, C) of training snippets."""
        return self.tell(super().condition_of(batch), batch.horizon)

    def ask_for(self, settings: EvalSettings) -> None:
        """Plans have the horizon that they are needed for, as far as it was trained."""
        wanted, usual = (settings.replan_every or self.horizon) + settings.delay, self.spec.horizon
        self.asked = float(min(max(wanted, usual / self.span), usual * self.span))

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | snippet), each (B, Z)."""
        snippet = torch.cat([batch.obs, batch.action], -1)[:, :: self.config.stride]
        mean, logvar = self.encoder(self.tell(snippet.flatten(1), batch.horizon)).chunk(2, -1)
        return mean.float(), logvar.float().clamp(-14, 4)

    def kl(self, mean: Tensor, logvar: Tensor, horizon: Tensor | None = None) -> Tensor:
        """Mean over the batch of sum of sigma^2 + mu^2 - 1 - log sigma^2 (Eq. 5): twice the rate in nats. With horizons (B,), a row counts
        in proportion to its own: a long snippet's latent is the harder one to sample, and has to say less (benchmarks/LOG.md)."""
        rows = (logvar.exp() + mean.square() - 1 - logvar).sum(-1)
        return rows.mean() if horizon is None else (rows * horizon).mean() / self.spec.horizon

    def autoencoder_loss(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of stage 1, each under its name; `loss` is their sum."""
        raise NotImplementedError

    def decoded(self, latent: Tensor, batch: Batch) -> Tensor:
        """(B, Z) latents, in the encoder's units -> (B, T, Da) actions for B snippets, as features."""
        raise NotImplementedError

    def reduce(self, error: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D) squared errors, optional (B, T) mask -> scalar, by the configured reduction."""
        if mask is not None:
            error = error * mask.unsqueeze(-1)
        if self.config.reduction == "sum":
            return error.sum((1, 2)).mean()
        return error.mean() if mask is None else error.sum() / (mask.sum().clamp_min(1) * error.shape[-1])

    @torch.no_grad()
    def encode_all(self, data: Snippets, chunk: int = 1024) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance of every start row, each (S, Z), at one random horizon each where there is a span."""
        generator = torch.Generator(self.device).manual_seed(0)
        parts = [self.posterior(data.at(start, generator)) for start in data.starts.split(chunk)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def prepare(self, stage: str, data: Snippets) -> None:
        """Stage 2 encodes the data and standardises its latents."""
        if stage != "diffusion":
            return
        mean, logvar = self.encode_all(data)
        self._codes = (mean, logvar)
        self.latent_mean.copy_(mean.mean(0))
        spread = mean.var(0) if len(mean) > 1 else torch.zeros_like(mean[0])  # a data set may have one snippet only
        self.latent_std.copy_((spread + logvar.exp().mean(0)).sqrt().clamp_min(1e-6))
        centred = mean - mean.mean(0)
        covariance = centred.T @ centred / max(1, len(mean) - 1) + torch.diag(logvar.exp().mean(0))
        correlation = covariance / (self.latent_std[:, None] * self.latent_std)
        self.latent_cholesky.copy_(torch.linalg.cholesky(correlation + 1e-4 * torch.eye(len(correlation), device=mean.device)))

    def diffusion_loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Denoising loss on standardised latents, freshly sampled from their posteriors."""
        assert self._codes is not None, "prepare('diffusion', data) encodes the data first"
        if self.span > 1:
            with torch.no_grad():
                mean, logvar = self.posterior(batch)
        else:
            mean, logvar = (c[batch.number] for c in self._codes)
        z = mean + (0.5 * logvar).exp() * draw(mean.shape, generator, mean.device)
        z = (z - self.latent_mean) / self.latent_std
        return denoising_loss(self.config, self.denoiser, z, self.condition_of(batch), generator)

    def loss(self, stage: str, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses of one stage."""
        if stage == "autoencoder":
            return self.autoencoder_loss(batch, step, generator)
        return self.diffusion_loss(batch, generator)

    def groups(self, stage: str) -> dict[str, tuple[list[nn.Parameter], float]]:
        """One optimiser a stage."""
        if stage == "diffusion":
            return {"denoiser": (list(self.denoiser.parameters()), self.config.diffusion.lr)}
        return {"autoencoder": ([*self.encoder.parameters(), *self.decoder.parameters()], self.config.autoencoder.lr)}

    @torch.no_grad()
    def validate(self, stage: str, data: Snippets, generator: torch.Generator) -> dict[str, float]:
        """Action error of reconstructed snippets, or of sampled latents."""
        size = 512 if stage == "autoencoder" else 128  # a query may cost a hundred passes through a large network
        batch = data.sample(size, generator)
        if stage == "autoencoder":
            mean, logvar = self.posterior(batch)
            z, name = mean + (0.5 * logvar).exp() * draw(mean.shape, generator, mean.device), "reconstruction"
        else:
            z, name = self.sample(self.condition_of(batch), generator), "sampled"
        return self.raw_errors(self.decoded(z, batch), batch.action, name, self.config.before)

    def controller(self, latent: Tensor, horizon: Tensor | None = None) -> Any:
        """(B, Z) latents, in the encoder's units, of horizons (B,), by default the one that is asked for -> B controllers."""
        raise NotImplementedError

    def sample(self, cond: Tensor, generator: Generators) -> Tensor:
        """(B, C) conditions -> (B, Z) latents in the encoder's units, by `self.steering` if there is one, else by `self.sampling`."""
        return self.sample_model(cond, generator) if self.steering is None else self.steering.sample(cond, generator)

    def sample_model(self, cond: Tensor, generator: Generators) -> Tensor:
        """As `sample`, without steering."""
        if self.sampling.latent == "model":
            z = sample(self.config, self.denoiser, self.config.latent, cond, self.sampling, generator)
            return z * self.latent_std + self.latent_mean
        noise = draw((len(cond), self.config.latent), generator, cond.device)
        if self.sampling.latent == "prior":
            return noise
        return noise @ self.latent_cholesky.T * self.latent_std + self.latent_mean

    @torch.no_grad()
    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> Any:
        """Sample one controller per row (section 3.2): denoise a latent given the state, by `self.sampling`, and decode it.

        The latent depends on the task, the decoder does not see it.
        """
        cond = self.condition_for(history, task)
        return self.controller(self.sample(self.tell(cond, cond.new_full((len(cond),), self.asked)), generator))
