"""Exported graphs on a robot: onnxruntime and numpy, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwd.deploy.policy import Policy
from lwd.errors import LWDError

GENERATOR, POLICY = "generator.onnx", "policy.onnx"


class Chunk:
    """The actions (T, Da) that Diffusion Policy plans, raw units: used as a `Policy`, but blind, and with an end."""

    def __init__(self, actions: NDArray[np.float32]) -> None:
        self.actions = actions

    def act(self, obs: ArrayLike, t: int = 0) -> NDArray[np.float32]:
        """The raw action (Da,) of step `t` since the plan; `LWDError` beyond the end. `obs` is ignored."""
        if not 0 <= t < len(self.actions):
            raise LWDError(f"this plan has actions for {len(self.actions)} steps (t = 0 ... {len(self.actions) - 1}), not for t = {t}")
        return self.actions[t]


class OnnxGenerator:
    """The generator in the `folder` that `lwd export RUN --to onnx` wrote: observations in, policies (or chunks) out, raw units. Without a
    `seed`, the sampling noise is fresh every time. `threads` are processor threads of a query."""

    def __init__(self, folder: str | Path, seed: int | None = None, threads: int = 1) -> None:
        self.session = session(Path(folder) / GENERATOR, threads)
        self.shapes = {own.name: tuple(own.shape) for own in self.session.get_inputs()}
        self.outputs = [own.name for own in self.session.get_outputs()]
        self.about: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        self._scaling = json.loads(self.about.pop("scaling", "null"))  # what a policy file holds beside the weights
        self.tasks: list[str] = json.loads(self.about["tasks"])
        self.horizons: list[float] = json.loads(self.about["horizons"])  # the shortest, the usual and the longest
        self.random = np.random.default_rng(seed)

    def plan(self, obs: ArrayLike, task: str | None = None, replan_every: int = 0, noise: ArrayLike | None = None) -> Any:
        """A `Policy`, or a `Chunk`, for a raw observation (Do,), or for (K, Do) with the past, oldest first.

        Without a history, a model that wants one takes the observation as its own past. A model that knows several horizons plans for
        `replan_every` steps. `noise` stands for the random numbers of the sampler; its shape is that of the graph's input."""
        wanted, seen = self.shapes["history"][1:], np.array(obs, np.float32)
        seen = np.tile(seen, (wanted[0], 1)) if seen.ndim == 1 else seen
        if seen.shape != wanted or not np.isfinite(seen).all():
            raise LWDError(f"plan needs finite observations of shape {wanted[1:]} or {wanted}, not {seen.shape}")
        if task not in (self.tasks if len(self.tasks) > 1 else [*self.tasks, None]):
            raise LWDError(f"this model knows the tasks {', '.join(self.tasks) or '(none)'}, not {task}")
        low, usual, high = self.horizons
        feed: dict[str, NDArray[Any]] = {"history": seen[None], "task": np.array([self.tasks.index(task) if task else 0])}
        feed["horizon"] = np.array([min(max(replan_every or usual, low), high)], np.float32)
        if "noise" in self.shapes:
            drawn = self.random.standard_normal(self.shapes["noise"]) if noise is None else noise
            feed["noise"] = np.ascontiguousarray(drawn, np.float32)
        found = dict(zip(self.outputs, self.session.run(None, {name: feed[name] for name in self.shapes}), strict=True))
        if "actions" in found:
            return Chunk(found["actions"])
        about = {**self.about, "task": task or "", "obs": json.dumps(seen[-1].tolist())}
        about |= {"latent": json.dumps(found["latent"].tolist())} if "latent" in found else {}
        return Policy({**self._scaling, "weights": found["weights"], "phase_steps": found["phase_steps"]}, about)


def session(path: Path, threads: int = 1) -> Any:
    """An onnxruntime session on the processor, quiet, whose threads do not spin while they wait."""
    try:
        import onnxruntime
    except ImportError as error:
        raise LWDError(f'onnxruntime is not installed ({error}): run  pip install "latent-weight-diffusion[deploy]"') from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base class of its errors
        raise LWDError(f"{path} cannot be loaded ({error}): `lwd export RUN --to onnx` writes it") from None
