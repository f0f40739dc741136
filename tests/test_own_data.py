"""The first five minutes with one's own data: train, report and diagnose data of any dimensions, and sentences for what is wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lwd
from lwd.cli import main

EPISODES, OBS, ACTION = 25, 39, 28


def arrays() -> dict[str, np.ndarray]:
    """25 demonstrations of a controller of 39-d states and 28-d actions, 40 to 60 steps each."""
    rng = np.random.default_rng(0)
    gain = rng.normal(size=(ACTION, OBS)) / 6
    obs, action, lengths = [], [], rng.integers(40, 60, EPISODES)
    for length in lengths:
        x = rng.normal(size=OBS)
        for _ in range(length):
            obs.append(x)
            action.append(np.tanh(gain @ x))
            x = 0.97 * x + 0.05 * np.resize(action[-1], OBS)
    return {"obs": np.array(obs), "action": np.array(action), "ends": np.cumsum(lengths)}


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    try:
        code = main(list(words))
    except SystemExit as end:
        code = int(end.code or 0)
    return (code, *capsys.readouterr())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, with a file of demonstrations."""
    folder = tmp_path_factory.mktemp("home")
    np.savez(folder / "my_demos.npz", **arrays())  # type: ignore[arg-type]
    return folder


def test_from_a_file_to_actions(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(home)
    code, out, err = call(capsys, "train", "--data", "my_demos.npz", "--debug")
    assert code == 0 and "Traceback" not in err
    for words in ("39 dimensions", "28 dimensions", "horizon", "a quarter of an episode"):
        assert words in err + out, "what was chosen is said"
    assert "report:  runs/lwd/report.html" in out and "lwd.load('runs/lwd')" in out
    text = (home / "runs/lwd/report.md").read_text()
    for words in (
        "Held-out action error",
        "repeat the last action",
        "one MLP policy",
        "The chain, link by link",
        "rate, KL of the posterior",
    ):
        assert words in text
    pictures = re.findall(r"\]\((plots/\w+\.png)\)", text)
    assert pictures == ["plots/training.png", "plots/latents.png", "plots/samples.png"]
    assert "What to do next" in text and "How this was made" in text and "lwd eval" not in text, "there is no simulator"

    code, out, _ = call(capsys, "diagnose", "runs/lwd", "--samples", "32")
    assert code == 0 and "verdict" in out
    code, out, _ = call(capsys, "info", "runs/lwd", "--json")
    found = json.loads(out)
    assert (found["data"]["episodes"], found["data"]["held_out"], found["simulator"]) == (24, 1, None)
    assert call(capsys, "eval", "runs/lwd")[0] == 2

    generator = lwd.load("runs/lwd", seed=0)
    assert generator.plan(np.zeros(OBS)).act(np.zeros(OBS), t=0).shape == (ACTION,)

    code, _, err = call(capsys, "train", "--data", "my_demos.npz", "--debug", "--quiet")
    assert code == 0, "the same command again has nothing left to do"
    code, out, _ = call(capsys, "report", "runs/lwd", "--json")
    assert code == 0 and json.loads(out)["report"] == "runs/lwd/report.html"


@pytest.mark.parametrize("preset", ["dp", "ldp", "mlp", "random"])
def test_every_general_preset_takes_any_data(
    preset: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    code, out, _ = call(capsys, "train", preset, "--data", "my_demos.npz", "--debug", "--json")
    summary = json.loads(out)
    assert code == 0 and summary["run"] == f"runs/{preset}" and summary["next"]
    text = (home / summary["report"]).read_text()
    assert ("one MLP policy" in text) == (preset in ("dp", "ldp")) and "The chain, link by link" not in text
    assert ("plots/latents" in (home / f"runs/{preset}/report.md").read_text()) == (preset == "ldp")


def test_a_preset_for_other_data_is_not_blamed_on_the_user(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    code, _, err = call(capsys, "train", "pusht", "--data", "my_demos.npz", "--debug")
    assert code == 2 and "the preset pusht needs keypoints" in err and "lwd train --data my_demos.npz" in err
    assert "leave out" not in err, "no option was given that could be left out"
    assert not (home / "runs/pusht").exists() or not list((home / "runs/pusht").glob("*.json"))
    code, _, err = call(capsys, "train", "--data", "my_demos.npz", "--mirror")
    assert code == 2 and "leave out --mirror" in err


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "csv": (lambda path: path.with_suffix(".csv").write_text("x,y\n1,2\n"), "np.savez"),
    "wrong keys": (lambda path: np.savez(path, states=np.zeros((9, 2)), actions=np.zeros((9, 1))), "np.savez"),
    "no ends": (lambda path: np.savez(path, obs=np.zeros((9, 2)), action=np.zeros((9, 1))), "ends"),
    "lengths differ": (lambda path: np.savez(path, obs=np.zeros((9, 2)), action=np.zeros((5, 1)), ends=[9]), "9 steps but action has 5"),
    "three dimensions": (lambda path: np.savez(path, obs=np.zeros((3, 3, 2)), action=np.zeros((3, 3, 1)), ends=[3]), "three dimensions"),
    "NaN": (lambda path: np.savez(path, obs=np.full((9, 2), np.nan), action=np.zeros((9, 1)), ends=[9]), "every value must be finite"),
    "not a zip": (lambda path: path.write_bytes(b"hello"), "npz"),
    "one episode": (lambda path: np.savez(path, obs=np.ones((9, 2)), action=np.ones((9, 1)), ends=[9]), "one episode"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_files_are_told_the_layout(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, sentence = WRONG[fault]
    make(tmp_path / "my.npz")
    (file,) = tmp_path.glob("my.*")
    code, out, err = call(capsys, "train", "--data", str(file), "--debug", "--out", str(tmp_path / "a run"))
    assert code in (0, 2) and "Traceback" not in err
    assert (code == 0 and fault == "one episode") or sentence in err
    if code == 0:
        assert "record at least two demonstrations" in out and "--holdout" not in out and "lwd diagnose" not in out
    if code == 2:
        assert call(capsys, "train", str(file))[2].startswith("lwd: there is no preset"), "a file in the preset's place"


# --- damaged run directories ----------------------------------------------------------------------------------------------------------


def put(*keys: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    """Sets one value of a JSON object."""

    def change(record: dict[str, Any]) -> Any:
        inner = record
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return record

    return change


def drop(*keys: str) -> Callable[[dict[str, Any]], Any]:
    """Removes one value of a JSON object."""

    def change(record: dict[str, Any]) -> Any:
        inner = record
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        return record

    return change


CONFIG = [
    *(put(key, value=value) for key in ("config", "spec", "data", "versions") for value in (None, [], "x")),
    *(drop(key) for key in ("version", "config", "spec", "data", "versions")),
    *(drop("data", key) for key in ("fingerprint", "episodes", "description", "path")),
    *(drop("spec", key) for key in ("obs_dim", "action_dim", "horizon", "length")),
    *(put("spec", "obs_dim", value=value) for value in (3, -1, "2", 2.5, None)),
    *(put("spec", key, value=5) for key in ("tasks", "angles", "starts", "action_low", "env")),
    put("spec", "env", value="nowhere"),
    put("spec", "tasks", value=["a", "b"]),
    *(put("config", key, value=value) for key, value in (("horizon", "x"), ("horizon", -1), ("data", 5), ("holdout", 2), ("device", "x"))),
    put("config", "data", value="/nowhere/x.npz"),
    put("config", "unknown", value=1),
    put("config", "method", value=None),
    put("config", "method", value={"name": "nothing"}),
    put("config", "method", value={"name": "mlp"}),
    put("config", "method", value={"name": ["lwd"]}),
    *(put("config", "method", "latent", value=value) for value in (-1, "big", 9, None)),
    put("config", "method", "policy", value=[]),
    put("config", "method", "autoencoder", value={"steps": "many"}),
    put("version", value=99),
]
STATE = [
    *(drop(key) for key in ("stage", "step", "done", "seconds")),
    *(put("done", value=value) for value in (None, [1], ["autoencoder"], "autoencoder")),
    put("seconds", value={"autoencoder": "long"}),
    put("step", value="x"),
    lambda record: [],
]
LATEST = [put("checkpoint", value=value) for value in ("nowhere", "../..", 5, None)] + [drop("checkpoint"), lambda record: ["x"]]
BYTES = [b"", b"null", b"\xff\xfe\x00", b"[" * 100_000]
METRICS = (
    b'\xff\xfe\x00\n5\n[]\nnull\n{"stage": 1, "step": "x"}\n{"stage": "autoencoder", "step": 1, "loss": [1], "x": "y", "z": NaN}\n{"st'
)


def damages() -> list[tuple[str, Callable[[Path], Any]]]:
    """Ways to damage a run directory, by name."""
    found: list[tuple[str, Callable[[Path], Any]]] = []
    files = {"config.json": CONFIG, "checkpoints/latest.json": LATEST, "checkpoints/*/state.json": STATE}
    for pattern, changes in files.items():

        def edit(run: Path, pattern: str = pattern, change: Callable[[dict[str, Any]], Any] | None = None) -> None:
            (path,) = run.glob(pattern)
            assert change is not None
            path.write_text(json.dumps(change(json.loads(path.read_text()))))

        found += [(f"{pattern} {i}", lambda run, edit=edit, c=change: edit(run, change=c)) for i, change in enumerate(changes)]
    for pattern in (*files, "checkpoints/*/model.safetensors"):
        found += [(f"{pattern} bytes {i}", lambda run, p=pattern, d=data: _write(run, p, d)) for i, data in enumerate(BYTES)]
        found.append((f"{pattern} missing", lambda run, p=pattern: next(run.glob(p)).unlink()))
    found += [("metrics", lambda run: _write(run, "metrics.jsonl", METRICS)), ("no metrics", lambda run: (run / "metrics.jsonl").unlink())]
    found.append(("tensor missing", lambda run: _tensors(run, lambda name, x: None if name.endswith("latent_mean") else x)))
    found.append(("tensor of another shape", lambda run: _tensors(run, lambda name, x: x[:-1] if name.endswith("latent_mean") else x)))
    found.append(
        ("diagnose.json of another kind", lambda run: _write(run, "diagnose.json", b'{"links": [{"name": 1}], "action_errors": 3}'))
    )
    return found


def _write(run: Path, pattern: str, data: bytes) -> None:
    next(run.glob(pattern)).write_bytes(data)


def _tensors(run: Path, change: Callable[[str, np.ndarray], np.ndarray | None]) -> None:
    (path,) = run.glob("checkpoints/*/model.safetensors")
    changed = {name: change(name, x) for name, x in load_file(path).items()}
    save_file({name: np.ascontiguousarray(x) for name, x in changed.items() if x is not None}, path)


@pytest.fixture(scope="module")
def intact(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything in it that a report writes."""
    path = tmp_path_factory.mktemp("intact") / "run"
    shutil.copytree(trained, path)
    assert main(["report", str(path), "--quiet"]) == 0
    return path


def test_a_damaged_run_directory_is_a_sentence(intact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every, faults = damages(), []
    assert len(every) >= 80
    for name, damage in every:
        path = tmp_path / "run"
        shutil.copytree(intact, path)
        damage(path)
        spared = name.endswith("metrics") or name.startswith("diagnose.json")  # only reports read these files
        for words in (["info"], ["eval", "--debug"], ["diagnose", "--samples", "4"], ["report", "--quiet"])[3 if spared else 0 :]:
            try:
                code, _, err = call(capsys, words[0], str(path), *words[1:])
            except Exception as error:
                faults.append(f"{name}: lwd {words[0]} ends in {type(error).__name__}: {error}")
                continue
            if code not in (0, 2) or (code == 2 and not err.strip().startswith("lwd: ")):
                faults.append(f"{name}: lwd {words[0]} ends with {code}: {err}")
        shutil.rmtree(path)
    assert not faults, "\n".join(faults)
