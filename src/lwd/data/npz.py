"""`.npz` files of demonstrations: `obs` (N, Do), `action` (N, Da), `ends` (E,), optionally `task`, `tag_<name>` (E,) and a JSON `meta`."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.data.episodes import Episodes, Meta
from lwd.errors import LWDError

_REQUIRED = ("obs", "action", "ends")
_TAG = "tag_"
_DATE = (1980, 1, 1, 0, 0, 0)  # of every member: equal episodes make equal files


def save_npz(episodes: Episodes, path: Path | str) -> None:
    """Writes a compressed `.npz` file, whole or not at all: it appears under its name only when it is complete.

    Args:
        episodes: what to write, in raw units.
        path: the file; folders are made, an existing file is replaced.
    """
    path = Path(path)
    arrays: dict[str, NDArray[Any]] = {"obs": episodes.obs, "action": episodes.action, "ends": episodes.ends}
    if episodes.task is not None:
        arrays["task"] = np.asarray(episodes.task, np.str_)
    arrays |= {_TAG + name: _plain(name, values) for name, values in episodes.tags.items()}
    arrays["meta"] = np.array(json.dumps(asdict(episodes.meta)))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, array, allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", _DATE), buffer.getvalue(), zipfile.ZIP_DEFLATED)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_npz(path: Path | str) -> Episodes:
    """Reads what `save_npz` wrote, or what a user saved under the same keys. Never unpickles.

    Args:
        path: the file.

    Returns:
        Episodes in raw units.

    Raises:
        LWDError: there is no such file, it is damaged or no `.npz`, a key is missing, or the arrays are not demonstrations.
    """
    path = Path(path)
    arrays = _read(path)
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing:
        raise LWDError(
            f"{path} has no {', '.join(missing)} (it has {', '.join(sorted(arrays)) or 'nothing'}): a data set needs "
            "obs (steps, dimensions), action (steps, dimensions) and ends, the exclusive end row of each episode"
        )
    for key in _REQUIRED:
        if arrays[key].dtype.kind not in "fiub":
            raise LWDError(f"{path}: {key} must hold numbers, not {arrays[key].dtype}")
    ends = arrays["ends"]
    if ends.dtype.kind != "i" and not np.array_equal(ends, np.trunc(ends)):
        raise LWDError(f"{path}: ends must hold row numbers, not fractions")
    with np.errstate(over="ignore"):  # beyond float32's range a value becomes infinite, and `Episodes` says where
        obs, action = arrays["obs"].astype(np.float32), arrays["action"].astype(np.float32)
    try:
        return Episodes(
            obs=obs,
            action=action,
            ends=ends.astype(np.int64),
            task=arrays["task"].astype(np.str_) if "task" in arrays else None,
            tags={key[len(_TAG) :]: array for key, array in arrays.items() if key.startswith(_TAG)},
            meta=_meta(path, arrays["meta"]) if "meta" in arrays else Meta(),
        )
    except LWDError as error:
        raise LWDError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, NDArray[Any]]:
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
    """The declarations; entries of later versions that this one does not know are ignored."""
    try:
        values = json.loads(str(array[()]))
        known: dict[str, Any] = {f.name: values[f.name] for f in fields(Meta) if f.name in values}
    except (ValueError, TypeError, IndexError) as error:
        raise LWDError(f"{path}: meta must be a JSON object in a string ({error}); save the data set again") from error
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    return Meta(**known)


def _plain(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """A tag as an array that needs no pickle."""
    values = np.asarray(values)
    if values.dtype.kind == "O":
        values = values.astype(np.str_)
    if values.dtype.kind not in "fiubUS":
        raise LWDError(f"tag {name} holds {values.dtype}, which cannot be saved: use numbers or text")
    return values
