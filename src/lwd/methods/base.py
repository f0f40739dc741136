"""The two protocols that everything hangs on: a method is asked for a controller, the controller for actions.

Below them is what the trainable methods have in common, and `make_method`, which finds a method by its config.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from lwd.config import EvalSettings, MethodConfig, require
from lwd.data.normalizer import Normalizer
from lwd.data.snippets import Batch, Snippets
from lwd.episodes import Episodes, Spec
from lwd.errors import LWDError
from lwd.methods.diffusion import Generators, Sampling
from lwd.methods.world import World

ENDLESS = 1 << 31  # horizon of a controller that reacts to what it sees, and so can act for any number of steps


class Controller(Protocol):
    """What `plan` returns: B controllers, one per row, in the environment's own units."""

    horizon: int  # steps that it can act for; a closed loop has no end (ENDLESS)

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        """(B, Do) raw observations -> (B, Da) raw actions, float32, on the device of the controller.

        `t` (B,) int64 counts steps since each row's plan, 0 <= t < horizon. A closed-loop controller may ignore it.
        """
        ...

    def update(self, rows: Tensor, new: Any) -> None:
        """Replace the controllers of the rows (M,), in place, by the M of another controller that the same planner has made."""
        ...


class Planner(Protocol):
    """What a rollout needs of a method."""

    history: int  # K, observations that a plan sees (1 is the current one only)
    horizon: int  # default steps between plans

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> Controller:
        """(B, K, Do) raw observations, oldest first, and B task names -> controllers for B environments.

        `generator` is one for the batch, or one per row: then a row's result does not depend on the other rows.
        """
        ...


class Rows:
    """What a controller made of tensors shares: each of `tensors` has a row per environment, or is None."""

    tensors: ClassVar[tuple[str, ...]]

    def update(self, rows: Tensor, new: Any) -> None:
        """Replaces the tensors of the rows (M,) by those of another such controller of M rows."""
        for name in self.tensors:
            own = getattr(self, name)
            if own is not None:
                own[rows.to(own.device)] = getattr(new, name)

    def select(self, rows: Tensor) -> Any:
        """A copy with the rows (M,) alone."""
        chosen = copy(self)
        for name in self.tensors:
            own = getattr(self, name)
            setattr(chosen, name, None if own is None else own[rows.to(own.device)])
        return chosen


def with_phase(x: Tensor, phase: Tensor) -> Tensor:
    """(..., F) features and phases (...) from 0 to 1 -> (..., F + 1): the policy sees them from -1 to 1, as everything else."""
    return torch.cat([x, (2 * phase - 1).to(x.dtype).unsqueeze(-1)], -1)


class ChunkController(Rows):
    """B chunks of raw actions (B, T, Da), executed whatever happens (open loop), and the latents (B, Z) that they were decoded from."""

    tensors = ("actions", "latent")

    def __init__(self, actions: Tensor, latent: Tensor | None = None) -> None:
        self.actions, self.latent, self.horizon = actions, latent, actions.shape[1]

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        """(B, Da) raw actions of each row's step t; `obs` is ignored."""
        return self.actions[torch.arange(len(self.actions), device=self.actions.device), t.to(self.actions.device)]


