"""`lwd data`: list, show, convert and collect demonstrations."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, subcommand

from lwd.errors import LWDError

if TYPE_CHECKING:
    from lwd.episodes import Episodes

# Heavy imports are in the functions: `lwd --help` imports this file.
TAG_VALUES = 12  # most values of one tag that are listed one by one


@dataclass
class DataList:
    """List the data sets that are shipped, and the formats that can be read."""

    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from lwd.data.embedded import SETS, embedded_path
        from lwd.data.read import read

        sets = []
        for short in SETS:
            episodes, megabytes = read(f"embedded:{short}"), round(embedded_path(short).stat().st_size / 1e6, 2)
            row = {"name": f"embedded:{short}", "episodes": len(episodes), "steps": episodes.steps, "megabytes": megabytes}
            sets.append({**row, "description": episodes.meta.description})
        if self.json:
            print(json.dumps(sets, indent=1))
        else:
            show(sets, "read by path: .npz, Diffusion-Policy zarr, LeRobot directories; by name: LeRobot sets of the Hub")


@dataclass
class DataShow:
    """Print episodes, steps, dimensions, ranges, lengths and tags of a data set."""

    path: Positional[str]
    """A path, "embedded", or a Hub id "owner/name"."""
    download: bool = False
    """Allow a Hub id to be downloaded."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from lwd.data.read import read

        found = describe(read(self.path, download=self.download))
        if self.json:
            print(json.dumps(found, indent=1))
            return
        lengths, meta = found["lengths"], found["meta"]
        declared = [f"[{low:g}, {high:g}]" for low, high in zip(meta["action_low"] or (), meta["action_high"] or (), strict=True)]
        facts = {
            "episodes": f"{found['episodes']:,} of {lengths['min']} to {lengths['max']} steps, mean {lengths['mean']:.1f}",
            "steps": f"{found['steps']:,}",
            "observation": f"{found['obs_dim']} dimensions" + (f" ({meta['obs_kind']})" if meta["env"] else ""),
            "action": f"{found['action_dim']} dimensions, declared range {', '.join(declared) or 'none'}",
            "environment": meta["env"] or "none: it can be trained on, but not evaluated in a simulator",
            "origin": meta["description"] or "not declared",
            "fingerprint": found["fingerprint"],
        }
        show([{"data set": key, "": value} for key, value in facts.items()])
        show([{"": kind, **row} for kind in ("obs", "action") for row in found[kind]], "raw units")
        groups = {"task": found["tasks"], **found["tags"]}
        labels = [{"label": name, "value": value, "episodes": n} for name, counts in groups.items() for value, n in counts.items()]
        if labels:
            show(labels)


@dataclass
class DataConvert:
    """Convert a data set to .npz or to a Diffusion-Policy zarr directory (by the name of the destination)."""

    src: Positional[str]
    """What to read: a path, "embedded", or a Hub id."""
    dst: Positional[str]
    """What to write: a new name that ends in .npz or .zarr."""
    download: bool = False
    """Allow a Hub id to be downloaded."""

    def __call__(self) -> None:
        from lwd.data.formats import diffusion_policy, npz
        from lwd.data.read import read

        path = Path(self.dst).expanduser()
        if path.suffix not in {".npz", ".zarr"}:
            raise LWDError(f"{path}: the destination must end in .npz or .zarr (the Diffusion-Policy layout)")
        if path.exists():
            raise LWDError(f"{path} exists: remove it first, or choose another name")
        episodes = read(self.src, download=self.download)
        path.parent.mkdir(parents=True, exist_ok=True)
        (npz.save_npz if path.suffix == ".npz" else diffusion_policy.write)(episodes, path)
        print(f"{self.dst}: {len(episodes)} episodes, {episodes.steps} steps")


@dataclass(kw_only=True)
class Collect:
    """Options that all experts share."""

    seed: int = 0
    """Seed of start states and of the expert's choices. Metaworld: reset seed of the first attempt; evaluation begins at 100000."""
    fresh: bool = False
    """Collect anew what is there."""
    workers: int | None = None
    """Processes; one per core by default. The result does not depend on it."""
    json: bool = False
    """Print JSON."""

    def collect(self, env: str, out: str, **options: Any) -> None:
        """Collects, and prints what came of it."""
        from lwd.data.collect import collect

        rows = collect(env, out, seed=self.seed, fresh=self.fresh, workers=self.workers, progress=not self.json, **options)
        if self.json:
            print(json.dumps(rows, indent=1))
            return
        shares = {"success": "success", "final_success": "at the end"}
        for row in rows:
            row["task"] = row["task"] or env
            row |= {shown: "–" if row[key] is None else f"{row[key]:.0%}" for key, shown in shares.items()}
            del row["path"], row["final_success"]
        show(rows, "success: share of the attempts that succeed; at the end: share of the episodes that still do at their last step")
        print(f"{out}  (next: lwd data show {out})")


