"""The zarr layout of Diffusion Policy: `data/state` (or `data/obs`), `data/action`, `meta/episode_ends`; images are ignored.

Written with zarr's version-2 format, as a directory or zipped. Further arrays in `meta/` with one entry per episode are tags.
"""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, ZipStore

from lwd.data.formats.common import as_floats, decoding, meta_from
from lwd.envs.base import recognise
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError

META_ATTRIBUTE = "lwd_meta"  # attribute of the root group in which `write` keeps `Meta`, so that a round trip loses nothing
LAYOUT = "a Diffusion-Policy data set has data/state or data/obs (steps, values), data/action (steps, values) and meta/episode_ends"


def matches(path: Path) -> bool:
    """Whether a path is a zarr group, as a directory or zipped (or claims to be one by its name)."""
    if path.is_dir():
        return path.suffix == ".zarr" or (path / ".zgroup").is_file() or (path / "zarr.json").is_file()
    if path.name.endswith(".zarr.zip"):
        return True
    return path.is_file() and zipfile.is_zipfile(path) and _zip_root(path) is not None


def read(path: Path) -> Episodes:
    """Demonstrations from a Diffusion-Policy zarr directory or zip. Data of an environment that recognises its own is declared as such.

    Raises:
        LWDError: a key is missing (the keys found are listed), chunks are missing or damaged, or `Episodes` refuses the values.
    """
    with _open(path) as (group, keys):
        obs_key = "data/state" if "data/state" in keys else "data/obs"
        missing = [key for key in (obs_key, "data/action", "meta/episode_ends") if key not in keys]
        if missing:
            name = "data/state (or data/obs)" if missing[0] == "data/obs" else missing[0]
            raise LWDError(f"{path} has no {name}; found {', '.join(sorted(keys)) or 'no arrays'}; {LAYOUT}")
        obs = as_floats(obs_key, _array(path, group, obs_key, complete=True))
        action = as_floats("data/action", _array(path, group, "data/action", complete=True))
        ends = _array(path, group, "meta/episode_ends")
        if ends.dtype.kind not in "iu":
            raise LWDError(f"{path}: meta/episode_ends must be integers, not {ends.dtype}")
        extra = {key.removeprefix("meta/"): key for key in sorted(keys) if key.startswith("meta/") and key != "meta/episode_ends"}
        labels = {name: _array(path, group, key) for name, key in extra.items()}
        declared = group.attrs.asdict().get(META_ATTRIBUTE)
    tags = {name: _text(value) for name, value in labels.items() if value.shape == ends.shape}
    task = tags.pop("task", None)
    if declared is None:
        description = f"Diffusion-Policy data set {path.name}"
        meta = recognise(obs, action, description) or Meta(description=description)
    elif isinstance(declared, dict):
        meta = meta_from(declared)
    else:
        raise LWDError(f"{path}: the attribute {META_ATTRIBUTE} must hold a JSON object, not {declared!r}")
    return Episodes(obs, action, ends.astype(np.int64), None if task is None else task.astype(np.str_), tags, meta)