class Method(nn.Module):
    """A trainable planner. All inputs of the losses are features (normalised); `plan` speaks raw units.

    Its `stages` are those of its config. A subclass has `groups`, `loss`, `validate`, `plan`.
    A model of several tasks is told the task as a one-hot code in its condition.
    """

    sampling: Sampling | None = None  # of methods with a diffusion model
    has_latent: ClassVar[bool] = False
    steering: Any = None  # of methods with a latent: `lwd.methods.steering.Steering`, which samples in place of the model
    span: int = 1  # factor between `horizon` and the shortest and the longest one that snippets have

    def __init__(self, config: Any, spec: Spec) -> None:
        super().__init__()
        self.config, self.spec, self.stages = config, spec, tuple(config.stages)
        self.horizon, self.history, self.before = spec.horizon, config.history, config.before
        self.normalizer = Normalizer(spec.obs_dim, spec.action_dim, spec.angles, spec.action_low, spec.action_high)
        self.task_dim = len(spec.tasks) if len(spec.tasks) > 1 else 0  # with one task there is nothing to say
        self.world: World | None = None
        if config.imagine:
            self.world = World(self.normalizer.feature_dim, spec.action_dim, self.task_dim, config.world)

    def sample_with(self, settings: EvalSettings) -> None:
        """Sample as the settings of an evaluation ask for; `LWDError` for settings that the method cannot be sampled with."""
        self.ask_for(settings)
        if not settings.sampler and not settings.sampler_steps and settings.latent == "model":
            return
        require(self.sampling is not None, "this method has no diffusion model: leave out sampler, sampler steps and latent")
        require(settings.latent == "model" or self.has_latent, "this method has no latent: leave out the source of the latent")
        assert self.sampling is not None
        self.sampling = self.sampling.changed(self.config, settings)

    def ask_for(self, settings: EvalSettings) -> None:
        """Plan for the interval and the delay of the settings, where plans can have several horizons. `LWDError` where they do not suit."""

    @property
    def policy_parameters(self) -> int | None:
        """Weights of the network that acts at every step; None where none does (chunks)."""
        return None

    def parameter_counts(self) -> dict[str, int]:
        """Parameters by module, and the weights of a generated policy."""
        parts = {name: sum(p.numel() for p in module.parameters()) for name, module in self.named_children()}
        parts = {name: count for name, count in parts.items() if count}
        if self.policy_parameters and "policy" not in parts:
            parts["generated policy"] = self.policy_parameters
        return parts

    def part(self, stage: str) -> Method | World:
        """What a stage trains: the method, or the world model beside it. It has `prepare`, `groups`, `loss` and `validate`."""
        return self.world if stage == "world" and self.world is not None else self

    def snippets(self, episodes: Episodes, device: torch.device | str = "cpu") -> Snippets:
        """Snippets of some episodes, cut and numbered as this method was built for."""
        spec = self.spec
        shape = (spec.length, self.before, device, spec.starts, spec.tasks, spec.horizon, self.span)
        return Snippets(episodes, self.normalizer, *shape)

    def prepare(self, stage: str, data: Snippets) -> None:
        """Before a stage starts or continues: what has to be measured on the training data."""

    def doubt(self, stage: str, held: Snippets) -> str:
        """Before a stage: a sentence on why it may do harm, as held-out data shows it; empty where nothing does."""
        return ""

    def groups(self, stage: str) -> dict[str, tuple[list[nn.Parameter], float]]:
        """Optimisers of a stage: name -> (parameters, peak learning rate)."""
        raise NotImplementedError

    def loss(self, stage: str, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses of one stage; the trainer minimises `loss`."""
        raise NotImplementedError

    def validate(self, stage: str, data: Snippets, generator: torch.Generator) -> dict[str, float]:
        """Measurements on held-out snippets, by name: action error in raw units (root mean square)."""
        raise NotImplementedError

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> Any:
        """See `Planner.plan`. Raises `LWDError` for a wrong shape, or a task that the model does not know."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.normalizer.obs_scale.device

    def condition(self, history: Tensor, task: Tensor | None = None) -> Tensor:
        """(B, K, F) features, (B,) task indices (needed where there are several tasks) -> (B, C)."""
        cond = history.flatten(1)
        if not self.task_dim:
            return cond
        assert task is not None
        return torch.cat([cond, nn.functional.one_hot(task, self.task_dim).to(cond.dtype)], -1)

    def condition_for(self, history: Tensor, task: Sequence[str] | None) -> Tensor:
        """(B, K, Do) raw observations, B task names -> (B, C): what a query is conditioned on. `LWDError` for another shape."""
        shape, given = (self.history, self.spec.obs_dim), tuple(history.shape)
        sees = f"an observation of this model has {shape[1]} number{'s' * (shape[1] != 1)}"
        require(len(given) == 3 and given[1:] == shape, f"{sees}: plan needs them in shape (batch, {shape[0]}, {shape[1]}), not {given}")
        features = self.normalizer.encode_obs(history.to(self.device, torch.float32))
        return self.condition(features, self.task_index(task, len(history)))

    @property
    def condition_dim(self) -> int:
        """C, the length of the vector that a query is conditioned on."""
        return self.normalizer.feature_dim * self.history + self.task_dim

    def condition_of(self, batch: Batch) -> Tensor:
        """(B, C) of training snippets."""
        return self.condition(batch.data.history(batch.start, self.history), self.tasks_of(batch))

    def tasks_of(self, batch: Batch) -> Tensor | None:
        """(B,) task indices of training snippets, None where the data has no task names."""
        return None if batch.data.task is None else batch.data.task[batch.start]

    def task_index(self, task: Sequence[str] | None, rows: int | None = None) -> Tensor | None:
        """(B,) indices of task names; None for a model of data without task names, or when none is said to a model of one task. `LWDError`
        for an unknown name, none for a model of several tasks, or not one for each of the `rows`."""
        known = self.spec.tasks
        require(task is not None or len(known) < 2, f"this model was trained on several tasks: say which, one of {', '.join(known)}")
        if task is None or not known:
            return None
        if wrong := sorted(set(task) - set(known)):
            close = [match for name in wrong for match in difflib.get_close_matches(name, known, 3)]
            meant = f"did you mean {' or '.join(dict.fromkeys(close))}? " if close else ""
            raise LWDError(f"this model does not know the task {', '.join(wrong)}: {meant}it knows {', '.join(known)}")
        require(rows in (None, len(task)), f"there must be one task name per row: {rows}, not {len(task)}")
        return torch.tensor([known.index(t) for t in task], device=self.device)

    def raw_errors(self, predicted: Tensor, action: Tensor, name: str, first: int) -> dict[str, float]:
        """(B, T, Da) features -> root mean square error in raw units, over all steps and at step `first` (that of the query)."""
        error = ((predicted - action) * self.normalizer.action_half).square()
        return {f"{name}_action_rmse": error.mean().sqrt().item(), f"{name}_first_action_rmse": error[:, first].mean().sqrt().item()}


def make_method(config: MethodConfig, spec: Spec) -> Method:
    """The method of a config, untrained (the file `lwd/methods/<name>.py` declares its class as `METHOD`)."""
    return importlib.import_module(f"lwd.methods.{config.name}").METHOD(config, spec)
