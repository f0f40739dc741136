"""D4RL's HDF5 files: `observations`, `actions`, `rewards`, `terminals`, `timeouts` of all steps, one episode after the other."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np

from lwd.config import require
from lwd.data.formats.common import PACKED, as_floats, h5py_for, hdf5, is_hdf5, last_rewards, numbers, packed, unpacked
from lwd.envs.base import recognise
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError, LWDWarning
from lwd.files import write_bytes


def matches(path: Path) -> bool:
    """Whether an HDF5 file has D4RL's tables at its root."""
    if not is_hdf5(path):
        return False
    try:
        with hdf5(path) as file:
            return not {"observations", "actions"}.isdisjoint(file)
    except LWDError:
        return False  # damaged, or h5py is missing: whoever is asked next about HDF5 will say so


def read(path: Path) -> Episodes:
    """Demonstrations from a D4RL file, which names no environment. Episodes end at terminals and timeouts; those of one step are left out.

    The tag `return` is the sum of the rewards. Files without `timeouts`, as the first ones were, are cut at terminals alone.
    """
    with hdf5(path) as file:
        obs, action = (as_floats(key, numbers(file, key)) for key in ("observations", "actions"))
        flags = ["terminals", *(["timeouts"] if "timeouts" in file else [])]
        columns = {key: numbers(file, key).reshape(-1).astype(float) for key in (*flags, *(["rewards"] if "rewards" in file else []))}
        own = unpacked(file[PACKED].asstr()[()]) if PACKED in file else None
    for name, rows in {"actions": action, **columns}.items():
        require(len(rows) == len(obs), f"{name} has {len(rows)} steps but observations has {len(obs)}")
    over = np.logical_or.reduce([columns[name] for name in flags])
    require(bool(over.any()), f"nothing says where episodes end ({' and '.join(flags)} are all false): add timeouts, true at last steps")
    if len(flags) == 1:
        text = f"{path} has no timeouts: it is cut at terminals alone, and what was cut off after some time is one episode with the next"
        warnings.warn(text, LWDWarning, stacklevel=2)
    ends = np.union1d(np.flatnonzero(over) + 1, [len(obs)])  # the last episode of a file is often cut off
    lengths = np.diff(ends, prepend=0)
    long = lengths > 1
    steps, description = np.repeat(long, lengths), f"D4RL data set {path.name}"
    if own is None:
        meta = recognise(obs, action, description) or Meta(description=description)
        own = meta, None, {"return": np.add.reduceat(columns["rewards"], ends - lengths)[long]} if "rewards" in columns else {}
    meta, task, tags = own
    return Episodes(obs[steps], action[steps], np.cumsum(lengths[long]), task, tags, meta)


def write(episodes: Episodes, path: Path) -> None:
    """Writes the file whole or not at all. Every episode ends in a timeout; for its rewards see `last_rewards`."""
    content, last = io.BytesIO(), np.zeros(episodes.steps, bool)
    last[episodes.ends - 1] = True
    with h5py_for(path).File(content, "w") as file:
        file["observations"], file["actions"], file["rewards"] = episodes.obs, episodes.action, last_rewards(episodes)
        file["terminals"], file["timeouts"] = np.zeros_like(last), last
        file[PACKED] = packed(episodes)
    write_bytes(path, content.getvalue())
