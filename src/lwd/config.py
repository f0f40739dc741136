"""Every setting, documented and typed; what cannot work is refused when the object is made. The presets are in `lwd.presets`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import tyro

from lwd.errors import LWDError

Source = Literal["model", "gaussian", "prior"]
Sampler = Literal["ddpm", "ddim", "dpm++", "euler"]
Denoiser = Literal["mlp", "unet", "transformer"]
Size = Literal["xs", "s", "m", "l", "xl"]


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
class MethodConfig:
    """What every method is asked for. A method is a subclass here and the file in `lwd.methods` that bears its `name`."""

    name: ClassVar[str] = ""
    before: int = 0
    """Steps that a training snippet reaches back before the query."""
    after: int = 0
    """Steps that a training snippet reaches beyond the horizon."""
    history: int = 1
    """K, observations up to the present one that a plan is conditioned on."""
    ema_power: float = 0.75
    """Exponential moving average of all weights: decay 1 - (1 + step)^-power."""
    task_embedding: Literal["one_hot", "learned", "language"] = "one_hot"
    """How a plan is told its task, where the data has several: a one-hot, a learned vector, or a projection of what a sentence
    encoder makes of the task's name (needs the extra `language` to train, not to load)."""
    task_dim: int = 16
    """Size of the learned vector, or of the projection."""
    language_model: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Sentence encoder of the embedding `language`: a name on the Hugging Face Hub, or a directory."""

    def __post_init__(self) -> None:
        require(self.before >= 0 and self.after >= 0, "before and after count steps: they must not be negative")
        require(self.history >= 1, f"a plan needs at least one observation: history must be >= 1, not {self.history}")
        kinds = ("one_hot", "learned", "language")
        require(self.task_embedding in kinds, f"task_embedding must be one of {', '.join(kinds)}, not {self.task_embedding!r}")
        require(self.task_dim >= 1, f"a task embedding needs at least one dimension: task_dim must be >= 1, not {self.task_dim}")
        named = bool(self.language_model.strip()) or self.task_embedding != "language"
        require(named, "the task embedding `language` needs a sentence encoder: set language_model to its name or directory")


@dataclass(frozen=True)
class DiffusionConfig(MethodConfig):
    """What the methods with a diffusion model share: the denoiser, its training, its sampler."""

    diffusion: Stage = field(default_factory=lambda: Stage(steps=8_000, batch=256, lr=1e-3))
    """The denoiser's training."""
    denoiser: Denoiser = "mlp"
    """Residual MLP over the whole vector, the conditional 1-D U-Net (Table 3), or the transformer (Table 4)."""
    denoiser_width: int = 512
    """Width of the residual MLP."""
    denoiser_depth: int = 4
    """Blocks of the residual MLP."""
    dropout: float = 0.0
    """In the residual MLP and in the transformer."""
    unet_size: Size = "m"
    """Table 3."""
    transformer_size: Size = "m"
    """Table 4."""
    objective: Literal["diffusion", "flow", "regression"] = "diffusion"
    """DDPM; flow matching (straight paths from noise to data; sampled with Euler steps); or a regression on the state in one pass, which
    shows what the generative model is good for."""
    prediction: Literal["epsilon", "sample", "v_prediction"] = "v_prediction"
    """What the denoiser predicts (paper: epsilon, which explodes at the last step of the cosine schedule unless trained for long)."""
    diffusion_steps: int = 100
    """Steps of the forward process (squared-cosine schedule)."""
    clip: float = 4.0
    """Predicted clean values are clipped to this while sampling (latents: in standard deviations); 0 never clips."""
    condition_noise: float = 0.0
    """Standard deviation, in normalised units, of noise on the observations that condition the denoiser."""
    sampler: Sampler = "ddim"
    """Default sampler of a query; with the objective `flow` it is always euler."""
    sampler_steps: int = 16
    """Default number of denoising steps of a query."""
    warm_start: float = 0.0
    """Default start of a query that follows another: 0 is pure noise, 0.4 the previous latent with the noise of 40 % of the schedule
    (methods with a latent only)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            1 <= self.sampler_steps <= self.diffusion_steps,
            f"sampler_steps must lie between 1 and diffusion_steps ({self.diffusion_steps}), not {self.sampler_steps}",
        )
        require(0 <= self.warm_start < 1, f"warm_start is a fraction of the schedule in [0, 1), not {self.warm_start:g}")


@dataclass(frozen=True)
class LatentConfig(DiffusionConfig):
    """What LWD and the latent diffusion policy share: an encoder of snippets, and diffusion of its latents."""

    autoencoder: Stage = field(default_factory=lambda: Stage(steps=10_000, batch=64, lr=1e-3))
    """Stage 1: encoder and decoder (and world model) together."""
    latent: int = 64
    """Z, dimensions of the latent (paper: 256)."""
    encoder: tuple[int, ...] = (512, 512, 512)
    """Hidden layers of the encoder (appendix J.2)."""
    beta: float = 3e-6
    """Weight of L_KL (Eq. 5: beta * sum of sigma^2 + mu^2 - 1 - log sigma^2, which is twice the rate in nats)."""
    reduction: Literal["mean", "sum"] = "mean"
    """L_BC, L_RO and L_TF: mean over time and dimensions, or their sum (the paper); always a mean over the batch."""
    stride: int = 1
    """The encoder sees every `stride`-th step of a snippet."""
    autoencoder_from: str = ""
    """Run directory whose stage 1 is taken over instead of training one: same data, same settings of stage 1."""
    unet_fold: int = 16
    """Channels of the folded latent in U-Net and transformer: 16 folds 256 dimensions to 16 x 16; 1 is the literal and dearest reading
    of the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.latent > 0, f"the latent needs at least one dimension, not {self.latent}")
        require(self.beta >= 0, f"beta must not be negative, but is {self.beta:g}")
        if self.denoiser == "unet":
            ok = self.latent % self.unet_fold == 0 and (self.latent // self.unet_fold) % 4 == 0
            require(ok, f"a latent of {self.latent} does not fold to {self.unet_fold} x a multiple of 4: change latent or unet_fold")
        if self.denoiser == "transformer":
            require(
                self.latent % self.unet_fold == 0, f"a latent of {self.latent} does not fold to {self.unet_fold} rows: change unet_fold"
            )


@dataclass(frozen=True)
class LWDConfig(LatentConfig):
    """Latent Weight Diffusion: autoencoder with hypernetwork decoder, world model, latent diffusion."""

    name: ClassVar[str] = "lwd"
    decoder: Literal["xs", "s", "m", "l"] = "s"
    """Trunk of the hypernetwork (Table 5)."""
    policy: tuple[int, ...] = (128, 128)
    """Hidden layers of the generated policy (paper: 256, 256)."""
    activation: Literal["relu", "tanh", "silu"] = "relu"
    """Of the generated policy."""
    policy_noise: float = 0.03
    """Standard deviation, in normalised units, of noise on the observations that the policy sees in L_BC; its target action stays."""
    bc_steps: int = 0
    """Random steps of a snippet that L_BC looks at; 0 is all of them."""

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

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.policy) > 0 and min(self.policy) > 0, f"a policy needs hidden layers of positive size, not {self.policy}")
        require(self.imagination >= 1, f"imagination counts steps through the world model: at least 1, not {self.imagination}")


