"""Every setting, documented and typed; what cannot work is refused when the object is made. The presets are at the end."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import tyro

from lwd.errors import LWDError

Sampler = Literal["ddpm", "ddim", "dpm++"]


def require(condition: bool, message: str) -> None:
    """Raise `LWDError(message)` unless the condition holds."""
    if not condition:
        raise LWDError(message)


@dataclass(frozen=True)
class Stage:
    """How long and how fast one stage is trained (AdamW, linear warm-up, cosine decay to zero)."""

    steps: int
    """Gradient steps."""
    batch: int
    """Snippets per step."""
    lr: float
    """Peak learning rate."""
    weight_decay: float = 1e-6
    """Of AdamW."""
    warmup: int = 200
    """Steps of linear warm-up."""

    def __post_init__(self) -> None:
        require(self.steps > 0, f"a stage needs at least one step, not {self.steps}")
        require(self.batch > 0, f"the batch size must be positive, not {self.batch}")
        require(self.lr > 0, f"the learning rate must be positive, not {self.lr:g}")


@dataclass(frozen=True)
class LWDConfig:
    """Latent Weight Diffusion: autoencoder with hypernetwork decoder, world model, latent diffusion."""

    autoencoder: Stage = field(default_factory=lambda: Stage(steps=10_000, batch=64, lr=1e-3))
    """Stage 1: encoder, hypernetwork and world model together."""
    diffusion: Stage = field(default_factory=lambda: Stage(steps=8_000, batch=256, lr=1e-3))
    """Stage 2: the denoiser of latents."""

    before: int = 0
    """Steps that a training snippet reaches back before the query (reconstruction errs most at the ends of a snippet)."""
    after: int = 0
    """Steps that a training snippet reaches beyond the horizon."""
    latent: int = 64
    """Z, dimensions of the latent (paper: 256)."""
    encoder: tuple[int, ...] = (512, 512, 512)
    """Hidden layers of the encoder (appendix J.2)."""
    decoder: Literal["xs", "s", "m", "l"] = "s"
    """Trunk of the hypernetwork (Table 5)."""
    policy: tuple[int, ...] = (128, 128)
    """Hidden layers of the generated policy (paper: 256, 256)."""
    activation: Literal["relu", "tanh", "silu"] = "relu"
    """Of the generated policy."""
    beta: float = 3e-6
    """Weight of L_KL (Eq. 5: beta * sum of sigma^2 + mu^2 - 1 - log sigma^2, which is twice the rate in nats)."""
    reduction: Literal["mean", "sum"] = "mean"
    """L_BC, L_RO and L_TF: mean over time and dimensions, or their sum (the paper); always a mean over the batch."""
    policy_noise: float = 0.03
    """Standard deviation, in normalised units, of noise on the observations that the policy sees in L_BC; its target action stays."""
    bc_steps: int = 0
    """Random steps of a snippet that L_BC looks at; 0 is all of them."""
    stride: int = 1
    """The encoder sees every `stride`-th step of a snippet."""

    world_model: bool = True
    """Train the world model (L_TF) and shape the policy through it (L_RO). False is the paper's "LWD w/o WM"."""
    world_model_hidden: tuple[int, ...] = (512, 512)
    """Hidden layers of the world model (paper, section 4: 1024, 1024)."""
    world_model_steps: int = 4
    """Random steps of a snippet that L_TF and L_RO look at; 0 is all of them (the paper). They are most of the cost of a training step."""
    world_model_lr: float = 1e-3
    """Learning rate of the world model's own optimiser."""
    rollout_weight: float = 0.01
    """1 / (2 sigma^2) of the world model's Gaussian, in units of one-step changes: scales L_RO (at 1, it drowns L_BC)."""
    rollout_warmup: int = 1000
    """Steps before L_RO starts (paper: 10 epochs)."""
    imagination: int = 1
    """Steps that L_RO imagines through the world model, policy against recorded actions (paper: 1)."""

    history: int = 1
    """K, observations that the generator (never the policy) is conditioned on."""
    denoiser: Literal["mlp", "unet"] = "mlp"
    """Residual MLP, or the paper's 1-D U-Net over a folded latent."""
    denoiser_width: int = 512
    """Width of the residual MLP."""
    denoiser_depth: int = 4
    """Blocks of the residual MLP."""
    dropout: float = 0.0
    """In the residual MLP."""
    unet_size: Literal["xs", "s", "m", "l", "xl"] = "m"
    """Table 3."""
    unet_fold: int = 16
    """Channels of the folded latent: 16 folds 256 dimensions to 16 x 16; 1 is the literal and dearest reading of the paper."""
    prediction: Literal["epsilon", "sample", "v_prediction"] = "v_prediction"
    """What the denoiser predicts (paper: epsilon, which explodes at the last step of the cosine schedule unless trained for long)."""
    diffusion_steps: int = 100
    """Steps of the forward process (squared-cosine schedule)."""
    clip: float = 4.0
    """Predicted clean latents are clipped to this many standard deviations while sampling; 0 never clips."""
    condition_noise: float = 0.0
    """Standard deviation, in normalised units, of noise on the state that conditions the denoiser."""
    sampler: Sampler = "ddim"
    """Default sampler of a query."""
    sampler_steps: int = 16
    """Default number of denoising steps of a query."""
    ema_power: float = 0.75
    """Exponential moving average of all weights: decay 1 - (1 + step)^-power."""

    def __post_init__(self) -> None:
        require(self.latent > 0, f"the latent needs at least one dimension, not {self.latent}")
        require(self.beta >= 0, f"beta must not be negative, but is {self.beta:g}")
        require(len(self.policy) > 0 and min(self.policy) > 0, f"a policy needs hidden layers of positive size, not {self.policy}")
        require(self.before >= 0 and self.after >= 0, "before and after count steps: they must not be negative")
        require(self.history >= 1, f"the generator needs at least one observation: history must be >= 1, not {self.history}")
        require(self.imagination >= 1, f"imagination counts steps through the world model: at least 1, not {self.imagination}")
        require(
            1 <= self.sampler_steps <= self.diffusion_steps,
            f"sampler_steps must lie between 1 and diffusion_steps ({self.diffusion_steps}), not {self.sampler_steps}",
        )
        if self.denoiser == "unet":
            ok = self.latent % self.unet_fold == 0 and (self.latent // self.unet_fold) % 4 == 0
            require(ok, f"a latent of {self.latent} does not fold to {self.unet_fold} x a multiple of 4: change latent or unet_fold")


@dataclass(frozen=True)
class Config:
    """One training run."""

    preset: tyro.conf.Suppress[str] = "pusht"
    """Name of the preset that this started from."""
    data: str = "embedded"
    """Demonstrations: a path (zarr directory, .npz, LeRobot directory) or "embedded", the synthetic PushT set that is shipped."""
    download: bool = False
    """Allow `data` to be the Hub id of a LeRobot data set ("owner/name"), which is then downloaded."""
    out: str = ""
    """Run directory; runs/<preset> when empty."""
    seed: int = 0
    """Of everything random in training."""
    horizon: int = 32
    """Steps that one controller acts for; snippets have this length (plus method.before and method.after)."""
    obs: Literal["data", "state", "keypoints"] = "data"
    """Observation that the policy sees: as in the data, or converted by the environment."""
    mirror: bool = False
    """Add the mirror image of every episode, where the environment declares an exact symmetry (PushT: about the goal's axis)."""
    holdout: float = 0.05
    """Fraction of the episodes that is kept from training, for validation and `lwd diagnose`."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train."""
    devices: int = 1
    """Number of devices (more than one: data parallel)."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """Numbers in the products of encoder, world model and denoiser (policies are always float32); auto is bf16-mixed where the
    hardware multiplies it fast (CUDA, CPUs with AMX)."""
    threads: int = 0
    """CPU threads of torch; 0 leaves its default."""
    log_every: int = 100
    """Steps between lines in metrics.jsonl."""
    validate_every: int = 1000
    """Steps between measurements on held-out snippets."""
    checkpoint_every: int = 1000
    """Steps between checkpoints (a killed run continues from the last one, bit for bit on a CPU)."""
    method: LWDConfig = field(default_factory=LWDConfig)
    """Settings of the method."""

    def __post_init__(self) -> None:
        require(self.horizon >= 1, f"the horizon counts steps: at least 1, not {self.horizon}")
        require(0 <= self.holdout < 1, f"holdout is a fraction in [0, 1), not {self.holdout}")
        for name in ("log_every", "validate_every", "checkpoint_every"):
            require(getattr(self, name) > 0, f"{name} must be positive, not {getattr(self, name)}")

    @property
    def length(self) -> int:
        """Steps of a training snippet."""
        return self.method.before + self.horizon + self.method.after


def to_dict(config: Any) -> dict[str, Any]:
    """A config as JSON-ready data."""
    return dataclasses.asdict(config)


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """The inverse of `to_dict`; unknown fields (of a newer version) are refused by name."""
    hints = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(hints))
    require(not unknown, f"{kind.__name__} has no field {', '.join(unknown)}: the run was written by another version of lwd")
    kinds: dict[str, dict[str, type]] = {"Config": {"method": LWDConfig}, "LWDConfig": {"autoencoder": Stage, "diffusion": Stage}}
    nested = kinds.get(kind.__name__, {})
    result = {}
    for name, value in values.items():
        if name in nested:
            value = from_dict(nested[name], value)
        elif isinstance(value, list):
            value = tuple(value)
        result[name] = value
    return kind(**result)


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

PRESETS: dict[str, tuple[str, Config]] = {
    "pusht": (
        "the best recipe measured for PushT",
        Config(preset="pusht", obs="keypoints", mirror=True, method=LWDConfig(world_model=False)),
    ),
    "demo": (
        "a shorter version of it, for `make demo`",
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
}
