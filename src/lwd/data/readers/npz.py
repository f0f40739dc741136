"""`.npz` files: `obs` (N, Do), `action` (N, Da), `ends` (E,), and optionally `task`, `tag_<name>` and `meta`; or a directory of them."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

from lwd.data.episodes import Episodes, concatenate
from lwd.data.npz import load_npz
from lwd.data.readers.common import decoding
from lwd.errors import LWDError


def matches(path: Path) -> bool:
    """Whether a file is an archive of numpy arrays (or claims to be one by its name), or a directory holds some."""
    if path.is_dir():
        return bool(_files(path))
    if not path.is_file():
        return False
    if path.suffix == ".npz":
        return True
    if not zipfile.is_zipfile(path):
        return False
    with decoding(path), zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") and "/" not in name for name in archive.namelist())


def read(path: Path) -> Episodes:
    """Demonstrations from an `.npz` file (see `lwd.data.npz` for its keys), or from all of a directory in the order of their names.

    Raises:
        LWDError: a file is faulty, or does not go with the first one; the message names it.
    """
    if not path.is_dir():
        with decoding(path):
            return load_npz(path)
    files = _files(path)
    parts = []
    for file in files:
        with decoding(file):
            parts.append(load_npz(file))
        _compare(files[0], parts[0], file, parts[-1])
    whole = concatenate(parts)
    return replace(whole, meta=replace(whole.meta, description="; ".join(dict.fromkeys(part.meta.description for part in parts))))


def _files(path: Path) -> list[Path]:
    """The data sets in a directory; hidden ones are left-overs."""
    return sorted(file for file in path.glob("*.npz") if not file.name.startswith(".") and file.is_file())


def _compare(first: Path, a: Episodes, file: Path, b: Episodes) -> None:
    """Refuses what cannot be joined."""
    facts = {
        "dimensions of observations": (a.obs.shape[1], b.obs.shape[1]),
        "dimensions of actions": (a.action.shape[1], b.action.shape[1]),
        "the environment": (a.meta.env, b.meta.env),
        "the kind of observation": (a.meta.obs, b.meta.obs),
        "angles": (a.meta.angles, b.meta.angles),
        "the range of actions": ((a.meta.action_low, a.meta.action_high), (b.meta.action_low, b.meta.action_high)),
        "having task names": (a.task is not None, b.task is not None),
    }
    for name, (one, other) in facts.items():
        if one != other:
            raise LWDError(f"{file} differs from {first.name} beside it in {name} ({other}, not {one}): keep them in separate directories")
