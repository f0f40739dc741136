"""`.npz` files: `obs` (N, Do), `action` (N, Da), `ends` (E,), and optionally `task`, `tag_<name>` and `meta`."""

from __future__ import annotations

import zipfile
from pathlib import Path

from lwd.data.episodes import Episodes
from lwd.data.npz import load_npz
from lwd.data.readers.common import decoding


def matches(path: Path) -> bool:
    """Whether a file is an archive of numpy arrays (or claims to be one by its name)."""
    if not path.is_file():
        return False
    if path.suffix == ".npz":
        return True
    if not zipfile.is_zipfile(path):
        return False
    with decoding(path), zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") and "/" not in name for name in archive.namelist())


def read(path: Path) -> Episodes:
    """Demonstrations from an `.npz` file; see `lwd.data.npz` for its keys."""
    with decoding(path):
        return load_npz(path)
