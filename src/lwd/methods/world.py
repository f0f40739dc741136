"""What actions do, and how far it still is: a small ensemble of world models (section 3.2), and of progress values.

Any method may have one (`method.imagine`). It is trained before all else, from the demonstrations alone, and knows nothing of the method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lwd.config import WorldStage
from lwd.data.snippets import Batch, Snippets
from lwd.methods.diffusion import draw
from lwd.nn.mlp import EnsembleMLP

TRUST = 3.0  # an imagined episode is cut where members disagree so many times as much as they typically do after `world.ahead` steps
VALUE_NOISE = 0.03  # standard deviation of noise on what the value sees in training, normalised units


class Imagined(NamedTuple):
    """N imagined episodes of T steps."""

    path: Tensor  # (T + 1, N, F) features, from the start on: means over the members
    steps: Tensor  # (N,) steps before the members disagree too much; T where they never do
    total: Tensor  # (N,) those steps, and the steps that then remain: what a good episode has few of


class World(nn.Module):
    """E members. Each predicts the change of the F features by the A action features, and the steps that remain in a demonstration."""

    def __init__(self, features: int, actions: int, tasks: int, settings: WorldStage) -> None:
        super().__init__()
        self.settings, self.tasks, self.members = settings, tasks, settings.members
        self.dynamics = EnsembleMLP(self.members, [features + actions + tasks, *settings.hidden, features])
        self.value = EnsembleMLP(self.members, [features + tasks, *settings.value_hidden, 1])
        self.register_buffer("change", torch.ones(features))  # typical one-step change (root mean square): the unit of predictions
        self.register_buffer("duration", torch.ones(()))  # mean steps from a demonstration's start to its goal: the unit of the value
        self.register_buffer("doubt", torch.ones(()))  # typical disagreement after `ahead` steps of demonstrations, in units of change
        self.change: Tensor
        self.duration: Tensor
        self.doubt: Tensor

    def step(self, obs: Tensor, action: Tensor, task: Tensor | None = None) -> Tensor:
        """What each member expects next: features (E, N, F), or (N, F) for all, actions (N, A), task indices (N,) -> (E, N, F)."""
        obs = self._each(obs)
        return obs + self.change * self.dynamics(self._told(torch.cat([obs, self._each(action)], -1), task)).float()

    def remaining(self, obs: Tensor, task: Tensor | None = None) -> Tensor:
        """Steps that remain in a demonstration, as each member sees it: features (N, F) -> (E, N)."""
        return self.duration * self.value(self._told(self._each(obs), task)).squeeze(-1).float()

    def pessimistic(self, obs: Tensor, task: Tensor | None = None) -> Tensor:
        """(N, F) -> (N,) steps that remain: the members' mean and, where they disagree, their standard deviation on top."""
        each = self.remaining(obs, task)
        return each.mean(0) + each.std(0, correction=0)

    def _each(self, x: Tensor) -> Tensor:
        return x if x.ndim == 3 else x.expand(self.members, *x.shape)

    def _told(self, x: Tensor, task: Tensor | None) -> Tensor:
        """The input (E, N, D) of all members, with the task as a one-hot code where there are several."""
        if not self.tasks:
            return x
        assert task is not None
        code = nn.functional.one_hot(task, self.tasks).to(x.dtype)
        return torch.cat([x, code.expand(*x.shape[:2], -1)], -1)

    def prepare(self, stage: str, data: Snippets) -> None:
        """Before training: measures on the data the units of predictions and of the value."""
        rows = torch.arange(len(data.obs), device=data.obs.device)
        rows = rows[rows < data.last]
        self.change.copy_((data.obs[rows + 1] - data.obs[rows]).square().mean(0).sqrt().clamp_min(1e-4))
        self.duration.copy_(data.left[data.first].mean() + 1)

    def groups(self, stage: str) -> dict[str, tuple[list[nn.Parameter], float]]:
        """One optimiser, for world models and values together."""
        return {"world": (list(self.parameters()), self.settings.lr)}

    def loss(self, stage: str, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_world: Huber loss of open-loop predictions, in units of change; L_value: squared error of the value, in units of duration.
        The starts are uniform over all steps of the data, wherever snippets start."""
        data, size = batch.data, len(batch.start)
        rows = torch.randint(len(data.obs), (size,), generator=generator, device=data.obs.device)
        task = None if data.task is None else data.task[rows]
        noise = draw((size, data.obs.shape[1]), generator, data.obs.device)
        x, L_world = data.obs[rows] + self.settings.noise * self.change * noise, data.obs.new_zeros(())
        for i in range(self.settings.ahead):
            now, after = (torch.minimum(rows + k, data.last[rows]) for k in (i, i + 1))
            x = self.step(x, data.action[now], task)
            aim = (data.obs[after] / self.change).expand_as(x)
            error = nn.functional.huber_loss(x / self.change, aim, reduction="none", delta=3.0).mean(-1)
            L_world = L_world + (error * (after > now)).mean() / self.settings.ahead
        value = self.remaining(data.obs[rows] + VALUE_NOISE * noise, task)
        L_value = ((value - data.left[rows]) / self.duration).square().mean()
        self.doubt.lerp_(self.disagreement(x.detach()).mean(), 0.01)
        return {"L_world": L_world, "L_value": L_value, "loss": L_world + L_value}

    def disagreement(self, predicted: Tensor) -> Tensor:
        """(E, N, F) predictions -> (N,) their standard deviation over the members, root mean square over features, in units of change."""
        return (predicted.std(0, correction=0) / self.change).square().mean(-1).sqrt()

    @torch.no_grad()
    def validate(self, stage: str, data: Snippets, generator: torch.Generator) -> dict[str, float]:
        """Held-out errors `ahead` steps ahead, over those of predicting no change, and of the value, in steps."""
        ahead = min(self.settings.ahead, int((data.last - data.first).max()))
        rows = torch.arange(len(data.obs), device=data.obs.device)
        value = self.remaining(data.obs, data.task).mean(0)
        found = {"value_rmse_steps": (value - data.left).square().mean().sqrt().item()}
        start = rows[data.last - rows >= ahead]
        error, still = (x - data.obs[start + ahead] for x in (self.recorded(data, start, ahead)[-1].mean(0), data.obs[start]))
        return {f"world_error_{ahead}": (error.norm() / still.norm().clamp_min(1e-9)).item(), **found}

    def recorded(self, data: Snippets, start: Tensor, steps: int) -> list[Tensor]:
        """Open loop along the recorded actions from start rows (N,): predictions (E, N, F) of each member on its own, after 1 ... steps."""
        task, x, found = None if data.task is None else data.task[start], data.obs[start], []
        for i in range(steps):
            x = self.step(x, data.action[start + i], task)
            found.append(x)
        return found

    def imagine(self, act: Callable[[Tensor, int], Tensor], obs: Tensor, steps: int, task: Tensor | None = None) -> Imagined:
        """Closed loop: features (N, F) and a policy `act(features (N, F), step) -> (N, A)` -> N imagined episodes.

        The next state is the mean over the members. Where they disagree too much the episode counts as cut: what comes later is not
        known. Nothing waits for the device."""
        path, trusted = [obs], torch.ones(len(obs), dtype=torch.bool, device=obs.device)
        count, end, limit = torch.zeros(len(obs), device=obs.device), obs, TRUST * self.doubt
        for i in range(steps):
            each = self.step(path[-1], act(path[-1], i), task)
            path.append(each.mean(0))
            trusted = trusted & (self.disagreement(each) < limit)
            count, end = count + trusted, torch.where(trusted[:, None], path[-1], end)
        return Imagined(torch.stack(path), count, count + self.pessimistic(end, task))
