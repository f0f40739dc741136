"""LeRobot data sets of versions 2 (a table per episode) and 3 (tables of many), local or from the Hub; videos are never opened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lwd.config import require
from lwd.data.formats.common import decoding
from lwd.envs.base import recognise
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError
from lwd.files import read_json

if TYPE_CHECKING:
    import pyarrow as pa

INSTALL = 'pip install "latent-weight-diffusion[lerobot]"'
DAMAGED = "the copy is damaged, incomplete or no LeRobot data set"
AGENT = "observation.state"
INDICES = ("episode_index", "frame_index", "task_index")
LISTED = ("episode_index", "length", "data/chunk_index", "data/file_index")  # statistics make these tables hundreds of columns wide


def matches(path: Path) -> bool:
    """Whether a directory is a LeRobot data set of version 2 or later."""
    return (path / "meta" / "info.json").is_file()


def features(path: Path) -> dict[str, int]:
    """Widths of the observation features in the order in which they are joined, and of `action` last; reads only meta/info.json."""
    info = read_json(path / "meta" / "info.json", DAMAGED)
    version, remedy = str(info.get("codebase_version", "missing")), "convert it with LeRobot's own scripts"
    require(version[:3] in ("v2.", "v3."), f"{path}: LeRobot format {version} is not known; versions 2.x and 3.x are ({remedy})")
    with decoding(path / "meta" / "info.json"):
        kinds = {name: (str(entry["dtype"]), list(entry["shape"])) for name, entry in info["features"].items()}
    vectors = {name: shape[0] for name, (kind, shape) in kinds.items() if kind in ("float32", "float64") and len(shape) == 1}
    found = ", ".join(f"{name} ({kind} {shape})" for name, (kind, shape) in kinds.items())
    require("action" in vectors, f"{path}: there is no feature action that is a vector of floats; found {found}")
    ordered = dict.fromkeys(("observation.environment_state", AGENT, *vectors))
    names = [name for name in ordered if name in vectors and name.startswith("observation.")]
    lack = "there is no feature under observation. that is a vector of floats"
    require(bool(names), f"{path}: {lack} (images are not read); found {found}")
    images = any(kind in ("image", "video") for kind, _ in kinds.values())
    if images and names == [AGENT] and vectors[AGENT] == vectors["action"] == 2:
        what = f"{path} holds only the agent's position (2 values) and images, as lerobot/pusht does: where the block is cannot be learnt"
        raise LWDError(f"{what} from it without images; use lerobot/pusht_keypoints, which holds the block's key points")
    return {name: vectors[name] for name in (*names, "action")}


def read(path: Path) -> Episodes:
    """Demonstrations from a local LeRobot directory. Task names are kept if there are several.

    The observation is `observation.environment_state`, then `observation.state`, then any other vector of floats under `observation.`.
    """
    widths, (lengths, files, names) = features(path), _listing(path)
    parts = [_steps(path / file, widths) for file in files]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    steps = pd.DataFrame({name: columns.pop(name) for name in INDICES}).sort_values(["episode_index", "frame_index"])
    steps = steps[steps.episode_index.isin(lengths.index)]  # a table may hold episodes that were deleted from the meta data
    episodes = steps.groupby("episode_index")
    found = episodes.frame_index.agg(["size", "nunique", "max"]).reindex(lengths.index, fill_value=0)
    incomplete = (found["size"] != lengths) | (found["nunique"] != lengths) | (found["max"] != lengths - 1)
    if incomplete.any():
        number: Any = incomplete.idxmax()
        table = f"{found['size'][number]} steps in its table, the last one with frame_index {found['max'][number]}"
        raise LWDError(f"{path}: episode {number} has {table}, but {lengths[number]} in the meta data: the copy is incomplete")
    tasks = episodes.task_index.agg(["min", "max"])
    if (changed := tasks["min"] != tasks["max"]).any():
        raise LWDError(f"{path}: episode {changed.idxmax()} changes its task on the way; an episode must have one task: split it")
    if unknown := set(tasks["min"]) - set(names):
        raise LWDError(f"{path}: task_index {min(unknown)} is not among the {len(names)} tasks in meta/")
    action = columns.pop("action")[steps.index]
    obs = np.concatenate(list(columns.values()), axis=1)[steps.index]
    task = np.array([names[number] for number in tasks["min"]]) if len(names) > 1 else None
    description = f"LeRobot data set {path.name}"
    meta = recognise(obs, action, description) or Meta(description=description)
    return Episodes(obs, action, lengths.to_numpy().cumsum(), task, {}, meta)


def _listing(path: Path) -> tuple[pd.Series, list[str], dict[int, str]]:
    """What the meta data say: steps by episode_index, paths of all tables relative to the root, and names by task_index."""
    meta, info = path / "meta", read_json(path / "meta" / "info.json", DAMAGED)
    if (meta / "episodes.jsonl").is_file():
        rows, tasks = _lines(meta / "episodes.jsonl"), _lines(meta / "tasks.jsonl")
    elif parts := sorted((meta / "episodes").glob("**/*.parquet")):
        rows = [row for part in parts for row in _table(part, LISTED).to_pylist()]
        tasks = _table(meta / "tasks.parquet").to_pylist()
    else:
        found = ", ".join(sorted(entry.name for entry in meta.iterdir()))
        raise LWDError(f"{path}: meta/episodes.jsonl (version 2) or meta/episodes/*/*.parquet (version 3) is missing; meta/ holds {found}")
    with decoding(meta):
        episodes = {number: row for number, row in sorted((int(row["episode_index"]), row) for row in rows)}
        total, chunk = info.get("total_episodes", len(episodes)), int(info.get("chunks_size", 1000))
        listed = f"the meta data list {len(episodes)} episodes but meta/info.json says {total}"
        require(len(episodes) == total > 0, f"{path}: {listed}: the copy is incomplete")
        lengths = pd.Series({number: int(row["length"]) for number, row in episodes.items()})
        files = []
        for number, row in episodes.items():
            place = {name: row.get(f"data/{name}") for name in ("chunk_index", "file_index")}
            files.append(info["data_path"].format(episode_index=number, episode_chunk=number // chunk, **place))
        # version 3 keeps the name as a pandas index, whose column has different names in different writers: it is the one that is text
        names = {int(row["task_index"]): next(value for value in row.values() if isinstance(value, str)) for row in tasks}
    return lengths, list(dict.fromkeys(files)), names


def _steps(file: Path, widths: dict[str, int]) -> dict[str, NDArray]:
    """The steps of one table: each feature (N, width), and each of INDICES (N,)."""
    table = _table(file, (*widths, *INDICES))
    import pyarrow as pa
    from pyarrow import compute

    columns = {}
    for name in table.column_names:
        width = widths.get(name)
        try:
            cells = table[name].cast(pa.list_(pa.float32(), width) if width else pa.int64())
        except pa.ArrowException as error:
            kind = f"vectors of {width} values, as meta/info.json says" if width else "whole numbers"
            raise LWDError(f"{file}: column {name} must hold {kind} ({error})") from error
        values = compute.list_flatten(cells) if width else cells
        empty = cells.null_count or values.null_count
        require(not empty, f"{file}: column {name} has {empty} empty cells")
        columns[name] = values.to_numpy().reshape(-1, width) if width else values.to_numpy()
    return columns


def _table(file: Path, columns: Sequence[str] = ()) -> pa.Table:
    """A parquet table, or only some of its columns."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise LWDError(f"{file}: LeRobot data sets need pyarrow: {INSTALL}") from error
    with decoding(file):
        names = parquet.read_schema(file).names
        for name in columns:
            require(name in names, f"{file} has no column {name}; found {', '.join(names)}")
        return parquet.read_table(file, columns=list(columns) or None)


def _lines(file: Path) -> list[dict[str, Any]]:
    with decoding(file):
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def fetch(repo_id: str) -> Path:
    """Downloads a data set "owner/name" without its videos into the Hub's cache, and returns the local directory."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise LWDError(f"{repo_id}: downloading needs huggingface_hub: {INSTALL}") from error
    try:
        root = Path(snapshot_download(repo_id, repo_type="dataset", allow_patterns=["meta/*"]))
        require(matches(root), "not a LeRobot data set of version 2 or 3: it has no meta/info.json")
        features(root)  # a data set that cannot be read is refused before its tables travel
        return Path(snapshot_download(repo_id, repo_type="dataset", allow_patterns=["meta/*", "data/*.parquet"]))
    except LWDError as error:
        raise LWDError(f"{repo_id}: {error}") from error
    except Exception as error:  # network, credentials, unknown names: the Hub's client raises many unrelated types
        reason = " ".join(str(error).split())[:300]
        raise LWDError(f"{repo_id}: cannot be downloaded from the Hugging Face Hub ({type(error).__name__}: {reason})") from error
