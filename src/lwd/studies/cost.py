"""`lwd study cost`: what training and use of every method cost: time, FLOPs, parameters. Nothing is trained, and there are no jobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lwd.config import Config
from lwd.report.tables import Table
from lwd.studies.study import Cell, Study, recipe
from lwd.studies.views import lines, query_cost

if TYPE_CHECKING:
    from lwd.studies.jobs import Plan
    from lwd.studies.results import Results

TIMED = {"cpu": 30, "paper": 5}  # training steps that are timed, of each stage
COLUMNS = ["method, horizon, stage", "M parameters", "gradient steps", "batch", "ms per step", "GFLOP per step", "TFLOP", "minutes"]


def train(cell: Cell) -> Config:
    """Methods that execute chunks are trained for each interval; LWD and MLP are one model for all."""
    prefix = "paper/pusht" if cell.variant == "paper" else "pusht"
    name = prefix if cell.method == "lwd" else f"{prefix}-{cell.method}"
    return recipe(name, horizon=cell.replan_every) if cell.method in ("dp", "ldp") else recipe(name)


def measure(plan: Plan) -> Results:
    """Times a few steps of each stage of each training on this machine, one thread, and the queries of the untrained models."""
    import pandas as pd
    import torch

    from lwd.config import EvalSettings
    from lwd.data.prepare import load_data, make_spec
    from lwd.evaluate import scenario_of
    from lwd.methods.base import make_method
    from lwd.studies.results import Results
    from lwd.timing import first_observations, hardware, measure_cost, time_training

    torch.set_num_threads(1)
    steps, rows = 2 if plan.options.debug else TIMED[plan.variant], []
    trainings = {key: time_training(config, steps) for key, config in dict(zip(plan.keys, plan.configs, strict=True)).items()}
    for cell, config, key in zip(plan.cells, plan.configs, plan.keys, strict=True):
        spec = make_spec(config, load_data(config)[0])
        obs = first_observations(scenario_of(spec, EvalSettings()))
        cost = measure_cost(make_method(config.method, spec).to(config.device).eval(), obs, cell.replan_every)
        query, total = (cost["flops_per_step"][name] for name in ("query", "amortised_total"))
        row = {**cell.values, "query_flops": query * cell.replan_every, "step_flops": total, "step_mflop": total / 1e6}
        row |= {name: cost[name]["p50"] for name in ("ms_per_query", "ms_per_control_step")}
        rows.append({**row, "horizon": config.horizon, "training": trainings[key]})
    facts = {"hardware": hardware(plan.options.device), "data": {"description": plan.data}}
    return Results(plan, pd.DataFrame(rows), pd.DataFrame(), "", {}, facts)


def stages(results: Results) -> Iterator[Table]:
    """Cost of training by stage."""
    rows = {}
    for row in results.cells.to_dict("records"):
        millions = sum(row["training"]["parameters"].values()) / 1e6
        for stage, own in row["training"]["stages"].items():
            label, flops = f"{row['method']}, {row['horizon']} steps, {stage}", own["flops_per_step"]
            texts = [f"{own['steps']:,}", str(own["batch"]), f"{own['ms_per_step']:.3g}", f"{flops / 1e9:.3g}"]
            rows[label] = [label, f"{millions:.2f}", *texts, f"{flops * own['steps'] / 1e12:.4g}", f"{own['seconds'] / 60:.3g}"]
    yield Table("training", COLUMNS, list(rows.values()), "Minutes: the timed step times the number of steps. Parameters: of all modules.")


USE = lines("cost", "Cost of use", "replan_every", "method", value="step_mflop", ylabel="MFLOP per environment step")
STUDY = Study(
    "What training costs, and what a query costs",
    axes={"method": ("lwd", "dp", "ldp", "mlp"), "replan_every": (16, 32, 128)},
    variants={"cpu": {}, "paper": {}},
    train=train,
    skip=lambda cell: cell.seed > 0,
    views=[stages, query_cost("method", "replan_every"), USE],
    note="A few steps of each stage are timed on one thread, and multiplied. FLOPs of a step are counted, forward and backward.",
)
