"""Demonstrations that ship with the package (synthetic; see README.md here)."""

from importlib import resources
from pathlib import Path

from lwd.errors import LWDError

SETS = {"pusht": "pusht_synthetic.npz"}


def embedded_path(name: str = "pusht") -> Path:
    """Where one of `SETS` lies."""
    path = Path(str(resources.files(__name__).joinpath(SETS[name])))
    if not path.is_file():
        raise LWDError(f"{path} is missing from this installation: install the package again, or make it with `lwd data collect {name}`")
    return path
