"""What every format needs: errors of decoding libraries become sentences, numbers become float32, and `Meta` comes from JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.config import from_dict, require
from lwd.episodes import Float, Meta
from lwd.errors import LWDError


@contextmanager
def decoding(path: Path | str) -> Iterator[None]:
    """Turns whatever numpy, zarr, pyarrow or zipfile raise on a damaged file into one sentence."""
    try:
        yield
    except (LWDError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError) and not Path(path).exists():
            raise LWDError(f"{path} is missing") from error
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise LWDError(f"{path} cannot be read: it is damaged, incomplete, pickled or not what its name promises ({reason})") from error


def as_floats(name: str, array: NDArray) -> Float:
    """(N, D) numbers of any real type as float32."""
    require(array.dtype.kind in "fiub", f"{name} must hold numbers, not {array.dtype}")
    require(array.ndim == 2, f"{name} must have two dimensions (steps, values), not shape {array.shape}")
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite, and `Episodes` says where
        return array.astype(np.float32)


def as_labels(array: NDArray) -> NDArray:
    """Numbers as they are; text and whatever else as fixed-width unicode, which needs no pickle."""
    return array if array.dtype.kind in "fiub" else array.astype(np.str_)


def meta_from(where: str, value: Any) -> Meta:
    """`Meta` from JSON. Fields of later versions are ignored. Files that were written before `obs_kind` had its name call it "obs"."""
    require(isinstance(value, dict), f"{where} must be a JSON object, not {value!r}")
    value = {"obs_kind": value.get("obs", "state"), **value}
    return from_dict(Meta, {field.name: value[field.name] for field in fields(Meta) if field.name in value})
