"""MLP baseline (section 4.1.1): one policy for every situation, with the architecture of the policies that LWD generates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lwd.config import EvalSettings, MLPConfig
from lwd.data.snippets import Batch, Snippets
from lwd.errors import LWDError
from lwd.methods.base import ENDLESS, Rows, Spec, with_phase
from lwd.methods.diffusion import Generators, draw
from lwd.methods.improvement import ImprovedMethod, Reaction
from lwd.nn.mlp import mlp


class MLPController(Rows):
    """One network for all rows, in raw units; closed loop. What it is told of the task is fixed until the next plan."""

    tensors = ("past",)
    horizon = ENDLESS

    def __init__(self, method: MLP, past: Tensor) -> None:
        self.method, self.past = method, past  # (B, C - F): everything but the present observation

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        """(B, Do) raw observations, steps since the query (B,), which only a policy with phase looks at -> (B, Da) raw actions."""
        present = self.method.normalizer.encode_obs(obs.to(self.past.device, torch.float32))
        return self.method.normalizer.decode_action(self.method.react(torch.cat([present, self.past], -1), t))


class MLP(ImprovedMethod):
    """Behaviour cloning of single steps (mean squared error)."""

    config: MLPConfig

    def __init__(self, config: MLPConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.policy = mlp([self.condition_dim + config.phase, *config.policy, spec.action_dim])

    @property
    def policy_parameters(self) -> int:
        """Weights of the policy."""
        return sum(p.numel() for p in self.policy.parameters())

    def ask_for(self, settings: EvalSettings) -> None:
        """Raises LWDError where a policy with phase would be asked again within an episode: its phase would begin anew."""
        if self.config.phase and 0 < settings.replan_every < self.horizon:
            raise LWDError(
                "the phase of this MLP counts from the beginning of an episode, so it is asked once, there, not every "
                f"{settings.replan_every} steps: say {self.horizon} or 0, or train it without --method.phase"
            )

    def react(self, condition: Tensor, age: Tensor) -> Tensor:
        """(B, C), which begins with the present features, steps since the query (B,) -> (B, Da) normalised actions. The phase comes between
        the features and what else is told."""
        if self.config.phase:
            present, told = condition.split([self.normalizer.feature_dim, condition.shape[1] - self.normalizer.feature_dim], 1)
            condition = torch.cat([with_phase(present, (age.to(present.device) / self.horizon).clamp_max(1)), told], 1)
        action: Tensor = self.policy(condition)
        return action

    def cloning_loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """L_BC of the start steps (uniform over the data, as those of the other methods' snippets)."""
        obs = batch.data.obs[batch.start]
        if self.config.policy_noise:
            obs = obs + self.config.policy_noise * draw(obs.shape, generator, obs.device)
        predicted = self.react(self.condition(obs.unsqueeze(1), self.tasks_of(batch)), batch.age).float()
        return (predicted - batch.data.action[batch.start]).square().mean()

    def loss(self, stage: str, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """L_BC, and in imagination L_V."""
        if stage == self.trained:
            return super().loss(stage, batch, step, generator)
        loss = self.cloning_loss(batch, generator)
        return {"L_BC": loss, "loss": loss}

    def reacting(self, batch: Batch, obs: Tensor, begun: Tensor, generator: torch.Generator) -> tuple[Tensor, Reaction]:
        """L_BC, and the policy."""

        def act(seen: Tensor, i: int) -> Tensor:
            return self.react(self.condition(seen.unsqueeze(1), self.tasks_of(batch)), batch.age + begun + i)

        return self.cloning_loss(batch, generator), act

    def groups(self, stage: str) -> dict[str, tuple[list[nn.Parameter], float]]:
        """One optimiser, for the whole policy."""
        return {"policy": (list(self.policy.parameters()), self.config.stages[stage].lr)}

    @torch.no_grad()
    def validate(self, stage: str, data: Snippets, generator: torch.Generator) -> dict[str, float]:
        """Error of single actions; in imagination its losses."""
        if stage == self.trained:
            return super().validate(stage, data, generator)
        batch = data.sample(4096, generator)
        predicted = self.react(self.condition_of(batch), batch.age)
        return self.raw_errors(predicted.unsqueeze(1), data.action[batch.start].unsqueeze(1), "policy", 0)

    @torch.no_grad()
    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> MLPController:
        """The same policy for every row; all that is computed is what it is told of the task."""
        return MLPController(self, self.condition_for(history, task)[:, self.normalizer.feature_dim :])


METHOD = MLP
