"""robomimic's HDF5: files that other code wrote are read, ours have robomimic's layout, and every fault is answered by one sentence."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from conftest import assert_equal
from lwd.cli import main
from lwd.commands.data import Convert
from lwd.data.formats import robomimic
from lwd.data.read import read
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError, LWDWarning

KEYS = {"object": 10, "robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
OTHERS = {"robot0_joint_pos": 7, "robot0_eef_vel_lin": 3}
OPERATORS = ("better_operator_1", "okay_operator_2", "worse_operator_1")
ENV_ARGS = {"env_name": "Lift", "type": 1, "env_version": "1.5.1", "env_kwargs": {"robots": ["Panda"]}}


def make(path: Path, env_args: Any = ENV_ARGS, demos: int = 12) -> Path:
    """Lift in the layout of robomimic's sets of several humans. Demonstration i has 4 + i steps, and its observations are about i."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(4 + i for i in range(demos))
        data.attrs["env_args"] = env_args if isinstance(env_args, str) else json.dumps(env_args, indent=4)
        for i in range(demos):
            demo, steps = data.create_group(f"demo_{i}"), 4 + i
            demo.attrs["num_samples"], demo.attrs["model_file"] = steps, "<mujoco/>"
            for key, size in {**KEYS, **OTHERS}.items():
                demo[f"obs/{key}"] = i + rng.uniform(-0.1, 0.1, (steps, size))
            demo["actions"] = rng.uniform(-1, 1, (steps, 7))
            demo["rewards"] = np.arange(steps) == (steps - 1 if i % 4 else -1)
            demo["dones"], demo["states"] = np.zeros(steps, np.int64), rng.normal(size=(steps, 32))
        for number, name in enumerate(OPERATORS):
            file[f"mask/{name}"] = np.array([f"demo_{i}" for i in range(demos) if i % 3 == number], dtype="S")
        file["mask/train"] = np.array(["demo_0", "demo_10"], dtype="S")
    return path


