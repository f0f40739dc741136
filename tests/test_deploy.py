"""Policies as files: what is written is what torch does, what is damaged is refused, and nothing but numpy is needed to run one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

import lwd
from conftest import tiny_method
from lwd.cli import main
from lwd.config import DiffusionPolicyConfig, EvalSettings, LWDConfig, MethodConfig, MLPConfig, Stage
from lwd.deploy import OnnxGenerator, Policy, load_policy
from lwd.deploy.generate import as_policy
from lwd.deploy.policy import parse
from lwd.deploy.source import action_range, write_numpy
from lwd.episodes import Spec
from lwd.errors import LWDError
from lwd.methods.base import Method, make_method
from lwd.methods.diffusion import draw
from lwd.presets import PRESETS, shrink
from lwd.rollout import Scenario, rollout
from lwd.training.run import Run
from lwd.training.train import load_method, train

HERE = (250.0, 50.0)
ABOUT = {"obs_names": '["x", "y", "angle"]', "action_names": '["u", "v"]', "rate": "10"}
LIMITS = ((0.0, 0.0), (512.0, 512.0))
KINDS: dict[str, tuple[MethodConfig, Any, Any]] = {  # config, what is said of the data, task
    "phase, horizons, tasks": (tiny_method(phase=True, span=4), {"tasks": ("left", "right")}, "right"),
    "angle, no limits": (tiny_method(objective="flow"), {"angles": (1,), "action_low": None, "action_high": None}, None),
    "mlp, tasks": (MLPConfig(policy=(24, 16)), {"tasks": ("left", "right"), "angles": (2, 0)}, "left"),
    "mlp, phase, tasks": (MLPConfig(policy=(24, 16), phase=True), {"tasks": ("left", "right"), "angles": (1,)}, "right"),
}


def made(config: MethodConfig, **changes: Any) -> Method:
    """A method with random weights of three observed and two action dimensions, in units of hundreds. The first one hardly varies."""
    torch.manual_seed(0)
    spec = replace(Spec(3, 2, 8, 8, action_low=LIMITS[0], action_high=LIMITS[1]), **changes)
    method = make_method(config, spec).eval().requires_grad_(False)
    for parameter in method.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    own, linear = method.normalizer, len(method.normalizer.linear)
    own.obs_center.copy_(torch.tensor([200.0, 250.0, 300.0])[:linear])
    own.obs_scale.copy_(torch.tensor([0.0, 0.01, 0.005])[3 - linear :])
    own.action_center.copy_(torch.tensor([256.0, 200.0]))
    own.action_half.copy_(torch.tensor([100.0, 300.0]))
    return method


def planned(kind: str) -> tuple[Any, Policy]:
    """A controller of torch, and the same as a policy."""
    config, changes, task = KINDS[kind]
    method = made(config, **changes)
    history = torch.tensor([[[200.0, 1.0, 250.0]]])
    controller = method.plan(history, None if task is None else [task], torch.Generator().manual_seed(1))
    return controller, as_policy(method, controller, ABOUT)


def observations(count: int, angles: bool = True) -> Iterator[tuple[np.ndarray, int]]:
    """Raw observations, some of them very far away, and ages."""
    random = np.random.default_rng(0)
    for i in range(count):
        far = 10.0 ** random.integers(0, 6) if i % 4 == 0 else 1.0
        yield (random.uniform(-400, 400, 3) * far).astype(np.float32), int(random.integers(0, 40))


def largest_error(controller: Any, policy: Policy, act: Callable[[np.ndarray, int], np.ndarray], count: int = 10_000) -> float:
    """The largest difference to torch in ranges of the action."""
    cases = list(observations(count))
    rows = torch.zeros(count, dtype=torch.int64)
    every = controller.select(rows)
    wanted = every.act(torch.from_numpy(np.stack([obs for obs, _ in cases])), torch.tensor([t for _, t in cases])).numpy()
    found = np.stack([act(obs, t) for obs, t in cases])
    assert np.ptp(found, axis=0).min() > 10  # it does something
    return float((np.abs(found - wanted) / action_range(policy)).max())


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_does_what_torch_does(kind: str) -> None:
    controller, policy = planned(kind)
    again = parse(policy.to_bytes())
    assert again.to_bytes() == policy.to_bytes() and again.rate == 10
    assert largest_error(controller, policy, again.act) < 1e-5
    stored = safetensors.numpy.load(policy.to_bytes())
    np.testing.assert_array_equal(stored["weights"], policy.tensors["weights"])


def test_only_numpy_is_needed() -> None:
    code = "import sys; from lwd.deploy import load_policy; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env=environment()).stdout
    own = {name for name in loaded.split() if name not in sys.stdlib_module_names and "cython" not in name}
    assert own == {"__main__", "lwd", "numpy"}


def environment() -> dict[str, str]:
    """One without the hooks of installed packages (`-S`), but with their modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(lwd.__file__).parents[1]), str(Path(np.__file__).parents[1])])}


