"""Settings of the methods, one class each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from lwd.config.common import require
from lwd.config.stages import ImprovementStage, Stage, WorldStage

Sampler = Literal["ddpm", "ddim", "euler"]
Size = Literal["xs", "s", "m", "l", "xl"]
Scaling = Literal["range", "deviation"]


@dataclass(frozen=True)
class MethodConfig:
    """Settings that every method has. A method is a subclass here and the file in `lwd.methods` with its `name`."""

    name: ClassVar[str] = ""
    before: int = 0
    """Steps that a training snippet reaches back before the query."""
    after: int = 0
    """Steps that a training snippet reaches beyond the horizon."""
    history: int = 1
    """K, the number of observations that a plan is conditioned on, the present one included."""
    scaling: Scaling = "range"
    """What scales observations: the range in the data, or the standard deviation, which a few extreme values do not widen (locomotion)."""
    stages_from: str = ""
    """Run directory whose stages are taken over, all but the last one, which is trained here. It needs the same data and settings."""
    imagine: bool = False
    """Train, before all else, a world model and a progress value: what `lwd eval --imagine`, `--monitor` and `lwd improve` need."""
    world: WorldStage = field(default_factory=WorldStage)
    """Training of world model and progress value."""
    ema_power: float = 0.75
    """Exponential moving average of all weights: its decay is 1 - (1 + step)^-power."""

    def __post_init__(self) -> None:
        require(self.before >= 0 and self.after >= 0, "before and after count steps: they must not be negative")
        require(self.history >= 1, f"a plan needs at least one observation: history must be >= 1, not {self.history}")

    def check(self, length: int, starts: str) -> None:
        """Refuse a training that this method cannot do: `length` is that of a snippet, and `starts` where snippets start."""

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages of the training by name, in their order."""
        names = ("world", "autoencoder", "diffusion", "cloning", "correction", "improvement")
        optional = {"world": "imagine", "correction": "correct", "improvement": "improve"}  # a stage, and the switch that it needs
        return {name: getattr(self, name) for name in names if hasattr(self, name) and getattr(self, optional.get(name, "world"))}


@dataclass(frozen=True)
class Improved(MethodConfig):
    """Settings of the methods whose policies react at every step: they can be improved in imagination."""

    HEAD: ClassVar[tuple[str, ...]] = ("improve", "improvement")  # what only the last stage needs

    improve: bool = False
    """Train, as a last stage, through imagined episodes: `lwd improve RUN`. It needs `imagine`."""
    improvement: ImprovementStage = field(default_factory=ImprovementStage)
    """Training in imagination."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.imagine or not self.improve, "improve needs a world model: add --method.imagine")


@dataclass(frozen=True)
class Corrected(MethodConfig):
    """Settings of the methods that plan chunks: a head that corrects the chunk at every step (as in A2C2, arXiv 2509.23224)."""

    HEAD: ClassVar[tuple[str, ...]] = ("correct", "correction", "correction_hidden", "correction_noise")  # what only the last stage needs

    correct: bool = False
    """Train, as a last stage, a head that sees observation, chunk and index at every step, and adds to the chunk's action."""
    correction: Stage = field(default_factory=Stage)
    """Training of the head."""
    correction_hidden: tuple[int, ...] = (256, 256)
    """Hidden layers of the head."""
    correction_noise: float = 0.0
    """Standard deviation, in normalised units, of noise on the observations that the head sees in training."""


