"""Training as a user sees it: it learns, it resumes exactly, it refuses what does not belong together."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lwd
from conftest import reaching, tiny_method
from lwd.config import Config, Stage, from_dict, to_dict
from lwd.data.formats.npz import save_npz
from lwd.errors import LWDError
from lwd.training.run import Run
from lwd.training.train import load_method, run_data, train


def weights(run: Run) -> dict[str, torch.Tensor]:
    latest = run.latest()
    assert latest is not None
    return load_file(latest / "model.safetensors")


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_training_writes_the_run_directory(tiny: Config) -> None:
    run = train(tiny, quiet=True)
    record = json.loads((run.path / "config.json").read_text())
    assert record["version"] == 2 and from_dict(Config, record["config"]) == tiny
    lines = run.metrics()
    assert [(m["stage"], m["step"]) for m in lines] == [(s, n) for s in ("autoencoder", "diffusion") for n in (5, 10, 15, 20)]
    assert {"L_BC", "L_RO", "L_TF", "L_KL", "loss", "rate_nats"} <= set(lines[2])
    assert "L_RO" not in lines[0], "the rollout loss starts after its warm-up"
    assert list((run.path / "tensorboard").iterdir())
    assert not list(run.path.rglob("*.tmp"))
    assert not [p for p in run.path.rglob("*") if p.suffix in (".pt", ".pkl", ".ckpt")]


def test_losses_follow_the_config(tiny: Config, tmp_path: Path) -> None:
    without = replace(tiny, out=str(tmp_path / "without"), method=tiny_method(world_model=False))
    lines = train(without, quiet=True).metrics()
    assert not {"L_RO", "L_TF"} & set().union(*lines)


def test_a_training_has_one_thread_unless_more_are_asked_for(tiny: Config, tmp_path: Path) -> None:
    """Several threads spin while they wait: two trainings with defaults would slow each other several times. The table says how many."""
    command = [sys.executable, "-m", "lwd.cli", "train", "--data", tiny.data, "--debug", "--no-report", "--device", "cpu"]
    clean = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"} | {"COLUMNS": "200"}
    for number, (words, given, expected) in enumerate((([], {}, 1), (["--threads", "2"], {}, 2), ([], {"OMP_NUM_THREADS": "2"}, 2))):
        out = ["--out", str(tmp_path / str(number))]
        done = subprocess.run([*command, *words, *out], env={**clean, **given}, capture_output=True, text=True)
        assert done.returncode == 0 and re.search(rf"threads +│ {expected} on \d+ core", done.stderr), done.stderr
    with pytest.raises(LWDError, match="threads must be at least 1"):
        Config(threads=-1)


def test_killed_training_continues_bit_for_bit(tiny: Config, tmp_path: Path) -> None:
    tiny = replace(tiny, method=tiny_method(autoencoder=Stage(60, 16, 1e-3), diffusion=Stage(60, 32, 1e-3)))
    whole = train(tiny, quiet=True)
    killed = replace(tiny, out=str(tmp_path / "killed"))
    script = (
        "import json, sys, torch; from lwd.config import *; from lwd.training.train import train; torch.set_num_threads(1)\n"
        "train(from_dict(Config, json.loads(sys.argv[1])), quiet=True)"
    )
    command = [sys.executable, "-c", script, json.dumps(to_dict(killed))]
    kills = 0
    for stage in ("autoencoder", "diffusion"):
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            latest = Run(killed.out).latest()
            if latest is not None and latest.name.startswith(stage):
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += process.returncode == -signal.SIGKILL
                break
            time.sleep(0.002)
        process.wait()
    assert kills >= 1, "both stages ended before they could be killed"
    resumed = train(killed, quiet=True)
    assert_same(weights(whole), weights(resumed))
    a, b = ([{k: v for k, v in m.items() if k != "seconds"} for m in r.metrics()] for r in (whole, resumed))
    assert a == b, "no line of the log is lost or doubled"


def test_finished_training_is_left_alone_and_fresh_starts_over(tiny: Config) -> None:
    run = train(tiny, quiet=True)
    before, written = weights(run), (run.path / "config.json").stat().st_mtime_ns
    assert_same(before, weights(train(tiny, quiet=True)))
    assert (run.path / "config.json").stat().st_mtime_ns == written
    train(tiny, quiet=True, fresh=True)
    assert (run.path / "config.json").stat().st_mtime_ns != written
    assert_same(before, weights(run))


def test_other_data_or_settings_are_refused(tiny: Config) -> None:
    train(tiny, quiet=True)
    with pytest.raises(LWDError, match=r"other settings: method\.beta"):
        train(replace(tiny, method=tiny_method(beta=1.0)), quiet=True)
    save_npz(reaching(seed=3), tiny.data)
    with pytest.raises(LWDError, match="trained on other data"):
        train(tiny, quiet=True)


def test_damaged_and_foreign_checkpoints_are_refused(tiny: Config) -> None:
    run = train(tiny, quiet=True)
    latest = run.latest()
    assert latest is not None
    whole = (latest / "model.safetensors").read_bytes()
    (latest / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LWDError, match="is damaged"):
        load_method(run)
    record = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps({**record, "version": 99}))
    with pytest.raises(LWDError, match="layout version 99"):
        load_method(run)
    with pytest.raises(LWDError, match="no run directory"):
        load_method(Run(run.path / "nowhere"))


def test_two_trainings_in_one_directory_are_refused(tiny: Config) -> None:
    run = Run(tiny.out)
    with run.lock(), pytest.raises(LWDError, match="another process"):
        train(tiny, quiet=True)


def test_small_batch_is_overfitted(tmp_path: Path) -> None:
    save_npz(reaching(episodes=4, length=16), tmp_path / "data.npz")
    method = tiny_method(
        autoencoder=Stage(600, 32, 3e-3), diffusion=Stage(1, 8, 1e-3), beta=0.0, policy=(32, 32), encoder=(64, 64), world_model=False
    )
    config = Config(data=str(tmp_path / "data.npz"), out=str(tmp_path / "run"), horizon=8, holdout=0.0, precision="32-true", method=method)
    last = [m for m in train(config, quiet=True).metrics() if m["stage"] == "autoencoder"][-1]
    assert last["L_BC"] < 2e-4


# --- what does not end well --------------------------------------------------------------------------------------------------------


def test_a_diverged_training_keeps_its_last_good_checkpoint_and_continues_with_a_lower_rate(tiny: Config) -> None:
    """At a rate that makes every weight overflow, nothing that is not finite is written; the lower rate is not another setting."""
    good = replace(tiny, method=tiny_method(autoencoder=Stage(40, 16, 1e-3, warmup=1)))
    with pytest.raises(KeyboardInterrupt):
        stop_after(good, 10)
    run = Run(tiny.out)
    before = weights(run)
    bad = replace(good, method=tiny_method(autoencoder=Stage(40, 16, 1e38, warmup=1)))
    for _ in range(2):  # the same command fails again, with the same sentence, and harms nothing
        with pytest.raises(LWDError, match=r"diverged in stage autoencoder .* --method\.autoencoder\.lr"):
            train(bad, quiet=True)
        assert_same(before, weights(run))
    finished = train(good, quiet=True)
    assert finished.done == {"autoencoder", "diffusion"}
    assert all(v.isfinite().all() for k, v in weights(finished).items() if "action_" not in k)


def stop_after(config: Config, steps: int) -> None:
    """Train, and press Ctrl-C when so many steps are logged."""

    class Impatient(Run):
        def append(self, line: dict) -> None:
            super().append(line)
            if line["step"] >= steps:
                os.kill(os.getpid(), signal.SIGINT)

    import lwd.training.train as module

    original = module.Run
    module.Run = Impatient  # type: ignore[misc]
    try:
        train(config, quiet=True)
    finally:
        module.Run = original  # type: ignore[misc]


@pytest.mark.parametrize("validate_every", [5, 1000])
def test_it_resumes_bit_for_bit_and_validation_draws_nothing(tiny: Config, tmp_path: Path, validate_every: int) -> None:
    """Torch's own generator has no part in it; how often is validated does not change what is trained."""
    method = tiny_method(autoencoder=Stage(5, 16, 1e-3), diffusion=Stage(20, 32, 1e-3))
    config = replace(tiny, method=method, validate_every=validate_every)
    whole = train(replace(config, out=str(tmp_path / "whole")), quiet=True)
    with pytest.raises(KeyboardInterrupt):
        stop_after(config, 10)
    torch.manual_seed(99)
    assert_same(weights(whole), weights(train(config, quiet=True)))
    rare = train(replace(config, out=str(tmp_path / "rare"), validate_every=999), quiet=True)
    assert_same(weights(whole), weights(rare))


