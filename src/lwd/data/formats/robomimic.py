"""robomimic's HDF5 files (v0.1 to v1.5, low-dimensional): `data/demo_i` with `obs/<key>` and `actions`, named subsets in `mask/`, and the
environment in the attribute `env_args`."""

from __future__ import annotations

import io
import json
import re
import warnings
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.config import require
from lwd.data.formats.common import PACKED, as_floats, foreign_name, h5py_for, hdf5, is_hdf5, last_rewards, numbers, packed, unpacked
from lwd.envs.base import called, family
from lwd.episodes import Episodes, Float, Meta
from lwd.errors import LWDError, LWDWarning
from lwd.files import write_bytes

LOW_DIM = ("object", "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")  # what robomimic's own low-dimensional policies see
TOOLS = {1: "robosuite", 2: "gymnasium"}  # robomimic's types of environments, those that are known here
SIMULATOR = "1.5"  # the robosuite that the families of this package simulate
LAYOUT = "robomimic's files have data/demo_0/obs/..., data/demo_0/actions, and so on; D4RL's have observations, actions and terminals"
FEW = 12  # values of a tag, for each of which a subset is written


def matches(path: Path) -> bool:
    """Whether a file is HDF5 of any layout, or claims to be by its name: D4RL's files have been recognised before."""
    return is_hdf5(path) or (path.is_file() and path.suffix in (".hdf5", ".h5"))


def read(path: Path, obs_keys: tuple[str, ...] = ()) -> Episodes:
    """Demonstrations from a robomimic file, in the order of their numbers.

    The observation is joined from `obs_keys`: by default those that the environment's family joins, else the four that robomimic's own
    policies see, else all. Every subset in `mask/` is a tag `mask_<name>`, and there are tags `operator` and `proficiency` where subsets
    such as `better_operator_1` hold every demonstration once. `success` says whether a reward of 1 was given, in robosuite.
    """
    with hdf5(path) as file:
        data: Any = file.get("data", {})
        names = [name for name in data if re.search(r"\d$", name)] if hasattr(data, "keys") else []
        demos = sorted(names, key=lambda name: int(re.findall(r"\d+", name)[-1]))
        require(bool(demos), f"there are no demonstrations in it (at its root: {', '.join(file) or 'nothing'}); {LAYOUT}")
        first = data[demos[0]]
        require("obs" in first, f"{demos[0]} has no obs: extract observations with robomimic's dataset_states_to_obs.py")
        tool, name, recorded = _environment(data.attrs.get("env_args"))
        known = called(f"{tool}:{name}")
        usual = tuple(known.parts("state")) if known else ()
        written = tuple(data.attrs.get("obs_keys", "").split())  # our own files say what they were split into
        every = tuple(key for key, table in sorted(first["obs"].items()) if getattr(table, "ndim", 0) == 2)
        keys = obs_keys or written or usual or (LOW_DIM if set(LOW_DIM) <= set(every) else every)
        require(bool(keys), f"{demos[0]}/obs has no table of numbers: images are not read")
        columns, lengths = _columns(data, demos, keys)
        own = unpacked(file[PACKED].asstr()[()]) if PACKED in file else None
        masks = {subset: np.isin(demos, members.asstr()[()]) for subset, members in file.get("mask", {}).items()}
        rewarded = [bool((numbers(data[demo], "rewards") == 1).any()) for demo in demos if "rewards" in data[demo]]
    action = columns.pop("actions")
    kind = "state" if keys == usual or not (obs_keys or usual) else "+".join(keys)
    for key, size in (known.parts(kind) if known else {}).items():
        width = columns[f"obs/{key}"].shape[1]
        require(width == size, f"{key} has {width} values, but {size} in {name}: choose others with --obs-keys, or correct env_args")
    origin = f"robomimic data set {path.name}, " + (f"{name} of {tool} {recorded}".strip() if name else "which names no environment")
    meta = known.meta(kind, origin) if known else Meta(obs_kind=kind, description=origin)
    task, tags = None, dict[str, NDArray]()
    if own:
        meta, task, tags = own[0] if keys == written else replace(meta, description=own[0].description), *own[1:]
    elif tool == "robosuite" and any(rewarded) and len(rewarded) == len(demos):
        tags["success"] = np.array(rewarded)
    if known and tool == "robosuite":
        _compare_versions(path, recorded)
    return Episodes(np.hstack(list(columns.values())), action, np.cumsum(lengths), task, {**_tags(masks, tags), **tags}, meta)


def _columns(data: Any, demos: list[str], keys: tuple[str, ...]) -> tuple[dict[str, Float], list[int]]:
    """The observations `obs/<key>` (N, width) in the order of their keys, and `actions` (N, Da), of all demonstrations; their lengths."""
    found: dict[str, list[Float]] = {**{f"obs/{key}": [] for key in keys}, "actions": []}
    for demo in demos:
        for name, parts in found.items():
            parts.append(as_floats(f"{demo}/{name}", numbers(data[demo], name)))
            width, usual = parts[-1].shape[1], parts[0].shape[1]
            require(width == usual, f"{demo}/{name} has {width} values a step, but {demos[0]}/{name} has {usual}")
        lengths = {name: len(parts[-1]) for name, parts in found.items()}
        require(len(set(lengths.values())) == 1, f"{demo} has tables of different lengths: {lengths}")
    return {name: np.concatenate(parts) for name, parts in found.items()}, [len(part) for part in found["actions"]]


