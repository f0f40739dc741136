"""Formats: each layout is read back exactly, and each fault is answered by a sentence that names the path and the remedy."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from conftest import assert_equal
from lwd.commands import data as command
from lwd.data.formats.npz import LAYOUT, load_npz, save_npz
from lwd.data.read import read
from lwd.episodes import Episodes, Meta
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


def refuses(path: Path, *sentences: str) -> None:
    """Reading must fail with a message that names the path and holds every one of `sentences`."""
    with pytest.raises(LWDError) as caught:
        read(str(path))
    for sentence in (str(path), *sentences):
        assert sentence in str(caught.value), str(caught.value)


def test_zarr_of_pusht_is_read_exactly_and_declared(tmp_path: Path) -> None:
    obs, action, ends = arrays()
    labels = {"operator": np.array(["ann", "bo", "ann"]), "rating": np.array([3, 1, 2]), "other": np.zeros(7)}
    episodes = read(str(write_zarr(tmp_path / "d.zarr", obs, action, ends, **labels)))
    np.testing.assert_array_equal(episodes.obs, obs)
    np.testing.assert_array_equal(episodes.action, action)
    np.testing.assert_array_equal(episodes.ends, ends)
    assert set(episodes.tags) == {"operator", "rating"}  # "other" has not one entry per episode
    assert episodes.tags["operator"].tolist() == ["ann", "bo", "ann"]
    assert (episodes.meta.env, episodes.meta.obs_kind, episodes.meta.angles) == ("pusht", "state", (4,))
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
    assert_equal(read(tmp_path / "d.zarr.zip"), read(source), meta=False)


def test_zarr_names_a_missing_key_and_those_found(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "d.zarr", *arrays())
    shutil.rmtree(path / "data" / "action")
    refuses(path, "no data/action", "found data/img, data/state, meta/episode_ends")
    shutil.rmtree(path / "data" / "state")
    refuses(path, "no data/state (or data/obs)")


def test_zarr_refuses_bad_shapes_and_values(tmp_path: Path) -> None:
    obs, action, ends = arrays()
    bad, high = obs.copy(), action.copy()
    bad[4, 2], high[6, 1] = np.nan, 600
    cases: list[tuple[Any, Any, Any, tuple[str, ...]]] = [
        (obs[:, :, None], action, ends, ("data/state must have two dimensions",)),
        (obs, action[:-1], ends, ("9 steps", "8")),
        (obs.astype(str), action, ends, ("data/state must hold numbers",)),
        (obs, action, ends.astype(float), ("episode_ends must be integers",)),
        (obs, action, np.array([3, 2, 9]), ("ends must increase", "episode 1")),
        (obs, action, np.array([3, 4, 9]), ("episode 1 has one step",)),
        (obs, action, np.array([3, 5]), ("last episode ends at 5",)),
        (bad, action, ends, ("nan at episode 1, step 1, dimension 2",)),
        (obs, high, ends, ("action is 600 at episode 2, step 1", "declared range [0, 512]")),
    ]
    for i, (*faulty, sentences) in enumerate(cases):
        refuses(write_zarr(tmp_path / f"{i}.zarr", *faulty), *sentences)


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


def labelled() -> Episodes:
    obs, action, ends = arrays()
    tags = {"operator": np.array(["ann", "bo", "ann"]), "score": np.array([0.5, 1.0, 0.25]), "loose": np.array(["x", "y", "z"], object)}
    meta = Meta("pusht", "state", (4,), (0.0, 0.0), (512.0, 512.0), "made for a test [bold], synthetic")
    return Episodes(obs, action, ends, np.array(["links", "öffnen", "links"]), tags, meta)


def test_npz_is_read_by_content_and_needs_three_arrays_only(tmp_path: Path) -> None:
    obs, action, ends = arrays(3)
    np.savez(tmp_path / "own.npz", obs=obs, action=action, ends=ends)
    shutil.copy(tmp_path / "own.npz", tmp_path / "own.data")
    for name in ("own.npz", "own.data"):
        np.testing.assert_array_equal(read(tmp_path / name).obs, obs)


def test_every_array_with_one_entry_an_episode_is_a_tag(tmp_path: Path) -> None:
    obs, action, ends = arrays(3)
    own = {"success_step": np.array([2, -1, 0]), "tag_operator": np.array(["ann", "ben", "ann"]), "reward": np.zeros(9)}
    np.savez(tmp_path / "own.npz", obs=obs, action=action, ends=ends, **own)
    episodes = read(tmp_path / "own.npz")
    assert set(episodes.tags) == {"success_step", "operator"}
    np.testing.assert_array_equal(episodes.left[:3], [2, 1, 0])


def test_the_layout_that_is_shown_is_the_one_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    obs, action, ends = arrays(39, 28)
    code = "\n".join(line.strip() for line in LAYOUT.splitlines()[1:])
    assert len(code.splitlines()) == 3
    exec(code, {"np": np, "all_obs": np.split(obs, ends[:-1]), "all_actions": np.split(action, ends[:-1])})
    episodes = read("demos.npz")
    np.testing.assert_array_equal(episodes.obs, obs)
    np.testing.assert_array_equal(episodes.ends, ends)


def test_usual_mistakes_in_an_npz_show_the_layout(tmp_path: Path) -> None:
    path, (obs, action, ends) = tmp_path / "own.npz", arrays(4, 3)
    cube = np.zeros((2, 5, 4))
    cases: list[tuple[str, dict[str, Any]]] = [
        ("has no action, ends (it has obs)", {"action": None, "ends": None}),
        ("has no obs (it has action, ends, observations)", {"obs": None, "observations": obs}),
        ("three dimensions (obs (2, 5, 4), action (2, 5, 1)", {"obs": cube, "action": cube[..., :1], "ends": np.array([5, 10])}),
        ("must have two dimensions, steps and values (obs (9, 4), action (9,)", {"action": action[:, 0]}),
        ("obs and action are transposed (obs (4, 9), action (3, 9)", {"obs": obs.T, "action": action.T}),
        ("obs and action are transposed", {"obs": obs.T, "action": action.T, "ends": np.array(LENGTHS)}),
        ("ends holds the lengths of the episodes, which add up to the 9 steps", {"ends": np.array(LENGTHS)}),
        ("ends begins with 0", {"ends": np.array([0, 3, 5])}),
        ("ends holds the last row of each episode (8 of 9 rows)", {"ends": ends - 1}),
        ("the last episode ends at 7 but there are 9 steps", {"ends": np.array([3, 7])}),
        ("ends must be a list of row numbers", {"ends": np.array(9)}),
        ("ends must hold row numbers, not fractions", {"ends": np.array([3.5, 9.0])}),
        ("obs has 9 steps but action has 8", {"action": action[:-1]}),
        ("one observation more than actions", {"obs": np.zeros((12, 4))}),
        ("obs must hold numbers, not <U", {"obs": obs.astype(str)}),
    ]
    for sentence, changes in cases:
        content = {**{"obs": obs, "action": action, "ends": ends}, **changes}
        np.savez(path, **{name: value for name, value in content.items() if value is not None})
        refuses(path, sentence, LAYOUT)
    (tmp_path / "own.csv").write_text("x,y\n1,2\n")
    refuses(tmp_path / "own.csv", "not a known data format", LAYOUT)


def test_faults_of_an_npz_name_the_file(tmp_path: Path) -> None:
    path, (obs, action, ends) = tmp_path / "own.npz", arrays(3)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("ends must increase", {"ends": np.array([5, 3, 9])}),
        ("nan at episode 0, step 0", {"obs": np.full((9, 3), np.nan)}),
        ("allow_pickle=False", {"obs": np.array([{}], object)}),
        ("meta cannot be read", {"meta": np.array("{")}),
        ("meta must be a JSON object", {"meta": np.array("3")}),
        ("success must have one entry per episode (3), not shape (9,)", {"success": np.ones(9)}),
        ("the tag success must be numbers or true and false, not texts", {"success": np.array(["yes", "no", "yes"])}),
    ]
    for sentence, changes in cases:
        np.savez(path, **{"obs": obs, "action": action, "ends": ends, **changes})
        refuses(path, sentence)
    save_npz(labelled(), path)
    whole = path.read_bytes()
    for damaged in (b"", b"not a zip", whole[: len(whole) // 2], whole[:60] + bytes(20) + whole[80:]):
        path.write_bytes(damaged)
        refuses(path, "cannot be read: it is damaged")
    with pytest.raises(LWDError, match="is missing"):
        load_npz(tmp_path / "other.npz")


def test_npz_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "set.npz"
    save_npz(labelled(), path)
    before = path.read_bytes()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_npz(replace(labelled(), task=None), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["set.npz"]


def test_files_of_earlier_versions_call_the_kind_of_observation_obs(tmp_path: Path) -> None:
    obs, action, ends = arrays(18)
    declared = {"env": "pusht", "obs": "keypoints", "angles": [], "later": 1}
    np.savez(tmp_path / "old.npz", obs=obs, action=action, ends=ends, meta=np.array(json.dumps(declared)))
    root = zarr.open_group(str(write_zarr(tmp_path / "old.zarr", obs, action, ends)), mode="a")
    root.attrs["lwd_meta"] = declared
    for name in ("old.npz", "old.zarr"):
        assert (read(tmp_path / name).meta.env, read(tmp_path / name).meta.obs_kind) == ("pusht", "keypoints")
    root.attrs["lwd_meta"] = 3
    refuses(tmp_path / "old.zarr", "lwd_meta must be a JSON object")


def test_unknown_sources_say_what_is_expected(tmp_path: Path) -> None:
    refuses(tmp_path / "nothing", "no such file or directory")
    (tmp_path / "notes.txt").write_text("hello")
    refuses(tmp_path / "notes.txt", "not a known data format", "zarr", "LeRobot", ".npz", "owner/name", "embedded")
    refuses(tmp_path, "not a known data format")
    with pytest.raises(LWDError, match="there is embedded:pusht"):
        read("embedded:hopper")


def test_embedded_sets_are_listed_and_readable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def listed() -> dict[str, Any]:
        command.List(json=True)()
        return json.loads(capsys.readouterr().out)[0]

    episodes = read("embedded")
    assert (listed()["episodes"], listed()["steps"]) == (len(episodes), episodes.steps)
    assert listed()["megabytes"] < 2 and "synthetic" in listed()["description"]
    command.List()()
    assert "embedded:pusht" in capsys.readouterr().out
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    with pytest.raises(LWDError, match=r"pusht_synthetic.npz is missing.*lwd data collect pusht"):
        read("embedded")


def converted(source: Path | str, target: Path) -> Path:
    command.Convert(str(source), str(target))()
    return target


@pytest.mark.parametrize("name", ["out.npz", "out.zarr"])
def test_convert_loses_nothing(tmp_path: Path, name: str) -> None:
    episodes = labelled()
    save_npz(episodes, tmp_path / "in.npz")
    path = converted(tmp_path / "in.npz", tmp_path / "sub" / name)
    assert_equal(read(path), episodes)
    assert read(path).meta == episodes.meta
    assert [entry.name for entry in path.parent.iterdir()] == [name]  # no temporary files stay
    with pytest.raises(LWDError, match="exists"):
        converted(tmp_path / "in.npz", path)
    with pytest.raises(LWDError, match=r"must end in \.npz, \.zarr or \.hdf5"):
        converted("embedded", tmp_path / "out.h5")


def test_convert_keeps_steps_that_are_all_zero(tmp_path: Path) -> None:
    _, action, ends = arrays()
    np.savez(tmp_path / "in.npz", obs=np.zeros((9, 3)), action=action, ends=ends)
    assert not read(converted(tmp_path / "in.npz", tmp_path / "out.zarr")).obs.any()


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_npz(labelled(), tmp_path / "in.npz")

    def full_disk(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        converted(tmp_path / "in.npz", tmp_path / "out.zarr")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.npz"]


def test_show_prints_what_is_in_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    episodes = labelled()
    episodes.obs[:, 1] = 7.0
    save_npz(episodes, tmp_path / "set.npz")
    command.Show(str(tmp_path / "set.npz"), json=True)()
    description = json.loads(capsys.readouterr().out)
    assert description["fingerprint"] == episodes.fingerprint()
    assert (description["episodes"], description["steps"], description["obs_dim"], description["action_dim"]) == (3, 9, 5, 2)
    assert description["lengths"] == {"min": 2, "mean": 3.0, "max": 4}
    assert (description["obs"][4]["name"], description["action"][0]["name"]) == ("block angle", "target x")
    assert description["action"][1]["max"] == pytest.approx(episodes.action[:, 1].max())
    assert description["obs"][0]["std"] == pytest.approx(episodes.obs[:, 0].std())
    assert description["tasks"] == {"links": 2, "öffnen": 1}
    assert description["tags"]["operator"] == {"ann": 2, "bo": 1}
    command.Show(str(tmp_path / "set.npz"))()
    text = capsys.readouterr().out
    for word in ("operator", "ann", "block angle", "radians", "made for a test [bold], synthetic", "[0, 512]", episodes.fingerprint()):
        assert word in text
    assert [line.split()[3:5] for line in text.splitlines() if "constant" in line] == [["agent", "y"]]


def test_show_of_data_whose_environment_is_not_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_npz(replace(labelled(), meta=Meta("my_lab.arm")), tmp_path / "set.npz")
    command.Show(str(tmp_path / "set.npz"), json=True)()
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["obs"]] == list("01234")


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
        again = read(converted(HUMAN, tmp_path / name))
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
    for target in ("one.npz", "one.zarr"):
        again = read(converted(tmp_path / "set", tmp_path / target))
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
    with pytest.raises(LWDError, match=r"b\.npz cannot be read: it is damaged"):
        read(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LWDError, match=r"not a known data format; .*an \.npz file or a directory of them"):
        read(tmp_path / "empty")


def test_missing_metaworld_data_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LWDError, match="no such directory; make it:  lwd data collect metaworld --tasks mt10"):
        read("data/metaworld-mt10")
