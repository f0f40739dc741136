"""Vectorisation: the same results over any number of processes, and nothing that goes wrong in one stays silent."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from lwd.envs.vector import ProcessVectorEnv
from lwd.errors import LWDError


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A family of one's own: counts steps, ends after its seed's number of them, fails when told to."""
    (tmp_path / "toybox").mkdir()
    (tmp_path / "toybox" / "__init__.py").touch()
    source = """
        import gymnasium, numpy as np
        from lwd.envs.base import EnvFamily

        class Counter(gymnasium.Env):
            observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
            action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

            def reset(self, *, seed=None, options=None):
                print("simulators may print")
                self.life, self.count = seed, 0
                return np.array([0.0, self.life]), {}

            def step(self, action):
                if action[0] > 0.5:
                    raise RuntimeError("the gripper fell off")
                self.count += 1
                return np.array([float(self.count), self.life]), 1.0, self.count >= self.life, False, {}

        class Toy(EnvFamily):
            name = "toy"
            action_low, action_high = (-1.0,), (1.0,)

            def make(self, obs_kind):
                return Counter()

        FAMILY = Toy()
    """
    (tmp_path / "toybox" / "toy.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(str(tmp_path))
    return "toybox.toy"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_finished_environment_stays_finished(toy: str, workers: int) -> None:
    with ProcessVectorEnv(toy, "state", 3, workers, max_steps=5) as envs:
        obs, _ = envs.reset([2, 9, 4])
        assert obs.shape == (3, 2)
        np.testing.assert_array_equal(obs[:, 0], 0)
        for _ in range(7):
            obs, reward, terminated, truncated, infos = envs.step(np.zeros((3, 1)))
        np.testing.assert_array_equal(obs[:, 0], [2, 5, 4])
        np.testing.assert_array_equal(terminated, [True, False, True])
        np.testing.assert_array_equal(truncated, [False, True, False])
        np.testing.assert_array_equal(reward, 0)
        assert infos == {}
        np.testing.assert_array_equal(envs.reset([1, 1, 1])[0], [[0, 1]] * 3)
        assert envs.step(np.zeros((3, 1)))[2].all()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failure_in_a_worker_is_told(toy: str, workers: int) -> None:
    with ProcessVectorEnv(toy, "state", 3, workers) as envs:
        envs.reset([5, 5, 5])
        with pytest.raises(LWDError, match=r"(?s)environment 2 .* failed at step 0.*the gripper fell off"):
            envs.step(np.array([[0.0], [0.0], [1.0]]))
        with pytest.raises(LWDError, match="closed"):
            envs.reset([5, 5, 5])


def test_a_killed_worker_is_told() -> None:
    with ProcessVectorEnv("pusht", "state", 2, workers=2) as envs:
        envs.reset([0, 1])
        envs._groups[1].process.kill()  # type: ignore[union-attr]  # numbers of processes begin anew at some time: the largest need not be the last
        with pytest.raises(LWDError, match=r"environments 1 to 1 died \(exit code -9\)"):
            for _ in range(3):
                envs.step(np.zeros((2, 2)))


def test_workers_die_with_their_parent() -> None:
    code = """
        import time
        from lwd.envs.vector import ProcessVectorEnv
        envs = ProcessVectorEnv("pusht", "state", 2, workers=2)
        print("ready", flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        workers = children(parent.pid)
        parent.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """Processes that a process has started and that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(entry.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(entry.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [child for child in found if _runs(child)]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_does_not_import_torch() -> None:
    code = """
import sys, lwd.envs.vector
from lwd.envs.base import families, family
for name in families():
    family(name)
family("pusht").make("state")
sys.exit("torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "pygame" not in result.stdout  # no banner


def test_vector_environments_agree_whatever_the_number_of_workers() -> None:
    results = []
    for workers in (0, 1, 3):
        with ProcessVectorEnv("pusht", "state", 5, workers, disturb="displace:30") as envs:
            obs, _ = envs.reset([11, 12, 13, 14, 11])
            rows = [obs]
            for _ in range(25):
                obs, reward, *_, infos = envs.step(obs[:, 2:4])
                rows += [obs, np.stack([reward, infos["coverage"], infos["displaced"]])]
            np.testing.assert_allclose(envs.states(), obs)
            assert [f.shape for f in envs.render([4, 0])] == [(384, 384, 3)] * 2
            np.testing.assert_array_equal(obs[0], obs[4])  # equal seeds, equal episodes
            results.append(np.concatenate([r.ravel() for r in rows]))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
