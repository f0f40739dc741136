"""From a trained run to policies as files: what `lwd generate` does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from lwd.config import require
from lwd.data.normalizer import FARTHEST
from lwd.deploy.policy import Policy
from lwd.deploy.request import Request
from lwd.envs.base import family
from lwd.errors import LWDError
from lwd.methods.base import Method
from lwd.methods.lwd import LWD, PolicyController
from lwd.methods.mlp import MLP, MLPController
from lwd.policy import Generator
from lwd.rollout import Scenario
from lwd.timing import first_observations
from lwd.training.run import Run

LARGEST = float(np.finfo(np.float32).max)  # stands for the limit of an action that has none: a file holds finite numbers only


def generate(path: str, request: Request) -> Iterator[tuple[int, Policy]]:
    """Policies of a run, each with its seed. A policy does not depend on how many are asked for."""
    require(request.n >= 1, f"n counts policies: at least 1, not {request.n}")
    require(bool(request.obs) != (request.reset_seed is not None), "say what the policies are for: either --obs or --reset-seed")
    own = Generator(path, sampler=request.sampler, steps=request.sampler_steps)
    method, spec, obs = own.method, own.method.spec, torch.tensor(request.obs)
    if request.reset_seed is not None:
        task = request.task or (spec.tasks[0] if len(spec.tasks) == 1 else None)
        require(spec.env is not None, "the data of this run names no simulator to reset: give the observation with --obs")
        obs = first_observations(Scenario(str(spec.env), spec.obs_kind, (request.reset_seed,), None if task is None else (task,)))[0]
    about = {**describe(own.run, method, request.rate), "task": request.task or "", "obs": json.dumps(obs.tolist())}
    how: Any = {"tag": request.tag, "near": request.near, "blend": request.blend}
    about["steered"] = json.dumps(how) if request.tag or request.near >= 0 or request.blend else ""
    for seed in range(request.seed, request.seed + request.n):
        own.generator.manual_seed(seed)
        controller = own.plan(obs, request.task, replan_every=request.replan_every, **how).policies
        yield seed, as_policy(method, controller, {**about, "seed": str(seed)})


def as_policy(method: Method, controller: Any, about: dict[str, str]) -> Policy:
    """A controller of one row as a policy; `LWDError` for one that is a chunk of actions."""
    if isinstance(controller, PolicyController):
        steps = 0.0 if controller.ends is None else float(controller.ends[0])
        about = {**about, "latent": json.dumps(controller.latent[0].tolist())}
        return Policy({**scaling(method, steps), "weights": controller.weights[0].numpy()}, about)
    if isinstance(controller, MLPController):
        steps = float(method.horizon * controller.method.config.phase)
        return Policy({**scaling(method, steps), "weights": told(controller.method, controller.past).numpy()}, about)
    raise LWDError(f"{method.config.name} plans actions instead of policies: take it to a robot with lwd export RUN --to onnx")


def layers(method: Method) -> tuple[int, ...]:
    """Sizes of the layers of a method's policies, inputs first."""
    assert isinstance(method, LWD | MLP)
    if isinstance(method, LWD):
        return method.shape.sizes
    return (method.normalizer.feature_dim + method.config.phase, *method.config.policy, method.spec.action_dim)


def told(method: MLP, past: Tensor) -> Tensor:
    """(1, C - F), what the shared network is told beside the present observation -> weights (P,) of a policy that knows it by its bias."""
    parts: list[Tensor] = []
    for layer in (module for module in method.policy if isinstance(module, nn.Linear)):
        matrix, features = layer.weight.T, len(layer.weight.T) if parts else method.normalizer.feature_dim + method.config.phase
        parts += [matrix[:features].flatten(), layer.bias if parts else layer.bias + (past @ matrix[features:])[0]]
    return torch.cat(parts)


def scaling(method: Method, phase_steps: float) -> dict[str, ArrayLike]:
    """The tensors of a policy file but for the weights."""
    own = method.normalizer
    found: dict[str, ArrayLike] = {name: getattr(own, name).numpy() for name in ("obs_center", "obs_scale", "action_center", "action_half")}
    found |= {name: getattr(own, name).clamp(-LARGEST, LARGEST).numpy() for name in ("action_low", "action_high")}
    found |= {"sizes": layers(method), "order": torch.cat([own.linear, own.angular]).numpy()}
    return {**found, "obs_limit": [FARTHEST], "phase_steps": [phase_steps]}


def describe(run: Run, method: Method, rate: float = 0.0) -> dict[str, str]:
    """Names, units and rate of a run's numbers, and where its weights come from: metadata of policy files and of ONNX graphs."""
    spec, checkpoint, kind = method.spec, run.latest(), None
    assert checkpoint is not None
    with suppress(LWDError):  # no environment, or a module of the user's own that is not here
        kind = family(spec.env or "")
    obs_names, action_names = (list(kind.dimensions(spec.obs_kind)), list(kind.action_dimensions)) if kind else ([], [])
    obs_names = obs_names if len(obs_names) == spec.obs_dim else [f"obs {i}" for i in range(spec.obs_dim)]
    action_names = action_names if len(action_names) == spec.action_dim else [f"action {i}" for i in range(spec.action_dim)]
    angles, rate = ", ".join(obs_names[i] for i in spec.angles), rate or (kind.fps if kind else 0)
    return {
        "obs_names": json.dumps(obs_names),
        "action_names": json.dumps(action_names),
        "units": "; ".join(filter(None, (kind.units if kind else "", f"{angles} in radians" if angles else ""))),
        "rate": f"{rate:g}" if rate else "",
        "horizon": str(method.horizon),
        "env": spec.env or "",
        "obs_kind": spec.obs_kind,
        "method": method.config.name,
        "sampler": "" if method.sampling is None else method.sampling.label,
        "run": str(run.path),
        "checkpoint": hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest(),
        "lwd": version("latent-weight-diffusion"),
    }
