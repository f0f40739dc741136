"""The verbs as a user types them: output, files, exit codes, and one sentence instead of a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import lwd
from conftest import tiny_method
from lwd.cli import main
from lwd.config import Config
from lwd.data.npz import save_npz
from lwd.data.readers import read
from lwd.demo import demo
from lwd.errors import LWDError
from lwd.train import load_method, train
from test_readers import keypoint_columns, write_lerobot


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    try:
        code = main(list(arguments))
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def pusht(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run on a few embedded episodes, trained for a moment: enough for every verb."""
    folder = tmp_path_factory.mktemp("pusht")
    save_npz(read("embedded").select(range(12)), folder / "data.npz")
    return Config(
        data=str(folder / "data.npz"),
        out=str(folder / "run"),
        obs="keypoints",
        mirror=True,
        horizon=8,
        holdout=0.2,
        threads=1,
        method=tiny_method(),
    )


@pytest.fixture(scope="module")
def reported(pusht: Config) -> Path:
    """Its demo report."""
    return demo(pusht, episodes=2)


def test_help_is_a_manual(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["--help"],
        ["data", "--help"],
        ["train", "--help"],
        ["train", "pusht", "--help"],
        ["eval", "--help"],
        ["diagnose", "--help"],
    ):
        code, out, _ = call(capsys, *words)
        assert code == 0 and "usage: lwd" in out
    _, out, _ = call(capsys, "train", "pusht", "--help")
    for option in ("--data", "--out", "--seed", "--horizon", "--fresh", "--method.beta", "--method.autoencoder.steps"):
        assert option in out


def test_a_reader_that_goes_away_is_no_error() -> None:
    ends = os.pipe()
    os.close(ends[0])  # as `head` does when it has seen enough
    command = [sys.executable, "-m", "lwd.cli", "train", "pusht", "--help"]
    try:
        done = subprocess.run(command, stdout=ends[1], stderr=subprocess.PIPE, text=True)
    finally:
        os.close(ends[1])
    assert (done.returncode, done.stderr) == (141, "")


def test_data_verbs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
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
        (["info", "nowhere"], "there is no run directory nowhere"),
        (["eval", "nowhere"], "there is no run directory nowhere"),
        (["diagnose", "nowhere"], "there is no run directory nowhere"),
        (["train", "debug", "--horizon", "0"], "the horizon counts steps"),
        (["train", "debug", "--data", "nowhere.zarr"], "no such file"),
        (["train", "debug", "--method.beta", "-1"], "beta must not be negative"),
        (["data", "collect", "pusht", "x.zarr"], "written as .npz"),
    ],
)
def test_bad_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, *words)
    assert code == 2 and err.startswith("lwd: ") and sentence in err and "Traceback" not in err
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"], "nothing is left behind"


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = call(capsys, "train", "debug", "--nonsense", "1")
    assert code != 0


def test_demo_writes_a_whole_report(reported: Path) -> None:
    text = reported.read_text(encoding="utf-8")
    run = reported.parent
    assert "synthetic" in text and "max overlap" in text and "training seed" in text
    assert len(list((run / "videos").glob("*.gif"))) == 4
    assert {p.name for p in (run / "plots").iterdir()} >= {"training.png", "latents.png", "samples.png", "score.png", "histogram.png"}
    assert len(list((run / "eval").glob("*.json"))) == 2


def test_eval_writes_records_and_intervals(capsys: pytest.CaptureFixture[str], reported: Path) -> None:
    words = [
        "eval",
        str(reported.parent),
        "--episodes",
        "3",
        "--horizon",
        "16",
        "--perturbation",
        "50",
        "--sampler",
        "dpm++",
        "--steps",
        "5",
    ]
    code, out, _ = call(capsys, *words, "--workers", "1", "--json")
    result = json.loads(out)
    assert code == 0 and (result["sampler"]["sampler"], result["sampler"]["steps"]) == ("dpm++", 5)
    written = json.loads(Path(result["path"]).read_text())
    assert [e["seed"] for e in written["records"]] == [100_000, 100_001, 100_002]
    assert {"max_overlap", "success", "final_coverage"} <= set(written["scores"])
    assert written["flops_per_step"]["policy"] > 0 and written["ms_per_query"]["p95"] >= written["ms_per_query"]["p50"]
    assert all(e["queries"] == -(-e["steps"] // 16) for e in written["records"])
    code, out, _ = call(capsys, *words[:4], "--workers", "1")
    assert code == 0 and "max overlap" in out
    assert call(capsys, "eval", str(reported.parent), "--episodes", "0")[0] == 2


def test_diagnose_and_info(capsys: pytest.CaptureFixture[str], reported: Path) -> None:
    code, out, _ = call(capsys, "diagnose", str(reported.parent), "--rollouts", "3", "--json")
    ladder = json.loads(out)["rungs"]
    assert code == 0 and {r["rung"] for r in ladder} == {1, 2, 3, 4, 5, 6}
    replayed = next(r for r in ladder if "replayed" in r["name"])
    assert replayed["value"] < 0.2, "pixels: recorded actions from the recorded state end where the demonstration ended"
    code, out, _ = call(capsys, "diagnose", str(reported.parent), "--rollouts", "0")
    assert code == 0 and "verdict" in out
    code, out, _ = call(capsys, "info", str(reported.parent), "--json")
    info = json.loads(out)
    assert code == 0 and info["parameters"]["generated policy"] > 0 and info["trained"]["done"] == ["autoencoder", "diffusion"]
    assert len(info["results"]) >= 2
    code, out, _ = call(capsys, "info", str(reported.parent))
    assert code == 0 and "fingerprint" in out


def test_human_demonstrations_train_in_both_observations(human_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_npz(read(human_data).select(range(6)), tmp_path / "few.npz")
    for obs in ("state", "keypoints"):
        config = Config(data=str(tmp_path / "few.npz"), out=str(tmp_path / obs), obs=obs, horizon=8, holdout=0.2, method=tiny_method())  # type: ignore[arg-type]
        method = load_method(train(config, quiet=True))
        assert method.spec.obs == obs and method.normalizer.feature_dim == {"state": 6, "keypoints": 18}[obs]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_keypoints_train_as_they_are(tmp_path: Path, version: str) -> None:
    path = write_lerobot(tmp_path / "pusht_keypoints", version, keypoint_columns(), ["push the block"])
    config = Config(data=str(path), out=str(tmp_path / "run"), horizon=2, holdout=0.3, mirror=True, method=tiny_method())
    run = train(config, quiet=True)
    assert (run.spec().env, run.spec().obs) == ("pusht", "keypoints")
    obs = read(path).obs
    assert lwd.load(run.path).plan(obs).act(obs).shape == (len(obs), 2)


def test_mirror_needs_a_symmetry(tiny: Config, tmp_path: Path) -> None:
    with pytest.raises(LWDError, match="no-mirror"):
        train(replace(tiny, mirror=True), quiet=True)
