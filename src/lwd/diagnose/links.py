"""Where does the chain break? One measurement per link, from the autoencoder to rollouts, on held-out data (docs/diagnose.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lwd.config import EvalSettings, require
from lwd.diagnose.decoded import Fixed, Replay, measured_run, own_scenario, random_snippets, recorded_actions
from lwd.envs.base import family
from lwd.episodes import Episodes
from lwd.methods.base import Planner
from lwd.methods.lwd import LWD
from lwd.report.tables import Table
from lwd.rollout import Scenario, rollout
from lwd.training.run import Run

IMAGINED_STEPS = 16  # of the world model's open loop
STARTS = 64  # held-out start states of `measure_links`

LATENT_MODEL = "the latent model is the weak link: train the diffusion stage longer, or raise beta"
EXPLODES = "samples collapse or explode: change prediction or sampler"
NEEDLE = "so sharp a code is a needle for the diffusion model: raise beta"
BRITTLE = "the decoder is brittle: raise beta"
OFF_PATH = "the policy is brittle off its path: raise method.policy_noise"
AFTER_HORIZON = {
    "replayed actions": "the simulator does not reproduce the data: check its version and start states",
    "decoded policy": "actions fit but the loop drifts: raise method.policy_noise, use the world model (L_RO)",
}
AFTER_EPISODE = {
    "replayed actions": "the simulator does not reproduce the data: check its version, and whether actions were noisy",
    "decoded policy": "actions fit but the loop fails: raise method.policy_noise, train the autoencoder longer",
    "sampled policy": "if decoded policies succeed: train the diffusion stage longer, or raise beta",
}


@dataclass(frozen=True)
class Link:
    """One measurement and what to think of it.

    Args:
        number: which link of the chain, 1 to 6.
        name: what was measured.
        value: the figure.
        unit: its unit.
        against: what it is compared with, in the same unit, or None.
        verdict: "ok", "weak", "broken", or "-" for a figure that only informs.
        advice: what to do when the verdict is bad.
    """

    number: int
    name: str
    value: float
    unit: str = ""
    against: float | None = None
    verdict: str = "-"
    advice: str = ""


def judge(value: float, good: float, bad: float) -> str:
    """ "ok" up to `good`, "broken" from `bad` on, "weak" between: smaller is better."""
    return "ok" if value <= good else "broken" if value >= bad else "weak"


class Chain:
    """The measurements. Action errors are in raw units, root mean square over samples, steps and dimensions.

    Args:
        method: trained through its first stage.
        training: training episodes; the latent's scale is its standard deviation over them.
        held: held-out episodes.
        samples: held-out snippets that are measured.
        seed: seed of everything random here.
        diffusion: whether the second stage is trained too.
        at_mean: take latents at the mean of the posterior in place of samples.
    """

    def __init__(self, method: LWD, training: Episodes, held: Episodes, samples: int, seed: int, diffusion: bool, at_mean: bool = False):
        self.method, self.held_episodes, self.diffusion, self.at_mean = method, held, diffusion, at_mean
        self.data, self.held = method.snippets(training, method.device), method.snippets(held, method.device)
        self.generator = torch.Generator(method.device).manual_seed(seed)
        self.batch = self.held.sample(samples, self.generator)
        with torch.no_grad():
            self.mean, logvar = method.posterior(self.batch.obs, self.batch.action)
            self.sigma = (0.5 * logvar).exp()
            self.z = self._drawn(self.mean, logvar)
            self.codes, code_logvar = method.encode_all(self.data)
        self.scale = (self.codes.var(0, correction=0) + code_logvar.exp().mean(0)).sqrt()  # aggregate standard deviation per dimension
        self.shuffled = self.z[torch.randperm(samples, generator=self.generator, device=method.device)]
        self.spread = self._distance(self.batch.action, self.batch.action.mean((0, 1)))
        self.rate = 0.5 * (self.sigma.square() + self.mean.square() - 1 - 2 * self.sigma.log()).sum(-1).mean().item()
        self.sharpness = (self.sigma.mean(0) / self.scale).median().item()

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, device=like.device)

    def _drawn(self, mean: Tensor, logvar: Tensor) -> Tensor:
        return mean if self.at_mean else mean + (0.5 * logvar).exp() * self._noise(mean)

    def _distance(self, a: Tensor, b: Tensor) -> float:
        return ((a - b) * self.method.normalizer.action_half).square().mean().sqrt().item()

    @torch.no_grad()
    def error(self, z: Tensor, noise: float = 0.0, first: bool = False) -> float:
        """Action error of the policies of latents (B, Z) on the held-out snippets; `noise` on what they see, in normalised units."""
        obs = self.batch.obs + noise * self._noise(self.batch.obs) if noise else self.batch.obs
        action, recorded = self.method.act(self.method.generate(z), obs), self.batch.action
        at = slice(self.method.before, self.method.before + 1) if first else slice(None)
        return self._distance(action[:, at], recorded[:, at])

    def reconstruction(self) -> list[Link]:
        """Link 1: snippet -> latent -> policy."""
        sampled, advice = self.error(self.z), "train the autoencoder longer, widen the policy or the decoder, or lower beta"
        verdict = judge(sampled, self.spread / 8, self.spread / 4)
        return [
            Link(1, "action error, decoded from the posterior mean", self.error(self.mean), "raw", self.spread),
            Link(1, "action error, decoded from a posterior sample", sampled, "raw", self.spread, verdict, advice),
            Link(1, "the same, first action only", self.error(self.z, first=True), "raw", self.spread),
        ]

    def use_of_the_latent(self) -> list[Link]:
        """Link 2: does the policy depend on its latent, and how sharp is the code?"""
        own, other = self.error(self.z), self.error(self.shuffled)
        ignores, sharp = judge(own / max(other, 1e-9), 0.5, 0.8), judge(-self.sharpness, -0.1, -0.04)
        rate = "ok" if 5 <= self.rate <= 150 else "weak" if 2 <= self.rate <= 400 else "broken"
        return [
            Link(2, "action error with a permuted latent", other, "raw", own, ignores, "the policy ignores its latent: lower beta"),
            Link(2, "rate, KL of the posterior", self.rate, "nats", None, rate, "aim at 10 to 100 nats: change beta"),
            Link(2, "posterior over aggregate sigma, median dimension", self.sharpness, "", None, sharp, NEEDLE),
        ]

    def off_the_path(self) -> list[Link]:
        """Link 3: noise on the latent, and on what the policy sees."""
        base = self.error(self.z)
        found = [
            (
                f"latent noise {size} sigma",
                self.error(self.z + size * self.scale * self._noise(self.z)),
                "the decoder is brittle: raise beta",
            )
            for size in (0.1, 0.3)
        ]
        found += [(f"observation noise {size}", self.error(self.z, size), OFF_PATH) for size in (0.02, 0.05)]
        return [Link(3, f"action error, {name}", v, "raw", base, judge(v, 1.5 * base, 3 * base), advice) for name, v, advice in found]

    def sampling(self) -> list[Link]:
        """Link 4: the diffusion model. A random latent of the data is the yardstick: a model that hits nothing is as far off."""
        if not self.diffusion:
            return []
        with torch.no_grad():
            z = self.method.sample(self.method.condition_of(self.batch), self.generator)
        first, decoded, other = (self.error(latent, first=True) for latent in (z, self.z, self.shuffled))
        gap = (first - decoded) / max(other - decoded, 1e-9)
        verdict = judge(gap, 0.6, 0.9) if other > 1.1 * decoded else "-"
        spread = ((z / self.scale).std(0).mean() / (self.z / self.scale).std(0).mean()).item()
        collapse = judge(abs(np.log(max(spread, 1e-9))), 0.15, 0.4)
        near, usual = (torch.cdist(x / self.scale, self.codes / self.scale).min(1).values.mean().item() for x in (z, self.z))
        far = judge(near, 1.25 * usual, 2 * usual)
        return [
            Link(4, "action error of sampled policies", self.error(z), "raw", self.error(self.z)),
            Link(4, "first action of sampled policies", first, "raw", decoded),
            Link(4, "the same, 0 = reconstruction, 1 = a random latent", gap, "", 1.0, verdict, LATENT_MODEL),
            Link(4, "standard deviation of samples over data", spread, "", 1.0, collapse, EXPLODES),
            Link(4, "distance of samples to the nearest code", near, "sigma", usual, far, LATENT_MODEL),
        ]

    def rollouts(self, count: int) -> list[Link]:
        """Link 5: one horizon from recorded states, and the distance to where the demonstration went; or, where only the seeds of the
        demonstrations are known, success in whole episodes from their starts."""
        held, steps = self.held_episodes, self.method.horizon
        if held.meta.env is None:
            return []
        kind = family(held.meta.env)
        states = kind.states(held)
        if states is None:
            return [] if kind.seeds(held) is None else self._from_own_starts(count)
        if held.lengths.max() <= steps:  # no demonstration goes on for so long
            return []
        fits = torch.nonzero(self.held.last - torch.arange(len(self.held.obs), device=self.held.last.device) >= steps).flatten()
        start = fits[torch.randperm(len(fits), generator=self.generator, device=fits.device)[:count]]
        index = start.cpu().numpy()
        actions = torch.from_numpy(np.stack([held.action[index + t] for t in range(steps)], 1))
        scenario = Scenario(held.meta.env, held.meta.obs_kind, tuple(range(len(index))), None, states[index])
        settings, goal = EvalSettings(replan_every=steps, max_steps=steps), states[index + steps]
        moved = float(np.mean([kind.distance(a, b) for a, b in zip(states[index], goal, strict=True)]))
        links = []
        for name, planner in self._planners(start, lambda part: actions[part], steps).items():
            records = rollout(planner, scenario, settings, record_states=True)
            value = float(np.mean([kind.distance(records.states[i][-1], goal[i]) for i in range(len(index))]))
            verdict = "-" if name == "sampled policy" else judge(value / max(moved, 1e-9), 0.35, 0.7)
            links.append(Link(5, f"final state after {steps} steps, {name}", value, "raw", moved, verdict, AFTER_HORIZON.get(name, "")))
        return links

    def _from_own_starts(self, count: int) -> list[Link]:
        """Link 5 of held-out demonstrations whose seeds are known; a policy is decoded from a random snippet of each."""
        held, kind = self.held_episodes, family(str(self.held_episodes.meta.env))
        order = torch.randperm(len(held), generator=self.generator, device=self.generator.device)[:count]
        chosen, rows, steps = order.cpu().numpy(), random_snippets(self.held, order, self.generator), kind.max_steps
        links = []
        for name, planner in self._planners(rows, lambda part: recorded_actions(held, chosen[part], steps), steps).items():
            settings = EvalSettings(replan_every=0 if name == "sampled policy" else steps)
            records = rollout(planner, own_scenario(held, chosen), settings)
            value = float(np.mean([episode[kind.primary] for episode in records.episodes]))
            short = 2 * self.method.horizon < float(held.lengths.mean())  # its policy is not made for the whole episode
            verdict = "-" if short and name == "decoded policy" else judge(1 - value, 0.1, 0.5)
            links.append(Link(5, f"{kind.primary} from {len(order)} held-out starts, {name}", value, "", 1.0, verdict, AFTER_EPISODE[name]))
        return links

    def _planners(self, rows: Tensor, actions: Callable[[slice], Tensor], steps: int) -> dict[str, Callable[[slice], Planner]]:
        """Replayed, decoded and sampled controllers for the snippets that start at some rows; each for a part of them."""
        batch = self.held.at(rows)
        with torch.no_grad():
            z = self._drawn(*self.method.posterior(batch.obs, batch.action))
        planners: dict[str, Callable[[slice], Planner]] = {
            "replayed actions": lambda part: Fixed(lambda: Replay(actions(part)), steps),
            "decoded policy": lambda part: Fixed(lambda: self.method.controller(z[part]), steps),
        }
        return {**planners, "sampled policy": lambda part: self.method} if self.diffusion else planners

    @torch.no_grad()
    def world_model(self) -> list[Link]:
        """Link 6: the world model one step and several steps ahead, against a predictor that says nothing changes; normalised units."""
        if self.method.world_model is None:
            return []
        rows, links = torch.arange(len(self.held.obs), device=self.held.obs.device), []
        starts = {steps: rows[self.held.last - rows >= steps] for steps in (1, IMAGINED_STEPS)}
        for steps, start in ((steps, start) for steps, start in starts.items() if len(start)):
            guesses = (self.method.imagine(self.held, start, steps), self.held.obs[start])
            value, still = ((guess - self.held.obs[start + steps]).square().mean().sqrt().item() for guess in guesses)
            verdict, name = judge(value / max(still, 1e-9), 0.5, 1.0), f"world model, {steps} step{'s' * (steps > 1)}, against no change"
            links.append(Link(6, name, value, "norm.", still, verdict, "train longer, or raise method.world_model_steps"))
        return links


def diagnose(run: Run, *, rollouts: int = 32, device: str = "cpu", samples: int = 512, seed: int = 0) -> dict[str, Any]:
    """All links of a trained run.

    Args:
        run: a run of LWD, trained at least through the autoencoder stage, with episodes held out.
        rollouts: held-out start states for link 5; 0, or data without a simulator, leaves it out.
        device: where to compute.
        samples: held-out snippets that are measured.
        seed: seed of everything random here.

    Returns:
        JSON-ready: the run, the links, and the name of the first broken one.

    Raises:
        LWDError: another method, no trained model, nothing held out, or the data is gone.
    """
    require(samples >= 2, f"--samples counts snippets: at least 2, not {samples}")
    require(rollouts >= 0, f"--rollouts counts start states: it must not be negative, but is {rollouts}")
    chain = Chain(*measured_run(run, device), samples, seed, "diffusion" in run.done)
    links = [*chain.reconstruction(), *chain.use_of_the_latent(), *chain.off_the_path(), *chain.sampling()]
    links += [*(chain.rollouts(rollouts) if rollouts else []), *chain.world_model()]
    return {
        "version": 2,
        "run": str(run.path),
        "held_out_snippets": samples,
        "horizon": chain.method.horizon,
        "links": [asdict(link) for link in links],
        "first_broken": next((link.name for link in links if link.verdict == "broken"), None),
    }


def tabulate_links(result: dict[str, Any]) -> Table:
    """What `diagnose` found, as a table."""
    rows = []
    for r in result["links"]:
        against = "" if r["against"] is None else f"{r['against']:.3g} {r['unit']}".strip()
        rows.append((f"{r['number']} {r['name']}", f"{r['value']:.3g} {r['unit']}".strip(), against, r["verdict"]))
    caption = f"{result['held_out_snippets']} held-out snippets. Raw: the data's own units, root mean square over steps and dimensions."
    return Table("The chain, link by link", ("link", "figure", "against", "verdict"), rows, caption)


def advice(result: dict[str, Any]) -> list[str]:
    """What to do about the links that `diagnose` found weak or broken, a sentence each."""
    return [f"{r['verdict']}: {r['name']} — {r['advice']}" for r in result["links"] if r["verdict"] in ("weak", "broken")]


def measure_links(run: Run, device: str = "cpu") -> dict[str, float | None]:
    """A few numbers of the chain for the studies, with latents at the encoder's mean.

    Returns:
        `rate` in nats; `sigma` of the posterior over that of the data, median dimension; `final_state`, `replayed`, `moved` in the family's
        units; `one_step`, `open_loop` errors of the world model over those of predicting no change. None for what does not apply.
    """
    chain = Chain(*measured_run(run, device), 512, 0, False, at_mean=True)
    unknown = dict.fromkeys(("final_state", "replayed", "moved", "one_step", "open_loop"))
    found: dict[str, float | None] = {"rate": chain.rate, "sigma": chain.sharpness, **unknown}
    for link in chain.rollouts(STARTS):
        found["final_state" if "decoded" in link.name else "replayed"] = link.value
        found["moved"] = link.against
    for link, key in zip(chain.world_model(), ("one_step", "open_loop"), strict=False):
        found[key] = link.value / max(link.against or 0.0, 1e-9)
    return found
