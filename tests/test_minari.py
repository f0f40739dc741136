"""Minari: data sets that its own collector made are read, its own library loads ours, and every fault is answered by one sentence."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from torch.utils import _pytree

from conftest import assert_equal
from lwd.cli import main
from lwd.commands.data import Convert
from lwd.data.formats import minari as form
from lwd.data.read import read
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError

LENGTHS = (6, 1, 4)


class Reach(gymnasium.Env):
    """Observations with keys, as those of gymnasium-robotics; one of them is a picture."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    sizes: ClassVar[dict[str, tuple[int, ...]]] = {"observation": (4,), "achieved_goal": (2,), "desired_goal": (2,), "picture": (3, 3)}

    def __init__(self) -> None:
        self.observation_space = Dict({key: Box(-np.inf, np.inf, size, np.float64) for key, size in self.sizes.items()})
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        return self.seen(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        return self.seen(), 0.5, False, False, {}

    def seen(self) -> dict[str, Any]:
        return {key: self.np_random.normal(size=size) for key, size in self.sizes.items()}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Minari's root directory."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def collect(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[Any], list[Any]]]:
    """Records episodes of `LENGTHS` with Minari's collector; returns the observations, one more than actions, and the actions."""
    module: Any = types.ModuleType("jax")  # the collector appends to lists with the one function `tree_map` of jax; torch has it, too
    module.tree_util = _pytree
    monkeypatch.setitem(sys.modules, "jax", module)
    monkeypatch.setitem(sys.modules, "jax.tree_util", _pytree)

    def record(env: gymnasium.Env, name: str, data_format: str = "hdf5") -> tuple[list[Any], list[Any]]:
        seen, done = [], []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Minari recommends authors, addresses and links
            collector = minari.DataCollector(env, data_format=data_format)
            for seed, length in enumerate(LENGTHS):
                collector.action_space.seed(seed)
                seen.append([collector.reset(seed=seed)[0]])
                done.append([collector.action_space.sample() for _ in range(length)])
                seen[-1] += [collector.step(action)[0] for action in done[-1]]
            collector.create_dataset(name)
            collector._tmp_dir.cleanup()  # its `close` leaves that to the garbage collector
        return seen, done

    return record


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_what_minari_has_collected_is_read_exactly_and_declared(collect: Callable[..., Any], root: Path, data_format: str) -> None:
    seen, done = collect(gymnasium.make("Pendulum-v1"), "pendulum/test-v0", data_format)
    episodes = read("minari:pendulum/test-v0")
    np.testing.assert_array_equal(episodes.obs, np.concatenate([seen[0][:-1], seen[2][:-1]]))
    np.testing.assert_array_equal(episodes.action, np.concatenate([done[0], done[2]]))
    assert episodes.lengths.tolist() == [6, 4], "the episode of one step is left out"
    assert episodes.tags["seed"].tolist() == [0, 2] and set(episodes.tags) == {"seed", "return"}
    rewards = [episode.rewards.sum() for episode in minari.load_dataset("pendulum/test-v0")]
    np.testing.assert_allclose(episodes.tags["return"], [rewards[0], rewards[2]])
    assert episodes.meta == Meta("gymnasium:Pendulum-v1", "state", (), (-2.0,), (2.0,), "Minari data set pendulum/test-v0")
    assert read(root / "pendulum" / "test-v0").fingerprint() == episodes.fingerprint(), "by path, too"
    with pytest.raises(LWDError, match="without keys to choose from: leave out --obs-keys"):
        read("minari:pendulum/test-v0", obs_keys=("observation",))


def test_observations_are_chosen_by_key(collect: Callable[..., Any]) -> None:
    seen, _ = collect(Reach(), "reach/test-v0")
    episodes = read("minari:reach/test-v0")
    assert episodes.meta.obs_kind == "achieved_goal+desired_goal+observation" and episodes.meta.env is None
    chosen = read("minari:reach/test-v0", obs_keys=("observation", "achieved_goal"))
    assert chosen.meta.obs_kind == "observation+achieved_goal"
    expected = [np.concatenate([step["observation"], step["achieved_goal"]]) for e in (0, 2) for step in seen[e][:-1]]
    np.testing.assert_array_equal(chosen.obs, np.float32(expected))
    with pytest.raises(LWDError, match="no observation picture, goal that is a vector, but achieved_goal, desired_goal, observation"):
        read("minari:reach/test-v0", obs_keys=("picture", "observation", "goal"))


def tagged(env: str | None = "gymnasium:Pendulum-v1") -> Episodes:
    rng = np.random.default_rng(1)
    tags = {
        "seed": np.array([7, 2**40, 5]),
        "success": np.array([True, False, True]),
        "operator": np.array(["ann", "bö", "ann"]),
        "speed": np.array([0.1, 1 / 3, 2.5]),
    }
    task, meta = np.array(["links", "öffnen", "links"]), Meta(env, "state", (), (-2.0,), (2.0,), "synthetic")
    return Episodes(rng.normal(size=(9, 3)), rng.uniform(-2, 2, (9, 1)), np.array([2, 5, 9]), task, tags, meta)


def test_minari_loads_what_is_written_and_nothing_is_lost(root: Path) -> None:
    episodes = tagged()
    form.write(episodes, form.place("lwd/pendulum/test-v3"))
    assert_equal(read("minari:lwd/pendulum/test-v3"), episodes)
    assert minari.list_local_datasets().keys() == {"lwd/pendulum/test-v3"}
    whole = minari.load_dataset("lwd/pendulum/test-v3")
    assert (whole.total_episodes, whole.total_steps) == (3, 9) and whole.recover_environment().spec.id == "Pendulum-v1"
    for part, start, end in zip(whole, episodes.starts, episodes.ends, strict=True):
        np.testing.assert_array_equal(part.observations, np.concatenate([episodes.obs[start:end], episodes.obs[end - 1 : end]]))
        np.testing.assert_array_equal(part.actions, episodes.action[start:end])
        assert part.truncations.tolist() == [False] * (end - start - 1) + [True] and not part.terminations.any()
    assert [part.rewards.sum() for part in whole] == [1, 0, 1]
    assert "repeated" in whole.storage.metadata["description"] and "synthetic" in whole.storage.metadata["description"]
    assert [entry["operator"] for entry in whole.storage.get_episode_metadata([0, 1])] == ["ann", "bö"]
    assert {path.name for path in root.iterdir()} == {"lwd"} and os.environ["MINARI_DATASETS_PATH"] == str(root)


def test_convert_writes_by_name(root: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", obs=np.arange(12.0).reshape(6, 2), action=np.ones((6, 1)), ends=[2, 6])
    Convert(str(tmp_path / "a.npz"), "minari:own/plain-v0")()
    assert read("minari:own/plain-v0").fingerprint() == read(tmp_path / "a.npz").fingerprint()
    Convert("minari:own/plain-v0", "own/again-v0", to="minari")()
    assert read("minari:own/again-v0").fingerprint() == read(tmp_path / "a.npz").fingerprint()
    for name, sentence in {"minari:own/plain-v0": "exists", "minari:../plain-v0": "is not the id", "minari:plain": "is not the id"}.items():
        with pytest.raises(LWDError, match=sentence):
            Convert(str(tmp_path / "a.npz"), name)()


def test_a_failed_conversion_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("minari.dataset._storages.hdf5_storage.HDF5Storage.update_episodes", full_disk)
    with pytest.raises(OSError, match="no space"):
        form.write(tagged(), form.place("lwd/pendulum/test-v3"))
    assert not list(root.iterdir()) and os.environ["MINARI_DATASETS_PATH"] == str(root)


# --- what is refused -------------------------------------------------------------------------------------------------------------------


def table(key: str, values: Any) -> Callable[[Path], Any]:
    """Damage to a table of the first episode; None removes it."""

    def damage(data: Path) -> None:
        with h5py.File(data / "main_data.hdf5", "a") as file:
            del file[f"episode_0/{key}"]
            if values is not None:
                file[f"episode_0/{key}"] = values

    return damage


def record(**changes: Any) -> Callable[[Path], Any]:
    """Damage to the meta data; None removes an entry."""

    def damage(data: Path) -> None:
        found = json.loads((data / "metadata.json").read_text()) | changes
        (data / "metadata.json").write_text(json.dumps({key: value for key, value in found.items() if value is not None}))

    return damage


def cut(share: float) -> Callable[[Path], Any]:
    """The file of all steps is cut off."""

    def damage(data: Path) -> None:
        whole = (data / "main_data.hdf5").read_bytes()
        (data / "main_data.hdf5").write_bytes(whole[: int(share * len(whole))])

    return damage


SPIKE = np.zeros((3, 3))
SPIKE[1, 2] = np.nan
PICKLED = np.full((2, 1), np.void(pickle.dumps({"a": 1})))
SYSTEM = json.dumps({"id": "X-v0", "entry_point": "os:system", "kwargs": {"command": "touch hacked"}, "additional_wrappers": []})
FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{f"cut off at {share}": (cut(share), "cannot be read: it is damaged") for share in (0, *np.linspace(0.01, 0.99, 9))},
    "no tables": (lambda data: (data / "main_data.hdf5").unlink(), "cannot be read: it is damaged"),
    "no meta data": (lambda data: (data / "metadata.json").unlink(), "metadata.json is missing: the copy is incomplete"),
    "garbled meta data": (lambda data: (data / "metadata.json").write_text("{"), "metadata.json cannot be read"),
    "no spaces, but a command": (record(observation_space=None, env_spec=SYSTEM), "metadata.json declares no observation_space"),
    "a garbled space": (record(action_space="Box"), "cannot be read"),
    "an unknown storage": (record(data_format="pickle"), "cannot be read"),
    "discrete actions": (record(action_space='{"type": "Discrete", "n": 3, "start": 0}'), "its actions are not vectors of numbers"),
    "a garbled specification": (record(env_spec="{"), "cannot be read"),
    "a specification without name": (record(env_spec="[]"), "cannot be read"),
    "another count": (record(total_episodes=4), "cannot be read"),
    "no episodes": (record(total_episodes=0), "there is no episode of two steps or more in it"),
    "no observations": (table("observations", None), "cannot be read"),
    "no actions": (table("actions", None), "cannot be read"),
    "an observation too few": (table("observations", np.zeros((2, 3))), "observations of episode 0 has 2 rows, but there are 2 actions"),
    "dimensions differ": (table("observations", np.zeros((3, 7))), "observations of episode 0 has 7 values a step, but its space 3"),
    "NaN": (table("observations", SPIKE), "obs is nan at episode 0, step 1, dimension 2"),
    "text": (table("actions", np.full((2, 1), b"abc")), "actions must hold numbers"),
    "pickles in it": (table("actions", PICKLED), "actions must hold numbers"),
    "a pickle": (
        lambda data: (data / "main_data.hdf5").write_bytes(pickle.dumps({})),
        "cannot be read: it is damaged, incomplete, pickled",
    ),
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("minari")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        form.write(tagged(), form.place("intact-v0"))
    return folder / "intact-v0"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence_and_leaves_nothing(
    fault: str, intact: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, sentence = FAULTS[fault]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(intact, root / "set-v0")
    damage(root / "set-v0" / "data")
    with pytest.raises(LWDError) as caught:
        Convert("minari:set-v0", str(tmp_path / "out" / "copy.npz"))()
    assert "set-v0" in str(caught.value) and sentence in str(caught.value) and "\n" not in str(caught.value), str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["root"] and [entry.name for entry in root.iterdir()] == ["set-v0"]


def test_a_data_set_that_is_not_there(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", "minari:D4RL/door/human-v2"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("lwd: minari:D4RL/door/human-v2: there is no ") and "add --download" in err and err.count("\n") == 1
    assert not root.exists()

    def offline(name: str) -> None:
        print("Downloading")
        (form.place(name) / "data").mkdir(parents=True)
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr("minari.download_dataset", offline)
    assert main(["data", "show", "minari:D4RL/door/human-v2", "--download", "--json"]) == 2
    out, err = capsys.readouterr()
    assert err.endswith("lwd: minari:D4RL/door/human-v2: cannot be downloaded (ConnectionError: no network at all)\n") and not out
    assert not list(root.iterdir())
    monkeypatch.setattr("minari.download_dataset", lambda name: form.write(tagged(), form.place(name)))
    assert_equal(read("minari:D4RL/door/human-v2", download=True), tagged())
    assert {path.name for path in root.iterdir()} == {"D4RL"}


@pytest.mark.parametrize("library", ["minari", "h5py"])
def test_without_its_library_the_extra_is_named(library: str, intact: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(LWDError, match=r"intact-v0: data sets of Minari need its library .*latent-weight-diffusion\[minari\]"):
        read(intact)
    with pytest.raises(LWDError, match=r"latent-weight-diffusion\[minari\]"):
        form.write(tagged(), form.place("new-v0"))
