"""The zarr layout of Diffusion Policy (`LAYOUT`); images are ignored. Further arrays in `meta/` with one entry per episode are tags."""

from __future__ import annotations

import os
import tempfile
import zipfile
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer
from zarr.storage import LocalStore, MemoryStore, ZipStore

from lwd.config import require
from lwd.data.formats.common import as_floats, as_labels, decoding, meta_from
from lwd.envs.base import recognise
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError

META_ATTRIBUTE = "lwd_meta"  # attribute of the root group in which `write` keeps `Meta`, so that a round trip loses nothing
LAYOUT = "a Diffusion-Policy data set has data/state or data/obs (steps, values), data/action (steps, values) and meta/episode_ends"


def matches(path: Path) -> bool:
    """Whether a path is a zarr group, as a directory or zipped (or claims to be one by its name)."""
    if path.name.endswith((".zarr", ".zarr.zip")):
        return True
    if path.is_dir():
        return (path / ".zgroup").is_file() or (path / "zarr.json").is_file()
    return zipfile.is_zipfile(path) and any(Path(name).name in (".zgroup", "zarr.json") for name in _names(path))


def read(path: Path) -> Episodes:
    """Demonstrations from a Diffusion-Policy zarr directory or zip. Data of an environment that recognises its own is declared as such."""
    with decoding(path):
        names = _names(path)
        # published archives wrap the root group in a directory
        groups = [name.rpartition("/")[0] for name in names if Path(name).name in (".zgroup", "zarr.json")]
        root = min(groups, key=len) if groups else ""
        inside = [name.removeprefix(f"{root}/" if root else "") for name in names]
        keys = {name.rpartition("/")[0] for name in inside if name.count("/") == 2 and Path(name).name in (".zarray", "zarr.json")}
        with closing(LocalStore(path, read_only=True) if path.is_dir() else ZipStore(path, mode="r")) as store:
            group = zarr.open_group(store, mode="r", path=root)
            obs_key = "data/state" if "data/state" in keys else "data/obs"
            for key in (obs_key, "data/action", "meta/episode_ends"):
                name = "data/state (or data/obs)" if key == "data/obs" else key
                require(key in keys, f"{path} has no {name}; found {', '.join(sorted(keys)) or 'no arrays'}; {LAYOUT}")
            obs, action = (as_floats(key, _array(path, group, key)) for key in (obs_key, "data/action"))
            labels = {key.removeprefix("meta/"): _array(path, group, key) for key in sorted(keys) if key.startswith("meta/")}
            declared = group.attrs.asdict().get(META_ATTRIBUTE)
    ends = labels.pop("episode_ends")
    require(ends.dtype.kind in "iu", f"{path}: meta/episode_ends must be integers, not {ends.dtype}")
    tags = {name: as_labels(value) for name, value in labels.items() if value.shape == ends.shape}
    task, description = tags.pop("task", None), f"Diffusion-Policy data set {path.name}"
    seen = recognise(obs, action, description) or Meta(description=description)
    meta = seen if declared is None else meta_from(f"the attribute {META_ATTRIBUTE}", declared)
    return Episodes(obs, action, ends, None if task is None else task.astype(np.str_), tags, meta)


def write(episodes: Episodes, path: Path) -> None:
    """Writes the layout that `read` reads (zarr format 2), under a temporary name first: a killed process leaves no half data set."""
    state = "state" if episodes.meta.obs_kind == "state" else "obs"  # the name that Diffusion Policy gives it
    arrays: dict[str, NDArray] = {f"data/{state}": episodes.obs, "data/action": episodes.action, "meta/episode_ends": episodes.ends}
    labels = episodes.tags if episodes.task is None else {**episodes.tags, "task": episodes.task}
    arrays |= {f"meta/{name}": as_labels(values) for name, values in labels.items()}
    files: dict[str, Buffer] = {}  # in memory: zarr writes in threads, which would go on after an error while the directory is removed
    root = zarr.open_group(MemoryStore(files), mode="w", zarr_format=2)
    root.attrs[META_ATTRIBUTE] = asdict(episodes.meta)
    for name, values in arrays.items():
        # chunks of zeros are written out: `read` takes an absent chunk for an incomplete copy
        chunks = (min(len(values), 4096), *values.shape[1:])
        root.create_array(name, data=values, chunks=chunks, config={"write_empty_chunks": True})
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", ignore_cleanup_errors=True) as folder:
        for name, content in files.items():
            file = Path(folder, "new", name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.to_bytes())
        os.replace(f"{folder}/new", path)


def _names(path: Path) -> list[str]:
    """Files that mark groups and arrays. (zarr opens every array that it lists, and fails for images in a codec that is not there.)"""
    if path.is_dir():
        marks = (".zgroup", "zarr.json", "*/*/.zarray", "*/*/zarr.json")
        return [file.relative_to(path).as_posix() for mark in marks for file in path.glob(mark)]
    with decoding(path), zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _array(path: Path, group: zarr.Group, key: str) -> NDArray:
    """One array, decoded. Absent chunks of data are refused, which zarr would silently read as zeros."""
    with decoding(path / key):
        array = group[key]
        if not isinstance(array, zarr.Array):
            raise LWDError(f"{path}: {key} is a group, not an array; {LAYOUT}")
        codecs = [getattr(codec, "codec_id", "") for codec in (*array.filters, *array.compressors)]
        pickled = f"{key} is stored as Python pickles, which can run code when read; write it without pickle"
        require("pickle" not in codecs, f"{path}: {pickled}")
        absent = array.nchunks - array.nchunks_initialized if key.startswith("data/") else 0
        remedy = "if those steps are all zero, write the data set again with write_empty_chunks=True"
        require(not absent, f"{path}: {key} lacks {absent} of {array.nchunks} chunks: the copy is incomplete ({remedy})")
        # blosc decodes a chunk that is cut off from whatever memory lies behind it; a zip has checksums of its own
        for chunk in filter(Path.is_file, (path / key).rglob("[!.]*")) if "blosc" in codecs and path.is_dir() else ():
            with chunk.open("rb") as file:
                header, size = file.read(16), chunk.stat().st_size  # bytes 12 to 16: the compressed size, header included
            whole = len(header) == 16 and size >= int.from_bytes(header[12:], "little")
            require(whole, f"{chunk.parent}: chunk {chunk.name} is cut off at {size} bytes: copy or download it again")
        return np.asarray(array[...])
