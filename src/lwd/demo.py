"""The main job in one command: train, evaluate undisturbed and disturbed, draw, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lwd import plots
from lwd.config import Config
from lwd.envs.base import family
from lwd.evaluate import hardware, result_name
from lwd.methods.lwd import LWD
from lwd.report import Picture, Table, write_report
from lwd.run import Run
from lwd.tables import tabulate
from lwd.train import load_data, load_method, train
from lwd.verbs import measure

PERTURBATIONS = (0.0, 50.0)  # pixels
SEED_START = 100_000
VIDEOS = 2


def demo(config: Config, *, episodes: int = 50, fresh: bool = False) -> Path:
    """Train (or continue) the run, evaluate it at its horizon, and write `report.html` into it.

    Args:
        config: of the training.
        episodes: of each evaluation.
        fresh: start over.

    Returns:
        Path of the report.
    """
    run = train(config, fresh=fresh)
    method = load_method(run)
    assert isinstance(method, LWD) and method.spec.env is not None
    kind = family(method.spec.env)
    results, clips, curves = [], [], {}
    for perturbation in PERTURBATIONS:
        name = result_name(horizon=method.horizon, perturbation=perturbation, episodes=episodes, seed_start=SEED_START)
        seeds = range(SEED_START, SEED_START + episodes)
        result, _, videos = measure(run, method, name, seeds, method.horizon, perturbation, videos=VIDEOS)
        title = f"perturbation {perturbation:g} px"
        results.append(result)
        clips += [Picture(path, f"{title}, seed {path.stem.rsplit('_', 1)[-1]}") for path in videos]
        curves[title] = [kind.curve(e) for e in result["records"]]
    return _report(run, method, results, clips, curves)


def _report(run: Run, method: LWD, results: list[dict[str, Any]], clips: list[Picture], curves: dict[str, list[Any]]) -> Path:
    record = run.record()
    data, seconds = record["data"], run.load("model")[1]["seconds"]
    folder = run.path / "plots"
    folder.mkdir(exist_ok=True)
    training, _ = load_data(run.config())
    snippets = method.snippets(training)
    with torch.no_grad():
        codes, logvar = method.encode_all(snippets)
        rows = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))[:2000]
        posterior = codes[rows] + (0.5 * logvar[rows]).exp() * torch.randn(codes[rows].shape, generator=torch.Generator().manual_seed(1))
        history = snippets.raw_obs[rows][:, None].expand(-1, method.history, -1)
        sampled = method.plan(history, generator=torch.Generator().manual_seed(0)).latent
    phase = ((rows - snippets.first[rows]) / (snippets.last - snippets.first)[rows]).numpy()
    figures = [
        Picture(
            plots.training_curves(run.path / "metrics.jsonl", folder / "training.png"), "Training", "Every term of the loss, by step.", True
        ),
        Picture(
            plots.latent_map(codes[rows].numpy(), folder / "latents.png", colour=phase, label="progress through the demonstration"),
            "Latent map",
            "Encoded snippets of the demonstrations, first two principal components.",
        ),
        Picture(
            plots.latent_overlay(posterior.numpy(), sampled.numpy(), folder / "samples.png"),
            "Samples over data",
            "Encoded snippets, drawn from their posteriors, and latents that the diffusion model generates for the same states.",
        ),
        Picture(plots.score_over_time(curves, folder / "score.png"), "Score over time", "Mean of the best overlap so far, 95 % band."),
        Picture(
            plots.score_histogram({k: [max(c) for c in v] for k, v in curves.items()}, folder / "histogram.png"),
            "Where episodes end up",
            "Share of episodes by their best overlap.",
        ),
    ]
    columns, rows_of_text = tabulate(results)
    machine = hardware()
    minutes = sum(seconds.values()) / 60
    facts = {
        "command": f"lwd demo --out {run.path} (preset {record['config']['preset']}, training seed {record['config']['seed']})",
        "data": f"{data['description']} — {data['episodes']} training episodes with mirror images, {data['steps']} steps, "
        f"fingerprint {data['fingerprint']}",
        "training": f"{minutes:.1f} minutes: " + ", ".join(f"{k} {v / 60:.1f}" for k, v in seconds.items()),
        "evaluation": f"seeds {SEED_START} and following, {results[0]['episodes']} episodes each, {results[0]['max_steps']} steps, "
        f"a new policy every {method.horizon} steps, sampler {method.sampling.sampler} with {method.sampling.steps} steps",
        "hardware": f"{machine['cpu']}, {machine['cores']} cores, {machine['device']}",
        "versions": ", ".join(f"{k} {v}" for k, v in record["versions"].items()),
        "sizes": f"generated policy {method.shape.count:,} weights; denoiser {sum(p.numel() for p in method.denoiser.parameters()):,}",
    }
    plain, disturbed = (r["scores"]["max_overlap"] for r in results)
    intro = (
        f"Latent Weight Diffusion on PushT: a policy of {method.shape.count:,} weights is generated every {method.horizon} steps and "
        f"reacts at every step in between. Mean best overlap: **{plain['mean']:.2f}** [{plain['low']:.2f}, {plain['high']:.2f}]"
        f" undisturbed, **{disturbed['mean']:.2f}** [{disturbed['low']:.2f}, {disturbed['high']:.2f}] when the block is displaced by up "
        f"to {PERTURBATIONS[1]:g} pixels in a tenth of all steps."
    )
    return write_report(
        run.path,
        title="Latent Weight Diffusion: demo report",
        intro=intro,
        tables=[
            Table(
                "Scores and cost",
                columns,
                [tuple(r) for r in rows_of_text],
                "95 % intervals: bootstrap for means, Wilson for rates. Costs are of a batch of one.",
            )
        ],
        figures=figures,
        videos=clips,
        notes=["One training seed: the intervals cover the episodes, not the spread between trainings."],
        facts=facts,
    )