def write(episodes: Episodes, path: Path) -> None:
    """Writes the layout that `read` reads (zarr format 2), under a temporary name first: a killed process leaves no half data set."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        root = zarr.open_group(str(temporary), mode="w", zarr_format=2)
        root.attrs[META_ATTRIBUTE] = asdict(episodes.meta)
        data, meta = root.create_group("data"), root.create_group("meta")
        state = "state" if episodes.meta.obs_kind == "state" else "obs"  # the name that Diffusion Policy gives it
        for name, values in ((state, episodes.obs), ("action", episodes.action)):
            # chunks of zeros are written out: `read` takes an absent chunk for an incomplete copy
            data.create_array(name, data=values, chunks=(min(len(values), 4096), values.shape[1]), config={"write_empty_chunks": True})
        labels = {"episode_ends": episodes.ends, **episodes.tags}
        if episodes.task is not None:
            labels["task"] = episodes.task
        for name, labels_of in labels.items():
            array = _text(np.asarray(labels_of))
            meta.create_array(name, data=array, chunks=array.shape, config={"write_empty_chunks": True})
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def _remove(folder: Path) -> None:
    """After a failed write: zarr's threads may still be writing what was begun beside the part that failed, for a moment."""
    for _ in range(5):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _open(path: Path) -> Iterator[tuple[zarr.Group, set[str]]]:
    """The root group and the names of the arrays below it, such as `data/state`.

    Names come from the file system, not from zarr: listing through zarr opens every array, which fails for images in a codec
    that is not installed.
    """
    if path.is_dir():
        marks = [mark for name in (".zarray", "zarr.json") for mark in path.glob(f"*/*/{name}")]
        keys = {mark.parent.relative_to(path).as_posix() for mark in marks}
        with decoding(path):
            group = zarr.open_group(LocalStore(path, read_only=True), mode="r")
        yield group, keys
        return
    with decoding(path):
        root = _zip_root(path)
        if root is None:
            raise LWDError(f"{path} holds no zarr group; {LAYOUT}")
        with zipfile.ZipFile(path) as archive:
            inside = [name.removeprefix(f"{root}/" if root else "") for name in archive.namelist()]
        keys = {name.rpartition("/")[0] for name in inside if name.count("/") == 2 and name.endswith(("/.zarray", "/zarr.json"))}
        store = ZipStore(path, mode="r")
        group = zarr.open_group(store, mode="r", path=root)
    try:
        yield group, keys
    finally:
        store.close()


def _zip_root(path: Path) -> str | None:
    """Where in a zip the root group lies ("" for the top; published archives wrap it in a directory), None without a group."""
    with decoding(path), zipfile.ZipFile(path) as archive:
        groups = [name for name in archive.namelist() if name.rpartition("/")[2] in {".zgroup", "zarr.json"}]
    return min((name.rpartition("/")[0] for name in groups), key=lambda name: name.count("/") + bool(name), default=None)


def _array(path: Path, group: zarr.Group, key: str, complete: bool = False) -> NDArray:
    """One array, decoded; `complete`: refuse absent chunks, which zarr would silently read as zeros."""
    with decoding(path / key):
        array = group[key]
        if not isinstance(array, zarr.Array):
            raise LWDError(f"{path}: {key} is a group, not an array; {LAYOUT}")
        codecs = [getattr(codec, "codec_id", "") for codec in (*array.filters, *array.compressors)]
        if "pickle" in codecs:
            raise LWDError(f"{path}: {key} is stored as Python pickles, which can run code when read; write it without pickle")
        if complete and array.nchunks_initialized < array.nchunks:
            raise LWDError(
                f"{path}: {key} lacks {array.nchunks - array.nchunks_initialized} of {array.nchunks} chunks: the copy is incomplete "
                "(if those steps are all zero, write the data set again with write_empty_chunks=True)"
            )
        if "blosc" in codecs and path.is_dir():  # a zip has checksums of its own
            _check_blosc(path / key)
        return np.asarray(array[...])


def _check_blosc(array: Path) -> None:
    """Compare each chunk's size with its header: blosc decodes a chunk that is cut off from whatever memory lies behind it."""
    for chunk in array.rglob("*"):
        if chunk.name.startswith(".") or not chunk.is_file():
            continue
        with chunk.open("rb") as file:
            header = file.read(16)  # bytes 12 to 16: the compressed size, header included
        size = chunk.stat().st_size
        if len(header) < 16 or size < int.from_bytes(header[12:], "little"):
            raise LWDError(f"{array}: chunk {chunk.relative_to(array).as_posix()} is cut off at {size} bytes: copy or download it again")


def _text(values: NDArray) -> NDArray:
    """Labels as they are, but every kind of string (bytes, variable length) as fixed-width unicode, which needs no pickle."""
    return values.astype(np.str_) if values.dtype.kind in "SOT" else values
