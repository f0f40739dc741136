"""Latent Weight Diffusion: generate small closed-loop policies instead of trajectories.

import lwd  # loads what it needs when it is used
agent = lwd.load("runs/demo").agent(replan_every=16)
action = agent.act(obs)  # one robot or a batch, raw units, numpy or torch; asks for new policies by itself
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lwd.config import Config, LWDConfig
    from lwd.data.read import read
    from lwd.episodes import Episodes
    from lwd.errors import LWDError
    from lwd.evaluate import evaluate
    from lwd.policy import Generator, load
    from lwd.presets import PRESETS
    from lwd.rollout import Scenario, rollout
    from lwd.training.train import train

__all__ = ["PRESETS", "Config", "Episodes", "Generator", "LWDConfig", "LWDError", "Scenario"]
__all__ += ["evaluate", "load", "read", "rollout", "train"]
_HOMES = {"Config": "config", "LWDConfig": "config", "Generator": "policy", "load": "policy", "Scenario": "rollout", "rollout": "rollout"}
_HOMES |= {"PRESETS": "presets", "Episodes": "episodes", "LWDError": "errors"}
_HOMES |= {"evaluate": "evaluate", "read": "data.read", "train": "training.train"}


class _Face(ModuleType):
    """The package. `lwd.evaluate` and `lwd.rollout` are modules with the name of their main function: importing such a module must not
    put it in the place of the function, which is what users mean."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'lwd' has no attribute {name!r}")
        return getattr(importlib.import_module(f"lwd.{_HOMES[name]}"), name)

    def __dir__(self) -> list[str]:
        return __all__


sys.modules[__name__].__class__ = _Face
