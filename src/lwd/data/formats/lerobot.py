"""LeRobot data sets of versions 2 and 3, state only: parquet tables of steps and meta data beside them; videos are never opened.

v2.x: `meta/info.json`, `meta/episodes.jsonl`, `meta/tasks.jsonl`, one table per episode.
v3.x: `meta/info.json`, `meta/episodes/chunk-*/file-*.parquet`, `meta/tasks.parquet`, tables that hold many episodes each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.data.formats.common import as_floats, decoding
from lwd.envs.base import recognise
from lwd.episodes import Episodes, Int, Meta
from lwd.errors import LWDError
from lwd.files import read_json

INSTALL = 'pip install "latent-weight-diffusion[lerobot]"'
ENVIRONMENT, AGENT = "observation.environment_state", "observation.state"
INDICES = ("episode_index", "frame_index", "task_index")


@dataclass(frozen=True)
class Listing:
    """What the meta data say about the episodes."""

    index: Int  # (E,) identifiers of the episodes, in order
    lengths: Int  # (E,) steps
    files: list[str]  # paths of all tables, relative to the root, each once, in order
    tasks: dict[int, str]  # names by task_index


def matches(path: Path) -> bool:
    """Whether a directory is a LeRobot data set of version 2 or later."""
    return (path / "meta" / "info.json").is_file()


def read(path: Path) -> Episodes:
    """Demonstrations from a local LeRobot directory.

    The observation is `observation.environment_state`, then `observation.state`, then any other vector of floats under `observation.`.
    Data of an environment that recognises its own is declared as such. Task names are kept if there are several.

    Raises:
        LWDError: pyarrow is missing, a file, column or step is missing, a width differs from meta/info.json, the data set holds
            no usable observation, or `Episodes` refuses the values.
    """
    widths = features(path)
    info = read_json(path / "meta" / "info.json", "the copy is damaged, incomplete or no LeRobot data set")
    listing = _listing(path, info)
    columns = _columns(path, listing.files, widths)
    rows = _ordered_rows(path, listing, columns)
    obs = as_floats("observation", np.concatenate([columns[name][rows] for name in widths if name != "action"], axis=1))
    action = as_floats("action", columns["action"][rows])
    ends = np.cumsum(listing.lengths)
    task = _task(path, listing, columns["task_index"][rows, 0], ends) if len(listing.tasks) > 1 else None
    description = f"LeRobot data set {path.name}"
    return Episodes(obs, action, ends, task, {}, recognise(obs, action, description) or Meta(description=description))


def features(path: Path) -> dict[str, int]:
    """Widths of the observation features in the order in which they are joined, and of `action` last; reads only meta/info.json.

    Raises:
        LWDError: an unknown version, no action, or nothing to observe but images.
    """
    info = read_json(path / "meta" / "info.json", "the copy is damaged, incomplete or no LeRobot data set")
    version = str(info.get("codebase_version", "missing"))
    if not version.startswith(("v2.", "v3.")):
        raise LWDError(f"{path}: LeRobot format {version} is not known; versions 2.x and 3.x are (convert it with LeRobot's own scripts)")
    declared = info.get("features")
    if not isinstance(declared, dict) or not all(isinstance(entry, dict) for entry in declared.values()):
        raise LWDError(f"{path}: meta/info.json must describe its features, each with dtype and shape")
    vectors = {name: entry["shape"][0] for name, entry in declared.items() if _is_float_vector(entry)}
    found = ", ".join(f"{name} ({entry.get('dtype')} {entry.get('shape')})" for name, entry in declared.items())
    if "action" not in vectors:
        raise LWDError(f"{path}: there is no feature action that is a vector of floats; found {found}")
    names = [name for name in vectors if name.startswith("observation.")]
    images = [name for name, entry in declared.items() if entry.get("dtype") in {"image", "video"}]
    if images and names == [AGENT] and vectors[AGENT] == 2 and vectors["action"] == 2:
        raise LWDError(
            f"{path} holds only the agent's position (2 values) and images, as lerobot/pusht does: where the block is cannot be learnt "
            "from it without images; use lerobot/pusht_keypoints, which holds the block's key points"
        )
    if not names:
        raise LWDError(f"{path}: there is no feature under observation. that is a vector of floats (images are not read); found {found}")
    first = [name for name in (ENVIRONMENT, AGENT) if name in names]
    return {name: vectors[name] for name in [*first, *(name for name in names if name not in first), "action"]}


def _is_float_vector(entry: dict[str, Any]) -> bool:
    shape = entry.get("shape")
    return entry.get("dtype") in {"float32", "float64"} and isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], int)


def _listing(path: Path, info: dict[str, Any]) -> Listing:
    meta = path / "meta"
    if (meta / "episodes.jsonl").is_file():
        episodes, tasks = _json_lines(meta / "episodes.jsonl"), _json_lines(meta / "tasks.jsonl")
    elif parts := sorted((meta / "episodes").glob("**/*.parquet")):
        # per-episode statistics make these tables hundreds of columns wide: read what is needed
        wanted = ("episode_index", "length", "dataset_from_index", "dataset_to_index", "data/chunk_index", "data/file_index")
        episodes = [row for part in parts for row in _rows(part, wanted)]
        tasks = _rows(meta / "tasks.parquet")
    else:
        found = ", ".join(sorted(entry.name for entry in meta.iterdir()))
        raise LWDError(f"{path}: meta/episodes.jsonl (version 2) or meta/episodes/*/*.parquet (version 3) is missing; meta/ holds {found}")
    with decoding(meta / "episodes"):
        episodes = sorted(episodes, key=lambda row: int(row["episode_index"]))
        index = np.array([row["episode_index"] for row in episodes], np.int64)
        lengths = np.array([row.get("length") or row["dataset_to_index"] - row["dataset_from_index"] for row in episodes], np.int64)
        files = list(dict.fromkeys(_data_path(info, row) for row in episodes))
    if not len(index):
        raise LWDError(f"{path}: the meta data list no episodes")
    total = info.get("total_episodes", len(index))
    if total != len(index):
        raise LWDError(f"{path}: the meta data list {len(index)} episodes but meta/info.json says {total}: the copy is incomplete")
    if len(np.unique(index)) < len(index):
        raise LWDError(f"{path}: the meta data list an episode twice")
    with decoding(meta / "tasks"):
        # version 3 keeps the name as a pandas index, whose column has different names in different writers: it is the one that is text
        names = {int(row["task_index"]): next(value for value in row.values() if isinstance(value, str)) for row in tasks}
    return Listing(index, lengths, files, names)


def _data_path(info: dict[str, Any], row: dict[str, Any]) -> str:
    """The table of one episode, relative to the root; the template in meta/info.json names its fields by version."""
    episode = int(row["episode_index"])
    return str(info["data_path"]).format(
        episode_index=episode,
        episode_chunk=episode // int(info.get("chunks_size", 1000)),
        chunk_index=int(row.get("data/chunk_index") or 0),
        file_index=int(row.get("data/file_index") or 0),
    )


def _columns(path: Path, files: list[str], widths: dict[str, int]) -> dict[str, NDArray]:
    """All steps of all tables: each feature (N, width), each of INDICES (N, 1)."""
    wanted = {**widths, **dict.fromkeys(INDICES, 1)}
    parts: dict[str, list[NDArray]] = {name: [] for name in wanted}
    parquet = _parquet(path)
    for file in files:
        if not (path / file).is_file():
            raise LWDError(f"{path}: {file} is missing; the meta data list it")
        with decoding(path / file):
            names = parquet.read_schema(path / file).names
            missing = [name for name in wanted if name not in names]
            if missing:
                raise LWDError(f"{path}: {file} has no column {missing[0]}; found {', '.join(names)}")
            table = parquet.read_table(path / file, columns=list(wanted))
            for name, width in wanted.items():
                parts[name].append(_matrix(f"{path}: column {name} of {file}", table.column(name), width))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _matrix(where: str, column: Any, width: int) -> NDArray:
    """A column of vectors or numbers as (N, width)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # older pyarrow keeps the wrapper
        array = pa.concat_arrays(array.chunks)
    count = len(array)
    if array.null_count:
        raise LWDError(f"{where} has {array.null_count} empty cells")
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        wrong = sorted(set(pc.unique(pc.list_value_length(array)).to_pylist()) - {width})
        if wrong:
            raise LWDError(f"{where} has vectors of {wrong[0]} values where meta/info.json says {width}")
        array = array.flatten()
        if array.null_count:
            raise LWDError(f"{where} has {array.null_count} empty values")
    elif width != 1:
        raise LWDError(f"{where} holds single values where meta/info.json says {width}")
    return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(count, width)


