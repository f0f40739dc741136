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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lwd.config import Config, from_dict, to_dict
from lwd.errors import LWDError
from lwd.methods.base import Spec

VERSION = 1  # of the layout; a newer one is refused


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is either the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`write_text` of JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path, what: str) -> Any:
    """A JSON file; `what` names it in the error.

    Raises:
        LWDError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LWDError(f"{path} is missing: {what}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise LWDError(f"{path} cannot be read ({error}): {what}") from None


class Run:
    """One run directory.

    Args:
        path: the directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        """A training was started here."""
        return (self.path / "config.json").exists()

    # --- settings -----------------------------------------------------------------------------------------------------------------

    def create(self, config: Config, spec: Spec, data: dict[str, Any], versions: dict[str, str]) -> None:
        """Write config.json, the first file of a run."""
        record = {"version": VERSION, "config": to_dict(config), "spec": asdict(spec), "data": data, "versions": versions}
        write_json(self.path / "config.json", record)

    def record(self) -> dict[str, Any]:
        """The content of config.json.

        Raises:
            LWDError: no run here, unreadable, or written by a newer version.
        """
        if not self.path.exists():
            raise LWDError(f"there is no run directory {self.path}: give the path that `lwd train` printed")
        record = read_json(self.path / "config.json", "this is not a run directory of lwd")
        version = record.get("version")
        if version != VERSION:
            raise LWDError(f"{self.path} has layout version {version}, this lwd reads version {VERSION}: install the lwd that wrote it")
        return record

    def config(self) -> Config:
        """The settings that the run was trained with."""
        return from_dict(Config, self.record()["config"])

    def spec(self) -> Spec:
        """Dimensions and declarations of its data."""
        return from_dict(Spec, self.record()["spec"])

    def clear(self) -> None:
        """Remove what lwd wrote (only that), to start over."""
        for name in ("config.json", "metrics.jsonl", "diagnose.json", "report.html", "report.md"):
            (self.path / name).unlink(missing_ok=True)
        for name in ("checkpoints", "tensorboard", "eval", "videos", "plots"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for one training process.

        Raises:
            LWDError: another process trains in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            import fcntl
        except ImportError:  # not on Windows: there two trainings in one directory are the user's own care
            yield
            return
        with open(self.path / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise LWDError(f"another process is training in {self.path}: wait for it, or choose another --out") from None
            yield

    # --- metrics ------------------------------------------------------------------------------------------------------------------

    def append(self, line: dict[str, Any]) -> None:
        """One line to metrics.jsonl."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All complete lines (a line cut off by a kill is dropped)."""
        path = self.path / "metrics.jsonl"
        lines = []
        for text in path.read_text().splitlines() if path.exists() else []:
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return lines

    def rewind(self, stages: tuple[str, ...], stage: str, step: int) -> None:
        """Drop lines written after the checkpoint that training continues from."""
        if not (self.path / "metrics.jsonl").exists():
            return
        kept = [m for m in self.metrics() if (stages.index(m["stage"]), m["step"]) <= (stages.index(stage), step)]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in kept))

    # --- checkpoints --------------------------------------------------------------------------------------------------------------

    def save(self, model: dict[str, Tensor], training: dict[str, Tensor], state: dict[str, Any]) -> None:
        """A checkpoint, whole or not at all; older ones are removed after the pointer has moved."""
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
        """The newest complete checkpoint."""
        pointer = self.path / "checkpoints" / "latest.json"
        if not pointer.exists():
            return None
        return pointer.parent / read_json(pointer, "the pointer to the newest checkpoint is damaged")["checkpoint"]

    def load(self, what: str = "model") -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors of the newest checkpoint ("model" or "training") and its state.

        Raises:
            LWDError: no checkpoint yet, or a damaged file.
        """
        checkpoint = self.latest()
        if checkpoint is None:
            raise LWDError(f"{self.path} has no checkpoint yet: train first, `lwd train ... --out {self.path}`")
        path = checkpoint / f"{what}.safetensors"
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise LWDError(f"{path} is damaged ({error}): restore it, or train again with --fresh") from None
        return tensors, read_json(checkpoint / "state.json", "the checkpoint is damaged")


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
