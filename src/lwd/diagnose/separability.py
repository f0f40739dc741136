"""How well latents tell tasks apart: silhouette score, and accuracy of nearest neighbours, of trained autoencoders (appendix C)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lwd.data.prepare import first_of_each_task
from lwd.diagnose.decoded import measured_run, random_snippets
from lwd.episodes import Episodes
from lwd.methods.base import Method
from lwd.methods.latent import LatentMethod
from lwd.training.run import Run
from lwd.training.train import load_method, run_data

PER_TASK = 50  # demonstrations of each task at most
PER_EPISODE = 10  # random snippets of each demonstration; one where a snippet is a whole episode
NEIGHBOURS, FOLDS = 5, 5


class Encoded(NamedTuple):
    """Encoded snippets.

    Args:
        codes: (M, Z) posterior means.
        task: (M,) names of their tasks; empty where the data names none.
        episode: (M,) number of the demonstration that each is of.
        progress: (M,) where each starts, as a fraction of its demonstration.
    """

    codes: NDArray[np.float64]
    task: NDArray[np.str_]
    episode: NDArray[np.int64]
    progress: NDArray[np.float64]


def separability(path: str | Path, device: str = "cpu") -> dict[str, Any]:
    """Both measures of a run, for training and held-out demonstrations, JSON-ready.

    Returns:
        part of the data -> measure -> [task, number of the demonstration, mean over its snippets]; a measure that cannot be had (too few
        demonstrations of a task) is left out.
    """
    return {part: by_episode(encoded(path, device, part)) for part in ("training", "held_out")}


def by_episode(points: Encoded) -> dict[str, list[list[Any]]]:
    """Both measures of every demonstration."""
    from sklearn.metrics import silhouette_samples
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.neighbors import KNeighborsClassifier

    codes, task, episode, _ = points
    found: dict[str, list[list[Any]]] = {}
    owner = {int(e): str(t) for e, t in zip(episode, task, strict=True)}
    sizes = [list(owner.values()).count(name) for name in set(owner.values())]
    if len(sizes) < 2:
        return found

    def means(values: NDArray[np.float64]) -> list[list[Any]]:
        return [[name, e, float(values[episode == e].mean())] for e, name in owner.items()]

    if len(codes) > len(sizes):
        found["silhouette"] = means(silhouette_samples(codes, task))
    folds = min(FOLDS, *sizes)
    if folds >= 2:
        right = np.zeros(len(codes))
        for train, test in StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(codes, task, episode):
            fewest = int(np.unique(task[train], return_counts=True)[1].min())  # more neighbours than that could not all be right
            model = KNeighborsClassifier(min(NEIGHBOURS, fewest)).fit(codes[train], task[train])
            right[test] = model.predict(codes[test]) == task[test]
        found["neighbours"] = means(right)
    return found


def encoded(path: str | Path, device: str = "cpu", part: str = "training") -> Encoded:
    """Encoded random snippets of a run's "training" or "held_out" demonstrations; of each task the first 50.

    Raises:
        LWDError: no trained autoencoder, other data than in training, or nothing held out.
    """
    run = Run(path)
    method: Method
    if part == "held_out":
        method, _, episodes = measured_run(run, device)
    else:
        method, episodes = load_method(run, device, stages=("autoencoder",)), run_data(run)[0]
    assert isinstance(method, LatentMethod)
    return encode(method, episodes.select(first_of_each_task(episodes, PER_TASK)), device)


@torch.no_grad()
def encode(method: LatentMethod, episodes: Episodes, device: str = "cpu") -> Encoded:
    """Encodes random snippets of every episode: 10 of each, or one where a snippet is a whole episode."""
    data, generator = method.snippets(episodes, device), torch.Generator(device).manual_seed(0)
    everyone = torch.arange(len(episodes), device=device)
    each = 1 if data.count == len(episodes) else PER_EPISODE
    rows = torch.cat([random_snippets(data, everyone, generator) for _ in range(each)])
    batches = [data.at(part) for part in rows.split(1024)]
    codes = torch.cat([method.posterior(batch.obs, batch.action)[0] for batch in batches])
    progress = (rows - data.first[rows]) / (data.last[rows] - data.first[rows]).clamp_min(1)
    names = np.array(["" for _ in range(len(episodes))] if episodes.task is None else [str(task) for task in episodes.task])
    number = np.tile(np.arange(len(episodes)), each)
    return Encoded(codes.cpu().double().numpy(), names[number], number, progress.cpu().double().numpy())