def _environment(text: Any) -> tuple[str, str, str]:
    """(tool, name, version) of the environment in `env_args`; empty where the file names none."""
    try:
        found = {} if text is None else json.loads(text)
        tool, name, recorded = TOOLS.get(found.get("type", 1), ""), found.get("env_name", ""), found.get("env_version", "")
        right = isinstance(name, str) and isinstance(recorded, str) and bool(name or text is None)
    except (TypeError, ValueError, AttributeError, RecursionError):
        right = False
    wrong = f"env_args of data is not a JSON object with a text env_name, but {str(text)[:60]!r}"
    require(right, f"{wrong}: correct it, or delete it to do without a simulator")
    return tool, name, recorded


def _compare_versions(path: Path, recorded: str) -> None:
    """Warns where a file of robosuite comes from another version than the simulator here."""
    here = {SIMULATOR}
    with suppress(PackageNotFoundError):
        here.add(".".join(version("robosuite").split(".")[:2]))
    if here != {".".join(recorded.split(".")[:2])}:
        text = f"{path} was recorded with robosuite {recorded or 'of some version'}, and the simulator here is {' or '.join(sorted(here))}"
        warnings.warn(f"{text}: the same actions may move the robot otherwise, and scores be lower", LWDWarning, stacklevel=3)


def _masks(tags: dict[str, NDArray]) -> dict[str, NDArray[np.bool_]]:
    """Subsets (E,) for robomimic: one for each tag that is true or false, and for each value of a tag of few words. The operator "better-1"
    is called `better_operator_1`, as in robomimic's own sets of several humans."""
    found: dict[str, NDArray[np.bool_]] = {}
    for tag, values in tags.items():
        labels = values.astype(np.str_)
        if values.dtype == bool:
            found[tag.removeprefix("mask_")] = values
        elif values.dtype.kind not in "fiu" and len(set(labels)) <= FEW:
            for label in sorted(set(labels)):
                own = re.sub(r"^(\w+)-(\d+)$", r"\1_operator_\2", label) if tag == "operator" else label
                found[own if tag in ("operator", "proficiency") else f"{tag}_{own}"] = labels == label
    return {re.sub(r"[^\w.-]", "_", name) or "_": members for name, members in found.items()}


def _tags(masks: dict[str, NDArray[np.bool_]], known: dict[str, NDArray]) -> dict[str, NDArray]:
    """Tags (E,) from subsets, but for those that were written for tags that are known."""
    masks = {name: members for name, members in masks.items() if name not in _masks(known)}
    tags: dict[str, NDArray] = {f"mask_{name}": members for name, members in masks.items()}
    operators = [match for name in masks if (match := re.fullmatch(r"(\w+)_operator_(\d+)", name))]
    if operators and (np.sum([masks[match[0]] for match in operators], axis=0) == 1).all():
        own = np.argmax([masks[match[0]] for match in operators], axis=0)
        tags["operator"] = np.array([f"{match[1]}-{match[2]}" for match in operators])[own]
        tags["proficiency"] = np.array([match[1] for match in operators])[own]
    return tags


def _pieces(episodes: Episodes) -> dict[str, slice]:
    """Columns of the observations by the keys under which the simulator gives them, or all as `flat`, robomimic's word for one vector."""
    with suppress(LWDError):  # an environment that is not here, or needs what is not installed
        sizes = family(episodes.meta.env or "").parts(episodes.meta.obs_kind)
        ends = np.cumsum(list(sizes.values())).tolist()
        if ends and ends[-1] == episodes.obs.shape[1]:
            return {key: slice(end - sizes[key], end) for key, end in zip(sizes, ends, strict=True)}
    return {"flat": slice(None)}


def write(episodes: Episodes, path: Path) -> None:
    """Writes the file whole or not at all: observations under the simulator's keys, or one `flat`; for rewards see `last_rewards`.

    Subsets in `mask/` say which demonstrations have a tag, or a value of it.
    """
    meta, content, rewards = episodes.meta, io.BytesIO(), last_rewards(episodes)
    kind, name = next(((kind, name) for kind, tool in TOOLS.items() if (name := foreign_name(meta.env, tool))), (2, meta.env or "unknown"))
    said = re.search(r"robosuite (\d[\w.]*)", meta.description)  # data that was converted says there what it was recorded with
    recorded = "" if TOOLS[kind] != "robosuite" else said[1] if said else SIMULATOR
    env_args = json.dumps({"env_name": name, "type": kind, "env_version": recorded, "env_kwargs": {}})
    keys = _pieces(episodes)
    with h5py_for(path).File(content, "w") as file:
        data = file.create_group("data")
        data.attrs.update({"total": episodes.steps, "env_args": env_args, "obs_keys": " ".join(keys)})
        for i, (start, end) in enumerate(zip(episodes.starts, episodes.ends, strict=True)):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = end - start
            demo["actions"], demo["rewards"] = episodes.action[start:end], rewards[start:end]
            demo["dones"] = np.arange(end - start) == end - start - 1
            for key, columns in keys.items():
                demo[f"obs/{key}"] = obs = episodes.obs[start:end, columns]
                demo[f"next_obs/{key}"] = np.concatenate([obs[1:], obs[-1:]])
        for name, members in _masks(episodes.tags).items():
            file[f"mask/{name}"] = np.array([f"demo_{i}" for i in np.flatnonzero(members)], "S")
        file[PACKED] = packed(episodes)
    write_bytes(path, content.getvalue())
