"""`lwd data collect`: demonstrations from scripted experts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any

from tyro.conf import Positional, subcommand

from lwd.config import require


@dataclass
class CollectPushT:
    """Collect PushT demonstrations with a scripted expert, in parallel; the same seed gives the same file."""

    dst: Positional[str]
    """File to write; a name that ends in .npz."""
    episodes: int = 250
    """Successful episodes to keep."""
    seed: int = 0
    """Of start states and of the expert's choices."""
    repeats: int = 3
    """How often every fifth start is solved, each time with other choices of the expert."""
    workers: int | None = None
    """Processes; one per core by default. The result does not depend on it."""

    def __call__(self) -> None:
        from lwd.data.collect import collect
        from lwd.data.npz import save_npz

        require(self.dst.endswith(".npz"), f"{self.dst}: collected data is written as .npz; convert it afterwards with `lwd data convert`")
        episodes = collect(self.episodes, seed=self.seed, repeats=self.repeats, workers=self.workers)
        save_npz(episodes, self.dst)
        print(f"{self.dst}: {len(episodes)} episodes, {episodes.steps} steps, mean length {episodes.lengths.mean():.0f}")


@dataclass
class CollectMetaworld:
    """Collect Metaworld demonstrations with its scripted experts, one file per task; the same command again continues."""

    tasks: str = "ten"
    """Tasks, separated by commas; or ten (of the paper), mt10, mt50."""
    episodes: int = 20
    """Episodes of each task."""
    out: str = ""
    """Directory to write; data/metaworld-<tasks> by default."""
    seed: int = 0
    """Reset seed of the first attempt; the others follow. Evaluation begins at 100000."""
    noise: float = 0.0
    """Standard deviation of noise on the executed actions, which lie in [-1, 1]; what is recorded is the expert's action without it."""
    keep_failures: bool = False
    """Keep every attempt, not only those that succeed."""
    fresh: bool = False
    """Collect anew what is there."""
    workers: int | None = None
    """Processes; one per core by default. The result does not depend on it."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from lwd.data.collect_metaworld import collect_metaworld

        names = [name.strip() for name in self.tasks.split(",") if name.strip()]
        out = self.out or f"data/metaworld-{'-'.join(names)}"
        rows = collect_metaworld(
            names,
            out,
            self.episodes,
            seed=self.seed,
            noise=self.noise,
            keep_failures=self.keep_failures,
            fresh=self.fresh,
            workers=self.workers,
            progress=not self.json,
        )
        if self.json:
            print(json.dumps(rows, indent=1))
            return
        from rich.console import Console

        Console().print(_table(rows))
        print(f"{out}  (next: lwd data show {out})")


@dataclass
class DataCollect:
    """Collect synthetic demonstrations with scripted experts, in parallel."""

    env: Annotated[CollectPushT, subcommand("pusht")] | Annotated[CollectMetaworld, subcommand("metaworld")] = field()

    def __call__(self) -> None:
        self.env()


def _table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table("task", caption="expert: share of the attempts that succeed at some step; at the end: share of the episodes kept")
    for heading in ("episodes", "attempts", "expert", "at the end"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(row["task"], str(row["episodes"]), str(row["attempts"]), f"{row['success']:.0%}", f"{row['final_success']:.0%}")
    return table
