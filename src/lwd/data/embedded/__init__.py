"""Demonstrations that ship with the package (synthetic; see README.md here)."""

from importlib import resources
from pathlib import Path

from lwd.config import require

SETS = {"pusht": "pusht_synthetic.npz"}


def embedded_path(name: str = "pusht") -> Path:
    """Where one of `SETS` lies."""
    path, remedy = Path(str(resources.files(__name__).joinpath(SETS[name]))), f"make it with `lwd data collect {name}`"
    require(path.is_file(), f"{path} is missing from this installation: install the package again, or {remedy}")
    return path
