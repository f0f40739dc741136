"""`lwd info`: what is known of a run, or of an environment."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass

from tyro.conf import Positional


@dataclass
class Info:
    """Print settings, data fingerprint, parameter counts, what is trained, and the results of a run; or what an environment offers."""

    run: Positional[str]
    """Run directory, or the name of an environment (pusht, gymnasium:Pendulum-v1)."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from lwd.commands.reporting import results
        from lwd.envs.base import families
        from lwd.methods.base import make_method
        from lwd.statistics import Interval
        from lwd.training.run import Run

        if (self.run in families() or self.run.startswith("gymnasium:")) and not Run(self.run).exists:
            self._environment()
            return
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
        _print(lines)

    def _environment(self) -> None:
        from lwd.envs.base import family

        kind = family(self.run)
        facts = {
            "environment": kind.name,
            "observations": list(kind.obs_kinds),
            "scores": dict(kind.scores),
            "episode": f"at most {kind.max_steps} steps, {kind.fps} a second",
            "disturbances": kind.disturbances,
            "tasks": list(kind.tasks),
        }
        if self.json:
            print(json.dumps(facts, indent=1))
            return
        lines = [(name, ", ".join(facts[name])) for name in ("observations", "scores", "tasks") if facts[name]]
        lines += [("episode", str(facts["episode"])), ("disturb", "none")]
        _print([("environment", kind.name), *lines, *(("", f"{name}:MAGNITUDE  {unit}") for name, unit in kind.disturbances.items())])


def _print(lines: list[tuple[str, str]]) -> None:
    for name, text in lines:
        print(textwrap.fill(f"{name:<14}{text}", 140, subsequent_indent=" " * 14, break_on_hyphens=False))
