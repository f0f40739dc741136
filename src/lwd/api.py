"""A trained run in a user's own program: observations in, policies out, everything in the environment's own units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwd.errors import LWDError
from lwd.methods.base import Method
from lwd.run import Run
from lwd.train import load_method

Array = TypeVar("Array", NDArray[Any], Tensor)


class Controls(Generic[Array]):
    """One controller (a generated policy, or a chunk of a baseline), or a batch of them; speaks the kind of array (numpy or torch) that it
    was planned with.

    Attributes:
        horizon: steps that it was made for.
        policies: the controllers inside, batched.
        shape: of the observations that `act` takes.
    """

    def __init__(self, policies: Any, horizon: int, shape: tuple[int, int], single: bool, numpy: bool) -> None:
        self.policies, self.shape, self.single, self.numpy, self.horizon = policies, shape, single, numpy, horizon

    def act(self, obs: Array, t: int = 0) -> Array:
        """Raw observation (Do,) or (B, Do) -> raw action (Da,) or (B, Da). `t` counts steps since the plan.

        Raises:
            LWDError: another shape than the plan's, a value that is not finite, or a step beyond the end of a chunk.
        """
        x = _tensor(obs)
        x = x.unsqueeze(0) if self.single and x.ndim == 1 else x
        if tuple(x.shape) != self.shape:
            raise LWDError(f"act needs observations of shape {self.shape[1:] if self.single else self.shape}, not {tuple(np.shape(obs))}")
        if not 0 <= t < self.policies.horizon:
            raise LWDError(
                f"this plan has actions for {self.policies.horizon} steps (t = 0 ... {self.policies.horizon - 1}), not for t = {t}"
            )
        with torch.no_grad():
            action = self.policies.act(x, t)
        action = action[0] if self.single else action
        return action.cpu().numpy() if self.numpy else action


class Generator:
    """A trained run.

    Args:
        run: directory of the run.
        device: where to compute.
        sampler: "ddpm", "ddim" or "dpm++" ("euler" for flow matching); the run's own by default.
        steps: denoising steps; the run's own by default.
        warm_start: see `plan`; the run's own by default.
        seed: of the sampling noise; None draws a fresh one.
    """

    def __init__(
        self,
        run: str | Path,
        device: str = "cpu",
        sampler: Any = None,
        steps: int | None = None,
        seed: int | None = None,
        warm_start: float | None = None,
    ) -> None:
        self.run = Run(run)
        self.method: Method = load_method(self.run, device)
        self.method.sample_with(sampler, steps, warm_start)
        self.generator = torch.Generator(device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)

    @property
    def horizon(self) -> int:
        """Steps that one policy was trained to act for."""
        return self.method.horizon

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the model was trained on; empty when its data names none."""
        return self.method.spec.tasks

    def plan(self, obs: Array, task: str | Sequence[str] | None = None, previous: Controls[Array] | None = None) -> Controls[Array]:
        """Generate a policy for the present observation.

        Args:
            obs: raw observation (Do,), a batch (B, Do), or with K past observations (B, K, Do), oldest first. Without a history, a model
                that wants one takes the observation as its own past.
            task: task name, or one per row; a model of one task needs none.
            previous: the plan that acted until now; with `warm_start` above 0 the new one is denoised from it, in fewer steps.

        Returns:
            The policy; ask it for actions with `act(obs, t)`.

        Raises:
            LWDError: wrong shape, a value that is not finite, an unknown task, none for a model of several, or not one per row.
        """
        x = _tensor(obs)
        single = x.ndim == 1
        x = x.unsqueeze(0) if single else x
        if x.ndim == 2:
            x = x.unsqueeze(1).expand(-1, self.method.history, -1)
        tasks = None if task is None else [self._task(t) for t in ([task] * len(x) if isinstance(task, str) else task)]
        latent = None if previous is None else getattr(previous.policies, "latent", None)
        controller = self.method.plan(x, tasks, self.generator, latent)
        return Controls(controller, self.horizon, (len(x), self.method.spec.obs_dim), single, not isinstance(obs, Tensor))

    def _task(self, name: str) -> str:
        """A task's name as the model knows it: the environment's family may know other spellings (`door-open-v3`)."""
        if not self.tasks:
            raise LWDError(f"the data of this model names no tasks: leave out task={name!r}")
        if name in self.tasks or self.method.spec.env is None:
            return name
        from lwd.envs.base import family

        try:
            return family(self.method.spec.env).task_name(name)
        except LWDError:  # the environment is not installed here, which a plan does not need
            return name


def load(run: str | Path, **options: Any) -> Generator:
    """The trained run in a directory; see `Generator` for the options.

    Raises:
        LWDError: no run there, or a damaged one.
    """
    return Generator(run, **options)


def _tensor(obs: Any) -> Tensor:
    x = torch.as_tensor(obs, dtype=torch.float32)
    if not torch.isfinite(x).all():
        raise LWDError("the observation holds a value that is NaN or infinite")
    return x
