"""Every setting, documented and typed. What cannot work is refused when the object is made. The presets are in `lwd.presets`."""

from lwd.config.common import Floats, Words, require
from lwd.config.methods import (
    METHODS,
    Corrected,
    DiffusionConfig,
    DiffusionPolicyConfig,
    Improved,
    LatentConfig,
    LatentDPConfig,
    LWDConfig,
    MethodConfig,
    MLPConfig,
    RandomConfig,
    Sampler,
    Scaling,
    Size,
    check_sampler,
)
from lwd.config.read import from_dict, to_dict
from lwd.config.run import Config, EvalSettings, Source, parse_disturbance
from lwd.config.stages import ImprovementStage, Stage, WorldStage
