"""What `lwd generate` is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from lwd.config import Floats, Sampler, Words


@dataclass(frozen=True)
class Request:
    """Which policies are wanted."""

    obs: Floats = ()
    """Observation that the policies are for, raw units. Write --obs=-1,2 where the first number is negative."""
    reset_seed: int | None = None
    """Instead: the first observation of the simulator's episode with this seed."""
    task: str | None = None
    """Task, where the model knows several."""
    n: int = 1
    """Number of policies."""
    seed: int = 0
    """Seed of the sampling noise of the first policy; the next one has the next seed."""
    sampler: Sampler | None = None
    """Sampler; the run's own by default."""
    sampler_steps: int = 0
    """Denoising steps; the run's own by default."""
    replan_every: int = 0
    """Steps that the policies are wanted for, where the model knows several horizons. By default the horizon of training."""
    tag: Words = ()
    """Policies like those of the demonstrations with these tags, NAME=VALUE (several values of a name are alternatives). This and the next
    two need the data of the training."""
    near: int = -1
    """Policies around the latents of this demonstration, counted from 0."""
    blend: Floats = ()
    """Two demonstrations and a weight, such as 3,7,0.5: a policy on the way from the first (0) to the second (1)."""
    rate: float = 0.0
    """Control steps per second that the files name. By default the environment's."""
