"""The rungs of `lwd diagnose`: one measurement per link of the chain (design of the ladder: docs/diagnose.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lwd.data.episodes import Episodes
from lwd.decoded import Fixed, Replay, random_snippets, recorded_actions, run_from_own_starts
from lwd.methods.lwd import LWD

IMAGINED_STEPS = 16  # of the open-loop rung of the world model


@dataclass(frozen=True)
class Rung:
    """One measurement and what to think of it.

    Args:
        rung: number of the link, 1 to 6.
        name: what was measured.
        value: the figure.
        unit: of the figure.
        against: what it is compared with, in the same unit, or None.
        verdict: "ok", "weak", "broken", or "-" for a figure that only informs.
        meaning: what to do when the verdict is bad.
    """

    rung: int
    name: str
    value: float
    unit: str
    against: float | None
    verdict: str
    meaning: str


def judge(value: float, good: float, bad: float) -> str:
    """ "ok" up to `good`, "broken" from `bad` on, "weak" between: smaller is better."""
    return "ok" if value <= good else "broken" if value >= bad else "weak"


class Ladder:
    """The measurements; actions in raw units throughout. The latent's scale is its standard deviation over the data."""

    def __init__(self, method: LWD, training: Episodes, held: Episodes, samples: int, seed: int, diffusion: bool, device: str) -> None:
        self.method, self.training, self.held_episodes, self.diffusion = method, training, held, diffusion
        self.data = method.snippets(training, device)
        self.held = method.snippets(held, device)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.batch = self.held.sample(samples, self.generator)
        with torch.no_grad():
            self.mean, logvar = method.posterior(self.batch.obs, self.batch.action)
            self.sigma = (0.5 * logvar).exp()
            self.z = self.mean + self.sigma * self.normal(self.mean.shape)
            self.codes, self.code_logvar = method.encode_all(self.data)
        self.scale = (self.codes.var(0) + self.code_logvar.exp().mean(0)).sqrt()  # aggregate standard deviation per dimension
        shuffled = self.z[torch.randperm(samples, generator=self.generator, device=device)]
        self.permuted = self.error(shuffled)
        self.spread = self._distance(self.batch.action, self.batch.action.mean((0, 1)))

    def normal(self, shape: Any) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.generator.device)

    def _distance(self, a: Tensor, b: Tensor) -> float:
        """Root mean square over samples and steps of the distance between two actions, raw units."""
        return ((a - b) * self.method.normalizer.action_half).square().sum(-1).mean().sqrt().item()

    @torch.no_grad()
    def error(self, z: Tensor, noise: float = 0.0, first: bool = False) -> float:
        """Action error of the policies of latents (B, Z) on the held-out snippets; `noise` on what they see, in normalised units."""
        obs = self.batch.obs + noise * self.normal(self.batch.obs.shape)
        action = self.method.act(self.method.generate(z), obs)
        if first:
            at = self.method.config.before
            return self._distance(action[:, at], self.batch.action[:, at])
        return self._distance(action, self.batch.action)

    def reconstruction(self) -> list[Rung]:
        """Rung 1."""
        more = "train the autoencoder longer, widen the policy or the decoder, or lower beta"
        sampled = self.error(self.z)
        return [
            Rung(1, "action error, decoded from the posterior mean", self.error(self.mean), "raw", self.spread, "-", ""),
            Rung(
                1,
                "action error, decoded from a posterior sample",
                sampled,
                "raw",
                self.spread,
                judge(sampled, self.spread / 8, self.spread / 4),
                more,
            ),
            Rung(1, "the same, first action only", self.error(self.z, first=True), "raw", self.spread, "-", ""),
        ]

    def use_of_the_latent(self) -> list[Rung]:
        """Rung 2."""
        ratio = self.error(self.z) / max(self.permuted, 1e-9)
        rate = 0.5 * (self.sigma.square() + self.mean.square() - 1 - 2 * self.sigma.log()).sum(-1).mean().item()
        sharp = (self.sigma.mean(0) / self.scale).median().item()
        verdict = "ok" if 5 <= rate <= 150 else "weak" if 2 <= rate <= 400 else "broken"
        needle = "ok" if sharp >= 0.1 else "weak" if sharp >= 0.04 else "broken"
        return [
            Rung(
                2,
                "action error with a permuted latent",
                self.permuted,
                "raw",
                self.error(self.z),
                judge(ratio, 0.5, 0.8),
                "the policy ignores its latent: lower beta",
            ),
            Rung(2, "rate, KL of the posterior", rate, "nats", None, verdict, "aim at 10 to 100 nats: change beta"),
            Rung(
                2,
                "posterior over aggregate sigma, median dimension",
                sharp,
                "",
                None,
                needle,
                "so sharp a code is a needle for the diffusion model: raise beta",
            ),
        ]

    def off_the_path(self) -> list[Rung]:
        """Rung 3."""
        base, rungs = self.error(self.z), []
        for size in (0.1, 0.3):
            value = self.error(self.z + size * self.scale * self.normal(self.z.shape))
            rungs.append(
                Rung(
                    3,
                    f"action error, latent noise {size} sigma",
                    value,
                    "raw",
                    base,
                    judge(value, 1.5 * base, 3 * base),
                    "raise beta: the decoder is brittle",
                )
            )
        for noise in (0.02, 0.05):
            value = self.error(self.z, noise)
            advice = "the policy is brittle off its path: raise method.policy_noise"
            rungs.append(
                Rung(3, f"action error, observation noise {noise}", value, "raw", base, judge(value, 1.5 * base, 3 * base), advice)
            )
        return rungs

    def sampled(self) -> Tensor:
        """(B, Z) latents from the diffusion model, for the held-out states and their tasks."""
        return self.method.sample(self.method.condition_of(self.batch), self.generator)

    def sampling(self) -> list[Rung]:
        """Rung 4. A random latent of the data is the yardstick: a model that hits nothing is as far off."""
        if not self.diffusion:
            return []
        z = self.sampled()
        base, first = self.error(self.z), self.error(z, first=True)
        permuted = self.z[torch.randperm(len(self.z), generator=self.generator, device=self.z.device)]
        random_first, recon_first = self.error(permuted, first=True), self.error(self.z, first=True)
        spread = ((z / self.scale).std(0).mean() / (self.z / self.scale).std(0).mean()).item()
        codes = self.codes / self.scale
        nearest, yardstick = (torch.cdist(x / self.scale, codes).min(1).values.mean().item() for x in (z, self.z))
        gap = (first - recon_first) / max(random_first - recon_first, 1e-9)
        off = abs(np.log(max(spread, 1e-9)))
        train = "the latent model is the weak link: train the diffusion stage longer, or raise beta"
        return [
            Rung(4, "action error of sampled policies", self.error(z), "raw", base, "-", ""),
            Rung(4, "first action of sampled policies", first, "raw", recon_first, "-", ""),
            Rung(
                4,
                "the same, 0 = reconstruction, 1 = a random latent",
                gap,
                "",
                1.0,
                judge(gap, 0.6, 0.9) if random_first > 1.1 * recon_first else "-",
                train,
            ),
            Rung(
                4,
                "standard deviation of samples over data",
                spread,
                "",
                1.0,
                judge(off, 0.15, 0.4),
                "samples collapse or explode: change prediction or sampler",
            ),
            Rung(
                4,
                "distance of samples to the nearest code",
                nearest,
                "sigma",
                yardstick,
                judge(nearest, 1.25 * yardstick, 2 * yardstick),
                train,
            ),
        ]

    def rollouts(self, count: int) -> list[Rung]:
        """Rung 5: one horizon from recorded states; distance to where the demonstration went. Where only the seeds of the demonstrations
        are known: success in whole episodes from their starts."""
        from lwd.envs.base import family
        from lwd.rollout import rollout

        env = self.training.meta.env
        assert env is not None
        states = family(env).states(self.held_episodes)
        if states is None:
            return [] if family(env).seeds(self.held_episodes) is None else self._from_own_starts(count)
        steps = self.method.horizon
        fits = torch.nonzero(self.held.last - torch.arange(self.held.count, device=self.held.last.device) >= steps).flatten()
        if not len(fits):
            return []
        start = fits[torch.randperm(len(fits), generator=self.generator, device=fits.device)[:count]]
        batch = self.held.at(start)
        with torch.no_grad():
            mean, logvar = self.method.posterior(batch.obs, batch.action)
        z = mean + (0.5 * logvar).exp() * self.normal(mean.shape)
        index = start.cpu().numpy()
        recorded = torch.from_numpy(np.stack([self.held_episodes.action[index + t] for t in range(steps)], 1))
        goal = states[index + steps]
        planners: dict[str, Any] = {
            "replayed actions": Fixed(Replay(recorded), steps),
            "decoded policy": Fixed(self.method.controller(z), steps),
        }
        if self.diffusion:
            planners["sampled policy"] = self.method
        distances = {}
        for name, planner in planners.items():
            records = rollout(
                planner,
                env,
                self.training.meta.obs,
                list(range(len(index))),
                states=states[index],
                max_steps=steps,
                horizon=steps,
                record_states=True,
            )
            last = np.stack([records.states[i][-1] for i in range(len(index))])
            distances[name] = float(np.mean([family(env).distance(a, b) for a, b in zip(last, goal, strict=True)]))
        moved = float(np.mean([family(env).distance(a, b) for a, b in zip(states[index], goal, strict=True)]))
        advice = {
            "replayed actions": "the simulator does not reproduce the data: check its version and start states",
            "decoded policy": "actions fit but the loop drifts: raise method.policy_noise, use the world model (L_RO)",
            "sampled policy": "",
        }
        rungs = []
        for name, value in distances.items():
            verdict = "-" if name == "sampled policy" else judge(value / max(moved, 1e-9), 0.35, 0.7)
            rungs.append(Rung(5, f"final state after {steps} steps, {name}", value, "raw", moved, verdict, advice[name]))
        return rungs

    @torch.no_grad()
    def _from_own_starts(self, count: int) -> list[Rung]:
        """Rung 5 of held-out demonstrations whose seeds are known; a policy is decoded from a random snippet of each."""
        from lwd.envs.base import family

        kind, held = family(str(self.training.meta.env)), self.held_episodes
        order = torch.randperm(len(held), generator=self.generator, device=self.generator.device)[:count]
        batch = self.held.at(random_snippets(self.held, order, self.generator))
        mean, logvar = self.method.posterior(batch.obs, batch.action)
        z, place = mean + (0.5 * logvar).exp() * self.normal(mean.shape), {int(e): i for i, e in enumerate(order)}
        planners: dict[str, Any] = {
            "replayed actions": lambda part: Fixed(Replay(recorded_actions(held, part, kind.max_steps)), kind.max_steps),
            "decoded policy": lambda part: Fixed(self.method.controller(z[[place[int(e)] for e in part]]), kind.max_steps),
        }
        if self.diffusion:
            planners["sampled policy"] = lambda part: self.method
        advice = {
            "replayed actions": "the simulator does not reproduce the data: check its version, and whether actions were noisy",
            "decoded policy": "actions fit but the loop fails: raise method.policy_noise, train the autoencoder longer",
            "sampled policy": "if decoded policies succeed: train the diffusion stage longer, or raise beta",
        }
        rungs = []
        for name, planner in planners.items():
            records = run_from_own_starts(planner, held, order.cpu().numpy())
            value = float(np.mean([episode[kind.primary] for episode in records.episodes]))
            # a policy of a short snippet is not made for the whole episode
            judged = name != "decoded policy" or 2 * self.method.horizon >= float(held.lengths.mean())
            verdict = judge(1 - value, 0.1, 0.5) if judged else "-"
            rungs.append(Rung(5, f"{kind.primary} from {len(order)} held-out starts, {name}", value, "", 1.0, verdict, advice[name]))
        return rungs

    @torch.no_grad()
    def world_model(self) -> list[Rung]:
        """Rung 6, against a predictor that says nothing changes; normalised units."""
        model = self.method.world_model
        if model is None:
            return []
        rungs = []
        rows = torch.arange(len(self.held.obs), device=self.held.obs.device)
        for steps in (1, IMAGINED_STEPS):
            start = rows[self.held.last - rows >= steps]
            if not len(start):
                continue
            state = self.held.obs[start]
            for t in range(steps):
                state = model(state, self.held.action[start + t])
            target = self.held.obs[start + steps]
            value, still = ((x - target).square().mean().sqrt().item() for x in (state, self.held.obs[start]))
            verdict = judge(value / max(still, 1e-9), 0.5, 1.0)
            rungs.append(
                Rung(
                    6,
                    f"world model, {steps} step{'s' * (steps > 1)}, against no change",
                    value,
                    "norm.",
                    still,
                    verdict,
                    "train longer, or raise method.world_model_steps",
                )
            )
        return rungs
