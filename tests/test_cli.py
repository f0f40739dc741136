"""The commands as a user types them: output, files, exit codes, and one sentence instead of a traceback."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import tiny_method
from lwd.cli import COMMANDS, main
from lwd.config import Config
from lwd.data.formats.npz import save_npz
from lwd.data.read import read
from lwd.envs.base import family
from lwd.presets import PRESETS
from lwd.training.train import load_method, train


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    try:
        code = main(list(arguments))
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a demo on a few of the shipped demonstrations."""
    folder = tmp_path_factory.mktemp("demo")
    save_npz(read("embedded").select(range(30)), folder / "data.npz")
    words = ["--debug", "--data", str(folder / "data.npz"), "--out", str(folder / "run"), "--workers", "1"]
    assert main(["demo", *words]) == 0
    return folder / "run"


def test_help_is_a_manual(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0 and all(f"  {name} " in out and sentence in out for name, (_, _, sentence) in COMMANDS.items())
    assert call(capsys)[:2] == (0, out)
    for name, (module, kind, sentence) in COMMANDS.items():
        code, out, _ = call(capsys, name, "--help")
        assert code == 0 and f"usage: lwd {name}" in out
        own = getattr(importlib.import_module(f"lwd.commands.{module}"), kind)
        text = str(own.__doc__) if isinstance(own, type) else sentence  # of several commands in one
        assert " ".join(text.split()[:4]) in out, "the manual begins with what the command does"


def test_the_manual_of_train(capsys: pytest.CaptureFixture[str]) -> None:
    _, default, _ = call(capsys, "train", "--help")
    assert all(f"- {name}: {text}" in default for name, (text, _) in PRESETS.items())
    for option in ("--data", "--out", "--seed", "--horizon", "--fresh", "--debug", "--method.beta", "--method.autoencoder.steps"):
        assert option in default
    _, mlp, _ = call(capsys, "train", "mlp", "--help")
    assert "--method.cloning.steps" in mlp and "--method.beta" not in mlp
    _, pusht, _ = call(capsys, "train", "pusht", "--help")
    assert "(default: keypoints)" in " ".join(pusht.replace("│", " ").split())


def test_help_loads_nothing_heavy() -> None:
    """Before it is known what is asked for: it takes a tenth of a second."""
    heavy = ("torch", "pandas", "matplotlib", "scipy", "rich", "numpy", "tyro")
    script = f"import sys, lwd.cli; assert not set({heavy!r}) & set(sys.modules), sys.modules.keys(); sys.exit(lwd.cli.main(['--help']))"
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_manual_of_a_command_needs_no_torch(name: str) -> None:
    script = f"import sys, lwd.cli\ntry: lwd.cli.main([{name!r}, '--help'])\nexcept SystemExit: pass\n"
    script += "heavy = {'torch', 'pandas', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    ends = os.pipe()
    os.close(ends[0])  # as `head` does when it has seen enough
    command = [sys.executable, "-m", "lwd.cli", "train", "pusht", "--help"]
    try:
        done = subprocess.run(command, stdout=ends[1], stderr=subprocess.PIPE, text=True)
    finally:
        os.close(ends[1])
    assert (done.returncode, done.stderr) == (141, "")


def test_data_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "embedded" in call(capsys, "data", "list")[1]
    code, out, _ = call(capsys, "data", "show", "embedded", "--json")
    assert code == 0 and json.loads(out)["episodes"] >= 200
    for target in ("a.zarr", "a.npz"):
        assert call(capsys, "data", "convert", "embedded", str(tmp_path / target))[0] == 0
    assert read(tmp_path / "a.zarr").fingerprint() == read(tmp_path / "a.npz").fingerprint() == read("embedded").fingerprint()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data", "show", "nowhere.npz"], "nowhere.npz: no such file"),
        *((([name, "nowhere"]), "there is no run directory nowhere") for name in ("info", "eval", "diagnose", "decode", "report")),
        (["train", "--horizon", "-1"], "the horizon counts steps"),
        (["train", "--data", "nowhere.zarr"], "no such file"),
        (["train", "--method.beta", "-1"], "beta must not be negative"),
        (["train", "--holdout", "1"], "fraction in [0, 1)"),
        (["train", "--method.sampler", "euler"], "does not go with the objective"),
        (["train", "pusth"], "did you mean pusht?"),
        (["train", "nothing"], "the presets are lwd, dp, "),
        (["train", "my.npz"], "say --data my.npz"),
        (["tarin"], "did you mean train?"),
        (["eval", "nowhere", "--episodes", "-1"], "--episodes must be at least 1"),
        (["eval", "nowhere", "--delay", "-1"], "--delay must be at least 0"),
        (["eval", "nowhere", "--disturb", "50"], "a disturbance is none or NAME:MAGNITUDE, such as displace:50"),
        (["decode", "nowhere", "--episodes", "0"], "at least 1"),
        (["diagnose", "nowhere", "--samples", "0"], "at least 2"),
        (["demo", "--episodes", "-3"], "--episodes must be at least 1"),
        (["demo", "--workers", "-1"], "--workers counts processes"),
        (["demo", "--data", "nowhere.npz"], "no such file"),
        (["data", "collect", "pusht", "x.zarr"], ".npz"),
    ],
)
def test_bad_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, *words)
    assert code == 2 and err.lstrip().startswith("lwd: ") and sentence in err and "Traceback" not in err
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"], "nothing is left behind"


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "train", "--nonsense", "1")
    assert code == 2 and "--nonsense" in err


