"""Snippets of fixed length, sampled uniformly over start steps (or over episodes) from tensors that already lie on the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from lwd.data.normalizer import Normalizer
from lwd.episodes import Episodes
from lwd.errors import LWDError


class Snippets:
    """All snippets of a data set, as features on one device.

    With a `span` above 1, snippets have horizons H of their own between horizon / span and horizon * span; a snippet of any of them is seen
    at `length` steps, spread evenly over it.

    A snippet with start row s covers rows s - before ... s - before + length - 1, clamped to its episode: at the ends the first and the
    last step are repeated, so that every step of an episode is a start. What is a loss of actions (L_BC, denoising of chunks) counts the
    repeated steps: at the end of a demonstration the policy is to hold the last action. What is a loss of transitions (L_TF, L_RO) leaves
    out every step without a recorded successor (`Batch.real`).

    Args:
        episodes: demonstrations, raw units.
        normalizer: fitted; defines the features.
        length: T, steps of a snippet.
        before: steps that a snippet reaches back before its start (the query).
        device: where the tensors live.
        starts: "every" step of an episode is a start, or only its "first" one: then a snippet is a whole episode, cut or filled to T.
        tasks: names in the order of the indices; the data's own, sorted, by default. Another one in the data is refused.
        horizon: steps that a controller acts for, the end of a phase; `length` by default.
        span: factor between the horizon and the shortest and longest that are drawn.
    """

    def __init__(
        self,
        episodes: Episodes,
        normalizer: Normalizer,
        length: int,
        before: int = 0,
        device: torch.device | str = "cpu",
        starts: Literal["every", "first"] = "every",
        tasks: Sequence[str] = (),
        horizon: int = 0,
        span: int = 1,
    ) -> None:
        self.length, self.before, self.horizon, self.span = length, before, horizon or length, span
        with torch.no_grad():
            self.obs = normalizer.encode_obs(torch.from_numpy(episodes.obs).to(device)).contiguous()  # (N, F)
            self.action = normalizer.encode_action(torch.from_numpy(episodes.action).to(device)).contiguous()  # (N, Da)
        first, ends, lengths = (torch.from_numpy(x).to(device) for x in (episodes.starts, episodes.ends, episodes.lengths))  # (E,) each
        self.episode = torch.repeat_interleave(torch.arange(len(episodes), device=device), lengths)  # (N,)
        self.first, self.last = first[self.episode], ends[self.episode] - 1  # (N,) first and last row of the row's episode
        self.left = torch.from_numpy(episodes.left).to(device).float()  # (N,) steps that remain
        self.offsets = torch.arange(length, device=device) - before
        rows = torch.arange(len(self.obs), device=device)
        self.starts = rows if starts == "every" else first  # (S,) start rows
        self.number = rows if starts == "every" else self.episode  # (N,) position of a start row among `starts`
        self.task = None
        if episodes.task is not None:
            names = list(tasks or episodes.tasks)
            if unknown := sorted(set(episodes.tasks) - set(names)):
                raise LWDError(
                    f"the data has episodes of {unknown[0]!r}, which is none of the tasks {', '.join(names)}: "
                    "leave them out, or train on some of that task too (a larger data set, a smaller holdout)"
                )
            index = torch.tensor([names.index(name) for name in episodes.task], device=device)
            self.task = index[self.episode]  # (N,) index into the task names

    @property
    def count(self) -> int:
        """Number of start rows, S."""
        return len(self.starts)

    def sample(self, size: int, generator: torch.Generator) -> Batch:
        """`size` snippets, uniform over start rows."""
        return self.at(self.starts[torch.randint(self.count, (size,), generator=generator, device=self.obs.device)], generator)

    def at(self, start: Tensor, generator: torch.Generator | None = None) -> Batch:
        """The snippets with the given start rows; the generator draws their horizons, log-uniform, where there is a span."""
        horizon = torch.full((len(start),), float(self.horizon), device=start.device)
        if generator is not None and self.span > 1:
            power = 2 * torch.rand(len(start), generator=generator, device=start.device) - 1
            horizon = (horizon * self.span**power).round().clamp_min(1)
        return Batch(self, start, horizon)

    def siblings(self, start: Tensor, generator: torch.Generator) -> Tensor:
        """(B,) start rows -> (B,) random start rows of the same tasks (of all the data, where it names no tasks)."""
        order, counts = self._by_task
        own = torch.zeros_like(start) if self.task is None else self.task[start]
        draw = torch.rand(len(start), generator=generator, device=start.device)
        return order[(counts.cumsum(0) - counts)[own] + (draw * counts[own]).long()]

    @cached_property
    def _by_task(self) -> tuple[Tensor, Tensor]:
        """Start rows (S,), ordered by task, and how many each task has."""
        task = torch.zeros_like(self.starts) if self.task is None else self.task[self.starts]
        return self.starts[task.argsort(stable=True)], torch.bincount(task)

    def past(self, rows: Tensor, steps: int) -> Tensor:
        """(...) rows -> (..., steps) rows up to and including each one, oldest first, clamped at the episode's first step."""
        return torch.maximum(rows[..., None] + torch.arange(1 - steps, 1, device=rows.device), self.first[rows][..., None])

    def history(self, start: Tensor, steps: int) -> Tensor:
        """(B,) start rows -> (B, steps, F) features up to and including each one, oldest first."""
        return self.obs[self.past(start, steps)]