def show(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    """Exit code, description, and standard error of `lwd data show`."""
    code = main(["data", "show", *words, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out or "null"), err


def test_a_file_of_robomimic_is_read_exactly_and_declared(tmp_path: Path) -> None:
    path = make(tmp_path / "low_dim.data")  # recognised by content
    episodes = read(path)
    with h5py.File(path) as file:
        for i, part in enumerate(np.split(episodes.obs, episodes.ends[:-1])):
            demo = file[f"data/demo_{i}"]
            np.testing.assert_array_equal(part, np.hstack([demo[f"obs/{key}"][()] for key in KEYS]).astype(np.float32))
        np.testing.assert_array_equal(episodes.action[-15:], demo["actions"][()].astype(np.float32))
    assert episodes.lengths.tolist() == list(range(4, 16)), "demo_10 comes after demo_9"
    assert episodes.meta == Meta("lift", "state", (), (-1.0,) * 7, (1.0,) * 7, "robomimic data set low_dim.data, Lift of robosuite 1.5.1")
    assert episodes.tags["operator"].tolist() == ["better-1", "okay-2", "worse-1"] * 4
    assert episodes.tags["proficiency"].tolist() == ["better", "okay", "worse"] * 4
    assert episodes.tags["success"].tolist() == [False, True, True, True] * 3
    assert np.flatnonzero(episodes.tags["mask_train"]).tolist() == [0, 10]
    assert set(episodes.tags) == {"operator", "proficiency", "success", "mask_train", *(f"mask_{name}" for name in OPERATORS)}


def test_observations_are_chosen_by_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path / "low_dim.hdf5")
    code, found, _ = show(capsys, str(path), "--obs-keys", "robot0_joint_pos,object")
    assert (code, found["obs_dim"], found["meta"]["obs_kind"], found["meta"]["env"]) == (0, 17, "robot0_joint_pos+object", "lift")
    assert read(path, obs_keys=tuple(KEYS)).meta.obs_kind == "state", "the usual keys are the usual observation"
    code, _, err = show(capsys, str(path), "--obs-keys", "object,cube")
    assert code == 2 and "demo_0/obs has no table cube; it has object, robot0_eef_pos, robot0_eef_quat" in err
    code, _, err = show(capsys, str(path), "--obs-keys", "robot0_eef_vel_lin")
    assert code == 2 and "lift has no observation 'robot0_eef_vel_lin'" in err


@pytest.mark.parametrize("recorded", ["1.4.1", "", None])
def test_another_version_of_the_simulator_is_one_line(recorded: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env_args = {name: value for name, value in {**ENV_ARGS, "env_version": recorded}.items() if value is not None}
    code, found, err = show(capsys, str(make(tmp_path / "old.hdf5", env_args)))
    assert code == 0 and found["meta"]["env"] == "lift"
    assert err.startswith("lwd: ") and err.count("\n") == 1
    assert f"was recorded with robosuite {recorded or 'of some version'}" in err and "the simulator here is 1.5" in err
    with pytest.warns(LWDWarning, match="robosuite"):
        episodes = read(tmp_path / "old.hdf5")
    robomimic.write(episodes, tmp_path / "copy.hdf5")
    with h5py.File(tmp_path / "copy.hdf5") as file:
        assert json.loads(file["data"].attrs["env_args"])["env_version"] == (recorded or "1.5")


@pytest.mark.parametrize(("env_args", "said"), [({"env_name": "Wipe"}, "Wipe"), ({"env_name": "Hopper-v2", "type": 2}, "Hopper-v2")])
def test_an_environment_that_is_not_here_leaves_data_to_train_on(env_args: dict[str, Any], said: str, tmp_path: Path) -> None:
    meta = read(make(tmp_path / "other.hdf5", env_args)).meta
    assert meta.env is None and said in meta.description
    with h5py.File(tmp_path / "other.hdf5", "a") as file:
        del file["data"].attrs["env_args"]
        for i in range(12):
            del file[f"data/demo_{i}/obs/robot0_eef_pos"]
    episodes = read(tmp_path / "other.hdf5")
    assert "names no environment" in episodes.meta.description and episodes.obs.shape[1] == 10 + 4 + 2 + 7 + 3, "every table there is"


def tagged() -> Episodes:
    rng = np.random.default_rng(1)
    ends = np.array([3, 5, 9, 12])
    tags = {
        "operator": np.array(["okay-1", "better-2", "okay-1", "worse-1"]),
        "proficiency": np.array(["okay", "better", "okay", "worse"]),
        "success": np.array([True, False, True, True]),
        "seed": np.array([7, 2**40, 5, 0]),
        "mask_train": np.array([True, True, False, False]),
        "speed": np.array([0.1, 1 / 3, 2.5, -1.0]),
    }
    task = np.array(["links", "öffnen", "links", "a/b"])
    meta = Meta("lift", "state", (), (-1.0,) * 7, (1.0,) * 7, "synthetic")
    return Episodes(rng.normal(size=(12, 19)), rng.uniform(-1, 1, (12, 7)), ends, task, tags, meta)


def test_what_is_written_has_the_layout_of_robomimic_and_loses_nothing(tmp_path: Path) -> None:
    episodes, path = tagged(), tmp_path / "new" / "set.hdf5"
    robomimic.write(episodes, path)
    assert_equal(read(path), episodes)
    assert [file.name for file in path.parent.iterdir()] == ["set.hdf5"]
    with h5py.File(path) as file:
        data, demo = file["data"], file["data/demo_2"]
        assert list(data) == [f"demo_{i}" for i in range(4)] and data.attrs["total"] == 12
        args = json.loads(data.attrs["env_args"])
        assert (args["env_name"], args["type"], args["env_version"][:3]) == ("Lift", 1, "1.5")
        assert demo.attrs["num_samples"] == 4 and set(demo["obs"]) == set(KEYS)
        np.testing.assert_array_equal(np.hstack([demo[f"obs/{key}"][()] for key in KEYS]), episodes.obs[5:9])
        np.testing.assert_array_equal(demo["next_obs/object"][:-1], demo["obs/object"][1:])
        np.testing.assert_array_equal(demo["actions"], episodes.action[5:9])
        assert demo["rewards"][()].tolist() == [0, 0, 0, 1] and demo["dones"][()].tolist() == [0, 0, 0, 1]
        masks = {name: [member.decode() for member in members] for name, members in file["mask"].items()}
    wanted = {"okay_operator_1": [0, 2], "better_operator_2": [1], "worse_operator_1": [3], "okay": [0, 2], "better": [1], "worse": [3]}
    wanted |= {"success": [0, 2, 3], "train": [0, 1]}
    assert masks == {name: [f"demo_{i}" for i in members] for name, members in wanted.items()}
    with h5py.File(path, "a") as file:
        del file["lwd"]  # as when robomimic's scripts have written the file anew
    tags = read(path).tags
    for name in ("operator", "proficiency", "success", "mask_train"):
        assert tags[name].tolist() == episodes.tags[name].tolist()


def test_observations_without_keys_are_flat(tmp_path: Path) -> None:
    episodes = Episodes(np.arange(12.0).reshape(6, 2), np.ones((6, 1)), np.array([2, 6]))
    robomimic.write(episodes, tmp_path / "set.hdf5")
    assert_equal(read(tmp_path / "set.hdf5"), episodes)
    with h5py.File(tmp_path / "set.hdf5") as file:
        assert file["data/demo_1/obs/flat"].shape == (4, 2)


# --- what is refused -------------------------------------------------------------------------------------------------------------------


def edit(change: Callable[[Any], Any]) -> Callable[[Path], Any]:
    """Damage to the open file."""

    def damage(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file)

    return damage


def put(key: str, values: Any) -> Callable[[Path], Any]:
    """Damage to one table or group; None removes it."""

    def change(file: Any) -> None:
        del file[key]
        if values is not None:
            file[key] = values

    return edit(change)


def say(text: Any) -> Callable[[Path], Any]:
    """Another text in the attribute env_args."""
    return edit(lambda file: file["data"].attrs.__setitem__("env_args", text))


def cut(share: float) -> Callable[[Path], Any]:
    """The file is cut off."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def ragged(file: Any) -> None:
    """A table of lists of different lengths, which numpy can only hold as objects."""
    del file["data/demo_0/actions"]
    file["data/demo_0"].create_dataset("actions", (4, 7), h5py.vlen_dtype(float))


SPIKE = np.zeros((4, 10))
SPIKE[2, 3] = np.nan
PICKLED = np.full((4, 7), np.void(pickle.dumps({"a": 1})))
CAN = json.dumps({**ENV_ARGS, "env_name": "PickPlaceCan"})
NO_JSON = "env_args of data is not a JSON object"
FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{f"cut off at {share}": (cut(share), "cannot be read: it is damaged") for share in (0, 0.0001, *np.linspace(0.1, 0.8, 8), 0.9999)},
    "env_args is cut off": (say(json.dumps(ENV_ARGS)[:20]), NO_JSON),
    "env_args is a list": (say("[1]"), NO_JSON),
    "env_args is a number": (say(3), NO_JSON),
    "env_args without a name": (say("{}"), NO_JSON),
    "env_args with a list of types": (say('{"env_name": "Lift", "type": [1]}'), NO_JSON),
    "env_args of another task": (say(CAN), "object has 10 values, but 14 in PickPlaceCan"),
    "no data": (put("data", None), "there are no demonstrations in it (at its root: mask); robomimic's files have"),
    "data is a table": (put("data", np.zeros(3)), "there are no demonstrations"),
    "no obs": (put("data/demo_0/obs", None), "demo_0 has no obs: extract observations"),
    "obs is a table": (put("data/demo_0/obs", np.zeros((4, 19))), "cannot be read"),
    "no obs in one": (put("data/demo_3/obs", None), "data/demo_3/obs has no table object; it has nothing"),
    "no actions": (put("data/demo_3/actions", None), "data/demo_3 has no table actions; it has dones, obs, rewards"),
    "a key is missing": (put("data/demo_3/obs/object", None), "data/demo_3/obs has no table object; it has robot0_eef_pos"),
    "dimensions differ": (put("data/demo_5/obs/object", np.zeros((9, 14))), "demo_5/obs/object has 14 values a step, but demo_0/obs"),
    "lengths differ": (put("data/demo_5/actions", np.zeros((3, 7))), "demo_5 has tables of different lengths"),
    "NaN": (put("data/demo_0/obs/object", SPIKE), "obs is nan at episode 0, step 2, dimension 3"),
    "outside the range": (put("data/demo_0/actions", np.full((4, 7), 3.0)), "outside its declared range"),
    "one dimension": (put("data/demo_0/actions", np.zeros(4)), "demo_0/actions must have two dimensions"),
    "text": (put("data/demo_0/actions", np.full((4, 7), b"abc")), "demo_0/actions must hold numbers"),
    "pickles in it": (put("data/demo_0/actions", PICKLED), "demo_0/actions must hold numbers"),
    "objects in it": (edit(ragged), "demo_0/actions must hold numbers, not object"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps({"data": 1})), "cannot be read: it is damaged, incomplete, pickled"),
    "subsets are numbers": (put("mask/train", np.arange(3)), "cannot be read"),
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("robomimic") / "set.hdf5")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence_and_leaves_nothing(fault: str, intact: Path, tmp_path: Path) -> None:
    damage, sentence = FAULTS[fault]
    path = tmp_path / "set.hdf5"
    shutil.copy(intact, path)
    damage(path)
    with pytest.raises(LWDError) as caught:
        Convert(str(path), str(tmp_path / "out" / "copy.npz"))()
    assert str(caught.value).startswith(str(path)) and sentence in str(caught.value) and "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.hdf5"]


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        robomimic.write(tagged(), tmp_path / "set.hdf5")
    assert not list(tmp_path.iterdir())


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "set.hdf5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(LWDError, match=r"set.hdf5: HDF5 files need h5py: pip install \"latent-weight-diffusion\[hdf5\]\""):
        read(path)
    with pytest.raises(LWDError, match=r"latent-weight-diffusion\[hdf5\]"):
        robomimic.write(tagged(), tmp_path / "new.hdf5")
