"""Runs as ONNX graphs: the same plans as torch's for the same noise, run by onnxruntime without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lwd
from conftest import tiny_method
from lwd.cli import main
from lwd.config import DiffusionPolicyConfig, MethodConfig, MLPConfig, Stage
from lwd.deploy import Chunk, OnnxGenerator, Policy
from lwd.deploy.graphs import write_graphs
from lwd.errors import LWDError
from test_deploy import ABOUT, HERE, made

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

TASKS = {"tasks": ("left", "right")}
CHUNKS: dict[str, Any] = {"diffusion": Stage(1, 1), "history": 2, "sampler_steps": 1}
LWD = tiny_method(phase=True, span=4, sampler="ddpm", sampler_steps=2)
MLP = MLPConfig(policy=(24, 16))
U_NET = DiffusionPolicyConfig(denoiser="unet", unet_size="xs", **CHUNKS)
CASES: dict[str, tuple[MethodConfig, dict[str, Any], dict[str, list[int]], set[str]]] = {  # config, data, inputs, outputs
    "lwd": (LWD, TASKS, {"history": [1, 1, 3], "task": [1], "horizon": [1], "noise": [2, 8]}, {"weights", "phase_steps", "latent"}),
    "mlp": (MLP, {**TASKS, "angles": (2, 0)}, {"history": [1, 1, 3], "task": [1]}, {"weights", "phase_steps"}),
    "mlp, phase": (replace(MLP, phase=True), TASKS, {"history": [1, 1, 3], "task": [1]}, {"weights", "phase_steps"}),
    "chunks": (U_NET, {"angles": (1,)}, {"history": [1, 2, 3], "noise": [1, 16]}, {"actions"}),
}


@pytest.mark.parametrize("case", CASES)
def test_graphs_do_what_torch_does(case: str, tmp_path: Path) -> None:
    config, data, inputs, outputs = CASES[case]
    method = made(config, **data)
    paths = write_graphs(method, ABOUT, tmp_path)
    graph = onnx.load(tmp_path / "generator.onnx")
    assert [(own.domain, own.version) for own in graph.opset_import] == [("", 18)]
    assert {own.name: [axis.dim_value for axis in own.type.tensor_type.shape.dim] for own in graph.graph.input} == inputs
    assert {own.name for own in graph.graph.output} == outputs
    policies = "weights" in outputs
    assert [path.name for path in paths] == ["generator.onnx", *["policy.onnx"] * policies, "parity.json"]
    for path in paths[:-1]:
        told = {own.key: own.value for own in onnx.load(path).metadata_props}
        assert ABOUT.items() <= told.items() and json.loads(told["tasks"]) == list(data.get("tasks", ()))
    report = json.loads(paths[-1].read_text())
    assert report["queries"] == 8 and report["opset"] == 18 and report["versions"]["onnxruntime"]
    assert 0 < max(report["plan_error"], report["action_error"], report["graph_error"]) < 1e-5
    generator, task = OnnxGenerator(tmp_path, seed=0), "left" if "tasks" in data else None
    plans = [generator.plan((200.0, 1.0, 250.0), task) for _ in range(2)]
    assert all(isinstance(plan, Policy if policies else Chunk) for plan in plans)
    assert (np.abs(plans[0].act((200.0, 1.0, 250.0), 1) - plans[1].act((200.0, 1.0, 250.0), 1)).max() > 0) == ("noise" in inputs)


def test_a_run_without_torch(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands, and a robot that has numpy and onnxruntime only: for the same noise the policy of torch."""
    assert main(["export", str(trained), "--to", "onnx", "--sampler-steps", "2", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in ("generator.onnx", "policy.onnx", "parity.json")]
    plan = lwd.load(trained, seed=3, steps=2).plan(np.array(HERE))
    noise = torch.randn((1, 8), generator=torch.Generator().manual_seed(3))
    code = (
        "import json, sys; from lwd.deploy import OnnxGenerator; given = json.loads(sys.argv[2]); generator = OnnxGenerator(sys.argv[1])\n"
        "policy = generator.plan(given['obs'], noise=given['noise']); assert not {'torch', 'tyro'} & set(sys.modules)\n"
        "print(json.dumps([policy.act(given['obs'], 3).tolist(), policy.about]))"
    )
    given = json.dumps({"obs": HERE, "noise": noise.tolist()})
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path), given], capture_output=True, text=True, check=True).stdout
    action, about = json.loads(said)
    np.testing.assert_allclose(action, plan.act(np.array(HERE), 3), atol=1e-5 * 512)
    assert about["sampler"] == "ddim2" and about["run"] == str(trained) and about["method"] == "lwd"


def test_what_graphs_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    chunks = {**CHUNKS, "denoiser": "transformer", "transformer_size": "xs"}
    with pytest.raises(LWDError, match="diffusion_policy with a correction has no graph"):
        write_graphs(made(DiffusionPolicyConfig(correct=True, **chunks)), ABOUT, tmp_path)
    write_graphs(made(DiffusionPolicyConfig(**chunks), **TASKS), ABOUT, tmp_path)
    generator = OnnxGenerator(tmp_path)
    past, here = np.array([[200.0, 1.0, 250.0], [210.0, 2.0, 240.0]]), np.array([210.0, 2.0, 240.0])
    noise = np.ones(generator.shapes["noise"])
    still, moved = (generator.plan(obs, "left", noise=noise) for obs in (here, past))
    np.testing.assert_array_equal(still.actions, generator.plan(np.stack([here, here]), "left", noise=noise).actions)
    assert np.abs(still.actions - moved.actions).max() > 0 and len(still.actions) == 8
    with pytest.raises(LWDError, match=r"actions for 8 steps \(t = 0 ... 7\), not for t = 8"):
        still.act(here, 8)
    for obs in (np.zeros(2), np.zeros((3, 3)), np.full(3, np.nan)):
        with pytest.raises(LWDError, match=r"finite observations of shape \(3,\) or \(2, 3\)"):
            generator.plan(obs, "left")
    for task in ("up", None):
        with pytest.raises(LWDError, match=f"knows the tasks left, right, not {task}"):
            generator.plan(here, task)
    (tmp_path / "generator.onnx").write_bytes(b"no graph")
    with pytest.raises(LWDError, match=r"generator\.onnx cannot be loaded .*: `lwd export RUN --to onnx` writes it"):
        OnnxGenerator(tmp_path)
    assert main(["export", str(tmp_path), "--to", "c"]) == 2 and "is no file: `lwd generate" in capsys.readouterr().err
    for module, extra in (("onnxscript", "onnx"), ("onnxruntime", "deploy")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(LWDError, match=rf'pip install "latent-weight-diffusion\[{extra}\]"'):
            write_graphs(made(MLPConfig()), ABOUT, tmp_path) if extra == "onnx" else OnnxGenerator(tmp_path)