def test_demo_writes_a_whole_report(demo: Path) -> None:
    text = (demo / "report.html").read_text(encoding="utf-8")
    for words in (
        "synthetic",
        "max overlap",
        "Held-out action error",
        "The chain, link by link",
        "What to do next",
        "lwd eval",
        "seed 100001",
    ):
        assert words in text
    assert len(list((demo / "videos").glob("*.gif"))) == 4
    assert {p.name for p in (demo / "plots").iterdir()} == {"training.png", "latents.png", "samples.png", "score.png", "histogram.png"}
    assert len(list((demo / "eval").glob("*.json"))) == 2
    assert "_displace50_" in (demo / "report.md").read_text()


def test_diagnose_and_info(capsys: pytest.CaptureFixture[str], demo: Path) -> None:
    code, out, _ = call(capsys, "diagnose", str(demo), "--rollouts", "3", "--samples", "64", "--json")
    links = json.loads(out)["links"]
    assert code == 0 and {link["number"] for link in links} == {1, 2, 3, 4, 5}
    replayed = next(link for link in links if "replayed" in link["name"])
    assert replayed["value"] < 3, "pixels: recorded actions from the recorded state end where the demonstration ended"
    code, out, _ = call(capsys, "diagnose", str(demo), "--rollouts", "0")
    assert code == 0 and "verdict" in out and "action_errors" in json.loads((demo / "diagnose.json").read_text()), "the report's are kept"
    code, out, _ = call(capsys, "info", str(demo), "--json")
    info = json.loads(out)
    assert code == 0 and info["parameters"]["generated policy"] > 0 and info["trained"]["done"] == ["autoencoder", "diffusion"]
    assert len(info["results"]) >= 2 and info["simulator"] == "pusht"
    code, out, _ = call(capsys, "info", str(demo))
    assert code == 0 and "fingerprint" in out and "max_overlap" in out


def test_info_tells_what_an_environment_offers(
    capsys: pytest.CaptureFixture[str], demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "info", "pusht")
    kind = family("pusht")
    assert code == 0 and all(f"{name}:MAGNITUDE" in out for name in kind.disturbances) and "keypoints" in out and "max_overlap" in out
    code, out, _ = call(capsys, "info", "metaworld", "--json")
    offered = json.loads(out)
    assert code == 0 and list(offered["disturbances"]) == ["action-noise", "sensor-noise"] and "door-open" in offered["tasks"]
    shutil.copytree(demo, tmp_path / "pusht")
    code, out, _ = call(capsys, "info", "pusht")
    assert code == 0 and "fingerprint" in out, "a run directory of that name goes before"


def test_a_disturbance_that_the_environment_does_not_have_is_one_sentence(capsys: pytest.CaptureFixture[str], demo: Path) -> None:
    code, _, err = call(capsys, "eval", str(demo), "--disturb", "wind:3")
    assert code == 2 and "pusht has no disturbance 'wind', it has: displace (pixels" in " ".join(err.split()) and "Traceback" not in err


def test_a_damaged_result_is_left_out(capsys: pytest.CaptureFixture[str], demo: Path) -> None:
    count = len(json.loads(call(capsys, "info", str(demo), "--json")[1])["results"])
    first = next(path for path in (demo / "eval").glob("*.json"))
    old = json.dumps({**json.loads(first.read_text()), "version": 2})  # of an earlier version
    broken = '{"version": 3, "records": [1], "primary": "x", "scores": {"x": 1}}'
    for number, text in enumerate(("", "[]", "{}", '{"version": 1}', old, broken)):
        path = demo / "eval" / f"damaged{number}.json"
        path.write_text(text)
        code, out, _ = call(capsys, "info", str(demo), "--json")
        assert code == 0 and len(json.loads(out)["results"]) == count
        path.unlink()


def test_human_demonstrations_train_in_both_observations(human_data: Path, tmp_path: Path) -> None:
    save_npz(read(human_data).select(range(6)), tmp_path / "few.npz")
    for kind in ("state", "keypoints"):
        config = Config(
            data=str(tmp_path / "few.npz"), out=str(tmp_path / kind), obs_kind=kind, horizon=8, holdout=0.2, method=tiny_method()
        )
        method = load_method(train(config, quiet=True))
        assert method.spec.obs_kind == kind and method.normalizer.feature_dim == {"state": 6, "keypoints": 18}[kind]
