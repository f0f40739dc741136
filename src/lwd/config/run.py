"""Settings of a training and of an evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import tyro

from lwd.config.common import Floats, Words, require
from lwd.config.methods import LWDConfig, MethodConfig, Sampler

Source = Literal["model", "gaussian", "prior", "encoded"]


@dataclass(frozen=True)
class Config:
    """One training run. What is 0 or "auto" is chosen from the data and said before the training starts (`lwd.data.prepare`)."""

    preset: tyro.conf.Suppress[str] = "lwd"
    """Name of the preset that this started from."""
    data: str = "embedded"
    """Demonstrations: a path (.npz, zarr, LeRobot, robomimic, D4RL, Minari), minari:ID, or "embedded", the synthetic PushT set that is
    shipped."""
    only: Words = ()
    """Take only episodes with these tags, NAME=VALUE; several values of a name are alternatives (proficiency=better,proficiency=okay)."""
    demonstrations: int = 0
    """Take only the first so many episodes of each task. 0 takes all."""
    download: bool = False
    """Allow `data` to be the Hub id of a LeRobot data set ("owner/name"), which is then downloaded."""
    out: str = ""
    """Run directory; runs/<preset> when empty."""
    seed: int = 0
    """Seed of everything random in training."""
    horizon: int = 0
    """Steps that one controller is trained for; snippets have this length (plus method.before and method.after). 0 chooses it from the
    length of the episodes."""
    starts: Literal["every", "first"] = "every"
    """Steps of an episode at which snippets start: every one, or only the first, so that a snippet is a whole episode."""
    obs_kind: str = "data"
    """Kind of observation that the policy sees: as in the data ("data"), or converted by the environment (PushT: state, keypoints;
    Metaworld: state, goal_hidden)."""
    obs_keys: Words = ()
    """Observations to join, by their keys in the file and in this order, for formats with keys (robomimic, Minari). By default all that the
    environment's usual observation is made of. The simulator gives the same ones."""
    mirror: bool = False
    """Add the mirror image of every episode, where the environment declares an exact symmetry (PushT: about the goal's axis)."""
    holdout: float = 0.05
    """Fraction of the episodes that is kept from training, for validation and `lwd diagnose`. At least one episode, unless it is 0."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """Numbers in the products of encoder, world model and denoiser (policies are always float32). auto is bf16-mixed where the hardware
    multiplies it fast (CUDA, CPUs with AMX or AVX512-BF16)."""
    threads: int = 0
    """CPU threads. 0 is OMP_NUM_THREADS, or one. More are faster, unless something else wants the cores: threads spin while they wait."""
    log_every: int = 100
    """Steps between lines in metrics.jsonl."""
    validate_every: int = 1000
    """Steps between measurements on held-out snippets."""
    checkpoint_every: int = 1000
    """Steps between checkpoints (a killed run continues from the last one, bit for bit on a CPU)."""
    method: MethodConfig = field(default_factory=LWDConfig)
    """Settings of the method."""

    def __post_init__(self) -> None:
        require(self.horizon >= 0, f"the horizon counts steps: at least 1 (0 chooses), not {self.horizon}")
        require(self.demonstrations >= 0, f"demonstrations counts episodes: it must not be negative, but is {self.demonstrations}")
        require(self.threads >= 0, f"threads must be at least 1 (0 chooses), not {self.threads}")
        require(0 <= self.holdout < 1, f"holdout is a fraction in [0, 1), not {self.holdout}")
        for name in ("log_every", "validate_every", "checkpoint_every"):
            require(getattr(self, name) > 0, f"{name} must be positive, not {getattr(self, name)}")
        if self.horizon:
            self.method.check(self.length, self.starts)

    @property
    def length(self) -> int:
        """Steps of a training snippet."""
        return self.method.before + self.horizon + self.method.after


def parse_disturbance(disturbance: str) -> tuple[str, float]:
    """(name, magnitude) of `NAME:MAGNITUDE`; ("none", 0) of `none`. `LWDError` for what is neither."""
    name, colon, number = disturbance.partition(":")
    try:
        magnitude = float(number) if colon else 0.0
    except ValueError:
        magnitude = math.nan
    fits = 0 <= magnitude < math.inf and bool(name) and (name == "none") == (not colon)
    require(fits, f"a disturbance is none or NAME:MAGNITUDE, such as displace:50, with a magnitude of at least 0, not {disturbance!r}")
    return name, magnitude


@dataclass(frozen=True)
class EvalSettings:
    """How a trained run is evaluated: by `lwd eval` and by the studies. What is 0 has the default of the model or the family."""

    replan_every: int = 0
    """Steps between queries. 0 is the horizon of training."""
    disturb: str = "none"
    """Disturbance, as NAME:MAGNITUDE. displace:50 (the paper's: with probability 0.1 a step the block moves by up to 50 pixels), drift:2
    (the block is dragged at every step), dynamic:1 (it moves steadily), action-noise:S, sensor-noise:S. `lwd info ENV` tells which of them
    an environment has, and their units."""
    delay: int = 0
    """Steps between an observation and the moment when the controller that was planned from it takes over; the old one goes on."""
    env: str = ""
    """Environment to run in, where the data names none or another one is wanted: a name that `lwd info` knows, or gymnasium:ID."""
    tasks: Words = ()
    """Tasks to run, for a model of several. By default all that it knows."""
    episodes: int = 0
    """Number of episodes, of each task where there are several. 0 is 50, or 16 of each task."""
    seed_start: int = 100_000
    """Environment seed of the first episode. The others follow."""
    max_steps: int = 0
    """Steps after which an episode is cut off. 0 is the family's own number."""
    sampler: Sampler | None = None
    """Sampler: ddpm or ddim (euler for flow matching). By default that of training."""
    sampler_steps: int = 0
    """Denoising steps of a query. 0 is that of training."""
    latent: Source = "model"
    """Where a method with a latent takes it from: model (as trained), gaussian (a fit of the encoded data), prior (N(0, I)), encoded (the
    encoder's, of a random demonstration of the task, from the state there that is most like the present one)."""
    ensemble: int = 1
    """Controllers that are planned at every query; the mean of their actions is executed."""
    tag: Words = ()
    """Sample policies like those of the demonstrations with these tags, NAME=VALUE (several values of a name are alternatives), for a
    method with latents. It needs the data of the training, as `near` and `blend` do."""
    near: int = -1
    """Sample policies around the latents of this demonstration, counted from 0."""
    blend: Floats = ()
    """Two demonstrations and a weight, such as 3,7,0.5: policies from a latent on the way from that of the first (0) to that of the second
    (1)."""
    temporal: bool = False
    """Temporal ensembling (ACT): the mean of what all controllers that are still within their horizon want to do now is executed."""
    imagine: int = 0
    """Policies (or chunks) that are considered at every query: the one with the best imagined progress is executed. 0 is the first one,
    without imagination. It needs a run that was trained with method.imagine."""
    imagine_steps: int = 0
    """Steps that they are imagined for. 0 is the interval between queries, at most 24."""
    monitor: float = 0.0
    """Ask anew as soon as an observation is farther from the world model's prediction than this (distance in normalised units; 0.15 is
    about 10 pixels of PushT's block). 0 never asks early."""
    sampler_seed: int = 0
    """Another seed gives other draws of the planner in the same episodes."""

    def __post_init__(self) -> None:
        for name in ("replan_every", "delay", "episodes", "max_steps", "sampler_steps", "imagine", "imagine_steps"):
            option = f"--{name.replace('_', '-')}"
            least = 0 if name == "delay" else 1
            require(getattr(self, name) >= 0, f"{option} must be at least {least} (0 is the default), not {getattr(self, name)}")
        parse_disturbance(self.disturb)
        require(self.steers <= 1, "--tag, --near, --blend and --latent encoded are ways to choose latents: take one of them")
        ends, whole = self.blend[:2], all(x >= 0 and x == int(x) for x in self.blend[:2])
        fits = not self.blend or (len(self.blend) == 3 and whole and 0 <= self.blend[2] <= 1)
        require(fits, f"--blend takes two numbers of demonstrations and a weight between 0 and 1, not {self.blend}")
        require(len(set(ends)) == len(ends), "--blend needs two different demonstrations; around one, there is --near")
        require(self.ensemble >= 1, f"--ensemble counts controllers: at least 1, not {self.ensemble}")
        require(self.monitor >= 0, f"--monitor is a distance: it must not be negative, but is {self.monitor:g}")
        require(self.imagine > 0 or not self.imagine_steps, "--imagine-steps needs --imagine, the number of policies that are considered")
        require(self.seed_start >= 0, f"--seed-start is a seed: it must not be negative, but is {self.seed_start}")

    @property
    def steers(self) -> int:
        """How many of the ways to steer (`lwd.methods.steering`) are asked for."""
        return bool(self.tag) + (self.near >= 0) + bool(self.blend) + (self.latent == "encoded")