def test_generated_files_are_the_plans_of_torch(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(trained), "--obs", "250,50", "--seed", "3", "--rate", "25"]
    assert main([*words, "--n", "2", "--out", str(tmp_path / "two")]) == 0 and main([*words, "--out", str(tmp_path / "one")]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in printed] == ["policy-3.safetensors", "policy-4.safetensors", "policy-3.safetensors"]
    assert main(["export", str(tmp_path / "two"), "--to", "c"]) == 2
    assert f"give one of its policies, {printed[0]}" in capsys.readouterr().err
    first, second, alone = map(load_policy, printed)
    np.testing.assert_array_equal(first.tensors["weights"], alone.tensors["weights"])
    assert np.abs(first.tensors["weights"] - second.tensors["weights"]).max() > 0
    for seed, policy in ((3, first), (4, second)):
        plan = lwd.load(trained, seed=seed).plan(np.array(HERE))
        for t in (0, 5, 100):
            np.testing.assert_allclose(policy.act(HERE, t), plan.act(np.array(HERE), t), atol=1e-5 * 512)
        assert policy.about["seed"] == str(seed) and json.loads(policy.about["latent"]) == plan.policies.latent[0].tolist()  # type: ignore[attr-defined]
    assert (first.rate, first.obs_names, first.action_names) == (25, ["obs 0", "obs 1"], ["action 0", "action 1"])
    assert first.about["sampler"] == "ddim4" and first.about["run"] == str(trained) and len(first.about["checkpoint"]) == 64


