"""A trained run in a user's own program: observations in, policies out, everything in the environment's own units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lwd.config import EvalSettings, Sampler, Words, require
from lwd.control import CAUSES, ControlLoop, Monitor
from lwd.envs.base import family
from lwd.errors import LWDError
from lwd.methods.base import Controller, Method
from lwd.methods.wrappers import monitored, wrapped
from lwd.training.run import Run
from lwd.training.train import load_method, steering

Tags = Mapping[str, str | Sequence[str]] | Words | None  # by name; or NAME=VALUE, as the options have it
Array = TypeVar("Array", NDArray[Any], Tensor)


class Controls(Generic[Array]):
    """One controller (a generated policy, or a chunk of a baseline), or a batch of them, made for `horizon` steps and observations of shape
    `shape`. It speaks the kind of array (numpy or torch) that it was planned with. Inside are the batched `policies`."""

    def __init__(self, policies: Controller, horizon: int, shape: tuple[int, ...], numpy: bool) -> None:
        self.policies, self.horizon, self.shape, self.numpy = policies, horizon, shape, numpy

    def act(self, obs: Array, t: int | ArrayLike | Tensor = 0) -> Array:
        """Raw observation (Do,) or (B, Do) -> raw action (Da,) or (B, Da). `t` counts steps since the plan, for all rows or one per row
        (B,); a chunk of a baseline has an end."""
        x, steps, limit = _tensor(obs), torch.as_tensor(t), self.policies.horizon
        require(x.shape == self.shape, f"act needs observations of shape {self.shape}, not {tuple(x.shape)}")
        rows = x.reshape(-1, x.shape[-1])
        if steps.is_floating_point() or steps.ndim > 1 or steps.numel() not in (1, len(rows)):
            raise LWDError(f"t counts steps since the plan: a whole number, or one for each of the {len(rows)} rows, not {t!r}")
        if steps.min() < 0 or steps.max() >= limit:
            raise LWDError(f"this plan has actions for {limit} steps (t = 0 ... {limit - 1}), not for t = {t!r}")
        with torch.no_grad():
            action = self.policies.act(rows, steps.to(torch.int64).expand(len(rows))).reshape(*x.shape[:-1], -1)
        result: Any = action.cpu().numpy() if self.numpy else action
        return result


class Generator:
    """The trained model in the run directory `run`; `horizon` is the number of steps that one of its policies was trained to act for, and
    `tasks` names the tasks that it was trained on, none when its data names none.

    The sampler ("ddpm" or "ddim"; "euler" for flow matching) and the number of its denoising steps are the run's own by default. Without a
    seed, the sampling noise is fresh every time. With `imagine` N, every plan is the best of N by imagined progress; the run needs a world
    model for it (`method.imagine`). With `ensemble` N, every plan is N controllers, the mean of whose actions is executed."""

    def __init__(
        self,
        run: str | Path,
        device: str = "cpu",
        sampler: Sampler | None = None,
        steps: int | None = None,
        seed: int | None = None,
        imagine: int = 0,
        ensemble: int = 1,
    ) -> None:
        self.run, self._steered = Run(run), EvalSettings()
        self.method: Method = load_method(self.run, device)
        self.horizon, self.tasks = self.method.horizon, self.method.spec.tasks
        self.settings = EvalSettings(sampler=sampler, sampler_steps=steps or 0, imagine=imagine, ensemble=ensemble)
        self.method.sample_with(self.settings)
        self.planner = wrapped(self.method, self.settings)
        self.generator = torch.Generator(device)
        self.generator.manual_seed(self.generator.seed() if seed is None else seed)

    def plan(
        self,
        obs: Array,
        task: str | Sequence[str] | None = None,
        *,
        replan_every: int = 0,
        tag: Tags = None,
        near: int = -1,
        blend: tuple[float, ...] = (),
    ) -> Controls[Array]:
        """Generates a policy for a raw observation (Do,), a batch (B, Do), or (B, K, Do) with the past, oldest first: ask it for actions
        with `act(obs, t)`. Without a history, a model that wants one takes the observation as its own past. `task` is a name, or one per
        row; a model of one task needs none. A model that knows several horizons plans for `replan_every` steps (0: for `horizon`).
        The policies are of any kind that was demonstrated, or like those of the demonstrations with a
        tag ({"operator": "better-1"}; a list of values are alternatives), around the demonstration `near`, or on the way between two:
        `blend` is (A, B, weight of B). These three read the data that the model was trained on."""
        x = _tensor(obs)
        batch = x[None] if x.ndim == 1 else x
        history = batch[:, None].expand(-1, self.method.history, -1) if batch.ndim == 2 else batch
        self.method.ask_for(EvalSettings(replan_every=replan_every))
        self._steer(_steered(EvalSettings(), tag, near, blend))
        with torch.no_grad():
            controller = self.planner.plan(history, self._names(task, len(history)), self.generator)
        shape = (len(x), x.shape[-1]) if x.ndim == 3 else tuple(x.shape)
        return Controls(controller, self.horizon, shape, not isinstance(obs, Tensor))

    def agent(
        self,
        replan_every: int = 0,
        task: str | Sequence[str] | None = None,
        *,
        delay: int = 0,
        monitor: Monitor | float | None = None,
        tag: Tags = None,
        near: int = -1,
        blend: tuple[float, ...] = (),
    ) -> Agent:
        """An agent that takes observations and gives actions, and asks for new policies by itself: every `replan_every` steps (by default
        every `horizon`), and when the monitor wants one; `delay` steps pass until a new policy takes over (`lwd.control`). A number for
        the monitor is the distance from the world model's prediction (`lwd eval --monitor`). `tag`, `near` and `blend`: see `plan`."""
        require(replan_every >= 0 and delay >= 0, "replan_every and delay count steps: they must not be negative")
        settings = replace(self.settings, replan_every=replan_every or self.horizon, delay=delay)
        settings = _steered(settings, tag, near, blend)
        if isinstance(monitor, int | float):
            settings = replace(settings, monitor=float(monitor))
            monitor = monitored(self.method, settings)
        return Agent(self, settings, task, monitor)

    def _steer(self, settings: EvalSettings) -> None:
        """The plans that follow have latents as the settings want them."""
        wanted = EvalSettings(tag=settings.tag, near=settings.near, blend=settings.blend)
        if wanted != self._steered:
            self.method.steering, self._steered = steering(self.method, self.run, wanted), wanted

    def _names(self, task: str | Sequence[str] | None, rows: int) -> list[str] | None:
        """A task name per row, as the model knows it."""
        names = [task] * rows if isinstance(task, str) else task
        return None if names is None else [self._task(name) for name in names]

    def _task(self, name: str) -> str:
        """A task's name as the model knows it: the environment's family may know other spellings (`door-open-v3`)."""
        require(len(self.tasks) > 0, f"the data of this model names no tasks: leave out task={name!r}")
        if name not in self.tasks and self.method.spec.env is not None:
            with suppress(LWDError):  # a module of the user's own that is not here: a plan does not need it
                return family(self.method.spec.env).task_name(name)
        return name