def test_held_out_errors_are_those_of_the_final_model(tiny: Config) -> None:
    lines = train(replace(tiny, method=tiny_method()), quiet=True).metrics()
    measured = [line["held_out/sampled_action_rmse"] for line in lines if "held_out/sampled_action_rmse" in line]
    method = load_method(Run(tiny.out))
    assert not method.training
    _, held = run_data(Run(tiny.out))
    assert held is not None
    again = method.validate("diffusion", method.snippets(held), torch.Generator().manual_seed(0))
    assert again["sampled_action_rmse"] == pytest.approx(measured[-1], rel=1e-5)


def test_a_run_from_another_device_continues(tiny: Config) -> None:
    """The state of a CUDA generator (16 bytes) does not fit the CPU's: the run goes on with other random numbers."""
    with pytest.raises(KeyboardInterrupt):
        stop_after(tiny, 10)
    latest = Run(tiny.out).latest()
    assert latest is not None
    tensors = load_file(latest / "training.safetensors")
    cuda_state = torch.zeros(16, dtype=torch.uint8)
    save_file({**tensors, "generator": cuda_state}, latest / "training.safetensors")
    state = json.loads((latest / "state.json").read_text())
    (latest / "state.json").write_text(json.dumps({**state, "device": "cuda"}))
    assert train(tiny, quiet=True).done == {"autoencoder", "diffusion"}


def test_a_run_that_is_not_trained_to_its_end_is_not_planned_with(tiny: Config) -> None:
    with pytest.raises(KeyboardInterrupt):
        stop_after(tiny, 10)
    with pytest.raises(LWDError, match=r"not trained to its end \(autoencoder, diffusion is missing\)|not trained to its end"):
        lwd.load(tiny.out)


def test_one_episode_trains_without_validation(tiny: Config) -> None:
    """A latent set of a single snippet has no covariance; nothing is held out."""
    save_npz(reaching(episodes=1, length=8), tiny.data)
    run = train(replace(tiny, starts="first", holdout=0.0, method=tiny_method(world_model=False)), quiet=True)
    assert run.done == {"autoencoder", "diffusion"}
    assert not any(key.startswith("held_out") for line in run.metrics() for key in line)
    assert np.isfinite(lwd.load(run.path).plan(np.array([250.0, 50.0])).act(np.array([250.0, 50.0]))).all()
