"""Settings of the stages of a training."""

from __future__ import annotations

from dataclasses import dataclass

from lwd.config.common import require


@dataclass(frozen=True)
class Stage:
    """How long and how fast one stage is trained (AdamW, linear warm-up, cosine decay to zero)."""

    steps: int = 0
    """Gradient steps. 0 chooses them from the size of the data."""
    batch: int = 0
    """Snippets per step. 0 chooses it from the size of the data."""
    lr: float = 1e-3
    """Peak learning rate. It may be changed when a run continues."""
    weight_decay: float = 1e-6
    """Weight decay of AdamW."""
    warmup: int = 200
    """Steps of linear warm-up."""

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"a stage needs at least one step (0 chooses), not {self.steps}")
        require(self.batch >= 0, f"the batch size must be positive (0 chooses), not {self.batch}")
        require(self.lr > 0, f"the learning rate must be positive, not {self.lr:g}")


@dataclass(frozen=True)
class WorldStage(Stage):
    """The world model and the progress value, and how they are trained."""

    members: int = 3
    """World models, and values, that are trained side by side from other initial weights: where they disagree they do not know."""
    hidden: tuple[int, ...] = (256, 256, 256)
    """Hidden layers of each world model."""
    value_hidden: tuple[int, ...] = (256, 256)
    """Hidden layers of each value."""
    ahead: int = 8
    """Steps that it predicts in training from its own predictions (open loop)."""
    noise: float = 0.3
    """Standard deviation of noise on the observation that it starts from, in units of one-step changes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.members >= 1 and self.ahead >= 1, "world.members and world.ahead count: they must be at least 1")


@dataclass(frozen=True)
class ImprovementStage(Stage):
    """Learning in imagination: how policies are improved, without the robot or its simulator."""

    lr: float = 3e-4
    """Peak learning rate. It may be changed when a run continues."""
    ahead: int = 16
    """Steps that an imagined episode goes on for; the gradient flows back through all of them."""
    weight: float = 0.1
    """Weight of the remaining steps at the end of an imagined episode, as a share of a demonstration's, beside the cloning error."""
    sampled: float = 0.3
    """Share of the imagined episodes whose policy is sampled for their first state; the others have policies of demonstrated snippets."""
    near: float = 0.16
    """Share of a demonstration's steps. Imagined episodes that start where fewer remain do not count: near the goal the value is coarse."""
    detour: int = 48
    """Imagined episodes start up to this many steps off the demonstrated path, where actions of other snippets lead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.ahead >= 1, f"improvement.ahead counts imagined steps: at least 1, not {self.ahead}")
        require(self.weight >= 0 and self.near >= 0, "improvement.weight and improvement.near must not be negative")
        require(self.detour >= 0, f"improvement.detour counts imagined steps: it must not be negative, but is {self.detour}")
        require(0 <= self.sampled <= 1, f"improvement.sampled is a share in [0, 1], not {self.sampled:g}")
