"""The scripted experts that the metaworld package ships, one per task."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
NAME = "scripted expert of Metaworld 3.1.1"


def expert(task: str) -> Callable[[Array], NDArray[np.float32]]:
    """The expert of a task: from an observation "state" (39,), which stays as it is, to an action (4,) in [-1, 1].

    Raises:
        ImportError: metaworld is not installed.
    """
    from metaworld.policies import ENV_POLICY_MAP

    kinds: dict[str, Any] = ENV_POLICY_MAP
    policy = kinds[f"{task}-v3"]()
    sys.modules[type(policy).__module__].move = _move  # type: ignore[attr-defined]

    def act(obs: Array) -> NDArray[np.float32]:
        action: NDArray[np.float32] = policy.get_action(obs.copy())  # some experts change what they are shown
        return action.clip(-1.0, 1.0)

    return act


def _move(from_xyz: Array, to_xyz: Array, p: float) -> Array:
    """As `metaworld.policies.policy.move`, without its warning at almost every step that actions will be clipped: that is intended."""
    return p * (to_xyz - from_xyz)
