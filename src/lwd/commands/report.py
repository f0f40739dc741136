"""`lwd report`: report.html of any run, with or without a simulator."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tyro.conf import Positional

if TYPE_CHECKING:
    from pathlib import Path

    from lwd.episodes import Episodes
    from lwd.methods.base import Method
    from lwd.methods.latent import LatentMethod
    from lwd.report.report import Picture
    from lwd.report.tables import Table
    from lwd.training.run import Run

POINTS = 2000  # snippets in the maps of latents
CURVES, VIDEOS = 6, 8  # results whose curves are drawn, and videos that are shown, at most
NAMES = {
    "lwd": "Latent Weight Diffusion",
    "diffusion_policy": "Diffusion Policy",
    "latent_dp": "Latent diffusion policy",
    "mlp": "One MLP policy",
    "random": "Random actions",
}
BRACKETS = "Curves: mean over episodes of the best score so far, with a 95 % bootstrap band."


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
        from lwd.training.run import Run

        run = Run(self.run)
        path = report_run(run, device=self.device, quiet=self.quiet or self.json)
        print(json.dumps({"report": str(path), "next": next_steps(run)}, indent=1) if self.json else path)


def report_run(run: Run, *, device: str = "cpu", quiet: bool = False) -> Path:
    """Measures a trained run on its held-out data, and writes report.html, report.md, diagnose.json and plots/ into it.

    What was evaluated before (eval/, videos/) is shown too. A run whose data is gone has a report without measurements.

    Returns:
        The path of report.html.

    Raises:
        LWDError: no run, damaged, or not trained to its end.
    """
    from rich.console import Console

    from lwd.commands.info import results
    from lwd.data.prepare import choose
    from lwd.errors import LWDError
    from lwd.methods.latent import LatentMethod
    from lwd.report import plots
    from lwd.report.report import Content, Picture, write_report
    from lwd.report.tables import Table, tabulate, tabulate_tasks
    from lwd.training.train import load_method, run_data

    method, folder, found = load_method(run, device), run.path / "plots", results(run)
    tables, figures, notes = [tabulate(found, "Scores and cost")] if found else [], [], []
    tables += [tabulate_tasks(result, f"{result['name']}, by task") for result in found if len(result.get("tasks", ())) > 1]
    if run.metrics():
        curves = plots.save(plots.training_curves(run.metrics()), folder / "training.png")
        figures.append(Picture(curves, "Training", "Every term of the loss, and errors on held-out snippets, by step.", wide=True))
    with Console(stderr=True, quiet=quiet).status(f"measuring {run.path} for its report"):
        try:
            training, held = run_data(run)
        except LWDError as error:
            notes.append(f"Nothing could be measured on the data: {error}")
        else:
            if isinstance(method, LatentMethod):
                figures += latent_figures(method, training, folder)
            if held is not None:
                measured, remarks = measure(run, method, held, device)
                tables, notes = [*tables, *measured], [*notes, *remarks]
            else:
                notes.append("No episode was held out: nothing can be measured on data that the training has not seen.")
            _, choices = choose(run.config(), training, 0 if held is None else len(held))
            rows = [(choice.setting, choice.value, choice.why) for choice in choices]
            tables.append(Table("Data and recipe", ("what", "value", "why"), rows))
    if found:
        figures += score_figures(found, folder)
        notes.append("The intervals cover the episodes, not the spread between trainings: this is one training.")
    content = Content(
        title=f"{NAMES[method.config.name]}: report of {run.path.name}",
        intro=introduction(run, method, found),
        tables=tables,
        figures=figures,
        videos=videos(run, found),
        steps=next_steps(run),
        notes=notes,
        facts=facts(run, method, found),
    )
    return write_report(run.path, content)


def measure(run: Run, method: Method, held: Episodes, device: str) -> tuple[list[Table], list[str]]:
    """Tables of action errors and of the links of the chain (LWD), on held-out data, and remarks. Writes diagnose.json."""
    from lwd.diagnose.baselines import action_errors, tabulate_errors
    from lwd.diagnose.links import diagnose, tabulate_links
    from lwd.errors import LWDError
    from lwd.files import write_json
    from lwd.methods.lwd import LWD

    errors = action_errors(run, method, held)
    tables, notes, result = [tabulate_errors(errors, method.horizon)], [], {"version": 2, "links": [], "first_broken": None}
    if isinstance(method, LWD):
        try:
            result = diagnose(run, device=device)
        except LWDError as error:  # the simulator is not installed, or does not fit the data
            notes.append(f"Nothing was run in the simulator: {error}")
            result = diagnose(run, rollouts=0, device=device)
        tables.append(tabulate_links(result))
    write_json(run.path / "diagnose.json", {**result, "action_errors": errors})
    return tables, notes


def latent_figures(method: LatentMethod, training: Episodes, folder: Path) -> list[Picture]:
    """Encoded snippets, and latents that the diffusion model samples for the same states."""
    import torch

    from lwd.diagnose.separability import encode
    from lwd.report import plots
    from lwd.report.report import Picture

    points = encode(method, training)
    several = len(set(points.task)) > 1
    colour, label = (points.task, "task") if several else (points.progress, "progress through the demonstration")
    seen = plots.save(plots.latent_map(points.codes, colour=colour, label=label), folder / "latents.png")
    data, generator = method.snippets(training, method.device), torch.Generator(method.device).manual_seed(0)
    with torch.no_grad():
        batch = data.at(data.starts[torch.randperm(data.count, generator=generator, device=method.device)[:POINTS]])
        mean, logvar = method.posterior(batch.obs, batch.action)
        drawn = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator, device=mean.device)
        sampled = method.sample(method.condition_of(batch), generator)
    over = plots.save(plots.latent_overlay(drawn.cpu().numpy(), sampled.cpu().numpy()), folder / "samples.png")
    return [
        Picture(seen, "Latent map", "Encoded snippets of the demonstrations, first two principal components."),
        Picture(over, "Samples over data", "Encoded snippets, drawn from their posteriors, and latents sampled for the same states."),
    ]


def score_figures(found: Sequence[dict[str, Any]], folder: Path) -> list[Picture]:
    """Score over time and histogram, for families that have a score at every step."""
    from lwd.envs.base import family
    from lwd.report import plots
    from lwd.report.report import Picture

    common = Counter(condition(result) for result in found)
    curves = {}
    for result in found[:CURVES]:
        name = condition(result) if common[condition(result)] == 1 else result["name"]
        traces = [family(result["env"]).curve(record) for record in result["records"]]
        if all(traces):
            curves[name] = traces
    if not curves:
        return []
    over_time = plots.save(plots.score_over_time(curves), folder / "score.png")
    best = {name: [max(trace) for trace in traces] for name, traces in curves.items()}
    histogram = plots.save(plots.score_histogram(best), folder / "histogram.png")
    return [Picture(over_time, "Score over time", BRACKETS), Picture(histogram, "Where episodes end up", "Episodes by their best score.")]


def videos(run: Run, found: Sequence[dict[str, Any]]) -> list[Picture]:
    """The first videos, named by the result that they belong to."""
    from lwd.report.report import Picture

    shown = []
    for clip in sorted((run.path / "videos").glob("*.gif"))[:VIDEOS]:
        owner = [result for result in found if clip.stem.startswith(result["name"])][-1:]
        task, _, seed = clip.stem.removeprefix(owner[0]["name"]).strip("_").rpartition("_") if owner else ("", "", "")
        words = [condition(owner[0]), *([unquote(task)] if task else []), f"seed {seed}"] if owner else [clip.stem]
        shown.append(Picture(clip, ", ".join(words)))
    return shown


def condition(result: dict[str, Any]) -> str:
    """How a result was measured, in a few words."""
    return f"replan every {result['replan_every']}, perturbation {result['perturbation']:g}"


def introduction(run: Run, method: Method, found: Sequence[dict[str, Any]]) -> str:
    """What was done and what came out."""
    from lwd.statistics import Interval

    config, data, diagnosis = run.config(), run.record()["data"], measured(run)
    sentences = [f"{NAMES[config.method.name]} was trained on {data['episodes']} episodes of `{config.data}`."]
    if method.policy_parameters:
        sentences.append(
            f"A policy of {method.policy_parameters:,} weights acts for {method.horizon} steps and reacts at every one of them."
        )
    errors = ", ".join(f"{name} {whole:.3g}" for name, (_, whole) in diagnosis["action_errors"].items())
    sentences += [f"Action error on held-out demonstrations: {errors}."] if errors else []
    if diagnosis["links"]:
        broken = diagnosis["first_broken"]
        sentences.append(f"The first link of the chain that breaks: **{broken}**." if broken else "No link of the chain is broken.")
    for result in found[:CURVES]:
        score = Interval.from_dict(result["scores"][result["primary"]])
        sentences.append(
            f"{result['primary'].replace('_', ' ')}, {condition(result)}: **{score.mean:.2f}** {str(score).partition(' ')[2]}."
        )
    return " ".join(sentences)


def next_steps(run: Run) -> list[str]:
    """What to do with a trained run, a sentence each, from what was measured and from whether there is a simulator."""
    diagnosis = measured(run)
    steps, errors = diagnosis["advice"][:3], diagnosis["action_errors"]
    if errors and errors["this run"][1] > errors.get("repeat the last action", (0.0, float("inf")))[1]:
        steps.append("the policy is no better than repeating the last action: train longer, or look at the data with `lwd data show`")
    if run.config().holdout == 0:
        steps.append("nothing is held out to measure on: train with `--holdout 0.05` into another `--out`")
    if run.spec().env is not None:
        steps.append(f"`lwd eval {run.path} --video 2` runs it in its simulator; then `lwd report {run.path}` shows the results too")
    else:
        steps.append(f"in your own loop: `policy = lwd.load('{run.path}').plan(obs)`, then `action = policy.act(obs, t)` at every step t")
        steps.append(f"a new plan every {run.spec().horizon} steps, or sooner where the world does what the demonstrations did not")
    if run.config().method.name == "lwd":
        steps.append(f"`lwd diagnose {run.path}` measures every link of the chain again, on more held-out snippets")
    return steps


def measured(run: Run) -> dict[str, Any]:
    """What diagnose.json says: links, advice, first_broken, action_errors; nothing where it is missing, damaged, or of another version."""
    from lwd.diagnose.links import advice
    from lwd.files import read_object

    found = {"links": [], "first_broken": None, "action_errors": {}, **(read_object(run.path / "diagnose.json") or {})}
    try:
        errors = {str(name): (float(first), float(whole)) for name, (first, whole) in found["action_errors"].items()}
        return {**found, "advice": advice(found), "action_errors": errors}
    except (TypeError, ValueError, KeyError, AttributeError):
        return {"links": [], "first_broken": None, "action_errors": {}, "advice": []}


def facts(run: Run, method: Method, found: Sequence[dict[str, Any]]) -> dict[str, str]:
    """How the run was made."""
    record, config, seconds = run.record(), run.config(), run.state()["seconds"]
    data = record["data"]
    shown = {
        "command": f"`lwd train {config.preset} --data {config.data} --out {run.path}`",
        "data": f"{data['description'] or config.data} — {data['episodes']} episodes, fingerprint {data['fingerprint']}",
        "training": f"{sum(seconds.values()) / 60:.1f} minutes: " + ", ".join(f"{k} {v / 60:.1f}" for k, v in seconds.items()),
        "sizes": ", ".join(f"{name} {count:,}" for name, count in method.parameter_counts().items()),
        "versions": ", ".join(f"{k} {v}" for k, v in record["versions"].items()),
    }
    if found:
        machine = found[-1]["hardware"]
        shown["evaluation"] = f"{found[-1]['max_steps']} steps an episode; {machine['cpu']}, {machine['cores']} cores, {machine['device']}"
    if method.sampling is not None:
        shown["sampler"] = f"{method.sampling.sampler} with {method.sampling.steps} steps"
    return shown
