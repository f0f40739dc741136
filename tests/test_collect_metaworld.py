"""Collecting Metaworld demonstrations: what is in the files, resuming, failures, noise, and replay to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("metaworld")

from lwd.cli import main
from lwd.data import collect_metaworld as module
from lwd.data.collect_metaworld import Attempt, Job, attempt, collect_metaworld
from lwd.data.episodes import Episodes
from lwd.data.npz import load_npz
from lwd.data.readers import read
from lwd.envs.metaworld import FAMILY
from lwd.errors import LWDError


def collect(out: Path, tasks: str = "reach", episodes: int = 2, **changes: object) -> list[dict]:
    return collect_metaworld(tasks.split(","), out, episodes, **{"workers": 1, "progress": False, **changes})  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Job]]:
    """Attempts without the simulator: the expert fails under every third seed, and always at "push". Lists the jobs that were done."""
    jobs: list[Job] = []

    def pretend(job: Job) -> list[Attempt]:
        jobs.append(job)
        rows = [np.full((500, d), s / 1e6, np.float32) for s in job.seeds for d in (39, 4)]
        return [
            Attempt(seed, rows[2 * i], rows[2 * i + 1], good := seed % 3 != 2 and job.task != "push", good and seed % 2 == 0)
            for i, seed in enumerate(job.seeds)
        ]

    monkeypatch.setattr(module, "attempt", pretend)
    monkeypatch.setattr(module, "_environment", lambda task, noise: None)
    yield jobs


def replay(episodes: Episodes, episode: int, noise: float = 0.0) -> np.ndarray:
    """Observations when the recorded actions are carried out again from the recorded seed, in an environment of its own."""
    env = FAMILY.make("state", str(episodes.task[episode]))  # type: ignore[index]
    env = FAMILY.perturb(env, noise) if noise else env
    obs = [env.reset(seed=int(FAMILY.seeds(episodes)[episode]))[0]]  # type: ignore[index]
    for action in episodes.action[episodes.starts[episode] : episodes.ends[episode] - 1]:
        obs.append(env.step(action)[0])
    return np.array(obs, np.float32)


def test_files_and_replay(tmp_path: Path) -> None:
    rows = collect(tmp_path / "one", "reach,door-open-v3", seed=7)
    assert [row["task"] for row in rows] == ["reach", "door-open"]
    assert all((row["episodes"], row["attempts"], row["success"]) == (2, 2, 1.0) for row in rows)
    data = read(tmp_path / "one")
    assert data.task.tolist() == ["door-open"] * 2 + ["reach"] * 2 and (data.lengths == 500).all()  # type: ignore[union-attr]
    assert data.meta == FAMILY.meta("state", data.meta.description)
    assert data.meta.description.startswith("synthetic: scripted expert of Metaworld 3.1.1, seeds from 7, noise 0")
    assert data.tags["seed"].tolist() == [7, 8, 7, 8] and data.tags["seed"].dtype == np.int64
    assert data.tags["success"].all() and not data.tags["noise"].any() and len(data.tags["final_success"]) == 4
    assert np.abs(data.action).max() == 1.0
    for episode in (1, 2):
        np.testing.assert_array_equal(replay(data, episode), data.obs[data.starts[episode] : data.ends[episode]])
    collect(tmp_path / "two", "reach,door-open", seed=7, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_noise_is_executed_and_not_recorded(tmp_path: Path) -> None:
    (clean,), (noisy,) = attempt(Job("button-press", range(3, 4), 0.0)), attempt(Job("button-press", range(3, 4), 0.3))
    np.testing.assert_array_equal(clean.obs[0], noisy.obs[0])
    np.testing.assert_array_equal(clean.action[0], noisy.action[0])  # of the same observation
    assert np.abs(clean.obs - noisy.obs).max() > 0.01
    collect(tmp_path, "button-press", episodes=1, seed=3, noise=0.3, keep_failures=True)
    data = load_npz(tmp_path / "button-press.npz")
    assert data.tags["noise"].tolist() == [0.3]
    np.testing.assert_array_equal(data.obs, noisy.obs)
    np.testing.assert_array_equal(replay(data, 0, 0.3), data.obs)


def test_the_expert_leaves_observations_alone(recwarn: pytest.WarningsRecorder) -> None:
    from metaworld.policies import ENV_POLICY_MAP

    from lwd.data.experts.metaworld import expert

    env = FAMILY.make("state", "door-open")  # whose expert writes into what it is shown
    obs, _ = env.reset(seed=0)
    kept = obs.copy()
    action = expert("door-open")(obs)
    np.testing.assert_array_equal(obs, kept)
    plain = ENV_POLICY_MAP["door-open-v3"]().get_action(kept)
    np.testing.assert_array_equal(action, np.clip(plain, -1, 1))
    assert action.dtype == np.float32 and np.abs(plain).max() > 1 and not recwarn


def test_finished_tasks_are_kept_and_extended(tmp_path: Path, quick: list[Job]) -> None:
    collect(tmp_path / "a", "reach,drawer-open", 4)
    done = len(quick)
    (tmp_path / "a" / "reach.npz").unlink()
    (tmp_path / "a" / ".reach.npz.123.tmp").write_bytes(b"half")  # as a killed collection leaves it
    collect(tmp_path / "a", "reach,drawer-open", 4)
    assert {job.task for job in quick[done:]} == {"reach"} and sorted(files(tmp_path / "a")) == ["drawer-open.npz", "reach.npz"]
    extended = collect(tmp_path / "a", "reach,drawer-open", 9)
    assert min(seed for job in quick[-3:] for seed in job.seeds) > 0
    assert extended[0]["attempts"] == 13 and extended[0]["success"] == pytest.approx(9 / 13)
    collect(tmp_path / "b", "reach,drawer-open", 9, workers=1)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert load_npz(tmp_path / "a" / "reach.npz").tags["seed"].tolist() == [0, 1, 3, 4, 6, 7, 9, 10, 12]
    quick.clear()
    collect(tmp_path / "a", "reach,drawer-open", 9)
    assert not quick


def test_recipes_are_not_mixed(tmp_path: Path, quick: list[Job]) -> None:
    collect(tmp_path, "reach,drawer-open", 2)
    before = files(tmp_path)
    for changes in ({"noise": 0.1}, {"seed": 1}, {"keep_failures": True}):
        with pytest.raises(LWDError, match=r"drawer-open.npz holds other data \(synthetic.*\), not synthetic.*--fresh"):
            collect(tmp_path, "drawer-open,reach", 2, **changes)
    with pytest.raises(LWDError, match="holds 2 episodes, more than the 1 asked for"):
        collect(tmp_path, "reach", 1)
    with pytest.raises(LWDError, match=r"drawer-open.npz holds other data .*choose another directory$"):
        collect(tmp_path, "reach", 2, noise=0.1, fresh=True)
    assert files(tmp_path) == before
    collect(tmp_path, "drawer-open,reach", 2, noise=0.1, fresh=True)
    assert read(tmp_path).tags["noise"].tolist() == [0.1] * 4


def test_failures(tmp_path: Path, quick: list[Job]) -> None:
    (row,) = collect(tmp_path / "kept", "reach", 6, keep_failures=True)
    assert (row["attempts"], row["success"]) == (6, pytest.approx(4 / 6))
    assert load_npz(tmp_path / "kept" / "reach.npz").tags["success"].tolist() == [True, True, False, True, True, False]
    with pytest.raises(LWDError, match=r"the expert fails in most attempts at push: leave that out"):
        collect(tmp_path / "out", "reach,push,drawer-open", 3)
    assert sorted(files(tmp_path / "out")) == ["drawer-open.npz", "reach.npz"]
    assert max(seed for job in quick for seed in job.seeds) < 2 * 6 + 10


def test_nonsense_is_refused(tmp_path: Path) -> None:
    for match, changes in {
        "has no task 'raech'": {"tasks": "raech"},
        "episodes must be at least 1": {"episodes": 0},
        "workers must be at least 1": {"workers": 0},
        "noise must be a standard deviation": {"noise": -1.0},
        "those from 100000 are for evaluation": {"seed": 99_990},
        "seeds begin at 0": {"seed": -1},
    }.items():
        with pytest.raises(LWDError, match=match):
            collect(tmp_path / "never", **changes)  # type: ignore[arg-type]
    assert not (tmp_path / "never").exists()
    (tmp_path / "file").touch()
    with pytest.raises(LWDError, match="is a file"):
        collect(tmp_path / "file")


def test_missing_simulator_is_reported_before_anything_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reach.npz").write_bytes(b"precious")
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(LWDError, match=r'pip install "latent-weight-diffusion\[metaworld\]"'):
        collect(tmp_path, fresh=True)
    assert (tmp_path / "reach.npz").read_bytes() == b"precious"


def test_command(tmp_path: Path, quick: list[Job], capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "data")
    assert main(["data", "collect", "metaworld", "--tasks", "reach, drawer-close", "--episodes", "2", "--out", out, "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "drawer-close" in printed and "100%" in printed and f"lwd data show {out}" in printed
    assert main(["data", "collect", "metaworld", "--tasks", "reach", "--episodes", "3", "--out", out, "--workers", "1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["episodes"], row["attempts"]) == (3, 4)
    assert main(["data", "collect", "metaworld", "--tasks", "reach", "--noise", "0.2", "--out", out]) == 2
    assert "holds other data" in capsys.readouterr().err
    assert main(["data", "show", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == {"drawer-close": 2, "reach": 3}


_KILLED = """
from lwd.data.collect_metaworld import collect_metaworld
if __name__ == "__main__":
    collect_metaworld(["reach", "drawer-close"], {out!r}, 6, workers=2, progress=False)
"""


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
    rows = collect(out, "reach,drawer-close", 6)
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
