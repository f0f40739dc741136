"""The recipes, by name: `lwd train NAME`. The first one, `lwd`, fits itself to the data and is what `lwd train --data ...` uses."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from lwd.config import (
    Config,
    DiffusionPolicyConfig,
    EvalSettings,
    ImprovementStage,
    LatentDPConfig,
    LWDConfig,
    MLPConfig,
    RandomConfig,
    Stage,
    WorldStage,
)

AUTOENCODER = Stage(steps=15_000, batch=64, lr=1e-3)
DIFFUSION = Stage(steps=12_000, batch=256, lr=1e-3)
CLONING = LWDConfig(autoencoder=AUTOENCODER, diffusion=DIFFUSION, beta=1e-6, world_model=False, phase=True, span=4)
WORLD, IMPROVEMENT = WorldStage(steps=6_000, batch=256), ImprovementStage(steps=2_000, batch=64)
LWD = replace(CLONING, imagine=True, improve=True, world=WORLD, improvement=IMPROVEMENT)

PAPER = LWDConfig(
    autoencoder=Stage(steps=801_000, batch=32, lr=3e-4, weight_decay=0.0, warmup=1),  # Tables 6, 8: 1000 epochs of 206 demonstrations
    diffusion=Stage(steps=801_000, batch=32, lr=1e-4, warmup=500),  # section 4 and Table 8
    latent=256,
    decoder="l",
    policy=(256, 256),
    beta=1e-10,
    reduction="sum",
    policy_noise=0.0,
    world_model_hidden=(1024, 1024),
    world_model_history=2,  # section 4 says "the history of observations and actions", not how long; Diffusion Policy's is 2
    world_model_steps=0,
    world_model_lr=3e-4,
    rollout_weight=1.0,
    rollout_warmup=8_010,  # 10 epochs
    denoiser="unet",
    unet_size="l",
    unet_fold=16,
    prediction="epsilon",
    sampler="ddpm",
    sampler_steps=100,
)
_SHARED = ("denoiser", "unet_size", "prediction", "sampler", "sampler_steps")
_PAPER_DIFFUSION: dict[str, Any] = {name: getattr(PAPER, name) for name in _SHARED}
# appendix J.1, with the batch and the number of steps of Table 8 for all methods
_PAPER_DP = DiffusionPolicyConfig(diffusion=PAPER.diffusion, history=2, **_PAPER_DIFFUSION)
_PAPER_LDP = LatentDPConfig(
    autoencoder=PAPER.autoencoder,
    diffusion=PAPER.diffusion,
    latent=PAPER.latent,
    beta=PAPER.beta,
    reduction="sum",
    unet_fold=PAPER.unet_fold,
    **_PAPER_DIFFUSION,
)
_PAPER_MLP = MLPConfig(cloning=Stage(steps=801_000, batch=32, lr=1e-4, warmup=500), policy=(256, 256), policy_noise=0.0)

_MT = LWDConfig(
    autoencoder=Stage(steps=8_000, batch=32, lr=1e-3),
    diffusion=Stage(steps=3_000, batch=128, lr=1e-3),
    beta=1e-5,
    shared=0.5,
    decoder="xs",
    policy=(256, 256),
    stride=5,
    bc_steps=64,
    policy_noise=0.003,
    phase=True,
    world_model=False,
    prediction="sample",
)
_MT50 = replace(
    _MT,
    autoencoder=Stage(steps=15_000, batch=64, lr=1e-3),  # many tasks want many episodes in a step, and fewer steps of each
    diffusion=Stage(steps=6_000, batch=128, lr=1e-3),
    decoder="s",
    bc_steps=32,
)
_CLONING = Stage(steps=20_000, batch=1024, lr=1e-3)
_PUSHT = Config(obs_kind="keypoints", mirror=True, horizon=32)
_MT_MLP = MLPConfig(cloning=_CLONING, policy=(256, 256), policy_noise=0.003, phase=True)
_METAWORLD = Config(data="data/metaworld-ten", horizon=500, starts="first")
# no phase, one horizon: in so few steps many horizons are not learned
_DEMO = LWDConfig(autoencoder=replace(AUTOENCODER, steps=5_000), diffusion=replace(DIFFUSION, steps=4_000), world_model=False)
# whole demonstrations of a few behaviours (appendix J.5); all that differs between episodes of one is chance
_LOCOMOTION = LWDConfig(
    autoencoder=Stage(batch=12, lr=1e-3),
    diffusion=Stage(steps=2_000, batch=96, lr=1e-3),
    beta=1e-5,
    shared=0.5,
    policy=(256, 256),
    stride=10,
    bc_steps=128,
    policy_noise=0.003,
    world_model=False,
    prediction="sample",
    scaling="deviation",
)
_PAPER_LOCOMOTION = replace(  # Table 6; epochs of the 3,000 whole episodes that D4RL has of three behaviours
    PAPER,
    autoencoder=replace(PAPER.autoencoder, steps=14_100),
    diffusion=replace(PAPER.diffusion, steps=18_800),
    decoder="s",
    beta=1e-6,
    unet_size="m",
)
_PAPER_HAMMER = replace(  # Table 7, of 10,000 episodes
    _PAPER_LOCOMOTION, autoencoder=replace(PAPER.autoencoder, steps=6_260), diffusion=replace(PAPER.diffusion, steps=3_130)
)
_LOCOMOTION_MLP = MLPConfig(
    cloning=replace(_CLONING, steps=8_000, batch=256), policy=(512,) * 5, policy_noise=0.0, scaling="deviation"
)  # appendix H: five layers of 512
# two denoising steps: latents scatter less with few, and Can's grasp must be precise (0.95 instead of 0.81); on Lift it is level
_ROBOSUITE = replace(CLONING, denoiser_width=256, sampler_steps=2, policy_noise=0.01)
_EVERY = replace(_METAWORLD, starts="every", method=MLPConfig())

_RECIPES: dict[str, tuple[str, Config]] = {
    "lwd": ("for any demonstrations: what fits is chosen from the data", Config(method=LWDConfig(world_model=False))),
    "dp": ("Diffusion Policy for any demonstrations", Config(method=DiffusionPolicyConfig())),
    "ldp": ("latent diffusion policy for any demonstrations", Config(method=LatentDPConfig())),
    "mlp": ("one MLP policy for any demonstrations", Config(method=MLPConfig())),
    "random": ("random actions from the range of any demonstrations", Config(method=RandomConfig())),
    "pusht": ("the best recipe measured for PushT: with improvement in imagination", replace(_PUSHT, method=LWD)),
    "pusht-cloning": ("as `pusht`, but from the demonstrations alone, without imagination", replace(_PUSHT, method=CLONING)),
    "pusht-fast": (
        "as `pusht`, but a query costs 27 times fewer FLOPs: a narrow denoiser, two denoising steps",
        replace(_PUSHT, method=replace(LWD, denoiser_width=128, sampler_steps=2)),
    ),
    "pusht-dp": (
        "Diffusion Policy on PushT, the strongest recipe that we found for a CPU; more steps did not help",
        replace(_PUSHT, horizon=16, method=DiffusionPolicyConfig(diffusion=replace(DIFFUSION, steps=18_000))),
    ),
    "pusht-ldp": (
        "latent diffusion policy on PushT: as `pusht`, but chunks of actions",
        replace(_PUSHT, horizon=16, method=LatentDPConfig(autoencoder=AUTOENCODER, diffusion=DIFFUSION)),
    ),
    "pusht-mlp": ("one MLP policy for PushT", replace(_PUSHT, method=MLPConfig(cloning=_CLONING))),
    "pusht-random": ("random actions on PushT", replace(_PUSHT, mirror=False, method=RandomConfig())),
    "metaworld": ("one generator for many tasks: a policy for a whole episode of Metaworld", replace(_METAWORLD, method=_MT)),
    "metaworld-mt50": ("one for fifty tasks: longer, larger", replace(_METAWORLD, data="data/metaworld-mt50", method=_MT50)),
    "metaworld-dp": (
        "Diffusion Policy on Metaworld, task in the state; half of each chunk is executed",
        replace(_EVERY, horizon=32, method=DiffusionPolicyConfig(diffusion=replace(DIFFUSION, steps=8_000))),
    ),
    "metaworld-mlp": ("one MLP policy for Metaworld", replace(_EVERY, method=_MT_MLP)),
    "demo": ("a shorter version of `pusht`, for `make demo`", replace(_PUSHT, method=_DEMO)),
    "paper/pusht": ("the paper's recipe to the letter (sections 4, J; Tables 6, 8): days on two cores", Config(horizon=32, method=PAPER)),
    "paper/pusht-dp": ("Diffusion Policy as in the paper (J.1), whole chunks: days on a CPU", Config(horizon=16, method=_PAPER_DP)),
    "paper/pusht-ldp": ("latent diffusion policy as in the paper (4.1.1): days on a CPU", Config(horizon=16, method=_PAPER_LDP)),
    "paper/pusht-mlp": ("the paper's MLP policy (section 4.1.1)", Config(horizon=32, method=_PAPER_MLP)),
}
# steps of an episode, and of stage 1: longer ones learn the first steps by heart, and more policies fall over beside them
_behaviours: dict[str, tuple[int, int, dict[str, Any]]] = {
    "halfcheetah": (1000, 3_000, {"policy": (256, 256, 256)}),
    "ant": (1000, 8_000, {}),
    "walker2d": (1000, 3_000, {"policy": (256, 256, 256), "policy_noise": 0.0}),
    "hammer": (200, 8_000, {}),
}
for _robot, (_length, _steps, _changes) in _behaviours.items():
    _own = replace(_LOCOMOTION, autoencoder=replace(_LOCOMOTION.autoencoder, steps=_steps), **_changes)
    _config = Config(data=f"data/{_robot}", horizon=_length, starts="first", method=_own)
    _RECIPES[_robot] = (f"one generator for several behaviours: a policy for a whole episode of {_robot}", _config)
    _exact: dict[str, Any] = (
        {"horizon": 128, "starts": "every", "method": _PAPER_HAMMER} if _robot == "hammer" else {"method": _PAPER_LOCOMOTION}
    )
    _RECIPES[f"paper/{_robot}"] = (f"the paper's recipe for {_robot} (Tables 6, 7), for a GPU", replace(_config, **_exact))
    _RECIPES[f"{_robot}-mlp"] = (
        f"one large MLP for {_robot}, told the behaviour",
        replace(_config, starts="every", method=_LOCOMOTION_MLP),
    )
for _task, _steps in {"lift": 6_000, "can": 15_000}.items():
    _own = replace(
        _ROBOSUITE, autoencoder=replace(AUTOENCODER, steps=_steps), diffusion=replace(DIFFUSION, steps=min(_steps, DIFFUSION.steps))
    )
    _config = Config(data=f"data/{_task}", horizon=32, method=_own)
    _chunks = DiffusionPolicyConfig(diffusion=_own.diffusion, denoiser_width=256, sampler_steps=2)
    _latent = LatentDPConfig(autoencoder=_own.autoencoder, diffusion=_own.diffusion, denoiser_width=256, sampler_steps=2)
    _RECIPES[f"paper/{_task}"] = (f"the paper's recipe for {_task}, that of PushT (Table 8), for a GPU", replace(_config, method=PAPER))
    _RECIPES[_task] = (f"robosuite {_task}, operators of mixed proficiency", _config)
    _RECIPES[f"{_task}-dp"] = (f"Diffusion Policy for {_task}", replace(_config, horizon=16, method=_chunks))
    _RECIPES[f"{_task}-ldp"] = (f"latent diffusion policy for {_task}", replace(_config, horizon=16, method=_latent))
    _RECIPES[f"{_task}-mlp"] = (f"one MLP policy for {_task}", replace(_config, method=MLPConfig(cloning=_CLONING, policy_noise=0.01)))
PRESETS: dict[str, tuple[str, Config]] = {name: (text, replace(config, preset=name)) for name, (text, config) in _RECIPES.items()}

# What `shrink` caps numbers at, and what it replaces; a training then takes seconds.
_CAPS = {"latent": 16, "denoiser_width": 32, "denoiser_depth": 1, "sampler_steps": 4, "bc_steps": 16, "rollout_warmup": 5}
_SMALL = {"encoder": (32,), "policy": (16, 16), "world_model_hidden": (32, 32), "unet_size": "xs", "transformer_size": "xs", "unet_fold": 4}


def shrink(config: Config) -> Config:
    """Any config, made so small that it trains in seconds (`--debug`): to see that things run. What it learns is worthless."""
    own = {f.name: getattr(config.method, f.name) for f in fields(config.method)}
    changes: dict[str, Any] = {name: min(value, own[name]) for name, value in _CAPS.items() if name in own}
    changes |= {name: value for name, value in _SMALL.items() if name in own}
    for name, stage in config.method.stages.items():
        changes[name] = replace(stage, steps=min(stage.steps or 20, 20), batch=min(stage.batch or 32, 32), warmup=5)
    if "decoder" in own:
        changes["decoder"] = (32,) if isinstance(own["decoder"], tuple) else "xs"
    if "stride" in own and config.horizon > 50:
        changes["stride"] = max(own["stride"], config.length // 25)
    return replace(config, method=replace(config.method, **changes), log_every=10, validate_every=20, checkpoint_every=20)


def shrink_evaluation(settings: EvalSettings) -> EvalSettings:
    """An evaluation of two short episodes, for `--debug`."""
    steps = min(settings.sampler_steps, 4)
    return replace(settings, episodes=min(settings.episodes or 2, 2), max_steps=min(settings.max_steps or 40, 40), sampler_steps=steps)