@dataclass
class CollectPushT(Collect):
    """Collect PushT demonstrations with a scripted expert, in parallel. The same seed gives the same file."""

    dst: Positional[str]
    """File to write; a name that ends in .npz. One that was collected in the same way is extended."""
    episodes: int = 250
    """Successful episodes to keep."""
    repeats: int = 3
    """How often every fifth start is solved, each time with other choices of the expert."""

    def __call__(self) -> None:
        self.collect("pusht", self.dst, episodes=self.episodes, repeats=self.repeats)


@dataclass
class CollectMetaworld(Collect):
    """Collect Metaworld demonstrations with its scripted experts, one file per task. The same command again continues."""

    tasks: str = "ten"
    """Tasks, separated by commas; or ten (of the paper), mt10, mt50."""
    episodes: int = 20
    """Episodes of each task."""
    out: str = ""
    """Directory to write; data/metaworld-<tasks> by default."""
    noise: float = 0.0
    """Standard deviation of noise on the executed actions, which lie in [-1, 1]. What is recorded is the expert's action without it."""
    keep_failures: bool = False
    """Keep every attempt, not only those that succeed."""

    def __call__(self) -> None:
        names = [name.strip() for name in self.tasks.split(",") if name.strip()]
        out = self.out or f"data/metaworld-{'-'.join(names)}"
        self.collect("metaworld", out, tasks=names, episodes=self.episodes, noise=self.noise, keep_failures=self.keep_failures)


@dataclass
class DataCollect:
    """Collect synthetic demonstrations with scripted experts, in parallel."""

    env: Annotated[CollectPushT, subcommand("pusht")] | Annotated[CollectMetaworld, subcommand("metaworld")]

    def __call__(self) -> None:
        self.env()


Data = (
    Annotated[DataList, subcommand("list")]
    | Annotated[DataShow, subcommand("show")]
    | Annotated[DataConvert, subcommand("convert")]
    | Annotated[DataCollect, subcommand("collect")]
)


def describe(episodes: Episodes) -> dict[str, Any]:
    """Everything that `lwd data show` prints, as JSON-ready data. Ranges are per dimension, in raw units."""
    import numpy as np
    import pandas as pd

    from lwd.data.prepare import dimension_names

    lengths, ranges = episodes.lengths, []
    for values, names, angles in zip((episodes.obs, episodes.action), dimension_names(episodes), (episodes.meta.angles, ()), strict=True):
        wide = values.astype(float)
        table = pd.DataFrame({"name": names, "min": wide.min(0), "max": wide.max(0), "mean": wide.mean(0), "std": wide.std(0), "note": ""})
        table.loc[list(angles), "note"] = "radians"
        table.loc[table["min"] == table["max"], "note"] = "constant"
        ranges.append(table.to_dict("records"))
    tags = {}
    for name, labels in episodes.tags.items():
        found, counts = np.unique(labels, return_counts=True)
        tags[name] = dict(zip(map(str, found), counts.tolist(), strict=True))
        if len(found) > TAG_VALUES:
            tags[name] = {f"{found[0]} to {found[-1]} ({len(found)} values)": len(labels)}
    return {
        "episodes": len(episodes),
        "steps": episodes.steps,
        "obs_dim": episodes.obs.shape[1],
        "action_dim": episodes.action.shape[1],
        "lengths": {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())},
        "obs": ranges[0],
        "action": ranges[1],
        "tasks": {} if episodes.task is None else dict(Counter(episodes.task.tolist())),
        "tags": tags,
        "meta": asdict(episodes.meta),
        "fingerprint": episodes.fingerprint(),
    }


def show(rows: list[dict[str, Any]], caption: str = "") -> None:
    """Prints a table of values by column."""
    from rich.console import Console

    from lwd.report.tables import Table, terminal

    cells = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    Console().print(terminal(Table("", list(rows[0]), cells, caption)))