class Batch:
    """B snippets with start rows (B,) and horizons (B,); what is not asked for is not gathered. `shift` (B, T) in [0, 1) moves the steps at
    which a snippet is seen, as a fraction of the distance between them."""

    def __init__(self, data: Snippets, start: Tensor, horizon: Tensor, shift: Tensor | float = 0.0) -> None:
        self.data, self.start, self.horizon, self.shift = data, start, horizon, shift

    def jittered(self, generator: torch.Generator) -> Batch:
        """The same snippets, seen at a random step of each of T equal parts: over many draws at every step."""
        if self.data.span == 1:
            return self
        shape, device = (len(self.start), self.data.length), self.start.device
        return Batch(self.data, self.start, self.horizon, torch.rand(shape, generator=generator, device=device))

    @property
    def number(self) -> Tensor:
        """(B,) which of the start rows these are."""
        return self.data.number[self.start]

    @property
    def age(self) -> Tensor:
        """(B,) steps from the beginning of the episode to the query."""
        return self.start - self.data.first[self.start]

    @cached_property
    def times(self) -> Tensor:
        """(B, T) int64 steps since the query, negative before it."""
        if self.data.span == 1:
            return self.data.offsets.expand(len(self.start), -1)
        scale = (self.horizon / self.data.horizon)[:, None]
        times = ((self.data.offsets + self.shift) * scale + 1e-4).floor()
        return torch.minimum(times, self.horizon[:, None] - 1).long()

    @property
    def phase(self) -> Tensor:
        """(B, T) steps since the query, over the horizon."""
        return self.times / self.horizon[:, None]

    @cached_property
    def rows(self) -> Tensor:
        """(B, T) rows of the data at the steps of each snippet; the first or last of an episode is repeated beyond its ends."""
        low, high = self.data.first[self.start][:, None], self.data.last[self.start][:, None]
        return torch.clamp(self.start[:, None] + self.times, low, high)

    @cached_property
    def obs(self) -> Tensor:
        """(B, T, F) features."""
        return self.data.obs[self.rows]

    @cached_property
    def action(self) -> Tensor:
        """(B, T, Da) features."""
        return self.data.action[self.rows]

    @cached_property
    def following(self) -> Tensor:
        """(B, T, F) features one step later (meaningful where `real`)."""
        return self.data.obs[torch.minimum(self.rows + 1, self.data.last[self.start][:, None])]

    @cached_property
    def real(self) -> Tensor:
        """(B, T) bool: the step has a recorded successor."""
        return self.rows < self.data.last[self.start][:, None]
