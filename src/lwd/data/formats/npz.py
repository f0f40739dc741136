"""`.npz` files: `obs` (N, Do), `action` (N, Da), `ends` (E,), and optionally `task` (E,), a JSON `meta`, and tags (E,): any other name."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.config import require
from lwd.data.formats.common import as_floats, as_labels, decoding, meta_from
from lwd.episodes import Episodes, concatenate
from lwd.errors import LWDError
from lwd.files import write_bytes

LAYOUT = """An .npz data set holds all steps of all episodes in two tables, and where each episode ends. In numpy:
    obs, action = np.concatenate(all_obs), np.concatenate(all_actions)  # (steps, dimensions) each, one episode after the other
    ends = np.cumsum([len(episode) for episode in all_obs])             # (episodes,): the row after the last one of each episode
    np.savez("demos.npz", obs=obs, action=action, ends=ends)"""


def matches(path: Path) -> bool:
    """Whether a file is an archive of numpy arrays (or claims to be one by its name), or a directory holds some."""
    if path.is_dir():
        return bool(_files(path))
    if path.suffix == ".npz" or not zipfile.is_zipfile(path):
        return path.suffix == ".npz"
    with decoding(path), zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") and "/" not in name for name in archive.namelist())


def read(path: Path) -> Episodes:
    """Demonstrations from an `.npz` file, or from all of a directory in the order of their names."""
    files = _files(path) if path.is_dir() else [path]
    parts = []
    for file in files:
        parts.append(load_npz(file))
        difference = parts[0].difference(parts[-1])
        require(not difference, f"{file} differs from {files[0].name} beside it in {difference}: keep them in separate directories")
    whole = concatenate(parts)
    return replace(whole, meta=replace(whole.meta, description="; ".join(dict.fromkeys(part.meta.description for part in parts))))


def save_npz(episodes: Episodes, path: Path | str) -> None:
    """Writes a compressed `.npz` file. Folders are made, an existing file is replaced, and no half file is ever seen."""
    arrays: dict[str, Any] = {"obs": episodes.obs, "action": episodes.action, "ends": episodes.ends}
    if episodes.task is not None:
        arrays["task"] = as_labels(episodes.task)
    arrays |= {f"tag_{name}": as_labels(values) for name, values in episodes.tags.items()}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays, meta=np.array(json.dumps(asdict(episodes.meta))))
    write_bytes(Path(path), content.getvalue())


def load_npz(path: Path | str) -> Episodes:
    """Reads what `save_npz` wrote, or what a user saved under the same keys, whose mistakes are told with the layout. Never unpickles."""
    path = Path(path)
    with decoding(path), path.open("rb") as file:
        arrays: dict[str, NDArray] = dict(np.load(file, allow_pickle=False))
    missing = ", ".join(key for key in ("obs", "action", "ends") if key not in arrays)
    require(not missing, f"{path} has no {missing} (it has {', '.join(sorted(arrays)) or 'nothing'}). {LAYOUT}")
    mistake = _mistake(arrays["obs"], arrays["action"], arrays["ends"])
    require(not mistake, f"{path}: {mistake}. {LAYOUT}")
    with decoding(f"{path}: meta"):
        meta = meta_from("meta", json.loads(str(arrays.get("meta", "{}"))))
    task = arrays["task"].astype(np.str_) if "task" in arrays else None
    own, known = arrays["ends"].shape, ("obs", "action", "ends", "task", "meta")
    tags = {
        key.removeprefix("tag_"): array
        for key, array in arrays.items()
        if key not in known and (key.startswith(("tag_", "success")) or array.shape == own)
    }
    obs, action = as_floats("obs", arrays["obs"]), as_floats("action", arrays["action"])
    try:
        return Episodes(obs, action, arrays["ends"], task, tags, meta)
    except LWDError as error:
        raise LWDError(f"{path}: {error}") from None


def _mistake(obs: NDArray, action: NDArray, ends: NDArray) -> str:
    """The usual mistakes in the three tables; empty where there is none."""
    shapes = f"obs {obs.shape}, action {action.shape}, ends {ends.shape}"
    for name, array in {"obs": obs, "action": action, "ends": ends}.items():
        if array.dtype.kind not in "fiub":
            return f"{name} must hold numbers, not {array.dtype}"
    if obs.ndim == action.ndim == 3:
        return f"obs and action have three dimensions ({shapes}): put the episodes one after the other, not one above the other"
    if obs.ndim != 2 or action.ndim != 2:
        return f"obs and action must have two dimensions, steps and values ({shapes})"
    if ends.ndim != 1 or not len(ends):
        return f"ends must be a list of row numbers, one for each episode ({shapes})"
    if (ends % 1).any():
        return "ends must hold row numbers, not fractions"
    if obs.shape[1] == action.shape[1] != len(obs) and obs.shape[1] in (ends[-1], ends.sum()):
        return f"obs and action are transposed ({shapes}): rows must be steps"
    if len(obs) == len(action) + len(ends):
        return "every episode has one observation more than actions: leave out the observation after the last action"
    if len(obs) != len(action):
        return f"obs has {len(obs)} steps but action has {len(action)}: every step needs both"
    if ends[-1] != len(obs) and ends.sum() == len(obs):
        return f"ends holds the lengths of the episodes, which add up to the {len(obs)} steps: write np.cumsum(lengths)"
    if ends[0] == 0:
        return "ends begins with 0, which is the start of the first episode, not its end"
    if ends[-1] == len(obs) - 1:
        return f"ends holds the last row of each episode ({ends[-1]} of {len(obs)} rows): write the row after it, which is one more"
    return "" if ends[-1] == len(obs) else f"the last episode ends at {ends[-1]} but there are {len(obs)} steps"


def _files(path: Path) -> list[Path]:
    """The data sets in a directory. Hidden ones are left-overs of an interrupted program."""
    return sorted(file for file in path.glob("*.npz") if not file.name.startswith(".") and file.is_file())
