"""`lwd study horizon`: steps between queries and perturbation, LWD against the baselines (section 4.1.1, Figures 3, 4, 20)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lwd.config import Config, EvalSettings, from_dict
from lwd.presets import PRESETS
from lwd.report.tables import Table
from lwd.studies.study import Cell, Study, recipe, second_stage
from lwd.studies.views import Lines, cost_figure, differences, scores

if TYPE_CHECKING:
    from lwd.studies.results import Drawing, Results

BASE = PRESETS["pusht"][1]
OURS = ("lwd", "lwd-fast")
MARGIN = 0.05  # how far below DP's best score LWD may fall in the comparison of costs
FILM = 50.0  # pixels of perturbation, Figure 4


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


def flops(results: Results) -> Iterator[Table]:
    """FLOPs of an environment step, and how many times as many DP needs as LWD."""
    own = {(e["method"], e["replan_every"]): e["values"]["step_flops"]["mean"] for e in results.pooled}
    methods, rows = results.plan.axes["method"], []
    ours = [method for method in OURS if method in methods and "dp" in methods]
    for every in results.plan.axes["replan_every"]:
        costs = [own.get((method, every), math.nan) for method in methods]
        ratios = [own.get(("dp", every), math.nan) / own.get((method, every), math.nan) for method in ours]
        rows.append([str(every), *(f"{n:.3g}".replace("nan", "–") for n in [*(cost / 1e6 for cost in costs), *ratios])])
    caption = "Query and control step, the query spread over the steps until the next one, for a batch of one."
    yield Table("MFLOP per environment step", ["replan every", *methods, *(f"dp / {method}" for method in ours)], rows, caption)


def cheapest(results: Results) -> Iterator[Table]:
    """For each perturbation: the largest interval at which LWD still reaches DP's best mean score − 0.05, and what a step costs there."""
    rows = []
    for perturbation in results.plan.axes["perturbation"]:
        found = [
            {**e, "mean": e["scores"][results.score]["mean"], "cost": e["values"]["step_flops"]["mean"]}
            for e in results.pooled
            if e["perturbation"] == perturbation
        ]
        dp = max((e for e in found if e["method"] == "dp"), key=lambda e: e["mean"], default=None)
        for method in OURS if dp is not None else ():
            assert dp is not None
            own = [e for e in found if e["method"] == method]
            good = max((e for e in own if e["mean"] >= dp["mean"] - MARGIN), key=lambda e: e["replan_every"], default=None)
            texts = [f"every {e['replan_every']}: {e['mean']:.2f}, {e['cost'] / 1e6:.3g} MFLOP" if e else "none" for e in (dp, good)]
            if own:
                rows.append([f"{perturbation:g}", texts[0], method, texts[1], f"{dp['cost'] / good['cost']:.3g}" if good else "–"])
    if rows:
        title = f"The largest interval at which LWD reaches DP's best − {MARGIN:g}"
        yield Table(title, ["perturbation", "dp, best", "against", "up to", "dp / it"], rows, "Mean score, and MFLOP per environment step.")


def film(results: Results) -> Iterator[Drawing]:
    """Figure 4: one episode of LWD above the same one of DP; always the first environment seed, and the first training seed."""
    from lwd.envs.base import family
    from lwd.report.grids import film_rows, spaced
    from lwd.report.video import annotate
    from lwd.rollout import Scenario, rollout
    from lwd.studies.results import Drawing
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
            rows[point.cell.method] = [pictures[step] for step in spaced(len(pictures), 8, [step + 1 for step in displaced])]
    if rows:
        title = f"a query every {want['replan_every']} steps; in a tenth of all steps the block moves by up to {want['perturbation']:g} px"
        note = "Evenly spaced frames, every other one moved to the nearest displacement. A red frame marks the steps just after one."
        yield Drawing("figure4", film_rows(rows, title), "One perturbed episode (Figure 4)", note)


METHODS = ("lwd", "lwd-fast", "dp", "ldp", "mlp", "random")
PAPER = {"method": ("lwd", "dp", "ldp", "mlp", "random"), "replan_every": (16, 32, 64, 128), "perturbation": (0.0, 10.0, 25.0, 50.0, 100.0)}
FIGURE3 = Lines(
    "figure3", "Score against the interval (Figure 3)", "replan_every", "method", "perturbation", xlabel="steps between queries"
)
TIMES: dict[str, Any] = {
    "cost": "seconds_per_episode",
    "xlabel": "seconds of computation per episode",
    "mark": "replan_every",
    "line": "method",
}
NOTE = "Numbers are steps between queries. Times are medians of a batch of one, without the simulator."
FIGURE20 = cost_figure("figure20", "Time of an episode against score (Figure 20)", NOTE, **TIMES)
STUDY = Study(
    "Steps between queries and perturbation on PushT: LWD against the baselines",
    axes={"method": METHODS, "replan_every": (16, 32, 128), "perturbation": (0.0, 25.0, 50.0)},
    variants={"cpu": {}, "paper": PAPER},
    train=train,
    evaluate=lambda cell: EvalSettings(replan_every=cell.replan_every, perturbation=cell.perturbation),
    skip=lambda cell: cell.method == "random" and cell.seed > 0,
    base=BASE,
    against=("method", "lwd"),
    views=[scores("method"), differences, flops, cheapest, FIGURE3, FIGURE20, film],
    note="All steps of a chunk are executed.",
)
