"""`lwd data collect`: the options of the experts, one class for each environment."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tyro.conf import Positional


@dataclass
class Pusht:
    """Collect PushT demonstrations with a scripted expert, in parallel. The same seed gives the same file."""

    out: Positional[str]  # File to write; a name that ends in .npz. One that was collected in the same way is extended.
    episodes: int = 250  # Successful episodes to keep.
    disturb: str = "none"  # displace:PIXELS: the block is displaced as in `lwd eval`, and the expert plans anew. Its actions stay clean.
    repeats: int = 3  # How often every fifth start is solved, each time with other choices of the expert.


@dataclass
class Metaworld:
    """Collect Metaworld demonstrations with its scripted experts, one file per task. The same command again continues."""

    tasks: str = "ten"  # Tasks, separated by commas; or ten (of the paper), mt10, mt50.
    episodes: int = 20  # Episodes of each task.
    out: str = ""  # Directory to write; data/metaworld-<tasks> by default.
    noise: float = 0.0  # Standard deviation of noise on the executed actions in [-1, 1]; the expert's action without it is recorded.
    keep_failures: bool = False  # Keep every attempt, not only those that succeed.


@dataclass
class _Behaviours:
    policies: str
    """Directory with the public policies that the documentation names; or BEHAVIOUR=POLICY,..., each policy uniform, FILE.npz, FILE.zip (of
    Stable-Baselines3) or MODULE:ATTRIBUTE (a function from an observation to an action). FILE@0 acts by its mean, FILE@2 with twice its
    own standard deviation."""
    episodes: int = 32  # Episodes of each behaviour, successful or not.
    out: str = ""  # Directory to write, one file per behaviour; data/<environment> by default.


@dataclass
class Halfcheetah(_Behaviours):
    """Collect HalfCheetah episodes from policies of several behaviours."""


@dataclass
class Walker2d(_Behaviours):
    """Collect Walker2d episodes from policies of several behaviours."""


@dataclass
class Ant(_Behaviours):
    """Collect Ant episodes from policies of several behaviours."""


@dataclass
class Hammer(_Behaviours):
    """Collect episodes of the Adroit hammer from policies of several behaviours."""


@dataclass
class _Operators:
    operators: str = "better,okay,worse"  # Which, separated by commas: proficiencies, or names (better-1, better-2, okay-1, ...).
    episodes: int = 50  # Episodes of each operator.
    out: str = ""  # Directory to write, one file per operator; data/<environment> by default.
    keep_failures: bool = False  # Keep every attempt, not only those that succeed.


@dataclass
class Lift(_Operators):
    """Collect Lift demonstrations of six scripted operators in three proficiencies."""


@dataclass
class Can(_Operators):
    """Collect Can demonstrations of six scripted operators in three proficiencies."""


@dataclass
class Collect:
    """Collect synthetic demonstrations with scripted experts, in parallel."""

    env: Pusht | Metaworld | Halfcheetah | Walker2d | Ant | Hammer | Lift | Can
    seed: int = 0  # Seed of starts and of the expert's choices. But for PushT it is the reset seed of the first attempt, below 100000.
    fresh: bool = False  # Collect anew what is there.
    workers: int | None = None  # Processes; one per core by default. The result does not depend on it.
    json: bool = False  # Print JSON.

    def __call__(self) -> None:
        from lwd.data.collect import collect

        env, options = type(self.env).__name__.lower(), asdict(self.env)
        if "tasks" in options:
            options["tasks"] = [name.strip() for name in options["tasks"].split(",") if name.strip()]
        options["out"] = options["out"] or f"data/{env}" + "".join(f"-{name}" for name in options.get("tasks", ()))
        rows = collect(env, progress=not self.json, seed=self.seed, fresh=self.fresh, workers=self.workers, **options)
        if self.json:
            print(json.dumps(rows, indent=1))
            return
        cells = []
        for row in rows:
            final = "–" if row["final_success"] is None else f"{row['final_success']:.0%}"
            cells.append((row["task"] or env, row["episodes"], row["steps"], row["attempts"], f"{row['success']:.0%}", final))
        caption = "success: share of the attempts that succeed; at the end: share of the episodes that still do at their last step"
        show(["task", "episodes", "steps", "attempts", "success", "at the end"], cells, caption)
        print(f"{options['out']}  (next: lwd data show {options['out']})")


def show(columns: list[str], rows: Iterable[Iterable[Any]], caption: str = "") -> None:
    """Prints a table; numbers that are no counts have four digits."""
    from rich.console import Console

    from lwd.report.tables import Table, terminal

    cells = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    Console().print(terminal(Table("", columns, cells, caption)))
