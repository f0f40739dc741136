"""`lwd study horizon`: steps between queries and perturbation, LWD against the baselines (section 4.1.1, Figures 3, 4, 20)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lwd.config import Config, EvalSettings, from_dict
from lwd.presets import PRESETS
from lwd.report.tables import Table
from lwd.studies.study import Cell, Study, recipe, second_stage
from lwd.studies.views import Lines, differences, pivot, scores

if TYPE_CHECKING:
    from lwd.studies.jobs import Point
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
    entries = [
        {**e, "mean": e["values"]["step_flops"]["mean"]}
        for e in results.pooled
        if e["perturbation"] == min(results.plan.axes["perturbation"])
    ]
    columns, rows = pivot(results, entries, "method", lambda entry, _: f"{entry['mean'] / 1e6:.3g}")
    ours = [method for method in OURS if method in columns and "dp" in columns]
    for row in rows:
        row += [f"{float(row[columns.index('dp')]) / float(row[columns.index(method)]):.3g}" for method in ours if "–" not in row]
        row += ["–"] * (len(columns) + len(ours) - len(row))
    caption = "Query and control step, the query spread over the steps until the next one, for a batch of one."
    yield Table("MFLOP per environment step", [*columns, *(f"dp / {method}" for method in ours)], rows, caption)


def cheapest(results: Results) -> Iterator[Table]:
    """For each perturbation: the largest interval at which LWD still reaches DP's best mean score − 0.05, and what a step costs there."""

    def mean(entry: Any) -> float:
        return float(entry["scores"][results.score]["mean"])

    def cost(entry: Any) -> float:
        return float(entry["values"]["step_flops"]["mean"])

    def text(entry: Any) -> str:
        return f"every {entry['replan_every']}: {mean(entry):.2f}, {cost(entry) / 1e6:.3g} MFLOP"

    rows = []
    for perturbation in results.plan.axes["perturbation"]:
        found = [entry for entry in results.pooled if entry["perturbation"] == perturbation]
        dp = max((entry for entry in found if entry["method"] == "dp"), key=mean, default=None)
        for method in OURS if dp is not None else ():
            own = [entry for entry in found if entry["method"] == method]
            good = max((e for e in own if mean(e) >= mean(dp) - MARGIN), key=lambda e: e["replan_every"], default=None)
            if own:
                reached = [text(good), f"{cost(dp) / cost(good):.3g}"] if good else ["none", "–"]
                rows.append([f"{perturbation:g}", text(dp), method, *reached])
    if rows:
        title = f"The largest interval at which LWD reaches DP's best − {MARGIN:g}"
        yield Table(title, ["perturbation", "dp, best", "against", "up to", "dp / it"], rows, "Mean score, and MFLOP per environment step.")


def figure20(results: Results) -> Iterator[Drawing]:
    """Computing time of an episode against score."""
    from lwd.report.grids import cost_against_score
    from lwd.studies.results import Drawing

    entries = [{**entry, "shown": entry["scores"][results.score]} for entry in results.pooled]
    axes = {"mark": "replan_every", "line": "method", "join": "method", "panel": "perturbation"}
    labels = {"xlabel": "seconds of computation per episode", "ylabel": results.score.replace("_", " ")}
    figure = cost_against_score(entries, cost="seconds_per_episode", **axes, **labels)
    caption = "Numbers are steps between queries. Times are medians of a batch of one, without the simulator. Upper left is better."
    yield Drawing("figure20", figure, "Time of an episode against score (Figure 20)", caption)


def film(results: Results) -> Iterator[Drawing]:
    """Figure 4: one episode of LWD above the same one of DP; always the first environment seed, and the first training seed."""
    from lwd.report.grids import film_rows
    from lwd.studies.results import Drawing

    every, magnitudes = sorted(results.plan.axes["replan_every"]), results.plan.axes["perturbation"]
    want = {"replan_every": every[len(every) // 2], "perturbation": FILM if FILM in magnitudes else max(magnitudes)}
    rows = {}
    for point in results.plan.points:
        own = {**point.cell.values, **want, "training_seed": 0} == {**point.cell.values, "training_seed": point.cell.seed}
        if own and point.cell.method in ("lwd", "dp") and point.test.finished() is not None:
            rows[point.cell.method] = frames(point)
    if rows:
        title = f"a query every {want['replan_every']} steps; in a tenth of all steps the block moves by up to {want['perturbation']:g} px"
        caption = (
            "Evenly spaced frames, every other one moved to the nearest displacement. A red frame marks the steps just after one. Below: "
            "score so far, queries, displacements."
        )
        yield Drawing("figure4", film_rows(rows, title), "One perturbed episode (Figure 4)", caption)


def frames(point: Point, count: int = 8) -> list[Any]:
    """Captioned frames of the first episode of a cell."""
    from lwd.envs.base import family
    from lwd.report.grids import spaced
    from lwd.report.video import annotate
    from lwd.rollout import Scenario, rollout
    from lwd.training.run import Run
    from lwd.training.train import load_method

    settings = from_dict(EvalSettings, dict(point.test.content["settings"]))
    method: Any = load_method(Run(point.training.run))
    scenario = Scenario(method.spec.env, method.spec.obs_kind, (settings.seed_start,))
    records = rollout(method, scenario, settings, workers=0, record_frames=1)
    episode, displaced = records.episodes[0], records.episodes[0].get("displaced_at", [])
    curve = family(scenario.env).curve(episode) or ()
    pictures = annotate(records.frames[0], scores=curve, queries=episode["queried_at"], displaced=displaced)
    return [pictures[step] for step in spaced(len(pictures), count, [step + 1 for step in displaced])]


METHODS = ("lwd", "lwd-fast", "dp", "ldp", "mlp", "random")
PAPER = {
    "method": ("lwd", "dp", "ldp", "mlp", "random"),
    "replan_every": (16, 32, 64, 128),
    "perturbation": (0.0, 10.0, 25.0, 50.0, 100.0),
}
FIGURE3 = Lines(
    "figure3", "Score against the interval (Figure 3)", "replan_every", "method", "perturbation", xlabel="steps between queries"
)
STUDY = Study(
    "Steps between queries and perturbation on PushT: LWD against the baselines",
    axes={"method": METHODS, "replan_every": (16, 32, 128), "perturbation": (0.0, 25.0, 50.0)},
    variants={"cpu": {}, "paper": PAPER},
    train=train,
    evaluate=lambda cell: EvalSettings(replan_every=cell.replan_every, perturbation=cell.perturbation),
    skip=lambda cell: cell.method == "random" and cell.seed > 0,
    base=BASE,
    against=("method", "lwd"),
    views=[scores("method"), differences, flops, cheapest, FIGURE3, figure20, film],
    note="All steps of a chunk are executed.",
)
