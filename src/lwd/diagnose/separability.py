"""How well latents tell tasks, operators or behaviours apart: silhouette score, and accuracy of nearest neighbours (appendices C and G)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lwd.config import require
from lwd.data.prepare import first_of_each_task
from lwd.diagnose.decoded import random_snippets
from lwd.episodes import Episodes
from lwd.methods.latent import LatentMethod
from lwd.training.run import Run
from lwd.training.train import load_method, run_data

PER_LABEL, PER_EPISODE = 50, 10  # demonstrations of each label at most, random snippets of each


class Encoded(NamedTuple):
    """M training snippets as the encoder sees them, and where each comes from."""

    codes: NDArray[np.float64]  # (M, Z) posterior means
    label: NDArray[np.str_]  # (M,) their tasks, operators or behaviours (`Episodes.labels`)
    episode: NDArray[np.int64]  # (M,) number of the demonstration that each is of
    progress: NDArray[np.float64]  # (M,) where each starts, as a fraction of its demonstration
    row: NDArray[np.int64]  # (M,) the step where each starts
    episodes: Episodes  # the demonstrations that were encoded, whose numbers and steps these are


def separability(path: str | Path, device: str = "cpu") -> dict[str, dict[str, list[list[Any]]]]:
    """Both measures of a run: part of the data -> measure (if it can be had) -> [label, demonstration, mean over its snippets]."""
    run = Run(path)
    method, (training, held) = load_method(run, device, stages=("autoencoder",)), run_data(run)
    require(isinstance(method, LatentMethod), f"{run.path} is a run of {run.config().method.name}, which has no latents")
    parts = {"training": training, "held_out": held}
    return {part: by_episode(*encode(method, own)[:3]) for part, own in parts.items() if own is not None}  # type: ignore[arg-type]


def by_episode(codes: NDArray[np.float64], label: NDArray[np.str_], episode: NDArray[np.int64]) -> dict[str, list[list[Any]]]:
    """Both measures of every demonstration, of M snippets: latents (M, Z), their labels and demonstrations (M,)."""
    from sklearn.metrics import silhouette_samples
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.neighbors import KNeighborsClassifier

    owner = dict(zip(episode.tolist(), label.tolist(), strict=True))
    sizes = np.unique(list(owner.values()), return_counts=True)[1]
    measured: dict[str, NDArray[np.float64]] = {}  # measure -> (M,)
    if 1 < len(sizes) < len(codes):
        measured["silhouette"] = silhouette_samples(codes, label)
    if len(sizes) > 1 and (folds := min(5, sizes.min())) > 1:
        measured["neighbours"] = np.zeros(len(codes))
        for train, test in StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(codes, label, episode):
            fewest = int(np.unique(label[train], return_counts=True)[1].min())  # more neighbours than that could not all be right
            model = KNeighborsClassifier(min(5, fewest)).fit(codes[train], label[train])
            measured["neighbours"][test] = model.predict(codes[test]) == label[test]
    return {measure: [[name, e, float(x[episode == e].mean())] for e, name in owner.items()] for measure, x in measured.items()}


def encoded(path: str | Path, device: str = "cpu") -> Encoded:
    """`encode` of the training demonstrations of a run with a trained autoencoder."""
    run = Run(path)
    method = load_method(run, device, stages=("autoencoder",))
    assert isinstance(method, LatentMethod)
    return encode(method, run_data(run)[0])


@torch.no_grad()
def encode(method: LatentMethod, episodes: Episodes) -> Encoded:
    """Encodes random snippets of the first 50 episodes of each label: 10 of each episode, or one where a snippet is a whole episode."""
    device, episodes = method.device, episodes.select(first_of_each_task(episodes, PER_LABEL, episodes.labels))
    data, generator = method.snippets(episodes, device), torch.Generator(device).manual_seed(0)
    each = 1 if data.count == len(episodes) else PER_EPISODE
    rows = torch.cat([random_snippets(data, torch.arange(len(episodes), device=device), generator) for _ in range(each)])
    batches = [data.at(part) for part in rows.split(1024)]
    codes = torch.cat([method.posterior(batch)[0] for batch in batches])
    progress = (rows - data.first[rows]) / (data.last[rows] - data.first[rows]).clamp_min(1)
    number = np.tile(np.arange(len(episodes)), each)
    where = progress.cpu().double().numpy(), rows.cpu().numpy(), episodes
    return Encoded(codes.cpu().double().numpy(), episodes.labels[number], number, *where)
