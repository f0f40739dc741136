"""A trained run as ONNX graphs: `lwd export RUN --to onnx` writes them with a report that compares them with torch.

generator.onnx: raw history (1, K, Do), and as the model needs them the index of the `task` (1,), the `horizon` (1,) and the `noise` of all
draws (draws, D) -> `weights` (P,), `phase_steps` (1,) and `latent` (Z,); chunks of actions: `actions` (T, Da). The denoising loop is
unrolled, and everything that scales is inside. policy.onnx: `weights` (P,), raw `obs` (Do,), with phase `phase_steps` (1,) and the age `t`
(1,) -> `action` (Da,).
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwd.config import EvalSettings, require
from lwd.deploy.generate import as_policy, describe, layers, scaling, told
from lwd.deploy.runtime import GENERATOR, POLICY, OnnxGenerator, session
from lwd.deploy.source import TOLERANCE, action_range
from lwd.errors import LWDError
from lwd.files import write_json
from lwd.methods.base import Method, with_phase
from lwd.methods.correction import CorrectedMethod
from lwd.methods.diffusion import sampling_table
from lwd.methods.diffusion_policy import DiffusionPolicy
from lwd.methods.latent import LatentMethod
from lwd.methods.lwd import LWD
from lwd.methods.mlp import MLP
from lwd.nn.policy import PolicyShape
from lwd.training.run import Run
from lwd.training.train import load_method

OPSET = 18
QUERIES, STEPS = 8, 64  # of the comparison with torch: queries, and steps of each policy


class GeneratorGraph(nn.Module):
    """What a query computes, for one row."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method, policies = method, isinstance(method, LWD | MLP)
        self.outputs = ["weights", "phase_steps", "latent"][: 3 if isinstance(method, LWD) else 2] if policies else ["actions"]

    def forward(self, history: Tensor, task: Tensor | None = None, horizon: Tensor | None = None, noise: Tensor | None = None) -> Any:
        """See the head of this file."""
        own: Any = self.method
        cond = own.condition(own.normalizer.encode_obs(history), task)
        draws: Any = None if noise is None else iter(noise.unsqueeze(1))
        if isinstance(own, MLP):
            return told(own, cond[:, own.normalizer.feature_dim :]), torch.full((1,), float(own.horizon * own.config.phase))
        if not isinstance(own, LWD):
            return own.normalizer.decode_action(own.chunk(cond, draws)[:, own.before :])[0]
        ends = torch.full((1,), float(own.horizon)) if horizon is None else horizon
        latent = own.sample(own.tell(cond, ends), draws)
        return own.generate(own.tell(latent, ends))[0], ends.clone() if own.config.phase else torch.zeros(1), latent[0]


