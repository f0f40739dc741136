"""What every reader needs: errors of decoding libraries as sentences, numbers as float32, and the marks of PushT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lwd.data.episodes import Float, Meta
from lwd.errors import LWDError

PUSHT_ARENA = (0.0, 512.0)  # pixels; legal target positions of the agent, both axes (gym-pusht's action space)


@contextmanager
def decoding(path: Path | str) -> Iterator[None]:
    """Around calls into zarr, pyarrow and zipfile: damaged files make them raise almost anything; users get one sentence."""
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
        LWDError: not numbers, or not one vector per step.
    """
    if array.dtype.kind not in "fiub":
        raise LWDError(f"{name} must hold numbers, not {array.dtype}")
    if array.ndim != 2:
        raise LWDError(f"{name} must have two dimensions (steps, values), not shape {array.shape}")
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite, and `Episodes` says where
        return np.ascontiguousarray(array, np.float32)


def in_pusht_pixels(agent: Float) -> bool:
    """Whether agent positions (N, 2) can be pixels of PushT: within the arena and a margin, and not scaled to about one."""
    finite = agent[np.isfinite(agent)]
    low, high = PUSHT_ARENA
    return bool(finite.size) and bool(finite.min() >= low - 64) and bool(2 < finite.max() <= high + 64)


def pusht_meta(obs: str, description: str) -> Meta:
    """The declarations of PushT data in pixels: `obs` is "state" (agent x, y, block x, y, angle) or "keypoints" (8 points, agent)."""
    low, high = PUSHT_ARENA
    angles = (4,) if obs == "state" else ()
    return Meta(env="pusht", obs=obs, angles=angles, action_low=(low, low), action_high=(high, high), description=description)
