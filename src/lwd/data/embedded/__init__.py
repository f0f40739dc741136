"""Demonstrations that ship with the package (synthetic; see README.md here)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from lwd.errors import LWDError

SETS = {"pusht": "pusht_synthetic.npz"}


def embedded_path(name: str = "pusht") -> Path:
    """Where an embedded data set lies; `name` is one of `SETS`.

    Raises:
        LWDError: this installation lacks its file.
    """
    path = Path(str(resources.files(__name__).joinpath(SETS[name])))
    if not path.is_file():
        raise LWDError(f"{path} is missing from this installation: install the package again, or make it with `lwd data collect {name}`")
    return path
