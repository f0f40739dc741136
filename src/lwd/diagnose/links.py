"""Where does the chain break? One measurement per link, from the autoencoder to rollouts, on held-out data (docs/diagnose.md)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lwd.config import EvalSettings, LWDConfig, require
from lwd.diagnose.decoded import Fixed, measured_run, own_scenario, random_snippets
from lwd.diagnose.world import Links, joint_world_links, link, world_links
from lwd.envs.base import family
from lwd.episodes import Episodes
from lwd.methods.base import ChunkController, Planner
from lwd.methods.lwd import LWD
from lwd.report.tables import Table
from lwd.rollout import Scenario, rollout
from lwd.training.run import Run
from lwd.training.train import load_method, run_data

RECONSTRUCTION = "train the autoencoder longer, widen the policy or the decoder, or lower beta"
IGNORED = "the policy ignores its latent: lower beta"
NEEDLE = "so sharp a code is a needle for the diffusion model: raise beta"
BRITTLE = "the decoder is brittle: raise beta"
OFF_PATH = "the policy is brittle off its path: raise method.policy_noise"
LATENT_MODEL = "the latent model is the weak link: train the diffusion stage longer, or raise beta"
EXPLODES = "samples collapse or explode: change prediction or sampler"
IMPROVED = " The policies were improved in imagination and leave the demonstrations on purpose: links 1 to 5 have no verdict."
ROLLOUTS = {
    "replayed actions": "the simulator does not reproduce the data: check its version, its start states, and whether actions were noisy",
    "decoded policy": "actions fit but the loop drifts: raise method.policy_noise, use the world model, or train the autoencoder longer",
    "sampled policy": "if decoded policies succeed: train the diffusion stage longer, or raise beta",
}


class Chain:
    """The measurements on `samples` held-out snippets, with latents sampled from their posteriors, or with `at_mean` at the means.

    Action errors are in raw units, root mean square over samples, steps and dimensions. `diffusion` says whether that stage is trained too.
    """

    def __init__(self, method: LWD, training: Episodes, held: Episodes, samples: int, seed: int, diffusion: bool, at_mean: bool = False):
        self.method, self.episodes, self.diffusion, self.at_mean = method, held, diffusion, at_mean
        self.held, self.generator = method.snippets(held, method.device), torch.Generator(method.device).manual_seed(seed)
        self.batch = self.held.sample(samples, self.generator)
        with torch.no_grad():
            self.mean, logvar = method.posterior(self.batch)
            self.z = self._drawn(self.mean, logvar)
            self.codes, code_logvar = method.encode_all(method.snippets(training, method.device))
        self.scale = (self.codes.var(0, correction=0) + code_logvar.exp().mean(0)).sqrt()  # aggregate standard deviation per dimension
        self.shuffled = self.z[torch.randperm(samples, generator=self.generator, device=method.device)]
        self.rate = method.kl(self.mean, logvar).item() / 2
        self.sharpness = ((0.5 * logvar).exp().mean(0) / self.scale).median().item()

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, device=like.device)

    def _drawn(self, mean: Tensor, logvar: Tensor) -> Tensor:
        return mean if self.at_mean else mean + (0.5 * logvar).exp() * self._noise(mean)

    def _distance(self, a: Tensor, b: Tensor) -> float:
        return ((a - b) * self.method.normalizer.action_half).square().mean().sqrt().item()

    def _error(self, z: Tensor, noise: float = 0.0, first: bool = False) -> float:
        """Action error of the policies of latents (B, Z) on the held-out snippets; `noise` on what they see, in normalised units."""
        obs = self.batch.obs + noise * self._noise(self.batch.obs) if noise else self.batch.obs
        at = slice(self.method.before, self.method.before + 1) if first else slice(None)
        return self._distance(self.method.decoded(z, self.batch, obs)[:, at], self.batch.action[:, at])

    @torch.no_grad()
    def snippets(self) -> Links:
        """Links 1 to 4: from a snippet to a latent, from a latent to a policy, and from an observation to a latent."""
        z, scale, action = self.z, self.scale, self.batch.action
        spread, own, first = self._distance(action, action.mean((0, 1))), self._error(z), self._error(z, first=True)
        other, other_first = self._error(self.shuffled), self._error(self.shuffled, first=True)
        way = "lower" if self.rate < 5 else "raise"
        off_rate = (not 5 <= self.rate <= 150) + (not 2 <= self.rate <= 400)
        links = [
            link(1, "action error, decoded from the posterior mean", self._error(self.mean), "raw", spread),
            link(1, "action error, decoded from a posterior sample", own, "raw", spread, (own, spread / 8, spread / 4), RECONSTRUCTION),
            link(1, "the same, first action only", first, "raw", spread),
            link(2, "action error with a permuted latent", other, "raw", own, (own, 0.5 * other, 0.8 * other), IGNORED),
            link(2, "rate, KL of the posterior", self.rate, "nats", None, (off_rate, 0, 2), f"aim at 5 to 40 nats: {way} method.beta"),
            link(2, "posterior over aggregate sigma, median dimension", self.sharpness, "", None, (-self.sharpness, -0.1, -0.04), NEEDLE),
        ]
        noisy = [(f"latent noise {size} sigma", self._error(z + size * scale * self._noise(z)), BRITTLE) for size in (0.1, 0.3)]
        noisy += [(f"observation noise {size}", self._error(z, size), OFF_PATH) for size in (0.02, 0.05)]
        links += [link(3, f"action error, {name}", x, "raw", own, (x, 1.5 * own, 3 * own), remedy) for name, x, remedy in noisy]
        if not self.diffusion:
            return links
        drawn = self.method.sample(self.method.condition_of(self.batch), self.generator)
        drawn_first = self._error(drawn, first=True)
        # a random latent of the data is the yardstick: a model that hits nothing is as far off. Where it is as good, there is no yardstick
        gap = (drawn_first - first) / max(other_first - first, 1e-9)
        name = "the same, 0 = reconstruction, 1 = a random latent"
        ratio = ((drawn / scale).std(0).mean() / (z / scale).std(0).mean()).item()
        near, usual = (torch.cdist(x / scale, self.codes / scale).min(1).values.mean().item() for x in (drawn, z))
        return [
            *links,
            link(4, "action error of sampled policies", self._error(drawn), "raw", own),
            link(4, "first action of sampled policies", drawn_first, "raw", first),
            *([link(4, name, gap, "", 1.0, (gap, 0.6, 0.9), LATENT_MODEL)] if other_first > 1.1 * first else []),
            link(4, "standard deviation of samples over data", ratio, "", 1.0, (abs(math.log(max(ratio, 1e-9))), 0.15, 0.4), EXPLODES),
            link(4, "distance of samples to the nearest code", near, "sigma", usual, (near, 1.25 * usual, 2 * usual), LATENT_MODEL),
        ]

    def rollouts(self, count: int, workers: int | None = None) -> Links:
        """Link 5: one horizon from recorded states, and the distance to where the demonstration went. Where only the seeds of the
        demonstrations are known: success in whole episodes from their starts; policies are decoded from a random snippet of each."""
        held, method, env, generator = self.episodes, self.method, self.episodes.meta.env, self.generator
        if env is None or not count:
            return []
        kind, states = family(env), family(env).states(held)
        if states is None and kind.seeds(held) is None:
            return []
        if states is not None:
            steps, rows = method.horizon, torch.arange(len(self.held.obs), device=method.device)
            rows = rows[self.held.last - rows >= steps]
            rows = rows[torch.randperm(len(rows), generator=generator, device=method.device)[:count]]
            if not len(rows):  # no demonstration goes on for so long
                return []
            start = rows.cpu().numpy()
            scenario = Scenario(kind.name, held.meta.obs_kind, tuple(range(len(start))), None, states[start])
            goal = states[start + steps]
            moved = float(np.mean([kind.distance(*pair) for pair in zip(states[start], goal, strict=True)]))
        else:
            order = torch.randperm(len(held), generator=generator, device=method.device)[:count]
            steps, rows, chosen = kind.max_steps, random_snippets(self.held, order, generator), order.cpu().numpy()
            start, scenario = held.starts[chosen], own_scenario(held, chosen)
        last = self.held.last[torch.from_numpy(start)].cpu().numpy()  # an episode that is shorter repeats its last action
        recorded = torch.from_numpy(held.action[np.minimum(start[:, None] + np.arange(steps), last[:, None])])
        with torch.no_grad():
            batch = self.held.at(rows)
            z = self._drawn(*method.posterior(batch))
        planners: dict[str, Callable[[slice], Planner]] = {
            "replayed actions": lambda part: Fixed(lambda: ChunkController(recorded[part]), steps),
            "decoded policy": lambda part: Fixed(lambda: method.controller(z[part]), steps),
            "sampled policy": lambda part: method,
        }
        links = []
        for name, planner in list(planners.items())[: 3 if self.diffusion else 2]:
            records = rollout(planner, scenario, EvalSettings(max_steps=steps), workers=workers, record_states=states is not None)
            if states is not None:
                value = float(np.mean([kind.distance(records.states[i][-1], aim) for i, aim in enumerate(goal)]))
                judged = None if name == "sampled policy" else (value, 0.35 * moved, 0.7 * moved)
                links.append(link(5, f"final state after {steps} steps, {name}", value, "raw", moved, judged, ROLLOUTS[name]))
            else:
                value = float(np.mean([episode[kind.primary] for episode in records.episodes]))
                short = 2 * method.horizon < float(held.lengths.mean())  # its policy is not made for the whole episode
                judged = None if short and name == "decoded policy" else (1 - value, 0.1, 0.5)
                links.append(link(5, f"{kind.primary} from {len(start)} held-out starts, {name}", value, "", 1.0, judged, ROLLOUTS[name]))
        return links


def diagnose(run: Run, *, rollouts: int = 32, device: str = "cpu", samples: int = 512, seed: int = 0) -> dict[str, Any]:
    """All links of a run of LWD, and the name of the first broken one, JSON-ready; the options are those of `lwd diagnose`."""
    require(samples >= 2, f"--samples counts snippets: at least 2, not {samples}")
    require(rollouts >= 0, f"--rollouts counts start states: it must not be negative, but is {rollouts}")
    if run.config().method.name != LWDConfig.name and run.config().method.imagine:
        method, (_, held) = load_method(run, device, stages=("world",)), run_data(run)
        require(held is not None, f"{run.path}: {run.nothing_held}")
        assert held is not None
        links = world_links(method, held)
    else:
        chain = Chain(*measured_run(run, device), samples, seed, "diffusion" in run.done)
        method, links = chain.method, [*chain.snippets(), *chain.rollouts(rollouts)]
        if "improvement" in run.done:  # see IMPROVED
            links = [{**own, "verdict": "-"} for own in links]
        links += [*joint_world_links(chain.method, chain.held), *world_links(chain.method, chain.episodes)]
    improved = "improvement" in run.done
    found = {
        "version": 2,
        "run": str(run.path),
        "held_out_snippets": samples,
        "horizon": method.horizon,
        "improved": improved,
        "links": links,
    }
    return {**found, "first_broken": next((own["name"] for own in links if own["verdict"] == "broken"), None)}


def tabulate_links(result: dict[str, Any]) -> Table:
    """What `diagnose` found, as a table."""
    rows = []
    for r in result["links"]:
        figures = ("" if x is None else f"{x:.3g} {r['unit']}".strip() for x in (r["value"], r["against"]))
        rows.append((f"{r['number']} {r['name']}", *figures, r["verdict"]))
    caption = f"{result['held_out_snippets']} held-out snippets. Raw: the data's own units, root mean square over steps and dimensions."
    caption += IMPROVED if result.get("improved") else ""
    return Table("The chain, link by link", ("link", "figure", "against", "verdict"), rows, caption)


def advice(result: dict[str, Any]) -> list[str]:
    """What to do about the weak and the broken links, a sentence each."""
    return [f"{r['verdict']}: {r['name']} — {r['advice']}" for r in result["links"] if r["verdict"] in ("weak", "broken")]


def measure_links(run: Run, device: str = "cpu", workers: int | None = None) -> dict[str, float | None]:
    """A few numbers of the chain for the studies, with latents at the encoder's mean. None for what does not apply.

    `rate` in nats; `final_state`, `replayed`, `moved` in the family's units; `one_step`, `open_loop` over the errors of no change.
    """
    chain = Chain(*measured_run(run, device), 512, 0, False, at_mean=True)
    found: dict[str, float | None] = {"rate": chain.rate, "sigma": chain.sharpness}
    found |= dict.fromkeys(("final_state", "replayed", "moved", "one_step", "open_loop"))
    for own in chain.rollouts(64, workers):
        found["final_state" if "decoded" in own["name"] else "replayed"] = own["value"]
        found["moved"] = own["against"]
    for own, key in zip(joint_world_links(chain.method, chain.held), ("one_step", "open_loop"), strict=False):
        found[key] = own["value"] / max(own["against"] or 0.0, 1e-9)
    return found
