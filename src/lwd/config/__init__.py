"""Every setting, documented and typed. What cannot work is refused when the object is made. The presets are in `lwd.presets`."""

from __future__ import annotations

from lwd.config.common import Floats, Ints, Words, require
from lwd.config.methods import (
    METHODS,
    DiffusionConfig,
    DiffusionPolicyConfig,
    LatentConfig,
    LatentDPConfig,
    LWDConfig,
    MethodConfig,
    MLPConfig,
    RandomConfig,
    Sampler,
    Size,
    Stage,
    check_sampler,
)
from lwd.config.read import from_dict, to_dict
from lwd.config.run import Config, EvalSettings, Source

__all__ = [
    "METHODS",
    "Config",
    "DiffusionConfig",
    "DiffusionPolicyConfig",
    "EvalSettings",
    "Floats",
    "Ints",
    "LWDConfig",
    "LatentConfig",
    "LatentDPConfig",
    "MLPConfig",
    "MethodConfig",
    "RandomConfig",
    "Sampler",
    "Size",
    "Source",
    "Stage",
    "Words",
    "check_sampler",
    "from_dict",
    "require",
    "to_dict",
]
