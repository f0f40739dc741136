"""What is asked of a run: `lwd info`, `lwd report`, `lwd diagnose` and `lwd decode`."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from lwd.config import require


@dataclass
class Info:
    """Print settings, data fingerprint, parameter counts, what is trained, and the results of a run."""

    run: Positional[str]
    """Run directory."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from lwd.commands.reporting import results
        from lwd.methods.base import make_method
        from lwd.statistics import Interval
        from lwd.training.run import Run

        run = Run(self.run)
        record, method = run.record(), make_method(run.config().method, run.spec())
        found = {
            "run": str(run.path),
            **{key: record[key] for key in ("config", "data", "versions")},
            "simulator": method.spec.env,
            "tasks": list(method.spec.tasks),
            "parameters": method.parameter_counts(),
            "trained": run.state(),
            "results": [{key: value for key, value in result.items() if key != "records"} for result in results(run)],
        }
        if self.json:
            print(json.dumps(found, indent=1))
            return
        trained, data, config, tasks = found["trained"], found["data"], found["config"], found["tasks"]
        stage = "" if trained["stage"] in ("", *trained["done"]) else f"; {trained['stage']} at step {trained['step']}"
        lines = [
            ("run", f"{found['run']}  (preset {config['preset']}, horizon {config['horizon']}, seed {config['seed']})"),
            ("data", f"{data['path']}: {data['episodes']} episodes, {data['steps']} steps, fingerprint {data['fingerprint']}"),
            ("", data["description"]),
            *([("tasks", f"{len(tasks)}: {', '.join(tasks)}")] if tasks else []),
            ("trained", (", ".join(trained["done"]) or "nothing yet") + stage),
            *(("", f"{name}: {seconds / 60:.1f} min") for name, seconds in trained["seconds"].items()),
            ("parameters", ", ".join(f"{name} {count:,}" for name, count in found["parameters"].items())),
            ("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
        ]
        for result in found["results"]:
            scores = ", ".join(f"{name} {Interval.from_dict(score).format(3)}" for name, score in result["scores"].items())
            lines.append(("result", f"{result['name']}: {scores}"))
        if not found["results"]:
            lines.append(("result", "none yet: " + (f"lwd eval {run.path}" if found["simulator"] else "the data names no simulator")))
        for name, text in lines:
            print(textwrap.fill(f"{name:<12}{text}", 140, subsequent_indent=" " * 12, break_on_hyphens=False))


@dataclass
class Report:
    """Write report.html and report.md of a run: training, latents, links of the chain, action errors, results, and what to do next."""

    run: Positional[str]
    """Run directory, trained to its end."""
    device: str = "cpu"
    """Where the model computes."""
    quiet: bool = False
    """Do not say what is being measured."""
    json: bool = False
    """Print JSON: the path of the report, and what to do next."""

    def __call__(self) -> None:
        from lwd.commands.reporting import report_run
        from lwd.training.run import Run

        path, steps = report_run(Run(self.run), device=self.device, quiet=self.quiet or self.json)
        print(json.dumps({"report": str(path), "next": steps}, indent=1) if self.json else path)


@dataclass
class Diagnose:
    """Find the link that breaks: measure every link of the chain on held-out demonstrations, with a verdict each. Writes diagnose.json."""

    run: Positional[str]
    """Run directory of LWD."""
    samples: int = 512
    """Held-out snippets that are measured. Take fewer where a query is expensive (the paper's preset on a CPU)."""
    rollouts: int = 32
    """Held-out starts for the link that needs the simulator. 0 leaves it out."""
    device: str = "cpu"
    """Where the model computes."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from rich.console import Console

        from lwd.diagnose.links import advice, diagnose, tabulate_links
        from lwd.files import read_object, write_json
        from lwd.report.tables import terminal
        from lwd.training.run import Run

        result, path = diagnose(Run(self.run), rollouts=self.rollouts, samples=self.samples, device=self.device), Path(self.run)
        write_json(path / "diagnose.json", {**(read_object(path / "diagnose.json") or {}), **result})  # a report keeps more in it
        if self.json:
            print(json.dumps(result, indent=1))
        else:
            Console().print(terminal(tabulate_links(result)))
            print("\n".join(advice(result)) or "No link is weak or broken.")


@dataclass
class Decode:
    """Run policies decoded from held-out demonstrations, from their own starts, without a second query. Writes eval/<name>.json."""

    run: Positional[str]
    """Run directory of LWD. Its data must hold the seeds of its episodes (`lwd data collect` keeps them)."""
    episodes: int = 16
    """Held-out demonstrations of each task, at most."""
    steps: int = 0
    """Steps that a policy acts for. 0 is a whole episode."""
    seed: int = 0
    """Seed of the choice of snippets, one of each demonstration."""
    workers: int | None = None
    """Simulator processes. By default one per core."""
    device: str = "cpu"
    """Where the model computes."""
    name: str = ""
    """Name of the result. By default it is made from the settings."""
    json: bool = False
    """Print the result as JSON, without the episodes."""

    def __call__(self) -> None:
        require(not set(self.name) & set("/\\"), f"--name becomes a file name: it must not hold a slash, but is {self.name!r}")
        require(self.workers is None or self.workers >= 0, f"--workers counts processes (0 for none), and is {self.workers}")
        from lwd.commands.evaluate import show
        from lwd.diagnose.decoded import decode_run
        from lwd.evaluate import write_result

        result = decode_run(self.run, episodes=self.episodes, steps=self.steps, seed=self.seed, workers=self.workers, device=self.device)
        result["name"] = self.name or result["name"]
        show(result, self.run, write_result(result, Path(self.run) / "eval"), as_json=self.json)
