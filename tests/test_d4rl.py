"""D4RL's HDF5: episodes are cut where they end, what is written has D4RL's layout, and every fault is answered by one sentence."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lwd.cli import main
from lwd.commands.data import Convert
from lwd.data.formats import d4rl
from lwd.data.read import read
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError, LWDWarning

STEPS = 20


def tables() -> dict[str, Any]:
    """As in D4RL's files: an episode that ends at a terminal, one at a timeout, one of one step, and one that the file cuts off."""
    rng, rows = np.random.default_rng(0), np.arange(STEPS)
    return {
        "observations": rng.normal(size=(STEPS, 5)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (STEPS, 2)).astype(np.float32),
        "rewards": rows.astype(np.float32),
        "terminals": (rows == 4) | (rows == 12),
        "timeouts": rows == 11,
        "next_observations": np.zeros((STEPS, 5), np.float32),
        "infos/qpos": np.zeros((STEPS, 9)),
        "metadata/algorithm": b"SAC",
    }


def make(path: Path, **changes: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in {**tables(), **changes}.items():
            if values is not None:
                file[name] = values
    return path


def test_episodes_end_at_terminals_and_timeouts(tmp_path: Path) -> None:
    path, own = make(tmp_path / "halfcheetah.data"), tables()
    episodes = read(path)
    kept = np.delete(np.arange(STEPS), 12)
    np.testing.assert_array_equal(episodes.obs, own["observations"][kept])
    np.testing.assert_array_equal(episodes.action, own["actions"][kept])
    assert episodes.lengths.tolist() == [5, 7, 7] and episodes.tags.keys() == {"return"}
    assert episodes.tags["return"].tolist() == [sum(range(5)), sum(range(5, 12)), sum(range(13, 20))]
    assert episodes.meta == Meta(description="D4RL data set halfcheetah.data"), "the file names no environment"


def test_the_first_files_have_no_timeouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path / "old.hdf5", timeouts=None, terminals=tables()["terminals"].astype(float)[:, None], rewards=None)
    with pytest.warns(LWDWarning, match=r"old.hdf5 has no timeouts: it is cut at terminals alone"):
        episodes = read(path)
    assert episodes.lengths.tolist() == [5, 8, 7] and not episodes.tags
    assert main(["data", "show", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["episodes"] == 3 and err.startswith("lwd: ") and err.count("\n") == 1


@pytest.mark.parametrize("score", ["return", "success"])
def test_what_is_written_has_the_layout_of_d4rl_and_loses_nothing(tmp_path: Path, score: str) -> None:
    rng = np.random.default_rng(1)
    tags = {score: np.array([2.5, 1.0]) if score == "return" else np.array([True, False]), "operator": np.array(["ann", "bö"])}
    meta = Meta("pusht", "state", (4,), (0.0, 0.0), (512.0, 512.0), "synthetic")
    episodes = Episodes(rng.normal(size=(7, 5)), rng.uniform(0, 1, (7, 2)), np.array([3, 7]), np.array(["a", "b"]), tags, meta)
    np.savez(tmp_path / "source.npz", obs=episodes.obs, action=episodes.action, ends=episodes.ends)
    d4rl.write(episodes, tmp_path / "set.hdf5")
    again = read(tmp_path / "set.hdf5")
    for name in ("obs", "action", "ends", "task"):
        np.testing.assert_array_equal(getattr(again, name), getattr(episodes, name))
    assert again.meta == meta and {name: values.tolist() for name, values in again.tags.items()} == {k: v.tolist() for k, v in tags.items()}
    with h5py.File(tmp_path / "set.hdf5") as file:
        assert {"observations", "actions", "rewards", "terminals", "timeouts"} <= set(file) and file["terminals"].dtype == bool
        assert np.flatnonzero(file["timeouts"][()]).tolist() == [2, 6] and not file["terminals"][()].any()
        assert file["rewards"][()].tolist() == [0, 0, float(tags[score][0]), 0, 0, 0, float(tags[score][1])]
    Convert(str(tmp_path / "source.npz"), str(tmp_path / "copy.hdf5"), to="d4rl")()
    assert read(tmp_path / "copy.hdf5").fingerprint() == read(tmp_path / "source.npz").fingerprint()
    with pytest.raises(LWDError, match="without keys to choose from"):
        read(tmp_path / "copy.hdf5", obs_keys=("observations",))


PICKLED = np.full((STEPS, 2), np.void(pickle.dumps({"a": 1})))
SPIKE = tables()["observations"]
SPIKE[6, 3] = np.inf
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no ends": ({"terminals": np.zeros(STEPS), "timeouts": None}, "nothing says where episodes end (terminals are all false)"),
    "no true ends": ({"terminals": np.zeros(STEPS), "timeouts": np.zeros(STEPS)}, "(terminals and timeouts are all false): add timeouts"),
    "no terminals": ({"terminals": None}, "the file has no table terminals; it has actions, infos, metadata"),
    "no actions": ({"actions": None}, "the file has no table actions; it has infos"),
    "no observations": ({"observations": None}, "the file has no table observations"),
    "too few actions": ({"actions": np.zeros((STEPS - 1, 2))}, "actions has 19 steps but observations has 20"),
    "too few rewards": ({"rewards": np.zeros(3)}, "rewards has 3 steps but observations has 20"),
    "images": ({"observations": np.zeros((STEPS, 8, 8, 3))}, "observations must have two dimensions"),
    "text": ({"actions": np.full((STEPS, 2), b"abc")}, "actions must hold numbers"),
    "pickles in it": ({"actions": PICKLED}, "actions must hold numbers"),
    "infinite": ({"observations": SPIKE}, "obs is inf at episode 1, step 1, dimension 3"),
    "ours, but damaged": ({"lwd": '{"meta": {"env": 3}, "task": null, "tags": {}}'}, "Meta.env cannot be 3"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence_and_leaves_nothing(fault: str, tmp_path: Path) -> None:
    changes, sentence = FAULTS[fault]
    path = make(tmp_path / "set.hdf5", **changes)
    with pytest.raises(LWDError) as caught:
        Convert(str(path), str(tmp_path / "out" / "copy.npz"))()
    assert str(caught.value).startswith(f"{path}: ") and sentence in str(caught.value) and "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.hdf5"]


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "set.hdf5")
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 10).astype(int):
        path.write_bytes(whole[:size])
        with pytest.raises(LWDError, match=r"set.hdf5 cannot be read: it is damaged, incomplete"):
            read(path)
