"""Latent Weight Diffusion: generate small closed-loop policies instead of trajectories.

The public face is small and loads what it needs when it is used:

    import lwd
    run = lwd.load("runs/demo")
    controller = run.plan(obs)             # one generated policy (or a batch), raw units, numpy or torch
    action = controller.act(obs, t=0)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lwd.api import Generator, load
    from lwd.config import PRESETS, Config, LWDConfig
    from lwd.data.episodes import Episodes
    from lwd.data.readers import read
    from lwd.errors import LWDError
    from lwd.evaluate import evaluate
    from lwd.rollout import rollout
    from lwd.train import train

_HOMES = {
    "PRESETS": "config",
    "Config": "config",
    "Episodes": "data.episodes",
    "Generator": "api",
    "LWDConfig": "config",
    "LWDError": "errors",
    "evaluate": "evaluate",
    "load": "api",
    "read": "data.readers",
    "rollout": "rollout",
    "train": "train",
}
__all__ = ["PRESETS", "Config", "Episodes", "Generator", "LWDConfig", "LWDError", "evaluate", "load", "read", "rollout", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        # the modules `train`, `evaluate` and `rollout` have the name of their main function: the function is what users mean
        value = getattr(importlib.import_module(f"lwd.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'lwd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
