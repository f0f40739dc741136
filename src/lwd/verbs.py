"""What `lwd eval` and `lwd info` do: load a run, measure or read, print and write."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lwd.errors import LWDError
from lwd.run import Run

if TYPE_CHECKING:
    from lwd.cli import Eval


def info(path: str) -> dict[str, Any]:
    """Settings, data, parameter counts per module, progress and best results of a run, JSON-ready.

    Raises:
        LWDError: no run there.
    """
    from lwd.methods.lwd import LWD

    run = Run(path)
    record = run.record()
    method = LWD(run.config().method, run.spec())
    parts = {name: sum(p.numel() for p in module.parameters()) for name, module in method.named_children()}
    parts = {name: count for name, count in parts.items() if count}
    state = run.load("model")[1] if run.latest() else {"stage": None, "step": 0, "done": [], "seconds": {}}
    results = [json.loads(p.read_text()) for p in sorted((run.path / "eval").glob("*.json"))] if (run.path / "eval").exists() else []
    return {
        "run": path,
        "config": record["config"],
        "data": record["data"],
        "versions": record["versions"],
        "parameters": {**parts, "generated policy": method.shape.count},
        "trained": {"done": state["done"], "stage": state["stage"], "step": state["step"], "seconds": state["seconds"]},
        "results": [
            {
                "name": r["name"],
                "horizon": r["horizon"],
                "perturbation": r["perturbation"],
                "episodes": r["episodes"],
                "scores": r["scores"],
            }
            for r in results
        ],
    }


def render_info(result: dict[str, Any]) -> str:
    """`info` for people."""
    trained, data, config = result["trained"], result["data"], result["config"]
    lines = [
        f"run         {result['run']}  (preset {config['preset']}, horizon {config['horizon']}, seed {config['seed']}, obs {config['obs']})",
        f"data        {data['path']}: {data['episodes']} episodes, {data['steps']} steps, fingerprint {data['fingerprint']}",
        f"            {data['description']}",
        f"trained     {', '.join(trained['done']) or 'nothing yet'}"
        + ("" if trained["stage"] in (None, *trained["done"]) else f"; {trained['stage']} at step {trained['step']}"),
    ]
    lines += [f"            {stage}: {seconds / 60:.1f} min" for stage, seconds in trained["seconds"].items()]
    lines.append("parameters  " + ", ".join(f"{name} {count:,}" for name, count in result["parameters"].items()))
    lines.append("versions    " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()))
    for r in result["results"]:
        scores = ", ".join(f"{k} {s['mean']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" for k, s in r["scores"].items())
        lines.append(f"result      {r['name']}: {scores}")
    if not result["results"]:
        lines.append(f"result      none yet: lwd eval {result['run']}")
    return "\n".join(lines)
