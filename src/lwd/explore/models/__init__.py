"""Runs that ship with the package: small models of PushT, made by `make models` (docs/explore.md)."""

from importlib import resources
from pathlib import Path

SHIPPED = [Path(str(resources.files(__name__).joinpath(name))) for name in ("lwd", "dp")]
