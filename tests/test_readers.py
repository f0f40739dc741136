"""Readers: each layout is read back exactly, and each fault is answered by a sentence that names the path and the remedy."""

from __future__ import annotations

import fnmatch
import io
import json
import os
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from rich.console import Console

from lwd.data.episodes import Episodes, Meta
from lwd.data.npz import load_npz, save_npz
from lwd.data.readers import read
from lwd.data.show import available, convert, describe, render
from lwd.errors import LWDError

SHARED = Path(os.environ.get("LWD_SHARED", Path(__file__).resolve().parents[1] / ".." / "shared"))
HUMAN = SHARED / "data" / "pusht" / "pusht_cchi_v7_replay.zarr"
needs_human = pytest.mark.skipif(not HUMAN.exists(), reason=f"no human demonstrations at {HUMAN}: set LWD_SHARED")
LENGTHS = (3, 2, 4)


def arrays(obs_dim: int = 5, action_dim: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(obs in pixels, action in pixels, ends) of three short episodes."""
    rng = np.random.default_rng(0)
    steps = sum(LENGTHS)
    obs, action = rng.uniform(20, 500, (steps, obs_dim)), rng.uniform(1, 511, (steps, action_dim))
    return obs.astype(np.float32), action.astype(np.float32), np.cumsum(LENGTHS)


def write_zarr(path: Path, obs: np.ndarray, action: np.ndarray, ends: np.ndarray, key: str = "state", **meta: np.ndarray) -> Path:
    """Diffusion Policy's layout, with image and key-point arrays that the reader must ignore."""
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    data, group = root.create_group("data"), root.create_group("meta")
    for name, values in {key: obs, "action": action, "img": np.ones((len(obs), 4, 4, 3), np.uint8)}.items():
        data.create_array(name, data=values, chunks=(4, *values.shape[1:]))
    for name, values in {"episode_ends": ends, **meta}.items():
        group.create_array(name, data=values, chunks=values.shape)
    return path


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


def refuses(path: Path, *sentences: str) -> None:
    """Reading must fail with a message that names the path and holds every one of `sentences`."""
    with pytest.raises(LWDError) as caught:
        read(str(path))
    for sentence in (str(path), *sentences):
        assert sentence in str(caught.value), str(caught.value)


def assert_equal(a: Episodes, b: Episodes) -> None:
    for name in ("obs", "action", "ends", "task"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.tags.keys() == b.tags.keys()
    for name in a.tags:
        np.testing.assert_array_equal(a.tags[name], b.tags[name])


def test_zarr_of_pusht_is_read_exactly_and_declared(tmp_path: Path) -> None:
    obs, action, ends = arrays()
    labels = {"operator": np.array(["ann", "bo", "ann"]), "rating": np.array([3, 1, 2]), "other": np.zeros(7)}
    episodes = read(str(write_zarr(tmp_path / "d.zarr", obs, action, ends, **labels)))
    np.testing.assert_array_equal(episodes.obs, obs)
    np.testing.assert_array_equal(episodes.action, action)
    np.testing.assert_array_equal(episodes.ends, ends)
    assert set(episodes.tags) == {"operator", "rating"}  # "other" has not one entry per episode
    assert episodes.tags["operator"].tolist() == ["ann", "bo", "ann"]
    assert (episodes.meta.env, episodes.meta.obs, episodes.meta.angles) == ("pusht", "state", (4,))
    assert (episodes.meta.action_low, episodes.meta.action_high) == ((0, 0), (512, 512))


def test_zarr_of_another_task_has_no_environment(tmp_path: Path) -> None:
    obs, action, ends = arrays(7, 3)
    assert read(write_zarr(tmp_path / "d.zarr", obs, action, ends, key="obs")).meta.env is None
    obs, action, ends = arrays()
    assert read(write_zarr(tmp_path / "scaled.zarr", obs / 512, action / 512, ends)).meta.env is None


@pytest.mark.parametrize("folder", ["", "pusht/d.zarr"])
def test_zarr_zip_is_read_wherever_the_group_lies_in_it(tmp_path: Path, folder: str) -> None:
    source = write_zarr(tmp_path / "d.zarr", *arrays())
    with zipfile.ZipFile(tmp_path / "d.zarr.zip", "w") as archive:
        for file in source.rglob("*"):
            if file.is_file():
                archive.write(file, Path(folder) / file.relative_to(source))
    assert_equal(read(tmp_path / "d.zarr.zip"), read(source))


def test_zarr_names_a_missing_key_and_those_found(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "d.zarr", *arrays())
    shutil.rmtree(path / "data" / "action")
    refuses(path, "no data/action", "found data/img, data/state, meta/episode_ends")
    shutil.rmtree(path / "data" / "state")
    refuses(path, "no data/state (or data/obs)")


def test_zarr_refuses_bad_shapes_and_values(tmp_path: Path) -> None:
    obs, action, ends = arrays()
    refuses(write_zarr(tmp_path / "a.zarr", obs[:, :, None], action, ends), "data/state must have two dimensions")
    refuses(write_zarr(tmp_path / "b.zarr", obs, action[:-1], ends), "9 steps", "8")
    refuses(write_zarr(tmp_path / "c.zarr", obs.astype(str), action, ends), "data/state must hold numbers")
    refuses(write_zarr(tmp_path / "d.zarr", obs, action, ends.astype(float)), "episode_ends must be integers")
    refuses(write_zarr(tmp_path / "e.zarr", obs, action, np.array([3, 2, 9])), "ends must increase", "episode 1")
    refuses(write_zarr(tmp_path / "f.zarr", obs, action, np.array([3, 4, 9])), "episode 1 has one step")
    refuses(write_zarr(tmp_path / "g.zarr", obs, action, np.array([3, 5])), "last episode ends at 5")
    bad = obs.copy()
    bad[4, 2] = np.nan
    refuses(write_zarr(tmp_path / "h.zarr", bad, action, ends), "nan at episode 1, step 1, dimension 2")
    high = action.copy()
    high[6, 1] = 600
    refuses(write_zarr(tmp_path / "i.zarr", obs, high, ends), "action is 600 at episode 2, step 1", "declared range [0, 512]")


def test_zarr_that_is_incomplete_or_damaged_is_refused(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "d.zarr", *arrays())
    chunk = path / "data" / "state" / "1.0"
    whole = chunk.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        chunk.write_bytes(whole[:size])
        refuses(path, f"chunk 1.0 is cut off at {size} bytes")
    chunk.unlink()  # zarr itself would read zeros here
    refuses(path, "data/state lacks 1 of 3 chunks")
    chunk.write_bytes(bytes(len(whole)))
    refuses(path, "damaged, incomplete")
    (path / ".zgroup").write_text("{")
    refuses(path, "damaged, incomplete")
    (tmp_path / "t.zarr.zip").write_bytes(b"PK\x03\x04 cut off")
    refuses(tmp_path / "t.zarr.zip", "damaged, incomplete")
    (tmp_path / "empty.zarr").mkdir()
    refuses(tmp_path / "empty.zarr", "cannot be read")


@pytest.mark.parametrize("place", ["compressor", "filters"])
def test_zarr_never_unpickles(tmp_path: Path, place: str) -> None:
    path = write_zarr(tmp_path / "d.zarr", *arrays())
    header = path / "data" / "state" / ".zarray"
    config = {"id": "pickle", "protocol": 5}
    header.write_text(json.dumps(json.loads(header.read_text()) | {place: config if place == "compressor" else [config]}))
    refuses(path, "pickle")


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_lerobot_keypoints_are_read_exactly_and_declared(tmp_path: Path, version: str) -> None:
    obs, action, ends = arrays(18)
    episodes = read(write_lerobot(tmp_path / "d", version, keypoint_columns(), ["push"]))
    np.testing.assert_array_equal(episodes.obs, obs)  # environment state before agent, whatever the order in info.json
    np.testing.assert_array_equal(episodes.action, action)
    np.testing.assert_array_equal(episodes.ends, ends)
    assert episodes.task is None
    assert (episodes.meta.env, episodes.meta.obs, episodes.meta.angles) == ("pusht", "keypoints", ())
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

    def edit(**changes: Any) -> None:
        info.write_text(json.dumps(good | changes))

    edit(codebase_version="v1.6")
    refuses(path, "v1.6", "2.x and 3.x")
    edit(features={key: value for key, value in good["features"].items() if key != "action"})
    refuses(path, "no feature action", "observation.state (float32 [2])")
    edit(features={"action": good["features"]["action"]})
    refuses(path, "no feature under observation.")
    edit(features=None)
    refuses(path, "must describe its features")
    edit(total_episodes=5)
    refuses(path, "list 3 episodes", "says 5")
    edit(features=good["features"] | {"observation.state": {"dtype": "float32", "shape": [3]}})
    refuses(path, "vectors of 2 values", "says 3")
    info.write_text("{")
    refuses(path, "damaged, incomplete")
    edit()
    (path / "meta" / "tasks.jsonl").unlink()
    refuses(path, "tasks.jsonl is missing")
    (path / "meta" / "episodes.jsonl").unlink()
    refuses(path, "meta/episodes.jsonl (version 2)", "meta/ holds info.json")


def test_lerobot_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write_lerobot(tmp_path / "d", "v2.1", keypoint_columns(), ["lift", "stack"])
    file = path / "data" / "chunk-000" / "episode_000001.parquet"
    table = pq.read_table(file)
    pq.write_table(table.drop_columns(["observation.state"]), file)
    refuses(path, "episode_000001.parquet has no column observation.state", "found", "frame_index")
    pq.write_table(table.slice(0, 1), file)
    refuses(path, "episode 1 has 1 steps in its table but 2 in the meta data")
    empty = table.column_names.index("action")
    pq.write_table(table.set_column(empty, "action", pa.array([None, [1.0, 2.0]], pa.list_(pa.float32()))), file)
    refuses(path, "column action", "1 empty cells")
    pq.write_table(table.set_column(empty, "action", pa.array([[1.0, float("inf")], [1.0, 2.0]], pa.list_(pa.float32()))), file)
    refuses(path, "action is inf at episode 1, step 0, dimension 1")
    pq.write_table(table.set_column(empty, "action", pa.array([1.0, 2.0])), file)
    refuses(path, "single values")
    task = table.column_names.index("task_index")
    pq.write_table(table.set_column(task, "task_index", pa.array([1, 0])), file)
    refuses(path, "episode 1 changes its task")
    pq.write_table(table.set_column(task, "task_index", pa.array([7, 7])), file)
    refuses(path, "task_index 7")
    frame = table.column_names.index("frame_index")
    pq.write_table(table.set_column(frame, "frame_index", pa.array([0, 2])), file)
    refuses(path, "frame_index of episode 1 is 2 at step 1")
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


def test_npz_is_read_by_content(tmp_path: Path) -> None:
    obs, action, ends = arrays(3)
    np.savez(tmp_path / "own.npz", obs=obs, action=action, ends=ends)
    shutil.copy(tmp_path / "own.npz", tmp_path / "own.data")
    for name in ("own.npz", "own.data"):
        np.testing.assert_array_equal(read(tmp_path / name).obs, obs)


def test_npz_faults_name_the_file(tmp_path: Path) -> None:
    obs, action, ends = arrays(3)
    path = tmp_path / "own.npz"
    np.savez(path, obs=obs, ends=ends)
    refuses(path, "action")
    np.savez(path, obs=obs, action=action, ends=ends[::-1])
    refuses(path, "ends must increase")
    np.savez(path, obs=obs, action=np.array([object()] * len(obs)), ends=ends)
    refuses(path)
    np.savez(path, obs=obs, action=action, ends=ends)
    path.write_bytes(path.read_bytes()[:200])
    refuses(path)


def test_unknown_sources_say_what_is_expected(tmp_path: Path) -> None:
    refuses(tmp_path / "nothing", "no such file or directory")
    (tmp_path / "notes.txt").write_text("hello")
    refuses(tmp_path / "notes.txt", "not a known data format", "zarr", "LeRobot", ".npz", "owner/name", "embedded")
    refuses(tmp_path, "not a known data format")
    with pytest.raises(LWDError, match="there is embedded:pusht"):
        read("embedded:hopper")


def test_embedded_sets_are_listed_and_readable() -> None:
    entry = {entry["name"]: entry for entry in available()}["embedded:pusht"]
    json.dumps(entry)
    if entry["megabytes"] is None:
        assert "lwd data collect pusht" in entry["description"]
        pytest.skip("the embedded PushT set has not been collected")
    assert entry["megabytes"] < 2 and entry["episodes"] >= 200
    episodes = read("embedded")
    assert (len(episodes), episodes.steps) == (entry["episodes"], entry["steps"])
    assert episodes.meta.env == "pusht" and "synthetic" in entry["description"].lower()


def test_a_missing_embedded_set_says_how_to_make_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    with pytest.raises(LWDError, match=r"pusht_synthetic.npz is missing.*lwd data collect pusht"):
        read("embedded")
    assert available()[0]["episodes"] is None


def labelled() -> Episodes:
    obs, action, ends = arrays()
    tags = {"operator": np.array(["ann", "bo", "ann"]), "score": np.array([0.5, 1.0, 0.25])}
    meta = Meta("pusht", "state", (4,), (0.0, 0.0), (512.0, 512.0), "made for a test [bold], synthetic")
    return Episodes(obs, action, ends, np.array(["left", "right", "left"]), tags, meta)


@pytest.mark.parametrize("name", ["out.npz", "out.zarr"])
def test_convert_loses_nothing(tmp_path: Path, name: str) -> None:
    episodes = labelled()
    save_npz(episodes, tmp_path / "in.npz")
    path = convert(tmp_path / "in.npz", tmp_path / "sub" / name)
    assert_equal(read(path), episodes)
    assert read(path).meta == episodes.meta
    assert [entry.name for entry in path.parent.iterdir()] == [name]  # no temporary files stay
    with pytest.raises(LWDError, match="exists"):
        convert(episodes, path)


def test_convert_keeps_steps_that_are_all_zero(tmp_path: Path) -> None:
    _, action, ends = arrays()
    np.savez(tmp_path / "in.npz", obs=np.zeros((9, 3)), action=action, ends=ends)
    assert not read(convert(tmp_path / "in.npz", tmp_path / "out.zarr")).obs.any()


def test_convert_refuses_other_targets(tmp_path: Path) -> None:
    with pytest.raises(LWDError, match=r"must end in \.npz or \.zarr"):
        convert("embedded", tmp_path / "out.h5")


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_npz(labelled(), tmp_path / "in.npz")

    def full_disk(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        convert(tmp_path / "in.npz", tmp_path / "out.zarr")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.npz"]


def test_description_is_true_json_and_renders() -> None:
    episodes = labelled()
    description = describe(episodes)
    assert json.loads(json.dumps(description))["fingerprint"] == episodes.fingerprint()
    assert (description["episodes"], description["steps"], description["obs_dim"], description["action_dim"]) == (3, 9, 5, 2)
    assert description["lengths"] == {"min": 2, "mean": 3.0, "max": 4}
    assert description["obs"][4]["name"] == "block angle"
    assert description["action"][1]["max"] == pytest.approx(episodes.action[:, 1].max())
    assert description["obs"][0]["std"] == pytest.approx(episodes.obs[:, 0].std())
    assert description["tasks"] == {"left": 2, "right": 1}
    assert description["tags"]["operator"] == {"ann": 2, "bo": 1}
    console = Console(width=120, file=io.StringIO())
    console.print(render(description))
    text = console.file.getvalue()
    for word in ("operator", "ann", "block angle", "made for a test [bold], synthetic", "[0, 512]", episodes.fingerprint()):
        assert word in text


@needs_human
@pytest.mark.data
def test_human_demonstrations_fit_what_is_declared(tmp_path: Path) -> None:
    episodes = read(HUMAN)
    assert (len(episodes), episodes.steps) == (206, 25650)
    assert (episodes.lengths.min(), episodes.lengths.max()) == (49, 246)
    assert episodes.meta.env == "pusht"
    angle = episodes.obs[:, 4]
    assert angle.min() >= 0 and angle.max() < 2 * np.pi
    assert episodes.action.min() >= 0 and episodes.action.max() <= 512
    for name in ("h.npz", "h.zarr"):
        again = read(convert(HUMAN, tmp_path / name))
        assert again.fingerprint() == episodes.fingerprint()
    assert load_npz(tmp_path / "h.npz").meta == episodes.meta


def test_a_directory_of_npz_is_one_data_set(tmp_path: Path) -> None:
    rng, parts = np.random.default_rng(0), {}
    for name in ("push", "door-open"):
        obs = rng.normal(size=(5, 3)).astype(np.float32)
        meta = Meta("metaworld", "state", (), (-1.0,), (1.0,), f"synthetic: {name[0]}")
        parts[name] = Episodes(obs, obs[:, :1].clip(-1, 1), np.array([2, 5]), np.array([name] * 2), {"seed": np.array([0, 1])}, meta)
        save_npz(parts[name], tmp_path / "set" / f"{name}.npz")
    for leftover in (".push.npz.123.tmp", ".reach.npz", "notes.txt"):
        (tmp_path / "set" / leftover).write_bytes(b"half")
    whole = read(tmp_path / "set")
    np.testing.assert_array_equal(whole.obs, np.concatenate([parts["door-open"].obs, parts["push"].obs]))  # by name
    assert whole.task is not None and whole.task.tolist() == ["door-open"] * 2 + ["push"] * 2
    assert whole.ends.tolist() == [2, 5, 7, 10] and whole.tags["seed"].tolist() == [0, 1, 0, 1]
    assert whole.meta == replace(meta, description="synthetic: d; synthetic: p")
    assert describe(whole)["tasks"] == {"door-open": 2, "push": 2}
    for target in ("one.npz", "one.zarr"):
        again = read(convert(tmp_path / "set", tmp_path / target))
        np.testing.assert_array_equal(again.obs, whole.obs)
        assert again.task is not None and again.task.tolist() == whole.task.tolist()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"obs": np.zeros((4, 2))}, "in dimensions of observations .2, not 3."),
        ({"meta": Meta("pusht")}, "in the environment .pusht, not None."),
        ({"task": None}, "in having task names .False, not True."),
    ],
)
def test_files_of_a_directory_that_do_not_go_together(tmp_path: Path, changes: dict, match: str) -> None:
    episodes = Episodes(np.zeros((4, 3)), np.zeros((4, 1)), np.array([4]), np.array(["push"]))
    save_npz(episodes, tmp_path / "a.npz")
    save_npz(replace(episodes, **changes), tmp_path / "b.npz")
    with pytest.raises(LWDError, match=rf"{tmp_path}/b\.npz differs from a\.npz beside it {match}: keep them in separate directories"):
        read(tmp_path)
    (tmp_path / "b.npz").write_bytes(b"half")
    with pytest.raises(LWDError, match=r"b\.npz cannot be read as \.npz"):
        read(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LWDError, match=r"not a known data format; .*an \.npz file or a directory of them"):
        read(tmp_path / "empty")


def test_missing_metaworld_data_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LWDError, match="no such directory; make it:  lwd data collect metaworld --tasks mt10"):
        read("data/metaworld-mt10")