class PolicyGraph(nn.Module):
    """What a policy computes at every control step, for one row."""

    def __init__(self, method: LWD | MLP) -> None:
        super().__init__()
        self.normalizer, self.shape = method.normalizer, PolicyShape(layers(method))
        self.phase = method.config.phase

    def forward(self, weights: Tensor, obs: Tensor, phase_steps: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """See the head of this file."""
        x, parts = self.normalizer.encode_obs(obs[None]), iter(weights.split([n for a, b in self.shape.pairs for n in (a * b, b)]))
        if phase_steps is not None and t is not None:
            x = with_phase(x, (t / phase_steps).clamp_max(1))
        for i, pair in enumerate(self.shape.pairs):
            matrix = next(parts).view(pair)
            x = torch.addmm(next(parts), torch.relu(x) if i else x, matrix)
        return self.normalizer.decode_action(x)[0]


def export_onnx(path: str, folder: Path, settings: EvalSettings) -> list[Path]:
    """Writes the graphs of a run; `LWDError` for a method that has none."""
    run = Run(path)
    method = load_method(run)
    method.sample_with(settings)
    return write_graphs(method, describe(run, method), folder)


def write_graphs(method: Method, about: dict[str, str], folder: Path) -> list[Path]:
    """Writes the graphs and parity.json; `LWDError` for graphs that differ from torch."""
    corrected = isinstance(method, CorrectedMethod) and method.settings.correct
    fits = isinstance(method, LatentMethod | MLP | DiffusionPolicy) and not corrected
    require(fits, f"{method.config.name}{' with a correction' * corrected} has no graph: only lwd, mlp and uncorrected chunks have one")
    written, generator = [folder / GENERATOR], GeneratorGraph(method)
    horizons = [method.horizon / method.span, method.horizon, method.horizon * method.span]
    about = {**about, "tasks": json.dumps(method.spec.tasks), "horizons": json.dumps(horizons)}
    if isinstance(method, LWD | MLP):
        about["scaling"] = json.dumps({name: np.asarray(value).tolist() for name, value in scaling(method, 0).items()})
        graph, written = PolicyGraph(method), [*written, folder / POLICY]
        step = {"weights": torch.zeros(graph.shape.count), "obs": torch.zeros(method.spec.obs_dim)}
        step |= {"phase_steps": torch.ones(1), "t": torch.zeros(1)} if graph.phase else {}
        _export(graph, step, ["action"], about, written[1])
    _export(generator, query(method, torch.Generator().manual_seed(0)), generator.outputs, about, written[0])
    report = parity(method, folder)
    write_json(folder / "parity.json", report)
    worst = max(report["plan_error"], report["action_error"], report["graph_error"])
    require(worst <= 10 * TOLERANCE, f"the graphs in {folder} differ from torch by {worst:.1e} of the range: do not use them")
    return [*written, folder / "parity.json"]


def query(method: Method, generator: torch.Generator) -> dict[str, Tensor]:
    """Random inputs of the generator's graph: an observation within the range of the data, a task, a horizon, noise."""
    own, config, sampling = method.normalizer, method.config, method.sampling
    found = {"history": own.decode_obs(torch.rand((1, method.history, own.feature_dim), generator=generator) * 2 - 1)}
    if method.task_dim:
        found["task"] = torch.randint(method.task_dim, (1,), generator=generator)
    if method.span > 1:
        found["horizon"] = method.horizon * method.span ** (torch.rand(1, generator=generator) * 2 - 1).round()
    if sampling is not None and config.objective != "regression":
        table = sampling_table(config.objective, config.prediction, sampling.sampler, sampling.steps, config.diffusion_steps)
        size = config.latent if isinstance(method, LatentMethod) else method.spec.length * method.spec.action_dim
        found["noise"] = torch.randn((1 + sum(step.from_noise != 0 for step in table), size), generator=generator)
    return found


@torch.no_grad()
def parity(method: Method, folder: Path) -> dict[str, Any]:
    """The graphs against torch's own plans, on random queries and observations, some of them far away from the data: the largest errors of
    what is planned (of the largest weight, or of the action's range), and of the actions of a policy in numpy and in its graph (of the
    action's range)."""
    generator, onnx, own = torch.Generator().manual_seed(1), OnnxGenerator(folder), method.normalizer
    graph = session(folder / POLICY) if isinstance(method, LWD | MLP) else None
    errors: dict[str, list[float]] = {"plan_error": [], "action_error": [0.0], "graph_error": [0.0]}
    for _ in range(QUERIES):
        asked = query(method, generator)
        task = method.spec.tasks[int(asked["task"])] if "task" in asked else None
        noise, every = asked.get("noise"), int(asked.get("horizon", torch.zeros(1)))
        method.ask_for(EvalSettings(replan_every=every))
        draws: Any = None if noise is None else iter(noise.unsqueeze(1))
        controller: Any = method.plan(asked["history"], None if task is None else [task], draws)
        found = onnx.plan(asked["history"][0].numpy(), task, every, noise)
        if graph is None:
            half = own.action_half.clamp_min(1e-6).numpy()
            errors["plan_error"].append(float((np.abs(controller.actions[0].numpy() - found.actions) / (2 * half)).max()))
            continue
        reference, t = as_policy(method, controller, onnx.about), torch.zeros(1)
        weights, other, wide = reference.tensors["weights"], found.tensors["weights"], action_range(reference)
        errors["plan_error"].append(float(np.abs(weights - other).max() / np.abs(weights).max()))
        for step in range(STEPS):
            obs = own.decode_obs(torch.rand((1, own.feature_dim), generator=generator) * 2 - 1) * (1 if step % 4 else 10.0 ** (step % 5))
            t = torch.randint(2 * method.horizon, (1,), generator=generator)
            feed = {"weights": weights, "obs": obs[0].numpy(), "t": t.float().numpy(), "phase_steps": reference.tensors["phase_steps"]}
            got = graph.run(None, {given.name: feed[given.name] for given in graph.get_inputs()})[0]
            wanted = controller.act(obs, t)[0].numpy()
            errors["action_error"].append(float((np.abs(found.act(feed["obs"], int(t)) - wanted) / wide).max()))
            errors["graph_error"].append(float((np.abs(got - wanted) / wide).max()))
    versions = {name: version(name) for name in ("torch", "onnx", "onnxruntime", "numpy")}
    sizes = {"queries": QUERIES, "steps_per_query": 0 if graph is None else STEPS, "opset": OPSET}
    return {**{name: max(values) for name, values in errors.items()}, **sizes, "versions": versions}


def _export(graph: nn.Module, inputs: dict[str, Tensor], outputs: list[str], about: dict[str, str], path: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401 - what torch.onnx writes graphs with
    except ImportError as error:
        raise LWDError(f'{error.name} is not installed: run  pip install "latent-weight-diffusion[onnx]"') from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with _quiet(), torch.no_grad():
        how: Any = {"output_names": outputs, "opset_version": OPSET, "dynamo": True, "external_data": False, "verbose": False}
        program: Any = torch.onnx.export(graph.eval(), (), kwargs=inputs, **how)
        program.model.metadata_props.update(about)
        program.save(path, external_data=False)
    onnx.checker.check_model(str(path), full_check=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter tells of what is none of a user's business: libraries that it does not need, deprecations inside it."""
    fast, level = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    torch.backends.mha.set_fastpath_enabled(False)  # a fused layer of transformers that ONNX does not have
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        logging.disable(level)
