"""Random baseline (section 4.1.1): the floor that every comparison stands on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lwd.methods.base import ENDLESS, Method
from lwd.methods.diffusion import Generators, draw


class RandomController:
    """Uniform actions from the range of the demonstrations, drawn anew at every step."""

    horizon = ENDLESS

    def __init__(self, method: Random, rows: int, generator: Generators) -> None:
        self.method, self.rows, self.generator = method, rows, generator

    def update(self, rows: Tensor, new: Any) -> None:
        """Nothing to do: the rows go on drawing."""

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        """(B, Da) raw actions; `obs` and `t` are ignored."""
        normal = draw((self.rows, self.method.spec.action_dim), self.generator, self.method.device)
        return self.method.normalizer.decode_action(torch.erf(normal * 0.5**0.5))  # the distribution function makes them uniform


class Random(Method):
    """Nothing is trained: only the range of the actions is taken from the data."""

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> RandomController:
        """Controllers that draw from the given generators, whatever the task (its name is checked as by the other methods)."""
        return RandomController(self, len(self.condition_for(history, task)), generator)


METHOD = Random
