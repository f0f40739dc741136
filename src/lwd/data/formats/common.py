"""What the formats share: errors of decoding libraries become sentences, numbers become float32, `Meta` comes from JSON, HDF5 is opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.config import from_dict, require
from lwd.envs.base import family
from lwd.episodes import Episodes, Float, Meta
from lwd.errors import LWDError

PACKED = "lwd"  # where files of other tools keep what only this library knows (`packed`); those tools do not look there


@contextmanager
def decoding(path: Path | str) -> Iterator[None]:
    """Turns whatever numpy, zarr, pyarrow or zipfile raise on a damaged file into one sentence."""
    try:
        yield
    except (LWDError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError) and not Path(path).exists():
            raise LWDError(f"{path} is missing") from error
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise LWDError(f"{path} cannot be read: it is damaged, incomplete, pickled or not what its name promises ({reason})") from error


def as_floats(name: str, array: NDArray) -> Float:
    """(N, D) numbers of any real type as float32."""
    require(array.dtype.kind in "fiub", f"{name} must hold numbers, not {array.dtype}")
    require(array.ndim == 2, f"{name} must have two dimensions (steps, values), not shape {array.shape}")
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite, and `Episodes` says where
        return array.astype(np.float32)


def as_labels(array: NDArray) -> NDArray:
    """Numbers as they are; text and whatever else as fixed-width unicode, which needs no pickle."""
    return array if array.dtype.kind in "fiub" else array.astype(np.str_)


def meta_from(where: str, value: Any) -> Meta:
    """`Meta` from JSON. Fields of later versions are ignored. Files that were written before `obs_kind` had its name call it "obs"."""
    require(isinstance(value, dict), f"{where} must be a JSON object, not {value!r}")
    value = {"obs_kind": value.get("obs", "state"), **value}
    return from_dict(Meta, {field.name: value[field.name] for field in fields(Meta) if field.name in value})


def h5py_for(path: Path) -> Any:
    """The h5py library, which a file is to be read or written with."""
    try:
        import h5py
    except ImportError as error:
        raise LWDError(f'{path}: HDF5 files need h5py: pip install "latent-weight-diffusion[hdf5]"') from error
    return h5py


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 files do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


@contextmanager
def hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file (h5py.File) to read from."""
    with decoding(path), h5py_for(path).File(path, "r") as file:
        yield file


def numbers(group: Any, key: str) -> NDArray:
    """An array in a group of an HDF5 file, whole; an error lists those beside it."""
    place, _, name = key.rpartition("/")
    beside = group.get(place) if place else group
    found = dict(beside) if hasattr(beside, "keys") else {}
    where = f"{group.name}/{place}".strip("/") or "the file"
    require(hasattr(found.get(name), "shape"), f"{where} has no table {name}; it has {', '.join(sorted(found)) or 'nothing'}")
    return np.asarray(found[name][()])


def packed(episodes: Episodes) -> str:
    """JSON of what files of other tools have no place for: `Meta`, the names of tasks, and tags."""
    labels = {name: as_labels(values).tolist() for name, values in episodes.tags.items()}
    return json.dumps({"meta": asdict(episodes.meta), "task": None if episodes.task is None else episodes.task.tolist(), "tags": labels})


def unpacked(text: str) -> tuple[Meta, NDArray[np.str_] | None, dict[str, NDArray]]:
    """`Meta`, names of tasks and tags from what `packed` returned."""
    record = json.loads(text)
    tags = {name: as_labels(np.array(values)) for name, values in record["tags"].items()}
    return meta_from(PACKED, record["meta"]), None if record["task"] is None else np.array(record["task"], np.str_), tags


def foreign_name(env: str | None, tool: str) -> str:
    """What another tool ("gymnasium", "robosuite") calls an environment; empty where it has no name for it."""
    try:
        names = (env or "", *(family(env).aliases if env else ()))
    except LWDError:  # an environment of somebody's own that is not here
        names = (env or "",)
    return next((name.removeprefix(f"{tool}:") for name in names if name.startswith(f"{tool}:")), "")


def last_rewards(episodes: Episodes) -> Float:
    """(N,) rewards for tools that need some: zero but for the last step of each episode, which has its `return`, or 1 for `success`."""
    rewards, tags = np.zeros(episodes.steps, np.float32), episodes.tags
    known = next((tags[name] for name in ("return", "success") if name in tags and tags[name].dtype.kind in "fiub"), None)
    if known is not None:
        rewards[episodes.ends - 1] = known
    return rewards
