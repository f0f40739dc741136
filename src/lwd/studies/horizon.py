"""`lwd study horizon`: steps between queries and perturbation, LWD against the baselines (section 4.1.1, Figures 3, 4, 20)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lwd.config import Config, EvalSettings, from_dict
from lwd.presets import PRESETS
from lwd.report.tables import Table
from lwd.studies.study import Cell, Drawing, Study, recipe, second_stage
from lwd.studies.views import cost_drawing, differences, lines, query_cost, scores

if TYPE_CHECKING:
    from lwd.studies.results import Results

BASE = PRESETS["pusht"][1]
OURS = ("lwd", "lwd-fast")
MARGIN = 0.05  # how far below DP's best score LWD may fall in the comparison of costs
INTERVAL = "steps between queries"
FILM, FRAMES = 50.0, 8  # pixels of perturbation, pictures of an episode, Figure 4


def train(cell: Cell) -> Config:
    """One model for all intervals, but for methods that execute chunks (and for the paper's LWD): those are trained for each."""
    prefix = "paper/pusht" if cell.variant == "paper" else "pusht"
    if cell.method in ("dp", "ldp"):
        return recipe(f"{prefix}-{cell.method}", horizon=cell.replan_every)
    if cell.method == "lwd":
        return recipe(prefix, horizon=cell.replan_every) if cell.variant == "paper" else BASE
    if cell.method == "lwd-fast":
        fast: Any = PRESETS["pusht-fast"][1].method
        return second_stage(BASE, denoiser_width=fast.denoiser_width, sampler_steps=fast.sampler_steps)
    return recipe("pusht-random" if cell.method == "random" else f"{prefix}-mlp")


def cheapest(results: Results) -> Iterator[Table]:
    """For each perturbation: the largest interval at which LWD still reaches DP's best mean score − 0.05, and what a step costs there."""
    rows = []
    for perturbation, points in results.points().groupby("perturbation", sort=False):
        dp = points[points["method"] == "dp"].nlargest(1, "mean")
        for method in OURS if len(dp) else ():
            own = points[points["method"] == method]
            good = own[own["mean"] >= dp["mean"].max() - MARGIN].nlargest(1, "replan_every")
            entries = [*dp.to_dict("records"), *good.to_dict("records")]
            texts = [f"every {e['replan_every']}: {e['mean']:.2f}, {e['step_flops'] / 1e6:.3g} MFLOP" for e in entries] + ["none"]
            ratio = "–" if good.empty else f"{entries[0]['step_flops'] / entries[1]['step_flops']:.3g}"
            rows += [[f"{perturbation:g}", texts[0], method, texts[1], ratio]] * (not own.empty)
    if rows:
        title = f"The largest interval at which LWD reaches DP's best − {MARGIN:g}"
        yield Table(title, ["perturbation", "dp, best", "against", "up to", "dp / it"], rows, "Mean score, and MFLOP per environment step.")


def figure20(results: Results) -> Iterator[Drawing]:
    """Score against the time of an episode."""
    note = "Numbers are steps between queries. Times are medians of a batch of one, without the simulator."
    points = results.points()
    points = points.assign(mark=points["replan_every"].astype(str), line=points["method"], join=points["method"])
    title, label = "Time of an episode against score (Figure 20)", "seconds of computation per episode"
    yield cost_drawing(results, points, "figure20", title, note, "seconds_per_episode", label)


def film(results: Results) -> Iterator[Drawing]:
    """Figure 4: one episode of LWD above the same one of DP; always the first environment seed, and the first training seed."""
    import numpy as np

    from lwd.envs.base import family
    from lwd.report.grids import film_rows
    from lwd.report.video import annotate
    from lwd.rollout import Scenario, rollout
    from lwd.training.run import Run
    from lwd.training.train import load_method

    every, magnitudes = sorted(results.plan.axes["replan_every"]), results.plan.axes["perturbation"]
    want = {"replan_every": every[len(every) // 2], "perturbation": FILM if FILM in magnitudes else max(magnitudes)}
    first = [point for point in results.plan.points if not point.cell.seed and {**point.cell.values, **want} == point.cell.values]
    rows: dict[str, Any] = {}
    for point in first:
        if point.cell.method in ("lwd", "dp") and point.test.finished() is not None:
            method, settings = load_method(Run(point.training.run)), from_dict(EvalSettings, dict(point.test.content["settings"]))
            scenario = Scenario(method.spec.env or "", method.spec.obs_kind, (settings.seed_start,))
            records = rollout(method, scenario, settings, workers=0, record_frames=1)
            episode, displaced = records.episodes[0], records.episodes[0].get("displaced_at", [])
            curve = family(scenario.env).curve(episode) or ()
            pictures = annotate(records.frames[0], scores=curve, queries=episode["queried_at"], displaced=displaced)
            steps = sorted({0, *(step + 1 for step in displaced), len(pictures) - 1})
            steps = steps if len(steps) >= FRAMES else list(range(len(pictures)))
            rows[point.cell.method] = [pictures[steps[number]] for number in np.linspace(0, len(steps) - 1, FRAMES).round().astype(int)]
    if rows:
        title = f"a query every {want['replan_every']} steps; in a tenth of all steps the block moves by up to {want['perturbation']:g} px"
        note = "Start, end, and steps just after a displacement, which have a red frame."
        yield Drawing("figure4", film_rows(rows, title), "One perturbed episode (Figure 4)", note)


METHODS = ("lwd", "lwd-fast", "dp", "ldp", "mlp", "random")
PAPER = {"method": ("lwd", "dp", "ldp", "mlp", "random"), "replan_every": (16, 32, 64, 128), "perturbation": (0.0, 10.0, 25.0, 50.0, 100.0)}
STUDY = Study(
    "Steps between queries and perturbation on PushT: LWD against the baselines",
    axes={"method": METHODS, "replan_every": (16, 32, 128), "perturbation": (0.0, 25.0, 50.0)},
    variants={"cpu": {}, "paper": PAPER},
    train=train,
    evaluate=lambda cell: EvalSettings(replan_every=cell.replan_every, perturbation=cell.perturbation),
    skip=lambda cell: cell.method == "random" and cell.seed > 0,
    base=BASE,
    against=("method", "lwd"),
    views=[
        scores("method"),
        differences,
        query_cost("method", "replan_every"),
        cheapest,
        lines("figure3", "Score against the interval (Figure 3)", "replan_every", "method", "perturbation", xlabel=INTERVAL),
        figure20,
        film,
    ],
    note="All steps of a chunk are executed.",
)
