"""A correction of chunks that runs at every step: a small network sees what the chunk could not (as in A2C2, arXiv 2509.23224)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lwd.config import Corrected, MethodConfig
from lwd.data.normalizer import Normalizer
from lwd.data.snippets import Batch, Snippets
from lwd.episodes import Spec
from lwd.methods.base import ChunkController, Method, Rows
from lwd.methods.diffusion import Generators, draw
from lwd.nn.mlp import mlp

MOST = 50_000  # start steps that chunks are sampled for: the base answers each once, before the head is trained


class CorrectionHead(nn.Module):
    """(B, F) features now, (B, T, Da) chunk, (B,) index of the step in it -> (B, Da), to be added to the chunk's action; normalised."""

    def __init__(self, features: int, steps: int, actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.steps, self.net = steps, mlp([features + steps * actions + 1 + actions, *hidden, actions])
        last = [module for module in self.net.modules() if isinstance(module, nn.Linear)][-1]
        nn.init.zeros_(last.weight)  # at first it corrects nothing
        nn.init.zeros_(last.bias)

    def forward(self, obs: Tensor, chunk: Tensor, index: Tensor) -> Tensor:
        now = chunk[torch.arange(len(chunk), device=chunk.device), index]
        place = 2 * index.to(obs.dtype).unsqueeze(-1) / self.steps - 1
        return self.net(torch.cat([obs, chunk.flatten(1), place, now], -1))


class CorrectedController(Rows):
    """B chunks of normalised actions (B, T, Da), each corrected at every step by what is seen then."""

    tensors = ("chunk",)

    def __init__(self, head: CorrectionHead, chunk: Tensor, normalizer: Normalizer) -> None:
        self.head, self.chunk, self.normalizer, self.horizon = head, chunk, normalizer, chunk.shape[1]

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        """(B, Do) raw observations, steps since the query (B,) -> (B, Da) raw actions."""
        device = self.chunk.device
        seen, t = self.normalizer.encode_obs(obs.to(device, torch.float32)), t.to(device)
        planned = self.chunk[torch.arange(len(t), device=device), t]
        return self.normalizer.decode_action(planned + self.head(seen, self.chunk, t))


class CorrectedMethod(Method):
    """What a method of chunks gains with `correct`: a last stage that trains the head on the chunks of the finished base.

    The head learns, at a random step of a random chunk, the difference between the demonstrated action and the chunk's, from the
    demonstrated observation of that step. It stands before the base in the order of classes.
    """

    trained: ClassVar[str] = "correction"
    chunk: Callable[[Tensor, Generators], Tensor]  # of the base: (B, C) conditions -> (B, T, Da) normalised actions of the whole snippet

    def __init__(self, config: MethodConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        assert isinstance(config, Corrected)
        self.settings: Corrected = config
        if config.correct:
            self.head = CorrectionHead(self.normalizer.feature_dim, spec.length - config.before, spec.action_dim, config.correction_hidden)
            self._chunks: tuple[Tensor, Tensor] | None = None  # start rows (M,), and the base's chunks there, (M, T, Da)

    @torch.no_grad()
    def prepare(self, stage: str, data: Snippets) -> None:
        """Asks the base for a chunk at every start step, or at `MOST` random ones."""
        if stage != self.trained:
            super().prepare(stage, data)
            return
        generator = torch.Generator(self.device).manual_seed(0)
        rows = data.starts[torch.randperm(data.count, generator=generator, device=self.device)[:MOST]]
        self._chunks = rows, self._base(data, rows, generator)

    def _base(self, data: Snippets, rows: Tensor, generator: torch.Generator) -> Tensor:
        """(M,) start rows -> (M, T, Da) normalised chunks from the query on."""
        histories = [data.history(part, self.history) for part in rows.split(1024)]
        tasks = [None if data.task is None else data.task[part] for part in rows.split(1024)]
        chunks = [self.chunk(self.condition(*own), generator) for own in zip(histories, tasks, strict=True)]
        return torch.cat(chunks)[:, self.before :].float()

    def groups(self, stage: str) -> dict[str, tuple[list[nn.Parameter], float]]:
        """One optimiser for the head."""
        if stage != self.trained:
            return super().groups(stage)
        return {self.trained: (list(self.head.parameters()), self.settings.correction.lr)}

    def loss(self, stage: str, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Squared error of corrected actions."""
        if stage != self.trained:
            return super().loss(stage, batch, step, generator)
        assert self._chunks is not None
        rows, chunks = self._chunks
        pick = torch.randint(len(rows), (len(batch.start),), generator=generator, device=rows.device)
        loss = self._errors(batch.data, rows[pick], chunks[pick], generator, self.settings.correction_noise).square().mean()
        return {"L_correction": loss, "loss": loss}

    def _errors(self, data: Snippets, start: Tensor, chunk: Tensor, generator: torch.Generator, noise: float = 0.0) -> Tensor:
        """(B, Da) errors of corrected actions at a random step of each chunk, with noise on what the head sees."""
        index = torch.randint(chunk.shape[1], (len(start),), generator=generator, device=start.device)
        rows = torch.minimum(start + index, data.last[start])
        obs = data.obs[rows]
        obs = obs + noise * draw(obs.shape, generator, obs.device) if noise else obs
        planned = chunk[torch.arange(len(start), device=start.device), index]
        return planned + self.head(obs, chunk, index).float() - data.action[rows]

    @torch.no_grad()
    def validate(self, stage: str, data: Snippets, generator: torch.Generator) -> dict[str, float]:
        """Error of corrected actions in raw units."""
        if stage != self.trained:
            return super().validate(stage, data, generator)
        rows = data.sample(512, generator).start
        error = self._errors(data, rows, self._base(data, rows, generator), generator) * self.normalizer.action_half
        return {"corrected_action_rmse": error.square().mean().sqrt().item()}

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> Any:
        """The base's chunks, corrected where the head is there."""
        planned: ChunkController = super().plan(history, task, generator)
        if not self.settings.correct:
            return planned
        return CorrectedController(self.head, self.normalizer.encode_action(planned.actions), self.normalizer)
