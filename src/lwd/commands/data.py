"""`lwd data`: list, show, convert and collect demonstrations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, subcommand

from lwd.errors import LWDError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lwd.episodes import Episodes

# Heavy imports are in the functions: `lwd --help` imports this file.
TAG_VALUES = 12  # most values of one tag that are listed by name


@dataclass
class DataList:
    """List the data sets that are shipped, and the formats that can be read."""

    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from lwd.data.embedded import SETS, embedded_path
        from lwd.data.read import read

        sets: list[dict[str, Any]] = []
        for short in SETS:
            row: dict[str, Any] = {"name": f"embedded:{short}", "episodes": None, "steps": None, "megabytes": None}
            try:
                episodes, size = read(row["name"]), embedded_path(short).stat().st_size / 1e6
                row |= {"episodes": len(episodes), "steps": episodes.steps, "megabytes": round(size, 2)}
                sets.append({**row, "description": episodes.meta.description})
            except LWDError as error:  # a list is for looking: one faulty entry must not hide the others
                sets.append({**row, "description": str(error)})
        caption = "read by path: .npz, Diffusion-Policy zarr, LeRobot directories; by name: LeRobot sets of the Hub"
        if self.json:
            print(json.dumps(sets, indent=1))
        else:
            _print("", list(sets[0]), [[str(value) for value in row.values()] for row in sets], caption)


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

        description = describe(read(self.path, download=self.download))
        if self.json:
            print(json.dumps(description, indent=1))
        else:
            show(description)


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
        caption = "success: share of the attempts that succeed; at the end: share of the episodes that still do at their last step"
        cells = [
            [row["task"] or env, *(f"{row[key]}" for key in ("episodes", "steps", "attempts")), f"{row['success']:.0%}"] for row in rows
        ]
        ends = ["–" if row["final_success"] is None else f"{row['final_success']:.0%}" for row in rows]
        columns = ("task", "episodes", "steps", "attempts", "success", "at the end")
        _print("", columns, [[*cell, end] for cell, end in zip(cells, ends, strict=True)], caption)
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


@dataclass
class Data:
    """Demonstrations: list, show, convert, collect."""

    action: (
        Annotated[DataList, subcommand("list")]
        | Annotated[DataShow, subcommand("show")]
        | Annotated[DataConvert, subcommand("convert")]
        | Annotated[DataCollect, subcommand("collect")]
    )

    def __call__(self) -> None:
        self.action()


def describe(episodes: Episodes) -> dict[str, Any]:
    """Everything that `lwd data show` prints, as JSON-ready data. Ranges are per dimension, in raw units."""
    from lwd.data.prepare import dimension_names

    def ranges(values: NDArray[Any], names: list[str]) -> list[dict[str, Any]]:
        wide = values.astype(float)
        numbers = {"min": wide.min(axis=0), "max": wide.max(axis=0), "mean": wide.mean(axis=0), "std": wide.std(axis=0)}
        return [{"name": name, **{key: float(column[i]) for key, column in numbers.items()}} for i, name in enumerate(names)]

    lengths, (obs_names, action_names) = episodes.lengths, dimension_names(episodes)
    return {
        "episodes": len(episodes),
        "steps": episodes.steps,
        "obs_dim": episodes.obs.shape[1],
        "action_dim": episodes.action.shape[1],
        "lengths": {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())},
        "obs": ranges(episodes.obs, obs_names),
        "action": ranges(episodes.action, action_names),
        "tasks": {} if episodes.task is None else dict(Counter(episodes.task.tolist())),
        "tags": {name: _counts(values) for name, values in episodes.tags.items()},
        "meta": asdict(episodes.meta),
        "fingerprint": episodes.fingerprint(),
    }


def show(found: dict[str, Any]) -> None:
    """Prints the tables of `lwd data show`, from what `describe` returned."""
    lengths, meta = found["lengths"], found["meta"]
    declared = [f"[{low:g}, {high:g}]" for low, high in zip(meta["action_low"] or (), meta["action_high"] or (), strict=True)]
    facts = {
        "episodes": f"{found['episodes']:,}",
        "steps": f"{found['steps']:,}",
        "length": f"{lengths['min']} to {lengths['max']} steps, mean {lengths['mean']:.1f}",
        "observation": f"{found['obs_dim']} dimensions" + (f" ({meta['obs_kind']})" if meta["env"] else ""),
        "action": f"{found['action_dim']} dimensions, declared range {', '.join(declared) or 'none'}",
        "environment": meta["env"] or "none: it can be trained on, but not evaluated in a simulator",
        "origin": meta["description"] or "not declared",
        "fingerprint": found["fingerprint"],
    }
    _print("", ("data set", ""), list(facts.items()))
    ranges = []
    for kind in ("obs", "action"):
        for i, row in enumerate(found[kind]):
            note = "constant" if row["min"] == row["max"] else "radians" if kind == "obs" and i in meta["angles"] else ""
            ranges.append((kind, row["name"], *(f"{row[column]:.4g}" for column in ("min", "max", "mean", "std")), note))
    _print("Ranges, raw units", ("", "dimension", "min", "max", "mean", "std", "note"), ranges)
    groups = {"task": found["tasks"], **found["tags"]}
    if labels := [(name, value, str(count)) for name, counts in groups.items() for value, count in counts.items()]:
        _print("Tasks and tags", ("label", "value", "episodes"), labels)


def _counts(values: NDArray[Any]) -> dict[str, int]:
    """Episodes by value, most frequent first; a measured quantity with many values is summarised by its range."""
    counts = Counter(str(value) for value in values.tolist())
    if len(counts) > TAG_VALUES and values.dtype.kind in "fiu":
        return {f"{values.min():.4g} to {values.max():.4g}": len(values)}
    common = dict(counts.most_common(TAG_VALUES))
    rest = len(values) - sum(common.values())
    return {**common, f"{len(counts) - TAG_VALUES} other values": rest} if rest else common


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
    """Prints a table on the terminal."""
    from rich.console import Console

    from lwd.report.tables import Table, terminal

    Console().print(terminal(Table(title, columns, rows, caption)))
