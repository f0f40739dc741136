"""`lwd data`: list, show and convert demonstrations (`collect` has its own file). Heavy imports are in the functions: `lwd --help` imports
this file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from lwd.commands.collect import Collect, show
from lwd.config import Words, require


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
            by_path = ".npz, Diffusion-Policy zarr, LeRobot and Minari directories, HDF5 of robomimic and D4RL"
            show(columns, rows, f"read by path: {by_path}; by name: minari:ID, LeRobot sets of the Hub")


@dataclass
class Show:
    """Print episodes, steps, dimensions, ranges, lengths and tags of a data set."""

    path: Positional[str]  # A path, "embedded", minari:ID, or a Hub id "owner/name".
    download: bool = False  # Allow an id to be downloaded.
    obs_keys: Words = ()  # Observations to join, by their keys in the file, for formats with keys.
    json: bool = False  # Print JSON.

    def __call__(self) -> None:
        import numpy as np

        from lwd.data.prepare import dimension_names
        from lwd.data.read import read

        episodes = read(self.path, download=self.download, obs_keys=self.obs_keys)
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
    """Convert a data set to another format: npz, a Diffusion-Policy zarr directory, HDF5 of robomimic or D4RL, or a Minari data set."""

    src: Positional[str]  # What to read: a path, "embedded", minari:ID, or a Hub id.
    dst: Positional[str]  # What to write: a new name that ends in .npz, .zarr or .hdf5, or minari:ID.
    to: Literal["npz", "zarr", "robomimic", "d4rl", "minari"] | None = None  # Format; by default that of the name (.hdf5: robomimic).
    download: bool = False  # Allow an id to be downloaded.
    obs_keys: Words = ()  # Observations to join, by their keys in the file, for formats with keys.

    def __call__(self) -> None:
        from lwd.data.formats import d4rl, diffusion_policy, minari, npz, robomimic
        from lwd.data.read import read

        writers = {"npz": npz.save_npz, "zarr": diffusion_policy.write, "robomimic": robomimic.write, "d4rl": d4rl.write}
        path, kinds = Path(self.dst).expanduser(), {".npz": "npz", ".zarr": "zarr", ".hdf5": "robomimic"}
        to = self.to or ("minari" if self.dst.startswith("minari:") else kinds.get(path.suffix, ""))
        require(bool(to), f"{path}: the destination must end in .npz, .zarr or .hdf5 or be minari:ID, or else say --to FORMAT")
        path = minari.place(self.dst.removeprefix("minari:")) if to == "minari" else path
        require(not path.exists(), f"{path} exists: remove it first, or choose another name")
        episodes = read(self.src, download=self.download, obs_keys=self.obs_keys)
        path.parent.mkdir(parents=True, exist_ok=True)
        writers.get(to, minari.write)(episodes, path)
        print(f"{self.dst}: {len(episodes)} episodes, {episodes.steps} steps")


Data = List | Show | Convert | Collect
