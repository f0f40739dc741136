"""Diffusion Policy (appendix J.1): a chunk of actions is denoised given the past observations, and executed blindly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lwd.config import DiffusionPolicyConfig
from lwd.data.snippets import Batch, Snippets
from lwd.methods.base import ChunkController, Method, Spec
from lwd.methods.correction import CorrectedMethod
from lwd.methods.diffusion import Generators, Sampling, denoising_loss, make_denoiser, sample


class DiffusionPolicy(Method):
    """The method. The chunk covers a whole snippet: `before` steps up to the query (the original predicts history - 1 of them), the
    `horizon` steps that are executed, and `after` more. A shorter `--replan-every` in evaluation executes a prefix."""

    config: DiffusionPolicyConfig
    sampling: Sampling

    def __init__(self, config: DiffusionPolicyConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.sampling = Sampling.default(config)
        self.size = spec.length * spec.action_dim
        self.denoiser = make_denoiser(config, self.size, self.condition_dim, spec.action_dim)

    def loss(self, stage: str, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The denoising loss of the chunk."""
        chunk = batch.action.transpose(1, 2).flatten(1)
        return denoising_loss(self.config, self.denoiser, chunk, self.condition_of(batch), generator)

    def groups(self, stage: str) -> dict[str, tuple[list[nn.Parameter], float]]:
        """One optimiser, for the denoiser: there is one stage only."""
        return {"denoiser": (list(self.denoiser.parameters()), self.config.diffusion.lr)}

    @torch.no_grad()
    def validate(self, stage: str, data: Snippets, generator: torch.Generator) -> dict[str, float]:
        """Error of sampled chunks."""
        batch = data.sample(128, generator)
        return self.raw_errors(self.chunk(self.condition_of(batch), generator), batch.action, "sampled", self.config.before)

    @torch.no_grad()
    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> ChunkController:
        """Denoise one chunk per row."""
        chunk = self.chunk(self.condition_for(history, task), generator)
        return ChunkController(self.normalizer.decode_action(chunk[:, self.config.before :]))

    def chunk(self, cond: Tensor, generator: Generators) -> Tensor:
        """(B, C) -> (B, T, Da) features."""
        flat = sample(self.config, self.denoiser, self.size, cond, self.sampling, generator)
        return flat.unflatten(1, (self.spec.action_dim, -1)).transpose(1, 2)


class CorrectedDiffusionPolicy(CorrectedMethod, DiffusionPolicy):
    """With `correct`, a head that corrects the chunk at every step."""


METHOD = CorrectedDiffusionPolicy
