"""The latent space of a run as a map: its demonstrations, encoded, in the plane of the two directions in which they differ most."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lwd.diagnose.separability import encode
from lwd.envs.base import family
from lwd.methods.latent import LatentMethod
from lwd.policy import Generator
from lwd.training.train import run_data

KINDS = 12  # values of a tag at most that have colours of their own


class LatentMap:
    """M demonstrated snippets as points in [-1, 1]^2, and the way back from there to latents."""

    def __init__(self, own: Generator) -> None:
        method: Any = own.method
        assert isinstance(method, LatentMethod)
        training = run_data(own.run)[0]
        self.points = encode(method, training)
        self.mean = self.points.codes.mean(0)
        centred = self.points.codes - self.mean
        _, spread, directions = np.linalg.svd(centred, full_matrices=False)
        self.directions = directions[:2] if len(directions) > 1 else np.vstack([directions, 0 * directions])
        self.share = (spread[:2] ** 2 / (spread**2).sum().clip(1e-12)).tolist()
        flat = centred @ self.directions.T
        self.scale = float(np.abs(flat).max()) or 1.0
        self.places: NDArray[np.float64] = flat / self.scale  # (M, 2)
        chosen = self.points.episodes
        self.states = family(str(own.method.spec.env)).states(chosen)

    def place(self, latent: Tensor) -> list[float]:
        """A latent (Z,) -> its place on the map."""
        return [round(float(x), 4) for x in (latent.double().cpu().numpy() - self.mean) @ self.directions.T / self.scale]

    def latent(self, place: ArrayLike) -> Tensor:
        """A place on the map (2,) -> the latent (Z,) there, with all that the map does not show at its mean."""
        return torch.from_numpy(self.mean + np.asarray(place, np.float64) @ self.directions * self.scale).float()

    def at(self, number: int) -> tuple[Tensor, NDArray[np.float64] | None]:
        """Latent (Z,) of a point, and the simulator's state (S,) where its snippet began, if the data tells it."""
        state = None if self.states is None else self.states[self.points.row[number]]
        return torch.from_numpy(self.points.codes[number]).float(), state

    def describe(self) -> dict[str, Any]:
        """Places of the points, and by name what they can be coloured by: a number each, or one of a few kinds."""
        points, episodes = self.points, self.points.episodes
        colours: dict[str, Any] = {"time in the episode": {"values": np.round(points.progress, 3).tolist()}}
        first = "time in the episode"  # what tells them apart comes first
        tags = {"task": np.asarray(episodes.task)} if len(episodes.tasks) > 1 else {}
        for name, values in {**tags, **episodes.tags}.items():
            own, kinds = np.asarray(values)[points.episode], np.unique(np.asarray(values).astype(str))
            if 2 <= len(kinds) <= KINDS or (name == "task" and len(kinds) > 1):
                colours[name] = {"values": np.searchsorted(kinds, own.astype(str)).tolist(), "kinds": kinds.tolist()}
                first = name if (own.astype(str) == points.label).all() else first
            elif own.dtype.kind in "fiu" and len(kinds) > 1 and np.isfinite(own).all():
                colours[name] = {"values": np.round(own.astype(float), 4).tolist()}
        found = {"places": np.round(self.places, 4).tolist(), "colours": colours, "first": first, "share": self.share}
        return {**found, "starts": self.states is not None}
