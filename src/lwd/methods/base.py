"""The two protocols that everything hangs on: a method is asked for a controller, the controller for actions.

Below them what the trainable methods have in common, and `make_method`, which finds a method by its config.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from lwd.config import DiffusionConfig, MethodConfig, Sampler, Source
from lwd.data.episodes import Episodes
from lwd.data.normalizer import Normalizer
from lwd.data.snippets import Batch, Snippets
from lwd.errors import LWDError
from lwd.methods.tasks import make_task_code, unknown_task

ENDLESS = 1 << 31  # horizon of a controller that reacts to what it sees, and so can act for any number of steps
Generators = torch.Generator | Sequence[torch.Generator] | None


class Controller(Protocol):
    """What `plan` returns: B controllers that act in lockstep, in the environment's own units."""

    horizon: int  # steps that it can act for; a closed loop has no end (ENDLESS)

    def act(self, obs: Tensor, t: int) -> Tensor:
        """One action per controller.

        Args:
            obs: (B, Do) raw observation.
            t: steps since the plan, 0 <= t < horizon (a closed-loop controller may ignore it).

        Returns:
            (B, Da) raw actions, float32, same device as the controller.
        """
        ...


class Planner(Protocol):
    """What a rollout needs of a method."""

    history: int  # K, past observations that a plan sees (1 = the current one only)
    horizon: int  # default steps between plans

    def plan(
        self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None, previous: Tensor | None = None
    ) -> Controller:
        """One controller per row.

        Args:
            history: (B, K, Do) raw observations, oldest first.
            task: B task names, for task-conditioned methods.
            generator: one generator for the batch, or one per row (then a row's result does not depend on the others).
            previous: (B, Z) what the controllers that acted until now have as their `latent`, for a warm start; a planner whose
                controllers have no `latent` is never given one.

        Returns:
            A controller for B environments.
        """
        ...


@dataclass(frozen=True)
class Spec:
    """What a method must know of the data to be built, kept in the run's config: no data is needed to load a model."""

    obs_dim: int
    action_dim: int
    horizon: int
    length: int
    env: str | None = None
    obs: str = "state"
    angles: tuple[int, ...] = ()
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    tasks: tuple[str, ...] = ()
    starts: Literal["every", "first"] = "every"


@dataclass(frozen=True)
class Sampling:
    """How a query denoises.

    Args:
        sampler: ddpm (the paper's, ancestral), ddim (deterministic), dpm++ (DPM-Solver++, second order), euler (flow matching).
        steps: denoising steps from pure noise.
        temperature: scale of the noise that sampling starts from; below 1 samples crowd towards the mode.
        latent: where a method with a latent takes it from: the trained model, a Gaussian fit of the encoded data (full covariance), or the
            prior N(0, I); the last two ignore the state.
        warm: a query that follows another starts from the previous latent with this fraction of the schedule's noise, and takes this
            fraction of the steps; 0 starts from pure noise.
    """

    sampler: Sampler
    steps: int
    temperature: float = 1.0
    warm: float = 0.0
    latent: Source = "model"

    @staticmethod
    def default(config: DiffusionConfig) -> Sampling:
        """The config's own."""
        return Sampling("euler" if config.objective == "flow" else config.sampler, config.sampler_steps, warm=config.warm_start)

    @property
    def label(self) -> str:
        """For names of results: `ddim4`, `ddim16-warm0.4`."""
        if self.latent != "model":
            return self.latent
        return f"{self.sampler}{self.steps}" + (f"-warm{self.warm:g}" if self.warm else "")


class ChunkController:
    """B chunks of actions, executed whatever happens (open loop).

    Attributes:
        actions: (B, T, Da) raw units.
        latent: (B, Z) what they were decoded from, or None.
    """

    def __init__(self, actions: Tensor, latent: Tensor | None = None) -> None:
        self.actions, self.latent, self.horizon = actions, latent, actions.shape[1]

    def act(self, obs: Tensor, t: int) -> Tensor:
        """(B, Da) raw actions of step t; `obs` is ignored."""
        return self.actions[:, t]


