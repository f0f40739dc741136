"""What a simulator family offers to the rest, and how one is found by name.

To add a family, write one file `lwd/envs/<name>.py` that defines `FAMILY`, an instance of a subclass of `EnvFamily`. A plain gymnasium
environment needs `name`, `action_low`, `action_high` and `make`; everything else has a default here. Keep imports of the simulator
inside `make`: describing data and training must work on a machine without the simulator.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lwd.errors import LWDError

if TYPE_CHECKING:  # worker processes import this file: it must stay free of torch, whatever `lwd.data` grows to import
    from lwd.data.episodes import Episodes, Meta

Score = Literal["mean", "rate"]
_NOT_FAMILIES = {"base", "perturb", "vector", "worker"}


class EnvFamily(ABC):
    """One kind of simulator: its numbers, its scores and how to make one.

    Attributes:
        name: name of the family and of its file, by which data refer to it (of a module of one's own: as it is imported); also of the
            extra that installs it.
        max_steps: steps after which an episode is cut off.
        fps: control steps per second, for videos.
        observations: kinds of observation that `make` knows, the default first.
        action_low: smallest legal action, raw units, one entry per dimension.
        action_high: largest legal action, raw units.
        info_keys: scalars in `info` that travel back from every step.
        trace: those of them that records keep step by step.
        scores: what `summarise` returns, and how it aggregates over episodes: a `"mean"` or a `"rate"` of zeros and ones.
        primary: the score that decides.
        tasks: names of its tasks; empty for a family of one.
        task_sets: names for sets of them that are often used together.
        batch: environments that are simulated at a time at most (for want of memory).
        perturbation_unit: what the magnitude of a perturbation measures.
        perturbation_keys: scalars in `info` that a perturbed environment has in addition.
    """

    name: ClassVar[str]
    max_steps: ClassVar[int] = 1000
    fps: ClassVar[int] = 20
    observations: ClassVar[tuple[str, ...]] = ("state",)
    action_low: ClassVar[tuple[float, ...]]
    action_high: ClassVar[tuple[float, ...]]
    info_keys: ClassVar[tuple[str, ...]] = ()
    trace: ClassVar[tuple[str, ...]] = ()
    scores: ClassVar[dict[str, Score]] = {"return": "mean"}
    primary: ClassVar[str] = "return"
    tasks: ClassVar[tuple[str, ...]] = ()
    task_sets: ClassVar[dict[str, tuple[str, ...]]] = {}
    batch: ClassVar[int] = 1024
    perturbation_unit: ClassVar[str] = "pixels"
    perturbation_keys: ClassVar[tuple[str, ...]] = ("displaced",)

    @abstractmethod
    def make(self, obs: str, task: str | None = None) -> gymnasium.Env:
        """One environment with flat observations of the given kind.

        Its `reset(seed=..., options={"state": ...})` starts from exactly that state where the family supports it. A family that can be
        perturbed gives the environment a method `displace` (see `lwd.envs.perturb`), or has its own `perturb`.

        Args:
            obs: one of `observations`.
            task: one of `tasks`; a family of one is never given any, and may leave out the argument.

        Raises:
            LWDError: unknown kind of observation or task, or the simulator is not installed (the message names the command).
        """

    def perturb(self, env: gymnasium.Env, magnitude: float) -> gymnasium.Env:
        """The environment under perturbation: the block is displaced now and then (`lwd.envs.perturb.Perturb`)."""
        from lwd.envs.perturb import Perturb

        return Perturb(env, magnitude)

    def task_name(self, name: str) -> str:
        """The canonical spelling of a task."""
        return name

    def task_names(self, names: Sequence[str]) -> list[str]:
        """Tasks by name, with sets replaced by their members.

        Raises:
            LWDError: a name that is neither; says which there are.
        """
        found: list[str] = []
        for name in names:
            members = self.task_sets.get(name, (self.task_name(name),))
            unknown = sorted(set(members) - set(self.tasks))
            if unknown:
                known = ", ".join((*self.task_sets, *self.tasks)) or "none: it is one task"
                raise LWDError(f"{self.name} has no task {unknown[0]!r}; it has {known}")
            found += [task for task in members if task not in found]
        return found

    def angles(self, obs: str) -> tuple[int, ...]:
        """Dimensions of this kind of observation that are angles in radians."""
        self.check_obs(obs)
        return ()

    def meta(self, obs: str, description: str = "") -> Meta:
        """What a data set of this family declares about its numbers."""
        from lwd.data.episodes import Meta

        self.check_obs(obs)
        return Meta(self.name, obs, self.angles(obs), self.action_low, self.action_high, description)

    def summarise(self, infos: dict[str, list[float]]) -> dict[str, float]:
        """Scores of one episode.

        Args:
            infos: one list per key of `info_keys`, and `reward`, with one entry per step.

        Returns:
            One number per key of `scores`.
        """
        return {"return": float(np.sum(infos["reward"]))}

    def curve(self, episode: dict[str, Any]) -> list[float]:
        """What to draw below a video: one number in [0, 1] per step of a record, or nothing."""
        return []

    def convert(self, episodes: Episodes, obs: str) -> Episodes:
        """The same episodes with another kind of observation.

        Raises:
            LWDError: that kind cannot be computed from what the episodes hold.
        """
        self.check_obs(obs)
        if episodes.meta.obs == obs:
            return episodes
        raise LWDError(f"{self.name}: {obs!r} observations cannot be computed from {episodes.meta.obs!r}; record them instead")

    def mirror(self, episodes: Episodes) -> Episodes | None:
        """The episodes under a symmetry of the task, or None when it has none."""
        return None

    def state(self, env: gymnasium.Env) -> NDArray[np.float64] | None:
        """The simulator's whole state, (S,), or None where the family cannot tell."""
        return None

    def seeds(self, episodes: Episodes) -> NDArray[np.int64] | None:
        """(E,) reset seeds with which the recorded episodes began, or None where the data does not tell."""
        return None

    def states(self, episodes: Episodes) -> NDArray[np.float64] | None:
        """Simulator states of all recorded steps, (N, S), or None where observations do not tell them."""
        return None

    def distance(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        """How far apart two states (S,) are, in the family's units."""
        return float(np.linalg.norm(a - b))

    def check_obs(self, obs: str) -> None:
        """Refuses an unknown kind of observation."""
        if obs not in self.observations:
            raise LWDError(f"{self.name} has no observation {obs!r}: choose one of {', '.join(self.observations)}")


def missing(name: str, error: ImportError) -> LWDError:
    """The error for a simulator that is not installed: names the extra of the same name as the family."""
    return LWDError(f'the {name} simulator is not installed ({error}): run  pip install "latent-weight-diffusion[{name}]"')


def families() -> list[str]:
    """Names of the families in this package, without importing them."""
    found = (m.name for m in pkgutil.iter_modules(importlib.import_module("lwd.envs").__path__))
    return sorted(n for n in found if n not in _NOT_FAMILIES and not n.startswith("_"))


def family(name: str) -> EnvFamily:
    """The family of that name; imported when first asked for.

    Args:
        name: a name from `families()`, or the module of one's own that defines `FAMILY`, as one would import it (`"pendulum_env"`,
            `"mypackage.pendulum"`): installed, on PYTHONPATH, or in the present directory.

    Raises:
        LWDError: no such family, or its simulator is not installed.
    """
    module: Any
    if name in families():
        try:
            module = importlib.import_module(f"lwd.envs.{name}")
        except ImportError as error:
            raise missing(name, error) from error
    else:
        module = _own(name)
    return module.FAMILY


def _own(name: str) -> Any:
    """A module of the user's that defines `FAMILY`."""
    unknown = LWDError(
        f"unknown environment {name!r}: known ones are {', '.join(families())}, and modules of your own that define FAMILY, by the name "
        "under which they can be imported (from the present directory, too)"
    )
    if not all(part.isidentifier() for part in name.split(".")):
        raise unknown
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # the command `lwd` does not look there by itself
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise unknown from error
        raise LWDError(f"cannot import the environment {name!r}: {error}") from error
    if not isinstance(getattr(module, "FAMILY", None), EnvFamily):
        raise LWDError(f"{name} is no environment: {getattr(module, '__file__', name)} defines no FAMILY, an instance of an EnvFamily")
    return module
