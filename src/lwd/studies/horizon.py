"""`lwd study horizon`: when to ask again, under disturbances and delays, LWD against its rivals (section 4.1.1, Figures 3, 4, 5, 20)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lwd.config import Config, EvalSettings, Stage, from_dict
from lwd.presets import PRESETS
from lwd.report.tables import Table
from lwd.studies.study import BASE as SAME
from lwd.studies.study import Axes, Cell, Drawing, Study, recipe, second_stage
from lwd.studies.views import cost_drawing, differences, interval, lines, query_cost, scores
from lwd.studies.worldmodel import IMAGINING, asked, helped

if TYPE_CHECKING:
    from lwd.studies.results import Results

BASE = recipe("pusht-cloning", **IMAGINING)
OURS = ("lwd", "lwd-fast", "lwd-improved")
CHUNKS = (16, 40, 136)  # lengths of chunks that are trained; a cell takes the shortest that lasts for its interval and delay
MARGIN = 0.05  # how far below the rivals' best score LWD may fall in the comparison of costs
INTERVAL = "steps between queries"
FILM, FRAMES = "displace:50", 8  # disturbance, pictures of an episode, Figure 4


def train(cell: Cell) -> Config:
    """One model for all intervals, but for methods that execute chunks, which have several lengths (the paper's: one per interval)."""
    if cell.variant in ROBOTS:
        method = f"-{cell.method}" * (cell.method != "lwd")
        return recipe(f"{cell.variant}{method}", **({"horizon": cell.replan_every} if cell.method in ("dp", "ldp") else {}))
    paper = cell.variant == "paper"
    prefix = "paper/pusht" if paper else "pusht"
    chunk = cell.replan_every if paper else next((n for n in CHUNKS if n >= cell.replan_every + cell.delay), CHUNKS[-1])
    if cell.method == "dp-a2c2":
        return recipe(f"{prefix}-dp", horizon=chunk, correct=True, correction=Stage(4_000, 1024), correction_noise=0.03, stages_from=SAME)
    if cell.method.split("-")[0] in ("dp", "ldp"):
        world = IMAGINING if cell.method == "dp-imagine" else {}
        return recipe(f"{prefix}-{cell.method.split('-')[0]}", horizon=chunk, **world)
    if cell.method == "lwd-fast":
        fast: Any = PRESETS["pusht-fast"][1].method
        return second_stage(BASE, denoiser_width=fast.denoiser_width, sampler_steps=fast.sampler_steps)
    if cell.method.startswith("lwd"):
        return recipe(prefix, horizon=chunk) if paper else helped(BASE, cell.method)
    if cell.method == "mlp-improved":
        return helped(recipe("pusht-mlp", **IMAGINING), cell.method)
    return recipe("pusht-random" if cell.method == "random" else f"{prefix}-mlp")


def evaluate(cell: Cell) -> EvalSettings:
    """The wrappers of planners belong to the method."""
    ensemble = 4 if cell.method.endswith("-mean4") else 1
    how: dict[str, Any] = {"ensemble": ensemble, "temporal": cell.method.endswith("-temporal"), **asked(cell.method)}
    return EvalSettings(replan_every=cell.replan_every, disturb=cell.disturb, delay=cell.delay, **how)


def skip(cell: Cell) -> bool:
    """Cells that mean nothing: no overlap to average, no interval that counts; and of delays only those of a table of their own."""
    every, name = cell.replan_every, cell.method
    if cell.variant in ROBOTS:
        return name == "mlp" and every != 16
    if cell.variant == "paper":
        return name == "random" and cell.seed > 0
    if cell.delay and (name not in ("lwd", "lwd-improved", "dp", "dp-a2c2") or every not in (8, 16, 32) or cell.disturb == FILM):
        return True
    if name in ("mlp", "mlp-improved", "random", "ldp"):
        return every not in (16, 32, 128) or (name == "random" and cell.seed > 0)
    return (name == "dp-temporal" and every > 8) or (name == "lwd-mean4" and every not in (8, 16, 32)) or ("imagine" in name and every < 8)


def cheapest(results: Results) -> Iterator[Table]:
    """For each disturbance: the largest interval at which LWD still reaches the rivals' best mean score − 0.05, and what a step costs."""
    rows = []
    for disturb, points in results.points().query("delay == 0").groupby("disturb", sort=False):
        best = points[~points["method"].str.startswith("lwd")].nlargest(1, "mean")
        for method in OURS if len(best) else ():
            own = points[points["method"] == method]
            good = own[own["mean"] >= best["mean"].max() - MARGIN].nlargest(1, "replan_every")
            entries = [*best.to_dict("records"), *good.to_dict("records")]
            texts = [f"every {e['replan_every']}: {e['mean']:.2f}, {e['step_flops'] / 1e6:.3g} MFLOP" for e in entries] + ["none"]
            ratio = "–" if good.empty else f"{entries[0]['step_flops'] / entries[1]['step_flops']:.3g}"
            rows += [[disturb, f"{entries[0]['method']}, {texts[0]}", method, texts[1], ratio]] * (not own.empty)
    if rows:
        title = f"The largest interval at which LWD reaches the best rival − {MARGIN:g}"
        note = "The best rival of all, at its best interval. Mean score, and MFLOP per environment step."
        yield Table(title, ["disturb", "best rival", "against", "up to", "rival / it"], rows, note)


def delays(results: Results) -> Iterator[Table]:
    """What a delay costs: the score with it minus the score without, in pairs."""
    from lwd.studies.results import difference

    rows = []
    for key, delayed in results.groups.items():
        cell = dict(zip(results.plan.axes, key, strict=True))
        prompt = results.groups.get(tuple({**cell, "delay": 0}.values()))
        if cell["delay"] and prompt is not None:
            paired = difference(delayed, prompt, results.score)
            texts = [interval(paired)] if paired else ["–"]
            rows.append([cell["method"], str(cell["replan_every"]), cell["disturb"], str(cell["delay"]), *texts])
    if rows:
        note = "Pairs share training seed and environment. Brackets: 95 % intervals."
        yield Table("What a delay costs", ["method", "replan every", "disturb", "delay", "with it − without"], rows, note)


def costs(results: Results) -> Iterator[Drawing]:
    """Score against queries per episode, FLOPs per environment step, and the time of an episode (Figure 20)."""
    points = results.points()
    points = points.assign(mark=points["replan_every"].astype(str), line=points["method"], join=points["method"])
    note = "Numbers are steps between queries."
    yield cost_drawing(results, points, "queries", "Score against queries", note, "queries_per_episode", "queries per episode")
    yield cost_drawing(results, points, "flops", "Score against FLOPs", note, "step_flops", "FLOPs per environment step")
    title, label = "Time of an episode against score (Figure 20)", "seconds of computation per episode"
    timed = f"{note} Times are medians of a batch of one, without the simulator."
    yield cost_drawing(results, points, "figure20", title, timed, "seconds_per_episode", label)


def film(results: Results) -> Iterator[Drawing]:
    """Figure 4: one episode of LWD above the same one of DP; always the first environment seed, and the first training seed."""
    import numpy as np

    from lwd.envs.base import family
    from lwd.methods.wrappers import wrapped
    from lwd.report.grids import film_rows
    from lwd.report.video import annotate
    from lwd.rollout import Scenario, rollout
    from lwd.training.run import Run
    from lwd.training.train import load_method

    if results.plan.variant in ROBOTS:  # drawing robosuite needs OpenGL
        return
    every, known = sorted(results.plan.axes["replan_every"]), results.plan.axes["disturb"]
    want = {"replan_every": every[len(every) // 2], "disturb": FILM if FILM in known else known[-1], "delay": 0}
    first = [point for point in results.plan.points if not point.cell.seed and {**point.cell.values, **want} == point.cell.values]
    rows: dict[str, Any] = {}
    for point in first:
        if point.cell.method in ("lwd", "dp") and point.test.finished() is not None:
            method, settings = load_method(Run(point.training.run)), from_dict(EvalSettings, dict(point.test.content["settings"]))
            scenario = Scenario(method.spec.env or "", method.spec.obs_kind, (settings.seed_start,))
            method.sample_with(settings)
            records = rollout(wrapped(method, settings), scenario, settings, workers=0, record_frames=1)
            episode, displaced = records.episodes[0], records.episodes[0].get("displaced_at", [])
            curve = family(scenario.env).curve(episode) or ()
            pictures = annotate(records.frames[0], episode, curve)
            steps = sorted({0, *(step + 1 for step in displaced), len(pictures) - 1})
            steps = steps if len(steps) >= FRAMES else list(range(len(pictures)))
            rows[point.cell.method] = [pictures[steps[number]] for number in np.linspace(0, len(steps) - 1, FRAMES).round().astype(int)]
    if rows:
        title = f"a query every {want['replan_every']} steps; disturbed by {want['disturb']}"
        note = "Start, end, and steps just after a displacement, which have a red frame."
        yield Drawing("figure4", film_rows(rows, title), "One disturbed episode (Figure 4)", note)


METHODS: tuple[str, ...] = ("lwd", "lwd-improved", "lwd-imagine", "lwd-improved-imagine", "lwd-fast", "lwd-mean4")
METHODS += ("dp", "dp-imagine", "dp-temporal", "dp-a2c2", "ldp", "mlp", "mlp-improved", "random")
PAPER = {
    "method": ("lwd", "dp", "ldp", "mlp", "random"),
    "replan_every": (16, 32, 64, 128),
    "disturb": ("none", "displace:10", "displace:25", "displace:50", "displace:100"),
    "delay": (0,),
}
FIGURE5: Axes = {
    "method": ("lwd", "dp", "ldp", "mlp"),
    "replan_every": (16, 128),
    "disturb": ("none", "nudge:0.5", "nudge:1"),
    "delay": (0,),
}
ROBOTS = {"lift": FIGURE5, "can": FIGURE5}
STUDY = Study(
    "When to ask again: intervals, disturbances and delays, LWD against the baselines",
    axes={"method": METHODS, "replan_every": (1, 2, 4, 8, 16, 32, 128), "disturb": ("none", "displace:25", "displace:50"), "delay": (0, 8)},
    variants={"cpu": {}, "paper": PAPER, **ROBOTS},
    data={"cpu": "embedded", "paper": "embedded", **{robot: f"data/{robot}" for robot in ROBOTS}},
    train=train,
    evaluate=evaluate,
    skip=skip,
    base=BASE,
    against=("method", "lwd"),
    views=[
        scores("method"),
        delays,
        differences,
        query_cost("method", "replan_every"),
        cheapest,
        lines(
            "figure3", "Score against the interval (Figures 3, 5)", "replan_every", "method", "disturb", xlabel=INTERVAL, only="delay == 0"
        ),
        costs,
        film,
    ],
    note="All steps of a chunk are executed, unless a query comes earlier. delay: steps from an observation to the effect of its plan.",
)