class Method(nn.Module):
    """A trainable planner. All inputs of the losses are features (normalised); `plan` speaks raw units.

    A subclass names its `stages` (each has a `Stage` of that name in the method's config) and has `groups`, `loss`, `validate`, `plan`.

    Args:
        config: settings of the method.
        spec: dimensions and declarations of the data.
    """

    stages: ClassVar[tuple[str, ...]] = ()
    sampling: Sampling | None = None  # of methods with a diffusion model
    has_latent: ClassVar[bool] = False

    def __init__(self, config: MethodConfig, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.horizon, self.history, self.before = spec.horizon, config.history, config.before
        self.normalizer = Normalizer(spec.obs_dim, spec.action_dim, spec.angles, spec.action_low, spec.action_high)
        self.task_code = make_task_code(config, spec.tasks) if self.stages else None  # what is not trained has no condition

    def sample_with(
        self, sampler: Sampler | None = None, steps: int | None = None, warm: float | None = None, latent: Source | None = None
    ) -> None:
        """Sample otherwise than in training; None keeps a setting.

        Raises:
            LWDError: a method that does not sample, or settings that it cannot be sampled with.
        """
        if sampler is None and steps is None and warm is None and latent is None:
            return
        if self.sampling is None:
            raise LWDError("this method has no diffusion model: leave out sampler, steps, warm start and latent")
        if (warm or latent not in (None, "model")) and not self.has_latent:
            raise LWDError("this method has no latent: leave out warm start and latent")
        own = self.sampling
        warm = own.warm if warm is None else warm
        self.sampling = replace(own, sampler=sampler or own.sampler, steps=steps or own.steps, warm=warm, latent=latent or own.latent)
        if not 0 <= self.sampling.warm < 1:
            raise LWDError(f"a warm start is a fraction of the schedule in [0, 1), not {self.sampling.warm:g}")

    @property
    def policy_parameters(self) -> int | None:
        """Weights of the network that acts at every step; None where none does (chunks)."""
        return None

    def snippets(self, episodes: Episodes, device: torch.device | str = "cpu") -> Snippets:
        """Snippets of some episodes, cut and numbered as this method was built for."""
        spec = self.spec
        return Snippets(episodes, self.normalizer, spec.length, self.before, device, spec.starts, spec.tasks)

    # --- the interface of the trainer ---------------------------------------------------------------------------------------------

    def fit_tasks(self) -> None:
        """When a training starts afresh: what the task embedding takes from elsewhere and the checkpoint then keeps.

        Raises:
            LWDError: a sentence encoder that is not installed or not there.
        """
        if self.task_code is not None:
            self.task_code.fit()

    @property
    def task_parameters(self) -> list[nn.Parameter]:
        """What the task embedding learns; belongs to the group of the network that reads the condition."""
        return [] if self.task_code is None else list(self.task_code.parameters())

    def prepare(self, stage: str, data: Snippets) -> None:
        """Before a stage starts or continues: what has to be measured on the training data."""

    def groups(self, stage: str) -> dict[str, tuple[list[nn.Parameter], float]]:
        """Optimisers of a stage: name -> (parameters, peak learning rate)."""
        raise NotImplementedError

    def loss(self, stage: str, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses of one stage; the trainer minimises `loss`."""
        raise NotImplementedError

    def validate(self, stage: str, data: Snippets, generator: torch.Generator) -> dict[str, float]:
        """Measurements on held-out snippets, by name: action error in raw units (root mean square)."""
        raise NotImplementedError

    # --- inference ----------------------------------------------------------------------------------------------------------------

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None, previous: Tensor | None = None) -> Any:
        """See `Planner.plan`.

        Raises:
            LWDError: wrong shape, or a task that the model does not know.
        """
        raise NotImplementedError

    def features(self, history: Tensor) -> Tensor:
        """(B, K, Do) raw -> (B, K, F).

        Raises:
            LWDError: another shape.
        """
        if history.ndim != 3 or history.shape[1:] != (self.history, self.spec.obs_dim):
            raise LWDError(f"plan needs observations of shape (batch, {self.history}, {self.spec.obs_dim}), not {tuple(history.shape)}")
        return self.normalizer.encode_obs(history.to(self.device, torch.float32))

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.normalizer.obs_scale.device

    def condition(self, history: Tensor, task: Tensor | None = None) -> Tensor:
        """(B, K, F) features, (B,) task indices -> (B, C).

        Raises:
            LWDError: no task, for a model of several.
        """
        cond = history.flatten(1)
        if self.task_code is None:
            return cond
        if task is None:
            raise self._which_task()
        return torch.cat([cond, self.task_code(task).to(cond.dtype)], -1)

    def condition_for(self, history: Tensor, task: Sequence[str] | None) -> Tensor:
        """(B, K, Do) raw observations, B task names -> (B, C): what a query is conditioned on.

        Raises:
            LWDError: see `features` and `task_index`.
        """
        return self.condition(self.features(history), self.task_index(task, len(history)))

    @property
    def condition_dim(self) -> int:
        """C."""
        return self.normalizer.feature_dim * self.history + (0 if self.task_code is None else self.task_code.dim)

    def condition_of(self, batch: Batch, noise: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """(B, C) of training snippets; `noise` is the standard deviation of noise on the observations, in normalised units."""
        history = batch.data.history(batch.start, self.history)
        if noise:
            history = history + noise * torch.randn(history.shape, generator=generator, device=history.device)
        return self.condition(history, self.tasks_of(batch))

    def tasks_of(self, batch: Batch) -> Tensor | None:
        """(B,) task indices of training snippets, None where the data has no task names."""
        return None if batch.data.task is None else batch.data.task[batch.start]

    def task_index(self, task: Sequence[str] | None, rows: int | None = None) -> Tensor | None:
        """(B,) indices of task names; None for a model of data without task names, or when none is said to a model of one task.

        Args:
            task: names.
            rows: B, how many there must be.

        Raises:
            LWDError: an unknown name, none for a model of several tasks, or not one per row.
        """
        known = self.spec.tasks
        if task is None and len(known) > 1:
            raise self._which_task()
        if task is None or not known:
            return None
        if set(task) - set(known):
            raise unknown_task(task, known)
        if rows is not None and len(task) != rows:
            raise LWDError(f"there must be one task name per row: {rows}, not {len(task)}")
        return torch.tensor([known.index(t) for t in task], device=self.device)

    def _which_task(self) -> LWDError:
        return LWDError(f"this model was trained on several tasks: say which, one of {', '.join(self.spec.tasks)}")

    def raw_errors(self, predicted: Tensor, action: Tensor, name: str, first: int) -> dict[str, float]:
        """(B, T, Da) features -> root mean square error in raw units, over all steps and at step `first` (that of the query)."""
        error = ((predicted - action) * self.normalizer.action_half).square()
        return {f"{name}_action_rmse": error.mean().sqrt().item(), f"{name}_first_action_rmse": error[:, first].mean().sqrt().item()}


def make_method(config: MethodConfig, spec: Spec) -> Method:
    """The method of a config, untrained (the file `lwd/methods/<name>.py` declares its class as `METHOD`)."""
    return importlib.import_module(f"lwd.methods.{config.name}").METHOD(config, spec)


def normal(shape: Any, generator: torch.Generator, device: torch.device) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=generator, device=device)
