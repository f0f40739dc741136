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
    ) -> None:
        self.length, self.before = length, before
        with torch.no_grad():
            self.obs = normalizer.encode_obs(torch.from_numpy(episodes.obs).to(device)).contiguous()  # (N, F)
            self.action = normalizer.encode_action(torch.from_numpy(episodes.action).to(device)).contiguous()  # (N, Da)
        first, ends, lengths = (torch.from_numpy(x).to(device) for x in (episodes.starts, episodes.ends, episodes.lengths))  # (E,) each
        self.episode = torch.repeat_interleave(torch.arange(len(episodes), device=device), lengths)  # (N,)
        self.first, self.last = first[self.episode], ends[self.episode] - 1  # (N,) first and last row of the row's episode
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
        return Batch(self, self.starts[torch.randint(self.count, (size,), generator=generator, device=self.obs.device)])

    def at(self, start: Tensor) -> Batch:
        """The snippets with the given start rows."""
        return Batch(self, start)

    def past(self, rows: Tensor, steps: int) -> Tensor:
        """(...) rows -> (..., steps) rows up to and including each one, oldest first, clamped at the episode's first step."""
        return torch.maximum(rows[..., None] + torch.arange(1 - steps, 1, device=rows.device), self.first[rows][..., None])

    def history(self, start: Tensor, steps: int) -> Tensor:
        """(B,) start rows -> (B, steps, F) features up to and including each one, oldest first."""
        return self.obs[self.past(start, steps)]


class Batch:
    """B snippets; what is not asked for is not gathered."""

    def __init__(self, data: Snippets, start: Tensor) -> None:
        self.data, self.start = data, start

    @property
    def number(self) -> Tensor:
        """(B,) which of the start rows these are."""
        return self.data.number[self.start]

    @cached_property
    def rows(self) -> Tensor:
        """(B, T) rows of the data at the steps of each snippet; the first or last of an episode is repeated beyond its ends."""
        low, high = self.data.first[self.start][:, None], self.data.last[self.start][:, None]
        return torch.clamp(self.start[:, None] + self.data.offsets, low, high)

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
