"""What every format needs: errors of decoding libraries become sentences, numbers become float32, and `Meta` comes from JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.episodes import Float, Meta
from lwd.errors import LWDError


@contextmanager
def decoding(path: Path | str) -> Iterator[None]:
    """Turns whatever zarr, pyarrow or zipfile raise on a damaged file into one sentence."""
    try:
        yield
    except (LWDError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise LWDError(f"{path} cannot be read: the file is damaged, incomplete or not what its place promises ({reason})") from error


def as_floats(name: str, array: NDArray) -> Float:
    """(N, D) numbers of any real type as float32.

    Raises:
        LWDError: the array does not hold numbers, or not one vector per step.
    """
    if array.dtype.kind not in "fiub":
        raise LWDError(f"{name} must hold numbers, not {array.dtype}")
    if array.ndim != 2:
        raise LWDError(f"{name} must have two dimensions (steps, values), not shape {array.shape}")
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite, and `Episodes` says where
        return np.ascontiguousarray(array, np.float32)


def meta_from(values: dict[str, Any]) -> Meta:
    """`Meta` from JSON. Fields of later versions are ignored. Files that were written before `obs_kind` had its name call it "obs"."""
    values = {"obs_kind": values["obs"], **values} if "obs" in values else values
    known: dict[str, Any] = {f.name: values[f.name] for f in fields(Meta) if f.name in values}
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    return Meta(**known)
