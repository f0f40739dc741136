"""Demonstrations that ship with the package (synthetic; see README.md here)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from lwd.errors import LWDError

_FILES = {"pusht": "pusht_synthetic.npz"}


def embedded_path(name: str = "pusht") -> Path:
    """Where an embedded data set lies.

    Raises:
        LWDError: there is none of that name, or this installation lacks its file.
    """
    if name not in _FILES:
        raise LWDError(f"there is no embedded data set {name!r}: choose one of {', '.join(_FILES)}")
    path = Path(str(resources.files(__name__).joinpath(_FILES[name])))
    if not path.is_file():
        raise LWDError(f"{path} is missing from this installation: install the package again, or make it with `lwd data collect {name}`")
    return path
