"""`.npz` files: `obs` (N, Do), `action` (N, Da), `ends` (E,), and optionally `task`, `tag_<name>` (E,) and a JSON `meta`.

A directory of such files is one data set, in the order of their names.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.data.formats.common import as_floats, decoding, meta_from
from lwd.episodes import Episodes, Meta, concatenate
from lwd.errors import LWDError
from lwd.files import write_bytes

LAYOUT = """An .npz data set holds all steps of all episodes in two tables, and where each episode ends. In numpy:
    obs, action = np.concatenate(all_obs), np.concatenate(all_actions)  # (steps, dimensions) each, one episode after the other
    ends = np.cumsum([len(episode) for episode in all_obs])             # (episodes,): the row after the last one of each episode
    np.savez("demos.npz", obs=obs, action=action, ends=ends)"""

_REQUIRED = ("obs", "action", "ends")
_TAG = "tag_"
_DATE = (1980, 1, 1, 0, 0, 0)  # of every member, so that equal episodes make equal files


def matches(path: Path) -> bool:
    """Whether a file is an archive of numpy arrays (or claims to be one by its name), or a directory holds some."""
    if path.is_dir():
        return bool(_files(path))
    if path.suffix == ".npz" or not zipfile.is_zipfile(path):
        return path.suffix == ".npz"
    with decoding(path), zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") and "/" not in name for name in archive.namelist())


def read(path: Path) -> Episodes:
    """Demonstrations from an `.npz` file, or from all of a directory in the order of their names.

    Raises:
        LWDError: a file is faulty, or does not go with the first one. The message names it.
    """
    if not path.is_dir():
        return load_npz(path)
    files = _files(path)
    parts = []
    for file in files:
        parts.append(load_npz(file))
        _compare(files[0], parts[0], file, parts[-1])
    whole = concatenate(parts)
    return replace(whole, meta=replace(whole.meta, description="; ".join(dict.fromkeys(part.meta.description for part in parts))))


def save_npz(episodes: Episodes, path: Path | str) -> None:
    """Writes a compressed `.npz` file. Folders are made, an existing file is replaced, and no half file is ever seen."""
    arrays: dict[str, NDArray[Any]] = {"obs": episodes.obs, "action": episodes.action, "ends": episodes.ends}
    if episodes.task is not None:
        arrays["task"] = np.asarray(episodes.task, np.str_)
    arrays |= {_TAG + name: _plain(name, values) for name, values in episodes.tags.items()}
    arrays["meta"] = np.array(json.dumps(asdict(episodes.meta)))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _DATE), member.getvalue(), zipfile.ZIP_DEFLATED)
    write_bytes(Path(path), content.getvalue())


def load_npz(path: Path | str) -> Episodes:
    """Reads what `save_npz` wrote, or what a user saved under the same keys. It never unpickles.

    Raises:
        LWDError: there is no such file, it is damaged, or its arrays are not demonstrations. The message shows the layout where it helps.
    """
    path = Path(path)
    arrays = _arrays(path)
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing:
        raise LWDError(f"{path} has no {', '.join(missing)} (it has {', '.join(sorted(arrays)) or 'nothing'}). {LAYOUT}")
    _check_layout(path, arrays["obs"], arrays["action"], arrays["ends"])
    try:
        return Episodes(
            obs=as_floats("obs", arrays["obs"]),
            action=as_floats("action", arrays["action"]),
            ends=arrays["ends"].astype(np.int64),
            task=arrays["task"].astype(np.str_) if "task" in arrays else None,
            tags={key[len(_TAG) :]: array for key, array in arrays.items() if key.startswith(_TAG)},
            meta=_meta(path, arrays["meta"]) if "meta" in arrays else Meta(),
        )
    except LWDError as error:
        raise LWDError(f"{path}: {error}") from None


def _check_layout(path: Path, obs: NDArray[Any], action: NDArray[Any], ends: NDArray[Any]) -> None:
    """Recognises the usual mistakes in the shapes of the three tables, and shows how to write them."""
    shapes = f"obs {obs.shape}, action {action.shape}, ends {ends.shape}"
    fault = ""
    texts = [
        f"{key} must hold numbers, not {x.dtype}"
        for key, x in zip(_REQUIRED, (obs, action, ends), strict=True)
        if x.dtype.kind not in "fiub"
    ]
    if texts:
        fault = texts[0]
    elif obs.ndim == action.ndim == 3:
        fault = f"obs and action have three dimensions ({shapes}): put the episodes one after the other, not one above the other"
    elif obs.ndim != 2 or action.ndim != 2:
        fault = f"obs and action must have two dimensions, steps and values ({shapes})"
    elif ends.ndim != 1 or not len(ends):
        fault = f"ends must be a list of row numbers, one for each episode ({shapes})"
    elif not np.array_equal(ends, np.trunc(ends)):
        fault = "ends must hold row numbers, not fractions"
    elif obs.shape[1] == action.shape[1] != len(obs) and obs.shape[1] in (ends[-1], ends.sum()):
        fault = f"obs and action are transposed ({shapes}): rows must be steps"
    elif len(obs) == len(action) + len(ends):
        fault = "every episode has one observation more than actions: leave out the observation after the last action"
    elif len(obs) != len(action):
        fault = f"obs has {len(obs)} steps but action has {len(action)}: every step needs both"
    elif ends[-1] != len(obs) and ends.sum() == len(obs):
        fault = f"ends holds the lengths of the episodes, which add up to the {len(obs)} steps: write np.cumsum(lengths)"
    elif ends[0] == 0:
        fault = "ends begins with 0, which is the start of the first episode, not its end"
    elif ends[-1] == len(obs) - 1:
        fault = f"ends holds the last row of each episode ({ends[-1]} of {len(obs)} rows): write the row after it, which is one more"
    elif ends[-1] != len(obs):
        fault = f"the last episode ends at {ends[-1]} but there are {len(obs)} steps"
    if fault:
        raise LWDError(f"{path}: {fault}. {LAYOUT}")


def _files(path: Path) -> list[Path]:
    """The data sets in a directory. Hidden ones are left-overs of an interrupted program."""
    return sorted(file for file in path.glob("*.npz") if not file.name.startswith(".") and file.is_file())


def _compare(first: Path, a: Episodes, file: Path, b: Episodes) -> None:
    """Refuses what cannot be joined."""
    facts = {
        "dimensions of observations": (a.obs.shape[1], b.obs.shape[1]),
        "dimensions of actions": (a.action.shape[1], b.action.shape[1]),
        "the environment": (a.meta.env, b.meta.env),
        "the kind of observation": (a.meta.obs_kind, b.meta.obs_kind),
        "angles": (a.meta.angles, b.meta.angles),
        "the range of actions": ((a.meta.action_low, a.meta.action_high), (b.meta.action_low, b.meta.action_high)),
        "having task names": (a.task is not None, b.task is not None),
    }
    for name, (one, other) in facts.items():
        if one != other:
            raise LWDError(f"{file} differs from {first.name} beside it in {name} ({other}, not {one}): keep them in separate directories")


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of the archive by its name."""
    if not path.is_file():
        raise LWDError(f"{path}: there is no such file")
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:  # reading to the end also checks the member's checksum
                    buffer = io.BytesIO(member.read())
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(buffer, allow_pickle=False)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, NotImplementedError) as error:
        reason = f"it is damaged, incomplete or holds pickled objects ({error})"
        raise LWDError(f"{path} cannot be read as .npz: {reason}; make it again") from error
    return arrays


def _meta(path: Path, array: NDArray[Any]) -> Meta:
    """What the file declares about its numbers."""
    try:
        return meta_from(json.loads(str(array[()])))
    except (ValueError, TypeError, IndexError) as error:
        raise LWDError(f"{path}: meta must be a JSON object in a string ({error}); save the data set again") from error


def _plain(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """A tag as an array that needs no pickle."""
    values = np.asarray(values)
    if values.dtype.kind == "O":
        values = values.astype(np.str_)
    if values.dtype.kind not in "fiubUS":
        raise LWDError(f"tag {name} holds {values.dtype}, which cannot be saved: use numbers or text")
    return values
