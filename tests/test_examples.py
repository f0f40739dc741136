"""The recipe for an environment of one's own: short, printed in the docs as it is, and working from file to evaluation."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lwd.cli import main
from lwd.data.read import read
from lwd.envs.base import family
from lwd.envs.vector import ProcessVectorEnv
from lwd.errors import LWDError

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("pendulum_*.py"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the examples, which is the present one; what they import is forgotten afterwards."""
    for file in EXAMPLES:
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(ROOT))])
    for name in [name for name in sys.modules if name.startswith(("pendulum_", "mine"))]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_the_docs_print_the_files() -> None:
    printed = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding-an-environment.md").read_text(), re.DOTALL)
    assert [file.name for file in EXAMPLES] == ["pendulum_env.py", "pendulum_record.py"]
    for file in EXAMPLES:
        assert file.read_text() in printed
        assert len(file.read_text().splitlines()) <= 60


def test_from_file_to_evaluation(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run([sys.executable, "pendulum_record.py", "pendulum.npz"], check=True, capture_output=True)
    data = read("pendulum.npz")
    assert (len(data), data.steps, data.meta.env) == (50, 10_000, "pendulum_env")
    last = data.obs.reshape(50, 200, 3)[:, -20:, 0]
    assert (last > 0.966).all()  # the controller holds it up
    assert main(["train", "--data", "pendulum.npz", "--out", "run", "--threads", "1", "--debug"]) == 0
    table = capsys.readouterr().err
    assert "pendulum_env" in table and "200 to 200 steps long" in table
    capsys.readouterr()
    assert main(["eval", "run", "--debug", "--workers", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["env"] == "pendulum_env" and {"upright", "held", "return"} <= set(result["scores"])
    assert result["scores"]["return"]["mean"] < 0 <= result["scores"]["upright"]["mean"] <= 1


def test_simulator_processes_find_the_module(here: Path) -> None:
    results = []
    for workers in (0, 2):
        with ProcessVectorEnv("pendulum_env", "state", 2, workers) as envs:
            results.append([envs.reset([1, 2])[0], envs.step([[2.0], [-2.0]])[0]])
    np.testing.assert_array_equal(*results)


def test_modules_that_are_no_environments(here: Path) -> None:
    (here / "mine_empty.py").touch()
    (here / "mine_broken.py").write_text("import there_is_no_such_simulator")
    (here / "mine").mkdir()
    shutil.copy(here / "pendulum_env.py", here / "mine" / "pendulum.py")
    assert family("mine.pendulum").max_steps == 200
    with pytest.raises(LWDError, match=r"mine_empty .*defines no FAMILY"):
        family("mine_empty")
    with pytest.raises(LWDError, match="cannot import the environment 'mine_broken': No module named 'there_is_no_such_simulator'"):
        family("mine_broken")
    for name in ("mine_absent", "mine.absent", "absent.mine", "", "a b", "..", "/etc/x.py"):
        with pytest.raises(LWDError, match=r"unknown environment .*: known ones are .*pusht.*FAMILY"):
            family(name)