@pytest.fixture(scope="module")
def pusht(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on PushT with phase and random horizons, hardly trained."""
    config = replace(PRESETS["pusht-cloning"][1], data="embedded", out=str(tmp_path_factory.mktemp("pusht") / "run"), threads=1)
    return train(shrink(config), quiet=True).path


def test_policies_for_a_reset_of_the_simulator(pusht: Path, tmp_path: Path) -> None:
    words = ["generate", str(pusht), "--reset-seed", "7", "--replan-every", "16", "--sampler-steps", "2", "--out", str(tmp_path)]
    assert main(words) == 0
    policy = load_policy(tmp_path / "policy-0.safetensors")
    assert policy.tensors["phase_steps"].tolist() == [16.0] and policy.rate == 10 and policy.obs_names[-1] == "agent y"
    assert "pixels" in policy.about["units"] and policy.about["sampler"] == "ddim2"
    obs = np.array(json.loads(policy.about["obs"]))
    plan = lwd.load(pusht, seed=0, steps=2).plan(obs, replan_every=16)
    assert np.abs(policy.act(obs, 12) - plan.act(obs, 12)).max() < 1e-5 * 512
    assert np.abs(policy.act(obs, 12) - policy.act(obs, 0)).max() > 1e-3


def test_what_cannot_be_generated(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = ["--obs", "250,50", "--out", str(tmp_path)]
    cases = {
        "either --obs or --reset-seed": ["--reset-seed", "1", *here],
        "names no simulator": ["--reset-seed", "1", "--out", str(tmp_path)],
        "at least 1, not 0": [*here, "--n", "0"],
        "leave out task='left'": [*here, "--task", "left"],
        "shape (batch, 1, 2), not (1, 1, 3)": ["--obs=1,2,3", "--out", str(tmp_path)],
    }
    for message, words in cases.items():
        assert main(["generate", str(trained), *words]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    chunks = made(DiffusionPolicyConfig(diffusion=Stage(1, 1), denoiser_width=8, denoiser_depth=1))
    with pytest.raises(LWDError, match="diffusion_policy plans actions instead of policies"):
        as_policy(chunks, chunks.plan(torch.zeros(1, 1, 3)), ABOUT)


def edited(policy: Policy, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The file of a policy whose header was changed."""
    content = policy.to_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    _, policy = planned("phase, horizons, tasks")
    content, file = policy.to_bytes(), tmp_path / "policy.safetensors"
    cases: list[tuple[bytes, str]] = [
        (content[: len(content) // 2], "the header is cut off|within .* bytes"),
        (content[:-1], "phase_steps should be .* within"),
        (content + b"\0" * 4, "4 bytes follow the last tensor"),
        (b"", "the header is cut off"),
        (content[:8] + b"[" * 400 + content[408:], "the header is no JSON"),
        (content.replace(b'"weights"', b'"weighty"'), "its tensors are not sizes, order, weights"),
        (content.replace(b'{"dtype":"I32"', b'{"dtype":"U32"', 1), "sizes should be .*, not .*U32"),
        (edited(policy, lambda header: header["weights"].update(shape=[-1])), "weights should be"),
        (edited(policy, lambda header: header["weights"].update(shape=[[1]])), "weights is no vector"),
        (edited(policy, lambda header: header["order"].update(data_offsets=[0, 12])), "order should be"),
        (edited(policy, lambda header: header["__metadata__"].update(version="2")), "does not say .*version': '1'"),
        (
            edited(policy, lambda header: header["__metadata__"].update(obs_names='["x"]')),
            "does not name 3 observed and 2 action dimensions",
        ),
        (edited(policy, lambda header: header["__metadata__"].pop("action_names")), "no names of dimensions"),
        (edited(policy, lambda header: header["__metadata__"].update(rate="nan")), "its rate is no number of steps per second"),
        (edited(policy, lambda header: header.pop("__metadata__")), "no metadata of strings"),
    ]
    for damaged, message in cases:
        file.write_bytes(damaged)
        with pytest.raises(LWDError, match=rf"(?s)policy\.safetensors is no policy: .*({message}).*; `lwd generate` writes policies"):
            load_policy(file)
    values = {
        "weights": ([np.nan] * len(policy.tensors["weights"]), "weights is no vector of finite numbers"),
        "sizes": ([4, 16, 16, 3], "weights has .* numbers instead of"),
        "order": ([0, 1, 1], "order does not name every observed dimension once"),
        "obs_scale": ([1.0], "obs_scale has 1 numbers instead of 3"),
        "obs_limit": ([-5.0], "out of range"),
        "phase_steps": ([0.0], "the first layer has 4 inputs instead of 3"),
        "action_low": ([600.0, 0.0], "action_low lies above action_high"),
    }
    for name, (value, message) in values.items():
        with pytest.raises(LWDError, match=message):
            Policy({**policy.tensors, name: np.array(value)}, policy.about)
    with pytest.raises(LWDError, match=r"no policy: .*No such file"):
        load_policy(tmp_path / "nowhere")


def test_observations_that_a_policy_refuses() -> None:
    _, policy = planned("angle, no limits")
    for bad in (np.nan, np.inf, -np.inf, 1e300):
        for place in range(3):
            obs = np.zeros(3)
            obs[place] = bad
            with pytest.raises(LWDError, match="NaN or infinite"):
                policy.act(obs)
    for wrong in (np.zeros(4), np.zeros((1, 3)), 0.0):
        with pytest.raises(LWDError, match=r"shape \(3,\) and t >= 0"):
            policy.act(wrong)
    with pytest.raises(LWDError, match="t >= 0, not"):
        policy.act(np.zeros(3), -1)
    huge = Policy(
        {**policy.tensors, "weights": np.random.default_rng(0).choice([3e38, -3e38], len(policy.tensors["weights"]))}, policy.about
    )
    with pytest.raises(LWDError, match="action is not a number"):
        huge.act(np.array([1.0, 2.0, 3.0]))
    first = policy.act(np.zeros(3))
    kept = first.copy()
    policy.act(np.ones(3))
    np.testing.assert_array_equal(first, kept)  # an action stays what it was


def test_a_file_of_numpy_stands_alone(tmp_path: Path) -> None:
    _, policy = planned("phase, horizons, tasks")
    (path,) = write_numpy(policy, tmp_path)
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; from policy import act, POLICY\n"
        "print(act([100, 200, 300], 3).tolist(), 'lwd' in sys.modules, POLICY.obs_names)"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(path.parent), str(Path(np.__file__).parents[1])]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == f"{policy.act([100, 200, 300], 3).tolist()} False ['x', 'y', 'angle']\n"


class Deployed:
    """A planner for the rollout of `lwd eval` whose controllers are policies that left torch; `deploy` takes a policy there."""

    def __init__(
        self, method: Method, deploy: Callable[[Any, torch.Tensor, torch.Generator], Callable[[np.ndarray, int], np.ndarray]]
    ) -> None:
        self.method, self.deploy, self.history, self.horizon = method, deploy, method.history, method.horizon
        self.acts: list[Any] = []

    def plan(self, history: torch.Tensor, task: Any = None, generator: Any = None) -> Deployed:
        """One policy per row."""
        made = Deployed(self.method, self.deploy)
        made.horizon = 1 << 31
        made.acts = [self.deploy(self.method, row[None], own) for row, own in zip(history, generator, strict=True)]
        return made

    def update(self, rows: torch.Tensor, new: Deployed) -> None:
        for row, act in zip(rows.tolist(), new.acts, strict=True):
            self.acts[row] = act

    def act(self, obs: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.stack([act(row, int(age)) for act, row, age in zip(self.acts, obs.numpy(), t, strict=True)]))


def test_deployed_policies_score_as_torch_does_episode_by_episode(pusht: Path, tmp_path: Path) -> None:
    """On the same seeds and noise, in the loop of `lwd eval`: numpy, C, and policies that onnxruntime generates."""
    pytest.importorskip("onnxscript")
    from lwd.deploy.graphs import write_graphs
    from test_c import COMPILERS, Kernel

    if not COMPILERS:
        pytest.skip("there is no C compiler here")
    method, kernel, about = load_method(Run(pusht)), Kernel(tmp_path), {**ABOUT, "obs_names": json.dumps([str(i) for i in range(18)])}
    method.sample_with(EvalSettings(sampler_steps=2))
    write_graphs(method, about, tmp_path)
    onnx = OnnxGenerator(tmp_path)

    def policy(own: Method, history: torch.Tensor, generator: torch.Generator) -> Policy:
        return as_policy(own, own.plan(history, None, [generator]), about)

    def generated(own: Method, history: torch.Tensor, generator: torch.Generator) -> Policy:
        assert isinstance(own.config, LWDConfig)
        noise = draw((1, own.config.latent), generator, torch.device("cpu"))
        return onnx.plan(history[0].numpy(), replan_every=16, noise=noise.numpy())

    forms: dict[str, Any] = {
        "numpy": lambda *given: policy(*given).act,
        "C": lambda *given: kernel.load(policy(*given).to_bytes()),
        "ONNX": lambda *given: generated(*given).act,
    }
    scenario = Scenario("pusht", "keypoints", (100_000, 100_001))
    settings = EvalSettings(episodes=2, max_steps=48, replan_every=16)
    method.ask_for(settings)
    records = {
        name: rollout(planner, scenario, settings, workers=0)
        for name, planner in {"torch": method, **{name: Deployed(method, deploy) for name, deploy in forms.items()}}.items()
    }
    wanted = records.pop("torch").episodes
    assert len({episode["final_coverage"] for episode in wanted}) == 2
    for found in records.values():
        for mine, theirs in zip(found.episodes, wanted, strict=True):
            assert mine["queried_at"] == theirs["queried_at"] == [0, 16, 32]
            np.testing.assert_allclose(mine["coverage"], theirs["coverage"], atol=1e-3)
            assert mine["max_overlap"] == pytest.approx(theirs["max_overlap"], abs=1e-3) and mine["success"] == theirs["success"]
