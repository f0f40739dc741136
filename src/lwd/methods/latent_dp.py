"""Latent diffusion policy (section 4.1.1): LWD's encoder and latent diffusion, but the latent is decoded to a chunk of actions."""

from __future__ import annotations

import torch
from torch import Tensor

from lwd.config import LatentDPConfig
from lwd.data.snippets import Batch
from lwd.methods.base import ChunkController
from lwd.methods.correction import CorrectedMethod
from lwd.methods.diffusion import Generators, draw
from lwd.methods.latent import LatentMethod
from lwd.nn.mlp import mlp


class LatentDP(LatentMethod):
    """The method: the decoder is an MLP, the controller a chunk."""

    config: LatentDPConfig

    def build(self) -> None:
        """The decoder, from a latent to a chunk of actions."""
        self.decoder = mlp([self.config.latent, *self.config.decoder, self.spec.length * self.spec.action_dim])

    def autoencoder_loss(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Reconstruction of the chunk (L_BC), and L_KL."""
        mean, logvar = self.posterior(batch)
        z = mean + (0.5 * logvar).exp() * draw(mean.shape, generator, mean.device)
        kl = self.kl(mean, logvar)
        L_BC = self.reduce((self.decoded(z, batch) - batch.action).square())
        L_KL = self.config.beta * kl
        return {"L_BC": L_BC, "L_KL": L_KL, "loss": L_BC + L_KL, "rate_nats": kl.detach() / 2}

    def decoded(self, latent: Tensor, batch: Batch) -> Tensor:
        """(B, Z) -> (B, T, Da): the chunk, whatever the observations."""
        return self._chunk(latent)

    def controller(self, latent: Tensor, horizon: Tensor | None = None) -> ChunkController:
        """(B, Z) latents, in the encoder's units -> B chunks, from the query on."""
        return ChunkController(self.normalizer.decode_action(self._chunk(latent)[:, self.config.before :]), latent)

    def chunk(self, cond: Tensor, generator: Generators) -> Tensor:
        """(B, C) -> (B, T, Da) features."""
        return self._chunk(self.sample(cond, generator))

    def _chunk(self, latent: Tensor) -> Tensor:
        return self.decoder(latent).float().unflatten(-1, (self.spec.length, self.spec.action_dim))


class CorrectedLatentDP(CorrectedMethod, LatentDP):
    """With `correct`, a head that corrects the chunk at every step."""


METHOD = CorrectedLatentDP
