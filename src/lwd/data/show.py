"""What a user asks of a data set before training on it: what is in it, and the same in another format."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from lwd.data.embedded import embedded_path
from lwd.data.episodes import Episodes, Float
from lwd.data.npz import save_npz
from lwd.data.readers import EMBEDDED, diffusion_policy, read
from lwd.errors import LWDError

TAG_VALUES = 12  # most values of one tag that are listed by name

_METAWORLD = tuple(
    f"{when}{what}"
    for when in ("", "last ")
    for what in (
        *(f"hand {axis}" for axis in "xyz"),
        "gripper",
        *(f"object {i} {part}" for i in (1, 2) for part in ("x", "y", "z", "q0", "q1", "q2", "q3")),
    )
)
DIMENSIONS: dict[tuple[str | None, str], tuple[str, ...]] = {
    ("pusht", "state"): ("agent x", "agent y", "block x", "block y", "block angle"),
    ("pusht", "keypoints"): (*(f"point {i} {axis}" for i in range(8) for axis in "xy"), "agent x", "agent y"),
    ("metaworld", "goal_hidden"): _METAWORLD,
    ("metaworld", "state"): (*_METAWORLD, "goal x", "goal y", "goal z"),
}
ACTIONS: dict[str | None, tuple[str, ...]] = {"pusht": ("target x", "target y"), "metaworld": ("move x", "move y", "move z", "grip")}


def available() -> list[dict[str, Any]]:
    """The embedded data sets, for `lwd data list`.

    Returns:
        For each: `name` (what `read` and `--data` take), `episodes`, `steps`, `megabytes` (on disk) and `description`; the three
        figures are None, and the description says what to do, when this installation lacks the file.
    """
    sets: list[dict[str, Any]] = []
    for short in EMBEDDED:
        name = f"embedded:{short}"
        try:
            episodes, size = read(name), embedded_path(short).stat().st_size / 1e6
            figures = {"episodes": len(episodes), "steps": episodes.steps, "megabytes": round(size, 2)}
            sets.append({"name": name, **figures, "description": episodes.meta.description})
        except LWDError as error:  # a list is for looking: one faulty entry must not hide the others
            sets.append({"name": name, "episodes": None, "steps": None, "megabytes": None, "description": str(error)})
    return sets


def describe(episodes: Episodes) -> dict[str, Any]:
    """Everything that `lwd data show` prints, as plain numbers and strings (JSON).

    Returns:
        `episodes`, `steps`, `obs_dim`, `action_dim`, `lengths` (min, mean, max in steps), `obs` and `action` (per dimension: name,
        min, max, mean, std in raw units), `tasks` and `tags` (counts of episodes by value), `meta`, `fingerprint`.
    """
    names = DIMENSIONS.get((episodes.meta.env, episodes.meta.obs), ())
    lengths = episodes.lengths
    return {
        "episodes": len(episodes),
        "steps": episodes.steps,
        "obs_dim": episodes.obs.shape[1],
        "action_dim": episodes.action.shape[1],
        "lengths": {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())},
        "obs": _ranges(episodes.obs, names),
        "action": _ranges(episodes.action, ACTIONS.get(episodes.meta.env, ())),
        "tasks": {} if episodes.task is None else dict(Counter(episodes.task.tolist())),
        "tags": {name: _counts(values) for name, values in episodes.tags.items()},
        "meta": asdict(episodes.meta),
        "fingerprint": episodes.fingerprint(),
    }


def render(description: dict[str, Any]) -> Group:
    """The tables of `lwd data show`, from what `describe` returned."""
    facts = Table(show_header=False, box=None)
    lengths, meta = description["lengths"], description["meta"]
    facts.add_row("episodes", f"{description['episodes']:,}")
    facts.add_row("steps", f"{description['steps']:,}")
    facts.add_row("length", f"{lengths['min']} to {lengths['max']} steps, mean {lengths['mean']:.1f}")
    facts.add_row("observation", f"{description['obs_dim']} dimensions" + (f" ({meta['obs']})" if meta["env"] else ""))
    facts.add_row("action", escape(f"{description['action_dim']} dimensions, {_declared_range(meta)}"))
    facts.add_row("environment", meta["env"] or "none: it can be trained on, but not evaluated in a simulator")
    if meta["description"]:
        facts.add_row("origin", escape(meta["description"]))
    facts.add_row("fingerprint", description["fingerprint"])
    ranges = Table(title="ranges, raw units", title_justify="left")
    for heading in ("", "dimension", "min", "max", "mean", "std"):
        ranges.add_column(heading, justify="right" if heading in {"min", "max", "mean", "std"} else "left")
    for kind in ("obs", "action"):
        for i, row in enumerate(description[kind]):
            label = f"{row['name']} [dim](radians)[/dim]" if kind == "obs" and i in meta["angles"] else row["name"]
            ranges.add_row(kind, label, *(f"{row[column]:.4g}" for column in ("min", "max", "mean", "std")))
    parts: list[Table] = [facts, ranges]
    groups = {**({"task": description["tasks"]} if description["tasks"] else {}), **description["tags"]}
    if groups:
        labels = Table("label", "value", "episodes", title="tasks and tags", title_justify="left")
        for name, counts in groups.items():
            for value, count in counts.items():
                labels.add_row(escape(name), escape(value), str(count))
        parts.append(labels)
    return Group(*parts)


def convert(source: str | Path | Episodes, target: str | Path, *, download: bool = False) -> Path:
    """Write any readable data set as `.npz` or as a Diffusion-Policy `.zarr` directory.

    Args:
        source: whatever `read` takes, or episodes that were read already.
        target: a new path that ends in `.npz` or `.zarr`.
        download: allow `source` to be downloaded.

    Returns:
        The path written.

    Raises:
        LWDError: the target exists or has another ending, or the source cannot be read.
    """
    path = Path(target).expanduser()
    if path.suffix not in {".npz", ".zarr"}:
        raise LWDError(f"{path}: the target must end in .npz or .zarr (the Diffusion-Policy layout)")
    if path.exists():
        raise LWDError(f"{path} exists: remove it first, or choose another name")
    episodes = source if isinstance(source, Episodes) else read(source, download=download)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        save_npz(episodes, path)
    else:
        diffusion_policy.write(episodes, path)
    return path


def _ranges(values: Float, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Per dimension of (N, D) values: name, min, max, mean, std."""
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    return [
        {
            "name": names[i] if i < len(names) else str(i),
            "min": float(values[:, i].min()),
            "max": float(values[:, i].max()),
            "mean": float(mean[i]),
            "std": float(std[i]),
        }
        for i in range(values.shape[1])
    ]


def _counts(values: NDArray) -> dict[str, int]:
    """Episodes by value, most frequent first; a measured quantity with many values is summarised by its range."""
    counts = Counter(str(value) for value in values.tolist())
    if len(counts) > TAG_VALUES and values.dtype.kind in "fiu":
        return {f"{values.min():.4g} to {values.max():.4g}": len(values)}
    common = dict(counts.most_common(TAG_VALUES))
    rest = len(values) - sum(common.values())
    return {**common, f"{len(counts) - TAG_VALUES} other values": rest} if rest else common


def _declared_range(meta: dict[str, Any]) -> str:
    low, high = meta["action_low"], meta["action_high"]
    if low is None or high is None:
        return "no declared range"
    return "declared range " + ", ".join(f"[{a:g}, {b:g}]" for a, b in zip(low, high, strict=True))
