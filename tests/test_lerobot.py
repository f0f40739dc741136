"""LeRobot data sets, from directories and from the Hub: read back exactly, and each fault is answered by a sentence."""

from __future__ import annotations

import fnmatch
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lwd.data.read import read
from lwd.errors import LWDError
from test_formats import LENGTHS, arrays, refuses


def cells(values: np.ndarray) -> pa.Array:
    return pa.array(values.tolist(), pa.list_(pa.float32()))


def write_lerobot(path: Path, version: str, columns: dict[str, np.ndarray], names: list[str], images: bool = False) -> Path:
    """A LeRobot directory of version "v2.1" or "v3.0"; episode i has task i modulo the number of `names`."""
    (path / "meta").mkdir(parents=True)
    features: dict[str, Any] = {k: {"dtype": "float32", "shape": [v.shape[1]], "names": None} for k, v in columns.items()}
    features["next.reward"] = {"dtype": "float32", "shape": [1], "names": None}
    if images:
        features["observation.image"] = {"dtype": "video", "shape": [96, 96, 3], "names": ["height", "width", "channel"]}
    old = version.startswith("v2")
    template = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    template = template if old else "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    info = {"codebase_version": version, "total_episodes": len(LENGTHS), "chunks_size": 1000, "fps": 10, "data_path": template}
    (path / "meta" / "info.json").write_text(json.dumps({**info, "features": features}))
    ends = np.cumsum(LENGTHS)
    tables, episodes = [], []
    for e, (start, end) in enumerate(zip(ends - LENGTHS, ends, strict=True)):
        n, task = end - start, e % len(names)
        table = {name: cells(values[start:end]) for name, values in columns.items()}
        table |= {"episode_index": pa.array([e] * n), "frame_index": pa.array(range(n)), "task_index": pa.array([task] * n)}
        tables.append(pa.table({**table, "index": pa.array(range(start, end)), "next.reward": pa.array([0.0] * n, pa.float32())}))
        episodes.append({"episode_index": e, "tasks": [names[task]], "length": int(n)})
        if not old:
            # the first file holds two episodes, the second one the third
            where = {"data/chunk_index": 0, "data/file_index": e // 2, "dataset_from_index": int(start), "dataset_to_index": int(end)}
            episodes[-1] |= where
    tasks = [{"task_index": i, "task": name} for i, name in enumerate(names)]
    data = path / "data" / "chunk-000"
    data.mkdir(parents=True)
    if old:
        for e, table in enumerate(tables):
            pq.write_table(table, data / f"episode_{e:06d}.parquet")
        (path / "meta" / "episodes.jsonl").write_text("\n".join(map(json.dumps, episodes)) + "\n")
        (path / "meta" / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)) + "\n")
    else:
        pq.write_table(pa.concat_tables(tables[:2]), data / "file-000.parquet")
        pq.write_table(tables[2], data / "file-001.parquet")
        (path / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(episodes), path / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
        index = [{"task_index": row["task_index"], "__index_level_0__": row["task"]} for row in tasks]
        pq.write_table(pa.Table.from_pylist(index), path / "meta" / "tasks.parquet")
    return path


def keypoint_columns() -> dict[str, np.ndarray]:
    obs, action, _ = arrays(18)
    # declared in the opposite order of that in which they are joined
    return {"observation.state": obs[:, 16:], "observation.environment_state": obs[:, :16], "action": action}


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_lerobot_keypoints_are_read_exactly_and_declared(tmp_path: Path, version: str) -> None:
    obs, action, ends = arrays(18)
    episodes = read(write_lerobot(tmp_path / "d", version, keypoint_columns(), ["push"]))
    np.testing.assert_array_equal(episodes.obs, obs)  # environment state before agent, whatever the order in info.json
    np.testing.assert_array_equal(episodes.action, action)
    np.testing.assert_array_equal(episodes.ends, ends)
    assert episodes.task is None
    assert (episodes.meta.env, episodes.meta.obs_kind, episodes.meta.angles) == ("pusht", "keypoints", ())
    assert episodes.meta.action_high == (512, 512)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_of_another_task_joins_its_vectors_and_keeps_task_names(tmp_path: Path, version: str) -> None:
    obs, action, _ = arrays(6, 3)
    columns = {"observation.effort": obs[:, :2], "observation.state": obs[:, 2:], "action": action}
    episodes = read(write_lerobot(tmp_path / "d", version, columns, ["lift", "stack"], images=True))
    np.testing.assert_array_equal(episodes.obs, np.concatenate([obs[:, 2:], obs[:, :2]], axis=1))
    assert episodes.task is not None and episodes.task.tolist() == ["lift", "stack", "lift"]
    assert episodes.meta.env is None


def test_lerobot_rows_in_any_order_are_sorted(tmp_path: Path) -> None:
    path = write_lerobot(tmp_path / "d", "v3.0", keypoint_columns(), ["push"])
    file = path / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pq.read_table(file).take([4, 0, 3, 2, 1]), file)
    np.testing.assert_array_equal(read(path).obs, arrays(18)[0])


def test_lerobot_pusht_without_the_block_is_refused_by_name(tmp_path: Path) -> None:
    columns = {key: value for key, value in keypoint_columns().items() if key != "observation.environment_state"}
    path = write_lerobot(tmp_path / "d", "v3.0", columns, ["push"], images=True)
    refuses(path, "only the agent's position", "lerobot/pusht_keypoints")


