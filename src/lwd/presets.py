"""The recipes, by name: `lwd train NAME`."""

from __future__ import annotations

from dataclasses import replace

from lwd.config import Config, DiffusionPolicyConfig, LatentDPConfig, LWDConfig, MLPConfig, RandomConfig, Stage

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

_PAPER_DP = DiffusionPolicyConfig(  # appendix J.1, with the batch and the number of steps of Table 8 for all methods
    diffusion=PAPER.diffusion,
    history=2,
    denoiser="unet",
    unet_size="l",
    prediction="epsilon",
    sampler="ddpm",
    sampler_steps=100,
)
_PAPER_LDP = LatentDPConfig(
    autoencoder=PAPER.autoencoder,
    diffusion=PAPER.diffusion,
    latent=PAPER.latent,
    beta=PAPER.beta,
    reduction="sum",
    denoiser="unet",
    unet_size="l",
    unet_fold=PAPER.unet_fold,
    prediction="epsilon",
    sampler="ddpm",
    sampler_steps=100,
)

_MT = LWDConfig(
    autoencoder=Stage(steps=4_000, batch=32, lr=1e-3),
    diffusion=Stage(steps=3_000, batch=128, lr=1e-3),
    beta=1e-5,
    decoder="xs",
    policy=(256, 256),
    stride=5,
    bc_steps=64,
    policy_noise=0.003,
    world_model=False,
    prediction="sample",
)
_METAWORLD = Config(preset="metaworld", data="data/metaworld-ten", horizon=500, starts="first", method=_MT)

PRESETS: dict[str, tuple[str, Config]] = {
    "pusht": (
        "the best recipe measured for PushT",
        Config(preset="pusht", obs="keypoints", mirror=True, method=LWDConfig(world_model=False)),
    ),
    "pusht-fast": (
        "as `pusht`, but a query costs 27 times fewer FLOPs: a narrow denoiser, two denoising steps",
        Config(
            preset="pusht-fast",
            obs="keypoints",
            mirror=True,
            method=LWDConfig(world_model=False, denoiser_width=128, sampler_steps=2),
        ),
    ),
    "pusht-dp": (
        "Diffusion Policy on PushT, the strongest recipe that we found for a CPU; as many gradient steps as both stages of `pusht`",
        Config(
            preset="pusht-dp",
            obs="keypoints",
            mirror=True,
            horizon=16,
            method=DiffusionPolicyConfig(diffusion=Stage(steps=18_000, batch=256, lr=1e-3)),
        ),
    ),
    "pusht-ldp": (
        "latent diffusion policy on PushT: as `pusht`, but chunks of actions",
        Config(preset="pusht-ldp", obs="keypoints", mirror=True, horizon=16, method=LatentDPConfig()),
    ),
    "pusht-mlp": (
        "one MLP policy for PushT",
        Config(preset="pusht-mlp", obs="keypoints", mirror=True, method=MLPConfig()),
    ),
    "pusht-random": (
        "random actions on PushT",
        Config(preset="pusht-random", obs="keypoints", method=RandomConfig()),
    ),
    "metaworld": (
        "one generator for many tasks: a policy for a whole episode of Metaworld",
        _METAWORLD,
    ),
    "metaworld-mt50": (
        "the same for all fifty tasks: trained for longer, with a larger hypernetwork",
        replace(
            _METAWORLD,
            preset="metaworld-mt50",
            data="data/metaworld-mt50",
            method=replace(
                _MT,
                autoencoder=Stage(steps=10_000, batch=32, lr=1e-3),
                diffusion=Stage(steps=6_000, batch=128, lr=1e-3),
                decoder="s",
            ),
        ),
    ),
    "metaworld-dp": (
        "Diffusion Policy on Metaworld, task in the state; half of each chunk is executed",
        replace(_METAWORLD, preset="metaworld-dp", starts="every", horizon=32, method=DiffusionPolicyConfig()),
    ),
    "metaworld-mlp": (
        "one MLP policy for Metaworld, task in the state",
        replace(_METAWORLD, preset="metaworld-mlp", starts="every", method=MLPConfig(policy=(256, 256), policy_noise=0.003)),
    ),
    "demo": (
        "a shorter version of `pusht`, for `make demo`",
        Config(
            preset="demo",
            obs="keypoints",
            mirror=True,
            method=LWDConfig(
                autoencoder=Stage(steps=5_000, batch=64, lr=1e-3), diffusion=Stage(steps=4_000, batch=256, lr=1e-3), world_model=False
            ),
        ),
    ),
    "debug": (
        "every stage in under a minute, to see that things run; it learns little",
        Config(
            preset="debug",
            obs="keypoints",
            horizon=16,
            log_every=20,
            validate_every=100,
            checkpoint_every=50,
            method=LWDConfig(
                autoencoder=Stage(steps=200, batch=64, lr=1e-3, warmup=20),
                diffusion=Stage(steps=200, batch=128, lr=1e-3, warmup=20),
                latent=16,
                policy=(64, 64),
                encoder=(128, 128),
                decoder="xs",
                world_model_hidden=(64, 64),
                rollout_warmup=50,
                denoiser_width=128,
                denoiser_depth=2,
                sampler_steps=8,
            ),
        ),
    ),
    "paper/pusht": (
        "the paper's recipe to the letter (sections 4, J; Tables 6, 8): days on two cores",
        Config(preset="paper/pusht", method=PAPER),
    ),
    "paper/pusht-dp": (
        "Diffusion Policy as the paper trains it (appendix J.1), whole chunks: days on a CPU",
        Config(preset="paper/pusht-dp", horizon=16, method=_PAPER_DP),
    ),
    "paper/pusht-ldp": (
        "latent diffusion policy as the paper trains it (section 4.1.1): days on a CPU",
        Config(preset="paper/pusht-ldp", horizon=16, method=_PAPER_LDP),
    ),
    "paper/pusht-mlp": (
        "the paper's MLP policy (section 4.1.1)",
        Config(
            preset="paper/pusht-mlp",
            method=MLPConfig(cloning=Stage(steps=801_000, batch=32, lr=1e-4, warmup=500), policy=(256, 256), policy_noise=0.0),
        ),
    ),
}