def _ordered_rows(path: Path, listing: Listing, columns: dict[str, NDArray]) -> Int:
    """Rows of the listed episodes, episode by episode in time order; every episode must be complete."""
    episode, frame = columns["episode_index"][:, 0].astype(np.int64), columns["frame_index"][:, 0].astype(np.int64)
    rows = np.lexsort((frame, episode))
    rows = rows[np.isin(episode[rows], listing.index)]  # a table may hold episodes that were deleted from the meta data
    counts = np.searchsorted(episode[rows], listing.index, side="right") - np.searchsorted(episode[rows], listing.index)
    wrong = np.flatnonzero(counts != listing.lengths)
    if len(wrong):
        first = wrong[0]
        raise LWDError(
            f"{path}: episode {listing.index[first]} has {counts[first]} steps in its table but {listing.lengths[first]} in the meta data: "
            "the copy is incomplete"
        )
    expected = np.concatenate([np.arange(length) for length in listing.lengths])
    gap = np.flatnonzero(frame[rows] != expected)
    if len(gap):
        raise LWDError(f"{path}: frame_index of episode {episode[rows[gap[0]]]} is {frame[rows[gap[0]]]} at step {expected[gap[0]]}")
    return rows


def _task(path: Path, listing: Listing, task_index: Int, ends: Int) -> NDArray[np.str_]:
    """(E,) task names; (N,) `task_index` must be constant within each episode."""
    starts = np.concatenate([[0], ends[:-1]])
    first = task_index[starts]
    changed = np.flatnonzero(task_index != np.repeat(first, listing.lengths))
    if len(changed):
        episode = listing.index[np.searchsorted(ends, changed[0], side="right")]
        raise LWDError(f"{path}: episode {episode} changes its task on the way; an episode must have one task: split it")
    unknown = sorted({int(i) for i in first} - set(listing.tasks))
    if unknown:
        raise LWDError(f"{path}: task_index {unknown[0]} is not among the {len(listing.tasks)} tasks in meta/")
    return np.array([listing.tasks[int(i)] for i in first], np.str_)


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise LWDError(f"{path}: LeRobot data sets need pyarrow: {INSTALL}") from error
    return parquet


def _rows(file: Path, wanted: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Rows of a small table; only the `wanted` columns, if any are named."""
    if not file.is_file():
        raise LWDError(f"{file} is missing")
    parquet = _parquet(file)
    with decoding(file):
        names = parquet.read_schema(file).names
        return parquet.read_table(file, columns=[name for name in names if not wanted or name in wanted]).to_pylist()


def _json_lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        raise LWDError(f"{file} is missing")
    with decoding(file):
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
