"""What a simulator family offers to the rest of the library, and how a family is found by its name (docs/adding-an-environment.md)."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lwd.config import parse_disturbance, require
from lwd.envs.disturb import DISTURBANCES, SensorNoise
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError

TESTS = 100_000  # evaluation begins at this seed: demonstrations stay below
Score = Literal["mean", "rate"]  # how a score is aggregated over episodes; a rate is of zeros and ones


class EnvFamily(ABC):
    """One kind of simulator: its numbers, its scores, and how to make an environment. `lwd/envs/<folder>/family.py` defines one, FAMILY,
    or several that share a simulator, FAMILIES.

    A plain gymnasium environment needs `name`, `action_low`, `action_high` and `make`, which imports the simulator: describing data and
    training must work on a machine without it."""

    name: ClassVar[str]  # of its folder where that has one family; for a module of one's own, the name that imports it
    extra: ClassVar[str] = ""  # the extra that installs it; by default that of its name
    max_steps: ClassVar[int] = 1000  # steps after which an episode is cut off
    fps: ClassVar[int] = 20  # control steps per second, for videos
    aliases: ClassVar[tuple[str, ...]] = ()  # what files of other tools call this environment: "gymnasium:HalfCheetah-v5"
    obs_kinds: ClassVar[tuple[str, ...]] = ("state",)  # kinds of observation that `make` knows, the default first
    action_low: ClassVar[tuple[float, ...]]  # smallest legal action, raw units, one entry per dimension
    action_high: ClassVar[tuple[float, ...]]  # largest legal action
    action_dimensions: ClassVar[tuple[str, ...]] = ()  # names of the action's dimensions
    units: ClassVar[str] = ""  # of observations and actions, in words, for whoever runs a policy elsewhere
    info_keys: ClassVar[tuple[str, ...]] = ()  # scalars in `info` that every step returns
    trace: ClassVar[tuple[str, ...]] = ()  # those of them that records keep for every step
    scores: ClassVar[dict[str, Score]] = {"return": "mean"}  # what `summarise` returns
    primary: ClassVar[str] = "return"  # the score that decides
    tasks: ClassVar[tuple[str, ...]] = ()  # names of its tasks; empty for a family of one task
    task_sets: ClassVar[dict[str, tuple[str, ...]]] = {}  # names for sets of tasks that are often used together
    disturbances: ClassVar[dict[str, str]] = {  # those that it has (`lwd.envs.disturb`), each with the unit of its magnitude
        "action-noise": "standard deviation of noise on the executed actions, in their units",
        "sensor-noise": "standard deviation of noise on the observations, in their units",
    }
    side: ClassVar[float] = 1.0  # of the picture, in the units in which `displace` moves things
    usual: ClassVar[dict[str, float]] = {"action-noise": 0.1, "sensor-noise": 0.01}  # magnitudes of disturbances to begin with
    batch: ClassVar[int] = 1024  # environments that are simulated at a time at most, because memory is limited
    expert: ClassVar[str] = ""  # dotted name of the module with a scripted expert that `lwd data collect` asks

    @abstractmethod
    def make(self, obs_kind: str, task: str | None = None) -> gymnasium.Env:
        """One environment with flat observations of a kind. A family of one task is never given any, and may leave out that argument.

        Its `reset(seed=..., options={"state": ...})` starts from exactly that state where the family supports it. A family with something
        that can be pushed gives the environment a method `displace` (see `lwd.envs.disturb`), and names `displace` in `disturbances`."""

    def disturb(self, env: gymnasium.Env, disturbance: str, obs_kind: str) -> gymnasium.Env:
        """The environment under a disturbance `NAME:MAGNITUDE` of the family; the environment itself under none."""
        name, magnitude = self.check_disturbance(disturbance)
        if name == "none":
            return env
        disturbed = DISTURBANCES[name](env, magnitude)
        if isinstance(disturbed, SensorNoise):
            disturbed.scale = self.sensor_scale(obs_kind)
        return disturbed

    def check_disturbance(self, disturbance: str) -> tuple[str, float]:
        """(name, magnitude); `LWDError` for a disturbance that the family does not have."""
        name, magnitude = parse_disturbance(disturbance)
        if name not in ("none", *self.disturbances):
            known = "; ".join(f"{own} ({unit})" for own, unit in self.disturbances.items())
            raise LWDError(f"{self.name} has no disturbance {name!r}, it has: {known}")
        return name, magnitude

    def sensor_scale(self, obs_kind: str) -> NDArray[np.float64] | float:
        """What a magnitude of 1 of sensor noise is in each dimension of the observation."""
        return 1.0

    def task_name(self, name: str) -> str:
        """The canonical spelling of a task."""
        return name

    def task_names(self, names: Sequence[str]) -> list[str]:
        """Tasks by name, each once, with sets replaced by their members."""
        found = [task for name in names for task in self.task_sets.get(name, (self.task_name(name),))]
        if unknown := sorted(set(found) - set(self.tasks)):
            known = ", ".join((*self.task_sets, *self.tasks)) or "none: it is one task"
            raise LWDError(f"{self.name} has no task {unknown[0]!r}; it has {known}")
        return list(dict.fromkeys(found))

    def angles(self, obs_kind: str) -> tuple[int, ...]:
        """Dimensions of this kind of observation that are angles in radians."""
        return ()

    def dimensions(self, obs_kind: str) -> tuple[str, ...]:
        """Names of the dimensions of this kind of observation; empty where nobody has named them."""
        return ()

    def parts(self, obs_kind: str) -> dict[str, int]:
        """Keys and sizes of the observations that this kind is joined from, in their order; empty where the simulator gives one vector."""
        return {}

    def recognise(self, obs: NDArray[Any], action: NDArray[Any]) -> str | None:
        """The kind of observation in undeclared data (N, Do), (N, Da), raw, that can only be this family's; otherwise None."""
        return None

    def meta(self, obs_kind: str, description: str = "") -> Meta:
        """What a data set of this family declares about its numbers."""
        self.check_obs_kind(obs_kind)
        return Meta(self.name, obs_kind, self.angles(obs_kind), self.action_low, self.action_high, description)

    def summarise(self, infos: dict[str, list[float]]) -> dict[str, float]:
        """Scores of one episode, one number per key of `scores`. `infos` has a value per step for `reward` and each of `info_keys`."""
        return {"return": float(np.sum(infos["reward"]))}

    def curve(self, episode: dict[str, Any]) -> list[float]:
        """What is drawn below a video: one number in [0, 1] per step of a record, or nothing."""
        return []

    def trail(self, obs_kind: str, obs: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Where in a picture the thing that matters is, for raw observations (..., Do): (..., 2), from 0 to 1 to the right and downwards.
        It draws imagined futures into videos. None where the family cannot tell."""
        return None

    def scene(self, env: gymnasium.Env) -> dict[str, Any] | None:
        """What a page draws of the environment as it is: `polygons` (points [x, y]) and `discs` ([x, y, radius]) by name, from 0 to 1 to
        the right and downwards. "goal" is drawn as a target, "block" can be pushed. None where there are only pictures."""
        return None

    def convert(self, episodes: Episodes, obs_kind: str) -> Episodes:
        """The same episodes with another kind of observation, which is refused where they do not hold enough to compute it."""
        self.check_obs_kind(obs_kind)
        if episodes.meta.obs_kind == obs_kind:
            return episodes
        raise LWDError(f"{self.name}: {obs_kind!r} observations cannot be computed from {episodes.meta.obs_kind!r}; record them instead")

    def mirror(self, episodes: Episodes) -> Episodes | None:
        """The episodes under a symmetry of the task, or None when it has none."""
        return None

    def state(self, env: gymnasium.Env) -> NDArray[np.float64] | None:
        """The simulator's whole state, (S,), or None where the family cannot tell."""
        return None

    def seeds(self, episodes: Episodes) -> NDArray[np.int64] | None:
        """(E,) reset seeds with which the recorded episodes began, by the tag `seed`; None where the data does not tell."""
        seeds = episodes.tags.get("seed")
        return None if seeds is None else seeds.astype(np.int64)

    def states(self, episodes: Episodes) -> NDArray[np.float64] | None:
        """Simulator states of all recorded steps, (N, S), or None where observations do not tell them."""
        return None

    def distance(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        """How far apart two states (S,) are, in the family's units."""
        return float(np.linalg.norm(a - b))

    def check_obs_kind(self, obs_kind: str) -> None:
        """Refuses an unknown kind of observation."""
        if obs_kind not in self.obs_kinds:
            raise LWDError(f"{self.name} has no observation {obs_kind!r}: choose one of {', '.join(self.obs_kinds)}")


def missing(name: str, error: ImportError) -> LWDError:
    """The error for a simulator that is not installed. `name` is that of the extra that installs it."""
    return LWDError(f'the {name} simulator is not installed ({error}): run  pip install "latent-weight-diffusion[{name}]"')


@lru_cache(maxsize=1)
def _families() -> dict[str, EnvFamily]:
    """The families of this package by name. No simulator is imported."""
    folders = sorted(m.name for m in pkgutil.iter_modules(importlib.import_module("lwd.envs").__path__) if m.ispkg)
    modules = [importlib.import_module(f"lwd.envs.{folder}.family") for folder in folders]
    return {own.name: own for module in modules for own in getattr(module, "FAMILIES", None) or (module.FAMILY,)}


def families() -> list[str]:
    """Names of the families in this package."""
    return sorted(_families())


def family(name: str) -> EnvFamily:
    """The family of that name: one of `families()`; `gymnasium:ID`, an environment that is registered with gymnasium under that id; or the
    module of one's own that defines `FAMILY`, as one would import it (`"mypackage.pendulum"`): installed, on PYTHONPATH, or in the
    present directory."""
    if name in _families():
        return _families()[name]
    if name.startswith("gymnasium:"):
        return importlib.import_module("lwd.envs.registered").registered(name.removeprefix("gymnasium:"))
    unknown = LWDError(
        f"unknown environment {name!r}: known ones are {', '.join(families())}, gymnasium:ID for what gymnasium has registered, and "
        "modules of your own that define FAMILY, by the name under which they can be imported (from the present directory, too)"
    )
    if not all(part.isidentifier() for part in name.split(".")):
        raise unknown
    try:
        module = import_own(name)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):  # not a module that it imports
            raise unknown from error
        raise LWDError(f"cannot import the environment {name!r}: {error}") from error
    found = getattr(module, "FAMILY", None)
    if not isinstance(found, EnvFamily):
        raise LWDError(f"{name} is no environment: {getattr(module, '__file__', name)} defines no FAMILY, an instance of an EnvFamily")
    return found


def import_own(name: str) -> ModuleType:
    """A module of the user's own: installed, on PYTHONPATH, or in the present directory, where `lwd` does not look by itself."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    return importlib.import_module(name)


def check_seeds(seed: int, most: int) -> None:
    """Refuses seeds of demonstrations, of which up to `most` may be needed, that are those of evaluations."""
    limits = f"seeds begin at 0, and those from {TESTS} are for evaluation: choose another seed or fewer episodes"
    require(0 <= seed <= TESTS - most, f"up to {most} seeds from {seed} may be needed, but {limits}")


def called(alias: str) -> EnvFamily | None:
    """The family that files of other tools call so; None where this package has none."""
    return next((own for own in _families().values() if alias in own.aliases), None)


def recognise(obs: NDArray[Any], action: NDArray[Any], description: str = "") -> Meta | None:
    """What undeclared data (N, Do), (N, Da) must be, by the families of this package; None where no family knows them."""
    for name in families():
        if kind := family(name).recognise(obs, action):
            return family(name).meta(kind, description)
    return None
