"""Steering: latents of a wanted kind instead of any that the model would sample (paper, sections 4.2 and G.1).

By tag, some latents are sampled, and the one is kept that lies nearest to those of demonstrations with the tag, and far from the others.
Near a demonstration, between two, and of any one of the task (`latent=encoded`), latents come from the encoder: of the demonstration's
snippet that begins in the state most like the present one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lwd.config import EvalSettings, require
from lwd.data.snippets import Batch
from lwd.episodes import Episodes
from lwd.methods.base import Method
from lwd.methods.diffusion import Generators, draw

CANDIDATES = 16  # latents that are sampled for one of a tag
KNOWN = 4096  # demonstrated latents that they are compared with, at most


class Steering:
    """What a method with latents samples instead, once its `steering` is this. `episodes` are what the model was trained on; their
    numbers and tags are what the settings `tag`, `near` and `blend` speak of."""

    def __init__(self, method: Method, episodes: Episodes, settings: EvalSettings) -> None:
        require(method.has_latent, "this method has no latent that could be steered: leave out tag, near and blend")
        self.method: Any = method
        self.data = method.snippets(episodes, method.device)
        self.wanted: Tensor | None = None  # (E,) bool: episodes with the tag
        if settings.tag:
            self.wanted = torch.from_numpy(episodes.tagged(settings.tag)).to(method.device)
        ends = [int(number) for number in (settings.blend[:2] or (settings.near,)) if number >= 0]
        for number in ends:
            require(number < len(episodes), f"there is no episode {number}: the data has {len(episodes)}, numbered from 0")
        self.ends, self.weight = ends, settings.blend[2] if settings.blend else 0.0  # episodes, and what the second one counts
        self._known: tuple[float, Tensor] | None = None  # a horizon, and standardised latents (M, Z) of that horizon
        starts = self.data.starts[torch.randperm(self.data.count, generator=torch.Generator().manual_seed(0)).to(method.device)]
        own = torch.zeros_like(starts, dtype=torch.bool) if self.wanted is None else self.wanted[self.data.episode[starts]]
        self.rows = torch.cat([starts[own][: KNOWN // 2], starts[~own][: KNOWN // 2]])  # (M,): a rare tag has its share

    def sample(self, cond: Tensor, generator: Generators) -> Tensor:
        """(B, C) conditions -> (B, Z) latents in the encoder's units."""
        method = self.method
        if self.wanted is None:
            width, past = method.normalizer.feature_dim, method.history - 1
            obs, task = cond[:, past * width : (past + 1) * width], cond[:, (past + 1) * width :][:, : method.task_dim]
            if not self.ends:
                return self._posterior(self._nearest(obs, self._any(task, generator)))[0]
            (mean, logvar), *other = (self._posterior(self._nearest(obs, torch.full_like(obs[:, 0], own))) for own in self.ends)
            if other:
                return torch.lerp(mean, other[0][0], self.weight)
            return mean + (0.5 * logvar).exp() * draw(mean.shape, generator, mean.device)
        many: Generators = generator
        if generator is not None and not isinstance(generator, torch.Generator):
            many = [own for own in generator for _ in range(CANDIDATES)]
        z = method.sample_model(cond.repeat_interleave(CANDIDATES, 0), many)
        distance = torch.cdist((z - method.latent_mean) / method.latent_std, self._codes())  # (B · candidates, M)
        own = self.wanted[self.data.episode[self.rows]]
        inside = distance.masked_fill(~own, torch.inf).amin(1) - distance.masked_fill(own, torch.inf).amin(1).nan_to_num(posinf=0.0)
        best = inside.view(-1, CANDIDATES).argmin(1)
        return z.view(-1, CANDIDATES, z.shape[-1])[torch.arange(len(best), device=z.device), best]

    def _any(self, task: Tensor, generator: Generators) -> Tensor:
        """(B, tasks) one-hot codes -> (B,) random episodes of these tasks, any episodes where there is one task."""
        starts, share = self.data.first.unique(), torch.special.ndtr(draw((len(task),), generator, task.device))  # uniform in (0, 1)
        own = torch.ones(len(task), len(starts), dtype=torch.bool, device=task.device)
        if task.shape[1] and self.data.task is not None:
            own = task.argmax(1)[:, None] == self.data.task[starts]
        which = own.cumsum(1)
        number = (share * which[:, -1]).long().clamp_max(which[:, -1] - 1) + 1
        return ((which == number[:, None]) & own).long().argmax(1)

    def _nearest(self, obs: Tensor, episodes: Tensor) -> Tensor:
        """(B, F) features -> (B,) start rows of episodes (B,) whose states are most like them."""
        starts = self.data.starts
        others = self.data.episode[starts] != episodes[:, None]
        return starts[torch.cdist(obs, self.data.obs[starts]).masked_fill(others, torch.inf).argmin(1)]

    def _posterior(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) start rows -> mean and log-variance (n, Z) of their snippets, with the horizon that is asked for."""
        horizon = torch.full((len(rows),), self.method.asked, device=rows.device)
        return self.method.posterior(Batch(self.data, rows, horizon))

    def _codes(self) -> Tensor:
        """Standardised latents (M, Z) of demonstrated snippets."""
        method = self.method
        if self._known is None or self._known[0] != method.asked:
            mean = torch.cat([self._posterior(part)[0] for part in self.rows.split(512)])
            self._known = method.asked, (mean - method.latent_mean) / method.latent_std
        return self._known[1]
