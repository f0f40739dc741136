"""Data sets of Minari, read and written with its own library: by directory, or by an id "minari:ID" in its root directory."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict

from lwd.config import require
from lwd.data.formats.common import PACKED, as_floats, as_labels, decoding, foreign_name, last_rewards, meta_from
from lwd.envs.base import called
from lwd.envs.mujoco import import_robotics
from lwd.episodes import Episodes, Float, Meta
from lwd.errors import LWDError
from lwd.files import read_json

ROOT = "MINARI_DATASETS_PATH"  # Minari's own variable for its root directory
INSTALL = 'pip install "latent-weight-diffusion[minari]"'
REPEATED = "the last observation of every episode is repeated"
SCALAR = bool | int | float | str | np.generic
DERIVED = re.compile("id$|total_steps$|rewards_")  # what Minari itself records of an episode, but for its seed


def matches(path: Path) -> bool:
    """Whether a directory is a data set of Minari, or the directory `data` in one."""
    return any((path / name).is_file() for name in ("data/metadata.json", "data/main_data.hdf5", "main_data.hdf5"))


def place(name: str) -> Path:
    """The directory of the data set with that id, which need not be there."""
    right = re.fullmatch(r"([-\w][-\w/]*[-\w]/)?[-\w]+-v\d+", name)
    require(bool(right), f"{name!r} is not the id of a Minari data set, such as D4RL/door/human-v2")
    return _root() / name


def _root() -> Path:
    return Path(os.environ.get(ROOT) or Path.home() / ".minari" / "datasets").expanduser()


def read(path: Path, obs_keys: tuple[str, ...] = ()) -> Episodes:
    """Demonstrations from a local Minari data set. The observation after the last action is left out, and so are episodes of one step.

    The environment is that of its specification. Of observations with keys, all are joined, or `obs_keys`. Every number or text that is
    recorded of all episodes, such as their seeds, is a tag, and `return` is the sum of the rewards.
    """
    folder = path / "data" if (path / "data").is_dir() else path
    record = read_json(folder / "metadata.json", "the copy is incomplete, or was written by Minari before 0.5")
    for key in ("observation_space", "action_space"):  # Minari would make the environment instead, from whatever module the file names
        require(isinstance(record.get(key), str), f"metadata.json declares no {key}: write it again with Minari 0.5 or later")
    _library(path)
    from minari.dataset.minari_storage import MinariStorage

    with decoding(path):
        storage = MinariStorage.read(folder)
        sizes, (size,) = _vectors(storage.observation_space), _vectors(storage.action_space).values() or (0,)
        for name, space, right in (("observations", storage.observation_space, sizes), ("actions", storage.action_space, size)):
            require(bool(right), f"its {name} are not vectors of numbers, but {space}")
        require(not obs_keys or "" not in sizes, "this data set has one observation, without keys to choose from: leave out --obs-keys")
        unknown = ", ".join(key for key in obs_keys if key not in sizes)
        require(not unknown, f"there is no observation {unknown} that is a vector, but {', '.join(sizes)}")
        keys, every = obs_keys or tuple(sizes), range(storage.total_episodes)
        steps = [_steps(i, episode, {key: sizes[key] for key in keys}, size) for i, episode in enumerate(storage.get_episodes(every))]
        labels = list(storage.get_episode_metadata(every))
        spec = json.loads(record.get("env_spec", '{"id": ""}'))["id"]
        require(isinstance(spec, str), f"env_spec names no environment, but {spec!r}")
        low, high = (getattr(storage.action_space, side).astype(float) for side in ("low", "high"))
    kept = [i for i, (_, action, _) in enumerate(steps) if len(action) > 1]
    require(bool(kept), "there is no episode of two steps or more in it")
    obs, action = (np.concatenate([steps[i][column] for i in kept]) for column in (0, 1))
    shared = set.intersection(*({key for key, value in entry.items() if isinstance(value, SCALAR)} for entry in labels))
    tags = {key: as_labels(np.array([labels[i][key] for i in kept])) for key in sorted(shared) if not DERIVED.match(key)}
    if PACKED in record:
        meta = meta_from(PACKED, record[PACKED])
    else:
        known, within = called(f"gymnasium:{spec}"), (low <= action).all() and (action <= high).all() and np.isfinite([low, high]).all()
        env = known.name if known else f"gymnasium:{spec}" if spec else None
        limits = [tuple(side.tolist()) if within else None for side in (low, high)]
        angles = known.angles("state") if known and keys == ("",) else ()
        description = f"Minari data set {record.get('dataset_id', path.name)}"
        meta = Meta(env, "+".join(keys) or "state", angles, limits[0], limits[1], description)
        tags["return"] = np.array([steps[i][2] for i in kept])
    task = tags.pop("task", None)
    return Episodes(obs, action, np.cumsum([len(steps[i][1]) for i in kept]), task, tags, meta)


def _vectors(space: gymnasium.Space) -> dict[str, int]:
    """Sizes of the vectors of numbers in a space, by their keys; "" is the key of the only one."""
    parts: dict[str, gymnasium.Space] = dict(space.spaces) if isinstance(space, Dict) else {"": space}
    return {key: part.shape[0] for key, part in parts.items() if isinstance(part, Box) and len(part.shape) == 1}


def _steps(number: int, episode: dict[str, Any], sizes: dict[str, int], action_size: int) -> tuple[Float, Float, float]:
    """Observations (T, Do) without the last one, actions (T, Da) and the sum of rewards of an episode."""

    def table(name: str, values: Any, size: int, more: int) -> Float:
        rows, name = as_floats(name, values), f"{name} of episode {number}"
        require(rows.shape[1] == size, f"{name} has {rows.shape[1]} values a step, but its space {size}")
        require(len(rows) == steps + more, f"{name} has {len(rows)} rows, but there are {steps} actions: one more must be observed")
        return rows

    seen, steps = episode["observations"], len(episode["actions"])
    obs = [table(key or "observations", seen[key] if key else seen, size, 1) for key, size in sizes.items()]
    return np.hstack(obs)[:-1], table("actions", episode["actions"], action_size, 0), float(np.sum(episode["rewards"]))


def write(episodes: Episodes, path: Path) -> None:
    """Writes the data set of a `place` whole or not at all. Observations are one vector; for rewards see `last_rewards`.

    The last observation of every episode is repeated, because Minari has one more than actions. Tags are kept with each episode.
    """
    minari, meta, rewards, buffers = _library(path), episodes.meta, last_rewards(episodes), []
    from minari.data_collector import EpisodeBuffer

    for start, end in zip(episodes.starts, episodes.ends, strict=True):
        obs, last = episodes.obs[[*range(start, end), end - 1]], np.arange(start, end) == end - 1
        own = {"rewards": rewards[start:end], "terminations": np.zeros_like(last), "truncations": last}
        buffers.append(EpisodeBuffer(observations=obs, actions=episodes.action[start:end], **own))
    sides = [(meta.action_low, -np.inf), (meta.action_high, np.inf)]
    low, high = (np.array(side or [free] * episodes.action.shape[1], np.float32) for side, free in sides)
    spaces = {"observation_space": Box(-np.inf, np.inf, episodes.obs.shape[1:]), "action_space": Box(low, high)}
    record: dict[str, Any] = {PACKED: asdict(meta)}
    if spec := foreign_name(meta.env, "gymnasium"):
        with suppress(ImportError):  # some environments are registered by it
            import_robotics()
        record["env_spec"] = gymnasium.registry.get(spec, EnvSpec(spec)).to_json()
    tags = {name: as_labels(values).tolist() for name, values in episodes.tags.items()}
    tags |= {} if episodes.task is None else {"task": episodes.task.tolist()}
    with _staged(path) as name:
        description = f"{meta.description}; {REPEATED}".removeprefix("; ")
        storage = minari.create_dataset_from_buffers(name, buffers, **spaces, description=description).storage
        storage.update_metadata(record)
        storage.update_episode_metadata([{tag: values[i] for tag, values in tags.items()} for i in range(len(episodes))])


def fetch(name: str) -> None:
    """Downloads a data set into Minari's root directory."""
    minari = _library(f"minari:{name}")
    try:
        with _staged(place(name)), redirect_stdout(sys.stderr):
            minari.download_dataset(name)
    except Exception as error:  # network, unknown names, incomplete installations: many unrelated types
        reason = " ".join(str(error).split())[:300]
        raise LWDError(f"minari:{name}: cannot be downloaded ({type(error).__name__}: {reason})") from error


@contextmanager
def _staged(path: Path) -> Iterator[str]:
    """The id of the data set of a `place`, which is seen there whole or not at all: meanwhile, Minari's root is a temporary directory."""
    root, before = _root(), os.environ.get(ROOT)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".", ignore_cleanup_errors=True) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari recommends authors, addresses and links
        os.environ[ROOT] = folder
        try:
            yield path.relative_to(root).as_posix()
        finally:
            os.environ.pop(ROOT)
            if before is not None:
                os.environ[ROOT] = before
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(Path(folder) / path.relative_to(root), path)


def _library(what: Path | str) -> Any:
    """Minari's library, if that which its files need is there, too."""
    try:
        import h5py  # noqa: F401
        import minari
    except ImportError as error:
        raise LWDError(f"{what}: data sets of Minari need its library ({error}): {INSTALL}") from error
    return minari
