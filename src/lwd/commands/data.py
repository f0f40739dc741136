"""`lwd data`: list, show, convert and collect demonstrations. Heavy imports are in the functions: `lwd --help` imports this file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from lwd.config import require


@dataclass
class List:
    """List the data sets that are shipped, and the formats that can be read."""

    json: bool = False  # Print JSON.

    def __call__(self) -> None:
        from lwd.data.embedded import SETS, embedded_path
        from lwd.data.read import read

        columns, rows = ["name", "episodes", "steps", "megabytes", "description"], []
        for name in SETS:
            episodes, megabytes = read(f"embedded:{name}"), round(embedded_path(name).stat().st_size / 1e6, 2)
            rows.append((f"embedded:{name}", len(episodes), episodes.steps, megabytes, episodes.meta.description))
        if self.json:
            print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1))
        else:
            show(columns, rows, "read by path: .npz, Diffusion-Policy zarr, LeRobot directories; by name: LeRobot sets of the Hub")


@dataclass
class Show:
    """Print episodes, steps, dimensions, ranges, lengths and tags of a data set."""

    path: Positional[str]  # A path, "embedded", or a Hub id "owner/name".
    download: bool = False  # Allow a Hub id to be downloaded.
    json: bool = False  # Print JSON.

    def __call__(self) -> None:
        import numpy as np

        from lwd.data.prepare import dimension_names
        from lwd.data.read import read

        episodes = read(self.path, download=self.download)
        lengths, meta, obs_dim, action_dim = episodes.lengths, episodes.meta, episodes.obs.shape[1], episodes.action.shape[1]
        found: dict[str, Any] = {"episodes": len(episodes), "steps": episodes.steps, "obs_dim": obs_dim, "action_dim": action_dim}
        found["lengths"] = {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())}
        for kind, values, names in zip(("obs", "action"), (episodes.obs, episodes.action), dimension_names(episodes), strict=True):
            wide, found[kind] = values.astype(float), []
            for i, (low, high, mean, std) in enumerate(np.stack([wide.min(0), wide.max(0), wide.mean(0), wide.std(0)], 1).tolist()):
                note = "constant" if low == high else "radians" if kind == "obs" and i in meta.angles else ""
                found[kind].append({"name": names[i], "min": low, "max": high, "mean": mean, "std": std, "note": note})
        tags: dict[str, dict[str, int]] = {}
        for name, labels in episodes.tags.items():
            values, counts = np.unique(labels, return_counts=True)
            listed = dict(zip(map(str, values), counts.tolist(), strict=True))
            many = f"{values[0]} to {values[-1]} ({len(values)} values)"
            tags[name] = listed if len(values) <= 12 else {many: len(labels)}
        tasks = {} if episodes.task is None else dict(Counter(episodes.task.tolist()))
        found |= {"tasks": tasks, "tags": tags, "meta": asdict(meta), "fingerprint": episodes.fingerprint()}
        if self.json:
            print(json.dumps(found, indent=1))
            return
        limits = ", ".join(f"[{low:g}, {high:g}]" for low, high in zip(meta.action_low or (), meta.action_high or (), strict=True))
        facts = {
            "episodes": f"{len(episodes):,} of {lengths.min()} to {lengths.max()} steps, mean {lengths.mean():.1f}, sum {episodes.steps:,}",
            "observation": f"{obs_dim} dimensions" + (f" ({meta.obs_kind})" if meta.env else ""),
            "action": f"{action_dim} dimensions, declared range {limits or 'none'}",
            "environment": meta.env or "none: it can be trained on, but not evaluated in a simulator",
            "origin": meta.description or "not declared",
            "fingerprint": found["fingerprint"],
        }
        show(["data set", ""], facts.items())
        show(["", *found["obs"][0]], ((kind, *row.values()) for kind in ("obs", "action") for row in found[kind]), "raw units")
        labelled = [(label, *pair) for label, own in {"task": tasks, **tags}.items() for pair in own.items()]
        if labelled:
            show(["label", "value", "episodes"], labelled)


@dataclass
class Convert:
    """Convert a data set to .npz or to a Diffusion-Policy zarr directory (by the name of the destination)."""

    src: Positional[str]  # What to read: a path, "embedded", or a Hub id.
    dst: Positional[str]  # What to write: a new name that ends in .npz or .zarr.
    download: bool = False  # Allow a Hub id to be downloaded.

    def __call__(self) -> None:
        from lwd.data.formats import diffusion_policy, npz
        from lwd.data.read import read

        path = Path(self.dst).expanduser()
        require(path.suffix in (".npz", ".zarr"), f"{path}: the destination must end in .npz or .zarr (the Diffusion-Policy layout)")
        require(not path.exists(), f"{path} exists: remove it first, or choose another name")
        episodes = read(self.src, download=self.download)
        path.parent.mkdir(parents=True, exist_ok=True)
        (npz.save_npz if path.suffix == ".npz" else diffusion_policy.write)(episodes, path)
        print(f"{self.dst}: {len(episodes)} episodes, {episodes.steps} steps")


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
class Collect:
    """Collect synthetic demonstrations with scripted experts, in parallel."""

    env: Pusht | Metaworld
    seed: int = 0  # Seed of starts and of the expert's choices. Metaworld: reset seed of the first attempt, below 100000.
    fresh: bool = False  # Collect anew what is there.
    workers: int | None = None  # Processes; one per core by default. The result does not depend on it.
    json: bool = False  # Print JSON.

    def __call__(self) -> None:
        from lwd.data.collect import collect

        env, common = type(self.env).__name__.lower(), {"seed": self.seed, "fresh": self.fresh, "workers": self.workers}
        options = {**asdict(self.env), **common}
        if isinstance(self.env, Metaworld):
            names = [name.strip() for name in self.env.tasks.split(",") if name.strip()]
            options |= {"tasks": names, "out": self.env.out or f"data/metaworld-{'-'.join(names)}"}
        rows = collect(env, progress=not self.json, **options)
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


Data = List | Show | Convert | Collect


def show(columns: list[str], rows: Iterable[Iterable[Any]], caption: str = "") -> None:
    """Prints a table; numbers that are no counts have four digits."""
    from rich.console import Console

    from lwd.report.tables import Table, terminal

    cells = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    Console().print(terminal(Table("", columns, cells, caption)))
