"""Collecting demonstrations: what is in the files, extending, failures, noise, and replay to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest

from lwd.cli import main
from lwd.data import collect as engine
from lwd.data.formats.npz import load_npz
from lwd.data.read import read
from lwd.envs.base import EnvFamily, family
from lwd.episodes import Episodes, Meta
from lwd.errors import LWDError

needs_metaworld = pytest.mark.skipif(find_spec("metaworld") is None, reason="needs the extra metaworld")


class Toy(EnvFamily):
    """A family of three tasks without a simulator: its expert says what happens."""

    name: ClassVar[str] = __name__
    tasks: ClassVar[tuple[str, ...]] = ("reach", "push", "lift")
    task_sets: ClassVar[dict[str, tuple[str, ...]]] = {"two": ("reach", "lift")}
    action_low: ClassVar[tuple[float, ...]] = (-1.0,)
    action_high: ClassVar[tuple[float, ...]] = (1.0,)
    expert: ClassVar[str] = __name__

    def make(self, obs_kind: str, task: str | None = None) -> gymnasium.Env:
        raise NotImplementedError


FAMILY = Toy()
DONE: list[tuple[str, int]] = []  # attempts that were made


@dataclass(frozen=True)
class Expert:
    """It fails under every third seed, and always at "push"."""

    noise: float = 0.0
    keep_failures: bool = False
    batch: ClassVar[int] = 2

    def check(self, seed: int, most: int) -> None:
        pass

    def meta(self, seed: int) -> Meta:
        return FAMILY.meta("state", f"synthetic: toy, seed {seed}, noise {self.noise:g}, {self.keep_failures}")

    def number(self, tags: dict[str, Any], seed: int) -> int:
        return int(tags["seed"][-1]) - seed

    def attempts(self, task: str, seed: int, numbers: range) -> Iterator[tuple[Episodes, bool]]:
        for number in numbers:
            DONE.append((task, number))
            good = (seed + number) % 3 != 2 and task != "push"
            tags = {"seed": np.array([seed + number]), "success": np.array([good]), "final_success": np.array([good and number % 2 == 0])}
            obs = np.full((2 + number % 3, 1), number)
            yield Episodes(obs, obs / 1e6, np.array([len(obs)]), np.array([task]), tags, self.meta(seed)), good or self.keep_failures


def collect(out: Path, tasks: str = "reach", episodes: int = 2, env: str = FAMILY.name, **changes: Any) -> list[dict[str, Any]]:
    DONE.clear()
    return engine.collect(env, out, tasks=tasks.split(","), episodes=episodes, **{"workers": 1, "progress": False, **changes})


def metaworld(out: Path, tasks: str = "reach", episodes: int = 2, **changes: Any) -> list[dict[str, Any]]:
    return collect(out, tasks, episodes, "metaworld", **changes)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_finished_files_are_kept_and_extended(tmp_path: Path) -> None:
    collect(tmp_path / "a", "reach,lift", 4)
    (tmp_path / "a" / "reach.npz").unlink()
    collect(tmp_path / "a", "reach,lift", 4)
    assert {task for task, _ in DONE} == {"reach"} and sorted(files(tmp_path / "a")) == ["lift.npz", "reach.npz"]
    extended = collect(tmp_path / "a", "two", 9)
    assert min(number for _, number in DONE) > 4
    assert extended[0]["attempts"] == 13 and extended[0]["success"] == pytest.approx(9 / 13)
    assert extended[0]["final_success"] == pytest.approx(5 / 9)
    collect(tmp_path / "b", "two", 9, workers=2)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert load_npz(tmp_path / "a" / "reach.npz").tags["seed"].tolist() == [0, 1, 3, 4, 6, 7, 9, 10, 12]
    collect(tmp_path / "a", "two", 9)
    assert not DONE


def test_recipes_are_not_mixed(tmp_path: Path) -> None:
    collect(tmp_path, "two", 2)
    before = files(tmp_path)
    for changes in ({"noise": 0.1}, {"seed": 1}, {"keep_failures": True}):
        with pytest.raises(LWDError, match=r"lift.npz holds other data \(synthetic.*\), not synthetic.*--fresh"):
            collect(tmp_path, "two", 2, **changes)
    with pytest.raises(LWDError, match="holds 2 episodes, more than the 1 asked for"):
        collect(tmp_path, "reach", 1)
    with pytest.raises(LWDError, match=r"lift.npz holds other data .*choose another place$"):
        collect(tmp_path, "reach", 2, noise=0.1, fresh=True)
    assert files(tmp_path) == before
    collect(tmp_path, "two", 2, noise=0.1, fresh=True)
    assert "noise 0.1" in read(tmp_path).meta.description


def test_failures(tmp_path: Path) -> None:
    (row,) = collect(tmp_path / "kept", "reach", 6, keep_failures=True)
    assert (row["attempts"], row["success"]) == (6, pytest.approx(4 / 6))
    assert load_npz(tmp_path / "kept" / "reach.npz").tags["success"].tolist() == [True, True, False, True, True, False]
    with pytest.raises(LWDError, match=r"the expert fails in most attempts at push: leave that out"):
        collect(tmp_path / "out", "reach,push,lift", 50)
    assert sorted(files(tmp_path / "out")) == ["lift.npz", "reach.npz"]
    assert max(number for task, number in DONE if task == "push") < 30  # it is not tried to the end


def test_nonsense_is_refused(tmp_path: Path) -> None:
    for match, changes in {
        "has no task 'raech'": {"tasks": "raech"},
        "episodes must be at least 1": {"episodes": 0},
        "workers must be at least 1": {"workers": 0},
    }.items():
        with pytest.raises(LWDError, match=match):
            collect(tmp_path / "never", **changes)  # type: ignore[arg-type]
    assert not (tmp_path / "never").exists()
    (tmp_path / "file").touch()
    with pytest.raises(LWDError, match="is a file"):
        collect(tmp_path / "file")
    with pytest.raises(LWDError, match="say which tasks: names, or one of two"):
        engine.collect(FAMILY.name, tmp_path / "never")


def replay(episodes: Episodes, episode: int, noise: float = 0.0) -> np.ndarray:
    """Observations when the recorded actions are carried out again from the recorded seed, in an environment of its own."""
    known = family("metaworld")
    env = known.make("state", str(episodes.task[episode]))  # type: ignore[index]
    env = known.disturb(env, f"action-noise:{noise}", "state") if noise else env
    obs = [env.reset(seed=int(known.seeds(episodes)[episode]))[0]]  # type: ignore[index]
    for action in episodes.action[episodes.starts[episode] : episodes.ends[episode] - 1]:
        obs.append(env.step(action)[0])
    return np.array(obs, np.float32)


@needs_metaworld
def test_metaworld_files_and_replay(tmp_path: Path) -> None:
    rows = metaworld(tmp_path / "one", "reach,door-open-v3", seed=7)
    assert [row["task"] for row in rows] == ["reach", "door-open"]
    assert all((row["episodes"], row["attempts"], row["success"]) == (2, 2, 1.0) for row in rows)
    data = read(tmp_path / "one")
    assert data.task.tolist() == ["door-open"] * 2 + ["reach"] * 2 and (data.lengths == 500).all()  # type: ignore[union-attr]
    assert data.meta == family("metaworld").meta("state", data.meta.description)
    assert data.meta.description.startswith("synthetic: scripted expert of Metaworld 3.1.1, seeds from 7, noise 0")
    assert data.tags["seed"].tolist() == [7, 8, 7, 8] and data.tags["seed"].dtype == np.int64
    assert data.tags["success"].all() and not data.tags["noise"].any() and len(data.tags["final_success"]) == 4
    assert np.abs(data.action).max() == 1.0
    for episode in (1, 2):
        np.testing.assert_array_equal(replay(data, episode), data.obs[data.starts[episode] : data.ends[episode]])
    metaworld(tmp_path / "two", "reach,door-open", seed=7, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


@needs_metaworld
def test_metaworld_noise_is_executed_and_not_recorded(tmp_path: Path) -> None:
    for noise in (0.0, 0.3):
        metaworld(tmp_path / f"{noise}", "button-press", episodes=1, seed=3, noise=noise, keep_failures=True)
    clean, noisy = (load_npz(tmp_path / f"{noise}" / "button-press.npz") for noise in (0.0, 0.3))
    np.testing.assert_array_equal(clean.obs[0], noisy.obs[0])
    np.testing.assert_array_equal(clean.action[0], noisy.action[0])  # of the same observation
    assert np.abs(clean.obs - noisy.obs).max() > 0.01
    assert noisy.tags["noise"].tolist() == [0.3]
    np.testing.assert_array_equal(replay(noisy, 0, 0.3), noisy.obs)


@needs_metaworld
def test_the_metaworld_expert_leaves_observations_alone(recwarn: pytest.WarningsRecorder) -> None:
    from metaworld.policies import ENV_POLICY_MAP

    from lwd.envs.metaworld.expert import expert

    env = family("metaworld").make("state", "door-open")  # whose expert writes into what it is shown
    obs, _ = env.reset(seed=0)
    kept = obs.copy()
    action = expert("door-open")(obs)
    np.testing.assert_array_equal(obs, kept)
    plain = ENV_POLICY_MAP["door-open-v3"]().get_action(kept)
    np.testing.assert_array_equal(action, np.clip(plain, -1, 1))
    assert action.dtype == np.float32 and np.abs(plain).max() > 1 and not recwarn


@needs_metaworld
def test_metaworld_refuses_noise_and_seeds_that_cannot_be(tmp_path: Path) -> None:
    for match, changes in {
        "noise must be a standard deviation": {"noise": -1.0},
        "those from 100000 are for evaluation": {"seed": 99_990},
        "seeds begin at 0": {"seed": -1},
    }.items():
        with pytest.raises(LWDError, match=match):
            metaworld(tmp_path / "never", **changes)
    assert not (tmp_path / "never").exists()


def test_missing_simulator_is_reported_before_anything_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reach.npz").write_bytes(b"precious")
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(LWDError, match=r'pip install "latent-weight-diffusion\[metaworld\]"'):
        metaworld(tmp_path, fresh=True)
    assert (tmp_path / "reach.npz").read_bytes() == b"precious"


@needs_metaworld
def test_metaworld_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "data")
    assert main(["data", "collect", "metaworld", "--tasks", "reach, drawer-close", "--episodes", "1", "--out", out, "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "drawer-close" in printed and "100%" in printed and f"lwd data show {out}" in printed
    assert main(["data", "collect", "metaworld", "--tasks", "reach", "--episodes", "2", "--out", out, "--workers", "1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["episodes"], row["attempts"], row["steps"]) == (2, 2, 1000)
    assert main(["data", "collect", "metaworld", "--tasks", "reach", "--noise", "0.2", "--out", out]) == 2
    assert "holds other data" in capsys.readouterr().err
    assert main(["data", "show", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == {"drawer-close": 1, "reach": 2}


_KILLED = """
from lwd.data.collect import collect
if __name__ == "__main__":
    collect("metaworld", {out!r}, tasks=["reach", "drawer-close"], episodes=6, workers=2, progress=False)
"""


@needs_metaworld
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="counts processes in /proc")
def test_a_killed_collection_leaves_nothing_and_continues(tmp_path: Path) -> None:
    out, script = tmp_path / "data", tmp_path / "script.py"
    script.write_text(_KILLED.format(out=str(out)))
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    while not (out / "reach.npz").exists() and process.poll() is None:
        time.sleep(0.02)
    finished = (out / "reach.npz").stat().st_mtime_ns
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 10
    while _session(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _session(process.pid)  # the workers are gone too
    assert not (out / "drawer-close.npz").exists()
    rows = metaworld(out, "reach,drawer-close", 6)
    assert (out / "reach.npz").stat().st_mtime_ns == finished
    assert [row["episodes"] for row in rows] == [6, 6] and sorted(files(out)) == ["drawer-close.npz", "reach.npz"]


def _session(session: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, owner = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(owner) == session and state != "Z":
                found.append(int(entry.name))
    return found
