"""How well latents tell tasks apart: silhouette score, and accuracy of nearest neighbours, of trained autoencoders (appendix C)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PER_TASK = 50  # demonstrations of each task at most
PER_EPISODE = 10  # random snippets of each demonstration; one where a snippet is a whole episode
NEIGHBOURS, FOLDS = 5, 5
Codes = tuple[NDArray[np.float64], NDArray[np.str_], NDArray[np.int64]]


def separability(path: Path, device: str) -> dict[str, Any]:
    """Of a run: both measures for training and held-out demonstrations, JSON-ready.

    Returns:
        part of the data -> measure -> [task, number of the demonstration, mean over its snippets]; a measure that cannot be had (too few
        demonstrations of a task) is left out.
    """
    return {part: by_episode(*encoded(path, device, part)) for part in ("training", "held_out")}


def by_episode(codes: NDArray[np.float64], task: NDArray[np.str_], episode: NDArray[np.int64]) -> dict[str, list[list[Any]]]:
    """Both measures of every demonstration.

    Args:
        codes: (M, Z) latents.
        task: (M,) names.
        episode: (M,) demonstration that a latent is of.
    """
    from sklearn.metrics import silhouette_samples
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.neighbors import KNeighborsClassifier

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


def encoded(path: Path, device: str, part: str = "training") -> Codes:
    """(M, Z) posterior means of snippets of a run's demonstrations, (M,) their tasks, (M,) the demonstrations that they are of."""
    import torch

    from lwd.decoded import random_snippets
    from lwd.run import Run
    from lwd.train import first_of_each_task, load_data, load_method

    run = Run(path)
    episodes = load_data(run.config())[part != "training"]
    episodes = episodes.select(first_of_each_task(episodes, PER_TASK))
    method: Any = load_method(run, device)
    data, generator = method.snippets(episodes, device), torch.Generator(device).manual_seed(0)
    everyone = torch.arange(len(episodes), device=device)
    each = 1 if data.count == len(episodes) else PER_EPISODE
    rows = torch.cat([random_snippets(data, everyone, generator) for _ in range(each)])
    with torch.no_grad():
        batches = [data.at(part) for part in rows.split(1024)]
        codes = torch.cat([method.posterior(batch.obs, batch.action)[0] for batch in batches])
    names = np.array(["" for _ in range(len(episodes))] if episodes.task is None else episodes.task)
    number = np.tile(np.arange(len(episodes)), each)
    return codes.cpu().double().numpy(), names[number], number


def pooled_separability(rows: Sequence[Mapping[str, Any]], label: str) -> list[dict[str, Any]]:
    """Over training seeds, with the intervals of `lwd.studies.pooling`: demonstrations are resampled within their task.

    Args:
        rows: of `lwd.studies.kl.measure`: what `separability` found, with the label and the training seed.
        label: that tells variants apart.

    Returns:
        One row per variant, part of the data and measure.
    """
    from lwd.studies.pooling import Scores, pooled

    found = []
    for value in dict.fromkeys(row[label] for row in rows):
        own = [row for row in rows if row[label] == value]
        for part in ("training", "held_out"):
            for measure in ("silhouette", "neighbours"):
                scores: Scores = {row["seed"]: {(t, e): v for t, e, v in row[part][measure]} for row in own if measure in row[part]}
                if scores:
                    found.append({label: value, "part": part, "measure": measure, **pooled(scores)})
    return found
