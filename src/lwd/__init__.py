"""Latent Weight Diffusion: generate small closed-loop policies instead of trajectories.

The public face is small and loads what it needs when it is used:

    import lwd
    run = lwd.load("runs/demo")
    controller = run.plan(obs)             # one generated policy (or a batch), raw units, numpy or torch
    action = controller.act(obs, t=0)
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lwd.api import Generator, load
    from lwd.config import Config, LWDConfig
    from lwd.data.episodes import Episodes
    from lwd.data.readers import read
    from lwd.errors import LWDError
    from lwd.evaluate import evaluate
    from lwd.presets import PRESETS
    from lwd.rollout import rollout
    from lwd.train import train

_HOMES = {
    "PRESETS": "presets",
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


class _Face(ModuleType):
    """The package. Some modules have the name of their main function (`lwd.train`, `lwd.evaluate`, `lwd.rollout`): importing such a
    module must not put it in the place of the function, which is what users mean."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'lwd' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"lwd.{_HOMES[name]}"), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted(__all__)


sys.modules[__name__].__class__ = _Face
