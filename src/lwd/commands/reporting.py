"""The work of `lwd report`, which `lwd train` and `lwd demo` do at their end too: measures a trained run, and writes its report."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch
from rich.console import Console

from lwd.data.prepare import choose
from lwd.diagnose.baselines import action_errors, tabulate_errors
from lwd.diagnose.links import advice, diagnose, tabulate_links
from lwd.diagnose.separability import encode
from lwd.envs.base import family
from lwd.episodes import Episodes
from lwd.errors import LWDError
from lwd.files import read_object, write_json
from lwd.methods.base import Method
from lwd.methods.latent import LatentMethod
from lwd.methods.lwd import LWD
from lwd.report import plots
from lwd.report.grids import maps
from lwd.report.report import Content, Picture, write_report
from lwd.report.tables import Table, tabulate, tabulate_tasks
from lwd.training.run import Run
from lwd.training.train import load_method, run_data


def report_run(run: Run, *, device: str = "cpu", quiet: bool = False) -> tuple[Path, list[str]]:
    """Measures a trained run on its held-out data, and writes report.html, report.md, diagnose.json and plots/ into it.

    It shows earlier results (eval/, videos/) too. Returns the path of report.html, and what to do next, a sentence each.
    """
    method, found, measured, notes = load_method(run, device), results(run), {}, list[str]()
    tables = [tabulate(found, "Scores and cost")] if found else []
    tables += [tabulate_tasks(result, f"{result['name']}, by task") for result in found if len(result.get("tasks", ())) > 1]
    figures, curves = [], plots.training_curves(run.metrics())
    if curves is not None:
        caption = "Every term of the loss, and errors on held-out snippets, by step."
        figures.append(Picture(plots.save(curves, run.path / "plots" / "training.png"), "Training", caption, wide=True))
    with Console(stderr=True, quiet=quiet).status(f"measuring {run.path} for its report"):
        try:
            training, held = run_data(run)
        except LWDError as error:
            notes.append(f"Nothing could be measured on the data: {error}")
        else:
            figures += latent_figures(run, method, training) if isinstance(method, LatentMethod) else []
            if held is None:
                notes.append("No episode was held out: nothing can be measured on data that the training has not seen.")
            else:
                measured = measure(run, method, held, notes)
                tables.append(tabulate_errors(measured["action_errors"], method.horizon))
                tables += [tabulate_links(measured)] if "links" in measured else []
            rows = choose(run.config(), training, 0 if held is None else len(held))[1]
            tables.append(Table("Data and recipe", ("what", "value", "why"), rows))
    with suppress(LWDError):  # the simulator's module is gone
        traces = {r["name"]: [family(r["env"]).curve(record) for record in r["records"]] for r in found[:6]}
        if traces := {name: own for name, own in traces.items() if all(own)}:
            path, caption = run.path / "plots" / "score.png", "Mean over episodes of the best score so far, with a 95 % bootstrap band."
            figures.append(Picture(plots.save(plots.score_over_time(traces), path), "Score over time", caption))
            histogram = plots.score_histogram({name: [*map(max, own)] for name, own in traces.items()})
            path = run.path / "plots" / "histogram.png"
            figures.append(Picture(plots.save(histogram, path), "Where episodes end up", "Episodes by their best score."))
    if found:
        notes.append("The intervals cover the episodes, not the spread between trainings: this is one training.")
    clips = sorted((run.path / "videos").glob("*.gif"))[:8]
    videos = [Picture(clip, ", seed ".join(unquote(clip.stem).rsplit("_", 1))) for clip in clips]
    record, config, seconds, sampling = run.record(), run.config(), run.state()["seconds"], method.sampling
    data, steps = record["data"], next_steps(run, measured)
    intro = f"Method `{config.method.name}`, trained on {data['episodes']} episodes of `{data['path']}`."
    if method.policy_parameters:
        intro += f" A policy of {method.policy_parameters:,} weights acts for {method.horizon} steps and reacts at every one of them."
    if "links" in measured:
        broken = measured["first_broken"]
        intro += f" The first link of the chain that breaks: **{broken}**." if broken else " No link of the chain is broken."
    facts = {
        "command": f"`lwd train {config.preset} --data {config.data} --out {run.path}`",
        "data": f"{data['description'] or config.data} — {data['episodes']} episodes, fingerprint {data['fingerprint']}",
        "training": f"{sum(seconds.values()) / 60:.1f} minutes: " + ", ".join(f"{k} {v / 60:.1f}" for k, v in seconds.items()),
        "sizes": ", ".join(f"{name} {count:,}" for name, count in method.parameter_counts().items()),
        **({} if sampling is None else {"sampler": f"{sampling.sampler} with {sampling.steps} steps"}),
        "versions": ", ".join(f"{k} {v}" for k, v in record["versions"].items()),
    }
    return write_report(run.path, Content(f"Report of {run.path}", intro, tables, figures, videos, steps, notes, facts)), steps


def measure(run: Run, method: Method, held: Episodes, notes: list[str]) -> dict[str, Any]:
    """Action errors, and the links of the chain of LWD, on held-out data. Writes them to diagnose.json, and adds to the notes."""
    found: dict[str, Any] = {"action_errors": action_errors(run, method, held)}
    if isinstance(method, LWD):
        try:
            found |= diagnose(run, device=str(method.device))
        except LWDError as error:  # the simulator is not installed, or does not fit the data
            notes.append(f"Nothing was run in the simulator: {error}")
            found |= diagnose(run, rollouts=0, device=str(method.device))
    write_json(run.path / "diagnose.json", found)
    return found


@torch.no_grad()
def latent_figures(run: Run, method: LatentMethod, training: Episodes) -> list[Picture]:
    """Encoded snippets, and latents that the diffusion model samples for the same states."""
    points, folder = encode(method, training), run.path / "plots"
    colour = points.label if len(set(points.label)) > 1 else points.progress
    seen = maps({"encoded snippets": (points.codes, colour)}, label="progress through the demonstration")
    data, generator = method.snippets(training, method.device), torch.Generator(method.device).manual_seed(0)
    batch = data.sample(min(2000, data.count), generator)
    mean, logvar = method.posterior(batch)
    drawn = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator, device=mean.device)
    sampled = method.sample(method.condition_of(batch), generator)
    names = np.repeat(["encoded data", "samples"], len(drawn))
    over = maps({"samples over data": (torch.cat([drawn, sampled]).cpu().double().numpy(), names)})
    caption = "Encoded snippets, drawn from their posteriors, and latents sampled for the same states."
    return [
        Picture(plots.save(seen, folder / "latents.png"), "Latent map", "Encoded snippets of the first 50 demonstrations of each task."),
        Picture(plots.save(over, folder / "samples.png"), "Samples over data", caption),
    ]


def next_steps(run: Run, measured: dict[str, Any]) -> list[str]:
    """What to do with a trained run, a sentence each, from what `measure` found and from whether there is a simulator."""
    path, errors = quote(str(run.path)), {name: whole for name, (_, whole) in measured.get("action_errors", {}).items()}
    steps = advice(measured)[:3] if "links" in measured else []
    if "repeat the last action" in errors and errors["this run"] > errors["repeat the last action"]:
        steps.append("the policy is no better than repeating the last action: train longer, or look at the data with `lwd data show`")
    steps += [run.nothing_held] if run.nothing_held else []
    if run.spec().env is not None:
        steps.append(f"`lwd eval {path} --video 2` runs it in its simulator; then `lwd report {path}` shows the results too")
    else:
        steps.append(
            f"in your own loop: `policy = lwd.load({str(run.path)!r}).plan(obs)`, then `action = policy.act(obs, t)` at every step t"
        )
        steps.append(f"a new plan every {run.spec().horizon} steps, or sooner where the world does what the demonstrations did not")
    if run.config().method.name == "lwd" and not run.nothing_held:
        steps.append(f"`lwd diagnose {path}` measures every link of the chain again, on more held-out snippets")
    return steps


def results(run: Run) -> list[dict[str, Any]]:
    """The evaluation results of a run, in order of their names. Files that are damaged or of another version are left out."""
    found = []
    for path in sorted((run.path / "eval").glob("*.json")):
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            result = read_object(path) or {}
            tabulate([result])
            if result["version"] == 3 and result["records"] and result["primary"] in result["scores"]:
                found.append(result)
    return found
