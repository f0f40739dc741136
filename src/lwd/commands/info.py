"""`lwd info`: settings, data, sizes, progress and results of a run."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

if TYPE_CHECKING:
    from lwd.training.run import Run


@dataclass
class Info:
    """Print settings, data fingerprint, parameter counts, what is trained, and the results of a run."""

    run: Positional[str]
    """Run directory."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from lwd.training.run import Run

        found = describe(Run(self.run))
        print(json.dumps(found, indent=1) if self.json else render(found))


def describe(run: Run) -> dict[str, Any]:
    """Settings, data, tasks, parameter counts by module, progress and results of a run, JSON-ready.

    Raises:
        LWDError: there is no run, or its record is damaged.
    """
    from lwd.methods.base import make_method

    record = run.record()
    method = make_method(run.config().method, run.spec())
    kept = ("name", "replan_every", "perturbation", "episodes", "scores")
    return {
        "run": str(run.path),
        "config": record["config"],
        "data": record["data"],
        "simulator": method.spec.env,
        "tasks": list(method.spec.tasks),
        "versions": record["versions"],
        "parameters": method.parameter_counts(),
        "trained": run.state(),
        "results": [{key: result[key] for key in kept} for result in results(run)],
    }


def results(run: Run) -> list[dict[str, Any]]:
    """The evaluation results of a run, in order of their names. Files that are damaged or of another version are left out."""
    from lwd.files import read_object
    from lwd.report.tables import tabulate

    found = []
    for path in sorted((run.path / "eval").glob("*.json")):
        result = read_object(path)
        try:
            if result is not None and result["version"] == 2 and result["records"] and result["primary"] in result["scores"]:
                tabulate([result])
                found.append(result)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return found


def render(found: dict[str, Any]) -> str:
    """`describe` for people."""
    from lwd.statistics import Interval

    trained, data, config, tasks = found["trained"], found["data"], found["config"], found["tasks"]
    lines = [
        f"run         {found['run']}  (preset {config['preset']}, horizon {config['horizon']}, seed {config['seed']})",
        f"data        {data['path']}: {data['episodes']} episodes, {data['steps']} steps, fingerprint {data['fingerprint']}",
        f"            {data['description']}",
    ]
    if tasks:
        text = f"tasks       {len(tasks)}: {', '.join(tasks)}"
        lines += textwrap.wrap(text, 120, subsequent_indent=" " * 12, break_on_hyphens=False)
    under_way = "" if trained["stage"] in ("", *trained["done"]) else f"; {trained['stage']} at step {trained['step']}"
    lines.append(f"trained     {', '.join(trained['done']) or 'nothing yet'}{under_way}")
    lines += [f"            {stage}: {seconds / 60:.1f} min" for stage, seconds in trained["seconds"].items()]
    lines.append("parameters  " + ", ".join(f"{name} {count:,}" for name, count in found["parameters"].items()))
    lines.append("versions    " + ", ".join(f"{k} {v}" for k, v in found["versions"].items()))
    for r in found["results"]:
        scores = ", ".join(f"{k} {Interval.from_dict(s).format(3)}" for k, s in r["scores"].items())
        lines.append(f"result      {r['name']}: {scores}")
    if not found["results"]:
        lines.append("result      none yet" + (f": lwd eval {found['run']}" if found["simulator"] else ": the data names no simulator"))
    return "\n".join(lines)
