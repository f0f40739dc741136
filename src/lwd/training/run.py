"""The run directory: the unit that a user owns. Everything is written to a temporary name and renamed; nothing is unpickled.

config.json    settings, what the data declares, data fingerprint, versions
metrics.jsonl  one line per measurement: stage, step, values
checkpoints/   latest.json names the newest one; each holds model.safetensors (live and EMA weights, normaliser), training.safetensors
               (optimisers, random numbers) and state.json
eval/ videos/ plots/
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lwd.config import Config, from_dict, require, to_dict
from lwd.episodes import Spec
from lwd.errors import LWDError
from lwd.files import locked, read_json, write_json, write_text

VERSION = 2  # of the layout; another one is refused
DAMAGED = "restore it, or train again with --fresh"
STATE = {"stage": str, "step": int, "done": list, "seconds": dict}  # what state.json holds


class Run:
    """A run directory: its config, its checkpoints and its metrics, which it writes whole or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        """Whether a training was started here."""
        return (self.path / "config.json").exists()

    def create(self, config: Config, spec: Spec, data: dict[str, Any], versions: dict[str, str]) -> None:
        """Write config.json, the first file of a run."""
        record = {"version": VERSION, "config": to_dict(config), "spec": to_dict(spec), "data": data, "versions": versions}
        write_json(self.path / "config.json", record)

    def record(self) -> dict[str, Any]:
        """The content of config.json; `LWDError` where there is no run, or its record is damaged or of another version."""
        require(self.path.exists(), f"there is no run directory {self.path}: give the path that `lwd train` printed")
        record = read_json(self.path / "config.json", "this is not a run directory of lwd")
        version = record.get("version")
        if version != VERSION:
            raise LWDError(f"{self.path} has layout version {version}, this lwd reads version {VERSION}: install the lwd that wrote it")
        parts = [key for key in ("config", "spec", "data", "versions") if not isinstance(record.get(key), dict)]
        lacking = {"path", "fingerprint", "episodes", "steps", "held_out", "description"} - set(record["data"] if not parts else ())
        require(not parts and not lacking, f"{self.path / 'config.json'} lacks {', '.join(parts or sorted(lacking))}: {DAMAGED}")
        return record

    def config(self) -> Config:
        """The settings that the run was trained with."""
        return self._parsed(Config, "config")

    def spec(self) -> Spec:
        """Dimensions and declarations of its data."""
        return self._parsed(Spec, "spec")

    @property
    def nothing_held(self) -> str:
        """Why nothing can be measured on data that the training has not seen, and what to do; empty where something was held out."""
        if self.config().holdout > 0:
            return ""
        alone = self.record()["data"]["episodes"] <= max(1, len(self.spec().tasks))
        todo = "record at least two demonstrations of a task" if alone else "train with `--holdout 0.05` into another `--out`"
        return f"nothing is held out to measure on: {todo}"

    def _parsed(self, kind: type, part: str) -> Any:
        try:
            return from_dict(kind, self.record()[part])
        except TypeError as error:  # a field without a default is missing
            raise LWDError(f"{self.path / 'config.json'} is damaged ({error}): {DAMAGED}") from None

    def clear(self) -> None:
        """Remove what lwd wrote (only that), to start over."""
        for name in ("config.json", "metrics.jsonl", "diagnose.json", "report.html", "report.md"):
            (self.path / name).unlink(missing_ok=True)
        for name in ("checkpoints", "tensorboard", "eval", "videos", "plots", "baseline-mlp"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def lock(self) -> AbstractContextManager[None]:
        """Hold the directory for one training process: LWDError where another one trains in it."""
        return locked(self.path, "is training in")

    def append(self, line: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl (a line cut off by a kill is dropped)."""
        path = self.path / "metrics.jsonl"
        lines = []
        for text in path.read_text(errors="replace").splitlines() if path.is_file() else []:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("stage"), str) and isinstance(line.get("step"), int):
                lines.append(line)
        return lines

    def rewind(self, stages: tuple[str, ...], stage: str, step: int) -> None:
        """Drop lines written after the checkpoint that training continues from."""
        lines = [m for m in self.metrics() if m["stage"] in stages]
        kept = [m for m in lines if (stages.index(m["stage"]), m["step"]) <= (stages.index(stage), step)]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in kept))

    def save(self, model: dict[str, Tensor], training: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint, whole or not at all; older ones are removed after the pointer has moved."""
        root = self.path / "checkpoints"
        root.mkdir(parents=True, exist_ok=True)
        name = f"{state['stage']}-{state['step']:07d}"
        temporary = Path(tempfile.mkdtemp(dir=root, suffix=".tmp"))
        os.chmod(temporary, 0o755)
        save_file({k: v.detach().contiguous().cpu() for k, v in model.items()}, temporary / "model.safetensors")
        save_file({k: v.detach().contiguous().cpu() for k, v in training.items()}, temporary / "training.safetensors")
        write_json(temporary / "state.json", state)
        final = root / name
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
        write_json(root / "latest.json", {"checkpoint": name})
        for old in root.iterdir():
            if old.is_dir() and old != final:
                shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> Path | None:
        """The directory of the newest complete checkpoint, None before the first."""
        pointer = self.path / "checkpoints" / "latest.json"
        if not pointer.exists():
            return None
        for _ in range(2):  # a training may have moved on between the two looks
            name = read_json(pointer, DAMAGED).get("checkpoint")
            if isinstance(name, str) and Path(name).name == name and (pointer.parent / name).is_dir():
                return pointer.parent / name
        raise LWDError(f"{pointer} names no checkpoint that is there ({name!r}): {DAMAGED}")

    def state(self) -> dict[str, Any]:
        """Stage and step of the newest checkpoint, the stages that are done, and the seconds that each took; empty before the first."""
        checkpoint = self.latest()
        if checkpoint is None:
            return {"stage": "", "step": 0, "done": [], "seconds": {}}
        state = read_json(checkpoint / "state.json", DAMAGED)
        wrong = [key for key, kind in STATE.items() if not isinstance(state.get(key), kind)]
        values: list[tuple[list[Any], Any]] = [] if wrong else [(state["done"], str), (list(state["seconds"].values()), int | float)]
        if wrong or not all(isinstance(item, kind) for items, kind in values for item in items):
            raise LWDError(f"{checkpoint / 'state.json'} is damaged ({', '.join(wrong) or 'done, seconds'}): {DAMAGED}")
        return state

    @property
    def done(self) -> set[str]:
        """The stages that are trained to their end."""
        return set(self.state()["done"])

    def load(self, what: str = "model") -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors of the newest checkpoint ("model" or "training") and its state; `LWDError` before the first, or for a damaged file."""
        checkpoint = self.latest()
        if checkpoint is None:
            raise LWDError(f"{self.path} has no checkpoint yet: train first, `lwd train ... --out {self.path}`")
        path = checkpoint / f"{what}.safetensors"
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise LWDError(f"{path} is damaged ({error}): {DAMAGED}") from None
        return tensors, self.state()

    def load_into(self, method: nn.Module, weights: dict[str, Tensor]) -> None:
        """Put weights into a method that was made from the run's config; `LWDError` where they do not fit."""
        try:
            method.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise LWDError(f"the checkpoint of {self.path} does not fit its config ({reason}): train again with --fresh") from None


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser as named tensors (its settings follow from the config)."""
    return {f"{name}/{i}/{key}": torch.as_tensor(v) for i, s in optimizer.state_dict()["state"].items() for key, v in s.items()}


def load_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        owner, *rest = key.split("/")
        if owner == name:
            state.setdefault(int(rest[0]), {})[rest[1]] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
