"""`lwd study kl`: the weight of the KL term, from 1e-10 to 1e-2 (Appendix D, Figures 12 and 13).

Also the links of the chain that the ablations of stage 1 measure in trained runs: rate, final state of decoded policies, world model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from lwd.config import require
from lwd.studies.ablation import BANDS, check_numbers, intro, score_table, short
from lwd.studies.base import Cell, Floats, Study
from lwd.studies.files import read_object
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Picture, Table

STARTS = 64  # held-out start states of the final-state error
POINTS = 2000  # encoded snippets of a panel of the latent map
Measured = dict[str, float | None]


class Recipe(NamedTuple):
    """Preset with more options, and the default grid."""

    preset: str
    words: tuple[str, ...]
    betas: tuple[float, ...]
    horizon: int


RECIPES = {
    "cpu": Recipe(
        "pusht",
        ("--method.autoencoder.steps", "5000", "--method.diffusion.steps", "4000"),
        (1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-2),
        32,
    ),
    "debug": Recipe("debug", short("autoencoder", "diffusion"), (1e-10, 1e-2), 16),
}


@dataclass
class Kl(Study):
    """Weight of the KL term: final-state error of the decoded policy, rate, success, latent map (Figures 12 and 13).

    Here beta stands against a mean of squared errors over time and dimensions; the paper's against a sum: its 1e-10 corresponds to 1e-10
    divided by their number, 64 for 32 steps of PushT.
    """

    name: ClassVar[str] = "kl"

    preset: Literal["cpu", "debug"] = "cpu"
    """cpu: preset pusht with 5,000 and 4,000 gradient steps in place of 10,000 and 8,000; debug: seconds, to see that things run."""
    betas: Floats = ()
    """Weights of L_KL; by default 1e-10,1e-8,1e-6,1e-5,1e-4,1e-2 (cpu), 1e-10,1e-2 (debug)."""
    horizon: int = 0
    """Steps of a snippet, and between queries; by default 32 (cpu), 16 (debug)."""
    perturbations: Floats = (0.0, 50.0)
    """The block is displaced by up to so many pixels in a tenth of all steps."""

    def settings(self) -> dict[str, Any]:
        recipe = RECIPES[self.preset]
        return {**super().settings(), "horizon": self.horizon or recipe.horizon, "betas": list(self.betas or recipe.betas)}

    def grid(self) -> tuple[list[Task], list[Cell]]:
        """Seed by seed."""
        recipe = RECIPES[self.preset]
        betas, horizon = self.betas or recipe.betas, self.horizon or recipe.horizon
        check_numbers([horizon], self.perturbations)
        require(len(set(betas)) == len(betas), f"--betas names something twice: {', '.join(f'{b:g}' for b in betas)}")
        require(min(betas) > 0, f"--betas stand on a logarithmic axis: they must be positive, but one is {min(betas):g}")
        tasks: list[Task] = []
        cells: list[Cell] = []
        for seed in range(self.seeds):
            for beta in betas:
                words = (*recipe.words, "--horizon", str(horizon), "--method.beta", f"{beta:g}")
                training = self.training(f"beta{beta:g}-s{seed}", recipe.preset, seed, words, f"beta {beta:g}")
                tasks.append(training)
                for perturbation in self.perturbations:
                    task = self.evaluation(training, horizon=horizon, perturbation=perturbation)
                    tasks.append(task)
                    cells.append(Cell({"method": "lwd", "beta": beta, "perturbation": perturbation}, seed, task))
        return tasks, cells

    def extras(self, result: dict[str, Any]) -> dict[str, Any]:
        return {"links": measure(self, self.grid()[1], "beta")}

    def intro(self, result: dict[str, Any]) -> str:
        return intro(result) + f" A new policy every {result['settings']['horizon']} steps, sampled by the latent diffusion model."

    def tables(self, result: dict[str, Any]) -> list[Table]:
        from lwd.report import Table

        rows = []
        for beta in dict.fromkeys(link["beta"] for link in result["links"]):
            own = [link for link in result["links"] if link["beta"] == beta]
            cells = [spread(own, key, form) for key, form in (("rate", "{:.3g}"), ("sigma", "{:.2g}"), ("final_state", "{:.1f}"))]
            rows.append([f"{beta:g}", *cells, spread(own, "moved", "{:.1f}"), spread(own, "replayed", "{:.2f}")])
        caption = (
            f"Mean over training seeds (least to most). Final state: pixels after one horizon, {STARTS} held-out starts; policies decoded "
            "from the mean of the encoder, actions replayed from the demonstration, and how far the state moved. Sigma: of the posterior "
            "over that of the data, median dimension."
        )
        columns = ["beta", "rate, nats", "sigma", "final state, decoded", "moved", "replayed"]
        return [
            score_table(result, ("perturbation", "beta"), "{:g} px, {:g}", "method"),
            Table("what the latent holds", columns, rows, caption),
        ]

    def figures(self, result: dict[str, Any], cells: Sequence[Cell]) -> list[Picture]:
        from lwd.report import Picture
        from lwd.studies.figures import lines_with_bands

        score = lines_with_bands(
            result["pooled"],
            self.directory / "figure12-score.png",
            x="beta",
            line="method",
            panel="perturbation",
            score=result["score"],
            xlabel="β, weight of the KL term",
            panel_title="perturbation {:g} px",
            base=10,
        )
        links = link_figure(result["links"], self.directory / "figure12.png")
        first = {cell.labels["beta"]: cell.task.run for cell in cells if cell.seed == min(c.seed for c in cells)}
        maps = map_figure(first, self.directory / "figure13.png", self.device)
        return [
            Picture(links, "Final state of decoded policies, and rate (Figure 12)", "Points: training seeds; line: their mean.", wide=True),
            Picture(score, "Score of the whole method against beta", BANDS),
            Picture(
                maps, "Encoded snippets (Figure 13)", "Principal components; every panel has its own scale. One training seed.", wide=True
            ),
        ]


def spread(links: Sequence[Mapping[str, Any]], key: str, form: str) -> str:
    """`mean (least to most)` over training seeds; a dash where nothing was measured."""
    values = [link[key] for link in links if link.get(key) is not None]
    if not values:
        return "–"
    text = form.format(sum(values) / len(values))
    return text if len(values) == 1 else f"{text} ({form.format(min(values))} to {form.format(max(values))})"


def measure(study: Study, cells: Sequence[Cell], label: str, of: Callable[[Path, str], Measured] | None = None) -> list[dict[str, Any]]:
    """The links of every finished training behind some cells: one row per run, with its label and seed.

    What was measured is kept in the study's `links.json`, and measured again only when the run has changed.

    Args:
        study: whose directory and device.
        cells: of its grid.
        label: that tells the variants apart.
        of: what is measured, `links` by default.
    """
    from lwd.run import write_json

    path = study.directory / "links.json"
    known, rows = read_object(path) or {}, []
    for run, cell in {cell.task.run: cell for cell in cells if cell.task.finished() is not None}.items():
        state = run / "checkpoints" / str((read_object(run / "checkpoints" / "latest.json") or {}).get("checkpoint")) / "state.json"
        stamp = state.stat().st_mtime_ns
        if known.get(str(run), {}).get("stamp") != stamp:
            known[str(run)] = {"stamp": stamp, "values": (of or links)(run, study.device)}
            write_json(path, known)
        rows.append({label: cell.labels[label], "seed": cell.seed, **known[str(run)]["values"]})
    return rows


def links(path: Path, device: str) -> Measured:
    """Rate, sharpness, final states and world-model errors of a run, by the ladder of `lwd diagnose` with latents at the encoder's mean.

    Returns:
        `rate` nats; `sigma` of the posterior over that of the data, median dimension; `final_state`, `replayed`, `moved` in the family's
        units; `one_step`, `open_loop` errors of the world model over those of predicting no change. None for what does not apply.
    """
    import torch
    from torch import Tensor

    from lwd.ladder import Ladder
    from lwd.methods.lwd import LWD
    from lwd.run import Run
    from lwd.train import load_data, load_method

    class AtTheMean(Ladder):
        """Posterior samples without their noise."""

        def normal(self, shape: Any) -> Tensor:
            return torch.zeros(shape, device=self.generator.device)

    run = Run(path)
    training, held = load_data(run.config())
    method = load_method(run, device)
    assert isinstance(method, LWD)
    ladder = AtTheMean(method, training, held, 512, 0, False, device)
    with torch.no_grad():
        rate = 0.5 * (ladder.sigma.square() + ladder.mean.square() - 1 - 2 * ladder.sigma.log()).sum(-1).mean().item()
    found: Measured = {"rate": rate, "sigma": (ladder.sigma.mean(0) / ladder.scale).median().item()}
    found.update(final_state=None, replayed=None, moved=None, one_step=None, open_loop=None)
    for rung in ladder.rollouts(STARTS) if training.meta.env is not None else []:
        found["final_state" if "decoded" in rung.name else "replayed"] = rung.value
        found["moved"] = rung.against
    for rung, key in zip(ladder.world_model(), ("one_step", "open_loop"), strict=False):
        found[key] = rung.value / max(rung.against or 0.0, 1e-9)
    return found


def link_figure(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Final-state error and rate against beta."""
    from matplotlib.figure import Figure

    from lwd.plots import COLOURS, _style, _write

    figure = Figure(figsize=(8.4, 3.3), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, key, title in zip(panels, ("final_state", "rate"), ("Final-state error of decoded policies", "Rate"), strict=True):
        own = [row for row in rows if row.get(key) is not None]
        betas = sorted({row["beta"] for row in own})
        means = [sum(v) / len(v) for v in ([row[key] for row in own if row["beta"] == beta] for beta in betas)]
        axes.plot(betas, means, color=COLOURS[0], lw=1.8, label="decoded policy")
        axes.plot([row["beta"] for row in own], [row[key] for row in own], "o", color=COLOURS[0], ms=4, alpha=0.6)
        if key == "final_state" and own:
            axes.axhline(sum(row["moved"] for row in own) / len(own), color=COLOURS[6], ls="--", lw=1, label="how far the state moved")
            axes.legend(frameon=False, fontsize=8)
            axes.set_ylim(bottom=0)
        _style(axes, title, "β, weight of the KL term", "pixels after one horizon" if key == "final_state" else "nats")
        axes.set_xscale("log")
        if key == "rate":
            axes.set_yscale("symlog", linthresh=1.0)
    return _write(figure, path)


def map_figure(runs: Mapping[float, Path], path: Path, device: str) -> Path:
    """The two principal components of encoded training snippets, coloured by their place in the episode: a panel for each beta."""
    import numpy as np
    from matplotlib.figure import Figure

    from lwd.plots import _project, _style, _write

    columns = min(3, len(runs))
    lines = -(-len(runs) // columns)
    figure = Figure(figsize=(3.3 * columns + 0.6, 3.0 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    dots: Any = None
    for axes in grid.ravel()[len(runs) :]:
        axes.set_visible(False)
    for axes, (beta, run) in zip(grid.ravel(), sorted(runs.items()), strict=False):
        codes, progress = encoded(run, device)
        xy, shares = _project(np.asarray(codes), np.asarray(codes))
        dots = axes.scatter(xy[:, 0], xy[:, 1], s=4, c=progress, cmap="viridis", vmin=0, vmax=1, alpha=0.7, lw=0)
        _style(axes, f"β = {beta:g}", f"{shares[0]:.0%} of variance", f"{shares[-1]:.0%} of variance")
    figure.colorbar(dots, ax=grid, label="start of the snippet, fraction of its episode").outline.set_visible(False)
    return _write(figure, path)


def encoded(path: Path, device: str) -> tuple[Any, Any]:
    """(N, Z) posterior means of random training snippets, and (N,) where they start, as a fraction of their episode."""
    import torch

    from lwd.run import Run
    from lwd.train import load_data, load_method

    run = Run(path)
    training, _ = load_data(run.config())
    method: Any = load_method(run, device)
    data = method.snippets(training, device)
    start = torch.randperm(data.count, generator=torch.Generator().manual_seed(0))[:POINTS].to(device)
    with torch.no_grad():
        batch = data.at(start)
        mean, _ = method.posterior(batch.obs, batch.action)
    first, last = data.first[start], data.last[start]
    progress = (start - first) / (last - first).clamp_min(1)
    return mean.cpu().double().numpy(), progress.cpu().numpy()
