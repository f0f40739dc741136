"""Learning in imagination: policies are improved through imagined episodes, and the robot pays nothing (`lwd improve`).

A policy acts in the world model for some steps, from states beside the demonstrated path, and the steps that remain at the end, by the
progress value, are what it is to make few of. The gradient flows through world model and policy, beside the cloning error. Near the goal,
where the value is too coarse, cloning alone decides. At run time nothing is added: one generator, one query.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from lwd.config import Improved, MethodConfig
from lwd.data.snippets import Batch, Snippets
from lwd.episodes import Spec
from lwd.methods.base import Method
from lwd.methods.world import World

Reaction = Callable[[Tensor, int], Tensor]  # (B, F) features, number of the imagined step -> (B, Da) normalised actions
# of a world model, over the error of no change: improvement helped at 0.11 (PushT), and did harm at 0.45 (Metaworld) and 0.62 (Can)
POOR = 0.35
LIMIT = 1.05  # of imagined actions, normalised: the demonstrations' range, and a little


class ImprovedMethod(Method):
    """What a method with closed-loop policies gains with `improve`: a last stage in imagination. A subclass has `reacting`."""

    trained: ClassVar[str] = "improvement"

    def __init__(self, config: MethodConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        assert isinstance(config, Improved)
        self.settings = config.improvement

    def reacting(self, batch: Batch, obs: Tensor, begun: Tensor, generator: torch.Generator) -> tuple[Tensor, Reaction]:
        """The cloning error of B snippets, and what their policies do in imagined episodes that start at features (B, F), `begun` (B,)
        steps after the query."""
        raise NotImplementedError

    def loss(self, stage: str, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_BC + weight · L_V, of which L_V are the remaining steps at the end of imagined episodes over those of a demonstration."""
        if stage != self.trained:
            return super().loss(stage, batch, step, generator)
        assert self.world is not None
        data, world, settings = batch.data, self.world, self.settings
        fraction = torch.rand(len(batch.start), generator=generator, device=batch.start.device)
        begun = (fraction * batch.horizon).floor().long()
        rows = torch.minimum(batch.start + begun, data.last[batch.start])
        task = self.tasks_of(batch)
        obs = self._detour(data, rows, task, generator)
        L_BC, act = self.reacting(batch, obs, begun, generator)
        for i in range(settings.ahead):
            obs = world.step(obs, act(obs, i).float().clamp(-LIMIT, LIMIT), task).mean(0)
        far = world.remaining(data.obs[rows], task).mean(0) > settings.near * world.duration
        L_V = (far * world.pessimistic(obs, task) / world.duration).mean()
        return {"L_BC": L_BC, "L_V": L_V, "loss": L_BC + settings.weight * L_V}

    def doubt(self, stage: str, held: Snippets) -> str:
        """Of the improvement: that imagined episodes may mislead, where held-out ones show it."""
        if stage != self.trained:
            return super().doubt(stage, held)
        assert self.world is not None
        (name, error), _ = self.world.validate("world", held, torch.Generator(self.device)).items()
        what = f"{name.rpartition('_')[2]} steps ahead the world model is off by {error:.2f} of what predicting no change is off by"
        return f"{what}: improvement may make policies worse; compare with a run without it" if error > POOR else ""

    @torch.no_grad()
    def validate(self, stage: str, data: Snippets, generator: torch.Generator) -> dict[str, float]:
        """The same losses on held-out snippets."""
        if stage != self.trained:
            return super().validate(stage, data, generator)
        losses = self.loss(stage, data.sample(256, generator), 0, generator)
        return {name: losses[name].item() for name in ("L_BC", "L_V")}

    @torch.no_grad()
    def _detour(self, data: Snippets, rows: Tensor, task: Tensor | None, generator: torch.Generator) -> Tensor:
        """(B,) rows -> (B, F) features up to `detour` imagined steps away, where actions lead that were demonstrated elsewhere."""
        world: World | None = self.world
        assert world is not None
        most, device, obs = self.settings.detour, rows.device, data.obs[rows]
        other = torch.randint(len(data.obs), rows.shape, generator=generator, device=device)
        steps = torch.randint(most + 1, rows.shape, generator=generator, device=device)
        for i in range(most):
            action = data.action[torch.minimum(other + i, data.last[other])]
            obs = torch.where((i < steps)[:, None], world.step(obs, action, task).mean(0), obs)
        return obs
