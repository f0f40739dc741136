"""Random baseline (section 4.1.1): the floor that every comparison stands on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lwd.config import RandomConfig
from lwd.methods.base import ENDLESS, Generators, Method, Spec


class RandomController:
    """Uniform actions from the range of the demonstrations, drawn anew at every step."""

    horizon = ENDLESS

    def __init__(self, method: Random, rows: int, generator: Generators) -> None:
        self.method, self.rows, self.generator = method, rows, generator

    def act(self, obs: Tensor, t: int = 0) -> Tensor:
        """(B, Da) raw actions; `obs` is ignored."""
        actions = self.method.spec.action_dim
        if self.generator is None or isinstance(self.generator, torch.Generator):
            u = torch.rand((self.rows, actions), generator=self.generator)
        else:
            u = torch.stack([torch.rand(actions, generator=g) for g in self.generator])
        return self.method.normalizer.decode_action(2 * u.to(self.method.device) - 1)


class Random(Method):
    """Nothing is trained: only the range of the actions is taken from the data.

    Args:
        config: settings.
        spec: dimensions and declarations of the data.
    """

    def __init__(self, config: RandomConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config = config

    def plan(
        self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None, previous: Tensor | None = None
    ) -> RandomController:
        """Controllers that draw from the given generators, whatever the task (its name is checked as by the other methods)."""
        self.task_index(task, len(history))
        return RandomController(self, len(self.features(history)), generator)


METHOD = Random
