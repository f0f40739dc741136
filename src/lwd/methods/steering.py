"""Steering: latents of a wanted kind instead of any that the model would sample (paper, sections 4.2 and G.1).

By tag, some latents are sampled, and the one is kept that lies nearest to those of demonstrations with the tag, and far from the others.
Near a demonstration, and between two, latents come from the encoder: of the demonstration's snippet that begins in the state most like the
present one."""

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
        first, *rest = settings.blend or (settings.near,)
        self.ends = (int(first), int(rest[0] if rest else first))  # episodes; the same twice for `near`
        self.weight = rest[1] if rest else 0.0  # of the second one
        for number in set(self.ends) if not settings.tag else ():
            require(number < len(episodes), f"there is no episode {number}: the data has {len(episodes)}, numbered from 0")
        self._known: tuple[float, Tensor] | None = None  # a horizon, and standardised latents (M, Z) of that horizon
        generator = torch.Generator().manual_seed(0)
        self.rows = self.data.starts[torch.randperm(self.data.count, generator=generator)[:KNOWN].to(method.device)]  # (M,)

    def sample(self, cond: Tensor, generator: Generators) -> Tensor:
        """(B, C) conditions -> (B, Z) latents in the encoder's units."""
        method = self.method
        if self.wanted is None:
            width, past = method.normalizer.feature_dim, method.history - 1
            obs = cond[:, past * width : (past + 1) * width]
            (mean, logvar), (other, _) = (self._posterior(self._nearest(obs, number)) for number in self.ends)
            if self.ends[0] == self.ends[1]:
                return mean + (0.5 * logvar).exp() * draw(mean.shape, generator, mean.device)
            return torch.lerp(mean, other, self.weight)
        many: Generators = generator
        if generator is not None and not isinstance(generator, torch.Generator):
            many = [own for own in generator for _ in range(CANDIDATES)]
        z = method.sample_model(cond.repeat_interleave(CANDIDATES, 0), many)
        distance = torch.cdist((z - method.latent_mean) / method.latent_std, self._codes())  # (B · candidates, M)
        own = self.wanted[self.data.episode[self.rows]]
        inside = distance.masked_fill(~own, torch.inf).amin(1) - distance.masked_fill(own, torch.inf).amin(1).nan_to_num(posinf=0.0)
        best = inside.view(-1, CANDIDATES).argmin(1)
        return z.view(-1, CANDIDATES, z.shape[-1])[torch.arange(len(best), device=z.device), best]

    def _nearest(self, obs: Tensor, episode: int) -> Tensor:
        """(B, F) features -> (B,) start rows of an episode whose states are most like them."""
        rows = self.data.starts[self.data.episode[self.data.starts] == episode]
        return rows[torch.cdist(obs, self.data.obs[rows]).argmin(1)]

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