class Agent:
    """Observations in, actions out, for one robot or a batch. It plans, counts the ages of policies, and asks for new ones in time.

    `ages` and `causes` (`lwd.control.CAUSES`) tell of the last action, for each row, which policy acted and why it was asked for.
    """

    def __init__(self, generator: Generator, settings: EvalSettings, task: str | Sequence[str] | None, monitor: Monitor | None) -> None:
        self.generator, self.task, self.settings, self.monitor = generator, task, settings, monitor
        self.planner = wrapped(generator.method, settings)
        self.reset()

    def reset(self) -> None:
        """A new episode begins with the next observation."""
        self._loop: ControlLoop | None = None
        self.shape: tuple[int, ...] = ()

    def act(self, obs: Array) -> Array:
        """Raw observation (Do,) or a batch (B, Do), of the same size until the next `reset` -> raw action (Da,) or (B, Da)."""
        x, own = _tensor(obs), self.generator
        require(x.ndim in (1, 2), f"act needs an observation (Do,) or a batch (B, Do), not shape {tuple(x.shape)}")
        if self._loop is not None:
            require(x.shape == self.shape, f"act needs observations of shape {self.shape} until the next reset, not {tuple(x.shape)}")
        rows = x.reshape(-1, x.shape[-1])
        own.method.ask_for(self.settings)
        own._steer(self.settings)
        how: Any = {"delay": self.settings.delay, "monitor": self.monitor, "generators": own.generator}
        loop = self._loop
        if loop is None:
            loop = ControlLoop(self.planner, self.settings.replan_every, tasks=own._names(self.task, len(rows)), **how)
        with torch.no_grad():
            action = loop.act(rows).reshape(*x.shape[:-1], -1)
        self._loop, self.shape = loop, tuple(x.shape)  # only now: an episode that could not begin can be begun again
        self.ages, self.causes = loop.ages.tolist(), [CAUSES[cause] for cause in loop.causes.tolist()]
        result: Any = action if isinstance(obs, Tensor) else action.numpy()
        return result


def _steered(settings: EvalSettings, tag: Tags, near: int, blend: tuple[float, ...]) -> EvalSettings:
    """The settings with a choice of latents."""
    if isinstance(tag, Mapping):
        tag = tuple(f"{name}={value}" for name, own in tag.items() for value in ([own] if isinstance(own, str) else own))
    return replace(settings, tag=tag or (), near=near, blend=tuple(blend))


load = Generator  # `lwd.load(run)`


def _tensor(obs: Any) -> Tensor:
    x = torch.as_tensor(obs, dtype=torch.float32)
    require(bool(torch.isfinite(x).all()), "the observation holds a value that is NaN or infinite")
    return x
