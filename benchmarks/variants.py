"""What else a generated policy, or its generator, might see: each alone, on PushT, with a short recipe.

    python benchmarks/variants.py --data DATA [--variants base state ...] [--seed 0] [--out benchmarks/results/variants.json]

base: the short recipe. small: a hypernetwork xs, and an encoder of two layers of 256. phase: the policy sees its phase. phase-dropout: the
same, but in training 3 policies of 10 are told its middle. state: the hypernetwork sees the state of the query beside the latent. previous:
the policy sees the action before. idle: demonstrations without the steps in which nothing moves by a pixel. before: snippets begin 8 steps
before the query. latentN: a latent of N instead of 64 numbers. Development seeds from 200000 on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lwd.methods.lwd as module
from lwd.config import Config, EvalSettings
from lwd.data.formats.npz import save_npz
from lwd.data.read import read
from lwd.data.snippets import Batch
from lwd.episodes import Episodes
from lwd.evaluate import evaluate_run
from lwd.files import read_json, write_json
from lwd.methods.diffusion import draw
from lwd.methods.lwd import LWD, PolicyController
from lwd.nn.hypernetwork import SIZES, make_decoder
from lwd.nn.policy import PolicyShape
from lwd.studies.study import recipe
from lwd.training.train import train

BASE = recipe("demo", denoiser_width=128)
INTERVALS, DISTURBANCES, START = (16, 32, 128), ("none", "displace:50"), 200_000


class Dropped(LWD):
    """In training, three policies of ten are told the middle of the phase, whatever it is."""

    def act(self, weights: Tensor, obs: Tensor, phase: Tensor) -> Tensor:
        if self.training:
            phase = torch.where(torch.rand(len(phase), 1, device=phase.device) < 0.3, 0.5, phase)
        return super().act(weights, obs, phase)


class Beside(nn.Module):
    """A decoder whose input is the latent and a state (B, F) that was put beside it."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder, self.state = decoder, torch.zeros(0)

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(torch.cat([z, self.state.to(z.dtype)], 1))


class Seeing(LWD):
    """The hypernetwork sees the state of the query."""

    def build(self) -> None:
        super().build()
        size = self.config.latent + self.told + self.normalizer.feature_dim
        self.decoder = Beside(make_decoder(self.config.hypernetwork, size, self.shape, SIZES[self.config.decoder]))

    def autoencoder_loss(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        self.decoder.state = batch.obs[:, self.config.before]
        return super().autoencoder_loss(batch, step, generator)

    def decoded(self, latent: Tensor, batch: Batch, obs: Tensor | None = None) -> Tensor:
        self.decoder.state = batch.obs[:, self.config.before]
        return super().decoded(latent, batch, obs)

    def plan(self, history: Tensor, task: Any = None, generator: Any = None) -> Any:
        self.decoder.state = self.normalizer.encode_obs(history[:, -1])
        return super().plan(history, task, generator)


class Remembering(PolicyController):
    """Policies that see the action before; zero at the first step of an episode. A new policy sees what the old one did."""

    previous = torch.zeros(0)

    def act(self, obs: Tensor, t: Tensor) -> Tensor:
        if len(self.previous) != len(obs):
            self.previous = obs.new_zeros(len(obs), self.shape.sizes[-1])
        x = torch.cat([self.normalizer.encode_obs(obs), self.previous], 1)
        self.previous = self.shape.apply(self.weights, x.unsqueeze(1)).squeeze(1)
        return self.normalizer.decode_action(self.previous)


class Following(LWD):
    """The policy sees the action before."""

    def build(self) -> None:
        super().build()
        sizes = self.shape.sizes
        self.shape = PolicyShape([sizes[0] + self.spec.action_dim, *sizes[1:]])
        self.decoder = make_decoder(self.config.hypernetwork, self.config.latent + self.told, self.shape, SIZES[self.config.decoder])

    def with_previous(self, batch: Batch, obs: Tensor) -> Tensor:
        """(B, T, F) -> (B, T, F + A)."""
        first = batch.data.first[batch.start][:, None]
        before = batch.data.action[torch.maximum(batch.rows - 1, first)] * (batch.rows > first)[..., None]
        return torch.cat([obs, before], -1)

    def _cloning(self, weights: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        seen = self.with_previous(batch, batch.obs)
        seen = seen + self.config.policy_noise * draw(seen.shape, generator, seen.device)
        return self.reduce((self.act(weights, seen, batch.phase) - batch.action).square())

    def decoded(self, latent: Tensor, batch: Batch, obs: Tensor | None = None) -> Tensor:
        return super().decoded(latent, batch, self.with_previous(batch, batch.obs if obs is None else obs))

    def controller(self, latent: Tensor, horizon: Tensor | None = None) -> PolicyController:
        return Remembering(self.shape, self.decoder(latent), latent, self.normalizer)


VARIANTS: dict[str, tuple[type[LWD], dict[str, Any]]] = {
    "base": (LWD, {}),
    "small": (LWD, {"decoder": "xs", "encoder": (256, 256)}),
    "phase": (LWD, {"phase": True}),
    "phase-dropout": (Dropped, {"phase": True}),
    "state": (Seeing, {}),
    "previous": (Following, {}),
    "idle": (LWD, {}),
    "before": (LWD, {"before": 8}),
    "latent16": (LWD, {"latent": 16}),
    "latent256": (LWD, {"latent": 256}),
}


def without_idle(episodes: Episodes) -> Episodes:
    """Without the steps after which agent and block are less than a pixel, and a hundredth of a radian, from where they were."""
    change = np.abs(np.diff(episodes.obs, axis=0, append=episodes.obs[-1:]))
    keep = (change[:, :4].max(1) >= 1) | (change[:, 4] >= 0.01)
    keep[episodes.ends - 1] = True
    ends = np.cumsum(keep)[episodes.ends - 1]
    return Episodes(episodes.obs[keep], episodes.action[keep], ends, meta=episodes.meta)


def main() -> None:
    parser = argparse.ArgumentParser(description="What else policies and generators might see.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/variants"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "variants.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.variants:
        kind, changes = VARIANTS[name]
        module.METHOD, data = kind, args.data
        if name == "idle":
            args.runs.mkdir(parents=True, exist_ok=True)
            data = str(args.runs / "idle.npz")
            if not Path(data).exists():
                save_npz(without_idle(read(args.data)), Path(data))
        out = str(args.runs / f"{name}-{args.seed}")
        config: Config = replace(recipe(BASE, **changes), data=data, out=out, seed=args.seed, preset="")
        run = train(config, quiet=True)
        rows = []
        for every in INTERVALS:
            for disturb in DISTURBANCES:
                settings = EvalSettings(replan_every=every, disturb=disturb, episodes=50, seed_start=START)
                result, _, _ = evaluate_run(run, settings, workers=0)
                score = result["scores"][result["primary"]]
                values = [round(episode[result["primary"]], 4) for episode in result["records"]]
                rows.append(
                    {"replan_every": every, "disturb": disturb, **{k: score[k] for k in ("mean", "low", "high")}, "episodes": values}
                )
                print(name, args.seed, every, disturb, f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]", flush=True)
        found = read_json(args.out, "is no result") if args.out.exists() else {"command": "python benchmarks/variants.py --data DATA"}
        found[f"{name}-{args.seed}"] = rows
        write_json(args.out, found)


if __name__ == "__main__":
    main()
