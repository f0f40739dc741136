"""The two protocols that everything hangs on: a method is asked for a controller, the controller for actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

ENDLESS = 1 << 31  # horizon of a controller that reacts to what it sees, and so can act for any number of steps
Generators = torch.Generator | Sequence[torch.Generator] | None


class Controller(Protocol):
    """What `plan` returns: B controllers that act in lockstep, in the environment's own units."""

    horizon: int  # steps that it can act for; a closed loop has no end (ENDLESS)

    def act(self, obs: Tensor, t: int) -> Tensor:
        """One action per controller.

        Args:
            obs: (B, Do) raw observation.
            t: steps since the plan, 0 <= t < horizon (a closed-loop controller may ignore it).

        Returns:
            (B, Da) raw actions, float32, same device as the controller.
        """
        ...


class Planner(Protocol):
    """What a rollout needs of a method."""

    history: int  # K, past observations that a plan sees (1 = the current one only)
    horizon: int  # default steps between plans

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> Controller:
        """One controller per row.

        Args:
            history: (B, K, Do) raw observations, oldest first.
            task: B task names, for task-conditioned methods.
            generator: one generator for the batch, or one per row (then a row's result does not depend on the others).

        Returns:
            A controller for B environments.
        """
        ...
