"""What the files of a run directory say about it, read while another process may be writing them; nothing here needs torch or numpy."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TAIL = 5  # lines of a failed task's log that are reported


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object that another process may be replacing or never have written."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def training_is_finished(run: Path) -> bool:
    """The newest checkpoint of a run directory has all the stages that its config has."""
    stages, done, _ = training_state(run)
    return (run / "config.json").exists() and stages.keys() <= done


def training_state(run: Path) -> tuple[dict[str, int], set[str], dict[str, float]]:
    """Steps of every stage by the config, the stages that the newest checkpoint has finished, and the seconds that each took."""
    record, pointer = read_object(run / "config.json") or {}, read_object(run / "checkpoints" / "latest.json") or {}
    method = record.get("config", {}).get("method", {})
    stages = {name: int(value["steps"]) for name, value in method.items() if isinstance(value, dict) and "steps" in value}
    state = (read_object(run / "checkpoints" / pointer["checkpoint"] / "state.json") if pointer else None) or {}
    return stages, set(state.get("done", ())), dict(state.get("seconds", {}))


def tail(log: Path, lines: int = TAIL) -> str:
    """The last lines of a log that are not empty."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            text = file.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-lines:])


def training_progress(run: Path) -> tuple[float, str]:
    """Fraction of all its steps that a training has done, by its last line of metrics, and where it is in words."""
    stages, done, _ = training_state(run)
    line = _last_line(run / "metrics.jsonl")
    stage, step = line.get("stage"), int(line.get("step", 0))
    if stage not in stages:
        return 0.0, ""
    complete = sum(steps for name, steps in stages.items() if name in done and name != stage)
    return (complete + step) / max(1, sum(stages.values())), f"{stage} {step:,}/{stages[stage]:,}"


def _last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a metrics file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return {}


def find(entries: Sequence[Mapping[str, Any]], **labels: Any) -> Mapping[str, Any] | None:
    """The pooled entry with these labels, or None."""
    return next((entry for entry in entries if all(entry[key] == value for key, value in labels.items())), None)