@dataclass(frozen=True)
class LatentDPConfig(LatentConfig):
    """Latent diffusion policy (section 4.1.1): as LWD, but the latent is decoded to a chunk of actions."""

    name: ClassVar[str] = "latent_dp"
    decoder: tuple[int, ...] = (256, 256)
    """Hidden layers of the decoder, an MLP that emits the chunk."""


@dataclass(frozen=True)
class DiffusionPolicyConfig(DiffusionConfig):
    """Diffusion Policy: denoises a chunk of actions (appendix J.1), of which `horizon` are executed blindly."""

    name: ClassVar[str] = "diffusion_policy"
    clip: float = 1.0
    """Predicted clean actions, in normalised units, are clipped to this while sampling; 0 never clips."""


@dataclass(frozen=True)
class MLPConfig(MethodConfig):
    """One policy for everything: behaviour cloning with the architecture that LWD generates."""

    name: ClassVar[str] = "mlp"
    cloning: Stage = field(default_factory=lambda: Stage(steps=20_000, batch=1024, lr=1e-3))
    """Its training."""
    policy: tuple[int, ...] = (128, 128)
    """Hidden layers."""
    activation: Literal["relu", "tanh", "silu"] = "relu"
    """Between them."""
    policy_noise: float = 0.03
    """Standard deviation, in normalised units, of noise on the observations in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.history == 1, f"the MLP policy sees the present observation only: history must be 1, not {self.history}")


@dataclass(frozen=True)
class RandomConfig(MethodConfig):
    """Uniform actions from the range of the demonstrations: the floor of every comparison. Nothing is trained."""

    name: ClassVar[str] = "random"


METHODS: dict[str, type[MethodConfig]] = {
    kind.name: kind for kind in (LWDConfig, DiffusionPolicyConfig, LatentDPConfig, MLPConfig, RandomConfig)
}


@dataclass(frozen=True)
class Config:
    """One training run."""

    preset: tyro.conf.Suppress[str] = "pusht"
    """Name of the preset that this started from."""
    data: str = "embedded"
    """Demonstrations: a path (zarr directory, .npz, LeRobot directory) or "embedded", the synthetic PushT set that is shipped."""
    demonstrations: int = 0
    """Take only the first so many episodes of each task; 0 takes all."""
    download: bool = False
    """Allow `data` to be the Hub id of a LeRobot data set ("owner/name"), which is then downloaded."""
    out: str = ""
    """Run directory; runs/<preset> when empty."""
    seed: int = 0
    """Of everything random in training."""
    horizon: int = 32
    """Steps that one controller acts for; snippets have this length (plus method.before and method.after)."""
    starts: Literal["every", "first"] = "every"
    """Steps of an episode at which snippets start: every one, or only the first, so that a snippet is a whole episode."""
    obs: str = "data"
    """Observation that the policy sees: as in the data ("data"), or converted by the environment (PushT: state, keypoints; Metaworld:
    state, goal_hidden)."""
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
    method: MethodConfig = field(default_factory=LWDConfig)
    """Settings of the method."""

    def __post_init__(self) -> None:
        require(self.horizon >= 1, f"the horizon counts steps: at least 1, not {self.horizon}")
        require(self.demonstrations >= 0, f"demonstrations counts episodes: it must not be negative, but is {self.demonstrations}")
        require(0 <= self.holdout < 1, f"holdout is a fraction in [0, 1), not {self.holdout}")
        for name in ("log_every", "validate_every", "checkpoint_every"):
            require(getattr(self, name) > 0, f"{name} must be positive, not {getattr(self, name)}")

    @property
    def length(self) -> int:
        """Steps of a training snippet."""
        return self.method.before + self.horizon + self.method.after


def to_dict(config: Any) -> dict[str, Any]:
    """A config as JSON-ready data; the method's settings say their method's name."""
    values = dataclasses.asdict(config)
    if isinstance(config, Config):
        values["method"] = {"name": config.method.name, **values["method"]}
    return values


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """The inverse of `to_dict`; unknown fields (of a newer version) are refused by name, missing ones have their defaults."""
    hints = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(hints))
    require(not unknown, f"{kind.__name__} has no field {', '.join(unknown)}: the run was written by another version of lwd")
    result = {}
    for name, value in values.items():
        if isinstance(value, dict) and kind is Config:
            value = dict(value)
            method = value.pop("name", LWDConfig.name)
            require(method in METHODS, f"this lwd knows no method {method!r}: the run was written by another version of lwd")
            value = from_dict(METHODS[method], value)
        elif isinstance(value, dict):
            value = from_dict(Stage, value)
        elif isinstance(value, list):
            value = tuple(value)
        result[name] = value
    return kind(**result)