def test_lerobot_meta_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write_lerobot(tmp_path / "d", "v2.1", keypoint_columns(), ["push"])
    info = path / "meta" / "info.json"
    good = json.loads(info.read_text())
    features = good["features"]
    cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"codebase_version": "v1.6"}, ("v1.6", "2.x and 3.x")),
        (
            {"features": {key: value for key, value in features.items() if key != "action"}},
            ("no feature action", "observation.state (float32 [2])"),
        ),
        ({"features": {"action": features["action"]}}, ("no feature under observation.",)),
        ({"features": None}, ("meta/info.json cannot be read",)),
        ({"total_episodes": 5}, ("list 3 episodes", "says 5")),
        (
            {"features": features | {"observation.state": {"dtype": "float32", "shape": [3]}}},
            ("column observation.state must hold vectors of 3 values", "info.json says"),
        ),
    ]
    for changes, sentences in cases:
        info.write_text(json.dumps(good | changes))
        refuses(path, *sentences)
    info.write_text("{")
    refuses(path, "damaged, incomplete")
    info.write_text(json.dumps(good))
    (path / "meta" / "tasks.jsonl").unlink()
    refuses(path, "tasks.jsonl is missing")
    (path / "meta" / "episodes.jsonl").unlink()
    refuses(path, "meta/episodes.jsonl (version 2)", "meta/ holds info.json")


def test_lerobot_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write_lerobot(tmp_path / "d", "v2.1", keypoint_columns(), ["lift", "stack"])
    file = path / "data" / "chunk-000" / "episode_000001.parquet"
    table = pq.read_table(file)

    def with_column(name: str, values: list[Any], kind: Any = None) -> pa.Table:
        return table.set_column(table.column_names.index(name), name, pa.array(values, kind))

    vectors = pa.list_(pa.float32())
    cases: list[tuple[pa.Table, tuple[str, ...]]] = [
        (table.drop_columns(["observation.state"]), ("episode_000001.parquet has no column observation.state", "found", "frame_index")),
        (table.slice(0, 1), ("episode 1 has 1 steps in its table", "2 in the meta data: the copy is incomplete")),
        (with_column("action", [None, [1.0, 2.0]], vectors), ("column action", "1 empty cells")),
        (with_column("action", [[1.0, float("inf")], [1.0, 2.0]], vectors), ("action is inf at episode 1, step 0, dimension 1",)),
        (with_column("action", [1.0, 2.0]), ("column action must hold vectors of 2 values",)),
        (with_column("task_index", [1, 0]), ("episode 1 changes its task",)),
        (with_column("task_index", [7, 7]), ("task_index 7",)),
        (with_column("frame_index", [0, 2]), ("episode 1 has 2 steps in its table, the last one with frame_index 2",)),
    ]
    for faulty, sentences in cases:
        pq.write_table(faulty, file)
        refuses(path, *sentences)
    pq.write_table(table, file)
    file.write_bytes(file.read_bytes()[:-20])
    refuses(path, "damaged, incomplete")
    file.unlink()
    refuses(path, "episode_000001.parquet is missing")


def test_lerobot_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lerobot(tmp_path / "d", "v2.1", keypoint_columns(), ["push"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refuses(path, 'pip install "latent-weight-diffusion[lerobot]"')


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A Hub with `lerobot/pusht_keypoints` and `lerobot/pusht`, reached by copying; returns the files that travelled, in order."""
    columns = keypoint_columns()
    write_lerobot(tmp_path / "hub" / "pusht_keypoints", "v3.0", columns, ["push"])
    columns.pop("observation.environment_state")
    write_lerobot(tmp_path / "hub" / "pusht", "v3.0", columns, ["push"], images=True)
    for name in ("pusht", "pusht_keypoints"):
        (tmp_path / "hub" / name / "videos").mkdir()
        (tmp_path / "hub" / name / "videos" / "a.mp4").write_text("large")
    travelled: list[str] = []

    def snapshot_download(repo_id: str, *, repo_type: str, allow_patterns: list[str]) -> str:
        source = tmp_path / "hub" / repo_id.removeprefix("lerobot/")
        if repo_type != "dataset" or not source.is_dir():
            raise OSError("404: no such data set")
        target = tmp_path / "cache" / "0123abcd" / source.name
        for file in sorted(source.rglob("*")):
            name = file.relative_to(source).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target / name)
                travelled.append(name)
        return str(target)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return travelled


def test_hub_is_asked_only_on_request_and_never_for_videos(fake_hub: list[str]) -> None:
    with pytest.raises(LWDError, match=r"lerobot/pusht_keypoints: no such file.*--download"):
        read("lerobot/pusht_keypoints")
    assert not fake_hub
    episodes = read("lerobot/pusht_keypoints", download=True)
    np.testing.assert_array_equal(episodes.obs, arrays(18)[0])
    assert episodes.meta.env == "pusht" and "lerobot/pusht_keypoints" in episodes.meta.description
    assert not any("videos" in name for name in fake_hub)


def test_hub_data_set_that_cannot_be_used_is_refused_before_its_tables_travel(fake_hub: list[str]) -> None:
    with pytest.raises(LWDError, match="use lerobot/pusht_keypoints"):
        read("lerobot/pusht", download=True)
    assert fake_hub and not any(name.startswith("data/") for name in fake_hub)


def test_hub_failure_is_a_sentence(fake_hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LWDError, match=r"lerobot/nothing: cannot be downloaded.*404"):
        read("lerobot/nothing", download=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(LWDError, match=r"latent-weight-diffusion\[lerobot\]"):
        read("lerobot/pusht_keypoints", download=True)