@dataclass(frozen=True)
class DiffusionConfig(MethodConfig):
    """Settings that the methods with a diffusion model share: the denoiser, its training, its sampler."""

    diffusion: Stage = field(default_factory=Stage)
    """Training of the denoiser."""
    denoiser: Literal["mlp", "unet", "transformer"] = "mlp"
    """Residual MLP over the whole vector, the conditional 1-D U-Net (Table 3), or the transformer (Table 4)."""
    denoiser_width: int = 512
    """Width of the residual MLP."""
    denoiser_depth: int = 4
    """Blocks of the residual MLP."""
    unet_size: Size = "m"
    """Size of the U-Net (Table 3)."""
    transformer_size: Size = "m"
    """Size of the transformer (Table 4)."""
    objective: Literal["diffusion", "flow", "regression"] = "diffusion"
    """DDPM; flow matching (straight paths from noise to data, sampled with Euler steps); or a regression on the state in one pass, which
    shows what the generative model is good for."""
    prediction: Literal["epsilon", "sample", "v_prediction"] = "v_prediction"
    """What the denoiser predicts (paper: epsilon, which explodes at the last step of the cosine schedule unless trained for long)."""
    diffusion_steps: int = 100
    """Steps of the forward process (squared-cosine schedule)."""
    clip: float = 4.0
    """Predicted clean values are clipped to this while sampling (latents: in standard deviations). 0 never clips."""
    sampler: Sampler | None = None
    """Default sampler of a query: ddpm (the paper's), ddim, or euler (flow matching only). By default ddim, and euler for flow matching."""
    sampler_steps: int = 16
    """Default number of denoising steps of a query."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            1 <= self.sampler_steps <= self.diffusion_steps,
            f"sampler_steps must lie between 1 and diffusion_steps ({self.diffusion_steps}), not {self.sampler_steps}",
        )
        if self.sampler is not None:
            check_sampler(self.objective, self.sampler)


def check_sampler(objective: str, sampler: str) -> None:
    """Refuse a sampler that cannot sample what an objective trains, with `LWDError`."""
    require(
        objective == "regression" or (sampler == "euler") == (objective == "flow"),
        f"the sampler {sampler} does not go with the objective {objective}: flow is sampled with euler, diffusion with ddpm or ddim",
    )


@dataclass(frozen=True)
class LatentConfig(DiffusionConfig):
    """Settings that LWD and the latent diffusion policy share: an encoder of snippets, and diffusion of its latents."""

    autoencoder: Stage = field(default_factory=Stage)
    """Stage 1: training of encoder and decoder (and world model) together."""
    latent: int = 64
    """Z, dimensions of the latent (paper: 256)."""
    encoder: tuple[int, ...] = (512, 512, 512)
    """Hidden layers of the encoder (appendix J.2)."""
    beta: float = 3e-6
    """Weight of L_KL (Eq. 5: beta * sum of sigma^2 + mu^2 - 1 - log sigma^2, which is twice the rate in nats)."""
    reduction: Literal["mean", "sum"] = "mean"
    """L_BC, L_RO and L_TF: mean over time and dimensions, or their sum (the paper). It is always a mean over the batch."""
    stride: int = 1
    """The encoder sees every `stride`-th step of a snippet."""
    unet_fold: int = 16
    """Rows to which the latent is folded for U-Net and transformer: 16 folds 256 dimensions to 16 x 16. 1 is the literal and most expensive
    reading of the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.latent > 0, f"the latent needs at least one dimension, not {self.latent}")
        require(self.beta >= 0, f"beta must not be negative, but is {self.beta:g}")
        if self.denoiser == "unet":
            ok = self.latent % self.unet_fold == 0 and (self.latent // self.unet_fold) % 4 == 0
            require(ok, f"a latent of {self.latent} does not fold to {self.unet_fold} x a multiple of 4: change latent or unet_fold")
        if self.denoiser == "transformer":
            fits, fold = self.latent % self.unet_fold == 0, self.unet_fold
            require(fits, f"a latent of {self.latent} does not fold to {fold} rows: change unet_fold")


@dataclass(frozen=True)
class LWDConfig(LatentConfig, Improved):
    """Latent Weight Diffusion: autoencoder with hypernetwork decoder, world model, latent diffusion."""

    name: ClassVar[str] = "lwd"
    decoder: Literal["xs", "s", "m", "l"] = "s"
    """Trunk of the hypernetwork (Table 5)."""
    hypernetwork: Literal["full", "low-rank"] = "full"
    """How a latent makes a policy: all weights (paper), or what is added to a policy that all share, matrices of rank 8."""
    policy: tuple[int, ...] = (128, 128)
    """Hidden layers of the generated policy (paper: 256, 256)."""
    policy_noise: float = 0.03
    """Standard deviation, in normalised units, of noise on the observations that the policy sees in L_BC. Its target action stays."""
    phase: bool = False
    """The policy also sees its phase: steps since its query over its horizon, at most 1. Without it a policy can come to rest where it
    should move (paper: without)."""
    span: int = 1
    """Horizons are drawn at random in training, from horizon / span to horizon * span, so that one model serves all intervals between
    queries from the one to the other. Encoder, hypernetwork and denoiser are told the horizon. 1: always `horizon` (paper). A snippet
    that is a whole episode (starts=first) has one horizon."""
    shared: float = 0.0
    """Probability with which a snippet's policy is decoded, in training, from the latent of another snippet of its task. What differs
    between episodes of a task, such as the goal, is then read from the observation instead of the latent."""
    bc_steps: int = 0
    """Random steps of a snippet that L_BC looks at. 0 is all of them."""

    world_model: bool = True
    """Train a world model beside the policies (L_TF) and shape them through it (L_RO), as the paper does. It is another one than that of
    `imagine`. False is the paper's "LWD w/o WM"."""
    world_model_hidden: tuple[int, ...] = (512, 512)
    """Hidden layers of the world model (paper, section 4: 1024, 1024)."""
    world_model_history: int = 1
    """Observations and actions that the world model sees, the present ones included (the paper, section 4, says "history")."""
    world_model_steps: int = 4
    """Random steps of a snippet that L_TF and L_RO look at. 0 is all of them (the paper). They are most of the cost of a training step."""
    world_model_lr: float = 1e-3
    """Learning rate of the world model's own optimiser."""
    rollout_weight: float = 0.01
    """1 / (2 sigma^2) of the world model's Gaussian, in units of one-step changes. It scales L_RO (at 1, L_RO drowns L_BC)."""
    rollout_warmup: int = 1000
    """Steps before L_RO starts (paper: 10 epochs)."""
    rollout_steps: int = 1
    """Steps that L_RO imagines through the world model, policy against recorded actions (paper: 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.policy) > 0 and min(self.policy) > 0, f"a policy needs hidden layers of positive size, not {self.policy}")
        require(0 <= self.shared <= 1, f"shared is a probability in [0, 1], not {self.shared:g}")
        require(self.span >= 1, f"span is a factor of at least 1 (1: one horizon only), not {self.span}")
        require(self.rollout_steps >= 1, f"rollout_steps counts steps through the world model: at least 1, not {self.rollout_steps}")
        require(self.world_model_history >= 1, f"world_model_history counts observations: at least 1, not {self.world_model_history}")

    def check(self, length: int, starts: str) -> None:
        require(
            self.span == 1 or not (self.before or self.after),
            "method.span draws horizons at random, and does not go with method.before and method.after: add --method.span 1",
        )
        require(
            not self.world_model or self.rollout_steps <= length,
            f"L_RO goes on for {self.rollout_steps} steps, but a snippet has {length}: lower method.rollout_steps or raise the horizon",
        )


@dataclass(frozen=True)
class LatentDPConfig(LatentConfig, Corrected):
    """Latent diffusion policy (section 4.1.1): as LWD, but the latent is decoded to a chunk of actions."""

    name: ClassVar[str] = "latent_dp"
    decoder: tuple[int, ...] = (256, 256)
    """Hidden layers of the decoder, an MLP that emits the chunk."""


@dataclass(frozen=True)
class DiffusionPolicyConfig(DiffusionConfig, Corrected):
    """Diffusion Policy: denoises a chunk of actions (appendix J.1), of which `horizon` are executed blindly."""

    name: ClassVar[str] = "diffusion_policy"
    clip: float = 1.0
    """Predicted clean actions, in normalised units, are clipped to this while sampling. 0 never clips."""

    def check(self, length: int, starts: str) -> None:
        require(
            self.denoiser != "unet" or length % 4 == 0,
            f"the U-Net halves its sequence twice, and {length} steps are no multiple of 4: change the horizon, or choose another denoiser",
        )


@dataclass(frozen=True)
class MLPConfig(Improved):
    """One policy for everything: behaviour cloning with the architecture that LWD generates."""

    name: ClassVar[str] = "mlp"
    cloning: Stage = field(default_factory=Stage)
    """Training of the policy."""
    policy: tuple[int, ...] = (128, 128)
    """Hidden layers."""
    policy_noise: float = 0.03
    """Standard deviation, in normalised units, of noise on the observations in training."""
    phase: bool = False
    """The policy also sees its phase: steps since the beginning of the episode over the horizon, at most 1. It is then to be asked once, at
    the beginning: it counts from the query."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.history == 1, f"the MLP policy sees the present observation only: history must be 1, not {self.history}")

    def check(self, length: int, starts: str) -> None:
        require(
            starts == "every",
            "starts=first would train the MLP on the first step of every episode only: leave out --starts, the MLP learns from every step",
        )


@dataclass(frozen=True)
class RandomConfig(MethodConfig):
    """Uniform actions from the range of the demonstrations: the floor of every comparison. Nothing is trained."""

    name: ClassVar[str] = "random"


_KINDS = (LWDConfig, DiffusionPolicyConfig, LatentDPConfig, MLPConfig, RandomConfig)
METHODS: dict[str, type[MethodConfig]] = {kind.name: kind for kind in _KINDS}
